"""Every figure of the project, from arrays; `svg` makes text for a page of it, `save` a PNG file.

Owns matplotlib; each function raises `SelfRAGError` where that is missing.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfrag.errors import MissingPackage
from selfrag.files import replacing
from selfrag.statistics import Bin, FloatArray, Reliability, RiskCoverage

# Figures are matplotlib's own, which has no types of use here.
Figure = Any
Axis = Any

_SIZE = (5.6, 3.8)  # inches


def require_matplotlib() -> None:
    """Tells that the library is missing before work is done that ends in a figure."""
    _figure()


def svg(figure: Figure) -> str:
    """SVG text, the same for the same arrays."""
    from matplotlib import rc_context

    out = io.StringIO()
    # Fixed ids and no date: the same records give the same page. Words stay text: as outlines they
    # made half of a figure's size or more.
    with rc_context({"svg.hashsalt": "selfrag", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG that appears complete or not at all; `path`."""
    with replacing(path, "a figure") as partial:
        figure.savefig(partial, dpi=120, format="png")
    return path


def reliability_figure(curves: Mapping[str, Reliability], group: str, truth: str) -> Figure:
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
    return _over_shares(figure, axis)


def risk_figure(curves: Mapping[str, RiskCoverage]) -> Figure:
    """Error among given answers over the share of questions that are answered."""
    figure, axis = _figure()
    for name, curve in curves.items():
        axis.plot(curve.coverage, curve.risk, label=f"{name}: area {curve.area:.3f} ({curve.n})")
    axis.set(
        xlabel="share of questions answered, the most supported first",
        ylabel="share of wrong answers",
    )
    return _over_shares(figure, axis)


def threshold_figure(
    threshold: FloatArray,
    shares: Mapping[str, FloatArray],
    unrecorded: FloatArray,
    *,
    title: str,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """The two `shares`, such as retrieval rate and accuracy, over the threshold of the gate.

    `unrecorded`: the share of questions of which a trace cannot tell. `levels`: shares that no
    threshold changes, in the order of `shares`.
    """
    figure, axis = _figure()
    for (name, share), style in zip(shares.items(), ("o-", "s-"), strict=True):
        axis.plot(threshold, share, style, ms=3, label=name)
    if unrecorded.any():
        axis.plot(threshold, unrecorded, ":", color="gray", label="not recorded, so not judged")
    for place, (name, level) in enumerate((levels or {}).items()):
        axis.axhline(level, linestyle="--", color=f"C{place}", alpha=0.6, label=name)
    axis.set(title=title, xlabel="threshold of the gate", ylabel="share of questions")
    return _over_shares(figure, axis)


def weight_figure(weight: FloatArray, shares: Mapping[str, FloatArray], *, title: str) -> Figure:
    """The two `shares`, such as accuracy and citation precision, over the weight of support."""
    figure, axis = _figure(xlim=None)
    looks = (("s-", "C1"), ("o-", "C0"))
    for (name, share), (style, color) in zip(shares.items(), looks, strict=True):
        axis.plot(weight, share, style, ms=3, color=color, label=name)
    axis.set(title=title, xlabel="weight of support", ylabel="share")
    return _over_shares(figure, axis)


def bars_figure(rows: Sequence[tuple[str, float, float, float]], label: str) -> Figure:
    """Means with intervals, one row a system."""
    is_share = all(0.0 <= low and high <= 1.0 for _, _, low, high in rows)
    xlim = (-0.02, 1.02) if is_share else None
    figure, axis = _figure((7.0, 0.6 + 0.34 * len(rows)), xlim=xlim)
    for place, (_, mean, low, high) in enumerate(rows):
        axis.plot([low, high], [place, place], "-", color="C0", lw=2)
        axis.plot([mean], [place], "o", color="C0")
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axis.set_xlabel(label)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(alpha=0.3, axis="x")
    return figure


def label_figure(counts: Mapping[str, Mapping[str, int]], titles: Mapping[str, str]) -> Figure:
    """How often each label was given: a panel a group, bars by label."""
    figure, axes = _panels(len(counts))
    for axis, (group, of_labels) in zip(axes, counts.items(), strict=True):
        names = [label.strip("[]").replace(" / ", "\n") for label in of_labels]
        axis.bar_label(axis.bar(names, list(of_labels.values())))
        axis.set_title(titles[group], fontsize=9)
        axis.tick_params(axis="x", labelrotation=40, labelsize=7)
    return figure


def bins_figure(bins: Mapping[str, Sequence[Bin]], titles: Mapping[str, str]) -> Figure:
    """How often labels are right against how probable they were held to be: a panel a group.

    A point is a bin, its area the number of predictions; on the diagonal 0.8 means 80 %.
    """
    figure, axes = _panels(len(bins))
    for axis, (group, found) in zip(axes, bins.items(), strict=False):
        n_all = sum(each.n for each in found)
        xs, ys = [each.confidence for each in found], [each.accuracy for each in found]
        axis.plot([0, 1], [0, 1], color="0.7")
        axis.plot(xs, ys, color="C0", linewidth=1)
        axis.scatter(xs, ys, s=[20 + 300 * each.n / n_all for each in found], alpha=0.6)
        axis.set(title=titles[group], xlim=(0, 1), ylim=(-0.03, 1.03))
        axis.set(xlabel="probability of the label given", ylabel="share that is right")
        axis.grid(alpha=0.3)
    return figure


def loss_figure(
    training: Sequence[tuple[int, float]], held_out: Mapping[str, Sequence[tuple[int, float]]]
) -> Figure:
    """Losses in nats by step, as (step, loss): of training, and of held-out rows by kind."""
    figure, (left, right) = _panels(2, (5.5, 4))
    left.plot(*zip(*training, strict=True))
    left.set(title="training loss (weighted)", xlabel="optimizer step", ylabel="nats")
    for kind, points in held_out.items():
        right.plot(*zip(*points, strict=True), "o-", label=kind)
    right.set(title="held-out loss by kind of token", xlabel="optimizer step", ylabel="nats")
    if held_out:
        right.legend()
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    return figure


def latency_figure(ways: Mapping[str, Sequence[tuple[float, float]]], title: str) -> Figure:
    """Recall@10 against median latency in ms, as (latency, recall): a colour a kind of index."""
    figure, axis = _figure((7, 4.5), xlim=None)
    for label, points in ways.items():
        axis.plot(*zip(*points, strict=True), "o", label=label)
    axis.set(xlabel="median milliseconds a query", ylabel="recall@10", xscale="log", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _over_shares(figure: Figure, axis: Axis) -> Figure:
    """The figure, its y axis 0 to 1 whatever is drawn."""
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small")
    return figure


def _figure(
    size: tuple[float, float] = _SIZE, *, xlim: tuple[float, float] | None = (-0.02, 1.02)
) -> tuple[Figure, Axis]:
    """A figure of one panel; `xlim` None: as wide as what is drawn."""
    figure, (axis,) = _panels(1, size)
    if xlim is not None:
        axis.set_xlim(*xlim)
    return figure, axis


def _panels(n: int, size: tuple[float, float] = (3.2, 3.4)) -> tuple[Figure, Sequence[Axis]]:
    """A figure of `n` panels side by side, each of `size`."""
    try:
        # Not pyplot, which keeps every figure and chooses a window system.
        from matplotlib.figure import Figure as New
    except ImportError as error:
        raise MissingPackage(
            f"cannot draw a figure: {error}; it needs matplotlib, "
            'so run `pip install "selfrag[eval]"`'
        ) from error
    width, height = size
    figure = New(figsize=(width * max(1, n), height), layout="constrained")
    return figure, [figure.add_subplot(1, max(1, n), place + 1) for place in range(max(1, n))]
