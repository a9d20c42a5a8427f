"""The events of a search as JSON lines, and back: a search can be looked at again without a model.

Knows nothing of engines; what a row holds is in `rows` and docs/formats.md. A file grows by
whole lines and may hold many runs, one after the other; a line may also be the record of an
evaluation, which holds the rows of its question.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

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
from selfrag.errors import BadInput, ConfigError
from selfrag.files import AppendLog, read_errors
from selfrag.rows import gold_strings, id_of
from selfrag.trace.rows import (
    config_from_row,
    config_to_row,
    event_from_row,
    event_to_row,
    node_from_row,
    node_to_row,
    typed,
    with_retrieval,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedQuestion:
    """One question of a trace, and what was known of it beforehand.

    `answers`: gold strings, empty where none are known. `config` and `model`, the name of the
    weights that answered, are None where they were not recorded.
    """

    text: str
    id: str | None = None
    answers: tuple[str, ...] = ()
    config: SearchConfig | None = None
    model: str | None = None


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
    def configs(self) -> list[SearchConfig]:
        """The settings of every search, the defaults where none were recorded."""
        return [each.config or SearchConfig() for each in self.questions]


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
        model: str | None = None,
    ) -> None:
        golds = [()] * len(questions) if answers is None else answers
        names = [None] * len(questions) if ids is None else ids
        self.question_rows: list[dict[str, Any]] = [
            {
                "type": "question",
                "question": number,
                "id": None if name is None else str(name),
                "text": text,
                "answers": list(gold_strings(gold)),
                "config": None if config is None else config_to_row(config),
                "model": model,
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

    def serial_of(self, node: Node, question: int = 0) -> int:
        """What the rows call `node`, of which one has told."""
        return self._serials[question, node.id]

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
    context manager, it closes the file. Raises what `AppendLog` raises.
    """

    def __init__(
        self,
        path: Path,
        questions: Sequence[str],
        *,
        answers: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        config: SearchConfig | None = None,
        model: str | None = None,
    ) -> None:
        self._encoder = TraceEncoder(
            questions, answers=answers, ids=ids, config=config, model=model
        )
        # Not forced to the disk event by event: a killed process loses nothing all the same.
        self._log = AppendLog(path, "a trace", sync=False)
        self._log.append(self._encoder.question_rows)

    def write(self, event: Event) -> None:
        """Adds one event, and before it the nodes that the trace does not hold yet."""
        self._log.append(self._encoder.rows_of(event))

    def close(self) -> None:
        """Closes the file."""
        self._log.close()

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def save_trace(
    path: Path,
    questions: Sequence[str],
    events: Iterable[Event],
    *,
    answers: Sequence[Sequence[str]] | None = None,
    ids: Sequence[str] | None = None,
    config: SearchConfig | None = None,
    model: str | None = None,
) -> None:
    """Adds the events of one search to `path`, which is made if it is not there.

    `answers` are the gold strings of each question, `ids` its names elsewhere, `model` the name of
    the weights as a calibration has it.
    """
    with TraceWriter(
        path, questions, answers=answers, ids=ids, config=config, model=model
    ) as writer:
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


def load_searches(path: Path) -> Trace:
    """What `load_trace` gives of one file; raises `BadInput` for one that holds no search."""
    trace = load_trace(path)
    if not trace.questions:
        raise BadInput(
            f"cannot show the searches of {path}: it holds none; expected a file that was written "
            "with --trace, so name one"
        )
    return trace


def trace_from_rows(rows: Iterable[dict[str, Any]]) -> Trace:
    """The events that `rows` tell, as those of one file; raises `BadInput` for what is no trace."""
    reader = _Reader()
    for number, row in enumerate(rows, start=1):
        try:
            reader.take(row)
        except KeyError as error:
            found = f"lacks the field {error.args[0]!r:.80}"
        except (TypeError, ValueError, AttributeError, OverflowError, ConfigError) as error:
            found = f"is none ({error!s:.200})"
        else:
            continue
        raise BadInput(
            f"cannot read the trace: row {number} {found}; expected the rows of docs/formats.md, "
            "so send those of a search as they were told"
        )
    return Trace(questions=tuple(reader.questions), events=tuple(reader.events))


class _Reader:
    """Rows in, questions and events out, with numbers that no two runs share."""

    def __init__(self) -> None:
        self.questions: list[TracedQuestion] = []
        self.events: list[Event] = []
        self._numbers: dict[int, int] = {}  # as recorded in this run: as told
        self._nodes: dict[tuple[int, int], Node] = {}
        self._best: dict[tuple[int, int], float] = {}  # of a look-up, by the node that it was for

    def end_run(self) -> None:
        """What comes next may use all numbers again."""
        self._numbers.clear()
        self._nodes.clear()
        self._best.clear()

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
            node = node_from_row(row, node_of)
            parent = row["parent"]
            if parent is not None and "retrieval" not in row["segment"]["scores"]:
                node = with_retrieval(node, self._best.get((question, parent), 0.0))
            self._nodes[question, typed(row, "node", int)] = node
        else:
            event = event_from_row(row, question, node_of)
            if isinstance(event, RetrievalEvent) and event.hits:
                self._best[question, row["parent"]] = max(hit.score for hit in event.hits)
            self.events.append(event)


def _question_from_row(row: dict[str, Any]) -> TracedQuestion:
    config = row["config"]
    return TracedQuestion(
        text=typed(row, "text", str),
        id=None if row["id"] is None else id_of(row, "id"),
        answers=gold_strings(row["answers"]),
        config=None if config is None else config_from_row(config),
        # Traces of earlier versions lack it.
        model=None if row.get("model") is None else typed(row, "model", str),
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects of a file, without lines that a crash cut short."""
    with read_errors("a trace", path):
        content = path.read_bytes()
    numbered = enumerate(content.split(b"\n"), start=1)  # not at any other line end
    lines = [(number, line) for number, line in numbered if line.strip()]
    for index, (number, line) in enumerate(lines):
        try:
            yield number, _object(line)
        except ValueError as error:
            following = [each for _, each in lines[index + 1 :][:1]]
            is_torn = _begins_a_run(*following) if following else not content.endswith(b"\n")
            if index == 0 or not is_torn:
                raise _not_a_trace(path, number, f"is no JSON object ({error})") from error
            logger.warning(
                "line %d of %s was cut short, as by a crash, and is left out; the search that it "
                "tells of may lack its end",
                number,
                path,
            )


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(row, dict):
        raise ValueError(f"found {row!r:.40}")
    return row


def _begins_a_run(line: bytes) -> bool:
    try:
        row = _object(line)
    except ValueError:
        return False
    return row.get("type") == "question" and row.get("question") == 0


def _not_a_trace(path: Path, number: int, found: str) -> BadInput:
    return BadInput(
        f"cannot read a trace from {path}: line {number} {found}; expected the rows of "
        "docs/formats.md, so name another file or drop the line"
    )


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
