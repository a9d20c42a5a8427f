"""Where commands print: answers on standard output, sentences and bars on standard error.

What is shown is what was written: no text becomes an emoji, and none is obeyed by the terminal.
"""

import json
import os
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from selfrag.serial import finite

LEAST_COLUMNS, USUAL_COLUMNS = 20, 80
# Characters that turn the direction of what follows, so that a text reads as another one.
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


def visible(text: str, *, keep: str = "\n\t") -> str:
    """`text` with characters that a terminal would obey spelled as escapes, but for `keep`."""
    return "".join(
        each if each in keep or not _is_obeyed(each) else ascii(each)[1:-1] for each in text
    )


def _is_obeyed(character: str) -> bool:
    # Controls, halves of surrogate pairs, line and paragraph separators.
    unseen = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return unseen or ord(character) in _TURNING


def one_line(text: str) -> str:
    """`text` as `visible` gives it, on one line."""
    return visible(text, keep="")


class Terminal(Console):
    """A console that prints strings as they are written; our own styles come as markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        width = USUAL_COLUMNS if _is_too_narrow() else None  # None: as the terminal says
        super().__init__(stderr=stderr, highlight=False, emoji=False, soft_wrap=True, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        """The string that rich is about to print, in a table or a tree too."""
        return super().render_str(visible(text), **options)


def _is_too_narrow() -> bool:
    """Whether COLUMNS, which goes before what the terminal says, leaves no room, as 0 does."""
    columns = os.environ.get("COLUMNS", "")
    return columns.isdigit() and int(columns) < LEAST_COLUMNS


stdout = Terminal()
stderr = Terminal(stderr=True)


def adapt_streams() -> None:
    """Lets standard output and error hold any text, and be as wide as something fits in.

    What their encoding lacks is written as an escape: an ASCII terminal loses no answer.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if _is_too_narrow():  # for the help, which Typer prints
        del os.environ["COLUMNS"]


def print_json(value: Any) -> None:
    """One JSON object on standard output, in ASCII where that is all that it can hold.

    A number that is not finite is null.
    """
    value = finite(value)
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


class Reporter:
    """Says what is being done, and draws one bar at a time for what takes long."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or stderr
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._label = ""

    def say(self, message: str) -> None:
        """One line."""
        self.console.print(one_line(message), style="dim", markup=False)

    def progress(self, label: str, done: int, total: int, *, said: str = "") -> None:
        """`done` of `total`; a new label starts a new bar, and a full bar goes away.

        `said` stands beside the bar instead of the label.
        """
        if self._bar is None or label != self._label:
            self.close()
            self._label = label
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task(label, total=total)
            self._bar.start()
        self._bar.update(
            self._task, completed=done, total=total, description=one_line(said or label)
        )
        if done >= total:
            self.close()

    def close(self) -> None:
        """Takes an open bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
