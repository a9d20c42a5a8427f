"""Records: what a system said to each question, as JSON lines that outlive the process.

A batch is appended in one write and reaches the disk before the next begins, so a crash costs the
batch in flight and nothing else. Records hold no times: the same run gives the same bytes. Knows
nothing of how answers come about or are judged.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from selfrag.decode.answer import hit_to_json
from selfrag.errors import BadInput, StorageError
from selfrag.passage import Hit, Passage

RECORDS = "records.jsonl"
TIMINGS = "timings.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a system is asked and judged by; `row` counts the rows of its file, from 1.

    `text`: as asked, and what is searched. `instruction`: what the model reads. `answers`: gold
    strings; of a closed set the one label. `labels` and `options`: the closed set, and what stands
    behind its letters where it has letters. `facets`: for each part of an ambiguous question its
    gold strings (ASQA). `references`: long answers by people. `topic`: whom a biography is of.
    `passages` come with the question, best first.
    """

    id: str
    row: int
    text: str
    instruction: str
    answers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    facets: tuple[tuple[str, ...], ...] = ()
    references: tuple[str, ...] = ()
    topic: str = ""
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence or segment of an answer; `citations` count into `Output.passages`, from 1."""

    text: str
    citations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a language model was asked in words, and what it wrote."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a system said to one question.

    `passages`: those read on the way to the answer, which citations count into. `choice`: of a
    closed set. `support`: of the least supported sentence, in [0, 1], None where none was judged.
    `n_tokens`: written in all, rejected candidates included; `n_passages`: read in all. `calls`
    and `trace`, rows of docs/formats.md, tell how it came about.
    """

    text: str
    sentences: tuple[Sentence, ...] = ()
    passages: tuple[Hit, ...] = ()
    retrieved: bool = False
    abstained: bool = False
    choice: str | None = None
    support: float | None = None
    n_tokens: int = 0
    n_passages: int = 0
    calls: tuple[Call, ...] = ()
    trace: tuple[Mapping[str, Any], ...] = ()

    @property
    def cited(self) -> tuple[Passage, ...]:
        """The passages cited anywhere, in order, each once."""
        numbers = dict.fromkeys(n for sentence in self.sentences for n in sentence.citations)
        return tuple(self.passages[number - 1].passage for number in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Question `n`, from 0, and what came of it: an output, or the error that prevented one."""

    n: int
    question: Question
    output: Output | None = None
    error: str | None = None


def record_to_row(record: Record) -> dict[str, Any]:
    """The record as the JSON object of docs/formats.md."""
    output = record.output
    return {
        "type": "record",
        "n": record.n,
        "question": question_to_row(record.question),
        "error": record.error,
        "output": None if output is None else _output_to_row(output),
        "trace": [] if output is None else list(output.trace),
    }


def _output_to_row(output: Output) -> dict[str, Any]:
    return {
        "text": output.text,
        "sentences": [asdict(sentence) for sentence in output.sentences],
        "passages": [hit_to_json(hit) for hit in output.passages],
        "retrieved": output.retrieved,
        "abstained": output.abstained,
        "choice": output.choice,
        "support": output.support,
        "tokens": output.n_tokens,
        "passages_read": output.n_passages,
        "calls": [asdict(call) for call in output.calls],
    }


def question_to_row(question: Question) -> dict[str, Any]:
    """The question as a JSON object, without its passages."""
    names = [each.name for each in fields(Question) if each.name != "passages"]
    return {name: getattr(question, name) for name in names}


def record_from_row(row: Mapping[str, Any]) -> Record:
    """The record of `record_to_row`; raises `KeyError`, `TypeError` or `ValueError`."""
    output = row["output"]
    return Record(
        n=row["n"],
        question=question_from_row(row["question"]),
        error=row["error"],
        output=None if output is None else _output_from_row(output, row["trace"]),
    )


def question_from_row(row: Mapping[str, Any]) -> Question:
    """The question of `question_to_row`; raises `KeyError` or `TypeError` for anything else."""
    values = {each.name: row[each.name] for each in fields(Question) if each.name != "passages"}
    lists = ("answers", "labels", "options", "references")
    facets = tuple(tuple(facet) for facet in values["facets"])
    return Question(**values | {name: tuple(values[name]) for name in lists} | {"facets": facets})


def _output_from_row(row: Mapping[str, Any], trace: Sequence[Mapping[str, Any]]) -> Output:
    passages = tuple(_hit_from_row(hit) for hit in row["passages"])
    sentences = tuple(
        Sentence(text=each["text"], citations=tuple(each["citations"])) for each in row["sentences"]
    )
    for sentence in sentences:
        if not all(1 <= number <= len(passages) for number in sentence.citations):
            raise ValueError(f"citations {sentence.citations} of {len(passages)} passages")
    return Output(
        text=row["text"],
        sentences=sentences,
        passages=passages,
        retrieved=row["retrieved"],
        abstained=row["abstained"],
        choice=row["choice"],
        support=row["support"],
        n_tokens=row["tokens"],
        n_passages=row["passages_read"],
        calls=tuple(Call(**call) for call in row["calls"]),
        trace=tuple(trace),
    )


def _hit_from_row(row: Mapping[str, Any]) -> Hit:
    passage = Passage(**{name: row[name] for name in ("id", "title", "text", "source")})
    return Hit(passage=passage, score=row["score"], rank=row["rank"])


def load_records(path: Path) -> list[Record]:
    """The records of a file, by their number; a line that a crash cut short is left out.

    Raises `BadInput` with file and line for what is no record.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"cannot read records from {path}: {error.strerror}; expected the folder of a run of "
            "`selfrag eval`, so name one"
        ) from error
    lines = content.split(b"\n")[:-1]  # what follows the last line end is none or torn
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(record_from_row(json.loads(line)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"cannot read records from {path}: line {number} is no record ({error!r}); "
                "expected the form of docs/formats.md, so run the evaluation again"
            ) from error
    return sorted(records, key=lambda record: record.n)


class RecordFile:
    """The growing records of one run in a folder that no other process writes to.

    Opening cuts off what a crash left half-written: `n_done` questions are answered then, always
    whole batches of `batch_size` (the last one may be shorter). Used as a context manager.
    Raises `StorageError`, and `BadInput` when another process is at it.
    """

    def __init__(self, folder: Path, *, n_questions: int, batch_size: int) -> None:
        self._folder = folder
        try:
            self._records = (folder / RECORDS).open("a+b")
            self._timings = (folder / TIMINGS).open("a+b")
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            _lock(self._records, folder)
        except BadInput:
            self.close()
            raise
        n_lines = _whole_lines(self._records)
        is_whole = n_lines == n_questions
        self.n_done = n_lines if is_whole else n_lines - n_lines % batch_size
        _cut_after(self._records, self.n_done)
        _cut_after(self._timings, self.n_done)

    def append(self, records: Sequence[Record], seconds: float) -> None:
        """Adds one batch, which took `seconds` in all, and forces it to the disk."""
        share = round(seconds / max(len(records), 1), 4)
        times = [{"id": record.question.id, "seconds": share} for record in records]
        try:
            # Times first: a record without a time would count as free.
            _write(self._timings, times)
            _write(self._records, [record_to_row(record) for record in records])
        except OSError as error:
            raise self._cannot_write(error) from error
        self.n_done += len(records)

    def close(self) -> None:
        """Closes the files, and lets other processes write."""
        self._records.close()
        self._timings.close()

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _cannot_write(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write records to {self._folder}: {error.strerror or error}; expected a "
            "writable folder with room, so make room or name another"
        )


def load_seconds(folder: Path) -> dict[str, float]:
    """The seconds of every question by its id; empty where none were kept."""
    path = folder / TIMINGS
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return {row["id"]: float(row["seconds"]) for row in rows}


def without_failures(folder: Path) -> int:
    """Takes out all records from the first failed question on, so that they are answered again.

    The number of records left; opening the file leaves the whole batches of them.
    """
    with (folder / RECORDS).open("a+b") as file:
        _lock(file, folder)
        records = load_records(folder / RECORDS)
        kept = next((record.n for record in records if record.error is not None), len(records))
        _cut_after(file, kept)
    return kept


def records_digest(folder: Path) -> str:
    """SHA-256 of the records of a run: what was measured of others does not hold for these."""
    with (folder / RECORDS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BadInput(
            f"cannot evaluate into {folder}: another process is writing there; expected a folder "
            "of its own for every run, so wait for it or name another"
        ) from error


def _write(file: BinaryIO, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    # What UTF-8 cannot hold, a lone surrogate, becomes the escape that JSON has for it.
    file.write("".join(lines).encode(errors="backslashreplace"))
    file.flush()
    os.fsync(file.fileno())


def _whole_lines(file: BinaryIO) -> int:
    file.seek(0)
    return sum(line.endswith(b"\n") for line in file)


def _cut_after(file: BinaryIO, n_lines: int) -> None:
    """Leaves the first `n_lines` lines."""
    file.seek(0)
    size = sum(len(file.readline()) for _ in range(n_lines))
    file.truncate(size)
    file.seek(0, os.SEEK_END)
