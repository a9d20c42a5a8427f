"""Training as a user meets it: commands, what they print, how they end."""

import json
import sys

import pytest

from selfrag.cli import main
from tiny_model import save_tiny_model

pytest.importorskip("peft")

ROW = {"instruction": "Which?", "output": "[No Retrieval]That one.[Utility:5]"}
SMALL = ["--set", "train.max_tokens=200", "--set", "train.tokens_per_batch=200"]


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["selfrag", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"), [])


def lines(path, rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


def test_a_generator_from_rows_to_an_exported_folder(run, base, tmp_path):
    data = lines(tmp_path / "train.jsonl", [*[ROW] * 4, "nonsense", {"instruction": "x"}])
    places = ["--model", base, "--data", data, "--out", tmp_path / "run"]
    code, out, err = run("train", "generator", *places, *SMALL, "--mask", "reference")
    assert code == 0
    assert "used 4 of 6 rows (0 cut at 200 tokens, 0 without a reflection token)" in out
    assert "2 rows rejected" in err
    assert "the first is line 5, which is not JSON" in err
    rejects = (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in rejects] == [5, 6]
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (settings["mask"], settings["loss"]["relevance"]) == ("reference", 1.0)
    assert (tmp_path / "run" / "curve.png").is_file()
    code, out, _ = run("export", tmp_path / "run", "--out", tmp_path / "model", "--gguf", "f16")
    assert code == 0
    assert (tmp_path / "model" / "config.json").is_file()
    assert (tmp_path / "model" / "model-f16.gguf").is_file()


def test_a_file_without_a_usable_row_ends_with_code_2(run, base, tmp_path):
    data = lines(tmp_path / "train.jsonl", ["nonsense"])
    places = ["--model", base, "--data", data, "--out", tmp_path / "run"]
    code, _, err = run("train", "generator", *places)
    assert code == 2
    assert "of 1 row none can be used, line 1 is not JSON" in err


def test_the_log_of_a_training_has_no_bars_of_other_libraries(run, base, tmp_path):
    data = lines(tmp_path / "train.jsonl", [ROW] * 4)
    places = ["--model", base, "--data", data, "--out", tmp_path / "run"]
    code, _, err = run("train", "generator", *places, *SMALL, "--method", "full")
    assert code == 0
    assert "\r" not in err
    assert all(err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "epochs=3"], "expected train.key=value or loss.key=value"),
        (["--set", "train.speed=3"], "cannot set speed: there is no such setting"),
        (["--method", "magic"], "train.method is 'magic'"),
        (["--set", "loss.text=-1"], "cannot set text to '-1': expected a number of at least 0"),
    ],
)
def test_settings_that_cannot_be_used_are_named(run, base, tmp_path, arguments, said):
    data = lines(tmp_path / "train.jsonl", [ROW])
    places = ["--model", base, "--data", data, "--out", tmp_path / "run"]
    code, _, err = run("train", "generator", *places, *arguments)
    assert code == 2
    assert said in err
    assert not (tmp_path / "run").exists()


def test_a_model_folder_that_is_none_ends_with_code_2(run, tmp_path):
    data = lines(tmp_path / "train.jsonl", [ROW])
    places = ["--model", tmp_path / "none", "--data", data, "--out", tmp_path / "run"]
    code, _, err = run("train", "generator", *places)
    assert code == 2
    assert "its tokenizer does not load" in err


def test_a_critic_says_how_its_labels_are_spread_and_how_good_it_is(run, base, tmp_path):
    row = {"instruction": "Judge.", "input": "Evidence: x", "task": "relevance"}
    labels = ["[Relevant]", "[Relevant]", "[Irrelevant]"]
    data = lines(tmp_path / "critic.jsonl", [{**row, "output": label} for label in labels * 4])
    places = ["--model", base, "--data", data, "--out", tmp_path / "run"]
    code, out, _ = run("train", "critic", *places, *SMALL)
    assert code == 0
    assert "relevance: [Irrelevant] 4, [Relevant] 8" in out
    assert "calibration error" in out
    assert (tmp_path / "run" / "reliability.png").is_file()
    code, _, err = run("train", "critic", *places, "--labels", "number")
    assert code == 2
    assert "--labels is 'number'" in err
    code, _, _ = run("export", tmp_path / "run", "--out", tmp_path / "model")
    assert code == 0
    assert "## Held-out labels" in (tmp_path / "model" / "README.md").read_text()
