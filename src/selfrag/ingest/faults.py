"""What could not be read, named so that its owner finds it.

Knows nothing of formats; reading goes on after every fault.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selfrag.text import counted

logger = logging.getLogger(__name__)

# Of one file so many lines are named; of the others the number. A dump has millions.
LINES_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file of which nothing was read, or (`whole` is false) something is missing or doubtful.

    `line` counts from 1; 0 where the fault is not in one line. `is_empty`: it was read, and there
    is no text in it.
    """

    path: Path
    reason: str
    line: int = 0
    whole: bool = True
    is_empty: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(printable(self.path)))

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.reason}"


def printable(name: str | Path) -> str:
    r"""A file's name with the bytes of it that are not UTF-8 spelt out, as in `\udce9`."""
    return str(name).encode("utf-8", "backslashreplace").decode()


OnSkip = Callable[[Skipped], None]


def log_skip(skipped: Skipped) -> None:
    """Reports to the log, for callers that have no better place."""
    logger.warning("skipped %s", skipped)


class LineFaults:
    """The faults in the lines of one file: the first named one by one, the rest as a number."""

    def __init__(self, path: Path, on_skip: OnSkip) -> None:
        self._path = path
        self._on_skip = on_skip
        self._n_lines = 0
        self._n_blank = 0

    def line(self, line: int, reason: str) -> None:
        """A line that could not be used."""
        self._n_lines += 1
        if self._n_lines <= LINES_NAMED:
            self._on_skip(Skipped(path=self._path, reason=reason, line=line, whole=False))

    def blank(self) -> None:
        """A row without text."""
        self._n_blank += 1

    def close(self) -> None:
        """Reports the numbers."""
        if self._n_lines > LINES_NAMED:
            self._part(f"{counted(self._n_lines - LINES_NAMED, 'more line')} could not be used")
        if self._n_blank:
            self._part(f"{counted(self._n_blank, 'row')} without text")

    def note(self, reason: str) -> None:
        """A doubt about the file."""
        self._part(reason)

    def _part(self, reason: str) -> None:
        self._on_skip(Skipped(path=self._path, reason=reason, whole=False))
