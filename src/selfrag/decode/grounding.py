"""From what a model and the words say of a claim and a passage to a probability and a verdict.

IsRel and IsSup, and how the words meet, enter a logistic model whose weights belong to the weights
of the model: `grounding.json` beside them, which `open.grounding` reads. Arrays in, numbers out.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from selfrag.decode.score import relevance_score, support_score
from selfrag.decode.wording import Wording
from selfrag.serial import Share

FloatArray = NDArray[np.float64]

FEATURES = (
    "relevance",
    "full",
    "partial",
    "in_passage",
    "in_sentence",
    "new_numbers",
    "new_names",
    "turned",
)
_CERTAIN = 8.0  # nats: beyond this a ratio of two tokens says no more


class Verdict(StrEnum):
    """What becomes of a sentence."""

    SUPPORTED = "supported"
    PARTIAL = "partially supported"
    UNSUPPORTED = "not supported"
    CONTRADICTED = "contradicted"
    NO_CLAIM = "not a claim"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the model says of a claim and a passage, and how their words meet.

    `relevance` and `support`: as `score` has them, in [0, 1]. `contradicts`: what speaks against
    the claim, in words; empty where nothing does. `has_names`: the passage has all its names.
    """

    relevance: float
    support: float
    probability: float
    contradicts: str = ""
    has_names: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """How judgements become verdicts, for one set of weights.

    `weights`: of `FEATURES`, by name; `bias` is added. Without weights the probability is the
    product of relevance and support, which says little. From `supported` on a claim counts as
    supported, from `partial` on as partially. `model`: the weights that they were fitted for.
    """

    model: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    bias: float = 0.0
    supported: Share = 0.5
    partial: Share = 0.3

    @property
    def is_fitted(self) -> bool:
        """Whether the probability means what it says."""
        return bool(self.weights)

    def judge(self, relevance: FloatArray, support: FloatArray, wording: Wording) -> Judgement:
        """`relevance` (2,) and `support` (3,) in nats, in the order of their tokens."""
        found = features(relevance, support, wording)
        said = relevance_score(relevance), support_score(support)
        return Judgement(
            relevance=said[0],
            support=said[1],
            probability=self._probability(found) if self.weights else said[0] * said[1],
            contradicts=contradiction(wording),
            has_names=wording.same_names,
        )

    def _probability(self, found: FloatArray) -> float:
        weights = np.array([self.weights.get(name, 0.0) for name in FEATURES])
        return float(1 / (1 + np.exp(-(self.bias + weights @ found))))


def features(relevance: FloatArray, support: FloatArray, wording: Wording) -> FloatArray:
    """Shape (8,), in the order of `FEATURES`; ratios of tokens in nats, the rest in [0, 1]."""
    ratios = [relevance[1] - relevance[0], support[0] - support[2], support[1] - support[2]]
    words = [getattr(wording, name) for name in FEATURES[len(ratios) :]]
    return np.array([*np.clip(ratios, -_CERTAIN, _CERTAIN), *words], dtype=float)


def verdict_of(probability: float, grounding: Grounding, *, is_contradicted: bool) -> Verdict:
    """The verdict on a claim by the best passage that does not contradict it."""
    if probability >= grounding.supported:
        return Verdict.SUPPORTED
    if is_contradicted:
        return Verdict.CONTRADICTED
    return Verdict.PARTIAL if probability >= grounding.partial else Verdict.UNSUPPORTED


_ALIKE = 0.7  # share of the claim's words in the sentence that speaks against it


def contradiction(wording: Wording) -> str:
    """What in the nearest sentence excludes the claim, in words, or nothing.

    Only where that sentence says mostly the same: with another name in the place of one that the
    passage lacks, or of the same names with another number of the same kind, or with a word that
    one of both negates. Of claims with their evidence (WiCE, Factcheck-Bench, Fool Me Twice,
    symmetric FEVER) 66% of those it speaks against are refuted, where 34% of all are; it finds 6%
    of the refuted ones.
    """
    if wording.other_name:
        return f"the passage has {wording.other_name}"
    if wording.besides_numbers < _ALIKE or not wording.same_names:
        return ""
    if wording.other_numbers:
        return f"the passage has {', '.join(wording.other_numbers)}"
    return "it is negated in one of both" if wording.turned else ""
