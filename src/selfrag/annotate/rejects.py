"""What could not be used, kept with the reason: nothing is dropped in silence.

Knows nothing of what the rows are for.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from selfrag.errors import StorageError


class Stage(StrEnum):
    """Where a row got stuck."""

    READ = "read"
    ASK = "ask"  # no answer: a rerun asks again
    PARSE = "parse"  # an answer without a label
    ASSEMBLE = "assemble"  # left out by a rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One row, or one label of it, that could not be used. `reason` is one word, to be counted."""

    id: str
    stage: Stage
    reason: str
    detail: str
    row: Any = None

    def to_json(self) -> dict[str, Any]:
        """As documented in `docs/formats.md`."""
        return {
            "id": self.id,
            "stage": self.stage,
            "reason": self.reason,
            "detail": self.detail,
            "row": self.row,
        }


def beside(out: Path, ending: str) -> Path:
    """The file that lies beside `out`: its whole name, then `ending`."""
    return out.with_name(out.name + ending)


class Lines:
    """A file in the making, and how often each reason came up; unwanted, it never appears."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.is_wanted = True
        self.n_rows = 0
        self.reasons: Counter[str] = Counter()

    def add(self, row: dict[str, Any]) -> None:
        """One line."""
        line = json.dumps(row, ensure_ascii=False)
        if not _is_text(line):  # a lone surrogate has no place in UTF-8: escaped it has
            line = json.dumps(row)
        self.write(line + "\n")
        self.n_rows += 1

    def write(self, text: str) -> None:
        """Text that is no row, as it is."""
        self._file.write(text)

    def reject(self, reject: Reject) -> None:
        """One reject, counted by stage and reason."""
        self.add(reject.to_json())
        self.reasons[f"{reject.stage}: {reject.reason}"] += 1


@contextmanager
def writing(out: Path) -> Iterator[Lines]:
    """A file that appears under its name when the block ends well, and not before."""
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            lines = Lines(file)
            yield lines
            file.flush()
            os.fsync(file.fileno())
        if lines.is_wanted:
            partial.replace(out)
        else:
            partial.unlink()
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            f"cannot write {out}: {error.strerror or error}; expected a writable file in an "
            "existing folder, so make the folder or name another"
        ) from error


def _is_text(line: str) -> bool:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
