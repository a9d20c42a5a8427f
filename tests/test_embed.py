"""Embedding a corpus in shards: going on after any end, and reading back what was written."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from selfrag.cli import embed as command
from selfrag.errors import BadInput, ConfigError, EngineError, StorageError
from selfrag.files import locked
from selfrag.passage import Passage
from selfrag.retrieval.embed.plan import COMMIT_ROWS, Corpus, Plan, default_shards, survey
from selfrag.retrieval.embed.run import (
    committed_rows,
    embed_corpus,
    embed_shard,
    index_shards,
    read_shards,
    unfinished_shards,
)
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.store import PassageStore
from selfrag.retrieval.table import import_lancedb
from words import WordEncoder

ENCODER = WordEncoder(dim=8)


def passage(number: int) -> Passage:
    return Passage(
        id=f"p{number}",
        title=f"Title {number}",
        text=" ".join(f"word{number % 3 + n}" for n in range(1 + number * 7 % 5)),
        source=f"s{number}",
        start=number,
        end=number + 9,
        page=number % 4,
        metadata=(("year", str(1900 + number)), ("formula", "a=b")),
    )


PASSAGES = [passage(number) for number in range(23)]
CORPUS = survey(PASSAGES)


def plan(n_shards: int = 3, commit_rows: int = 4, **changes: object) -> Plan:
    values = {"encoder": ENCODER.spec, "corpus": CORPUS, **changes}
    return Plan(**{"n_shards": n_shards, "commit_rows": commit_rows, **values})


def rows(folder: Path) -> list[dict]:
    return [row for batch in read_shards(folder, batch_rows=5) for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed") / "whole"
    embed_corpus(PASSAGES, ENCODER, folder, plan())
    return folder


@pytest.fixture
def own(whole, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "own"))


def forget(folder: Path, shard: int) -> None:
    shutil.rmtree(folder / f"{plan().table_name(shard)}.lance")


# The plan


@given(st.integers(1, 500), st.integers(1, 500))
def test_shards_part_the_corpus_as_the_original_does(n_passages, n_shards):
    assume(n_shards <= n_passages)
    made = plan(n_shards, corpus=Corpus(n_passages=n_passages, sha256=""))
    positions = [row for shard in range(n_shards) for row in made.rows(shard)]
    assert positions == list(range(n_passages))
    assert {len(made.rows(shard)) for shard in range(n_shards - 1)} <= {n_passages // n_shards}


def test_a_plan_without_work_for_every_shard_is_refused():
    for n_shards, commit_rows in ((0, 4), (24, 4), (1, 0)):
        with pytest.raises(ConfigError, match="a passage for every shard"):
            plan(n_shards, commit_rows)
    with pytest.raises(ConfigError, match="cannot embed 0 passages in 1 shard "):
        plan(1, corpus=survey([]))
    for shard in (-1, 3):
        with pytest.raises(ConfigError, match=f"shard {shard} of 3: expected 0 to 2"):
            plan().rows(shard)


def test_shards_are_made_for_the_size_and_for_every_worker():
    assert [default_shards(n) for n in (1, 65_536, 65_537, 21_015_324)] == [1, 1, 2, 321]
    assert default_shards(1000, at_least=8) == 8
    assert default_shards(3, at_least=8) == 3


def test_a_corpus_is_known_by_ids_titles_and_texts_in_order():
    assert CORPUS.n_passages == 23
    assert survey(iter(PASSAGES)) == CORPUS
    assert survey([replace(PASSAGES[0], source="elsewhere"), *PASSAGES[1:]]) == CORPUS
    for change in ({"id": "x"}, {"title": "x"}, {"text": "x"}):
        assert survey([replace(PASSAGES[0], **change), *PASSAGES[1:]]) != CORPUS
    assert survey(PASSAGES[::-1]) != CORPUS


def test_the_plan_is_read_back(whole):
    assert Plan.load(whole) == plan()


CHANGES = {
    "encoder name": ({"encoder": replace(ENCODER.spec, name="x")}, "name 'words' against 'x'"),
    "encoder spec": (
        {"encoder": replace(ENCODER.spec, title_separator=" ")},
        r"title_separator '\. ' against ' '",
    ),
    "corpus": ({"corpus": Corpus(n_passages=23, sha256="0")}, "sha256 '.*' against '0'"),
    "passages": ({"corpus": Corpus(n_passages=24, sha256="0")}, "n_passages 23 against 24"),
    "shards": ({"n_shards": 4}, "n_shards 3 against 4"),
    "commit": ({"commit_rows": 5}, "commit_rows 4 against 5"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_run_does_not_go_on_in_the_folder(own, change):
    values, found = CHANGES[change]
    with pytest.raises(BadInput, match=f"shards of another run there, with {found}.*; run with"):
        embed_corpus(PASSAGES, ENCODER, own, plan(**values))
    assert Plan.load(own) == plan()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "[" * 10_000, '{"format_version": 2}', '{"format_version": 1}',
     '{"format_version": 1, "encoder": {"metric": "no"}}', None],
)  # fmt: skip
def test_a_folder_without_a_sound_plan_is_refused(own, text):
    (own / "embed.json").unlink()
    if text is not None:
        (own / "embed.json").write_text(text)
    with pytest.raises(BadInput, match=r"no sound embed\.json .*name one, or embed anew"):
        read_shards(own)


def test_tables_of_something_else_are_left_alone(own):
    (own / "embed.json").unlink()
    with pytest.raises(BadInput, match=r"tables without embed\.json there"):
        embed_corpus(PASSAGES, ENCODER, own, plan())
    assert not (own / "embed.json").exists()


# Encoding


def test_a_row_is_a_passage_with_all_it_has_and_its_vector(whole):
    found = rows(whole)
    vectors = ENCODER.encode([f"{each.title}. {each.text}" for each in PASSAGES])
    assert [row["row"] for row in found] == list(range(23))
    assert np.array([row["vector"] for row in found], dtype=np.float32).tolist() == vectors.tolist()
    assert {name: value for name, value in found[5].items() if name != "vector"} == {
        "row": 5,
        "facts": '["p5", "Title 5", "s5", 5, 14, 1, 0]',
        "id": "p5",
        "title": "Title 5",
        "text": PASSAGES[5].text,
        "source": "s5",
        "start": 5,
        "end": 14,
        "page": 1,
        "last_page": 0,
        "metadata": ["year=1905", "formula=a=b"],
        "search_text": f"Title 5 {PASSAGES[5].text}",
        "file": "",
        "version": "",
    }


class Recorder(WordEncoder):
    """Keeps the batches that it encoded."""

    def __init__(self) -> None:
        super().__init__(dim=8)
        self.batches: list[list[str]] = []

    def encode(self, texts):
        self.batches.append(list(texts))
        return super().encode(texts)


def test_a_commit_reads_no_further_than_its_own_passages(tmp_path):
    encoder = Recorder()
    embed_corpus(PASSAGES, encoder, tmp_path, plan(1, 10))
    assert [len(batch) for batch in encoder.batches] == [10, 10, 3]
    assert committed_rows(tmp_path, plan(1, 10), [0]) == [23]


@pytest.mark.parametrize("fault", [np.nan, np.inf, "dim"])
def test_vectors_that_make_no_sense_are_refused(tmp_path, fault):
    class Faulty(WordEncoder):
        def encode(self, texts):
            vectors = super().encode(texts)
            if fault == "dim":
                return vectors[:, :-1]
            vectors[-1, 0] = fault
            return vectors

    with pytest.raises(EngineError, match=r"cannot embed passage 'p\d+' and 3 others: .*8 dims"):
        embed_corpus(PASSAGES, Faulty(dim=8), tmp_path, plan())
    assert unfinished_shards(tmp_path, plan()) == [0, 1, 2]


def test_progress_counts_the_passages_of_the_shards_asked_for(tmp_path):
    done: list[int] = []
    embed_corpus(PASSAGES, ENCODER, tmp_path, plan(), shards=[2, 0], on_progress=done.append)
    # 7 and 9 passages, in commits of 4, 3 and 4, 4, 1.
    assert done == [4, 7, 11, 15, 16, 16]


# Going on


def test_shards_embedded_apart_are_those_embedded_together(tmp_path, whole):
    for shard in (2, 0, 1):
        embed_corpus(iter(PASSAGES), ENCODER, tmp_path, plan(), shards=[shard])
    assert rows(tmp_path) == rows(whole)


def test_what_is_committed_is_not_encoded_again(tmp_path, whole):
    class Stops(Exception):
        pass

    def stop(n_done):
        if n_done > 12:  # the second shard holds 7 to 13: one commit of it is written
            raise Stops

    with pytest.raises(Stops):
        embed_corpus(PASSAGES, ENCODER, tmp_path, plan(), on_progress=stop)
    assert committed_rows(tmp_path, plan(), range(3)) == [7, 4, 0]
    assert unfinished_shards(tmp_path, plan()) == [1, 2]
    encoder = Recorder()
    embed_corpus(PASSAGES, encoder, tmp_path, plan())
    assert sum(map(len, encoder.batches)) == 23 - 11
    assert rows(tmp_path) == rows(whole)


def test_a_whole_folder_reads_no_passage(own):
    read = []

    def none():
        read.append(True)
        yield from ()

    embed_corpus(none(), ENCODER, own, plan())
    assert read == []
    assert len(rows(own)) == len(PASSAGES)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_embed import ENCODER, PASSAGES, embed_corpus, plan
import lancedb.table

add, left = lancedb.table.LanceTable.add, [int(sys.argv[3])]

def killing(self, rows):
    when = sys.argv[4]
    left[0] -= 1
    if left[0] == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, rows)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

lancedb.table.LanceTable.add = killing
embed_corpus(PASSAGES, ENCODER, Path(sys.argv[2]), plan())
"""


@pytest.mark.parametrize(("n_commits", "when"), [(1, "before"), (3, "after"), (4, "before")])
def test_after_kill_9_nothing_is_lost_or_doubled(tmp_path, whole, n_commits, when):
    arguments = [str(Path(__file__).parent), str(tmp_path), str(n_commits), when]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    # Shards of 7, 7 and 9 in commits of 4.
    left = {(1, "before"): [0, 0, 0], (3, "after"): [7, 4, 0], (4, "before"): [7, 4, 0]}
    assert committed_rows(tmp_path, plan(), range(3)) == left[n_commits, when]
    embed_corpus(PASSAGES, ENCODER, tmp_path, plan())
    assert rows(tmp_path) == rows(whole)


def test_a_table_killed_before_its_first_version_is_begun_anew(tmp_path, whole):
    plan().claim(tmp_path)
    half = tmp_path / f"{plan().table_name(0)}.lance" / "data"
    half.mkdir(parents=True)
    (half / "part.lance").write_bytes(b"cut off")
    embed_corpus(PASSAGES, ENCODER, tmp_path, plan())
    assert rows(tmp_path) == rows(whole)


def test_a_shard_that_another_process_writes_is_refused(own):
    forget(own, 1)
    with locked(own / ".locks" / plan().table_name(1)):
        with pytest.raises(BadInput, match="another process is writing it"):
            embed_corpus(PASSAGES, ENCODER, own, plan())
    embed_corpus(PASSAGES, ENCODER, own, plan())
    assert unfinished_shards(own, plan()) == []


def test_a_corpus_that_ends_early_is_refused_and_keeps_whole_commits(tmp_path):
    with pytest.raises(BadInput, match=r"the passages ended after 20, expected 23 .*run again"):
        embed_corpus(PASSAGES[:20], ENCODER, tmp_path, plan())
    assert committed_rows(tmp_path, plan(), range(3)) == [7, 7, 4]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write embeddings .*run again to go on"):
        embed_corpus(PASSAGES, ENCODER, tmp_path / "file" / "out", plan())


# Reading


def test_a_folder_with_unfinished_shards_is_not_read(own):
    forget(own, 1)
    message = r"1 of 3 shards unfinished, the first being 1, .*--shard 1/3"
    with pytest.raises(BadInput, match=message):
        read_shards(own)


def test_batches_are_small_and_in_order(whole):
    sizes = [batch.num_rows for batch in read_shards(whole, batch_rows=5)]
    assert max(sizes) <= 5
    assert sum(sizes) == 23


def table(folder: Path, shard: int):
    return import_lancedb().connect(folder).open_table(plan().table_name(shard))


def double(folder: Path) -> None:
    found = table(folder, 0)
    found.add(found.search().limit(1).to_arrow())


def swap(folder: Path) -> None:
    found = table(folder, 1)
    found.update(where="row = 8", values={"row": 99})


def cut(folder: Path) -> None:
    data = next((folder / f"{plan().table_name(2)}.lance" / "data").iterdir())
    data.write_bytes(data.read_bytes()[:50])


@pytest.mark.parametrize("harm", [double, swap, cut])
def test_doubled_missing_and_damaged_rows_are_refused(own, harm):
    harm(own)
    shard = {double: 0, swap: 1, cut: 2}[harm]
    with pytest.raises(BadInput, match=rf"cannot use shard {shard} .*delete shard-0000{shard}-of"):
        rows(own)


@pytest.mark.parametrize("n_gone", [1, 8])
def test_a_count_that_no_commit_leaves_is_not_gone_on_from(own, n_gone):
    if n_gone == 1:
        table(own, 0).delete("row = 2")
    else:
        double(own)
    with pytest.raises(BadInput, match=r"found [68] of 7 rows, .*embed shard 0/3 again"):
        embed_shard(PASSAGES[:7], ENCODER, own, plan(), 0)


# Shards as an index


def test_shards_become_an_index_that_is_searched(whole, tmp_path):
    done: list[int] = []
    manifest = index_shards(whole, tmp_path / "index", on_progress=done.append)
    assert manifest.encoder == ENCODER.spec
    assert done[-1] == 23
    store = PassageStore.open(
        tmp_path / "index", ENCODER, options=SearchOptions(mode=SearchMode.DENSE)
    )
    assert store.n_passages == 23
    (hit,) = store.search(["Title 5. " + PASSAGES[5].text], 1)[0]
    assert hit.passage == PASSAGES[5]
    assert np.isclose(hit.score, 1.0, atol=1e-5)


def test_damaged_shards_become_no_index(own, tmp_path):
    swap(own)
    with pytest.raises(BadInput, match=r"cannot use shard 1 .*missing or doubled at 7"):
        index_shards(own, tmp_path / "index")
    assert not (tmp_path / "index").exists()


# The command


@pytest.fixture
def run(monkeypatch):
    """Runs `selfrag embed` with our encoder; its output, or the error that it ends with."""
    devices: list[tuple[str, str]] = []

    def open_encoder(name: str, precision: str, batch_size: int, device: str) -> WordEncoder:
        devices.append((name, device))
        return ENCODER

    monkeypatch.setattr(command, "open_encoder", open_encoder)
    app = typer.Typer()
    app.command()(command.embed)

    def invoke(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    invoke.devices = devices
    return invoke


@pytest.fixture
def tsv(tmp_path):
    path = tmp_path / "psgs_w100.tsv"
    lines = [f"{each.id}\t{each.text}\t{each.title}" for each in PASSAGES]
    path.write_text("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    return path


def texts(folder: Path) -> list[tuple[str, str, str]]:
    return [(row["id"], row["title"], row["text"]) for row in rows(folder)]


ALL = [(each.id, each.title, each.text) for each in PASSAGES]


def test_shards_of_a_table_are_embedded_one_by_one(run, tsv, tmp_path):
    out = tmp_path / "out"
    options = ("--passages", tsv, "--out", out)
    said = run(*options, "--shard", "1/2", "--devices", "cuda:1", "--encoder", "words")
    assert "1 of 2 shards" in said
    assert "to do: --shard 0/2 and so on" in said
    assert run.devices == [("words", "cuda:1")]
    # What was begun is gone on with, however many shards it has.
    assert "run again with --index" in run("--passages", tsv, "--out", out)
    assert texts(out) == ALL
    assert Plan.load(out) == plan(2, COMMIT_ROWS)
    index = tmp_path / "index"
    assert "indexed 23 passages" in run("--passages", tsv, "--out", out, "--index", index)
    assert PassageStore.open(index, ENCODER).search(["word7"], 1)[0][0].rank == 1


def test_json_lines_are_embedded(run, tmp_path):
    lines = [json.dumps({"id": i, "title": title, "text": text}) for i, title, text in ALL]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    run("--passages", tmp_path / "corpus.jsonl", "--out", tmp_path / "out")
    assert texts(tmp_path / "out") == ALL


def test_pickles_of_the_original_are_imported(run, tsv, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((23, 768)).astype(np.float16)
    for name, own in {"00": slice(0, 11), "01": slice(11, 23)}.items():
        content = pickle.dumps(([each.id for each in PASSAGES[own]], vectors[own]), protocol=4)
        (tmp_path / f"passages_{name}").write_bytes(content)
    options = ("--from-pickles", tmp_path / "passages_*", "--passages", tsv)
    run(*options, "--out", tmp_path / "out")
    assert texts(tmp_path / "out") == ALL
    found = np.array([row["vector"] for row in rows(tmp_path / "out")])
    assert np.array_equal(found, vectors.astype(np.float64))
    spec = Plan.load(tmp_path / "out").encoder
    assert (spec.name, spec.normalised) == ("facebook/contriever-msmarco", False)
    # title + " " + text, as generate_passage_embeddings.py writes it
    assert spec.passage_text(Passage(id="", title="A", text="b c")) == "A b c"
    with pytest.raises(BadInput, match="vectors of 768 dims, but encoder 'words' gives 8"):
        run(*options, "--out", tmp_path / "other", "--encoder", "words")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--shard", "2/2"], "shard '2/2': expected i/n with i from 0 to n - 1"),
        (["--shard", "2"], "shard '2': expected i/n"),
        (["--shard", "-1/2"], "shard '-1/2': expected i/n"),
        (["--shard", "0/24"], "23 passages in 24 shards"),
        (["--shard", "0/2", "--ray", "auto"], "with --shard and --ray: expected one of them"),
        (["--devices", "a,b", "--ray", "auto"], "with --devices and --ray: expected one"),
        (["--from-pickles", "none*", "--ray", "auto"], "with --ray and --from-pickles: expected"),
        (["--from-pickles", "none*"], r"found no file named none\*"),
        (["--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        (["--shards", "-1"], "--shards is -1; expected at least 0"),
        (["--worker-cpus", "0"], "CPUs or GPUs for a worker"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, tsv, tmp_path, options, found):
    with pytest.raises((BadInput, ConfigError), match=found):
        run("--passages", tsv, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


class LetterEncoder(WordEncoder):
    """Every character is a token; 40 are read, two of them marks around the text."""

    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, max_tokens=40)

    def token_spans(self, text):
        return [(at, at + 1) for at in range(len(text))]


def test_own_text_is_cut_to_what_the_encoder_reads(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "open_encoder", lambda *asked: LetterEncoder())
    (tmp_path / "own.txt").write_text("four " * 30)
    run("--passages", tmp_path / "own.txt", "--out", tmp_path / "out")
    found = texts(tmp_path / "out")
    # Beside the marks, the title "own" and ". " between, 33 of the 40 tokens are left: six words.
    assert max(len(text) for _, _, text in found) <= 33
    assert " ".join(text for _, _, text in found).split() == ["four"] * 30
