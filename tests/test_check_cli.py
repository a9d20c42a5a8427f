"""`selfrag check` as a command, on a tiny random model: what it reads, prints and refuses."""

import io
import json
import sys

import pytest

from selfrag.cli import main
from tiny_model import TOKENS, save_tiny_model

TEXT = "# Moons\n\nTitan is a moon [1]. It is red.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), TOKENS)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["selfrag", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def files(tmp_path):
    text, passages = tmp_path / "answer.md", tmp_path / "passages.jsonl"
    text.write_bytes(TEXT.encode())
    rows = [{"id": "t", "title": "Titan", "text": "Titan is a moon."}, {"text": "Bread is brown."}]
    passages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return text, passages


def model(folder):
    return ("--model", folder, "--engine", "numpy")


def test_json_has_every_documented_key(run, files, folder):
    text, passages = files
    code, out, err = run(text, "--passages", passages, *model(folder), "--json")
    assert code == 0, err
    told = json.loads(out)
    assert list(told) == ["question", "summary", "sentences", "passages", "model"]
    first = told["sentences"][0]
    assert (first["text"], TEXT[first["start"] : first["end"]]) == (
        "Titan is a moon.",
        "Titan is a moon [1].",
    )
    assert 0 <= first["probability"] <= 1
    assert {"number": 1, "id": "t", "title": "Titan"}.items() <= told["passages"][0].items()
    assert told["summary"]["kept_apart"] == {"heading": 1}


def test_people_see_every_sentence_and_a_summary(run, files, folder):
    text, passages = files
    code, out, err = run(text, "--passages", passages, *model(folder))
    assert code == 0, err
    assert "Titan is a moon.\n" in out and "It is red.\n" in out
    assert "of 2 claims supported" in out
    assert "note: this model has no constants for checking" in out


def test_standard_input_is_read_and_fixed_to_the_byte(run, files, folder, monkeypatch):
    text = "# Q\r\n\r\n```\r\na[1]\r\n```\r\nIs it so?\r\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    code, out, _ = run("-", "--passages", files[1], *model(folder), "--fix")
    assert (code, out) == (0, text)


def test_a_document_is_as_good_as_rows(run, files, folder, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("Titan is a moon.")
    code, out, err = run(files[0], "--passages", notes, *model(folder), "--json")
    assert code == 0, err
    assert json.loads(out)["passages"][0]["title"] == "notes"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "cannot check: the text is empty"),
        (b"\xff\xfe\x00", "cannot check "),
        (b"a" * (1 << 20), "cannot check a text of 1,048,576 characters"),
    ],
)
def test_a_text_that_cannot_be_checked_is_refused_in_one_line(run, files, folder, content, found):
    text, passages = files
    text.write_bytes(content)
    code, out, err = run(text, "--passages", passages, *model(folder))
    assert (code, out) == (2, "")
    assert err.startswith(f"selfrag: {found}") and err.count("\n") == 1


def test_passages_without_text_are_refused_in_one_line(run, files, folder):
    text, passages = files
    passages.write_text('{"title": "Titan", "text": ""}\n')
    code, out, err = run(text, "--passages", passages, *model(folder))
    assert (code, out) == (2, "")
    assert err.startswith("selfrag: cannot take passages from") and err.count("\n") == 1
    assert "1 row without text" in err


def test_a_row_without_text_is_told(run, files, folder):
    text, passages = files
    passages.write_text('{"text": "Titan is a moon."}\n{"title": "Titan", "text": ""}\n')
    code, _, err = run(text, "--passages", passages, *model(folder))
    assert code == 0 and "without text" in err


def test_a_document_is_a_passage_a_paragraph(run, files, folder, tmp_path):
    text, notes = files[0], tmp_path / "notes.md"
    text.write_text("Titan is a moon [1]. Bread is brown [2]. Salt is white [3].")
    notes.write_text("# Titan\n\nTitan is a moon.\n\n## Food\nBread is brown.\n\nSalt.\n")
    code, out, err = run(text, "--passages", notes, *model(folder), "--json")
    assert code == 0, err
    told = [(each["number"], each["title"], each["text"]) for each in json.loads(out)["passages"]]
    assert told == [
        (1, "Titan", "Titan is a moon."),
        (2, "Titan: Food", "Bread is brown."),
        (3, "Titan: Food", "Salt."),
    ]


def test_a_folder_is_no_file_of_passages(run, files, folder, tmp_path):
    code, out, err = run(files[0], "--passages", tmp_path, *model(folder))
    assert (code, out, err.count("\n")) == (2, "", 1) and "it is a folder; expected one file" in err


def test_a_missing_file_is_refused(run, folder, tmp_path):
    code, _, err = run(tmp_path / "none.txt", *model(folder))
    assert code == 2 and "cannot read the text to check from" in err


@pytest.mark.parametrize("more", [("--index", "x", "--passages", "y"), ("--json", "--fix")])
def test_options_that_exclude_each_other_are_refused(run, files, more):
    code, _, err = run(files[0], *more)
    assert code == 2 and "leave it out" in err
