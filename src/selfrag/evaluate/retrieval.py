"""How good retrieval is: measures over judged passages or answer strings, with intervals.

The measures are those of ir-measures (trec_eval). Judgements and rankings are read from files of
TREC and BEIR, and from the output of `selfrag retrieve`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.errors import BadInput, MissingPackage
from selfrag.rows import Reject, answers_of, id_of, json_kind, read_values
from selfrag.statistics import Estimate, FloatArray, bootstrap_intervals
from selfrag.text import counted, has_answer

# By their names in ir-measures, where RR is the value that MRR is the mean of.
MEASURES = ("R@1", "R@5", "R@20", "R@100", "RR", "nDCG@10")
ANSWER_MEASURES = ("Success@1", "Success@5", "Success@20", "Success@100", "RR")

# Relevance by passage id, above 0 where the passage is relevant, by query id.
Qrels = Mapping[str, Mapping[str, int]]
_QRELS_FORM = (
    "TREC qrels (query 0 passage relevance), a BEIR table (query-id, corpus-id, score) or JSON "
    'such as {"qid": "q1", "gold_pids": ["p1"]}'
)
_RUN_FORM = 'a TREC run or JSON such as {"qid": "q1", "ctxs": [{"id": "p1", "hasanswer": true}]}'
_BAD = (AttributeError, KeyError, RecursionError, TypeError, ValueError)


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
        raise MissingPackage(
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
            f"cannot measure retrieval: found {counted(len(unjudged), 'query', 'queries')} and "
            "none with a relevant passage or an answer, expected at least one; name the judgements "
            "of this run"
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


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Relevance by query id and passage id, in file order.

    TREC: `query 0 passage relevance`. BEIR: a head and `query<tab>passage<tab>relevance`. JSON
    lines or a JSON list: `qid`, `id` or `_id`, and `gold_pids`, all of relevance 1. Raises
    `BadInput` naming the line that is none of these.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, row in read_values(path, what="judgements"):
        try:
            if isinstance(row, dict):
                qrels[_new_id(row, qrels)] = {str(pid): 1 for pid in row["gold_pids"]}
                continue
            fields = _fields(row)
            if number == 1 and fields[0] == "query-id":
                continue
            qid, passage_id, value = fields if len(fields) == 3 else (fields[0], *fields[2:])
            qrels.setdefault(qid, {})[passage_id] = int(value)
        except _BAD as error:
            raise _bad_line(path, number, error, "a judgement", _QRELS_FORM) from error
    return qrels


def read_run(path: Path) -> dict[str, Ranking]:
    """Rankings by query id, in file order: a TREC run, or the output of `selfrag retrieve` or DPR.

    TREC: `query Q0 passage rank score name`; only scores count, ties as trec_eval breaks them. JSON
    lines or a JSON list: `qid`, `id` or `_id`, else the query is called by its line or place, and
    `ctxs` in order with `id`, and with `hasanswer` or DPR's `has_answer` or else `text`, in which
    the gold strings of the row are looked for. Raises `BadInput` naming the line that is neither.
    """
    run: dict[str, Ranking] = {}
    scores: dict[str, dict[str, float]] = {}
    for number, row in read_values(path, what="a run"):
        try:
            if isinstance(row, dict):
                run[_new_id(row, run, default=f"line {number}")] = _ranking(row)
            else:
                qid, _, passage_id, _, score, _ = _fields(row)
                if not math.isfinite(float(score)):
                    raise ValueError(f"score {score}")
                scores.setdefault(qid, {})[passage_id] = float(score)
        except _BAD as error:
            raise _bad_line(path, number, error, "a ranking", _RUN_FORM) from error
    return {**run, **{qid: Ranking(scores=found) for qid, found in scores.items()}}


def _fields(row: Any) -> list[str]:
    """The fields of a line that is no JSON, as the line of a TREC or BEIR file is none."""
    if not isinstance(row, Reject):
        raise ValueError(f"it is {json_kind(row)}")
    if row.reason != "not_json":
        raise ValueError(f"it {row.detail}")
    line = str(row.row)
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) not in (3, 4, 6):
        raise ValueError(f"it has {len(fields)} fields")
    return fields


def _new_id(row: Mapping[str, Any], seen: Mapping[str, object], default: str = "") -> str:
    names = ("qid", "id", "_id")
    found = id_of(row, *names, otherwise="" if row.keys() & names else default)
    if not found:
        raise KeyError("qid")
    if found in seen:
        raise ValueError(f"query {found!r} a second time")
    return found


def _ranking(row: Mapping[str, Any]) -> Ranking:
    ctxs: Sequence[Mapping[str, Any]] = row["ctxs"]
    # Web hits in the released PopQA file have no id: they have a place but can match no judgement.
    ids = [str(ctx.get("id", f"no id, rank {rank}")) for rank, ctx in enumerate(ctxs, start=1)]
    answers = answers_of(row)
    holds = [ctx.get("hasanswer", ctx.get("has_answer")) for ctx in ctxs]
    if not answers and all(each is None for each in holds):
        return Ranking(scores=ranked_scores(ids))
    return Ranking(
        scores=ranked_scores(ids),
        holds_answer=tuple(
            has_answer(str(ctx.get("text") or ""), answers) if known is None else bool(known)
            for ctx, known in zip(ctxs, holds, strict=True)
        ),
    )


def _bad_line(path: Path, number: int, error: Exception, what: str, form: str) -> BadInput:
    return BadInput(
        f"cannot read {path}: line {number} is not {what} ({_told(error)}); expected {form}, so "
        "fix or drop the line"
    )


def _told(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def scores_to_json(scores: RetrievalScores) -> dict[str, Any]:
    """The scores as plain values."""
    return {
        "n_queries": scores.n_queries,
        "depth": scores.depth,
        "measures": {
            name: {"mean": each.mean, "low": each.low, "high": each.high}
            for name, each in scores.estimates.items()
        },
        "without_results": list(scores.without_results),
        "without_judgements": list(scores.without_judgements),
    }
