"""The events of a search as JSON lines, and back: a search can be looked at again without a model.

Knows nothing of engines; what a row holds is in `trace_rows` and docs/formats.md. A file grows by
whole lines and may hold many runs, one after the other; a line may also be the record of an
evaluation, which holds the rows of its question.
"""

import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from selfrag.decode.config import SearchConfig
from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    GateEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
    SkipEvent,
)
from selfrag.decode.node import Node
from selfrag.errors import BadInput, ConfigError, StorageError
from selfrag.trace.rows import (
    config_from_row,
    config_to_row,
    event_from_row,
    event_to_row,
    node_from_row,
    node_to_row,
    typed,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedQuestion:
    """One question of a trace, and what was known of it beforehand.

    `answers`: gold strings, empty where none are known. `config` None: it was not recorded.
    """

    text: str
    id: str | None = None
    answers: tuple[str, ...] = ()
    config: SearchConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What one or more searches told. `Event.question` counts into `questions`, from 0."""

    questions: tuple[TracedQuestion, ...]
    events: tuple[Event, ...]

    @property
    def texts(self) -> list[str]:
        """The questions as asked: what `collect_answers` takes beside `events`."""
        return [question.text for question in self.questions]

    @property
    def closed_sets(self) -> list[tuple[str, ...]]:
        """The choices of every question, none where no configuration was recorded."""
        return [each.config.choices if each.config else () for each in self.questions]


class TraceEncoder:
    """The rows of one run, in order: those of its questions, then those of each event.

    `question_rows` come first. `rows_of` gives a node only once, before the first event that tells
    of it.
    """

    def __init__(
        self,
        questions: Sequence[str],
        *,
        answers: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        config: SearchConfig | None = None,
    ) -> None:
        golds = [()] * len(questions) if answers is None else answers
        names = [None] * len(questions) if ids is None else ids
        self.question_rows: list[dict[str, Any]] = [
            {
                "type": "question",
                "question": number,
                "id": name,
                "text": text,
                "answers": list(gold),
                "config": None if config is None else config_to_row(config),
            }
            for number, (text, gold, name) in enumerate(zip(questions, golds, names, strict=True))
        ]
        self._serials: dict[tuple[int, int], int] = {}  # by question and id of the node

    def rows_of(self, event: Event) -> list[dict[str, Any]]:
        """The rows of the nodes that no row told of yet, and that of `event`."""
        rows: list[dict[str, Any]] = []
        for node in _nodes_of(event):
            rows += self._new_nodes(node, event.question)
        return [*rows, event_to_row(event, lambda node: self._serials[event.question, node.id])]

    def _new_nodes(self, node: Node, question: int) -> list[dict[str, Any]]:
        """Rows of `node` and of the path before it, parents first, as far as they are new."""
        if (question, node.id) in self._serials:
            return []
        rows = [] if node.parent is None else self._new_nodes(node.parent, question)
        self._serials[question, node.id] = len(self._serials)
        row = node_to_row(node, lambda each: self._serials[question, each.id])
        return [*rows, {"type": "node", "question": question, **row}]


class TraceWriter:
    """Adds one run to a trace file, event by event; a crash costs one line at most.

    The rows of all questions are written at once. `write` fits `on_event` of a search. Used as a
    context manager, it closes the file. Raises `StorageError` when the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        questions: Sequence[str],
        *,
        answers: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        config: SearchConfig | None = None,
    ) -> None:
        self._encoder = TraceEncoder(questions, answers=answers, ids=ids, config=config)
        self._path = path
        try:
            self._file = path.open("a+b")
            start = _missing_line_end(self._file)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._append(self._encoder.question_rows, start=start)

    def write(self, event: Event) -> None:
        """Adds one event, and before it the nodes that the trace does not hold yet."""
        self._append(self._encoder.rows_of(event))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, rows: Iterable[dict[str, Any]], *, start: bytes = b"") -> None:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        # What UTF-8 cannot hold, a lone surrogate, becomes the escape that JSON has for it.
        encoded = "".join(lines).encode(errors="backslashreplace")
        try:
            self._file.write(start + encoded)
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write a trace to {self._path}: {error.strerror or error}; expected a writable "
            "file in an existing folder, so make the folder or name another"
        )


def save_trace(
    path: Path,
    questions: Sequence[str],
    events: Iterable[Event],
    *,
    answers: Sequence[Sequence[str]] | None = None,
    ids: Sequence[str] | None = None,
    config: SearchConfig | None = None,
) -> None:
    """Adds the events of one search to `path`, which is made if it is not there.

    `answers` are the gold strings of each question, `ids` its names elsewhere.
    """
    with TraceWriter(path, questions, answers=answers, ids=ids, config=config) as writer:
        for event in events:
            writer.write(event)


def load_trace(*paths: Path) -> Trace:
    """The events of all runs in these files, in order, as the searches told them.

    Question numbers are made unique by counting on; a node that several events tell of is one
    object. A line that a crash cut short is left out with a warning. Raises `BadInput` with
    file and line for a file that is no trace.
    """
    reader = _Reader()
    for path in paths:
        for number, row in _rows(path):
            try:
                # A record of an evaluation holds the rows of one question.
                for each in row["trace"] if row.get("type") == "record" else [row]:
                    reader.take(each)
            except KeyError as error:
                raise _not_a_trace(path, number, f"lacks the field {error.args[0]!r}") from error
            except (TypeError, ValueError, AttributeError, ConfigError) as error:
                raise _not_a_trace(path, number, f"is no row of a trace ({error})") from error
        reader.end_run()
    return Trace(questions=tuple(reader.questions), events=tuple(reader.events))


class _Reader:
    """Rows in, questions and events out, with numbers that no two runs share."""

    def __init__(self) -> None:
        self.questions: list[TracedQuestion] = []
        self.events: list[Event] = []
        self._numbers: dict[int, int] = {}  # as recorded in this run: as told
        self._nodes: dict[tuple[int, int], Node] = {}

    def end_run(self) -> None:
        """What comes next may use all numbers again."""
        self._numbers.clear()
        self._nodes.clear()

    def take(self, row: dict[str, Any]) -> None:
        recorded = typed(row, "question", int)
        if row["type"] == "question":
            if recorded in self._numbers:
                self.end_run()
            self._numbers[recorded] = len(self.questions)
            self.questions.append(_question_from_row(row))
            return
        if recorded not in self._numbers:
            raise ValueError(f"no question has the number {recorded} so far")
        question = self._numbers[recorded]

        def node_of(serial: int) -> Node:
            if (question, serial) not in self._nodes:
                raise ValueError(f"no node of question {recorded} has the number {serial} so far")
            return self._nodes[question, serial]

        if row["type"] == "node":
            self._nodes[question, typed(row, "node", int)] = node_from_row(row, node_of)
        else:
            self.events.append(event_from_row(row, question, node_of))


def _question_from_row(row: dict[str, Any]) -> TracedQuestion:
    if not all(isinstance(answer, str) for answer in row["answers"]):
        raise TypeError(f"answers are {row['answers']!r}, expected strings")
    config = row["config"]
    return TracedQuestion(
        text=typed(row, "text", str),
        id=None if row["id"] is None else typed(row, "id", str),
        answers=tuple(row["answers"]),
        config=None if config is None else config_from_row(config),
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects of a file, without lines that a crash cut short."""
    lines = _lines(path)
    for index, (number, line) in enumerate(lines):
        try:
            yield number, _object(line)
        except ValueError as error:
            if index == 0 or not _is_torn(line, [each for _, each in lines[index + 1 :][:1]]):
                raise _not_a_trace(path, number, f"is no JSON object ({error})") from error
            logger.warning(
                "line %d of %s was cut short, as by a crash, and is left out; the search that it "
                "tells of may lack its end",
                number,
                path,
            )


def _lines(path: Path) -> list[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"cannot read a trace from {path}: {error.strerror}; expected a readable file, "
            "so name another"
        ) from error
    numbered = enumerate(io.BytesIO(content), start=1)  # lines end at \n only
    return [(number, line) for number, line in numbered if line.strip()]


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(row, dict):
        raise ValueError(f"found {row!r:.40}")
    return row


def _is_torn(line: bytes, following: Sequence[bytes]) -> bool:
    """Whether a line was cut short: it ends the file without a line end, or a run begins next."""
    if not following:
        return not line.endswith(b"\n")
    try:
        row = _object(following[0])
    except ValueError:
        return False
    return row.get("type") == "question" and row.get("question") == 0


def _not_a_trace(path: Path, number: int, found: str) -> BadInput:
    return BadInput(
        f"cannot read a trace from {path}: line {number} {found}; expected the rows of "
        "docs/formats.md, so name another file or drop the line"
    )


def _missing_line_end(file: BinaryIO) -> bytes:
    """What has to come before a new line, so that it does not join one that was cut short."""
    size = file.seek(0, 2)
    file.seek(max(size - 1, 0))
    return b"" if file.read() in (b"", b"\n") else b"\n"


def _nodes_of(event: Event) -> tuple[Node, ...]:
    match event:
        case GateEvent():
            return ()
        case RetrievalEvent() | SkipEvent():
            return (event.parent,)
        case CandidateEvent() | KeepEvent() | PruneEvent():
            return (event.node,)
        case FinishEvent():
            return (event.best, *event.beam)
