"""`selfrag calibrate`: how probable answers are, from recorded searches with known answers."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from selfrag import plots
from selfrag.cli import options
from selfrag.cli.console import Reporter, print_json, stdout
from selfrag.decode.calibration import Calibration
from selfrag.files import check_outputs, write_json
from selfrag.open.calibrations import weights_name
from selfrag.open.engines import ModelOptions, check_name
from selfrag.progress import working
from selfrag.statistics import reliability, risk_coverage
from selfrag.text import counted
from selfrag.trace.calibrate import (
    WISHED,
    Fitted,
    alternatives_of,
    cases_of,
    fit,
    require_traces_of,
)
from selfrag.trace.candidates import recorded_questions
from selfrag.trace.file import load_trace


@options.command
def calibrate(
    *,
    traces: Annotated[
        list[Path], typer.Argument(help="JSONL files written with --trace, with known answers.")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSON file; figures go beside it.")],
    model: Annotated[ModelOptions, options.Only({"model"})],
    as_json: options.Json = False,
) -> None:
    """Fit the probability that an answer is right, for ask --calibration."""
    plots.require_matplotlib()  # a missing library is told before the work
    check_name(model.model)
    files = {
        "calibration": out,
        "reliability": out.with_name(f"{out.stem}.reliability.png"),
        "risk": out.with_name(f"{out.stem}.risk.png"),
    }
    inputs = {f"trace {number}": path for number, path in enumerate(traces, start=1)}
    check_outputs({f"--out ({name})": path for name, path in files.items()}, inputs)
    with working(Reporter(), "calibrating"):
        trace = load_trace(*traces)
        require_traces_of(name := weights_name(model), trace.questions)
        questions = recorded_questions(trace)
        fitted = fit(cases_of(questions), name, alternatives_of(questions))
        _draw(fitted, files["reliability"], files["risk"])
    write_json(out, fitted.calibration, "a calibration")
    if as_json:
        report = {
            "traces": [str(path) for path in traces],
            "questions": len(questions),
            "files": {name: str(path) for name, path in files.items()},
            **asdict(fitted.calibration),
        }
        print_json(report)
        return
    _show(fitted.calibration, len(questions))
    for path in files.values():
        stdout.print(str(path), markup=False)


def _draw(fitted: Fitted, reliable: Path, risky: Path) -> None:
    is_right = fitted.is_right
    scores = {"raw support": fitted.support, "probability": fitted.probabilities}
    bins = {name: reliability(score, is_right) for name, score in scores.items()}
    plots.save(plots.reliability_figure(bins, "probability", "the answer is right"), reliable)
    curves = {name: risk_coverage(score, is_right) for name, score in scores.items()}
    plots.save(plots.risk_figure(curves), risky)


def _show(calibration: Calibration, n_questions: int) -> None:
    quality = calibration.quality
    stdout.print(
        f"{quality.n} of {counted(n_questions, 'question')}, each judged by a fit without it; "
        f"calibration error (ECE) {quality.ece_before:.3f} of the raw support, "
        f"{quality.ece_after:.3f} of the "
        "probability"
    )
    table = _table("answered, the most probable first", "right", "95% interval")
    for each in quality.accuracy:
        table.add_row(
            f"{each.coverage:.0%}", f"{each.accuracy:.1%}", _interval(each.low, each.high)
        )
    stdout.print(table)
    if not calibration.targets:
        wished = ", ".join(f"{target:.0%}" for target in WISHED)
        stdout.print(f"no precision of {wished} is reached, so no --min-probability is named")
        return
    table = _table("to be right in", "--min-probability", "answers", "are right", "95% interval")
    for target in calibration.targets:
        shares = (f"{target.coverage:.0%}", f"{target.precision:.1%}")
        interval = _interval(target.low, target.high)
        table.add_row(f"{target.wished:.0%}", f"{target.min_probability:.4f}", *shares, interval)
    stdout.print(table)


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _interval(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"
