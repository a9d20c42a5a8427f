"""An evaluation that the nodes of a Ray cluster answer, one of which is killed."""

import json
import subprocess
import sys
import threading

import pytest

from chat_server import chat_reply, chat_server
from eval_parts import questions_with_passages, random_system, write_rows
from ray_nodes import environment, kill, wait_for
from selfrag.cluster import Workers
from selfrag.errors import EngineError, SelfRAGError
from selfrag.evaluate.record import RECORDS
from selfrag.evaluate.run import Batch, answer_all, answer_batch, cluster_answerer
from selfrag.open.systems import opened_answerer

pytest.importorskip("scipy")
BATCH_SIZE = 2
QUESTIONS = [
    {"id": f"q{n}", "question": f"Who is {n}?", "answers": ["Ann"], "ctxs": [{"text": "Ann"}]}
    for n in range(9)
]


class Backwards:
    """A cluster whose pieces end in the opposite order."""

    def run(self, work, pieces):
        ended = [(number, work(*piece)) for number, piece in enumerate(pieces)]
        yield from reversed(ended)


def _answer_now(open_system, batch):
    return answer_batch(batch, open_system())


def test_batches_that_come_early_wait_for_their_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("selfrag.evaluate.run._answer_there", _answer_now)
    questions = questions_with_passages()
    for name, answerer in (("here", None), ("there", cluster_answerer(Backwards()))):
        (tmp_path / name).mkdir()
        n_answered = answer_all(
            questions,
            lambda: random_system(questions),
            tmp_path / name,
            batch_size=BATCH_SIZE,
            answerer=answerer,
        )
        assert n_answered == len(questions)
    here, there = ((tmp_path / name / RECORDS).read_bytes() for name in ("here", "there"))
    assert here == there and here.count(b"\n") == len(questions)


class Refusing:
    name = "refusing"

    def answer(self, questions):
        if any(question.id == "q1" for question in questions):
            raise EngineError("not that one")
        return random_system(questions_with_passages()).answer(questions)


def test_a_failing_question_costs_itself_alone_on_a_worker_too():
    questions = tuple(questions_with_passages()[:3])
    done = answer_batch(Batch(start=4, questions=questions), Refusing(), iter((1.0, 3.5)).__next__)
    assert [(record.n, record.error) for record in done.records] == [
        (4, None),
        (5, "not that one"),
        (6, None),
    ]
    assert done.seconds == 2.5


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    told = r'cannot evaluate on the Ray cluster auto: .* run pip install "selfrag\[ray\]"'
    with pytest.raises(SelfRAGError, match=told), opened_answerer(Workers(ray="auto")):
        pass


class Answering:
    """Answers with the question's own words, while `gate` is open; every fourth it refuses."""

    def __init__(self):
        self.n_waiting = 0
        self.gate = threading.Event()
        self.lock = threading.Lock()

    def __call__(self, body):
        with self.lock:
            self.n_waiting += 1
        self.gate.wait()
        with self.lock:
            self.n_waiting -= 1
        text = body["messages"][-1]["content"]
        return chat_reply(f"Ann, of {text[-40:]}") if "4" not in text else (400, {}, b"{}")


def evaluate(*arguments):
    command = [sys.executable, "-m", "selfrag", "eval", *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), text=True, stderr=subprocess.PIPE)


def ended(process):
    _, messages = process.communicate(timeout=240)
    assert process.returncode == 0, messages


@pytest.fixture
def key(monkeypatch):
    """Set before the nodes start: each worker takes it from its own environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")


@pytest.mark.cluster
def test_a_cluster_that_loses_a_node_records_what_one_process_records(key, tmp_path, nodes):
    data = write_rows(tmp_path / "rows.jsonl", QUESTIONS)
    answering = Answering()
    with chat_server(answering) as server:
        command = ["--task", "nq_open", "--system", "rag", "--data", data, "--top-k", 1]
        command += ["--base-url", server.url, "--model", "m", "--batch-size", BATCH_SIZE]
        answering.gate.set()
        ended(evaluate(*command, "--out", tmp_path / "alone"))
        answering.gate.clear()
        first, second = nodes.add(), nodes.add()
        driver = evaluate(*command, "--out", tmp_path / "spread", "--ray", nodes.address)
        # Batches are under way on both.
        wait_for(lambda: answering.n_waiting >= 2 * BATCH_SIZE or driver.poll() is not None)
        kill(second)
        answering.gate.set()
        ended(driver)
        kill(first)
    names = ("config.json", "metrics.json", RECORDS)
    alone, spread = ([(tmp_path / run / name).read_bytes() for name in names]
                     for run in ("alone", "spread"))  # fmt: skip
    assert alone == spread
    records = [json.loads(line) for line in spread[2].splitlines()]
    assert [record["question"]["id"] for record in records] == [row["id"] for row in QUESTIONS]
    assert [bool(record["error"]) for record in records] == [n == 4 for n in range(9)]
