"""From the scores of an answer to the probability that it is right.

Knows nothing of how a calibration is fitted (`trace.calibrate`), nor of the model that it is for.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from selfrag.decode.disagreement import differ
from selfrag.decode.node import Node
from selfrag.decode.score import SegmentScores
from selfrag.errors import BadInput
from selfrag.files import read_errors
from selfrag.serial import from_builtins

FORMAT = 2  # 1 held relevance as it is
MIN_PASSAGES = 2  # with one, no other answer could have been found
_LEAST_RELEVANCE = 1e-4  # and as far from 1, so that its log-odds stay finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a probability is computed from; a score that the model did not give is 0.

    `relevance`, `sequence` and `retrieval` are those of the first segment, which begins with the
    short answer, relevance as log-odds, bounded at 1e-4 and 1 - 1e-4; `support` is that of the
    least supported one, `utility` the last that was judged. `margin`: relevance times support of
    the first segment, less the highest such product among first segments with another short
    answer; in [-1, 1].
    """

    relevance: float
    support: float
    utility: float
    sequence: float
    retrieval: float
    margin: float


def features_of(best: Node, candidates: Iterable[Node]) -> Features | None:
    """The features of the path that ends at `best`, among the first segments of its search.

    None where it was not written from a passage that was found for the question, and where fewer
    than two passages were read. Nodes deeper than the first segment, or without a passage, do not
    count among `candidates`.
    """
    if not best.path or best.path[0].segment is None or not best.path[0].hits:
        return None
    first = best.path[0]
    scores = best.path[0].segment.scores
    rivals = [node for node in candidates if node.depth == 1 and node.hits and node.segment]
    n_read = len({hit.passage.id for node in rivals for hit in node.hits})
    if scores.retrieval is None or n_read < MIN_PASSAGES:
        return None
    others = [
        _carried(n.segment.scores) for n in rivals if n.segment and differ(first.text, n.text)
    ]
    judged = [n.segment.scores.utility for n in best.path if n.segment is not None]
    return Features(
        relevance=_log_odds(scores.relevance),
        support=best.support or 0.0,
        utility=next((each for each in reversed(judged) if each is not None), 0.0),
        sequence=scores.sequence,
        retrieval=scores.retrieval,
        margin=_carried(scores) - max(others, default=0.0),
    )


def _log_odds(relevance: float | None) -> float:
    if relevance is None:
        return 0.0
    bounded = min(max(relevance, _LEAST_RELEVANCE), 1.0 - _LEAST_RELEVANCE)
    return math.log(bounded / (1.0 - bounded))


def _carried(scores: SegmentScores) -> float:
    return (scores.relevance or 0.0) * (scores.support or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How to be right in a wished share of the answers that are given.

    Answers of at least `min_probability` were right in a share `precision`, with its 95% interval
    `low` to `high`, and were a share `coverage` of all.
    """

    wished: float
    min_probability: float
    coverage: float
    precision: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The share of right answers among the `coverage` most probable, with its 95% interval."""

    coverage: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a calibration is on `n` answers, each judged by a fit that did not see it.

    `ece_before`: of the raw support taken as a probability, `ece_after`: of the probability.
    """

    n: int
    ece_before: float
    ece_after: float
    accuracy: tuple[Accuracy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A logistic regression: the log-odds are `intercept` and the sum of coefficient x feature.

    `model` names the weights that it was fitted for, `alternatives` how many answers a passage
    were written beside the first; `format` is that of the file.
    """

    format: int = FORMAT
    model: str
    intercept: float
    coefficients: Features
    targets: tuple[Target, ...]
    quality: Quality
    alternatives: Annotated[int, Meta(ge=0)] = 0

    def probability(self, features: Features) -> float:
        """That the answer is right, in (0, 1)."""
        parts = [getattr(self.coefficients, n) * getattr(features, n) for n in FEATURES]
        # Beyond these bounds a double rounds to 0 or 1.
        log_odds = min(max(self.intercept + sum(parts), -30.0), 30.0)
        return 1.0 / (1.0 + math.exp(-log_odds))

    def probability_of(self, best: Node, candidates: Iterable[Node]) -> float | None:
        """That of the path that ends at `best`; None where `features_of` has none."""
        features = features_of(best, candidates)
        return None if features is None else self.probability(features)


FEATURES = tuple(each.name for each in fields(Features))


def load_calibration(path: Path) -> Calibration:
    """What `selfrag calibrate` wrote to `path`; raises `BadInput` for any other file."""
    with read_errors("a calibration", path):
        content = path.read_bytes()
    try:
        data = json.loads(content, parse_constant=_refuse, parse_float=_finite)
        found = data.get("format") if isinstance(data, dict) else None
        if found is not None and found != FORMAT:
            raise ValueError(f"it has format {found!r:.40}, and this version reads {FORMAT}")
        return from_builtins(Calibration, data, closed=True)
    except (ValueError, RecursionError) as error:
        found = "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise BadInput(
            f"cannot read a calibration from {path}: {found:.200}; expected what `selfrag "
            "calibrate` writes, so name another file or make it again"
        ) from error


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}, which is no number")
