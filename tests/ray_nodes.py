"""A Ray cluster of nodes on this machine, each of which can be killed alone."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def wait_for(is_so: Callable[[], bool], *, timeout_s: float = 240.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)


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
        # A token that a local cluster once left in the home belongs to no node here.
        "RAY_AUTH_MODE": "disabled",
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


@contextmanager
def ray_nodes() -> Iterator[Nodes]:
    """A head, to which nodes are added; skips where there is no Ray."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    # Sockets lie in it, and their paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as scratch:
        started = Nodes(Path(scratch))
        try:
            yield started
        finally:
            started.close()
