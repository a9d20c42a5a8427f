"""Files of questions: JSON or JSON lines in, usable rows and rejects out."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput

N_NAMED = 3  # rejects named in a sentence

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that cannot be used; `line` counts from 1, in a JSON list it is the item."""

    line: int
    reason: str
    text: str


def question_of(row: Mapping[str, Any]) -> str:
    """`question`, else `instruction`, else BEIR's `text` beside an `_id`, stripped; else empty."""
    for name in ("question", "instruction", *(["text"] if "_id" in row else [])):
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def read_questions(path: Path) -> tuple[list[Row], list[Reject]]:
    """The rows with a question, in order, and the others; empty lines are nothing.

    The file holds a JSON object a line, or is one JSON list, alone or under `data`. Raises
    `BadInput` when it cannot be read or no row can be used.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"cannot read questions from {path}: {error.strerror}; expected a readable JSON or "
            "JSONL file, so name another"
        ) from error
    listed = _listed(content)
    if listed is None:
        lines = enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
        found = [_parsed(number, line) for number, line in lines if line.strip()]
    else:
        found = [_checked(number, item, json.dumps(item)) for number, item in enumerate(listed, 1)]
    rows = [each for each in found if not isinstance(each, Reject)]
    rejects = [each for each in found if isinstance(each, Reject)]
    if not rows:
        what = f"none with a question in {len(rejects)} rows" if rejects else "no rows"
        detail = f" ({named(rejects)})" if rejects else ""
        raise BadInput(
            f"cannot read questions from {path}: found {what}{detail}; expected JSON objects with "
            "`question` or `instruction`, so mend them or name another file"
        )
    return rows, rejects


def named(rejects: Sequence[Reject]) -> str:
    """The first rejects in words."""
    first = ", ".join(f"line {each.line} ({each.reason})" for each in rejects[:N_NAMED])
    return first + (f" and {len(rejects) - N_NAMED} more" if len(rejects) > N_NAMED else "")


def _listed(content: bytes) -> list[Any] | None:
    """The list of a file that is one JSON value; None where it has a value a line.

    Judged by content: released files with a value a line are called .json too.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (RecursionError, ValueError):
        return None
    found = value.get("data") if isinstance(value, dict) else value
    return found if isinstance(found, list) else None


def _parsed(number: int, line: bytes) -> Row | Reject:
    text = line.decode("utf-8", "replace").strip()
    try:
        return _checked(number, json.loads(line.decode()), text)
    except UnicodeDecodeError:
        return Reject(line=number, reason="not UTF-8", text=text)
    except (RecursionError, ValueError):
        return Reject(line=number, reason="not JSON", text=text)


def _checked(number: int, row: Any, text: str) -> Row | Reject:
    if not isinstance(row, dict):
        return Reject(line=number, reason="no JSON object", text=text)
    if not question_of(row):
        return Reject(line=number, reason="no question", text=text)
    return row


def question_from(argument: str | None) -> str:
    """The question as given, or from standard input for `-`; raises `BadInput` when empty."""
    question = sys.stdin.read() if argument == "-" else argument or ""
    if not question.strip():
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            'so write one, as in selfrag ask "Which planet has the moon Titan?"'
        )
    return question.strip()
