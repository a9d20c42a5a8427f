"""`selfrag rescore`: what it writes and prints, and that nothing half-written is left."""

import csv
import io
import json
import sys

import pytest
from rich.console import Console

from random_model import PASSAGES, RandomModel
from selfrag.cli import rescore as command
from selfrag.cli.app import app
from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import RetrievalMode
from selfrag.errors import ConfigError, SelfRAGError, StorageError
from selfrag.trace import report
from selfrag.trace.file import save_trace
from selfrag.trace.report import rank

FILES = {
    "table.csv",
    "curve_threshold.csv",
    "curve_threshold.png",
    "curve_w_sup.csv",
    "curve_w_sup.png",
}
QUESTIONS = [f"Q {n}" for n in range(6)]


@pytest.fixture
def trace(tmp_path):
    """Six questions, always and never with retrieval, half of them with gold strings."""
    path = tmp_path / "trace.jsonl"
    for mode in (RetrievalMode.ALWAYS, RetrievalMode.NEVER):
        _, events = RandomModel(3).answer(QUESTIONS, PASSAGES, mode=mode, beam_width=9)
        golds = [["alpha", "beta"]] * 3 + [[]] * 3
        save_trace(path, QUESTIONS, events, answers=golds, config=SearchConfig(mode=mode))
    return path


def rescore(trace, out, *, as_json=False, **values):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    arguments = ["rescore", str(trace), "--out", str(out), *options, *["--json"] * as_json]
    assert not app(args=arguments, standalone_mode=False)


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_curves_and_paths(trace, tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), width=100, soft_wrap=True)
    monkeypatch.setattr(command, "stdout", console)
    out = tmp_path / "new" / "out"
    rescore(trace, out, threshold="0.5,none,0", w_sup="1,0:2:1")
    assert {path.name for path in out.iterdir()} == FILES
    table = read(out / "table.csv")
    assert list(table[0]) == [
        *("threshold", "w_rel", "w_sup", "w_use", "w_seq", "w_ret"),
        *("retrieval_rate", "accuracy", "citation_precision"),
        *("n_answered", "n_judged", "n_unrecorded"),
    ]
    assert [(row["threshold"], row["w_sup"]) for row in table] == [
        (threshold, weight)
        for threshold in ("0.5", "none", "0.0")
        for weight in ("1.0", "0.0", "2.0")
    ]
    assert {(row["n_answered"], row["n_judged"], row["n_unrecorded"]) for row in table} == {
        ("6", "3", "0")
    }
    # Curves hold the other settings at their first value and are ordered by their own.
    over_threshold, over_support = read(out / "curve_threshold.csv"), read(out / "curve_w_sup.csv")
    assert [row["threshold"] for row in over_threshold] == ["0.0", "0.5", "none"]
    assert {row["w_sup"] for row in over_threshold} == {"1.0"}
    assert [row["w_sup"] for row in over_support] == ["0.0", "1.0", "2.0"]
    assert {row["threshold"] for row in over_support} == {"0.5"}
    assert all(row in table for row in (*over_threshold, *over_support))
    for name in ("curve_threshold.png", "curve_w_sup.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    printed = console.file.getvalue()
    assert "9 settings on 6 questions: the most accurate first" in printed
    assert "in all of them: w_rel 1, w_use 0.5, w_seq 1, w_ret 1" in printed  # columns are few
    assert "…" not in printed
    assert all(str(out / name) in printed for name in FILES)


def test_one_json_object_names_the_best_setting_and_the_files(trace, tmp_path, capsys):
    rescore(trace, tmp_path / "out", threshold="0:1:0.25", w_sup="1", as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"traces", "questions", "settings", "best", "files"}
    assert (report["questions"], report["settings"]) == (6, 5)
    assert set(report["files"]) == FILES
    rows = read(tmp_path / "out" / "table.csv")
    assert report["best"]["accuracy"] == max(float(row["accuracy"]) for row in rows)


def test_without_gold_strings_nothing_is_judged(tmp_path, capsys):
    path = tmp_path / "t"
    _, events = RandomModel(3).answer(["Q"], threshold=0.0)
    save_trace(path, ["Q"], events)
    rescore(path, tmp_path / "out", threshold="0,1", as_json=True)
    assert json.loads(capsys.readouterr().out)["best"] is None
    assert {row["accuracy"] for row in read(tmp_path / "out" / "table.csv")} == {""}


def test_the_best_setting_answers_most_questions(tmp_path):
    row = {"accuracy": 0.4, "citation_precision": None, "n_unrecorded": 0}
    partly = {"accuracy": 0.9, "citation_precision": 1.0, "n_unrecorded": 5}
    assert rank(row) < rank(partly)


def test_a_run_again_replaces_the_files_and_leaves_others(trace, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept", encoding="utf-8")
    for weights in ("1,2", "3"):
        rescore(trace, out, threshold="0.5", w_sup=weights, as_json=True)
    assert {row["w_sup"] for row in read(out / "table.csv")} == {"3.0"}
    assert {path.name for path in out.iterdir()} == {*FILES, "mine.txt"}


def test_a_failure_while_drawing_leaves_nothing(trace, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "_plot_w_sup", fail)
    with pytest.raises(StorageError, match="cannot write the tables of a rescoring to"):
        rescore(trace, tmp_path / "out", threshold="0.5")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_matplotlib_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SelfRAGError, match=r'run `pip install "selfrag\[eval\]"`'):
        rescore(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_range_is_told_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match="w_sup is '0:2'"):
        rescore(tmp_path / "none", tmp_path / "out", w_sup="0:2")
    assert not (tmp_path / "out").exists()
