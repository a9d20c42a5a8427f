"""How sure a number is: bootstrap intervals, and paired tests of two systems on one set.

Values of single questions in, estimates out. Knows nothing of what the values measure.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import SelfRAGError

FloatArray = NDArray[np.float64]

N_RESAMPLES = 2000
CONFIDENCE = 0.95
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
        if self.is_noise:
            return f"noise: chance gives as much with p = {self.p:.2f} on {self.n} questions"
        return f"not noise: p = {self.p:.3f} on {self.n} questions"


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


def _interval(sample: FloatArray, seed: int) -> tuple[float, float]:
    if sample.size < 2 or np.ptp(sample) == 0.0:  # resampling equal values gives that value
        return float(sample.mean()), float(sample.mean())
    found = _stats().bootstrap(
        (sample,),
        np.mean,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=max(1, 2_000_000 // sample.size),
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


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


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise SelfRAGError(
            f'cannot compute intervals: {error}; run `pip install "selfrag[eval]"`'
        ) from error
    return stats
