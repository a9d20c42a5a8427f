"""The label report as a picture: one panel a group, bars by label; needs matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plot_labels(report: Mapping[str, Any], path: Path) -> bool:
    """Draws the counts of `report`; False where matplotlib is missing or nothing was counted."""
    try:
        import matplotlib
    except ImportError:
        return False
    groups: Mapping[str, Mapping[str, int]] = report["counts"]
    if not groups:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (3.2 * len(groups), 3.4)
    figure, axes = plt.subplots(1, len(groups), figsize=size, squeeze=False, layout="constrained")
    for axis, (group, counts) in zip(axes[0], groups.items(), strict=True):
        names = [label.strip("[]").replace(" / ", "\n") for label in counts]
        bars = axis.bar(names, list(counts.values()))
        axis.bar_label(bars)
        agreement = report["agreement"].get(group)
        agreed = f"\n{agreement['share']:.0%} of {agreement['n']} as gold" if agreement else ""
        axis.set_title(f"{group}{agreed}", fontsize=9)
        axis.tick_params(axis="x", labelrotation=40, labelsize=7)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)
    partial.replace(path)
    return True
