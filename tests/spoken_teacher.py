"""A teacher whose labels a test writes as a function of the case."""

from collections.abc import Callable, Iterator, Sequence

from selfrag.annotate.judgement import Answer, Case
from selfrag.annotate.verdict import Verdict, parse_verdict
from selfrag.engine.failure import Failure


class SpokenTeacher:
    """`say` gives the text of an answer, or a failure; `asked` holds every case that came."""

    name = "spoken"

    def __init__(self, say: Callable[[Case], str | Failure]) -> None:
        self._say = say
        self.asked: list[Case] = []

    def request(self, case: Case) -> str:
        return repr(case)

    def size(self, case: Case) -> tuple[int, int]:
        return len(case.instruction), 1

    def ask(self, cases: Sequence[Case]) -> Iterator[tuple[int, Answer | Failure]]:
        for index, case in enumerate(cases):
            self.asked.append(case)
            said = self._say(case)
            failed = isinstance(said, Failure)
            yield index, said if failed else Answer(text=said, prompt_tokens=10)

    def read(self, case: Case, answer: Answer) -> Verdict:
        return parse_verdict(case.group, answer.text)
