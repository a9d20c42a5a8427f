"""The seam to teachers, and the judge: cases in, judgements out, each asked once and kept.

Knows nothing of who the teacher is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from selfrag.annotate.judgement import Answer, Case, Failure, Judgement, label_of
from selfrag.annotate.store import AnswerStore, request_key
from selfrag.annotate.verdict import Verdict


class Teacher(Protocol):
    """Someone who answers cases: a chat model, a trained critic, here or at the end of a wire."""

    @property
    def name(self) -> str:
        """Who this is, for provenance."""
        ...

    def request(self, case: Case) -> str:
        """All that the answer depends on, as text: equal requests have equal answers."""
        ...

    def size(self, case: Case) -> tuple[int, int]:
        """Tokens of the prompt and of the reply, as estimated before asking."""
        ...

    def ask(self, cases: Sequence[Case]) -> Iterator[tuple[int, Answer | Failure]]:
        """Every case by its index with its answer, as they arrive. Raises nothing of the wire."""
        ...

    def read(self, case: Case, answer: Answer) -> Verdict:
        """The verdict in an answer; probabilities are read elsewhere."""
        ...


@dataclass(slots=True)
class Tally:
    """What was asked and paid in this run; `reused` answers cost nothing."""

    asked: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class Judge:
    """A teacher with its memory. `on_answer` is called after every answer that was stored."""

    def __init__(
        self,
        teacher: Teacher,
        store: AnswerStore,
        *,
        on_answer: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self.teacher = teacher
        self.tally = Tally()
        self._store = store
        self._on_answer = on_answer

    def judge(self, cases: Sequence[Case]) -> list[Judgement]:
        """A judgement for every case, in order; equal cases are asked once."""
        keys = [request_key(self.teacher.request(case)) for case in cases]
        answers: dict[str, Answer | Failure] = {**self._store.get(dict.fromkeys(keys))}
        self.tally.reused += len(answers)
        missing = {key: case for key, case in zip(keys, cases, strict=True) if key not in answers}
        asked = list(missing)
        for index, answer in self.teacher.ask(list(missing.values())):
            key = asked[index]
            answers[key] = answer
            self._count(answer)
            if isinstance(answer, Answer):
                self._store.put(key, answer)
                self._on_answer(self.tally)
        return [self._read(case, answers[key]) for key, case in zip(keys, cases, strict=True)]

    def missing(self, cases: Sequence[Case]) -> list[Case]:
        """Those of `cases` that would be asked, each once."""
        by_key = {request_key(self.teacher.request(case)): case for case in cases}
        known = self._store.get(by_key)
        return [case for key, case in by_key.items() if key not in known]

    def _count(self, answer: Answer | Failure) -> None:
        if isinstance(answer, Failure):
            self.tally.failures[answer.reason] += 1
            return
        self.tally.asked += 1
        self.tally.prompt_tokens += answer.prompt_tokens
        self.tally.completion_tokens += answer.completion_tokens

    def _read(self, case: Case, answer: Answer | Failure) -> Judgement:
        name = self.teacher.name
        if isinstance(answer, Failure):
            return Judgement(case=case, by=name, failure=answer)
        verdict = self.teacher.read(case, answer)
        if answer.probs:
            # The text names the likeliest token, the probabilities the likeliest label.
            best = max(answer.probs, key=lambda pair: pair[1])[0]
            return Judgement(
                case=case,
                by=name,
                label=label_of(case.group, best),
                probs=answer.probs,
                explanation=verdict.explanation,
                answer=answer,
            )
        if verdict.label is None:
            assert verdict.problem is not None  # one of the two, by `Verdict`
            detail = f"expected a label of {case.group}, found {answer.text[:200]!r}"
            failure = Failure(reason=verdict.problem, detail=detail)
            return Judgement(case=case, by=name, failure=failure, answer=answer)
        return Judgement(
            case=case,
            by=name,
            label=verdict.label,
            explanation=verdict.explanation,
            answer=answer,
        )
