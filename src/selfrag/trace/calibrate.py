"""A calibration from recorded searches, judged by fits that did not see what they judge.

Owns scikit-learn. Knows nothing of files or of the command line.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.decode.calibration import (
    FEATURES,
    Accuracy,
    Calibration,
    Features,
    Quality,
    Target,
    features_of,
)
from selfrag.decode.score import ScoreWeights
from selfrag.engine.base import FloatArray
from selfrag.errors import BadInput, MissingPackage
from selfrag.statistics import reliability, wilson
from selfrag.text import counted
from selfrag.trace.candidates import Candidate, RecordedQuestion
from selfrag.trace.file import TracedQuestion
from selfrag.trace.rescore import weight_row

logger = logging.getLogger(__name__)

N_FOLDS = 10
LEAST, LEAST_OF_EACH = 50, 10  # questions, and right and wrong ones among them
WISHED = (0.6, 0.7, 0.8, 0.9, 0.95)
COVERAGES = (1.0, 0.7, 0.5)
# Scikit-learn's C: on 500 development questions .1, .3, 1 and 3 have a Brier score of .148 or .149.
PENALTY = 0.1
_LEAST_GIVEN = 20  # answers that a precision is a share of

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An answer to a question whose gold strings are known; `support` is its raw score."""

    question: str
    features: Features
    support: float
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A calibration with what it was judged on.

    `probabilities`: shape (n_cases,), each from a fit without the question that it is of.
    """

    calibration: Calibration
    cases: tuple[Case, ...]
    probabilities: FloatArray

    @property
    def is_right(self) -> BoolArray:
        """Shape (n_cases,)."""
        return np.array([case.is_right for case in self.cases])

    @property
    def support(self) -> FloatArray:
        """Shape (n_cases,): the raw support."""
        return np.array([case.support for case in self.cases])


def require_traces_of(model: str, questions: Sequence[TracedQuestion]) -> None:
    """Raises `BadInput` where a trace says that other weights answered than `model`.

    One that does not say so is believed, as those of earlier versions do not.
    """
    named = {each.model for each in questions} - {None, model}
    if named:
        raise BadInput(
            f"cannot calibrate {model}: the traces hold answers of {min(filter(None, named))}; "
            "expected those of the same weights, so name these with --model, or other traces"
        )


def cases_of(questions: Sequence[RecordedQuestion]) -> list[Case]:
    """The answers from passages, where gold strings and all features are known.

    The answer is the one that ranks first under the settings of its search; where these were not
    recorded, under the default weights. A question that was recorded more than once counts as its
    first answer, so that a trace given twice does not look like more evidence.
    """
    cases: list[Case] = []
    seen: set[str] = set()
    n_again = 0
    for recorded in questions:
        golds = recorded.question.answers
        chosen = _chosen(recorded)
        if chosen is None or not any(map(str.strip, golds)):
            continue
        features = features_of(chosen.leaf, recorded.first_level)
        if features is not None and recorded.question.text in seen:
            n_again += 1
        elif features is not None:
            seen.add(recorded.question.text)
            cases.append(
                Case(
                    question=recorded.question.text,
                    features=features,
                    support=chosen.leaf.support or 0.0,
                    is_right=chosen.is_right(golds),
                )
            )
    if n_again:
        logger.warning("recorded before, and counted once: %s", counted(n_again, "question"))
    return cases


def alternatives_of(questions: Sequence[RecordedQuestion]) -> int:
    """How many answers were written at most from a passage beside the first."""
    again = [
        Counter(node.hits[0].passage.id for node in each.first_level if len(node.hits) == 1)
        for each in questions
    ]
    return max((n for counts in again for n in counts.values()), default=1) - 1


def _chosen(recorded: RecordedQuestion) -> Candidate | None:
    reading = [each for each in recorded.candidates if each.leaf.path[0].hits]
    weights = weight_row(ScoreWeights())

    def score(candidate: Candidate) -> float:
        is_known = recorded.question.config is not None
        return candidate.leaf.path_score if is_known else float(candidate.features @ weights)

    return max(reading, key=score, default=None)


def fit(cases: Sequence[Case], model: str, alternatives: int = 0) -> Fitted:
    """The calibration of `model` by all cases, and the probability of each by a fit without it.

    A question that occurs more than once is in one fold. Raises `BadInput` for too few cases,
    `SelfRAGError` without scikit-learn.
    """
    _require_enough(cases)
    rows = np.array([[getattr(case.features, name) for name in FEATURES] for case in cases])
    is_right = np.array([case.is_right for case in cases])
    support = np.array([case.support for case in cases])
    probabilities = cross_fitted(rows, is_right, [case.question for case in cases])
    intercept, coefficients = _regression(rows, is_right)
    quality = Quality(
        n=len(cases),
        ece_before=_rounded(reliability(support, is_right).ece),
        ece_after=_rounded(reliability(probabilities, is_right).ece),
        accuracy=tuple(_accuracy(probabilities, is_right, share) for share in COVERAGES),
    )
    targets = (_target(probabilities, is_right, wished) for wished in WISHED)
    calibration = Calibration(
        model=model,
        intercept=_rounded(intercept),
        coefficients=Features(
            **{name: _rounded(c) for name, c in zip(FEATURES, coefficients, strict=True)}
        ),
        targets=tuple(each for each in targets if each is not None),
        quality=quality,
        alternatives=alternatives,
    )
    return Fitted(calibration=calibration, cases=tuple(cases), probabilities=probabilities)


def cross_fitted(rows: FloatArray, is_right: BoolArray, questions: Sequence[str]) -> FloatArray:
    """Shape (n,): the probability of each row of (n, 6) by a fit to the folds that it is not in.

    Folds hold whole questions and are drawn without a look at `is_right`.
    """
    folds = _sklearn().GroupKFold(N_FOLDS, shuffle=True, random_state=0)
    probabilities = np.empty(len(rows))
    for seen, unseen in folds.split(rows, groups=np.array(questions, dtype=object)):
        intercept, coefficients = _regression(rows[seen], is_right[seen])
        probabilities[unseen] = 1.0 / (1.0 + np.exp(-(intercept + rows[unseen] @ coefficients)))
    return probabilities


def _regression(rows: FloatArray, is_right: BoolArray) -> tuple[float, FloatArray]:
    """Intercept and coefficients (6,) in the units of the features.

    The penalty acts on features of unit variance, so that none is favoured by its scale.
    """
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0.0] = 1.0
    model = _sklearn().LogisticRegression(C=PENALTY, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fit that did not converge is none
        model.fit((rows - mean) / scale, is_right)
    coefficients: FloatArray = model.coef_[0] / scale
    return float(model.intercept_[0] - mean @ coefficients), coefficients


def _require_enough(cases: Sequence[Case]) -> None:
    right = {case.question for case in cases if case.is_right}
    wrong = {case.question for case in cases if not case.is_right}
    if len(right | wrong) < LEAST or min(len(right), len(wrong)) < LEAST_OF_EACH:
        raise BadInput(
            f"cannot calibrate: found {counted(len(right | wrong), 'question')} with known answers "
            f"and an answer from found passages, {len(right)} of them right and {len(wrong)} "
            f"wrong; expected at least {LEAST}, with {LEAST_OF_EACH} of each kind, so trace more "
            "questions that have `answers`"
        )


def _accuracy(probabilities: FloatArray, is_right: BoolArray, coverage: float) -> Accuracy:
    best = np.argsort(-probabilities, kind="stable")[: round(coverage * len(probabilities))]
    n_right = int(is_right[best].sum())
    low, high = wilson(n_right, len(best))
    return Accuracy(
        coverage=coverage,
        accuracy=_rounded(n_right / len(best)),
        low=_rounded(low),
        high=_rounded(high),
    )


def _target(probabilities: FloatArray, is_right: BoolArray, wished: float) -> Target | None:
    """The lowest bound above which a share `wished` is right; None where there is none."""
    order = np.argsort(-probabilities, kind="stable")
    n_given = np.arange(1, len(order) + 1)
    precision = np.cumsum(is_right[order]) / n_given
    ranked = probabilities[order]
    ends_a_tie = np.append(ranked[1:] < ranked[:-1], True)
    fits = np.flatnonzero((precision >= wished) & ends_a_tie & (n_given >= _LEAST_GIVEN))
    if not len(fits):
        return None
    last = int(fits[-1])
    low, high = wilson(int(is_right[order][: last + 1].sum()), last + 1)
    return Target(
        wished=wished,
        min_probability=float(np.floor(ranked[last] * 1e4) / 1e4),
        coverage=_rounded((last + 1) / len(order)),
        precision=_rounded(precision[last]),
        low=_rounded(low),
        high=_rounded(high),
    )


def _rounded(value: float) -> float:
    return round(float(value), 6)


@dataclass(frozen=True, slots=True)
class _Sklearn:
    GroupKFold: Any
    LogisticRegression: Any


def _sklearn() -> _Sklearn:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold
    except ImportError as error:
        raise MissingPackage(
            f"cannot fit a calibration: {error}; it needs scikit-learn, so run "
            '`pip install "selfrag[eval]"`'
        ) from error
    return _Sklearn(GroupKFold, LogisticRegression)
