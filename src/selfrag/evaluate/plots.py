"""Figures of a report as SVG text, to be put into a page; owns matplotlib here."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from selfrag.errors import SelfRAGError
from selfrag.evaluate.calibration import Reliability, RiskCoverage
from selfrag.trace.rescore import RescoreTable


def reliability_figure(curves: Mapping[str, Reliability], group: str, truth: str) -> str:
    """Score against share of true labels, one line a system; bins with few cases are small."""
    figure, axis = _figure()
    axis.plot([0, 1], [0, 1], "--", color="gray", label="perfect")
    for name, curve in curves.items():
        (line,) = axis.plot(
            curve.confidence, curve.accuracy, "-", label=f"{name}: ECE {curve.ece:.3f} ({curve.n})"
        )
        sizes = 15 + 180 * curve.count / max(curve.count.max(), 1)
        axis.scatter(curve.confidence, curve.accuracy, s=sizes, color=line.get_color())
    axis.set(xlabel=f"{group} as the model says", ylabel=f"share where {truth}")
    return _svg(figure, axis)


def risk_figure(curves: Mapping[str, RiskCoverage]) -> str:
    """Error among given answers over the share of questions that are answered."""
    figure, axis = _figure()
    for name, curve in curves.items():
        axis.plot(curve.coverage, curve.risk, label=f"{name}: area {curve.area:.3f} ({curve.n})")
    axis.set(
        xlabel="share of questions answered, the most supported first",
        ylabel="share of wrong answers",
    )
    return _svg(figure, axis)


def threshold_figure(table: RescoreTable, title: str) -> str:
    """Retrieval rate and accuracy over the gate's threshold, from traces."""
    figure, axis = _figure()
    shown = table.n_answered > 0
    x = table.threshold[shown]
    axis.plot(x, table.retrieval_rate[shown], "o-", ms=3, label="retrieval rate")
    axis.plot(x, table.accuracy[shown], "s-", ms=3, label="match_words")
    n_questions = (table.n_answered + table.n_unrecorded)[shown]
    if table.n_unrecorded.any():
        share = table.n_unrecorded[shown] / n_questions
        axis.plot(x, share, ":", color="gray", label="not recorded, so not judged")
    axis.set(title=title, xlabel="threshold of the gate", ylabel="share of questions")
    return _svg(figure, axis)


def weight_figure(table: RescoreTable, title: str) -> str:
    """Accuracy and citation precision over the weight of support, from traces."""
    figure, axis = _figure(over_shares=False)
    x = table.weights[:, 1]
    axis.plot(x, table.accuracy, "s-", ms=3, color="C1", label="match_words")
    axis.plot(
        x, table.citation_precision, "o-", ms=3, color="C0", label="cited passages with a gold"
    )
    axis.set(title=title, xlabel="weight of support", ylabel="share")
    return _svg(figure, axis)


def bars_figure(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """Means with intervals, one row a system."""
    height = 0.6 + 0.34 * len(rows)
    is_share = all(0.0 <= low and high <= 1.0 for _, _, low, high in rows)
    figure, axis = _figure((7.0, height), over_shares=is_share)
    for place, (_, mean, low, high) in enumerate(rows):
        axis.plot([low, high], [place, place], "-", color="C0", lw=2)
        axis.plot([mean], [place], "o", color="C0")
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axis.set_xlabel(label)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(alpha=0.3, axis="x")
    return _text(figure)


def _figure(size: tuple[float, float] = (5.6, 3.8), *, over_shares: bool = True) -> tuple[Any, Any]:
    """A figure and its axes; `over_shares`: the x axis is 0 to 1, whatever is drawn."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SelfRAGError(
            f'cannot draw a report: {error}; run `pip install "selfrag[eval]"`'
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.add_subplot()
    if over_shares:
        axis.set_xlim(-0.02, 1.02)
    return figure, axis


def _svg(figure: Any, axis: Any) -> str:
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small")
    return _text(figure)


def _text(figure: Any) -> str:
    from matplotlib import rc_context

    out = io.StringIO()
    # Fixed ids and no date: the same records give the same page. Words stay text: as outlines they
    # made half of a figure's size or more.
    with rc_context({"svg.hashsalt": "selfrag", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
