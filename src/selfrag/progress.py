"""Who is told how far long work is; nobody, unless the caller says so.

The command line draws it; knows nothing of what the work is.
"""

from typing import Protocol


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
