"""The curve of a training run, as PNG: loss while training, and held-out loss by kind of token."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

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
