"""The bar of a run: how many, the running metric, how long it will take."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from selfrag.evaluate.metrics import METRICS
from selfrag.evaluate.run import Progress as Step


class RunningBar:
    """Draws one bar on `console`; the mean is over the questions answered in this process."""

    def __init__(self, console: Console, metric: str) -> None:
        self._metric = metric
        self._sum = 0.0
        self._n = self._n_failed = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("answering", total=None, visible=False)

    def update(self, step: Step) -> None:
        """A batch is done."""
        for record in step.records:
            if record.output is None:
                self._n_failed += 1
                continue
            value = METRICS[self._metric](record.question, record.output)
            if value is not None:
                self._sum, self._n = self._sum + value, self._n + 1
        mean = f"{self._metric} {self._sum / self._n:.3f}" if self._n else "answering"
        failed = f", {self._n_failed} failed" if self._n_failed else ""
        self._bar.update(
            self._task,
            description=f"{mean}{failed}",
            total=step.total,
            completed=step.done,
            visible=True,
        )

    def __enter__(self) -> "RunningBar":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
