"""Teachers and the judge: cases in, judgements out, each asked once and kept.

`Teacher` is the seam: a chat model, a trained critic, here, at the end of a wire or on the nodes of
a cluster. Answers are kept by the hash of their request in one SQLite file. Knows nothing of what
the labels are for.
"""

import atexit
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from selfrag.annotate.judgement import Answer, Case, Judgement, label_of
from selfrag.annotate.verdict import Verdict
from selfrag.cluster import Cluster, once_a_process
from selfrag.engine.failure import Failure
from selfrag.errors import StorageError
from selfrag.text import counted


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money for a million tokens, in whatever currency; None where it is not known."""

    prompt: float | None = None
    completion: float | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The price of so many tokens, or None where no price was given."""
        if self.prompt is None or self.completion is None:
            return None
        total = prompt_tokens * self.prompt + completion_tokens * self.completion
        return round(total / 1e6, 6)


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
        store: "AnswerStore",
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


def request_key(request: str) -> str:
    """SHA-256 of a request, as 64 hexadecimal digits."""
    return hashlib.sha256(request.encode("utf-8", "surrogatepass")).hexdigest()


class AnswerStore:
    """The answers of one file; raises `StorageError` where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._guard():
            self._db = sqlite3.connect(path, timeout=1)
            # Two runs at once would ask, and pay, for the same answers.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            # kill -9 loses nothing that was committed; a power cut may lose the last few.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
                " WITHOUT ROWID"
            )
            self._db.commit()

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers there are among those of `keys`."""
        found = {}
        with self._guard():
            for key in keys:
                row = self._db.execute(
                    "SELECT answer FROM answers WHERE key = ?", (key,)
                ).fetchone()
                if row:
                    found[key] = Answer.from_json(row[0])
        return found

    def put(self, key: str, answer: Answer) -> None:
        """Keeps one answer for good; a second one under the same key is not kept."""
        with self._guard(), self._db:
            self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, answer.to_json()))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Folds the journal into the file."""
        self._db.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise StorageError(
                f"cannot use the answers in {self.path}: {error}; expected a file of answers that "
                "can be read and written and that no other run has open, so wait for that run or "
                "make room, or delete the file and have all asked again"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`calls` are to be made; `stored` answers cost nothing. Tokens are those of the calls."""

    calls: int
    stored: int
    prompt_tokens: int
    completion_tokens: int

    def sentence(self, prices: Prices) -> str:
        """The estimate in words, for people."""
        cost = prices.cost(self.prompt_tokens, self.completion_tokens)
        money = "no price given" if cost is None else f"cost about {cost:.4f}"
        return (
            f"{counted(self.calls, 'call')} to make, {counted(self.stored, 'answer')} already "
            f"there; about {self.prompt_tokens} tokens to send and {self.completion_tokens} to "
            f"receive, {money}"
        )


def estimate(judge: Judge, windows: Iterable[Sequence[Case]]) -> Estimate:
    """The calls for all cases that have no stored answer; no case may come in two windows."""
    n_cases, n_calls, n_prompt, n_completion = 0, 0, 0, 0
    for cases in windows:
        missing = judge.missing(cases)
        sizes = [judge.teacher.size(case) for case in missing]
        n_cases += len(cases)
        n_calls += len(missing)
        n_prompt += sum(size[0] for size in sizes)
        n_completion += sum(size[1] for size in sizes)
    return Estimate(
        calls=n_calls,
        stored=n_cases - n_calls,
        prompt_tokens=n_prompt,
        completion_tokens=n_completion,
    )


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
