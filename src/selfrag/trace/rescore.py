"""What recorded searches would have answered under other thresholds and weights, without a model.

A path's score is linear in the weights (Self-RAG, arXiv 2310.11511, Eq. 3-4), so its summed scores
are enough to rank it anew, and the gate's number is enough to decide anew. Arrays in, arrays out.

Only the first decision to retrieve is taken anew, only hypotheses that were recorded can be chosen
and a path's score is their sum; `min_support` and closed sets of `choices` are not applied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfrag.engine.base import FloatArray
from selfrag.errors import BadInput
from selfrag.trace.candidates import (
    BoolArray,
    IntArray,
    Traces,
    recorded_questions,
    to_arrays,
)
from selfrag.trace.file import load_trace
from selfrag.trace.grid import Grid

CHUNK_BYTES = 16 * 2**20  # of one array of scores; a few of this size live at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RescoreTable:
    """One row for each of S settings, in the order of `Grid`.

    `threshold`: (S,), NaN where the emitted token decides. `weights`: (S, 4): relevance, support,
    utility, sequence. `retrieval_rate`: (S,), share of all questions for which the gate retrieves.
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
    """Shape (n, Q, C) from (Q, C, 4) and (n, 4)."""
    # Not a matrix product: the same sums in the same order as `score.weigh`, so that candidates
    # that tie in a search tie here, and a path of one segment scores the same to the last bit.
    scores = weights[:, 0, None, None] * features[..., 0]
    for group in range(1, 4):
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
