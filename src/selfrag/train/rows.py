"""Training files, row by row: the released schema and our records, side by side.

A row with `segments` is a generator record (docs/formats.md). A row with `output` is one of the
released data (AkariAsai/self-rag 1fcdc42, `postprocess_data.py`), whose answer is one string with
the reflection tokens in it. A row that is neither is rejected and the next one is read. Knows
nothing of tokenizers.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfrag.errors import BadInput
from selfrag.reflection import REFLECTION_TOKENS, Marker, ReflectionToken, Relevance, Retrieve
from selfrag.released import GeneratorRecord, open_text, record_from_json

T = TypeVar("T")

MAX_REJECT_CHARS = 2000

_TOKENS = {token.value: token for token in REFLECTION_TOKENS}
_TOKEN = re.compile("|".join(re.escape(surface) for surface in _TOKENS))
_END = re.escape(Marker.PARAGRAPH_END)
# The released data write IsRel right behind every passage, so `</paragraph>` inside a passage is
# told from the one that ends it where IsRel follows the latter.
_CERTAIN_END = re.compile(_END + "(?=" + "|".join(re.escape(token) for token in Relevance) + ")")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionRow:
    """One row of the released schema; `task_input` is its `input`."""

    instruction: str
    output: str
    task_input: str = ""
    id: str = ""
    dataset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that cannot be used: its line, from 1, why, and its first 2,000 characters."""

    line: int
    reason: str
    text: str


Row = GeneratorRecord | InstructionRow


@dataclass(frozen=True, slots=True)
class PassageText:
    """A passage in an answer, without its markers; not `closed` where the answer ends in it."""

    text: str
    closed: bool


def read_rows(path: Path) -> Iterator[tuple[int, Row | Reject]]:
    """Every row of a training file, with its number from 1; see `read_json_rows`."""
    return read_json_rows(path, lambda number, data: _row(data))


def read_json_rows(
    path: Path, parse: Callable[[int, dict[str, Any]], T]
) -> Iterator[tuple[int, T | Reject]]:
    """What `parse` makes of every object in JSON Lines or a JSON list, with its number from 1.

    Where `parse` raises `KeyError`, `TypeError` or `ValueError`, or a row is no object, there is a
    `Reject`. Blank lines go. Raises `BadInput` for a file that cannot be read at all.
    """
    try:
        for number, text in _texts(path):
            yield number, _parsed(number, text, parse)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"cannot read training rows from {path}: {error}; expected JSON lines in UTF-8, "
            "so convert the file"
        ) from error


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    with open_text(path, "training rows") as file:
        first = file.read(1)
        file.seek(0)
        if first != "[":
            yield from ((n, line) for n, line in enumerate(file, start=1) if line.strip())
            return
        try:
            rows = json.load(file)
        except ValueError as error:
            raise BadInput(
                f"cannot read training rows from {path}: {error}; expected a JSON list or one "
                "JSON object a line"
            ) from error
    yield from ((n, json.dumps(row, ensure_ascii=False)) for n, row in enumerate(rows, start=1))


def _parsed(number: int, text: str, parse: Callable[[int, dict[str, Any]], T]) -> T | Reject:
    try:
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair is no text
        if not isinstance(data, dict):
            raise TypeError(f"is {type(data).__name__}, not an object")
        return parse(number, data)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = _reason(error)
        return Reject(line=number, reason=reason, text=text[:MAX_REJECT_CHARS].rstrip("\n"))


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"misses {error}"
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return f"is not JSON ({error})"
    said = str(error)
    return said if said.startswith(("is ", "has ")) else f"is no such row ({said})"


def _row(data: dict[str, Any]) -> Row:
    if "segments" in data:
        return record_from_json(data)
    row = InstructionRow(
        instruction=text_of(data, "instruction"),
        output=text_of(data, "output"),
        task_input=text_of({"input": "", **data}, "input"),
        id=str(data.get("id", "")),
        dataset=str(data.get("dataset_name", "")),
    )
    if not row.instruction.strip() or not row.output.strip():
        raise ValueError("has an empty instruction or output")
    return row


def text_of(data: dict[str, Any], key: str) -> str:
    """The text of `data` at `key`; raises `KeyError` or `TypeError` where there is none."""
    value = data[key]
    if value is None and key == "input":
        return ""
    if not isinstance(value, str):
        raise TypeError(f"has {type(value).__name__} as {key}, not a string")
    return value


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
