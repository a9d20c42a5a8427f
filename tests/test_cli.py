"""The command line in this process: what it refuses, how it ends, what it prints. No model."""

import ast
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from selfrag.cli import effect, main
from selfrag.cli.app import COMMANDS, app
from selfrag.cli.console import Reporter
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, ConfigError, IndexNotUsable
from selfrag.files import AppendLog
from selfrag.open import indexes
from selfrag.open.calibrations import weights_name
from selfrag.open.engines import ModelOptions
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import FixedRetriever
from selfrag.retrieval.store import PassageStore
from selfrag.trace.file import load_trace
from selfrag.train.config import load_recipe, settings
from selfrag.train.examples import LossWeights

RECIPES = Path(__file__).parents[1] / "recipes" / "default_weights"
RECIPE = RECIPES / "default-135m.toml"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of assets, not there yet; no package index can be reached either."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    return tmp_path / "cache"


@pytest.fixture
def run(cache, monkeypatch, capsys):
    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["selfrag", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(ended.value.code, printed.out, printed.err)

    return run


def is_refusal(ended: Ended) -> bool:
    """Exit code 2, nothing on standard output, one line on standard error."""
    is_one_line = ended.err.startswith("selfrag: cannot ") and ended.err.count("\n") == 1
    return ended.code == 2 and ended.out == "" and is_one_line


@pytest.mark.parametrize("arguments", [["ask"], ["ask", ""], ["ask", " \n"]])
def test_an_empty_question_is_refused_before_anything_is_loaded(run, cache, arguments):
    ended = run(*arguments)
    assert is_refusal(ended)
    assert "cannot answer: the question is empty" in ended.err
    assert not cache.exists()


def test_an_empty_question_from_standard_input_is_refused(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("  \n"))
    ended = run("ask", "-")
    assert is_refusal(ended)
    assert "cannot answer: the question is empty" in ended.err


def test_a_setting_out_of_range_is_refused_before_anything_is_loaded(run, cache):
    ended = run("ask", "Who?", "--threshold", "2")
    assert is_refusal(ended)
    assert "cannot set threshold to '2': expected a number from 0 to 1 or none" in ended.err
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["ask", "Who?", "--nonsense"], "No such option: --nonsense"),
        (["ask", "Who?", "--top-k", "much"], "Invalid value for '--top-k'"),
        (["answer"], "No such command 'answer'"),
        (["serach"], "No such command 'serach'. Did you mean 'search'?"),
        (["search"], "Missing argument 'query'"),
    ],
)
def test_a_command_that_cannot_be_read_is_refused_in_one_line(run, arguments, found):
    ended = run(*arguments)
    assert is_refusal(ended)
    assert f"cannot run `selfrag {' '.join(arguments)}`: {found}" in ended.err


def test_the_help_lists_every_command_in_order_with_what_it_does(run):
    lines = [line.strip("│ ").split(maxsplit=1) for line in run("--help").out.splitlines()]
    described = [line[0] for line in lines if len(line) == 2 and line[0] in COMMANDS]
    assert described == list(COMMANDS)


def test_a_command_imports_the_packages_of_no_other():
    named = "{'.'.join(name.split('.')[:2]) for name in sys.modules if name[:8] == 'selfrag.'}"
    asked = "app(['ask', '--help'], standalone_mode=False)"
    code = f"import sys; from selfrag.cli.app import app; {asked}; print({named})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    imported = ast.literal_eval(done.stdout.splitlines()[-1])
    assert "selfrag.decode" in imported
    assert not {"selfrag.annotate", "selfrag.evaluate", "selfrag.train"} & imported


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--threshold", "much"], "threshold to 'much': expected a number from 0 to 1 or none"),
        (["--mode", "sometimes"], "mode to 'sometimes': expected one of adaptive, always, never"),
        (["--set", "beam"], "'beam': expected key=value"),
        (["--set", "beams=2"], "beams: there is no such setting; expected one of mode, gate"),
        (["--set", "weights.fun=2"], "weights.fun: there is no such setting"),
        (["--set", "beam_width=two"], "beam_width to 'two': expected a whole number of at least 1"),
        (
            ["--set", "beam_width=none"],
            "beam_width to 'none': expected a whole number of at least 1",
        ),
        (
            ["--set", "max_tokens=few"],
            "max_tokens to 'few': expected a whole number of at least 1 or none",
        ),
        (
            ["--set", "drop_unsupported=maybe"],
            "drop_unsupported to 'maybe': expected true or false",
        ),
        (["--set", "gate=coin"], "gate to 'coin': expected one of paper, reference, argmax"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused_in_one_line(run, cache, arguments, found):
    ended = run("ask", "Who?", *arguments)
    assert is_refusal(ended)
    assert f"cannot set {found}" in ended.err
    assert not cache.exists()


@pytest.mark.parametrize("command", [["ask", "Who?"], ["search", "who"]])
def test_a_missing_index_is_refused_before_anything_is_loaded(run, cache, tmp_path, command):
    ended = run(*command, "--index", str(tmp_path / "nowhere"))
    assert is_refusal(ended)
    assert f"cannot open the index {tmp_path / 'nowhere'}" in ended.err
    assert not cache.exists()


def test_a_folder_that_is_no_index_has_no_info(run, tmp_path):
    ended = run("index", "info", str(tmp_path))
    assert is_refusal(ended)
    assert "a folder without manifest.json" in ended.err


@pytest.mark.parametrize("arguments", [["search", " "], ["search", "who", "--top-k", "0"]])
def test_a_search_for_nothing_is_refused_before_anything_is_loaded(run, cache, arguments):
    ended = run(*arguments)
    assert is_refusal(ended)
    assert "cannot search" in ended.err
    assert not cache.exists()


def test_an_index_of_missing_documents_leaves_nothing(run, cache, tmp_path):
    missing, out = tmp_path / "nowhere", tmp_path / "index"
    ended = run("index", "build", str(missing), "--out", str(out))
    assert is_refusal(ended)
    assert f"cannot read documents from {missing}" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_passage_of_no_words_is_refused(run, tmp_path):
    (tmp_path / "a.txt").write_text("Some text.")
    out = tmp_path / "index"
    ended = run("index", "build", str(tmp_path / "a.txt"), "--out", str(out), "--size", "0")
    assert is_refusal(ended)
    assert "--size is 0" in ended.err
    assert not out.exists()


def test_debug_raises_the_original_error(cache, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["selfrag", "ask", "", "--debug"])
    with pytest.raises(BadInput, match="the question is empty"):
        main()


def test_a_fault_of_ours_ends_with_1_and_says_what_to_do(run, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(indexes, "load", broken)
    ended = run("ask", "Who?")
    assert ended.code == 1
    assert ended.err == (
        "selfrag: stopped by a fault of ours: ZeroDivisionError('by zero'); "
        "run again with --debug and report it\n"
    )


@pytest.fixture
def scripted(monkeypatch):
    """An index of two passages and a model that answers "Who?" from them, in place of ours."""
    passages = [
        Passage(id="a", title="Ann", text="Ann did it.", source="a.txt"),
        Passage(id="b", title="Bob", text="Bob slept.", source="b.txt"),
    ]
    hits = [Hit(passage=p, score=1.0 / rank, rank=rank) for rank, p in enumerate(passages, 1)]
    ask = "### Instruction:\nWho?\n\n### Response:\n"
    reads = [f"{ask}[Retrieval]<paragraph>{p.title}\n{p.text}</paragraph>" for p in passages]
    full = {"[Fully supported]": 0.9, "[No support / Contradictory]": 0.1}
    rated = {f"{reads[0]}[Relevant]": say({"yes": 0.2, "no": 0.6})}
    rated[f"{reads[1]}[Relevant]"] = say({"no": 0.5, "yes": 0.5})
    rated["### Instruction:\n\n\n### Response:\n[No Retrieval]"] = say({"no": 0.4, "yes": 0.4})
    table = {
        **rated,
        ask: say({"[Retrieval]": 0.75, "[No Retrieval]": 0.25}),
        reads[0]: say("[Relevant]", "Ann did it.", full, "[Utility:5]", "</s>"),
        reads[1]: say("[Irrelevant]", "Not here.", "[Utility:1]", "</s>"),
    }
    engine = ScriptedEngine(ScriptedTokenizer(), table)
    retriever = FixedRetriever({"Who?": hits})
    monkeypatch.setattr(indexes, "load", lambda path, model, progress: (retriever, engine))
    # That of the default weights says nothing of this model.
    monkeypatch.setattr("selfrag.cli.ask.open_calibration", lambda model: None)


def test_an_answer_as_json_holds_what_is_documented(run, scripted):
    ended = run("ask", "Who?", "--json")
    assert ended.code == 0 and ended.err == ""
    answer = json.loads(ended.out)
    assert list(answer) == [
        "question",
        "answer",
        "retrieved",
        "gate",
        "segments",
        "passages",
        "verdict",
        "probability",
        "abstained",
        "stopped_by",
        "choices",
        "choices_rated",
        "conflict",
        "usage",
        "timing_s",
        "model",
        "index",
    ]
    assert answer["answer"] == "Ann did it."
    assert [passage["id"] for passage in answer["passages"]] == ["a"]
    assert answer["verdict"] == "fully supported (0.90)"
    assert set(answer["timing_s"]) == {"load", "answer", "total"}
    assert (answer["model"], answer["index"]) == ("scripted", "demo")


def test_an_answer_is_shown_with_its_citation_and_source(run, scripted):
    ended = run("ask", "Who?")
    assert ended.code == 0
    assert ended.out.startswith("Ann did it. [1]\n")
    assert "[1] Ann  a.txt" in ended.out
    assert ended.out.endswith("fully supported (0.90)\n")


def test_the_explained_tree_tells_every_decision(run, scripted):
    ended = run("ask", "Who?", "--explain", "--beam-width", "1")
    assert ended.code == 0
    assert "gate: retrieve (paper 0.750" in ended.out
    assert "searched 'Who?': 2 passages" in ended.out
    assert "kept, rank 1, finished" in ended.out
    assert "lost: ranked 2 of 2" in ended.out


def test_no_word_of_the_explained_tree_is_lost(run, scripted):
    ended = run("ask", "Who?", "--explain")
    told = " ".join(ended.out.replace("│", " ").split())
    assert "the passage was judged irrelevant, so no support is judged" in told


def test_a_streamed_search_tells_its_steps_before_the_answer(run, scripted):
    ended = run("ask", "Who?", "--stream")
    told = ended.out
    assert told.index("gate: retrieve") < told.index("searched 'Who?'") < told.index("kept, rank 1")
    assert told.rindex("Ann did it. [1]") > told.index("kept, rank 1")


def test_a_closed_set_is_answered_with_one_of_its_members(run, scripted):
    ended = run("ask", "Who?", "--choices", "Ann,Bob", "--max-segments", "1")
    # Only the first candidate names one of the two.
    assert ended.out.startswith("Ann  (scores: Ann ")


def test_a_closed_set_that_nobody_names_is_answered_by_likelihood(run, scripted):
    ended = run("ask", "Who?", "--choices", "yes,no", "--max-segments", "1")
    # The relevance of the second passage is about 0, so the first decides: .6 / (.2 + .6).
    assert ended.out.startswith("no  (no candidate named one; likelihood: no 0.75, yes 0.25)\n")
    assert ended.out.endswith(
        "chosen by likelihood: nothing that was written names one of the choices\n"
    )


def test_the_flags_of_the_released_scripts_are_understood(run, scripted):
    old = ["--ndocs", "2", "--max_new_tokens", "50", "--mode", "always_retrieve", "--max_depth"]
    old += ["2", "--beam_width", "2", "--w_rel", "1", "--w_sup", "1", "--w_use", "1"]
    old += ["--use_groundness", "--use_utility", "--use_seqscore", "--ignore_cont"]
    ended = run("ask", "Who?", *old, "--threshold", "none")
    assert ended.code == 0
    assert ended.out.startswith("Ann did it. [1]\n")


def test_the_reference_is_followed_when_asked_to(run, scripted):
    ended = run("ask", "Who?", "--compat", "reference", "--mode", "always", "--json")
    assert ended.code == 0
    answer = json.loads(ended.out)
    # Open answers of the released short form are the raw text of the best passage.
    assert answer["answer"] == "[Relevant]Ann did it.[Fully supported][Utility:5]</s>"
    assert answer["stored"] == answer["answer"]
    assert (answer["form"], answer["retrieved"], answer["crash"]) == ("short", True, None)
    assert len(answer["candidates"]) == 2


def test_many_questions_are_answered_from_a_file(run, scripted, tmp_path):
    questions, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    questions.write_text(
        '{"id": "q1", "question": "Who?", "answers": ["Ann"]}\n\n{"question": "Who?"}\n'
    )
    ended = run("batch", str(questions), "--out", str(out), "--batch-size", "1")
    assert ended.code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["Ann did it."] * 2
    assert rows[0]["id"] == "q1" and rows[0]["answers"] == ["Ann"]


def test_a_saved_trace_is_replayed_without_a_model(run, scripted, monkeypatch, tmp_path):
    trace = tmp_path / "trace.jsonl"
    live = json.loads(run("ask", "Who?", "--trace", str(trace), "--json").out)

    def no_model(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(indexes, "load", no_model)
    (again,) = json.loads(run("replay", str(trace), "--json").out)
    assert again == {key: live[key] for key in again}
    shown = run("replay", str(trace))
    assert "kept, rank 1, finished" in shown.out
    assert "Ann did it. [1]" in shown.out
    trace.write_text("")
    ended = run("replay", str(trace))
    assert (ended.code, ended.out) == (2, "")
    assert "it holds none; expected a file" in " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "found no rows"),
        ('{"q": 1}\n', "line 1 has no question"),
        ("Who?\n", "line 1 is not JSON"),
    ],
)
def test_a_file_without_questions_is_refused(run, cache, tmp_path, content, found):
    questions, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    questions.write_text(content)
    ended = run("batch", str(questions), "--out", str(out))
    assert is_refusal(ended) and found in ended.err
    assert not out.exists() and not cache.exists()


def batch(run, tmp_path, content: str, *arguments: str) -> Ended:
    (tmp_path / "in.jsonl").write_text(content, encoding="utf-8", newline="")
    return run("batch", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out"), *arguments)


def answers_in(tmp_path) -> list[tuple[str, str]]:
    lines = (tmp_path / "out").read_text(encoding="utf-8").split("\n")[:-1]
    return [(row["question"], row["answer"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize(
    "content",
    [
        '\ufeff{"instruction": " Who? "}\r\n',
        '[{"question": "Who?"}]',
        '{"data": [{"question": "Who?", "note": "a\u2028b"}]}',
        '{"question": "Who?", "note": "a\u2028b"}\n',
        '{"_id": "q", "text": "Who?"}\n',
    ],
)
def test_a_batch_reads_what_retrieve_reads(run, scripted, tmp_path, content):
    ended = batch(run, tmp_path, content)
    assert ended.code == 0
    assert answers_in(tmp_path) == [("Who?", "Ann did it.")]


def test_rows_of_a_batch_that_cannot_be_asked_are_named_kept_and_left_out(run, scripted, tmp_path):
    rows = [
        {"id": "a", "question": "long " * 5000},
        {"id": "b", "question": "Who?"},
        {"id": "c"},
        {"id": "d", "question": "Who?", "ctxs": ["Ann"]},
        {"id": "e", "question": "Who?"},
    ]
    ended = batch(run, tmp_path, "\n".join(map(json.dumps, rows)))
    assert ended.code == 0
    assert "left out 3 rows" in ended.err
    assert "line 1 cannot be asked (cannot answer: the question takes" in ended.err
    assert len(answers_in(tmp_path)) == 2
    kept = [json.loads(line) for line in (tmp_path / "out.rejects.jsonl").read_text().splitlines()]
    assert [row["line"] for row in kept] == [1, 3, 4]
    assert "'ctxs'" in kept[2]["reason"]


def test_a_row_is_answered_from_the_passages_that_it_brings(run, scripted, tmp_path):
    ctxs = [{"title": "Ann", "text": "Ann did it."}]
    rows = [{"question": "Who?", "ctxs": ctxs}, {"question": "Who?"}]
    ended = batch(run, tmp_path, "\n".join(map(json.dumps, rows)), "--index", "any")
    assert ended.code == 0, ended.err
    lines = (tmp_path / "out").read_text().splitlines()
    first, second = [json.loads(line) for line in lines]
    assert [(passage["id"], passage["title"]) for passage in first["passages"]] == [
        ("given-1", "Ann")
    ]
    assert [passage["id"] for passage in second["passages"]] == ["a"]


def test_a_batch_that_was_stopped_goes_on_and_answers_the_same(
    run, scripted, tmp_path, monkeypatch
):
    rows = "".join(json.dumps({"id": n, "question": "Who?"}) + "\n" for n in range(5))
    trace = str(tmp_path / "trace")
    append, n_rows = AppendLog.append, []

    def stop(log, rows):
        if log.path.name == "out":
            n_rows.append(1)
            if len(n_rows) > 2:
                raise KeyboardInterrupt
        append(log, rows)

    monkeypatch.setattr(AppendLog, "append", stop)
    ended = batch(run, tmp_path, rows, "--batch-size", "2", "--trace", trace)
    assert ended.code == 130
    assert "2 of 5 are in" in ended.err and "run again to go on" in ended.err
    assert len(answers_in(tmp_path)) == 2
    monkeypatch.setattr(AppendLog, "append", append)
    ended = batch(run, tmp_path, rows, "--batch-size", "2", "--trace", trace)
    assert ended.code == 0 and "going on after 2 of 5 questions" in ended.err
    assert answers_in(tmp_path) == [("Who?", "Ann did it.")] * 5
    written = [json.loads(line)["id"] for line in (tmp_path / "out").read_text().splitlines()]
    assert written == [0, 1, 2, 3, 4]


def test_a_batch_goes_on_with_the_same_settings_only(run, scripted, tmp_path):
    rows = '{"question": "Who?"}\n'
    assert batch(run, tmp_path, rows).code == 0
    before = (tmp_path / "out").read_bytes()
    other = batch(run, tmp_path, rows, "--beam-width", "1")
    assert is_refusal(other)
    assert "it differs in search.beam_width (2 there, 1 now)" in other.err
    assert "or give --restart" in other.err
    assert (tmp_path / "out").read_bytes() == before
    assert batch(run, tmp_path, rows, "--beam-width", "1", "--restart").code == 0
    assert len(answers_in(tmp_path)) == 1


def test_ids_and_gold_answers_of_a_batch_reach_the_trace_as_they_are(run, scripted, tmp_path):
    rows = '{"id": 0, "question": "Who?", "answers": "a comet"}\n'
    trace = tmp_path / "trace"
    assert batch(run, tmp_path, rows, "--trace", str(trace)).code == 0
    (recorded,) = load_trace(trace).questions
    assert recorded.model == weights_name(ModelOptions())
    assert (recorded.id, recorded.answers) == ("0", ("a comet",))


def test_a_batch_does_not_write_over_its_questions_or_twice_into_one_file(run, scripted, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"question": "Who?"}\n')
    assert is_refusal(run("batch", str(path), "--out", str(path)))
    both = str(tmp_path / "both")
    assert is_refusal(run("batch", str(path), "--out", both, "--trace", both))
    assert path.read_text() == '{"question": "Who?"}\n'


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--stream", "--json"], "with --stream: it shows the search in words"),
        (["--explain", "--json"], "with --explain: it shows the search in words"),
        (["--choices", ","], "choices to ',': expected a list of strings"),
        (["--choices", " | "], "choices to ' | '"),
        (["--max_depth", "-4"], "Invalid value for '--max_depth'"),
        (["--max_depth", "0"], "Invalid value for '--max_depth'"),
        (["--max_depth", "3", "--max-segments", "2"], "with --max-segments: --max_depth says"),
        (["--mode", "never", "--top-k", "3"], "in mode never with --top-k"),
        (["--mode", "no_retrieval", "--min-support", "0.5"], "in mode never with --min-support"),
        (["--mode", "never", "--index", "x"], "in mode never with --index"),
        (["--set", "mode=never", "--max-passages", "3"], "in mode never with --max-passages"),
        (["--mode", "never", "--set", "top_k=3"], "in mode never with --set top_k"),
        (["--compat", "reference", "--trace", "t"], "as the released scripts with --trace"),
        (["--compat", "reference", "--max-tokens", "9"], "with --max-tokens: their short form"),
        (["--compat", "reference", "--min-support", "0.5"], "with --min-support"),
        (["--compat", "reference", "--gate", "argmax"], "with --gate"),
        (["--compat", "reference", "--beam-width", "3"], "with --beam-width: their short form"),
        (["--compat", "reference", "--set", "repeat=true"], "with --set repeat"),
        (["--compat", "reference", "--explain"], "with --explain"),
        (
            ["--compat", "reference", "--max_depth", "3", "--choices", "a,b"],
            "with --choices: their long form",
        ),
    ],
)
def test_an_option_without_effect_is_refused_by_name(run, cache, arguments, found):
    ended = run("ask", "Who?", *arguments)
    assert is_refusal(ended)
    assert found in ended.err
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--rerank-weight", "0.5"], "with --rerank-weight: there is no --rerank"),
        (["--candidates", "9"], "with --candidates: there is no --rerank"),
        (["--mode", "words", "--dense-weight", "0.1"], "in mode words with --dense-weight"),
        (["--mode", "dense", "--fusion", "ranks"], "in mode dense with --fusion"),
        (["--rank-constant", "9"], "with --rank-constant: it is about --fusion ranks"),
    ],
)
def test_an_option_of_a_search_without_effect_is_refused_by_name(run, cache, arguments, found):
    ended = run("search", "who", *arguments)
    assert is_refusal(ended)
    assert found in ended.err
    assert not cache.exists()


def test_the_long_form_of_the_reference_has_a_beam(run, monkeypatch):
    asked = "### Instruction:\nWho?\n\n### Response:\n"
    table = {asked: say("Ann.", "</s>"), f"{asked}[No Retrieval]": say("Ann.", "</s>")}
    engine = ScriptedEngine(ScriptedTokenizer(), table)
    monkeypatch.setattr(indexes, "load", lambda *_: (FixedRetriever({}), engine))
    old = ["--max_depth", "2", "--beam_width", "2", "--ignore_cont", "--w_use", "1"]
    assert run("ask", "Who?", "--compat", "reference", *old, "--json").err == ""


NASTY = "a :smile: [bold]b[/bold] \x1b[31mred\x07 C:\\dir\\\\ \u202edcba"


def test_what_is_shown_is_what_was_written(run, monkeypatch):
    hit = Hit(passage=Passage(id="a", title=NASTY, text=NASTY, source=NASTY), score=1.0, rank=1)
    asked = f"### Instruction:\n{NASTY}\n\n### Response:\n"
    engine = ScriptedEngine(ScriptedTokenizer(), {asked: say("[No Retrieval]")})
    monkeypatch.setattr(indexes, "open_index", lambda *_: FixedRetriever({"q": [hit]}))
    monkeypatch.setattr(indexes, "open_retriever", lambda store, *_: store)
    out = run("search", "q").out
    shown = r"a :smile: [bold]b[/bold] \x1b[31mred\x07 C:\dir\\ \u202edcba"
    assert out.count(shown) == 3
    assert "\x1b" not in out and "\x07" not in out
    ended = run("search", "q", "--index", NASTY, "--top-k", "0")
    assert shown in ended.err.replace("\n", " ") or ended.code == 2
    assert "\x1b" not in ended.err
    del engine


@pytest.mark.parametrize(
    ("page", "last_page", "shown"), [(0, 0, "a.pdf\n"), (3, 3, "a.pdf, p. 3\n"), (3, 5, "pp. 3-5")]
)
def test_pages_are_shown_where_there_are_any(run, monkeypatch, page, last_page, shown):
    passage = Passage(id="a", text="A.", source="a.pdf", page=page, last_page=last_page)
    hits = {"q": [Hit(passage=passage, score=1.0, rank=1)]}
    monkeypatch.setattr(indexes, "open_index", lambda *_: FixedRetriever(hits))
    monkeypatch.setattr(indexes, "open_retriever", lambda store, *_: store)
    assert shown in run("search", "q").out
    (hit,) = json.loads(run("search", "q", "--json").out)["hits"]
    assert (hit.get("page", 0), hit.get("last_page", 0)) == (page, last_page)


def test_an_error_is_one_line_whatever_it_names(run, tmp_path):
    ended = run("ask", "Who?", "--index", str(tmp_path / "a\nb:smile:\x1b[0m"))
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert r"a\nb:smile:\x1b[0m" in ended.err


@pytest.mark.parametrize("columns", ["0", "1", "80", "-3", "wide"])
def test_any_width_shows_everything(columns):
    code = (
        "import sys; from selfrag.cli.console import Terminal, adapt_streams\n"
        "adapt_streams(); Terminal().print('one two')\n"
        "from selfrag.cli.app import app; app(['--help'], standalone_mode=False)"
    )
    environment = {**os.environ, "COLUMNS": columns}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0
    assert "one two\n" in done.stdout
    assert "retrieve" in done.stdout


def test_standard_output_in_ascii_loses_no_answer():
    code = (
        "from selfrag.cli.console import adapt_streams, print_json, stdout\n"
        r"adapt_streams(); stdout.print('caf\xe9 \u2026'); print_json({'a': 'caf\xe9 \ud800'})"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    shown, _, rest = done.stdout.partition("\n")
    assert shown == r"caf\xe9 \u2026"
    assert json.loads(rest) == {"a": "caf\u00e9 \ud800"}


def test_a_chat_gives_earlier_turns_to_the_next_question(run, monkeypatch):
    ask = "### Instruction:\nWho?\n\n### Response:\n"
    table = {
        ask: say("[No Retrieval]"),
        f"{ask}[No Retrieval]": say("Ann.", "</s>"),
        f"{ask}Ann.\n\n### Instruction:\nWhy?\n\n### Response:\n": say("[No Retrieval]"),
        f"{ask}Ann.\n\n### Instruction:\nWhy?\n\n### Response:\n[No Retrieval]": say(
            "For fun.", "</s>"
        ),
    }
    engine = ScriptedEngine(ScriptedTokenizer(), table)
    monkeypatch.setattr(indexes, "load", lambda path, model, progress: (FixedRetriever({}), engine))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"Who?\n{'long ' * 5000}\nWhy?\n\nnever read\n"))
    ended = run("chat")
    assert ended.code == 0
    assert "the question takes" in ended.err  # told, and the conversation goes on
    assert ended.out.index("Ann.") < ended.out.index("For fun.")


def test_an_unknown_table_of_a_recipe_is_named(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[decode]\nbeam_width = 2\n")
    with pytest.raises(ConfigError, match="unknown table 'decode'"):
        load_recipe(recipe)


def test_an_unknown_key_of_a_recipe_is_named():
    with pytest.raises(
        ConfigError,
        match=r"cannot set loss\.words: there is no such setting; expected one",
    ):
        settings(LossWeights, "loss", {"loss": {"words": 1.0}})


def test_a_key_left_out_keeps_its_default():
    assert settings(LossWeights, "loss", {"loss": {"support": 2.0}}) == LossWeights(support=2.0)
    assert settings(LossWeights, "loss", {}) == LossWeights()


def test_the_shipped_recipe_fits_the_loss_and_the_mix():
    pytest.importorskip("bm25s")
    from mix import MixConfig

    recipe = load_recipe(RECIPE)
    mix = load_recipe(RECIPES / "default-135m-mix.toml", tables=("mix",))
    assert settings(LossWeights, "loss", recipe) == LossWeights()
    assert settings(MixConfig, "mix", mix) == MixConfig(
        n_squad=2500, n_qed=2000, n_retrieval=560, n_no_retrieval=800, n_topics=110, seed=1
    )


def test_the_shipped_recipe_fits_the_training_run():
    from selfrag.train.config import TrainConfig

    config = settings(TrainConfig, "train", load_recipe(RECIPE), {"base": "base", "out": "run"})
    assert (config.tokens_per_batch, config.max_steps, config.lora_rank) == (1000, 520, 32)


def test_a_damaged_demo_index_is_built_anew(tmp_path, monkeypatch):
    demo, opened = tmp_path / "demo", []

    def build_demo(report):
        demo.mkdir(exist_ok=True)
        return demo

    def open_second_time(path, encoder):
        opened.append(sorted(entry.name for entry in path.iterdir()))
        if len(opened) == 1:
            raise IndexNotUsable("damaged")
        return "index"

    build_demo(None)
    (demo / "broken").touch()
    monkeypatch.setattr(indexes, "build_demo_index", build_demo)
    monkeypatch.setattr(indexes, "load_query_encoder", lambda report: None)
    monkeypatch.setattr(PassageStore, "open", staticmethod(open_second_time))
    assert indexes.open_index(None, Reporter()) == "index"
    assert opened == [["broken"], []]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("ask Who? --model http://127.0.0.1:9/v1 --engine numpy", "--engine"),
        ("ask Who? --model http://127.0.0.1:9/v1 --threads 2", "--threads"),
        ("ask Who? --tokenizer x", "--tokenizer"),
        ("ask Who? --model-key-env KEY", "--model-key-env"),
        ("ask Who? --engine openvino --device cuda", "--device"),
        ("chat --engine numpy --device cuda:0", "--device"),
        ("ask Who? --engine numpy --gpus 2", "--gpus"),
        ("batch q.jsonl --out o --engine numpy --precision bf16", "--precision"),
        ("ask Who? --engine transformers --threads 2", "--threads"),
        ("eval --task nq_open --out o --workers 2", "--workers"),
        ("eval --task nq_open --out o --worker-cpus 2", "--worker-cpus"),
        ("eval --task nq_open --out o --seed 3", "--seed"),
        ("eval --task nq_open --out o --sampling released", "--sampling"),
        ("eval --task nq_open --out o --prompt chat", "--prompt"),
        ("eval --task nq_open --out o --mode never --index i", "--index"),
        ("eval --task nq_open --out o --system vanilla --top-k 3", "--top-k"),
        ("eval --task nq_open --out o --system rag --threshold 0.5", "--threshold"),
        ("eval --task nq_open --out o --system rag --set beam_width=3", "--set beam_width"),
        (
            "eval --task nq_open --out o --system rag --base-url http://h/v1 --engine numpy",
            "--engine",
        ),
        ("eval --task nq_open --out o measure run", "--task"),
        ("eval judge run --base-url http://h/v1", "--base-url"),
        ("eval judge run --judge local --model m", "--model"),
        ("eval judge run --judge nli --engine numpy", "--engine"),
        ("annotate critic s.jsonl --out o --teacher gold --threads 2", "--threads"),
        ("annotate critic s.jsonl --out o --teacher gold --balance", "--balance"),
        ("annotate critic s.jsonl --out o --concurrency 3", "--concurrency"),
        ("annotate critic s.jsonl --out o --model m", "--model"),
        ("annotate critic s.jsonl --out o --workers 2", "--workers"),
        ("annotate critic s.jsonl --out o --teacher openai --threads 2", "--threads"),
        ("annotate generator s.jsonl --out o --critic c --teacher local", "--teacher"),
        ("annotate generator s.jsonl --out o --critic c --structured", "--structured"),
        ("annotate generator s.jsonl --out o --engine numpy", "--engine"),
        ("annotate inspect s.jsonl --json --rows 3", "--rows"),
        ("embed --passages p.tsv --out o --workers 2", "--workers"),
        ("embed --passages p.tsv --out o --stall-minutes 3", "--stall-minutes"),
        ("embed --passages p.tsv --out o --from-pickles x --batch-size 3", "--batch-size"),
        ("embed --passages p.tsv --out o --shard 0/2 --shards 2", "--shards"),
    ],
)
def test_an_option_without_effect_is_refused_before_any_file_is_read(run, arguments, option):
    ended = run(*arguments.split())
    assert is_refusal(ended)
    assert f" with {option}: " in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        "ask Who? --top-k 3 --set top_k=4",
        "ask Who? --w_sup 3 --set decode.weights.support=4",
        "eval --task nq_open --out o --mode always --set mode=never",
    ],
)
def test_one_setting_is_not_given_twice(run, arguments):
    ended = run(*arguments.split())
    assert is_refusal(ended) and "found one setting given twice" in ended.err


def test_every_rule_of_options_without_effect_is_about_options_that_there_are():
    group = typer.main.get_command(app)
    every = [each for name in COMMANDS for each in with_inner(group.get_command(None, name))]
    names = {parameter.name for command in every for parameter in command.params}
    for rule in effect.RULES:
        for name in rule.names:
            assert any(each == name or each.endswith(f"_{name}") for each in names), name


def with_inner(command):
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from with_inner(inner)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "Who \udcff painted?"],
        ["ask", "Who \udcff painted?", "--compat", "reference"],
        ["ask", "Is it?", "--choices", "yes,n\udcff"],
        ["ask", "Is it?", "--compat", "reference", "--choices", "yes,n\udcff"],
        ["chat", "--set", "choices=yes|n\udcff"],
        ["search", "Who \udcff painted?"],
    ],
)
def test_bytes_that_are_not_utf_8_are_refused_before_anything_is_opened(run, cache, arguments):
    ended = run(*arguments)
    assert is_refusal(ended) and "bytes that are not UTF-8" in ended.err
    assert not cache.exists()
