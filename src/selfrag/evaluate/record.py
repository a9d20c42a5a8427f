"""Records: what a system said to each question, as JSON lines that outlive the process.

A batch is appended in one write and reaches the disk before the next begins, so a crash costs the
batch in flight and nothing else. Records hold no times: the same run gives the same bytes. Knows
nothing of how answers come about or are judged.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from selfrag.decode.answer import hit_to_json
from selfrag.errors import BadInput
from selfrag.files import AppendLog, complete_lines, file_sha256, storage_errors
from selfrag.passage import Hit, Passage
from selfrag.serial import from_builtins

RECORDS = "records.jsonl"
TIMINGS = "timings.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a system is asked and judged by; `row` counts the rows of its file, from 1.

    `text`: as asked, and what is searched. `instruction`: what the model reads. `answers`: gold
    strings; of a closed set the one label. `labels` and `options`: the closed set, and what stands
    behind its letters where it has letters. `facets`: for each part of an ambiguous question its
    gold strings (ASQA), and `facet_questions` that part as a question, empty where the row has
    none. `references`: long answers by people. `topic`: whom a biography is of.
    `passages` come with the question, best first.
    """

    id: str = ""
    row: int = 0
    text: str
    instruction: str
    answers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    facets: tuple[tuple[str, ...], ...] = ()
    facet_questions: tuple[str, ...] = ()
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
        question=from_builtins(Question, row["question"]),
        error=row["error"],
        output=None if output is None else _output_from_row(output, row["trace"]),
    )


def _output_from_row(row: Mapping[str, Any], trace: Sequence[Mapping[str, Any]]) -> Output:
    passages = tuple(
        Hit(passage=from_builtins(Passage, hit), score=hit["score"], rank=hit["rank"])
        for hit in row["passages"]
    )
    values = {"n_tokens": row["tokens"], "n_passages": row["passages_read"]}
    output = replace(
        from_builtins(Output, {**row, **values, "passages": ()}),
        passages=passages,
        trace=tuple(trace),
    )
    for sentence in output.sentences:
        if not all(1 <= number <= len(passages) for number in sentence.citations):
            raise ValueError(f"citations {sentence.citations} of {len(passages)} passages")
    return output


def load_records(path: Path) -> list[Record]:
    """The records of a file, by their number; a line that a crash truncated is left out.

    Raises `BadInput` with file and line for what is no record.
    """
    advice = "expected the folder of a run of `selfrag eval`, so name one"
    with storage_errors(f"read records from {path}", advice=advice, raises=BadInput):
        path.stat()
        lines = complete_lines(path)
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

    Opening removes what a crash left half-written: `n_done` questions are answered then, always
    complete batches of `batch_size` (the last one may be shorter). Used as a context manager.
    Raises `StorageError`, and `BadInput` while another process writes there.
    """

    def __init__(self, folder: Path, *, n_questions: int, batch_size: int) -> None:
        with ExitStack() as opened:
            self._records = opened.enter_context(AppendLog(folder / RECORDS, "records"))
            self._timings = opened.enter_context(AppendLog(folder / TIMINGS, "timings"))
            n_lines = len(self._records.lines())
            is_complete = n_lines == n_questions
            self.n_done = n_lines if is_complete else n_lines - n_lines % batch_size
            self._records.keep(self.n_done)
            self._timings.keep(self.n_done)
            self._opened = opened.pop_all()

    def append(self, records: Sequence[Record], seconds: float) -> None:
        """Adds one batch, which took `seconds` in all, and forces it to the disk."""
        share = round(seconds / max(len(records), 1), 4)
        # Times first: a record without a time would count as free.
        self._timings.append({"id": record.question.id, "seconds": share} for record in records)
        self._records.append(map(record_to_row, records))
        self.n_done += len(records)

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def load_seconds(folder: Path) -> dict[str, float]:
    """The seconds of every question by its id; empty where none were kept."""
    rows = map(json.loads, complete_lines(folder / TIMINGS))
    return {row["id"]: float(row["seconds"]) for row in rows}


def without_failures(folder: Path) -> int:
    """Removes all records from the first failed question on, so that they are answered again.

    The number of records left; opening the file leaves the complete batches of them.
    """
    with AppendLog(folder / RECORDS, "records") as file:
        records = load_records(folder / RECORDS)
        kept = next((record.n for record in records if record.error is not None), len(records))
        file.keep(kept)
    return kept


def records_digest(folder: Path) -> str:
    """SHA-256 of the records of a run: what was measured of others does not hold for these."""
    return file_sha256(folder / RECORDS, "records")
