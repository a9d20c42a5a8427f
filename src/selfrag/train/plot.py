"""Plots of a training run, as PNG: losses as it goes, and how honest a critic is at its end."""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from selfrag.train.calibration import Quality
from selfrag.train.checkpoints import HELD_OUT_FILE, read_held_out


def plot_run(run: Path) -> Path:
    """Draws `curve.png` from `log.json` and `held_out.jsonl` of a run folder; its path."""
    log = [row for row in json.loads((run / "log.json").read_text()) if "loss" in row]
    held = read_held_out(run / HELD_OUT_FILE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot([row["step"] for row in log], [float(row["loss"]) for row in log])
    left.set(title="training loss (weighted)", xlabel="optimizer step", ylabel="nats")
    for kind in sorted({key for row in held for key in row} - {"step"}):
        right.plot([row["step"] for row in held], [row[kind] for row in held], "o-", label=kind)
    right.set(title="held-out loss by kind of token", xlabel="optimizer step", ylabel="nats")
    right.legend()
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    path = run / "curve.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def plot_reliability(quality: Mapping[str, Quality], path: Path) -> Path:
    """Draws how often labels are right against how sure the critic is, by group; `path`.

    A point is a bin of confidence, its area the number of predictions; on the diagonal 0.8 means
    80 %.
    """
    n_columns = max(1, len(quality))
    figure, axes = plt.subplots(
        1, n_columns, figsize=(3.2 * n_columns, 3.4), layout="constrained", squeeze=False
    )
    for axis, (group, found) in zip(axes[0], quality.items(), strict=False):
        axis.plot([0, 1], [0, 1], color="0.7")
        xs, ys = [b.confidence for b in found.bins], [b.accuracy for b in found.bins]
        axis.plot(xs, ys, color="C0", linewidth=1)
        axis.scatter(xs, ys, s=[20 + 300 * b.n / found.n for b in found.bins], alpha=0.6)
        axis.set(
            title=f"{group}: ECE {found.ece:.3f}, n {found.n}", xlim=(0, 1), ylim=(-0.03, 1.03)
        )
        axis.set(xlabel="probability of the label given", ylabel="share that is right")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
