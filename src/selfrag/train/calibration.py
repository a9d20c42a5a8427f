"""How good and how honest a critic's labels are: accuracy, F1, calibration. Arrays in, numbers out.

Knows nothing of models or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions of like confidence: how many, their mean confidence, the share that is right."""

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One group of labels on held-out rows. All but `n` and `bins` in [0, 1].

    `majority`: accuracy of always giving the most frequent label. `f1` by label, 0 where a label
    neither occurs nor is given; `macro_f1`: their mean over labels that occur. `ece`: expected
    calibration error (arXiv 1706.04599, equation 3), over ten bins of equal width.
    """

    n: int
    accuracy: float
    majority: float
    f1: dict[str, float]
    macro_f1: float
    ece: float
    bins: tuple[Bin, ...]


def measure(probs: NDArray[np.float64], gold: NDArray[np.int64], labels: Sequence[str]) -> Quality:
    """Quality of `probs` (n, n_labels), rows summing to 1, against `gold` (n,), indices; n > 0.

    The label given is the most probable one, the first of equals.
    """
    given = probs.argmax(axis=1)
    right = given == gold
    confidence = probs[np.arange(len(gold)), given]
    bins = reliability(confidence, right)
    scores = {label: _f1(given == i, gold == i) for i, label in enumerate(labels)}
    occurring = [scores[label] for i, label in enumerate(labels) if (gold == i).any()]
    gaps = [bin_.n * abs(bin_.accuracy - bin_.confidence) for bin_ in bins]
    return Quality(
        n=len(gold),
        accuracy=float(right.mean()),
        majority=float(np.bincount(gold).max() / len(gold)),
        f1=scores,
        macro_f1=float(np.mean(occurring)),
        ece=float(sum(gaps) / len(gold)),
        bins=bins,
    )


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Predictions in ten bins by confidence, lowest first; empty bins are left out."""
    numbers = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return tuple(
        Bin(
            n=int((numbers == i).sum()),
            confidence=float(confidence[numbers == i].mean()),
            accuracy=float(right[numbers == i].mean()),
        )
        for i in range(N_BINS)
        if (numbers == i).any()
    )


def _f1(given: NDArray[np.bool_], gold: NDArray[np.bool_]) -> float:
    wanted = int(given.sum()) + int(gold.sum())
    return float(2 * int((given & gold).sum()) / wanted) if wanted else 0.0
