"""kill -9 at a random moment, then again: the same bytes, nothing lost, nothing paid twice."""

import json
import os
import random
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

import annotate_worker
from chat_server import chat_reply, chat_server
from selfrag.cli.app import app

TESTS = Path(__file__).parent
CONCURRENCY = 2
N_ROWS = 12


class Answering:
    """Answers by the text of the case alone; `after` so many the process is killed."""

    def __init__(self):
        self.n_answered = 0
        self.after = None
        self.process = None
        self.lock = threading.Lock()

    def __call__(self, body):
        with self.lock:
            self.n_answered += 1
            if self.process and self.n_answered == self.after:
                self.process.kill()
        words = (
            body["messages"][0]["content"].splitlines()[-1].split(": ")[1].strip(".").split(", ")
        )
        return chat_reply(words[zlib.crc32(body["messages"][-1]["content"].encode()) % len(words)])


def run_and_kill(command, answering, n_calls):
    """One run in a process of its own, killed at a random answer."""
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    answering.n_answered = 0
    answering.after = random.randrange(CONCURRENCY, n_calls)
    answering.process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert answering.process.wait(120) == -9
    answering.process = None


def run_cli(arguments):
    assert not app(args=arguments, standalone_mode=False)


def files(folder):
    """What a run leaves; the picture and the answers hold times or pages that may differ."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".jsonl", ".json")}


@pytest.fixture
def answering():
    return Answering()


def test_critic_data_after_a_kill_are_those_of_an_undisturbed_run(tmp_path, answering, capsys):
    rows = tmp_path / "seeds.jsonl"
    made = [{"instruction": f"Q{n}", "output": "A", "evidence": "p"} for n in range(N_ROWS)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*made, {"instruction": ""}]))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    with chat_server(answering) as server:
        base = ["annotate", "critic", str(rows), "--teacher", server.url, "--model", "m"]
        base += ["--concurrency", str(CONCURRENCY), "--groups", "retrieve,support"]
        run_cli([*base, "--out", str(whole / "c.jsonl")])
        n_calls = answering.n_answered
        again = [*base, "--out", str(killed / "c.jsonl")]
        run_and_kill(["-m", "selfrag", *again], answering, n_calls)
        run_cli(again)
    assert n_calls == 2 * N_ROWS
    assert files(killed) == files(whole) and len(files(whole)["c.jsonl"].splitlines()) == n_calls
    assert answering.n_answered <= n_calls + CONCURRENCY  # only what was on its way is asked again


def test_generator_data_after_a_kill_are_those_of_an_undisturbed_run(tmp_path, answering):
    rows = tmp_path / "rows.jsonl"
    annotate_worker.write_rows(rows, N_ROWS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    with chat_server(answering) as server:
        annotate_worker.annotate(server.url, rows, whole / "g.jsonl")
        n_calls = answering.n_answered
        worker = [str(TESTS / "annotate_worker.py"), server.url, str(rows)]
        run_and_kill([*worker, str(killed / "g.jsonl")], answering, n_calls)
        annotate_worker.annotate(server.url, rows, killed / "g.jsonl")
    assert files(killed) == files(whole)
    n_rows = len(files(whole)["g.jsonl"].splitlines())
    n_left_out = len(files(whole)["g.jsonl.rejects.jsonl"].splitlines())
    assert n_rows and n_rows + n_left_out == N_ROWS  # every row is in one of the two
    assert answering.n_answered <= n_calls + CONCURRENCY
