"""Generator records: one annotated answer, in the paper's format, as data.

A record says what the model should write and which parts of it are learned. The JSONL form is
documented in `docs/formats.md`. Knows nothing of tokenizers, teachers or training.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from selfrag.errors import BadInput, StorageError
from selfrag.passage import Passage
from selfrag.reflection import Marker, Relevance, Retrieve, Support, Utility


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
        """The output string of the released generator data (REFERENCE: `postprocess_data.py`)."""
        parts: list[str] = []
        for segment in self.segments:
            parts.append(segment.retrieve)
            if segment.passage is not None:
                body = f"{segment.passage.title}\n{segment.passage.text}"
                parts += [Marker.PARAGRAPH_START, body, Marker.PARAGRAPH_END]
            parts += [segment.relevance or "", segment.text, segment.support or ""]
        return "".join([*parts, self.utility or ""])


def open_text(path: Path, what: str) -> TextIO:
    """`path` opened for reading; raises `BadInput` saying `what` was to be read."""
    try:
        return path.open(encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"cannot read {what} from {path}: {error.strerror}; expected a readable file, "
            "so name another"
        ) from error


def save_records(records: Iterable[GeneratorRecord], path: Path) -> None:
    """One JSON object a line; replaces `path`. Raises `StorageError` when it cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(_record_to_json(record), ensure_ascii=False) + "\n")
    except OSError as error:
        raise StorageError(
            f"cannot write generator records to {path}: {error.strerror}; expected a writable "
            "file in an existing folder, so make the folder or name another"
        ) from error


def load_records(path: Path) -> Iterator[GeneratorRecord]:
    """The records of a JSONL file, in order; raises `BadInput` naming the line that is not one."""
    with open_text(path, "generator records") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield record_from_json(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                raise BadInput(
                    f"cannot read generator records from {path}: line {number} is not a record "
                    f"({error!r}); expected the schema of docs/formats.md, so mend or drop the line"
                ) from error


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


def record_from_json(data: dict[str, Any]) -> GeneratorRecord:
    """One record; raises `KeyError`, `TypeError` or `ValueError` where `data` is none."""
    utility = data["utility"]
    return GeneratorRecord(
        id=data["id"],
        dataset=data["dataset"],
        group=data.get("group", ""),
        instruction=data["instruction"],
        segments=tuple(_segment_from_json(segment) for segment in data["segments"]),
        utility=None if utility is None else Utility(utility),
    )


def _segment_from_json(data: dict[str, Any]) -> SegmentRecord:
    passage, relevance, support = data["passage"], data["relevance"], data["support"]
    return SegmentRecord(
        retrieve=Retrieve(data["retrieve"]),
        text=data["text"],
        answer=data.get("answer", ""),
        passage=None if passage is None else Passage(**passage),
        relevance=None if relevance is None else Relevance(relevance),
        support=None if support is None else Support(support),
        learn_text=data["learn_text"],
        learn_relevance=data["learn_relevance"],
    )
