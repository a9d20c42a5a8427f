"""A teacher on every node of a Ray cluster: cases go out in chunks, answers come back here.

Knows nothing of who the teacher is.
"""

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from selfrag.annotate.judge import Teacher
from selfrag.annotate.judgement import Answer, Case, Failure
from selfrag.annotate.verdict import Verdict
from selfrag.cluster import Cluster, once_a_process

# A worker that is lost loses the answers of a chunk: they are asked, and paid, again.
MAX_CHUNK = 32
_MIN_CHUNK = 8  # calls that a server is asked at once, as a rule

OpenTeacher = Callable[[], AbstractContextManager[Teacher]]


class ClusterTeacher:
    """Asks the workers of `cluster`, each of which opens its own teacher once.

    `here` is that teacher as this process sees it: it sizes cases and reads answers, and asks none.
    `open_teacher` is pickled.
    """

    def __init__(self, here: Teacher, open_teacher: OpenTeacher, cluster: Cluster) -> None:
        self._here, self._open, self._cluster = here, open_teacher, cluster

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self._here.name

    def request(self, case: Case) -> str:
        """The teacher's request."""
        return self._here.request(case)

    def size(self, case: Case) -> tuple[int, int]:
        """As the teacher here estimates it."""
        return self._here.size(case)

    def ask(self, cases: Sequence[Case]) -> Iterator[tuple[int, Answer | Failure]]:
        """Every case with its answer, chunk by chunk as they arrive.

        Raises what a teacher raised on its worker, and `SelfRAGError` where workers are lost one
        after another.
        """
        size = chunk_size(len(cases), self._cluster.n_at_once)
        chunks = ((self._open, cases[at : at + size]) for at in range(0, len(cases), size))
        for number, answers in self._cluster.run(_ask, chunks):
            for place, answer in answers:
                yield number * size + place, answer

    def read(self, case: Case, answer: Answer) -> Verdict:
        """The verdict as the teacher here reads it."""
        return self._here.read(case, answer)


def chunk_size(n_cases: int, n_at_once: int) -> int:
    """Cases of a chunk, so that all places of a cluster get some where there are enough."""
    return min(MAX_CHUNK, max(_MIN_CHUNK, -(-n_cases // n_at_once)))


def _ask(open_teacher: OpenTeacher, cases: Sequence[Case]) -> list[tuple[int, Answer | Failure]]:
    """What a worker runs, once more elsewhere when its node is lost."""
    return list(once_a_process(partial(_opened, open_teacher)).ask(cases))


def _opened(open_teacher: OpenTeacher) -> Teacher:
    """The teacher, open until the process ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(open_teacher())
