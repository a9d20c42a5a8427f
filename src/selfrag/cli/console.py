"""Where commands print: answers on standard output, sentences and bars on standard error."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from selfrag.serial import finite

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One JSON object on standard output; null where a number is not finite."""
    sys.stdout.write(json.dumps(finite(value), ensure_ascii=False, indent=2) + "\n")


class Reporter:
    """Says what is being done, and draws one bar at a time for what takes long."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._label = ""

    def say(self, message: str) -> None:
        """One line."""
        self.console.print(message, style="dim", markup=False)

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
        self._bar.update(self._task, completed=done, total=total, description=said or label)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Takes an open bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
