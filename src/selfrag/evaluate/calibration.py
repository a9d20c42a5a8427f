"""How far a model's own scores can be trusted: reliability, ECE, and risk against coverage.

Relevance is held against whether the passage has a gold string, support against whether the
segment has one: proxies, told as such. Arrays from traces, numbers out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfrag.engine.base import FloatArray
from selfrag.evaluate.record import Record
from selfrag.gold import holds_gold

N_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """Scores in equal bins over [0, 1]; shape (N_BINS,) each, NaN in an empty bin.

    `confidence`: mean score, `accuracy`: share of true labels, `count`. `ece`: the mean gap
    between the two, weighted by count (Guo et al., arXiv 1706.04599).
    """

    confidence: FloatArray
    accuracy: FloatArray
    count: FloatArray
    ece: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiskCoverage:
    """Error among the answers given when only the most supported are given.

    `coverage`: (n,), shares of the questions from 1/n to 1; `risk`: (n,). `area` is the mean risk
    (AURC; El-Yaniv and Wiener 2010). `bound`: (n,), the support that gives each coverage.
    """

    coverage: FloatArray
    risk: FloatArray
    bound: FloatArray
    area: float

    @property
    def n(self) -> int:
        """How many questions."""
        return len(self.coverage)


def reliability(scores: Sequence[float], labels: Sequence[bool]) -> Reliability:
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


def risk_coverage(support: Sequence[float], correct: Sequence[float]) -> RiskCoverage:
    """Answers from the most to the least supported; ties keep the order of the questions."""
    bound, right = np.asarray(support, dtype=float), np.asarray(correct, dtype=float)
    order = np.argsort(-bound, kind="stable")
    n_given = np.arange(1, len(order) + 1)
    risk = np.cumsum(1.0 - right[order]) / n_given
    return RiskCoverage(
        coverage=n_given / max(len(order), 1),
        risk=risk,
        bound=bound[order],
        area=float(risk.mean()) if len(order) else float("nan"),
    )


def judged_candidates(records: Iterable[Record], group: str) -> tuple[list[float], list[bool]]:
    """Scores of `group`, relevance or support, of every segment read from one passage, and labels.

    A gold string in the passage makes it relevant; one in the segment makes it supported.
    """
    scores: list[float] = []
    labels: list[bool] = []
    for record in records:
        golds = record.question.answers
        if record.output is None or not golds or record.question.labels:
            continue
        for node in _read_nodes(record.output.trace):
            score = node["segment"]["scores"][group]
            if score is None:
                continue
            text = node["hits"][0]["text"] if group == "relevance" else node["segment"]["text"]
            scores.append(float(score))
            labels.append(holds_gold(text, golds))
    return scores, labels


def _read_nodes(trace: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    nodes = [row for row in trace if row["type"] == "node" and row["segment"] is not None]
    return [node for node in nodes if len(node["hits"]) == 1]
