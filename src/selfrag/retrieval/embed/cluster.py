"""Shards embedded by many workers: the devices of one machine, or the nodes of a Ray cluster.

Shards on disk are the checkpoint, so a worker is asked for a shard and for nothing else: plain Ray
tasks do. Ray Data would add read tasks, which wait for ever for a CPU that the workers hold once a
node is gone (2.60). Knows nothing of files or models.
"""

import multiprocessing
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path

from selfrag.cluster import Workers, connected, once_a_process
from selfrag.errors import BadInput, SelfRAGError
from selfrag.passage import Passage
from selfrag.retrieval.embed.plan import PLAN_NAME, Plan, Progress
from selfrag.retrieval.embed.run import committed_rows, embed_corpus, embed_shard, unfinished_shards
from selfrag.retrieval.encoder.base import Encoder

# A shard travels to its worker in one piece: at 700 bytes a passage 180 MB.
MAX_SHARD_ROWS = 262_144
_POLL_S = 2.0
# A node that dies takes its workers along only seconds later; until then they hold their shards.
_LOCK_WAIT_S = 60.0

MakeEncoder = Callable[[], Encoder]
MakeEncoderOn = Callable[[str], Encoder]


def embed_on_devices(
    passages: Iterable[Passage],
    make_encoder: MakeEncoderOn,
    folder: Path,
    plan: Plan,
    devices: Sequence[str],
    *,
    on_progress: Progress | None = None,
) -> None:
    """Embeds what is left of `plan` in one spawned process for each of `devices`, at once.

    `passages`, gone through by every process, and `make_encoder`, called with its device, are
    pickled. `on_progress` hears how many passages of the corpus are committed. When a process
    fails, the others finish their shards; then its error is raised, or `SelfRAGError` if it was
    killed. The same call goes on.
    """
    plan.claim(folder)
    left = unfinished_shards(folder, plan)
    context = multiprocessing.get_context("spawn")  # lancedb has threads: forks of it hang
    with ProcessPoolExecutor(len(devices), mp_context=context) as pool:
        work = partial(_embed_on_device, passages, make_encoder, folder, plan, os.getpid())
        tasks: dict[Future[None], str] = {
            pool.submit(work, device, left[number :: len(devices)]): device
            for number, device in enumerate(devices[: len(left)])
        }
        running, watch = set(tasks), _Watch(folder, plan, on_progress)
        while running:
            done, running = wait(running, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
            watch.tell()
            for task in done:
                _raise_failure(task, tasks[task])


def _raise_failure(task: "Future[None]", device: str) -> None:
    try:
        task.result()
    except BrokenProcessPool as error:
        raise SelfRAGError(
            f"cannot embed on {device}: found a process that was killed, expected all of them to "
            "end by themselves; see the system's messages, give it more memory or a smaller "
            "--batch-size, and run again to go on"
        ) from error


def _embed_on_device(
    passages: Iterable[Passage],
    make_encoder: MakeEncoderOn,
    folder: Path,
    plan: Plan,
    parent: int,
    device: str,
    shards: Sequence[int],
) -> None:
    """What a spawned process runs; it does not outlive its parent by more than a few passages."""

    def stop_alone(n_done: int) -> None:
        if os.getppid() != parent:
            raise SystemExit(1)

    embed_corpus(
        passages, make_encoder(device), folder, plan, shards=shards, on_progress=stop_alone
    )


class _Watch:
    """Counts what is committed; a shard that is whole is not looked at again."""

    def __init__(self, folder: Path, plan: Plan, on_progress: Progress | None) -> None:
        self._folder, self._plan, self._on_progress = folder, plan, on_progress
        self._left: Sequence[int] = range(plan.n_shards)
        self._n_whole = 0  # rows

    def tell(self) -> int:
        """How many passages of the corpus are committed, told to `on_progress` too."""
        counts = committed_rows(self._folder, self._plan, self._left)
        pairs = list(zip(self._left, counts, strict=True))
        self._left = [shard for shard, n_done in pairs if n_done < len(self._plan.rows(shard))]
        n_done = self._n_whole + sum(counts)
        self._n_whole = n_done - sum(n for shard, n in pairs if shard in self._left)
        if self._on_progress is not None:
            self._on_progress(n_done)
        return n_done


def embed_on_cluster(
    passages: Iterable[Passage],
    make_encoder: MakeEncoder,
    folder: Path,
    plan: Plan,
    *,
    address: str = "auto",
    workers: Workers | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Embeds what is left of `plan` on the Ray cluster at `address`, each shard on one worker.

    `passages` is the whole corpus, read here and sent out a shard at a time. `folder` is seen by
    all nodes under the same path, and `make_encoder` can be called on all. `address` is host:port,
    "auto" for the cluster of this node, or "local" to start one. Nodes may come and go;
    `on_progress` hears how many passages are committed. Raises `BadInput` for shards too large to
    send, `SelfRAGError` when there is no cluster, nothing moves for `stall_s` or a shard loses node
    after node, and what was raised on a worker. The same call goes on.
    """
    if len(plan.rows(plan.n_shards - 1)) > MAX_SHARD_ROWS:
        raise BadInput(
            f"cannot embed {plan.corpus.n_passages} passages in {plan.n_shards} shards on a "
            f"cluster: expected shards of at most {MAX_SHARD_ROWS} passages, so that one fits into "
            f"memory; ask for {-(-plan.corpus.n_passages // MAX_SHARD_ROWS)} shards or more"
        )
    plan.claim(folder)
    left = unfinished_shards(folder, plan)
    if not left:
        return
    watch = _Watch(folder, plan, on_progress)
    pieces = (
        (make_encoder, folder, plan, shard, own) for shard, own in _pieces(passages, plan, left)
    )
    with connected(address, "embed", workers) as cluster:
        for _ in cluster.run(_embed_one, pieces, n_done=watch.tell):
            pass  # a shard on the disk is all that comes of it


def _pieces(
    passages: Iterable[Passage], plan: Plan, shards: Sequence[int]
) -> Iterator[tuple[int, list[Passage]]]:
    stream, position = iter(passages), 0
    for shard in shards:
        rows = plan.rows(shard)
        yield shard, list(islice(stream, rows.start - position, rows.stop - position))
        position = rows.stop


def _embed_one(
    make_encoder: MakeEncoder, folder: Path, plan: Plan, shard: int, passages: list[Passage]
) -> None:
    """What a worker runs, once more on another node when its own is lost."""
    if not (folder / PLAN_NAME).is_file():
        raise BadInput(
            f"cannot embed on node {platform.node()}: found no {folder} there, expected a folder "
            "that all nodes share under one path; name such a folder"
        )
    embed_shard(passages, once_a_process(make_encoder), folder, plan, shard, wait_s=_LOCK_WAIT_S)
