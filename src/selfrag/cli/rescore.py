"""`selfrag rescore`: recorded searches under a grid of settings, as tables and curves."""

import csv
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from selfrag import plots
from selfrag.cli.console import print_json, stdout
from selfrag.errors import StorageError
from selfrag.statistics import FloatArray
from selfrag.trace.rescore import Grid, RescoreTable, load_traces
from selfrag.trace.rescore import rescore as rescore_traces

N_SHOWN = 10  # settings in the terminal
SHARES = ("retrieval_rate", "accuracy", "citation_precision")
HEADINGS = {
    "threshold": "thr",
    "w_rel": "w_rel",
    "w_sup": "w_sup",
    "w_use": "w_use",
    "w_seq": "w_seq",
    "retrieval_rate": "retr",
    "accuracy": "acc",
    "citation_precision": "cit",
    "n_answered": "answ",
    "n_unrecorded": "unrec",
}

Row = dict[str, Any]


def rescore(
    traces: Annotated[list[Path], typer.Argument(help="JSONL files written with --trace.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for tables and curves.")],
    threshold: Annotated[
        str, typer.Option(help="Gate thresholds: 0.2, a list 0.1,0.5,none or a range 0:1:0.05.")
    ] = "0.2,0:1:0.05",
    w_rel: Annotated[
        str, typer.Option("--w-rel", "--w_rel", help="Weights of relevance, written so too.")
    ] = "1",
    w_sup: Annotated[str, typer.Option("--w-sup", "--w_sup", help="Of support.")] = "1,0:2:0.25",
    w_use: Annotated[str, typer.Option("--w-use", "--w_use", help="Of utility.")] = "0.5",
    w_seq: Annotated[str, typer.Option("--w-seq", "--w_seq", help="Of the sequence score.")] = "1",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Rescore recorded searches under other thresholds and weights, without a model."""
    grid = Grid.parse(threshold=threshold, w_rel=w_rel, w_sup=w_sup, w_use=w_use, w_seq=w_seq)
    plots.require_matplotlib()  # a missing library is told before the work
    recorded = load_traces(*traces)
    rows = table_rows(rescore_traces(recorded, grid))
    files = save_report(rows, out, recorded.n_questions)
    ranked = sorted(rows, key=_rank)
    judged = bool(recorded.has_gold.any())
    if as_json:
        report = {
            "traces": [str(path) for path in traces],
            "questions": recorded.n_questions,
            "settings": len(rows),
            "best": ranked[0] if judged else None,
            "files": {name: str(path) for name, path in files.items()},
        }
        print_json(report)
        return
    _show(ranked, recorded.n_questions, judged)
    for path in files.values():
        stdout.print(str(path), markup=False)


def table_rows(table: RescoreTable) -> list[Row]:
    """One mapping for each setting, in order; `threshold` None where the emitted token decides."""
    rows = []
    for index in range(table.n_settings):
        weights = table.weights[index].tolist()
        row: Row = {"threshold": _or_none(table.threshold[index])}
        row |= dict(zip(("w_rel", "w_sup", "w_use", "w_seq"), weights, strict=True))
        row |= {name: _or_none(getattr(table, name)[index], 6) for name in SHARES}
        counts = ("n_answered", "n_judged", "n_unrecorded")
        rows.append(row | {name: int(getattr(table, name)[index]) for name in counts})
    return rows


def save_report(rows: Sequence[Row], out: Path, n_questions: int) -> dict[str, Path]:
    """Writes the table and both curves into `out`; the paths by name.

    All files are made aside before the first appears. Raises `StorageError`.
    """
    over_threshold, over_support = curve(rows, "threshold"), curve(rows, "w_sup")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rescore-", dir=out) as folder:
            aside = Path(folder)
            _write_csv(aside / "table.csv", rows)
            _write_csv(aside / "curve_threshold.csv", over_threshold)
            _plot_threshold(aside / "curve_threshold.png", over_threshold, n_questions)
            _write_csv(aside / "curve_w_sup.csv", over_support)
            _plot_w_sup(aside / "curve_w_sup.png", over_support)
            made = sorted(aside.iterdir(), key=lambda path: path.name)
            return {path.name: path.replace(out / path.name) for path in reversed(made)}
    except OSError as error:
        raise StorageError(
            f"cannot write the tables of a rescoring to {out}: {error.strerror}; expected a "
            "folder that can be written to, so name another"
        ) from error


def curve(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows that differ from the first setting in `name` alone, by value; None last."""
    others = {"threshold", "w_rel", "w_sup", "w_use", "w_seq"} - {name}
    alike = [row for row in rows if all(row[each] == rows[0][each] for each in others)]
    return sorted(alike, key=lambda row: math.inf if row[name] is None else row[name])


def _or_none(value: float, digits: int = 12) -> float | None:
    return None if math.isnan(value) else round(float(value), digits)


def _rank(row: Row) -> tuple[int, float, float]:
    """Most accurate first, then by citation precision; what has none comes last.

    Shares of other questions do not compare, so the fewest unrecorded questions come before that.
    """
    shares = -_or(row["accuracy"], -1.0), -_or(row["citation_precision"], -1.0)
    return (row["n_unrecorded"], *shares)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            threshold = "none" if row["threshold"] is None else row["threshold"]
            writer.writerow(row | {"threshold": threshold})


def _plot_threshold(path: Path, rows: Sequence[Row], n_questions: int) -> None:
    numbered = [row for row in rows if row["threshold"] is not None]
    names = {"retrieval rate": "retrieval_rate", "accuracy": "accuracy"}
    emitted = next((row for row in rows if row["threshold"] is None), {})
    figure = plots.threshold_figure(
        _column(numbered, "threshold"),
        {name: _column(numbered, key) for name, key in names.items()},
        _column(numbered, "n_unrecorded") / n_questions,
        title=f"gate threshold, {n_questions} questions ({_fixed(rows[0], 'threshold')})",
        levels={
            f"{name}, emitted token decides": emitted[key]
            for name, key in names.items()
            if emitted.get(key) is not None
        },
    )
    plots.save(figure, path)


def _plot_w_sup(path: Path, rows: Sequence[Row]) -> None:
    shares = {
        "accuracy (of answers)": _column(rows, "accuracy"),
        "citation precision (of cited passages)": _column(rows, "citation_precision"),
    }
    title = f"weight of support, {rows[0]['n_judged']} questions ({_fixed(rows[0], 'w_sup')})"
    plots.save(plots.weight_figure(_column(rows, "w_sup"), shares, title=title), path)


def _column(rows: Sequence[Row], name: str) -> FloatArray:
    return np.array([_or(row[name], math.nan) for row in rows], dtype=float)


def _fixed(row: Row, name: str) -> str:
    """The settings that a curve holds fixed."""
    names = [each for each in ("threshold", "w_rel", "w_sup", "w_use", "w_seq") if each != name]
    return ", ".join(f"{each} {_shown(row, each)}" for each in names)


def _shown(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "none" if name == "threshold" else "-"
    return f"{value:.3f}" if name in SHARES else f"{value:g}"


def _show(ranked: Sequence[Row], n_questions: int, judged: bool) -> None:
    best = "the most accurate first" if judged else "no gold strings, so nothing is judged"
    table = Table(title=f"{len(ranked)} settings on {n_questions} questions: {best}")
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right")
    for row in ranked[:N_SHOWN]:
        table.add_row(*(_shown(row, name) for name in HEADINGS))
    stdout.print(table)
