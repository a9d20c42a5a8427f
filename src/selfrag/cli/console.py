"""Where commands print: answers on standard output, sentences and progress on standard error.

What is shown is what was written: no text becomes an emoji, and none is obeyed by the terminal.
"""

import json
import logging
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from selfrag.serial import finite

LEAST_COLUMNS, USUAL_COLUMNS = 20, 80
LINE_EVERY_S = 60.0  # where no bar can be drawn
_ETA_FROM_S = 600.0  # the time remaining is judged by; rich's 30 s know nothing of slower steps
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
        self.under_way: _Bar | _Lines | None = None  # one at a time, whoever tells of it

    @property
    def has_bars(self) -> bool:
        """Whether a bar can be drawn: not in a file, whatever FORCE_COLOR says of it."""
        return self.is_interactive and self.file.isatty()

    def end_progress(self) -> None:
        """Takes an open bar away, or ends the lines in its place."""
        if self.under_way is not None:
            self.under_way.close()
            self.under_way = None

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


class LogLines(logging.Handler):
    """Log records as lines of `console`, above the bar where one is drawn."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """The record as its formatter writes it."""
        self._console.print(visible(self.format(record)), markup=False)


class Reporter:
    """Says what is being done and how far it is: a bar in a terminal, a line a minute elsewhere."""

    def __init__(
        self, console: Terminal | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or stderr
        self._clock = clock

    def say(self, message: str) -> None:
        """One line."""
        self.console.print(one_line(message), style="dim", markup=False)

    def progress(self, label: str, done: int, total: int, *, said: str = "") -> None:
        """`done` of `total`, which is 0 where nobody knows it.

        A new label begins anew, and what is complete goes away. `said` is shown instead of the
        count.
        """
        shown, is_known = self.console.under_way, total > 0
        if shown is None or (shown.label, shown.is_known) != (label, is_known):
            self.close()
            if self.console.has_bars:
                shown = _Bar(self.console, label, is_known)
            else:
                shown = _Lines(self.console, label, is_known, self._clock)
            self.console.under_way = shown
        shown.tell(done, total, one_line(said))
        if is_known and done >= total:
            self.close()

    def close(self) -> None:
        """What was under way has ended."""
        self.console.end_progress()


class _Bar:
    """A bar with the time remaining, or one that only moves; it is erased in the end."""

    def __init__(self, console: Console, label: str, is_known: bool) -> None:
        self.label, self.is_known = label, is_known
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn() if is_known else TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=_ETA_FROM_S,
            redirect_stdout=False,  # it may be a file, and what is printed there belongs there
        )
        self._task = self._progress.add_task(one_line(label), total=None)

    def tell(self, done: int, total: int, said: str) -> None:
        """Moves on to `done` of `total`; drawn from the first time on."""
        # Not when it is made: the console has to know it, else Ctrl-C now would leave it there.
        self._progress.start()
        self._progress.update(
            self._task,
            completed=done,
            total=total if self.is_known else None,
            description=said or one_line(self._described(done)),
        )

    def _described(self, done: int) -> str:
        return self.label if self.is_known or not done else f"{self.label}: {done:,}"

    def close(self) -> None:
        """Erases the bar."""
        self._progress.stop()


class _Lines:
    """A line a minute with the time remaining, told by a thread while a step takes longer.

    Says nothing of what is over within the first minute, and how long it took of what is not.
    """

    def __init__(
        self, console: Console, label: str, is_known: bool, clock: Callable[[], float]
    ) -> None:
        self.label, self.is_known = label, is_known
        self._console, self._clock = console, clock
        self._start = self._last = clock()
        self._first: int | None = None  # done before the start, in an earlier run
        self._done, self._total, self._said = 0, 0, ""
        self._lock, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def tell(self, done: int, total: int, said: str) -> None:
        """Notes `done` of `total`; a line where the last one is a minute ago."""
        with self._lock:
            if self._first is None:
                self._first = done
            self._done, self._total, self._said = done, total, said
            if not (self.is_known and done >= total):  # the last line tells of that
                self._print_if_due()

    def close(self) -> None:
        """A last line, where there was one before."""
        with self._lock:
            self._ended.set()
            if self._last > self._start:
                self._print(f"{_duration(self._clock() - self._start)} in all")

    def _watch(self) -> None:
        while not self._ended.wait(LINE_EVERY_S):
            with self._lock:
                if not self._ended.is_set():
                    self._print_if_due()

    def _print_if_due(self) -> None:
        now = self._clock()
        if now - self._last < LINE_EVERY_S:
            return
        self._last = now
        seconds, n_new = now - self._start, self._done - (self._first or 0)
        if self.is_known and n_new > 0:
            left = seconds / n_new * (self._total - self._done)
            self._print(f"{_duration(left)} left")
        else:
            self._print(f"{_duration(seconds)} so far")

    def _print(self, time_told: str) -> None:
        count = self._said
        if self.is_known:
            share = f"({self._done * 100 // self._total} %)"
            count = f"{count or f'{self._done:,} of {self._total:,}'} {share}"
        elif self._done and not count:
            count = f"{self._done:,}"
        line = f"{self.label}: {count}" if count else self.label
        self._console.print(one_line(f"{line}, {time_told}"), markup=False)


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 0:05:10."""
    return str(timedelta(seconds=round(seconds)))
