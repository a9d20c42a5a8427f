"""Shards embedded by several processes and by a Ray cluster, of which nodes are killed."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from selfrag.errors import AssetError, BadInput, ConfigError, SelfRAGError
from selfrag.passage import Passage
from selfrag.retrieval.cluster import Workers, embed_on_cluster, embed_on_devices
from selfrag.retrieval.embed import (
    Corpus,
    Plan,
    committed_rows,
    embed_corpus,
    survey,
)
from selfrag.retrieval.shards import read_shards
from words import WordEncoder

Driver = subprocess.Popen[str]

TESTS = Path(__file__).parent
PASSAGES = [
    Passage(id=f"p{n}", title=f"t{n % 7}", text=" ".join(f"w{n * k % 31}" for k in range(9)))
    for n in range(1200)
]
PLAN = Plan(encoder=WordEncoder(dim=8).spec, corpus=survey(PASSAGES), n_shards=24, commit_rows=10)
SMALL = replace(PLAN, corpus=survey(PASSAGES[:40]), n_shards=4, commit_rows=4)


class Gated(WordEncoder):
    """Encodes four commits and then waits for the file `gate`."""

    def __init__(self, gate: Path) -> None:
        super().__init__(dim=8)
        self._gate = gate

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.n_calls >= 4:
            wait_for(self._gate.exists)
        return super().encode(texts)


def unloadable() -> WordEncoder:
    raise AssetError("cannot load encoder 'words': no such folder")


def wait_for(is_so: Callable[[], bool], *, timeout_s: float = 240.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)


def words_on(device: str) -> WordEncoder:
    return WordEncoder(dim=8)


def fails_on(device: str) -> WordEncoder:
    if device == "second":
        raise AssetError("cannot load encoder 'words' on second")
    return WordEncoder(dim=8)


def dies_on(device: str) -> WordEncoder:
    if device == "second":
        os.kill(os.getpid(), signal.SIGKILL)
    return WordEncoder(dim=8)


def rows(folder: Path) -> list[dict]:
    return [row for batch in read_shards(folder) for row in batch.to_pylist()]


def alone(tmp_path: Path, passages: Sequence[Passage], plan: Plan) -> list[dict]:
    embed_corpus(passages, WordEncoder(dim=8), tmp_path / "alone", plan)
    return rows(tmp_path / "alone")


# Devices of one machine


def test_two_processes_write_what_one_writes(tmp_path):
    done: list[int] = []
    passages = PASSAGES[:40]
    embed_on_devices(
        passages, words_on, tmp_path / "out", SMALL, ["cpu", "cpu"], on_progress=done.append
    )
    assert rows(tmp_path / "out") == alone(tmp_path, passages, SMALL)
    assert done == sorted(done)
    assert done[-1] == 40
    embed_on_devices([], fails_on, tmp_path / "out", SMALL, ["second"])  # nothing is left to do


def test_the_error_of_a_process_is_the_error_of_the_run(tmp_path):
    with pytest.raises(AssetError, match="cannot load encoder 'words' on second"):
        embed_on_devices(PASSAGES[:40], fails_on, tmp_path, SMALL, ["second"])


def test_a_killed_process_is_reported_and_the_next_run_goes_on(tmp_path):
    passages = PASSAGES[:40]
    with pytest.raises(SelfRAGError, match=r"cannot embed on .* was killed, .* to go on"):
        embed_on_devices(passages, dies_on, tmp_path / "out", SMALL, ["first", "second"])
    embed_on_devices(passages, words_on, tmp_path / "out", SMALL, ["first", "second"])
    assert rows(tmp_path / "out") == alone(tmp_path, passages, SMALL)


# What a cluster is asked for


@pytest.mark.parametrize(
    "values",
    [{"n_workers": -1}, {"n_cpus": -1.0}, {"n_cpus": 0.0}, {"n_gpus": -0.5}, {"stall_s": 0.0}],
)
def test_workers_that_make_no_sense_are_refused(values):
    with pytest.raises(ConfigError, match="cannot embed on a cluster with Workers"):
        Workers(**values)


def test_two_shards_are_under_way_for_each_place_of_a_cluster():
    # 8 CPUs are 8 places and 2 GPUs in halves are 4: with both wanted, 4 places.
    cluster = {"CPU": 8.0, "GPU": 2.0}
    assert Workers(n_gpus=0.5).n_at_once(cluster) == 8
    assert Workers().n_at_once(cluster) == 16
    assert Workers(n_cpus=0.0, n_gpus=1.0).n_at_once(cluster) == 4
    assert Workers(n_workers=3).n_at_once(cluster) == 3
    assert Workers().n_at_once({}) == 1  # waits for a node, where an autoscaler sees it


def test_shards_too_large_to_send_are_refused(tmp_path):
    large = replace(PLAN, corpus=Corpus(n_passages=600_000, sha256=""), n_shards=2)
    with pytest.raises(BadInput, match="ask for 3 shards or more"):
        embed_on_cluster(PASSAGES, WordEncoder, tmp_path, large)


def test_ray_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SelfRAGError, match=r'run pip install "selfrag\[ray\]"'):
        embed_on_cluster(PASSAGES, WordEncoder, tmp_path, PLAN)


# A cluster of three nodes on this machine; its drivers are processes, as users start them


class Nodes:
    """Nodes of a Ray cluster, each a group of processes that can be killed at once."""

    def __init__(self, scratch: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._scratch = scratch
        self.address = f"127.0.0.1:{port}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        self._start(*head, f"--temp-dir={scratch}")

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        ray = str(Path(sys.executable).with_name("ray"))
        common = ["--block", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
        log = self._scratch / f"node-{len(self._nodes)}.log"
        with log.open("wb") as out:
            node = subprocess.Popen(
                [ray, "start", *options, *common],
                env=environment(),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._nodes.append(node)
        # Two nodes that start at the same moment on one machine take each other's ports.
        wait_for(lambda: b"block forever" in log.read_bytes() or node.poll() is not None)
        assert node.poll() is None, log.read_text()
        return node

    def add(self) -> "subprocess.Popen[bytes]":
        return self._start(f"--address={self.address}", "--num-cpus=1")

    def close(self) -> None:
        for node in self._nodes:
            kill(node)


def environment() -> dict[str, str]:
    """Nodes find this file as they would a user's module of encoders."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # A lost node is noticed within seconds rather than half a minute; a slow one is not lost.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_raylet_start_wait_time_s": "200",
    }


def kill(node: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the raylet of a node and all its workers."""
    for pid in [node.pid, *descendants(node.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait()


def descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [*children, *(each for child in children for each in descendants(child))]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    # Sockets lie in it, and their paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as scratch:
        started = Nodes(Path(scratch))
        try:
            yield started
        finally:
            started.close()


def drive(nodes: Nodes, folder: Path, make_encoder: str, workers: str = "Workers()") -> Driver:
    """A process that embeds `PASSAGES` into `folder`, as a user's script does."""
    code = (
        "import sys\nfrom functools import partial\nfrom test_cluster import *\n"
        "folder = Path(sys.argv[1])\n"
        f"embed_on_cluster(PASSAGES, {make_encoder}, folder, PLAN, "
        f"address={nodes.address!r}, workers={workers})"
    )
    arguments = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(arguments, env=environment(), text=True, stderr=subprocess.PIPE)


def n_committed(folder: Path) -> int:
    is_begun = (folder / "embed.json").is_file()
    return sum(committed_rows(folder, PLAN, range(PLAN.n_shards))) if is_begun else 0


@pytest.mark.cluster
def test_a_node_killed_on_the_way_loses_and_doubles_nothing(nodes, tmp_path):
    folder, gate = tmp_path / "out", tmp_path / "gate"
    driver = drive(nodes, folder, "partial(Gated, folder.parent / 'gate')")
    _, second = nodes.add(), nodes.add()  # after the driver: it takes in nodes that come
    wait_for(lambda: n_committed(folder) == 80)  # on each, 40 passages of a shard of 50
    kill(second)
    gate.touch()
    _, messages = driver.communicate(timeout=240)
    assert driver.returncode == 0, messages
    assert rows(folder) == alone(tmp_path, PASSAGES, PLAN)


@pytest.mark.cluster
def test_an_encoder_that_does_not_load_ends_the_run(nodes, tmp_path):
    driver = drive(nodes, tmp_path, "unloadable")
    _, messages = driver.communicate(timeout=240)
    assert "cannot load encoder 'words': no such folder" in messages.splitlines()[-1]
