"""Work handed out to the nodes of a Ray cluster, as many pieces at once as it has room for.

The only module that imports Ray, and late. Plain tasks, which Ray repeats elsewhere when a node is
lost; nothing but the driver keeps what comes back. Knows nothing of what the work is.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from selfrag.errors import ConfigError, MissingPackage, SelfRAGError
from selfrag.serial import setting

_POLL_S = 2.0
# Nodes that a piece may lose before the run is given up.
_MAX_RETRIES = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The Ray cluster, what each worker takes of it, and how many there may be at once.

    `ray` is host:port, "auto" for the cluster of this node, "local" to start one, and empty for
    work without a cluster. `n_workers` 0: as many as it holds, now and when nodes come. `n_gpus`
    may be a fraction of one. After `stall_s` seconds in which nothing gets on anywhere the run is
    given up.
    """

    ray: str = setting("", "Cluster: host:port, auto, or local to start one.", "--ray")
    n_workers: int = setting(0, "On Ray; 0: as many as it holds.", "--workers")
    n_cpus: float = setting(1.0, "CPUs of a worker on Ray.", "--worker-cpus")
    n_gpus: float = setting(0.0, "GPUs of a worker on Ray, 0.5 for two on one.", "--worker-gpus")
    stall_s: float = 1800.0

    def __post_init__(self) -> None:
        is_sound = min(self.n_workers, self.n_cpus, self.n_gpus) >= 0 and self.stall_s > 0
        if not is_sound or not self.n_cpus + self.n_gpus:
            raise ConfigError(
                f"cannot work on a cluster with {self}: expected no number below 0, CPUs or GPUs "
                "for a worker, and some seconds before a stand-still is given up; set them so"
            )

    def n_at_once(self, resources: dict[str, float]) -> int:
        """How many pieces to hand out to a cluster that holds `resources`.

        Two for each place, so that no worker waits for its next; one at least, which an autoscaler
        sees.
        """
        wanted = {"CPU": self.n_cpus, "GPU": self.n_gpus}
        places = min(int(resources.get(name, 0) / n) for name, n in wanted.items() if n)
        return self.n_workers or max(1, 2 * places)


class Cluster:
    """A connection to a Ray cluster. `doing` is the verb of its errors, as in `embed`."""

    def __init__(self, ray: Any, workers: Workers, doing: str) -> None:
        self._ray, self._workers, self._doing = ray, workers, doing

    @property
    def n_at_once(self) -> int:
        """How many pieces it has room for now."""
        return self._workers.n_at_once(self._ray.cluster_resources())

    def run(
        self,
        work: Callable[..., T],
        pieces: Iterator[tuple[Any, ...]],
        *,
        n_done: Callable[[], int] = lambda: 0,
    ) -> Iterator[tuple[int, T]]:
        """What `work` returns for the arguments of every piece, with its number, as they end.

        A piece that loses its worker is done again by another. `n_done` is asked every few seconds
        for what the pieces under way have got done. Raises what `work` raised if it is a
        `SelfRAGError`, and `SelfRAGError` where a piece loses worker after worker or nothing gets
        on for `stall_s`.
        """
        ray, workers = self._ray, self._workers
        # max_calls 0: a process keeps what it has loaded, on a GPU too.
        task = ray.remote(
            num_cpus=workers.n_cpus,
            num_gpus=workers.n_gpus,
            max_retries=_MAX_RETRIES,
            max_calls=0,
        )(work)
        calls = ((task.remote(*piece), n) for n, piece in enumerate(pieces))
        running = dict(islice(calls, self.n_at_once))
        n_before, moved_at = -1, time.monotonic()
        while running:
            ended, _ = ray.wait(list(running), timeout=_POLL_S)
            for each in ended:
                yield running.pop(each), self._result(each)
            running.update(islice(calls, max(0, self.n_at_once - len(running))))
            n_now = n_done()
            if ended or n_now > n_before:
                moved_at = time.monotonic()
            n_before = n_now
            if time.monotonic() - moved_at > workers.stall_s:
                raise SelfRAGError(
                    f"cannot {self._doing} on the cluster: nothing got on for "
                    f"{workers.stall_s:.0f} s, with {len(running)} pieces under way and "
                    f"{ray.cluster_resources()} in the cluster, expected some to; see "
                    "`ray status`, add nodes, and run again to go on"
                )

    def _result(self, task: Any) -> Any:
        ray = self._ray
        try:
            return ray.get(task)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, SelfRAGError) else error from None
        except ray.exceptions.RayError as error:
            raise SelfRAGError(
                f"cannot {self._doing} on the cluster: a piece lost {_MAX_RETRIES + 1} workers, "
                f"the last to {_first_line(error)!r}, expected one to get on; give workers more "
                "memory, and run again to go on"
            ) from error


@contextmanager
def connected(address: str, doing: str, workers: Workers | None = None) -> Iterator[Cluster]:
    """The cluster at `address`; a connection that is there already is used and kept.

    `address` is host:port, "auto" for the cluster of this node, or "local" to start one. Raises
    `SelfRAGError` where there is none, or no Ray.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingPackage(
            f"cannot {doing} on the Ray cluster {address}: found no usable package ray ({error}), "
            'expected it installed; run pip install "selfrag[ray]"'
        ) from error
    cluster = Cluster(ray, workers or Workers(), doing)
    if ray.is_initialized():
        yield cluster
        return
    try:
        dashboard = False if address == "local" else None  # it has no authentication
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SelfRAGError(
            f"cannot reach the Ray cluster {address}: found {_first_line(error)!r}, expected a "
            "running cluster of which this machine is a node; start one with `ray start`"
        ) from error
    try:
        yield cluster
    finally:
        ray.shutdown()


def once_a_process(make: Callable[[], T]) -> T:
    """What `make` returned first in this worker: Ray gives a process piece after piece."""
    from ray import cloudpickle

    made: T = _made(cloudpickle.dumps(make))
    return made


@lru_cache(maxsize=1)
def _made(pickled: bytes) -> Any:
    from ray import cloudpickle

    return cloudpickle.loads(pickled)()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
