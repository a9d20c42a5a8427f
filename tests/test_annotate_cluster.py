"""Annotation whose teacher is asked by the nodes of a Ray cluster, one of which is killed."""

import json
import subprocess
import sys
import threading
import zlib

import pytest

from chat_server import chat_reply, chat_server
from ray_nodes import environment, kill, wait_for
from selfrag.annotate.judge import MAX_CHUNK, chunk_size
from selfrag.cli.console import Reporter
from selfrag.cluster import Workers
from selfrag.errors import SelfRAGError
from selfrag.open.teachers import TeacherOptions, open_teacher
from selfrag.passage import Passage
from selfrag.retrieval.build import build_folder, new_manifest
from selfrag.retrieval.encoder.base import MeanPoolingEncoder
from selfrag.retrieval.writer import FileState
from tiny_bert import WORDS, save_tiny_bert

CONCURRENCY = 2
N_ROWS = 12
SENTENCES = "The first sentence is long enough. The second one is long enough as well."
ROWS = [
    {"instruction": f"Question {n}?", "output": SENTENCES, "evidence": "bread"}
    for n in range(N_ROWS)
]


class Answering:
    """Answers by the text of the case alone, while `gate` is open."""

    def __init__(self):
        self.n_asked = self.n_waiting = 0
        self.gate = threading.Event()
        self.lock = threading.Lock()

    def __call__(self, body):
        with self.lock:
            self.n_asked += 1
            self.n_waiting += 1
        self.gate.wait()
        with self.lock:
            self.n_waiting -= 1
        lines = body["messages"][0]["content"].splitlines()
        words = lines[-1].split(": ")[1].strip(".").split(", ")
        number = zlib.crc32(body["messages"][-1]["content"].encode())
        return chat_reply(words[number % len(words)] if number % 7 else "perhaps")


def test_chunks_are_small_enough_for_all_places_and_to_be_lost():
    assert chunk_size(80, 8) == 10  # 8 chunks for 8 places
    assert chunk_size(1000, 8) == MAX_CHUNK
    assert chunk_size(3, 8) == 8  # a server is asked as many at once


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = TeacherOptions(
        teacher="http://127.0.0.1:1/v1", model="m", workers=Workers(ray="auto")
    )
    told = r'cannot annotate on the Ray cluster auto: .* run pip install "selfrag\[ray\]"'
    with pytest.raises(SelfRAGError, match=told), open_teacher(options, Reporter()):
        pass


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    bert = folder / "bert"
    bert.mkdir()
    save_tiny_bert(bert)
    encoder = MeanPoolingEncoder(bert, name=str(bert))
    found = [Passage(id=str(n), title="T", text=" ".join(WORDS[n : n + 4])) for n in range(5)]
    put = lambda writer: writer.put_file(FileState(file="f", version="1"), found)  # noqa: E731
    build_folder(folder / "index", encoder, new_manifest(encoder.spec), put)
    return folder / "index"


def annotate(*arguments):
    command = [sys.executable, "-m", "selfrag", "annotate", *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), text=True, stderr=subprocess.PIPE)


def ended(process):
    _, messages = process.communicate(timeout=240)
    assert process.returncode == 0, messages


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".jsonl", ".json")}


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["critic", "generator"])
def test_a_cluster_that_loses_a_node_writes_what_one_process_writes(kind, index, tmp_path, nodes):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:5], {}, *ROWS[5:]]))
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    alone.mkdir()
    spread.mkdir()
    answering = Answering()
    with chat_server(answering) as server:
        command = [kind, rows, "--teacher", server.url, "--model", "m"]
        command += ["--concurrency", CONCURRENCY]
        command += ["--index", index, "--top-k", 2] if kind == "generator" else []
        answering.gate.set()
        ended(annotate(*command, "--out", alone / "out.jsonl"))
        n_calls, answering.n_asked = answering.n_asked, 0
        answering.gate.clear()
        first, second = nodes.add(), nodes.add()
        driver = annotate(*command, "--out", spread / "out.jsonl", "--ray", nodes.address)
        # On each, as many calls as it makes at once.
        wait_for(lambda: answering.n_waiting == 2 * CONCURRENCY or driver.poll() is not None)
        kill(second)
        answering.gate.set()
        ended(driver)
        kill(first)
    assert files(spread) == files(alone)
    assert len(files(alone)["out.jsonl.rejects.jsonl"].splitlines()) > 1
    assert n_calls < answering.n_asked <= n_calls + MAX_CHUNK
