"""Who is told how far long work is; nobody, unless the caller says so.

The command line draws it; knows nothing of what the work is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Who is told what takes long."""

    def say(self, message: str) -> None:
        """One line."""
        ...

    def progress(self, label: str, done: int, total: int) -> None:
        """`done` of `total`, which is 0 where nobody knows it."""
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


@contextmanager
def working(progress: Progress, label: str) -> Iterator[None]:
    """Tells of work of which nobody knows how long it takes, until it has ended."""
    progress.progress(label, 0, 0)
    try:
        yield
    finally:
        progress.close()
