"""A run on the nodes of a Ray cluster: batches go out, records come back in order.

Only this process writes. What a batch gives does not depend on where it is answered.
"""

from collections.abc import Iterable, Iterator

from selfrag.cluster import Cluster, once_a_process
from selfrag.evaluate.run import Answered, Batch, OpenSystem, answer_batch


class ClusterAnswerer:
    """Answers batches on the workers of `cluster`, each of which opens its own system once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __call__(self, open_system: OpenSystem, batches: Iterable[Batch]) -> Iterator[Answered]:
        """The answered batches, in order; what comes early waits. `open_system` is pickled.

        Raises what opening a system raised on a worker, and `SelfRAGError` where workers are lost
        one after another.
        """
        pieces = ((open_system, batch) for batch in batches)
        early: dict[int, Answered] = {}
        n_given = 0
        for number, answered in self._cluster.run(_answer, pieces):
            early[number] = answered
            while n_given in early:
                yield early.pop(n_given)
                n_given += 1


def _answer(open_system: OpenSystem, batch: Batch) -> Answered:
    """What a worker runs, once more elsewhere when its node is lost."""
    return answer_batch(batch, once_a_process(open_system))
