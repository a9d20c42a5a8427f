"""`selfrag retrieve`, `search` and `eval retrieval` in this process, on a small index."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from selfrag import assets
from selfrag.cli import main
from selfrag.cli.search import retrieved
from selfrag.errors import BadInput, StorageError
from selfrag.files import AppendLog
from selfrag.open import indexes
from selfrag.passage import Hit, Passage
from selfrag.retrieval import rerank
from selfrag.retrieval.base import FixedRetriever
from selfrag.retrieval.store import PassageStore
from selfrag.rows import N_NAMED, question_of, read_questions
from words import WordEncoder

PASSAGES = [
    Passage(
        id="p1", title="Titan", text="Titan is the largest moon of Saturn.", source="t.txt", page=1
    ),
    Passage(id="p2", title="Ganymede", text="Ganymede is the largest moon of Jupiter.", page=2),
    Passage(id="p3", title="Bakery", text="A bakery sells bread.", page=3),
]
QUESTIONS = [
    {"id": "a", "question": "Which planet has the moon Titan?", "answers": ["Saturn"], "level": 1},
    {"id": "b", "instruction": " Which planet has the moon Ganymede? ", "golds": ["Jupiter"]},
    {"id": "c", "question": "What does a bakery sell?"},
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("retrieve") / "index"
    PassageStore.build(PASSAGES, WordEncoder(), path)
    return path


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command line in `tmp_path`, with the code, standard output and standard error."""
    monkeypatch.setattr(indexes, "encoder_of", lambda *_: WordEncoder())
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["selfrag", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def retrieve(run, built, tmp_path):
    """`selfrag retrieve` of `data.jsonl` to `out.jsonl` on the small index."""
    write(tmp_path / "data.jsonl", QUESTIONS)

    def retrieve(*arguments):
        given = ("--data", "data.jsonl", "--out", "out.jsonl", "--index", built, "--n-docs", 2)
        return run("retrieve", *given, *arguments)

    return retrieve


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(ended, *words):
    code, out, err = ended
    assert (code, out) == (2, "")
    assert err.startswith("selfrag: cannot ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


# Retrieving


def test_rows_keep_their_fields_and_carry_their_passages_best_first(retrieve, tmp_path):
    code, out, _ = retrieve()
    assert (code, out) == (0, "retrieved for 3 questions in out.jsonl\n")
    rows = rows_of(tmp_path / "out.jsonl")
    assert [{**row, "ctxs": 0} for row in rows] == [{**row, "ctxs": 0} for row in QUESTIONS]
    assert [row["ctxs"][0]["id"] for row in rows] == ["p1", "p2", "p3"]
    first, second = rows[0]["ctxs"]
    assert set(first) == {
        "id", "title", "text", "score", "source", "page", "last_page", "hasanswer",
    }  # fmt: skip
    assert (first["page"], first["last_page"]) == (1, 1)
    assert (first["title"], first["text"]) == (PASSAGES[0].title, PASSAGES[0].text)
    assert (first["hasanswer"], second["hasanswer"]) == (True, False)
    assert rows[1]["ctxs"][0]["hasanswer"] is True
    assert "hasanswer" not in rows[2]["ctxs"][0]
    assert isinstance(first["score"], str)
    assert float(first["score"]) > float(second["score"])
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()


def test_passages_that_a_row_brings_are_replaced():
    hit = Hit(passage=PASSAGES[2], score=0.5, rank=1)
    rows = [{"question": "bread", "ctxs": [{"id": "old"}]}, {"question": "none"}]
    with_bread, with_none = retrieved(rows, FixedRetriever({"bread": [hit]}), 5)
    assert with_bread["ctxs"] == [
        {
            "id": "p3",
            "title": "Bakery",
            "text": "A bakery sells bread.",
            "score": "0.5",
            "page": 3,
            "last_page": 3,
        }
    ]
    assert with_none["ctxs"] == []


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_size_of_batches_changes_nothing(retrieve, tmp_path, batch_size):
    retrieve()
    expected = (tmp_path / "out.jsonl").read_bytes()
    retrieve("--restart", "--batch-size", batch_size)
    assert (tmp_path / "out.jsonl").read_bytes() == expected


def test_options_of_the_search_are_heeded(retrieve, tmp_path):
    retrieve("--where", "page > 1", "--mode", "words")
    rows = rows_of(tmp_path / "out.jsonl")
    assert [[ctx["id"] for ctx in row["ctxs"]] for row in rows] == [["p2"], ["p2"], ["p3"]]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--n-docs", 0], "Invalid value for '--n-docs'"),
        (["--batch-size", 0], "Invalid value for '--batch-size'"),
        (["--candidates", 0], "--candidates is 0"),
        (["--dense-weight", 2], "the dense weight is 2.0"),
        (["--mode", "sparse"], "--mode"),
        (["--where", "pages ="], "where 'pages ='"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--index", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(retrieve, arguments, word):
    refused(retrieve(*arguments), word)


def test_the_questions_are_never_written_over(retrieve, tmp_path):
    before = (tmp_path / "data.jsonl").read_bytes()
    refused(
        retrieve("--out", tmp_path / "data.jsonl", "--restart"),
        "it is the file the questions, which is read",
    )
    assert (tmp_path / "data.jsonl").read_bytes() == before


def test_a_place_that_cannot_be_written_is_reported(retrieve):
    code, _, err = retrieve("--out", "nowhere/out.jsonl")
    assert code == 2
    assert "cannot write --out nowhere/out.jsonl: there is no folder nowhere" in err


# Going on


@pytest.mark.parametrize("cut", [0, 1, 400, 700, 1000])
def test_a_run_that_was_killed_goes_on_where_it_stopped(retrieve, tmp_path, cut):
    retrieve()
    out = tmp_path / "out.jsonl"
    whole = out.read_bytes()
    out.write_bytes(whole[:cut])
    n_done = whole[:cut].count(b"\n")
    code, _, err = retrieve()
    assert code == 0
    assert out.read_bytes() == whole
    assert (f"going on after {n_done} of 3 questions" in err) is (n_done > 0)


def test_what_is_done_is_not_searched_again(retrieve, tmp_path, monkeypatch):
    retrieve()
    monkeypatch.setattr(PassageStore, "search", None)
    assert retrieve()[0] == 0
    assert len(rows_of(tmp_path / "out.jsonl")) == 3


def test_only_the_same_options_go_on(retrieve, tmp_path):
    retrieve()
    before = (tmp_path / "out.jsonl").read_bytes()
    refused(retrieve("--n-docs", 1), "it differs in n_docs (2 there, 1 now)", "or give --restart")
    refused(
        retrieve("--dense-weight", 0.1), "it differs in fusion.dense_weight (0.6 there, 0.1 now)"
    )
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert retrieve("--n-docs", 1, "--restart")[0] == 0
    assert [len(row["ctxs"]) for row in rows_of(tmp_path / "out.jsonl")] == [1, 1, 1]


def test_starting_anew_without_an_index_to_search_loses_nothing(retrieve, tmp_path):
    retrieve()
    before = (tmp_path / "out.jsonl").read_bytes()
    refused(retrieve("--restart", "--index", "nowhere"), "nowhere")
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_an_index_that_was_built_anew_is_another_one(retrieve, built, tmp_path):
    retrieve()
    manifest = built / "manifest.json"
    kept = manifest.read_text()
    made = json.loads(kept)["created_at"]
    manifest.write_text(kept.replace(made, "2020-01-01T00:00:00+00:00"))
    try:
        refused(retrieve(), f"it differs in made ('{made}' there, '2020-01-01T00:00:00+00:00' now)")
    finally:
        manifest.write_text(kept)


@pytest.mark.parametrize("harm", ["order", "more", "foreign"])
def test_rows_of_other_questions_are_not_gone_on_with(retrieve, tmp_path, harm):
    retrieve()
    out = tmp_path / "out.jsonl"
    rows = rows_of(out)
    other = {"order": rows[::-1], "more": [*rows, rows[0]], "foreign": [1, *rows]}[harm]
    write(out, other)
    number = 4 if harm == "more" else 1
    refused(retrieve(), f"its row {number} is not that of question {number} of data.jsonl")
    assert rows_of(out) == other


def test_rows_without_their_plan_are_not_gone_on_with(retrieve, tmp_path):
    retrieve()
    for content in (None, "[1]", "{", "null"):
        plan = tmp_path / "out.jsonl.plan.json"
        plan.unlink() if content is None else plan.write_text(content)
        refused(retrieve(), "found results there, but no valid")


def test_one_process_writes_at_a_time(retrieve, tmp_path):
    with AppendLog(tmp_path / "out.jsonl"):
        refused(retrieve(), "another process is writing it")
    assert retrieve()[0] == 0


def test_a_full_disk_is_reported_and_loses_nothing(retrieve, tmp_path, monkeypatch):
    written = []

    def full(log, rows):
        if written:
            raise StorageError("cannot write rows to out.jsonl: No space left on device")
        written.append(append(log, rows))

    append = AppendLog.append
    monkeypatch.setattr(AppendLog, "append", full)
    code, _, err = retrieve("--batch-size", 1)
    assert code == 1
    assert "No space left on device" in err
    monkeypatch.undo()
    assert len(rows_of(tmp_path / "out.jsonl")) == 1


# Files of questions


def test_bad_rows_are_named_counted_and_kept(retrieve, tmp_path):
    lines = [
        b'{"question": "bread"}',
        b"",
        b"{",
        b"[1]",
        b'{"question": " "}',
        b'{"question": "\xff"}',
    ]
    (tmp_path / "data.jsonl").write_bytes(b"\n".join(lines))
    code, out, err = retrieve()
    assert (code, out) == (0, "retrieved for 1 question in out.jsonl\n")
    assert (
        "left out 4 rows, kept in out.jsonl.rejects.jsonl: line 3 is not JSON (Expecting property "
        in err
    )
    assert f"and {4 - N_NAMED} more" in err
    kept = rows_of(tmp_path / "out.jsonl.rejects.jsonl")
    assert [(row["line"], row["reason"].split(" (")[0]) for row in kept] == [
        (3, "is not JSON"),
        (4, "is a list, not an object"),
        (5, "has no question"),
        (6, "is not UTF-8"),
    ]
    assert kept[1]["text"] == "[1]"
    write(tmp_path / "data.jsonl", [{"question": "bread"}])
    retrieve()
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        '{"question": "a"}\n{"question": "b"}',
        '\ufeff{"question": "a"}\r\n\r\n{"question": "b"}\r\n',
        '[{"question": "a"}, {"question": "b"}]',
        '\ufeff[\n  {"question": "a"},\n  {"question": "b"}\n]',
        '{"version": 1, "data": [{"question": "a"}, {"question": "b"}]}',
    ],
)
def test_lines_and_lists_are_read_whatever_the_name(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    rows, rejects = read_questions(tmp_path / name)
    assert [row["question"] for row in rows.values()] == ["a", "b"]
    assert rejects == []


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "found no rows"),
        ("[]", "found no rows"),
        ('{"q": 1}\n3', r"found none with a question in 2 rows \(line 1 has no question, line 2"),
        ("[[[" * 50_000, r"it begins like a JSON list and is none"),
    ],
)
def test_a_file_without_a_question_is_refused(tmp_path, content, found):
    (tmp_path / "data").write_text(content)
    with pytest.raises(BadInput, match=f"{found}.*; expected "):
        read_questions(tmp_path / "data")


def test_a_broken_list_is_refused(tmp_path):
    (tmp_path / "data").write_text("[[[" * 50_000)
    with pytest.raises(BadInput, match="begins like a JSON list and is none; expected"):
        read_questions(tmp_path / "data")


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"question": " q ", "instruction": "i"}, "q"),
        ({"question": "", "instruction": "i"}, "i"),
        ({"question": 3, "instruction": None}, ""),
        ({"_id": "1", "text": "t"}, "t"),
        ({"id": "1", "text": "t"}, ""),
    ],
)
def test_a_question_has_several_names(row, question):
    assert question_of(row) == question


def test_a_gold_answer_that_is_none_is_a_reject(tmp_path):
    (tmp_path / "data").write_text('{"question": "a", "answers": [{}]}\n{"question": "b"}\n')
    rows, (reject,) = read_questions(tmp_path / "data")
    assert [row["question"] for row in rows.values()] == ["b"]
    assert str(reject) == "line 1 has an object in 'answers', expected strings"


# Searching


def test_a_search_can_be_by_words_with_a_condition(run, built):
    code, out, _ = run(
        "search", "moon", "--index", built, "--mode", "words", "--where", "page=2", "--json"
    )
    assert code == 0
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["p2"]


def test_a_search_without_a_hit_says_so_beside_its_output(run, built):
    code, out, err = run("search", "zeppelin", "--index", built, "--mode", "words")
    assert (code, out, err) == (0, "", "no passage found\n")


def test_a_search_by_ranks_scores_ranks(run, built):
    arguments = ("--index", built, "--json", "--fusion", "ranks", "--rank-constant", 1)
    _, out, _ = run("search", "bread", *arguments, "--dense-weight", 0.5)
    first = json.loads(out)["hits"][0]
    assert (first["id"], first["score"]) == ("p3", 0.5)  # 1 / 2 of either half


def test_a_reranker_that_is_not_there_is_named(run, built):
    pytest.importorskip("sentence_transformers")
    ended = run("search", "moon", "--index", built, "--rerank", "./nowhere")
    assert ended[0] == 1
    assert "cannot load the reranker from nowhere" in ended[2]


def test_the_packaged_reranker_has_a_small_share_unless_told_otherwise(run, built, monkeypatch):
    class Backwards:
        def __init__(self, folder):
            assert folder == "fetched"

        def score(self, pairs):
            return np.array([len(passage.title) for _, passage in pairs], dtype=np.float32)

    monkeypatch.setattr(assets, "fetch", lambda asset, progress: "fetched")
    monkeypatch.setattr(rerank, "OnnxCrossEncoder", Backwards)
    arguments = ("search", "titan", "--index", built, "--rerank", "small", "--json")
    for more, first in (([], "p1"), (["--rerank-weight", 1], "p2")):
        code, out, _ = run(*arguments, *more)
        assert code == 0
        assert json.loads(out)["hits"][0]["id"] == first
    refused(run(*arguments, "--rerank-weight", 3), "the weight is 3.0")


# Measuring


def test_what_was_retrieved_is_measured(retrieve, run, tmp_path):
    retrieve()
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\na\tp1\t1\nb\tp1\t1\nz\tp1\t1\n"
    )
    code, out, _ = run("eval", "retrieval", "out.jsonl", "--qrels", "qrels.tsv", "--json")
    assert code == 0
    report = json.loads(out)
    by_passages = report["passages"]
    # p1 is first for a, second for b, and z was not asked.
    means = {name: each["mean"] for name, each in by_passages["measures"].items()}
    assert (means["R@1"], means["R@5"]) == pytest.approx((1 / 3, 2 / 3))
    assert means["MRR"] == pytest.approx((1 + 1 / 2) / 3)
    assert by_passages["without_results"] == ["z"]
    assert by_passages["without_judgements"] == ["c"]
    assert report["answers"]["n_queries"] == 2
    assert report["answers"]["measures"]["Success@1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_the_table_says_what_it_leaves_out_and_how_deep_it_looks(retrieve, run, tmp_path):
    retrieve()
    code, out, _ = run("eval", "retrieval", "out.jsonl")
    assert code == 0
    assert "by answers: 2 queries, 2 passages deep" in out
    assert "1 without judgements, left out: c" in out
    assert "Success@5, Success@20, Success@100 count no more than the 2 passages there are" in out


def test_a_run_that_says_nothing_of_answers_needs_judgements(run, tmp_path):
    write(tmp_path / "out.jsonl", [{"id": "a", "ctxs": []}])
    refused(run("eval", "retrieval", "out.jsonl"), "found 1 query and none with a relevant")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_rows_go_to_a_pipe_and_nothing_lies_beside_it(retrieve, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "bread"}\n{}\n')
    os.mkfifo(tmp_path / "pipe")
    before = {path.name for path in tmp_path.iterdir()}
    with ThreadPoolExecutor() as pool:
        reading = pool.submit((tmp_path / "pipe").read_bytes)
        code, out, err = retrieve("--out", tmp_path / "pipe")
    assert (code, out) == (0, "") and "left out 1 row: line 2 has no question" in err
    assert json.loads(reading.result())["question"] == "bread"
    assert {path.name for path in tmp_path.iterdir()} == before
