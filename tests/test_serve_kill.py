"""A server that is killed under load: its index is intact and no acknowledged upload is lost."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx

from selfrag.retrieval.verify import verify_index
from serve_parts import events_of, library
from words import WordEncoder

WORKER = Path(__file__).with_name("serve_worker.py")


@contextmanager
def worker(folder):
    """The address of a server in a process of its own, and that process."""
    path = os.pathsep.join([str(WORKER.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(folder)],
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
    acknowledged = []
    for trial in range(3):
        with worker(tmp_path) as (url, process):

            def load(part, url=url, trial=trial):
                for n in range(1000):
                    word = f"word{trial}x{part}x{n}"
                    if not upload(url, f"{word}.txt", f"The {word} is told of here."):
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
    checks = verify_index(tmp_path / "index", encoder=WordEncoder())
    assert all(check.ok for check in checks), checks
