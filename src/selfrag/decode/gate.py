"""The retrieval gate: should the next segment read a passage?

Two named formulas, both reported always: `paper` is Eq. 8 of Self-RAG (arXiv 2310.11511),
`reference` the ratio of log-probabilities that the released short-form script computes
(AkariAsai/self-rag 1fcdc42, `run_short_form.py:80`), which is inverted.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from selfrag.engine.base import FloatArray


class RetrievalMode(StrEnum):
    """When to retrieve."""

    ADAPTIVE = "adaptive"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One decision, and what it rests on. `paper` is a probability, `reference` a bare ratio."""

    paper: float
    reference: float
    threshold: float
    retrieve: bool


def paper_gate(logprob_yes: float, logprob_no: float) -> float:
    """p(yes) / (p(yes) + p(no)), in [0, 1], from two log-probabilities in nats."""
    return float(1.0 / (1.0 + np.exp(np.clip(logprob_no - logprob_yes, -700, 700))))


def reference_gate(logprob_yes: float, logprob_no: float) -> float:
    """The released ratio of log-probabilities, in [0, 1]; 0.5 when both are certain (0 nats)."""
    total = logprob_yes + logprob_no
    return float(logprob_yes / total) if total else 0.5


def decide(watched: FloatArray, mode: RetrievalMode, threshold: float) -> Gate:
    """The gate on `watched`, shape (3,), nats: no, yes, continue.

    Adaptive retrieves when the paper's probability is above `threshold`; the other modes ignore it.
    """
    no, yes = float(watched[0]), float(watched[1])
    paper = paper_gate(yes, no)
    retrieve = paper > threshold if mode is RetrievalMode.ADAPTIVE else mode is RetrievalMode.ALWAYS
    return Gate(
        paper=paper,
        reference=reference_gate(yes, no),
        threshold=threshold,
        retrieve=retrieve,
    )
