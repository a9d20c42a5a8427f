"""The retrieval gate: should the next segment read a passage?

Three named rules, all reported always: `paper` is Eq. 8 of Self-RAG (arXiv 2310.11511),
`reference` the ratio of log-probabilities that the released short-form script computes
(AkariAsai/self-rag 1fcdc42, `run_short_form.py:80`), which is inverted, and `argmax` retrieves
where [Retrieval] is the token that the model emits (the paper's hard constraint).
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from selfrag.engine.base import FloatArray
from selfrag.reflection import Retrieve


class RetrievalMode(StrEnum):
    """When to retrieve."""

    ADAPTIVE = "adaptive"
    ALWAYS = "always"
    NEVER = "never"

    @classmethod
    def _missing_(cls, value: object) -> "RetrievalMode | None":
        """A mode by its name in the released scripts (AkariAsai/self-rag 1fcdc42)."""
        return {
            "adaptive_retrieval": cls.ADAPTIVE,
            "default": cls.ADAPTIVE,
            "always_retrieve": cls.ALWAYS,
            "no_retrieval": cls.NEVER,
        }.get(str(value))


class GateKind(StrEnum):
    """Which rule decides in mode adaptive."""

    PAPER = "paper"
    REFERENCE = "reference"
    ARGMAX = "argmax"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRule:
    """How to decide. `threshold` in [0, 1]; None decides by the emitted token, as `argmax` does.

    Threshold 0 always retrieves and 1 never does, whatever the rounding.
    """

    mode: RetrievalMode = RetrievalMode.ADAPTIVE
    kind: GateKind = GateKind.PAPER
    threshold: float | None = 0.2

    def would_retrieve(self, kind: GateKind, gate: "GateNumbers") -> bool:
        """What the rule `kind` says of these numbers, whatever the mode."""
        if kind is GateKind.ARGMAX or self.threshold is None:
            return gate.emitted is Retrieve.YES
        number = gate.paper if kind is GateKind.PAPER else gate.reference
        return self.threshold == 0.0 or number > self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class GateNumbers:
    """What a decision rests on: a probability, a bare ratio in [0, 1], and the emitted token.

    `emitted` is None where the model wrote no retrieval token.
    """

    paper: float
    reference: float
    emitted: Retrieve | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One decision, what it rests on, and what each rule would have decided (`would`)."""

    numbers: GateNumbers
    rule: GateRule
    retrieve: bool

    @property
    def paper(self) -> float:
        """p(yes) / (p(yes) + p(no))."""
        return self.numbers.paper

    @property
    def reference(self) -> float:
        """The released ratio of log-probabilities."""
        return self.numbers.reference

    @property
    def threshold(self) -> float | None:
        """The bound in force."""
        return self.rule.threshold

    @property
    def would(self) -> dict[GateKind, bool]:
        """What every rule would have decided in mode adaptive."""
        return {kind: self.rule.would_retrieve(kind, self.numbers) for kind in GateKind}


def paper_gate(logprob_yes: float, logprob_no: float) -> float:
    """p(yes) / (p(yes) + p(no)), in [0, 1], from two log-probabilities in nats."""
    return float(1.0 / (1.0 + np.exp(np.clip(logprob_no - logprob_yes, -700, 700))))


def reference_gate(logprob_yes: float, logprob_no: float) -> float:
    """The released ratio of log-probabilities, in [0, 1]; 0.5 when both are certain (0 nats)."""
    total = logprob_yes + logprob_no
    return float(logprob_yes / total) if total else 0.5


def decide(watched: FloatArray, emitted: Retrieve | None, rule: GateRule) -> Gate:
    """The gate on `watched`, shape (3,), nats: no, yes, continue.

    `emitted` is the retrieval token that the model wrote there, if it wrote one.
    """
    no, yes = float(watched[0]), float(watched[1])
    numbers = GateNumbers(
        paper=paper_gate(yes, no), reference=reference_gate(yes, no), emitted=emitted
    )
    if rule.mode is RetrievalMode.ADAPTIVE:
        retrieve = rule.would_retrieve(rule.kind, numbers)
    else:
        retrieve = rule.mode is RetrievalMode.ALWAYS
    return Gate(numbers=numbers, rule=rule, retrieve=retrieve)
