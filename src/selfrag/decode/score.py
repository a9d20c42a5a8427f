"""What a segment is worth: relevance, support, utility, sequence and retrieval score.

Arrays of watched log-probabilities in, numbers out. Formulas: Self-RAG (arXiv 2310.11511) section
3.3 and the released `run_short_form.py` (AkariAsai/self-rag 1fcdc42); only ratios within a group
count, so mass on other tokens is dropped.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfrag.serial import NonNegative, check_config, setting

FloatArray = NDArray[np.float64]

# Worth of [Utility:1] .. [Utility:5] and of full, partial and no support.
UTILITY_WORTH = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
SUPPORT_WORTH = np.array([1.0, 0.5, 0.0])
RELEVANCE_WORTH = np.array([0.0, 1.0])

# From which support on an answer is called fully and partially supported.
FULL, PARTIAL = 0.75, 0.4


def _expected_worth(logprobs: FloatArray, worth: FloatArray) -> float:
    probs = np.exp(logprobs - logprobs.max())
    return float(worth @ probs / probs.sum())


def relevance_score(logprobs: FloatArray) -> float:
    """p(relevant) within its group, in [0, 1]. `logprobs`: (2,), nats: irrelevant, relevant."""
    return _expected_worth(logprobs, RELEVANCE_WORTH)


def support_score(logprobs: FloatArray) -> float:
    """p(full) + p(partial) / 2 within its group, in [0, 1].

    `logprobs`: shape (3,), nats: full, partial, none.
    """
    return _expected_worth(logprobs, SUPPORT_WORTH)


def utility_score(logprobs: FloatArray) -> float:
    """Expected worth to the asker, in [-1, 1]. `logprobs`: shape (5,), nats, for 1 to 5."""
    return _expected_worth(logprobs, UTILITY_WORTH)


def sequence_score(logprobs: FloatArray) -> float:
    """Geometric mean probability of the tokens written, in [0, 1]; 0 for none.

    `logprobs`: shape (T,), nats, of all chosen ids, reflection tokens included.
    """
    return float(np.exp(mean_logprob(logprobs)))


def mean_logprob(logprobs: FloatArray) -> float:
    """Mean of shape (T,), nats; minus infinity for none."""
    return float(logprobs.mean()) if len(logprobs) else float("-inf")


def retrieval_score(score: float, best: float) -> float | None:
    """What a hit's score lacks of the best one of its look-up, in [-1, 0]; a share has no unit.

    The best hit has 0, so that looking up once more is no merit. Where the best is below 0, as
    log-odds of a reranker may be, shares are of the odds. None where it is 0: passages that were
    given have no scores.
    """
    if best == 0.0 or not math.isfinite(best):
        return None
    share = math.exp(min(score - best, 0.0)) if best < 0.0 else min(max(score, 0.0) / best, 1.0)
    return share - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWeights:
    """How much each part counts. Defaults are the paper's; `sequence` is 1 there by Eq. 3.

    `retrieval` is the weight of `retrieval_score`, which the paper does not have: 0 there.
    """

    relevance: NonNegative = setting(1.0, "Weight of relevance.", "--w-rel", "--w_rel")
    support: NonNegative = setting(1.0, "Weight of support.", "--w-sup", "--w_sup")
    utility: NonNegative = setting(0.5, "Weight of utility.", "--w-use", "--w_use")
    sequence: NonNegative = 1.0
    retrieval: NonNegative = setting(
        1.0, "Weight of what the retriever's score lacks of its best.", "--w-ret"
    )

    def __post_init__(self) -> None:
        check_config(self, "decode.weights", doing="score segments")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentScores:
    """The scores of one segment. None: the model did not emit that group; `missing` says why.

    A missing group counts 0 in `total`, never a made-up penalty. `retrieval` is that of the first
    passage that was read for the segment, None where none was found for it.
    """

    relevance: float | None
    support: float | None
    utility: float | None
    sequence: float
    total: float
    missing: dict[str, str]
    retrieval: float | None = None


def weigh(
    *,
    relevance: float | None,
    support: float | None,
    utility: float | None,
    sequence: float,
    weights: ScoreWeights,
    missing: dict[str, str],
    retrieval: float | None = None,
) -> SegmentScores:
    """The parts with their weighted sum (paper Eq. 4, plus the sequence score of Eq. 3)."""
    total = (
        weights.relevance * (relevance or 0.0)
        + weights.support * (support or 0.0)
        + weights.utility * (utility or 0.0)
        + weights.sequence * sequence
        + weights.retrieval * (retrieval or 0.0)
    )
    return SegmentScores(
        relevance=relevance,
        support=support,
        utility=utility,
        sequence=sequence,
        total=total,
        missing=missing,
        retrieval=retrieval,
    )
