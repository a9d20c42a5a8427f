"""How far a number can be trusted: intervals, paired tests, calibration, risk against coverage.

Arrays of values in, estimates out. Knows nothing of what the values measure.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfrag.errors import MissingPackage
from selfrag.text import counted

FloatArray = NDArray[np.float64]

N_RESAMPLES = 2000
CONFIDENCE = 0.95
N_BINS = 10  # of a reliability diagram
NOISE = 0.05  # a difference that chance gives more often than this is called noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over `n` questions with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean of the second minus mean of the first on the `n` questions that both have.

    `p`: how often chance alone gives a difference as large, two-sided. `n_first`, `n_second`: the
    questions on which the first, or the second, has the larger value.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    n_first: int
    n_second: int

    @property
    def is_noise(self) -> bool:
        """Whether chance explains the difference."""
        return self.p > NOISE

    @property
    def note(self) -> str:
        """One clause for people."""
        if self.n == 0:
            return "no question in common"
        asked = counted(self.n, "question")
        if self.is_noise:
            return f"noise: chance gives as much with p = {self.p:.2f} on {asked}"
        return f"not noise: p = {self.p:.3f} on {asked}"


def estimate(values: Sequence[float], *, is_share: bool = True, seed: int = 0) -> Estimate:
    """Mean and percentile bootstrap interval; NaN throughout for no values.

    Of equal values a bootstrap knows no spread: where all shares are 0 or all are 1 the interval
    is the exact one (Clopper-Pearson). `is_share` False: the values count something.
    """
    sample = np.asarray(values, dtype=float)
    if not sample.size:
        return Estimate(mean=float("nan"), low=float("nan"), high=float("nan"), n=0)
    is_exact = is_share and _is_all_or_none(sample)
    low, high = _exact(sample) if is_exact else _interval(sample, seed)
    return Estimate(mean=float(sample.mean()), low=low, high=high, n=int(sample.size))


def compare(
    first: Mapping[str, float], second: Mapping[str, float], *, seed: int = 0
) -> Difference:
    """The paired difference of values by question id.

    Values of 0 and 1: McNemar's exact test (binomial on the questions where they differ). Others:
    permutation of the signs of the differences.
    """
    common = [name for name in first if name in second]
    if not common:
        nan = float("nan")
        return Difference(difference=nan, low=nan, high=nan, p=1.0, n=0, n_first=0, n_second=0)
    a = np.array([first[name] for name in common], dtype=float)
    b = np.array([second[name] for name in common], dtype=float)
    gaps = b - a
    low, high = _interval(gaps, seed)
    n_first, n_second = int((gaps < 0).sum()), int((gaps > 0).sum())
    is_binary = bool(np.isin(np.concatenate([a, b]), (0.0, 1.0)).all())
    return Difference(
        difference=float(gaps.mean()),
        low=low,
        high=high,
        p=_mcnemar(n_first, n_second) if is_binary else _sign_flips(gaps, seed),
        n=len(common),
        n_first=n_first,
        n_second=n_second,
    )


def bootstrap_intervals(values: FloatArray, *, seed: int = 0) -> FloatArray:
    """Shape (2, n_columns): the 95% percentile intervals of the means of the columns.

    `values`: (n, n_columns). The columns share their `N_RESAMPLES` samples of the rows, so that
    the interval of a difference is that of a column of differences.
    """
    rng = np.random.default_rng(seed)
    means = np.empty((N_RESAMPLES, values.shape[1]))
    for sample in range(N_RESAMPLES):
        means[sample] = values[rng.integers(len(values), size=len(values))].mean(axis=0)
    tail = (1 - CONFIDENCE) / 2
    intervals: FloatArray = np.quantile(means, [tail, 1 - tail], axis=0)
    return intervals


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of the share `n_right` of `n`; `n` above 0."""
    z = 1.959964
    share, scale = n_right / n, 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / scale
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _interval(sample: FloatArray, seed: int) -> tuple[float, float]:
    if sample.size < 2 or np.ptp(sample) == 0.0:  # resampling equal values gives that value
        return float(sample.mean()), float(sample.mean())
    low, high = bootstrap_intervals(sample[:, None], seed=seed)[:, 0]
    return float(low), float(high)


def _is_all_or_none(sample: FloatArray) -> bool:
    return bool((sample == 0.0).all() or (sample == 1.0).all())


def _exact(sample: FloatArray) -> tuple[float, float]:
    found = _stats().binomtest(int(sample.sum()), int(sample.size)).proportion_ci(CONFIDENCE)
    return float(found.low), float(found.high)


def _mcnemar(n_first: int, n_second: int) -> float:
    n_differ = n_first + n_second
    return float(_stats().binomtest(n_first, n_differ, 0.5).pvalue) if n_differ else 1.0


def _sign_flips(gaps: FloatArray, seed: int) -> float:
    if not gaps.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few questions all flips are tried, which it tells
        found = _stats().permutation_test(
            (gaps,),
            np.mean,
            permutation_type="samples",
            n_resamples=9999,
            batch=max(1, 2_000_000 // gaps.size),
            rng=np.random.default_rng(seed),
        )
    return float(found.pvalue)


def require_scipy() -> None:
    """Tells that the library is missing before work is done that ends in intervals."""
    _stats()


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingPackage(
            f'cannot compute intervals: {error}; run `pip install "selfrag[eval]"`'
        ) from error
    return stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Scores of like size: how many, their mean, and the share of their labels that is true."""

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """Scores in equal bins over [0, 1]; shape (N_BINS,) each, NaN in an empty bin.

    `confidence`: mean score, `accuracy`: share of true labels, `count`. `ece`: the mean gap
    between the two, weighted by count (Guo et al., arXiv 1706.04599, equation 3).
    """

    confidence: FloatArray
    accuracy: FloatArray
    count: FloatArray
    ece: float
    n: int

    @property
    def bins(self) -> tuple[Bin, ...]:
        """The bins that hold anything, lowest first."""
        columns = zip(self.count, self.confidence, self.accuracy, strict=True)
        return tuple(
            Bin(n=int(n), confidence=float(mean), accuracy=float(share))
            for n, mean, share in columns
            if n
        )


def reliability(scores: ArrayLike, labels: ArrayLike) -> Reliability:
    """Bins of `scores` in [0, 1] against `labels`; 1.0 belongs to the last bin."""
    score, label = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    place = np.minimum((score * N_BINS).astype(int), N_BINS - 1)
    count = np.bincount(place, minlength=N_BINS).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.bincount(place, score, N_BINS) / count
        accuracy = np.bincount(place, label, N_BINS) / count
    gaps = np.abs(np.nan_to_num(confidence - accuracy))
    ece = float((gaps * count).sum() / max(len(score), 1))
    return Reliability(confidence=confidence, accuracy=accuracy, count=count, ece=ece, n=len(score))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQuality:
    """How good and how honest given labels are; all but `n` and `bins` in [0, 1].

    `majority`: accuracy of always giving the most frequent label. `f1` by label, 0 where a label
    neither occurs nor is given; `macro_f1`: their mean over labels that occur.
    """

    n: int
    accuracy: float
    majority: float
    f1: dict[str, float]
    macro_f1: float
    ece: float
    bins: tuple[Bin, ...]


def label_quality(
    probs: FloatArray, gold: NDArray[np.int64], labels: Sequence[str]
) -> LabelQuality:
    """Quality of `probs` (n, n_labels), rows summing to 1, against `gold` (n,), indices; n > 0.

    The label given is the most probable one, the first of equals.
    """
    given = probs.argmax(axis=1)
    right = given == gold
    curve = reliability(probs[np.arange(len(gold)), given], right)
    scores = {label: _f1(given == i, gold == i) for i, label in enumerate(labels)}
    occurring = [scores[label] for i, label in enumerate(labels) if (gold == i).any()]
    return LabelQuality(
        n=len(gold),
        accuracy=float(right.mean()),
        majority=float(np.bincount(gold).max() / len(gold)),
        f1=scores,
        macro_f1=float(np.mean(occurring)),
        ece=curve.ece,
        bins=curve.bins,
    )


def _f1(given: NDArray[np.bool_], gold: NDArray[np.bool_]) -> float:
    wanted = int(given.sum()) + int(gold.sum())
    return float(2 * int((given & gold).sum()) / wanted) if wanted else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiskCoverage:
    """Error among the answers given when only the most supported are given.

    `coverage`: (n,), shares of the questions from 1/n to 1; `risk`: (n,). `area` is the mean risk
    (AURC; El-Yaniv and Wiener 2010).
    """

    coverage: FloatArray
    risk: FloatArray
    area: float

    @property
    def n(self) -> int:
        """How many questions."""
        return len(self.coverage)


def risk_coverage(support: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Answers from the most to the least supported; ties keep the order of the questions."""
    right = np.asarray(correct, dtype=float)
    order = np.argsort(-np.asarray(support, dtype=float), kind="stable")
    n_given = np.arange(1, len(order) + 1)
    risk = np.cumsum(1.0 - right[order]) / n_given
    return RiskCoverage(
        coverage=n_given / max(len(order), 1),
        risk=risk,
        area=float(risk.mean()) if len(order) else float("nan"),
    )
