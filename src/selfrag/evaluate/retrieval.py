"""How good retrieval is: measures over judged passages or answer strings, with intervals.

The measures are those of ir-measures (trec_eval). Knows nothing of files, indexes or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfrag.errors import BadInput, SelfRAGError
from selfrag.statistics import Estimate, FloatArray, bootstrap_intervals

# By their names in ir-measures, where RR is the value that MRR is the mean of.
MEASURES = ("R@1", "R@5", "R@20", "R@100", "RR", "nDCG@10")
ANSWER_MEASURES = ("Success@1", "Success@5", "Success@20", "Success@100", "RR")

# Relevance by passage id, above 0 where the passage is relevant, by query id.
Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What was retrieved for one query: `scores` by passage id, a higher one is better.

    `holds_answer` says for every rank whether the passage holds an answer; None: not known.
    """

    scores: Mapping[str, float]
    holds_answer: tuple[bool, ...] | None = None

    @property
    def depth(self) -> int:
        """How many passages were retrieved."""
        return max(len(self.scores), len(self.holds_answer or ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalScores:
    """Means over `n_queries`, by name; those `without_results` are among them and count 0.

    Queries `without_judgements` were retrieved for, or listed, but no relevant passage or answer is
    known, so they are left out. `depth`: passages retrieved for a query, at most.
    """

    n_queries: int
    estimates: Mapping[str, Estimate]
    without_results: tuple[str, ...]
    without_judgements: tuple[str, ...]
    depth: int


def ranked_scores(passage_ids: Sequence[str]) -> dict[str, float]:
    """Scores that keep an order: -1 for the first, and so on; of a repeated id the first counts.

    trec_eval holds scores as 32-bit floats and breaks ties by id: close scores would change places.
    """
    scores: dict[str, float] = {}
    for rank, passage_id in enumerate(passage_ids, start=1):
        scores.setdefault(passage_id, -float(rank))
    return scores


def score_run(qrels: Qrels, run: Mapping[str, Ranking], *, seed: int = 0) -> RetrievalScores:
    """The means of `MEASURES` of a run over all queries with a relevant passage.

    RR is cut where the run ends. Raises `BadInput` when no query has a relevant passage, or none of
    those that have was retrieved for.
    """
    judged = {
        q: relevance for q, relevance in qrels.items() if max(relevance.values(), default=0) > 0
    }
    unjudged = [qid for qid in dict.fromkeys([*qrels, *run]) if qid not in judged]
    if judged and run and not judged.keys() & run.keys():
        raise BadInput(
            f"cannot measure retrieval: the run is for queries such as {next(iter(run))!r}, the "
            f"judgements for such as {next(iter(judged))!r}, and none is in both; name those of "
            "the same queries"
        )
    values = per_query(judged, {qid: each.scores for qid, each in run.items()}, MEASURES)
    depths = {qid: each.depth for qid, each in run.items()}
    return _scores(list(judged), MEASURES, values, depths, unjudged=unjudged, seed=seed)


def score_answers(run: Mapping[str, Ranking], *, seed: int = 0) -> RetrievalScores:
    """The means of `ANSWER_MEASURES`: a passage is relevant where it holds an answer.

    Success@k is whether one of the first k does, which open question answering calls R@k. Queries
    of which that is not known count as without judgements. Raises `BadInput` when it is known of
    none.
    """
    known = {q: each.holds_answer for q, each in run.items() if each.holds_answer is not None}
    places = {qid: [str(rank) for rank in range(len(held))] for qid, held in known.items()}
    qrels = {
        qid: {place: int(holds) for place, holds in zip(places[qid], held, strict=True)}
        for qid, held in known.items()
    }
    values = per_query(
        qrels, {qid: ranked_scores(ids) for qid, ids in places.items()}, ANSWER_MEASURES
    )
    depths = {qid: len(held) for qid, held in known.items()}
    unjudged = [qid for qid in run if qid not in known]
    return _scores(list(known), ANSWER_MEASURES, values, depths, unjudged=unjudged, seed=seed)


def per_query(
    qrels: Qrels, scores: Mapping[str, Mapping[str, float]], measures: Sequence[str]
) -> FloatArray:
    """Shape (n_queries, n_measures), in the order of `qrels` and `measures`.

    A query that was not retrieved for, or has nothing relevant, has 0 everywhere.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise SelfRAGError(
            f"cannot measure retrieval: a package is missing ({error}), expected ir-measures "
            'installed; run pip install "selfrag[eval]"'
        ) from error
    row = {qid: number for number, qid in enumerate(qrels)}
    column = {name: number for number, name in enumerate(measures)}
    values = np.zeros((len(row), len(column)))
    found = ir_measures.iter_calc(
        [ir_measures.parse_measure(name) for name in measures],
        {qid: dict(relevance) for qid, relevance in qrels.items()},
        {qid: dict(scores[qid]) for qid in qrels if scores.get(qid)},
    )
    for metric in found:
        values[row[metric.query_id], column[str(metric.measure)]] = metric.value
    return values


def _scores(
    queries: Sequence[str],
    measures: Sequence[str],
    values: FloatArray,
    depths: Mapping[str, int],
    *,
    unjudged: Sequence[str],
    seed: int,
) -> RetrievalScores:
    if not queries:
        raise BadInput(
            f"cannot measure retrieval: found {len(unjudged)} queries and none with a relevant "
            "passage or an answer, expected at least one; name the judgements of this run"
        )
    means, (low, high) = values.mean(axis=0), bootstrap_intervals(values, seed=seed)
    names = ["MRR" if name == "RR" else name for name in measures]
    estimates = [
        Estimate(mean=float(mean), low=float(a), high=float(b), n=len(queries))
        for mean, a, b in zip(means, low, high, strict=True)
    ]
    return RetrievalScores(
        n_queries=len(queries),
        estimates=dict(zip(names, estimates, strict=True)),
        without_results=tuple(qid for qid in queries if not depths.get(qid)),
        without_judgements=tuple(unjudged),
        depth=max(depths.values(), default=0),
    )
