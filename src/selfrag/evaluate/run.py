"""One run: the questions of a task through a system, records first, resumed where it stopped.

A batch that fails is asked again question by question, so that one question that cannot be
answered costs itself alone; its record holds the error. Batches are answered here, or on the nodes
of a Ray cluster; only this process writes. Knows nothing of metrics.
"""

import hashlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from selfrag.cluster import Cluster, once_a_process
from selfrag.errors import EngineError, SelfRAGError
from selfrag.evaluate.data import QuestionSet
from selfrag.evaluate.record import RECORDS, Question, Record, RecordFile
from selfrag.evaluate.summary import CONFIG
from selfrag.evaluate.systems import System
from selfrag.evaluate.tasks import Task
from selfrag.files import claim_run

MAX_FAILURES = 10  # in a row: then the engine is broken, not the question

N_NAMED = 20  # faults in config.json; more are counted
VERSIONS = ("selfrag", "numpy", "tokenizers", "torch", "transformers", "lancedb", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Questions that are answered together; the first of them is number `start` of the run."""

    start: int
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The records of a batch, and the seconds that it took."""

    records: tuple[Record, ...]
    seconds: float


OpenSystem = Callable[[], System]
# Whatever answers batches, in order, with systems that it opens itself.
Answerer = Callable[[OpenSystem, Iterable[Batch]], Iterator[Answered]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`done` of `total` questions are on the disk, and the records of the batch that ended."""

    done: int
    total: int
    records: tuple[Record, ...]


def run_config(
    task: Task,
    system: Mapping[str, Any],
    found: QuestionSet,
    questions: Sequence[Question],
    *,
    batch_size: int,
    drawn: Mapping[str, int | None],
) -> dict[str, Any]:
    """What `config.json` holds: all that the records depend on.

    `questions` are those of `found` that `drawn` (`limit`, `sample` and `seed`) has chosen.
    """
    return {
        "task": {"name": task.name, "form": task.form, "headline": task.headline},
        "system": dict(system),
        "batch_size": batch_size,
        "data": {
            "file": found.path.name,
            "sha256": found.sha256,
            "n_questions": len(found.questions),
            "n_chosen": len(questions),
            "n_without_passages": sum(not question.passages for question in questions),
            **drawn,
            "chosen_sha256": _digest(question.id for question in questions),
            "n_faults": len(found.faults),
            "faults": [asdict(fault) for fault in found.faults[:N_NAMED]],
        },
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """Versions, and the commit of this checkout where it is one."""
    return {
        "python": platform.python_version(),
        "git_commit": _git_commit(),
        "packages": {name: _version(name) for name in VERSIONS},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode(errors="replace")).hexdigest()


def open_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Makes `folder` the home of the run `config`, or checks that it already is.

    A run without records gives way. Raises `BadInput` naming what differs from the run that is
    there.
    """
    records = folder / RECORDS
    has_records = records.is_file() and records.stat().st_size > 0
    claim_run(folder / CONFIG, config, has_results=has_records)


def answer_all(
    questions: Sequence[Question],
    open_system: OpenSystem,
    folder: Path,
    *,
    batch_size: int,
    answerer: Answerer | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Answers what has no record yet, and appends it batch by batch; how many that were.

    A system is opened only where something is left to answer, by `answerer` where one is given,
    else here. `on_progress` is called before the first batch, which may take minutes, and after
    every one. Raises `EngineError` after `MAX_FAILURES` failures in a row; what was answered before
    stays.
    """
    n_failures = n_answered = 0
    with RecordFile(folder, n_questions=len(questions), batch_size=batch_size) as file:
        if file.n_done >= len(questions):
            return 0
        begun = Progress(done=file.n_done, total=len(questions), records=())
        if answerer is None:
            answerer = partial(_answer_here, begin=lambda: on_progress(begun), clock=clock)
        else:
            on_progress(begun)
        batches = [
            Batch(start=start, questions=tuple(questions[start : start + batch_size]))
            for start in range(file.n_done, len(questions), batch_size)
        ]
        for batch, done in zip(batches, answerer(open_system, batches), strict=True):
            last = [record.error for record in done.records]
            n_failures = n_failures + len(last) if all(last) else _run_at_end(last)
            if n_failures >= MAX_FAILURES:
                first = batch.questions[0]
                raise EngineError(
                    f"stopped at question {first.id!r} (row {first.row}): the last "
                    f"{n_failures} questions failed, the last one with {last[-1]!r}; expected an "
                    f"engine that answers, so mend it and run again: the {batch.start} records "
                    "before are kept"
                )
            file.append(done.records, done.seconds)
            n_answered += len(done.records)
            on_progress(Progress(done=file.n_done, total=len(questions), records=done.records))
    return n_answered


def _answer_here(
    open_system: OpenSystem,
    batches: Iterable[Batch],
    begin: Callable[[], None],
    clock: Callable[[], float],
) -> Iterator[Answered]:
    system = open_system()
    begin()
    for batch in batches:
        yield answer_batch(batch, system, clock)


def answer_batch(
    batch: Batch, system: System, clock: Callable[[], float] = time.perf_counter
) -> Answered:
    """The records of `batch`, those that failed with their error."""
    began = clock()
    records = _answer(batch.questions, system, batch.start)
    return Answered(records=tuple(records), seconds=clock() - began)


def _run_at_end(errors: Sequence[str | None]) -> int:
    n = 0
    for error in reversed(errors):
        if error is None:
            break
        n += 1
    return n


def _answer(batch: Sequence[Question], system: System, start: int) -> list[Record]:
    try:
        outputs = system.answer(batch)
        return [
            Record(n=start + place, question=question, output=output)
            for place, (question, output) in enumerate(zip(batch, outputs, strict=True))
        ]
    except SelfRAGError as error:
        if len(batch) == 1:
            return [Record(n=start, question=batch[0], error=str(error))]
    return [
        record
        for place, question in enumerate(batch)
        for record in _answer([question], system, start + place)
    ]


def cluster_answerer(cluster: Cluster) -> Answerer:
    """Answers batches on the workers of `cluster`, each of which opens its own system once.

    Batches are given in order; what comes early waits. `open_system` is pickled. Raises what
    opening a system raised on a worker, and `SelfRAGError` where workers are lost again and again.
    """

    def answer(open_system: OpenSystem, batches: Iterable[Batch]) -> Iterator[Answered]:
        pieces = ((open_system, batch) for batch in batches)
        early: dict[int, Answered] = {}
        n_given = 0
        for number, answered in cluster.run(_answer_there, pieces):
            early[number] = answered
            while n_given in early:
                yield early.pop(n_given)
                n_given += 1

    return answer


def _answer_there(open_system: OpenSystem, batch: Batch) -> Answered:
    """What a worker runs, once more elsewhere when its node is lost."""
    return answer_batch(batch, once_a_process(open_system))
