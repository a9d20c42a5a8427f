"""What recorded searches would have answered under other thresholds and weights, without a model.

A path's score is linear in the weights (Self-RAG, arXiv 2310.11511, Eq. 3-4), so its summed scores
are enough to rank it anew, and the gate's number is enough to decide anew. Arrays in, arrays out.

Only the first decision to retrieve is taken anew, only hypotheses that were recorded can be chosen
and a path's score is their sum; `min_support` and closed sets of `choices` are not applied.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfrag.decode.answer import Answer
from selfrag.decode.gate import Gate, RetrievalMode
from selfrag.decode.score import ScoreWeights, weigh
from selfrag.engine.base import FloatArray
from selfrag.errors import BadInput, ConfigError
from selfrag.trace.candidates import (
    N_PARTS,
    BoolArray,
    Candidate,
    IntArray,
    RecordedQuestion,
    Traces,
    recorded_questions,
    to_arrays,
)
from selfrag.trace.file import load_trace

CHUNK_BYTES = 16 * 2**20  # of one array of scores; a few of this size live at once
MAX_VALUES = 10_001  # of one setting: 0:1:0.0001
MAX_SETTINGS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All combinations of the values given for each setting; defaults are those of a search.

    `threshold` in [0, 1], None decides by the emitted token; weights are at least 0. Settings are
    ordered with `threshold` slowest and `w_ret` fastest, each in the order of its values.
    """

    threshold: tuple[float | None, ...] = (0.2,)
    w_rel: tuple[float, ...] = (1.0,)
    w_sup: tuple[float, ...] = (1.0,)
    w_use: tuple[float, ...] = (0.5,)
    w_seq: tuple[float, ...] = (1.0,)
    w_ret: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for value in self.threshold:
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(
                    f"cannot rescore: threshold is {value}, but it is a share; "
                    "choose numbers from 0 to 1, or none"
                )
        for name in ("w_rel", "w_sup", "w_use", "w_seq", "w_ret"):
            for value in getattr(self, name):
                if not (math.isfinite(value) and value >= 0.0):
                    raise ConfigError(
                        f"cannot rescore: {name} is {value}, but a weight is a finite number of "
                        "at least 0; set it so"
                    )
        if not 1 <= self.n_settings <= MAX_SETTINGS:
            raise ConfigError(
                f"cannot rescore: the grid has {self.n_settings:,} settings, expected 1 to "
                f"{MAX_SETTINGS:,}; choose other values"
            )

    @classmethod
    def parse(
        cls,
        *,
        threshold: str = "0.2",
        w_rel: str = "1",
        w_sup: str = "1",
        w_use: str = "0.5",
        w_seq: str = "1",
        w_ret: str = "1",
    ) -> "Grid":
        """The grid of texts such as `0.2`, `0,0.5,none` and `0:1:0.05`, the end included.

        A value that comes twice counts once. Raises `ConfigError` for any other text.
        """
        return cls(
            threshold=_values("threshold", threshold),
            w_rel=_numbers("w_rel", w_rel),
            w_sup=_numbers("w_sup", w_sup),
            w_use=_numbers("w_use", w_use),
            w_seq=_numbers("w_seq", w_seq),
            w_ret=_numbers("w_ret", w_ret),
        )

    @property
    def n_settings(self) -> int:
        """How many combinations there are."""
        return len(self.threshold) * self.n_weights

    @property
    def n_weights(self) -> int:
        """How many combinations of weights there are, thresholds aside."""
        return math.prod(map(len, self._axes))

    @property
    def weights(self) -> FloatArray:
        """Shape (n_weights, 5), columns as in `weight_row`; the last one fastest."""
        return np.array(list(itertools.product(*self._axes)), dtype=float).reshape(-1, N_PARTS)

    @property
    def _axes(self) -> tuple[tuple[float, ...], ...]:
        return (self.w_rel, self.w_sup, self.w_use, self.w_seq, self.w_ret)


def weight_row(weights: ScoreWeights) -> FloatArray:
    """Shape (5,): relevance, support, utility, sequence, retrieval."""
    parts = (weights.relevance, weights.support, weights.utility)
    return np.array([*parts, weights.sequence, weights.retrieval])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RescoreTable:
    """One row for each of S settings, in the order of `Grid`.

    `threshold`: (S,), NaN where the emitted token decides. `weights`: (S, 5), as in `weight_row`.
    `retrieval_rate`: (S,), share of all questions for which the gate retrieves.
    `n_answered`, `n_unrecorded`: (S,), questions with and without a candidate in the branch that
    the gate asks for. `n_judged`: (S,), answered questions with gold strings. `accuracy`: (S,),
    share of these whose answer holds one. `citation_precision`: (S,), share of the passages cited
    in their answers that hold one. NaN: a share of nothing.
    """

    threshold: FloatArray
    weights: FloatArray
    retrieval_rate: FloatArray
    accuracy: FloatArray
    citation_precision: FloatArray
    n_answered: IntArray
    n_judged: IntArray
    n_unrecorded: IntArray

    @property
    def n_settings(self) -> int:
        """S."""
        return len(self.threshold)


def load_traces(*paths: Path) -> Traces:
    """The candidates of all finished searches in these trace files.

    Raises `BadInput` for a file that is no trace, and when no finished search is left.
    """
    questions = recorded_questions(load_trace(*paths))
    if not questions:
        names = ", ".join(map(str, paths))
        raise BadInput(
            f"cannot rescore {names}: no finished search is recorded there; expected a trace "
            "written with --trace, so name one"
        )
    return to_arrays(questions)


def rescore(traces: Traces, grid: Grid) -> RescoreTable:
    """Retrieval rate, accuracy and citation precision under every setting of `grid`.

    Memory is bounded whatever the number of settings: weights are worked through in chunks.
    """
    retrieve = _decisions(traces, grid)
    shape = (len(grid.threshold), grid.n_weights)
    n_answered, n_judged, n_correct, n_cited, n_gold = (
        np.zeros(shape, dtype=np.int64) for _ in range(5)
    )
    for at, reading, plain in _chosen(traces, grid):
        for row, decided in enumerate(retrieve):
            choice = np.where(decided, reading, plain)
            judged = (choice >= 0) & traces.has_gold
            n_answered[row, at] = (choice >= 0).sum(axis=1)
            n_judged[row, at] = judged.sum(axis=1)
            n_correct[row, at] = _sum_chosen(traces.correct, choice, judged)
            n_cited[row, at] = _sum_chosen(traces.n_cited, choice, judged)
            n_gold[row, at] = _sum_chosen(traces.n_cited_gold, choice, judged)
    thresholds = np.array([np.nan if t is None else t for t in grid.threshold])
    rate = _share(retrieve.sum(axis=1), np.array(traces.n_questions))
    return RescoreTable(
        threshold=np.repeat(thresholds, grid.n_weights),
        weights=np.tile(grid.weights, (len(thresholds), 1)),
        retrieval_rate=np.repeat(rate, grid.n_weights),
        accuracy=_share(n_correct, n_judged).ravel(),
        citation_precision=_share(n_gold, n_cited).ravel(),
        n_answered=n_answered.ravel(),
        n_judged=n_judged.ravel(),
        n_unrecorded=(traces.n_questions - n_answered).ravel(),
    )


def choose(traces: Traces, grid: Grid) -> IntArray:
    """Shape (S, Q): the candidate chosen under every setting, -1 where its branch is unrecorded.

    The highest score wins; ties go to the candidate recorded first.
    """
    retrieve = _decisions(traces, grid)
    chosen = np.empty((len(retrieve), grid.n_weights, traces.n_questions), dtype=np.int64)
    for at, reading, plain in _chosen(traces, grid):
        chosen[:, at] = np.where(retrieve[:, None], reading, plain)
    return chosen.reshape(-1, traces.n_questions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """One question decided anew: `chosen` counts into `candidates`, None where none may be chosen.

    Answers and `scores`, one a candidate, are those under the new weights.
    """

    candidates: tuple[Candidate, ...]
    scores: tuple[float, ...]
    retrieve: bool
    chosen: int | None


def choose_one(
    question: RecordedQuestion, *, threshold: float | None, weights: ScoreWeights
) -> Choice:
    """The candidate of one question that wins under a threshold and weights, as in `choose`.

    What the gate decides by, and a mode that is not adaptive, stay as they were in the search.
    """
    rule = replace(question.gate.rule, threshold=threshold)
    retrieve = question.gate.retrieve
    if rule.mode is RetrievalMode.ADAPTIVE:
        retrieve = rule.would_retrieve(rule.kind, question.gate.numbers)
    gate = replace(question.gate, rule=rule, retrieve=retrieve)
    traces = to_arrays([question])
    scores = _path_scores(traces.features, weight_row(weights)[None])
    best = int(_best(scores, traces.reads if retrieve else traces.reads_not)[0, 0])
    totals = tuple(float(score) for score in scores[0, 0])
    candidates = tuple(
        replace(each, answer=_weighed(each.answer, weights, gate, score))
        for each, score in zip(question.candidates, totals, strict=True)
    )
    return Choice(
        candidates=candidates,
        scores=totals,
        retrieve=retrieve,
        chosen=None if best < 0 else best,
    )


def _weighed(answer: Answer, weights: ScoreWeights, gate: Gate, score: float) -> Answer:
    segments = tuple(
        replace(
            each,
            scores=weigh(
                relevance=each.scores.relevance,
                support=each.scores.support,
                utility=each.scores.utility,
                sequence=each.scores.sequence,
                weights=weights,
                missing=each.scores.missing,
                retrieval=each.scores.retrieval,
            ),
        )
        for each in answer.segments
    )
    return replace(answer, segments=segments, gate=gate, score=score)


def _decisions(traces: Traces, grid: Grid) -> BoolArray:
    """Shape (n_thresholds, Q): whether the gate retrieves, as `GateRule` has it."""
    rows = [
        traces.emitted_yes if threshold is None else (traces.paper > threshold) | (threshold == 0.0)
        for threshold in grid.threshold
    ]
    return np.array(rows, dtype=bool)


def _chosen(traces: Traces, grid: Grid) -> Iterator[tuple[slice, IntArray, IntArray]]:
    """Chunks of weights: which, and the best candidates (n, Q) with and without a passage."""
    weights = grid.weights
    size = max(1, CHUNK_BYTES // max(1, traces.reads.size * 8))
    for start in range(0, len(weights), size):
        at = slice(start, start + size)
        scores = _path_scores(traces.features, weights[at])
        yield at, _best(scores, traces.reads), _best(scores, traces.reads_not)


def _path_scores(features: FloatArray, weights: FloatArray) -> FloatArray:
    """Shape (n, Q, C) from (Q, C, 5) and (n, 5)."""
    # Not a matrix product: the same sums in the same order as `score.weigh`, so that candidates
    # that tie in a search tie here, and a path of one segment scores the same to the last bit.
    scores = weights[:, 0, None, None] * features[..., 0]
    for group in range(1, N_PARTS):
        scores += weights[:, group, None, None] * features[..., group]
    return scores


def _best(scores: FloatArray, allowed: BoolArray) -> IntArray:
    """Shape (n, Q): the first of the best candidates that are allowed, -1 where none is."""
    if not allowed.size:
        return np.full(scores.shape[:2], -1)
    best = np.where(allowed, scores, -np.inf).argmax(axis=2)
    return np.where(allowed.any(axis=1), best, -1)


def _sum_chosen(values: NDArray[np.generic], choice: IntArray, counted: BoolArray) -> IntArray:
    """Shape (n,): the sum of `values` (Q, C) at `choice` (n, Q), over the questions counted."""
    if not values.size:
        return np.zeros(len(choice), dtype=np.int64)
    picked = values[np.arange(len(values)), np.maximum(choice, 0)].astype(np.int64)
    summed: IntArray = np.where(counted, picked, 0).sum(axis=1)
    return summed


def _share(part: IntArray, whole: IntArray) -> FloatArray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _values(name: str, text: str) -> tuple[float | None, ...]:
    """As `_numbers`, with the word `none` among the values."""
    values: dict[float | None, None] = {}
    for part in text.split(","):
        bare = part.strip()
        values.update(dict.fromkeys([None] if bare.lower() == "none" else _part(name, bare)))
    return tuple(values)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    parts = [_part(name, part.strip()) for part in text.split(",")]
    return tuple(dict.fromkeys(itertools.chain.from_iterable(parts)))


def _part(name: str, text: str) -> list[float]:
    """One number, or the numbers of start:stop:step."""
    try:
        numbers = [float(piece) for piece in text.split(":")]
    except ValueError:
        numbers = []
    if not all(map(math.isfinite, numbers)):
        numbers = []
    if len(numbers) == 1:
        return numbers
    if len(numbers) == 3 and numbers[2] > 0 and numbers[0] <= numbers[1]:
        start, stop, step = numbers
        # Values are multiples of the step without the dust of binary fractions: 0.15, not
        # 0.15000000000000002; the end belongs to the range when it is that close to a multiple.
        steps = (stop - start) / step + 1e-9
        if steps < MAX_VALUES:
            return [round(start + index * step, 12) for index in range(math.floor(steps) + 1)]
    raise ConfigError(
        f"cannot rescore: {name} is {text!r}, expected a number, a range start:stop:step such as "
        f"0:1:0.05 with at most {MAX_VALUES:,} values, or several with commas between; write it so"
    )
