"""Judgements and rankings as files: TREC, BEIR, and the output of `selfrag retrieve`.

Knows nothing of measures.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.evaluate.answers import answers_of, has_answer
from selfrag.evaluate.retrieval import Ranking, ranked_scores

_QRELS_FORM = (
    "TREC qrels (query 0 passage relevance), a BEIR table (query-id, corpus-id, score) or JSON "
    'such as {"qid": "q1", "gold_pids": ["p1"]}'
)
_RUN_FORM = 'a TREC run or JSON such as {"qid": "q1", "ctxs": [{"id": "p1", "hasanswer": true}]}'
_BAD = (AttributeError, KeyError, RecursionError, TypeError, ValueError)


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Relevance by query id and passage id, in file order.

    TREC: `query 0 passage relevance`. BEIR: a head and `query<tab>passage<tab>relevance`. JSON
    lines: `qid`, `id` or `_id`, and `gold_pids`, all of relevance 1. Raises `BadInput` naming the
    line that is none of these.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _lines(path, "judgements"):
        try:
            if line.startswith("{"):
                row = json.loads(line)
                qrels[_new_id(row, qrels)] = {str(pid): 1 for pid in row["gold_pids"]}
                continue
            fields = line.split("\t") if "\t" in line else line.split()
            if number == 1 and fields[0] == "query-id":
                continue
            qid, passage_id, value = fields if len(fields) == 3 else (fields[0], *fields[2:])
            qrels.setdefault(qid, {})[passage_id] = int(value)
        except _BAD as error:
            raise _bad_line(path, number, error, "a judgement", _QRELS_FORM) from error
    return qrels


def read_run(path: Path) -> dict[str, Ranking]:
    """Rankings by query id, in file order, from a TREC run or the output of `selfrag retrieve`.

    TREC: `query Q0 passage rank score name`; only scores count, ties as trec_eval breaks them. JSON
    lines: `qid`, `id` or `_id`, else the query is called by its line, and `ctxs` in order with
    `id`, and with `hasanswer` or else `text`, in which the gold strings of the row are looked for.
    Raises `BadInput` naming the line that is neither.
    """
    run: dict[str, Ranking] = {}
    scores: dict[str, dict[str, float]] = {}
    for number, line in _lines(path, "a run"):
        try:
            if line.startswith("{"):
                row = json.loads(line)
                run[_new_id(row, run, default=f"line {number}")] = _ranking(row)
            else:
                qid, _, passage_id, _, score, _ = line.split()
                if not math.isfinite(float(score)):
                    raise ValueError(f"score {score}")
                scores.setdefault(qid, {})[passage_id] = float(score)
        except _BAD as error:
            raise _bad_line(path, number, error, "a ranking", _RUN_FORM) from error
    return {**run, **{qid: Ranking(scores=found) for qid, found in scores.items()}}


def _new_id(row: Mapping[str, Any], seen: Mapping[str, object], default: str = "") -> str:
    found = next((row[name] for name in ("qid", "id", "_id") if name in row), default)
    if found == "" or not isinstance(found, str | int):
        raise KeyError("qid")
    if str(found) in seen:
        raise ValueError(f"query {found!r} a second time")
    return str(found)


def _ranking(row: Mapping[str, Any]) -> Ranking:
    ctxs: Sequence[Mapping[str, Any]] = row["ctxs"]
    # Web hits in the released PopQA file have no id: they have a place but can match no judgement.
    ids = [str(ctx.get("id", f"no id, rank {rank}")) for rank, ctx in enumerate(ctxs, start=1)]
    answers = answers_of(row)
    if not answers and not any("hasanswer" in ctx for ctx in ctxs):
        return Ranking(scores=ranked_scores(ids))
    return Ranking(
        scores=ranked_scores(ids), holds_answer=tuple(_holds(ctx, answers) for ctx in ctxs)
    )


def _holds(ctx: Mapping[str, Any], answers: Sequence[str]) -> bool:
    if "hasanswer" in ctx:
        return bool(ctx["hasanswer"])
    return has_answer(str(ctx.get("text") or ""), answers)


def _lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that hold something, numbered from 1."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if text := line.decode("utf-8-sig").strip():
                    yield number, text
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"cannot read {what} from {path}: {error}; expected a readable file in UTF-8, so name "
            "another"
        ) from error


def _bad_line(path: Path, number: int, error: Exception, what: str, form: str) -> BadInput:
    return BadInput(
        f"cannot read {path}: line {number} is not {what} ({error!r}); expected {form}, so mend or "
        "drop the line"
    )
