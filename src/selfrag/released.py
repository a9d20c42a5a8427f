"""Annotated answers as data: generator records, and the output string of the released data.

A record says what the model should write and which parts of it are learned. A row of the released
data (AkariAsai/self-rag 1fcdc42, `postprocess_data.py`) is one string with the reflection tokens
and passages in it. Both are documented in `docs/formats.md`, and one training file may hold both.
Knows nothing of tokenizers, teachers or training.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.files import write_rows
from selfrag.passage import Passage
from selfrag.reflection import (
    REFLECTION_TOKENS,
    Marker,
    ReflectionToken,
    Relevance,
    Retrieve,
    Support,
    Utility,
)
from selfrag.rows import Reject, id_of, read_rows, text_field
from selfrag.serial import from_builtins

_TOKENS: dict[str, ReflectionToken] = {token.value: token for token in REFLECTION_TOKENS}
_TOKEN = re.compile("|".join(re.escape(surface) for surface in _TOKENS))
_CONTROL = (*_TOKENS, "<s>", "</s>")
_END = re.escape(Marker.PARAGRAPH_END)
# The released data write IsRel right behind every passage, so `</paragraph>` inside a passage is
# told from the one that ends it where IsRel follows the latter.
_CERTAIN_END = re.compile(_END + "(?=" + "|".join(re.escape(token) for token in Relevance) + ")")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """One segment: its retrieval decision, the passage read, the text and its critique.

    `answer`: the short answer that `text` begins with, if it does. `learn_text` and
    `learn_relevance` are False where a wrong text is shown only so that its
    critique can be learned.
    """

    retrieve: Retrieve
    text: str = ""
    answer: str = ""
    passage: Passage | None = None
    relevance: Relevance | None = None
    support: Support | None = None
    learn_text: bool = True
    learn_relevance: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRecord:
    """One annotated answer. Records with equal `group` share their instruction and first passage.

    `utility` None: the answer is left open, and no end of sequence follows.
    """

    id: str
    dataset: str
    instruction: str
    segments: tuple[SegmentRecord, ...]
    utility: Utility | None = None
    group: str = ""

    @property
    def surface(self) -> str:
        """The output string of the released generator data."""
        parts: list[str] = []
        for segment in self.segments:
            passage = passage_text(segment.passage) if segment.passage else ""
            parts += [segment.retrieve, passage]
            parts += [segment.relevance or "", segment.text, segment.support or ""]
        return "".join([*parts, self.utility or ""])


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionRow:
    """One row of the released schema; `task_input` is its `input`."""

    instruction: str
    output: str
    task_input: str = ""
    id: str = ""
    dataset: str = ""


@dataclass(frozen=True, slots=True)
class PassageText:
    """A passage in an answer, without its markers; not `closed` where the answer ends in it."""

    text: str
    closed: bool


TrainingRow = GeneratorRecord | InstructionRow


def passage_text(passage: Passage) -> str:
    """The passage between its markers, as it occurs in an output string."""
    return f"{Marker.PARAGRAPH_START}{passage.title}\n{passage.text}{Marker.PARAGRAPH_END}"


def without_control(text: str) -> str:
    """`text` with the brackets of what spells a control token made round, as in `(Relevant)`.

    Whoever reads an output string finds tokens by their spelling, so a source must not spell one.
    """
    for token in _CONTROL:
        if token in text:
            text = text.replace(token, f"({token[1:-1]})")
    return text


def split_output(output: str) -> Iterator[str | ReflectionToken | PassageText]:
    """The parts of an answer of the released data, in order; nothing between them is lost.

    A passage ends at the first `</paragraph>` that IsRel follows, or else at the first one before
    the next `[Retrieval]<paragraph>`. Reflection tokens inside of it are its text.
    """
    at = 0
    while found := _TOKEN.search(output, at):
        if found.start() > at:
            yield output[at : found.start()]
        token = _TOKENS[found.group()]
        at = found.end()
        if token is not Marker.PARAGRAPH_START:
            yield token
            continue
        end = _passage_end(output, at)
        yield PassageText(output[at : end[0]], end[1] > end[0])
        at = end[1]
    if at < len(output):
        yield output[at:]


def _passage_end(output: str, start: int) -> tuple[int, int]:
    """Where the body that begins at `start` ends, and where the marker behind it does."""
    certain = _CERTAIN_END.search(output, start)
    first = output.find(Marker.PARAGRAPH_END, start)
    following = output.find(Retrieve.YES + Marker.PARAGRAPH_START, start)
    if certain and not (first >= 0 and first < following < certain.start()):
        return certain.span()
    if first < 0:
        return len(output), len(output)
    return first, first + len(Marker.PARAGRAPH_END)


def read_training_rows(path: Path) -> Iterator[tuple[int, TrainingRow | Reject]]:
    """Every row of a training file, a record where it has `segments`, with its number from 1.

    Raises `BadInput` for a file that cannot be read at all.
    """
    return read_rows(path, _training_row, what="training rows")


def _training_row(number: int, data: dict[str, Any]) -> TrainingRow:
    if "segments" in data:
        return from_builtins(GeneratorRecord, data)
    return InstructionRow(
        instruction=text_field(data, "instruction", required=True),
        output=text_field(data, "output", required=True),
        task_input=text_field(data, "input"),
        id=id_of(data, "id"),
        dataset=text_field(data, "dataset_name"),
    )


def save_records(records: Iterable[GeneratorRecord], path: Path) -> None:
    """One JSON object a line; replaces `path`. Raises `StorageError` when it cannot be written."""
    write_rows(path, map(_record_to_json, records), "generator records")


def load_records(path: Path) -> Iterator[GeneratorRecord]:
    """The records of a JSONL file, in order; raises `BadInput` naming the line that is not one."""
    rows = read_rows(
        path, lambda number, data: from_builtins(GeneratorRecord, data), what="generator records"
    )
    for number, record in rows:
        if isinstance(record, Reject):
            raise BadInput(
                f"cannot read generator records from {path}: line {number} is not a record "
                f"({record.detail}); expected the schema of docs/formats.md, so fix or drop the "
                "line"
            )
        yield record


def _record_to_json(record: GeneratorRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "dataset": record.dataset,
        "group": record.group,
        "instruction": record.instruction,
        "segments": [_segment_to_json(segment) for segment in record.segments],
        "utility": record.utility,
        "output": record.surface,
    }


def _segment_to_json(segment: SegmentRecord) -> dict[str, Any]:
    passage = segment.passage
    return {
        "retrieve": segment.retrieve,
        "passage": passage and {"id": passage.id, "title": passage.title, "text": passage.text},
        "relevance": segment.relevance,
        "text": segment.text,
        "answer": segment.answer,
        "support": segment.support,
        "learn_text": segment.learn_text,
        "learn_relevance": segment.learn_relevance,
    }
