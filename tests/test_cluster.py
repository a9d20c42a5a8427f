"""Shards embedded by several processes and by a Ray cluster, of which nodes are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_nodes import Nodes, environment, kill, wait_for
from selfrag.cluster import Workers
from selfrag.errors import AssetError, BadInput, ConfigError, SelfRAGError
from selfrag.passage import Passage
from selfrag.retrieval.embed.cluster import embed_on_cluster, embed_on_devices
from selfrag.retrieval.embed.plan import Corpus, Plan, survey
from selfrag.retrieval.embed.run import committed_rows, embed_corpus, read_shards
from words import WordEncoder

Driver = subprocess.Popen[str]

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
    with pytest.raises(ConfigError, match="cannot work on a cluster with Workers"):
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


# A cluster on this machine; its drivers are processes, as users start them


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
