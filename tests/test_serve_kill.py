"""Servers that are killed under load: nothing acknowledged is lost, and a replica takes over."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx

from model_server import model_server
from selfrag.engine.numpy_llama import LlamaEngine
from selfrag.retrieval.verify import verify_index
from serve_parts import events_of, library
from tiny_model import TOKENS, save_tiny_model
from words import WordEncoder

WORKER = Path(__file__).with_name("serve_worker.py")


@contextmanager
def worker(folder, *model):
    """The address of a server in a process of its own, and that process."""
    path = os.pathsep.join([str(WORKER.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), *map(str, model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with process:
        try:
            url = process.stdout.readline().strip()
            while httpx.get(f"{url}/ready").status_code != 200:
                pass
            yield url, process
        finally:
            process.kill()


def upload(url, name, text):
    """Whether the server said that the upload is done."""
    try:
        reply = httpx.post(f"{url}/v1/documents", files={"file": (name, text.encode())}, timeout=60)
    except httpx.HTTPError:
        return False
    return any(kind == "done" and data["added"] == 1 for kind, data in events_of(reply.text))


def test_no_acknowledged_upload_is_lost_when_the_server_is_killed(tmp_path):
    library(tmp_path)
    acknowledged, cut_short = [], []
    for trial in range(3):
        with worker(tmp_path) as (url, process):

            def load(part, url=url, trial=trial):
                for n in range(1000):
                    word = f"word{trial}x{part}x{n}"
                    if not upload(url, f"{word}.txt", f"The {word} is told of here."):
                        cut_short.append(word)
                        return
                    acknowledged.append(word)

            threads = [threading.Thread(target=load, args=[part]) for part in range(2)]
            n_before = len(acknowledged)
            for thread in threads:
                thread.start()
            while len(acknowledged) < n_before + 2 + trial:  # in the middle of the next ones
                pass
            process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
    assert len(acknowledged) >= 9
    with worker(tmp_path) as (url, _):
        for word in acknowledged:
            hits = httpx.post(f"{url}/v1/search", json={"query": word, "mode": "words"}).json()
            assert [hit["text"] for hit in hits["hits"]] == [f"The {word} is told of here."]
        for word in cut_short:  # of which a part may be there; sent again it is whole
            upload(url, f"{word}.txt", f"The {word} is told of here.")
    checks = verify_index(tmp_path / "index", encoder=WordEncoder())
    assert all(check.ok for check in checks), checks


class Proxy:
    """Hands each connection to the next replica that takes it; asks no other one once it has."""

    def __init__(self, urls):
        self._places = [url.removeprefix("http://").split(":") for url in urls]
        self._turns = itertools.count()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _run(self):
        threads = []
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._hand_over, args=[client]))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _hand_over(self, client):
        with client:
            first = next(self._turns)  # a client's own: each place is tried once, whoever else asks
            for turn in range(first, first + len(self._places)):
                host, port = self._places[turn % len(self._places)]
                try:
                    replica = socket.create_connection((host, int(port)), timeout=60)
                except ConnectionError:
                    continue
                with replica:
                    back = threading.Thread(target=_pump, args=[replica, client])
                    back.start()
                    _pump(client, replica)
                    back.join()
                return


def _pump(source, sink):
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def test_a_replica_takes_over_when_another_is_killed(tmp_path):
    model = save_tiny_model(tmp_path, TOKENS)
    library(tmp_path)
    lost, answered = [], []
    gone = threading.Event()

    def ask(url):
        body = json.dumps({"question": "Titan?", "stream": False})
        reply = httpx.post(
            f"{url}/v1/ask", content=body, headers={"connection": "close"}, timeout=60
        )
        assert reply.status_code == 200, reply.text
        return reply.json()["answer"]

    def load(url):
        for _ in range(10):
            try:
                answer = ask(url)
            except httpx.HTTPError as error:
                lost.append(error)
                assert gone.wait(60)  # a connection that a dying server has taken is reset again
                answer = ask(url)  # once more
            answered.append(answer)

    engine = LlamaEngine(model, name="tiny", max_batch=4)
    with (
        model_server(engine) as served,
        worker(tmp_path, served.url, model) as (first, process),
        worker(tmp_path, served.url, model) as (second, _),
        Proxy([first, second]) as proxy,
    ):
        threads = [threading.Thread(target=load, args=[proxy.url]) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 8:
            pass
        process.kill()
        process.wait()
        gone.set()
        for thread in threads:
            thread.join()
    engine.close()
    assert len(answered) == 40  # none is lost for good
    assert len(lost) <= 4  # those in flight, one a client
    assert len({answer["answer"] for answer in answered}) == 1
