"""`selfrag annotate` in this process: what it prints, refuses, and ends with."""

import json
import sys

import pytest

from chat_server import chat_reply, chat_server, error_reply
from selfrag.cli import main
from selfrag.open import indexes
from selfrag.passage import Passage
from selfrag.retrieval.base import GivenPassages

SEEDS = [
    {"instruction": "Q1", "output": "A1", "labels": {"retrieve": "[Retrieval]"}},
    {"instruction": "Q2", "output": "A2", "labels": {"retrieve": "[No Retrieval]"}},
]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["selfrag", "annotate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert "sk-secret" not in printed.out + printed.err
        return ended.value.code, printed.out, printed.err

    return run


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def seeds(tmp_path):
    return write(tmp_path / "seeds.jsonl", SEEDS)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_gold_labels_become_critic_data_with_a_table(run, tmp_path, seeds):
    out = tmp_path / "c.jsonl"
    code, printed, _ = run("critic", seeds, "--teacher", "gold", "--out", out)
    assert code == 0 and "wrote 2 labels" in printed and "[Retrieval]" in printed
    assert [row["output"] for row in lines(out)] == ["[Retrieval]", "[No Retrieval]"]
    assert (tmp_path / "c.jsonl.report.png").read_bytes().startswith(b"\x89PNG")


def test_a_server_labels_and_the_estimate_comes_before_the_first_call(run, tmp_path, seeds):
    out = tmp_path / "c.jsonl"
    options = ("--model", "m", "--groups", "retrieve", "--price-in", 1, "--price-out", 1, "--json")
    options += ("--api-key-env", "OPENAI_API_KEY")
    with chat_server(lambda body: chat_reply("fact")) as server:
        asked = ("critic", seeds, "--teacher", server.url, "--out", out, *options)
        code, _, told = run(*asked, "--dry-run")
        assert code == 0 and "2 calls to make, 0 answers already there" in told
        assert "cost about 0.00" in told and server.bodies == []
        assert [path.name for path in tmp_path.iterdir()] == ["seeds.jsonl"]
        code, printed, told = run(*asked)
        assert len(server.bodies) == 2 and "2 answered (200 tokens sent" in told
        assert server.keys == {"Bearer sk-secret"}
        code, printed, told = run(*asked)
        assert len(server.bodies) == 2 and "0 answered" in told and "2 known before" in told
    report = json.loads(printed)
    assert report["agreement"]["retrieve"]["share"] == 0.5
    assert report["usage"]["cost"] == pytest.approx(0.000204)
    assert b"sk-secret" not in (tmp_path / "c.jsonl.answers.sqlite").read_bytes()


def test_some_failures_are_no_failure_of_the_run_but_all_are(run, tmp_path, seeds):
    out = tmp_path / "c.jsonl"
    replies = [chat_reply("fact"), *[error_reply(500, "oops")] * 9]
    options = ("--model", "m", "--groups", "retrieve", "--max-retries", 0, "--concurrency", 1)
    with chat_server(lambda body: replies.pop(0)) as server:
        asked = ("critic", seeds, "--teacher", server.url, *options)
        code, printed, told = run(*asked, "--out", out)
        assert code == 0 and "rejected, ask: server_error: 1" in printed
        assert "without an answer: 1 server_error" in told
        assert server.keys == {"Bearer none"}  # no key goes where it was not meant to go
        code, printed, told = run(*asked, "--out", tmp_path / "d.jsonl")
        assert code == 1 and "nothing could be used" in told and "server_error" in told
    assert len(lines(tmp_path / "d.jsonl.rejects.jsonl")) == 2


def test_seeds_of_which_none_can_be_used_are_the_users_mistake(run, tmp_path):
    bad = write(tmp_path / "bad.jsonl", [{"instruction": "Q"}, {"output": "A"}])
    code, _, told = run("critic", bad, "--teacher", "gold", "--out", tmp_path / "c.jsonl")
    assert code == 2 and "'read: missing_field' (2 times)" in told
    assert [r["row"] for r in lines(tmp_path / "c.jsonl.rejects.jsonl")] == lines(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("critic", "SEEDS", "--teacher", "nobody"), "none of local, gold and openai"),
        (("critic", "SEEDS", "--teacher", "http://127.0.0.1:9/v1"), "expected --model"),
        (
            ("critic", "SEEDS", "--teacher", "openai", "--model", "m", "--api-key-env", "NOPE"),
            "variable NOPE is not set",
        ),
        (("critic", "SEEDS", "--groups", "mood"), "there is none of that name"),
        (("critic", "none.jsonl", "--teacher", "gold"), "No such file"),
        (("critic", "FOLDER", "--teacher", "gold"), "expected a readable file"),
        (("critic", "SEEDS", "--out", "no/such/folder/c", "--teacher", "gold"), "existing folder"),
        (("critic", "SEEDS", "--out", "SEEDS", "--teacher", "gold"), "which is read"),
        (("critic", "SEEDS", "--answers", "SEEDS"), "which is read"),
        (("critic", "SEEDS", "--out", "/dev/null", "--teacher", "gold"), "it is no plain file"),
        (("generator", "SEEDS", "--out", "SEEDS"), "which is read"),
        (("generator", "SEEDS", "--critic", "FOLDER"), "holds no config.json"),
        (("generator", "SEEDS", "--bugs", "many"), "expected some of drop_sentence"),
        (("generator", "SEEDS", "--top-k", "0"), "expected at least 1 passage"),
        (("generator", "dpr::x"), "expected kind:name:path"),
        (("inspect", "SEEDS-BAD"), "of 1 row none has"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(run, tmp_path, seeds, arguments, message):
    bad = write(tmp_path / "bad.jsonl", [[1]])
    places = {"SEEDS": seeds, "FOLDER": tmp_path, "SEEDS-BAD": bad}
    given = [places.get(argument, argument) for argument in arguments]
    if "--out" not in given and given[0] != "inspect":
        given += ["--out", tmp_path / "c.jsonl"]
    code, printed, told = run(*given)
    assert code in (1, 2) and printed == ""
    assert message in told and told.startswith("selfrag: cannot ") and told.count("\n") == 1


def test_generator_data_are_made_and_looked_at(run, tmp_path, monkeypatch):
    passages = [Passage(id="p", title="Titan", text="Titan is a moon.")]
    monkeypatch.setattr(indexes, "open_index", lambda path, report: GivenPassages(passages))
    rows = write(
        tmp_path / "rows.jsonl", [{"instruction": "What is Titan?", "output": "Titan is a moon."}]
    )
    words = {"You sort": "fact", "useful": "5", "helps": "relevant", "supports": "full"}

    def answer(body):
        system = body["messages"][0]["content"]
        return chat_reply(next(word for sign, word in words.items() if sign in system))

    out = tmp_path / "g.jsonl"
    with chat_server(answer) as server:
        code, printed, told = run(
            "generator", rows, "--teacher", server.url, "--model", "m", "--out", out
        )
    assert code == 0 and "wrote 1 row " in printed and "at most" in told
    code, printed, _ = run("inspect", out)
    assert "[Retrieval]<paragraph>Titan" in printed and "[Relevant]Titan is a moon." in printed
    code, printed, _ = run("inspect", out, "--json")
    counts = json.loads(printed)
    assert (counts["rows"], counts["passages"], counts["given_by"]) == (1, 1, {"m": 4})
    assert counts["tokens"]["[Fully supported]"] == counts["tokens"]["[Utility:5]"] == 1
    assert counts["tokens"]["[Continue to Use Evidence]"] == 0


def test_a_look_at_data_sends_no_commands_to_the_terminal(run, tmp_path):
    row = {
        "instruction": "Hi\x1b[2J",
        "output": "[No Retrieval]a\x07b[Utility:5]",
        "id": "\x1b]0;x",
    }
    code, printed, _ = run("inspect", write(tmp_path / "g.jsonl", [row]))
    assert code == 0 and "\x1b]" not in printed and "\x1b[2J" not in printed
    assert "\x07" not in printed and "[No Retrieval]a\\x07b" in printed
