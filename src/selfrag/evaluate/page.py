"""A report as one HTML page that needs no network, and as a Markdown table."""

import base64
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from selfrag import plots
from selfrag.errors import MissingPackage
from selfrag.evaluate.report import TaskReport
from selfrag.evaluate.summary import Run
from selfrag.statistics import Estimate, estimate
from selfrag.trace.rescore import RescoreTable

COSTS = ("passages_read", "tokens", "seconds")


def markdown(parts: Sequence[TaskReport]) -> str:
    """Systems by tasks with intervals, then every paired test."""
    names = dict.fromkeys(name for part in parts for name in part.runs)
    heading = ["system", *(f"{part.task} ({part.headline})" for part in parts)]
    lines = [_row(heading), _row(["---"] * len(heading))]
    for name in names:
        cells = [_cell(part, name) for part in parts]
        lines.append(_row([name, *cells]))
    lines += ["", "Means with 95% bootstrap intervals. Differences, paired:", ""]
    for part in parts:
        for each in part.comparisons:
            found = each.difference
            lines.append(
                f"- {part.task}: {each.second} minus {each.first}: {_signed(found.difference)} "
                f"[{_signed(found.low)}, {_signed(found.high)}], {found.note}"
            )
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(part: TaskReport, name: str) -> str:
    run = part.runs.get(name)
    found = part.estimates.get(part.headline, {}).get(name)
    if run is None or found is None:
        return "-"
    failed = f", {len(run.failed)} failed" if run.failed else ""
    return f"{interval_text(found)} (n = {found.n}{failed})"


def interval_text(found: Estimate) -> str:
    """Mean and interval, as in `.564 [.50, .62]`."""
    if math.isnan(found.mean):
        return "-"
    digits = 3 if abs(found.mean) < 10 else 1
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3f}"


def html(parts: Sequence[TaskReport], *, title: str) -> str:
    """The whole page; texts of questions, answers and passages are escaped."""
    template = _environment().from_string(
        resources.files("selfrag.evaluate").joinpath("page.html").read_text(encoding="utf-8")
    )
    names = list(dict.fromkeys(name for part in parts for name in part.runs))
    page: str = template.render(
        title=title,
        names=names,
        parts=[_part(part) for part in parts],
        table={name: [_cell(part, name) for part in parts] for name in names},
    )
    return page


def _environment() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingPackage(
            f'cannot write a report: {error}; run `pip install "selfrag[eval]"`'
        ) from error
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _part(part: TaskReport) -> dict[str, Any]:
    """What the template shows of one task."""
    return {
        "task": part.task,
        "headline": part.headline,
        "names": list(part.runs),
        "metrics": {
            metric: [interval_text(found[name]) for name in part.runs]
            for metric, found in part.estimates.items()
        }
        | _corpus(part),
        "bars": _bars_image(part),
        "comparisons": [
            {
                "first": each.first,
                "second": each.second,
                "difference": _signed(each.difference.difference),
                "low": _signed(each.difference.low),
                "high": _signed(each.difference.high),
                "wins": f"{each.difference.n_second} / {each.difference.n_first}",
                "note": each.difference.note,
                "is_noise": each.difference.is_noise,
            }
            for each in part.comparisons
        ],
        "costs": {name: _costs(part, name, run) for name, run in part.runs.items()},
        "counts": {name: _counts(run) for name, run in part.runs.items()},
        "curves": _curves(part),
        "n_differing": part.n_differing,
        "n_shown": len(part.differing),
        # JSON in a script element: `<` could end it.
        "differing": json.dumps(part.differing, ensure_ascii=False).replace("<", "\\u003c"),
    }


def _corpus(part: TaskReport) -> dict[str, list[str]]:
    names = dict.fromkeys(name for run in part.runs.values() for name in run.corpus)
    return {
        name: [
            f"{run.corpus[name]:.3f}" if name in run.corpus else "-" for run in part.runs.values()
        ]
        for name in names
    }


def _bars(part: TaskReport) -> list[tuple[str, float, float, float]]:
    found = part.estimates.get(part.headline, {})
    return [(name, each.mean, each.low, each.high) for name, each in found.items() if each.n]


def _bars_image(part: TaskReport) -> str:
    """Empty where no question was answered."""
    rows = _bars(part)
    label = f"{part.headline}, mean and 95% interval"
    return _image(plots.svg(plots.bars_figure(rows, label))) if rows else ""


def _costs(part: TaskReport, name: str, run: Run) -> list[str]:
    costs = [
        interval_text(part.estimates[metric][name]) if metric in part.estimates else "-"
        for metric in COSTS[:-1]
    ]
    return [*costs, interval_text(estimate(list(run.seconds.values()), is_share=False))]


def _counts(run: Run) -> dict[str, Any]:
    data = run.config["data"]
    return {
        "questions": data["n_chosen"],
        "answered": len(run.records) - len(run.failed),
        "failed": [
            {"row": r.question.row, "id": r.question.id, "error": r.error} for r in run.failed[:20]
        ],
        "n_failed": len(run.failed),
        "n_missing": data["n_chosen"] - len(run.records),
        "left_out": data["faults"],
        "n_left_out": data["n_faults"],
        "without_passages": data["n_without_passages"],
        "model": run.config["system"]["model"],
        "passages": run.config["system"]["passages"],
        "commit": run.config["environment"]["git_commit"],
        "folder": str(run.folder),
    }


def _curves(part: TaskReport) -> list[dict[str, str]]:
    shown: list[tuple[str, plots.Figure]] = []
    if part.relevance:
        drawn = plots.reliability_figure(part.relevance, "relevance", "the passage has a gold")
        shown.append(("Is relevance calibrated?", drawn))
    if part.support:
        drawn = plots.reliability_figure(part.support, "support", "the segment has a gold")
        shown.append(("Is support calibrated?", drawn))
    if part.abstention:
        shown.append(("What abstaining would give", plots.risk_figure(part.abstention)))
    for each in part.controls:
        shown.append(("Gate", _threshold_figure(each.threshold, each.title)))
        shown.append(("Weight of support", _weight_figure(each.support, each.title)))
    return [{"caption": caption, "image": _image(plots.svg(found))} for caption, found in shown]


def _threshold_figure(table: RescoreTable, title: str) -> plots.Figure:
    has_answer = table.n_answered > 0
    n_questions = table.n_answered + table.n_unrecorded
    shares = {"retrieval rate": table.retrieval_rate, "match_words": table.accuracy}
    return plots.threshold_figure(
        table.threshold[has_answer],
        {name: share[has_answer] for name, share in shares.items()},
        (table.n_unrecorded / n_questions)[has_answer],
        title=title,
    )


def _weight_figure(table: RescoreTable, title: str) -> plots.Figure:
    shares = {
        "match_words": table.accuracy,
        "cited passages with a gold": table.citation_precision,
    }
    return plots.weight_figure(table.weights[:, 1], shares, title=title)


def _image(svg: str) -> str:
    """A data URI: the ids and styles of one figure cannot meet those of another."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
