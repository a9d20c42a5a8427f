"""Who is told how far long work is; nobody, unless the caller says so.

The command line draws it; knows nothing of what the work is.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

# A line after so many passages, and after every multiple of the last: a log file has no bar.
_TOLD_AT = (500, 1_000, 2_000, 5_000, 10_000, 20_000)


class Progress(Protocol):
    """Who is told what takes long."""

    def say(self, message: str) -> None:
        """One line."""
        ...

    def progress(self, label: str, done: int, total: int) -> None:
        """`done` of `total`."""
        ...

    def close(self) -> None:
        """The work under way has ended."""
        ...


class Silent:
    """Tells nobody."""

    def say(self, message: str) -> None:
        """Nothing."""

    def progress(self, label: str, done: int, total: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


SILENT = Silent()


def told_in_lines(progress: Progress) -> Callable[[int], None]:
    """Is told how many passages have been encoded, and says so every so many."""
    n_said = 0

    def tell(done: int) -> None:
        nonlocal n_said
        n_due = bisect_right(_TOLD_AT, done) + done // _TOLD_AT[-1]
        if n_due > n_said:
            n_said = n_due
            progress.say(f"{done} passages encoded")

    return tell
