"""What a rescoring found as rows, tables and curves, ready to be read or drawn.

Knows nothing of how settings were rescored or of the command line.
"""

import csv
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfrag import plots
from selfrag.files import storage_errors
from selfrag.statistics import FloatArray
from selfrag.text import counted
from selfrag.trace.rescore import RescoreTable

SETTINGS = ("threshold", "w_rel", "w_sup", "w_use", "w_seq", "w_ret")
SHARES = ("retrieval_rate", "accuracy", "citation_precision")

Row = dict[str, Any]


def table_rows(table: RescoreTable) -> list[Row]:
    """One mapping for each setting, in order; `threshold` None where the emitted token decides."""
    rows = []
    for index in range(table.n_settings):
        weights = table.weights[index].tolist()
        row: Row = {"threshold": _or_none(table.threshold[index])}
        row |= dict(zip(SETTINGS[1:], weights, strict=True))
        row |= {name: _or_none(getattr(table, name)[index], 6) for name in SHARES}
        counts = ("n_answered", "n_judged", "n_unrecorded")
        rows.append(row | {name: int(getattr(table, name)[index]) for name in counts})
    return rows


def save_report(rows: Sequence[Row], out: Path, n_questions: int) -> dict[str, Path]:
    """Writes the table and both curves into `out`; the paths by name.

    All files are made aside before the first appears. Raises `StorageError`.
    """
    over_threshold, over_support = curve(rows, "threshold"), curve(rows, "w_sup")
    advice = "expected a folder that can be written to, so name another"
    with storage_errors(f"write the tables of a rescoring to {out}", advice=advice):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rescore-", dir=out) as folder:
            aside = Path(folder)
            _write_csv(aside / "table.csv", rows)
            _write_csv(aside / "curve_threshold.csv", over_threshold)
            _plot_threshold(aside / "curve_threshold.png", over_threshold, n_questions)
            _write_csv(aside / "curve_w_sup.csv", over_support)
            _plot_w_sup(aside / "curve_w_sup.png", over_support)
            made = sorted(aside.iterdir(), key=lambda path: path.name)
            files = {path.name: path.replace(out / path.name) for path in reversed(made)}
    return files


def curve(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows that differ from the first setting in `name` alone, by value; None last."""
    others = set(SETTINGS) - {name}
    alike = [row for row in rows if all(row[each] == rows[0][each] for each in others)]
    return sorted(alike, key=lambda row: math.inf if row[name] is None else row[name])


def rank(row: Row) -> tuple[int, float, float]:
    """A key to sort by: most accurate first, then by citation precision; what has none comes last.

    Shares of other questions do not compare, so the fewest unrecorded questions come before that.
    """
    shares = -_or(row["accuracy"], -1.0), -_or(row["citation_precision"], -1.0)
    return (row["n_unrecorded"], *shares)


def shown(row: Mapping[str, Any], name: str) -> str:
    """One value of a row in words."""
    value = row[name]
    if value is None:
        return "none" if name == "threshold" else "-"
    return f"{value:.3f}" if name in SHARES else f"{value:g}"


def _or_none(value: float, digits: int = 12) -> float | None:
    return None if math.isnan(value) else round(float(value), digits)


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
        title=f"gate threshold, {_over(n_questions, rows[0], 'threshold')}",
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
    title = f"weight of support, {_over(rows[0]['n_judged'], rows[0], 'w_sup')}"
    plots.save(plots.weight_figure(_column(rows, "w_sup"), shares, title=title), path)


def _column(rows: Sequence[Row], name: str) -> FloatArray:
    return np.array([_or(row[name], math.nan) for row in rows], dtype=float)


def _over(n_questions: int, row: Row, name: str) -> str:
    """How many questions a curve over `name` is of, and the settings that it holds fixed."""
    fixed = ", ".join(f"{each} {shown(row, each)}" for each in SETTINGS if each != name)
    return f"{counted(n_questions, 'question')} ({fixed})"
