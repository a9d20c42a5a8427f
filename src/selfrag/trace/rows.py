"""The rows of a trace: JSON objects for nodes and events, and back.

Form and field names are documented in docs/formats.md. Knows nothing of files, of row order or of
how question numbers are made unique. Reading raises `KeyError`, `TypeError` or `ValueError` for
what is no such row; the caller knows file and line.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from selfrag.decode.answer import hit_to_json
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    GateEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
    SkipEvent,
    Usage,
)
from selfrag.decode.gate import Gate, GateKind, GateNumbers, GateRule, RetrievalMode
from selfrag.decode.node import Node, PathScore
from selfrag.decode.score import ScoreWeights, SegmentScores
from selfrag.decode.segment import GroupLogprobs, Segment
from selfrag.engine.base import FloatArray
from selfrag.passage import Hit, Passage
from selfrag.reflection import (
    REFLECTION_TOKENS,
    ReflectionToken,
    Relevance,
    Retrieve,
    Support,
    Utility,
)

Row = Mapping[str, Any]
SerialOf = Callable[[Node], int]
NodeOf = Callable[[int], Node]

_TOKEN_OF = {token.value: token for token in REFLECTION_TOKENS}


def config_to_row(config: SearchConfig) -> dict[str, Any]:
    """Every setting of a search; `weights` is an object of its own."""
    return asdict(config)


def config_from_row(row: Row) -> SearchConfig:
    """The settings in `row`; one that is missing has its default."""
    given = dict(row)
    for name, kind in (
        ("mode", RetrievalMode),
        ("gate", GateKind),
        ("path_score", PathScore),
        ("query", QueryPolicy),
        ("choices", tuple),
    ):
        if name in given:
            given[name] = kind(given[name])
    if "weights" in given:
        given["weights"] = ScoreWeights(**given["weights"])
    return SearchConfig(**given)


def node_to_row(node: Node, serial_of: SerialOf) -> dict[str, Any]:
    """One node; its parent and itself by their serial numbers."""
    return {
        "node": serial_of(node),
        "parent": None if node.parent is None else serial_of(node.parent),
        "lead_ids": list(node.lead_ids),
        "hits": [_hit_to_row(hit) for hit in node.hits],
        "segment": None if node.segment is None else _segment_to_row(node.segment),
        "wants": node.wants,
        "path_score": _number(node.path_score),
    }


def node_from_row(row: Row, node_of: NodeOf) -> Node:
    """The node of `row`, linked to the parent that `node_of` knows by its serial number."""
    parent, segment, wants = row["parent"], row["segment"], row["wants"]
    return Node(
        id=typed(row, "node", int),
        parent=None if parent is None else node_of(parent),
        lead_ids=_ids(row["lead_ids"]),
        hits=tuple(_hit_from_row(hit) for hit in row["hits"]),
        segment=None if segment is None else _segment_from_row(segment),
        wants=None if wants is None else Retrieve(wants),
        path_score=float(row["path_score"]),
    )


def event_to_row(event: Event, serial_of: SerialOf) -> dict[str, Any]:
    """One event with `type` and `question`; nodes by their serial numbers."""
    head = {"type": _TYPE_OF[type(event)], "question": event.question}
    match event:
        case GateEvent():
            return {**head, "gate": _gate_to_row(event.gate)}
        case RetrievalEvent():
            hits = [_hit_to_row(hit) for hit in event.hits]
            return {**head, "parent": serial_of(event.parent), "query": event.query, "hits": hits}
        case SkipEvent():
            return {
                **head,
                "parent": serial_of(event.parent),
                "hit": _hit_to_row(event.hit),
                "relevance": _number(event.relevance),
                "bound": _number(event.bound),
            }
        case CandidateEvent():
            return {**head, "node": serial_of(event.node)}
        case KeepEvent():
            return {**head, "node": serial_of(event.node), "rank": event.rank}
        case PruneEvent():
            node = serial_of(event.node)
            return {**head, "node": node, "rank": event.rank, "reason": event.reason}
        case FinishEvent():
            return {
                **head,
                "best": serial_of(event.best),
                "gate": _gate_to_row(event.gate),
                "beam": [serial_of(node) for node in event.beam],
                "usage": {"tokens": event.usage.n_tokens, "passages": event.usage.n_passages},
                "stopped_by": event.stopped_by,
                "abstained": event.abstained,
                "likelihoods": event.likelihoods,
            }


_TYPE_OF = {
    GateEvent: "gate",
    RetrievalEvent: "retrieval",
    SkipEvent: "skip",
    CandidateEvent: "candidate",
    KeepEvent: "keep",
    PruneEvent: "prune",
    FinishEvent: "finish",
}


def event_from_row(row: Row, question: int, node_of: NodeOf) -> Event:
    """The event of `row`, told of `question`; its nodes are those that `node_of` knows."""
    match row["type"]:
        case "gate":
            return GateEvent(question=question, gate=_gate_from_row(row["gate"]))
        case "retrieval":
            return RetrievalEvent(
                question=question,
                parent=node_of(row["parent"]),
                query=typed(row, "query", str),
                hits=tuple(_hit_from_row(hit) for hit in row["hits"]),
            )
        case "skip":
            return SkipEvent(
                question=question,
                parent=node_of(row["parent"]),
                hit=_hit_from_row(row["hit"]),
                relevance=float(row["relevance"]),
                bound=float(row["bound"]),
            )
        case "candidate":
            return CandidateEvent(question=question, node=node_of(row["node"]))
        case "keep":
            rank = typed(row, "rank", int)
            return KeepEvent(question=question, node=node_of(row["node"]), rank=rank)
        case "prune":
            return PruneEvent(
                question=question,
                node=node_of(row["node"]),
                rank=typed(row, "rank", int),
                reason=typed(row, "reason", str),
            )
        case "finish":
            return _finish_from_row(row, question, node_of)
        case other:
            raise ValueError(f"unknown type {other!r}")


def _finish_from_row(row: Row, question: int, node_of: NodeOf) -> FinishEvent:
    usage, stopped_by = row["usage"], row["stopped_by"]
    return FinishEvent(
        question=question,
        best=node_of(row["best"]),
        gate=_gate_from_row(row["gate"]),
        beam=tuple(node_of(serial) for serial in row["beam"]),
        usage=Usage(n_tokens=typed(usage, "tokens", int), n_passages=typed(usage, "passages", int)),
        stopped_by=None if stopped_by is None else typed(row, "stopped_by", str),
        abstained=typed(row, "abstained", bool),
        likelihoods={
            str(choice): float(share) for choice, share in row.get("likelihoods", {}).items()
        },
    )


def _gate_to_row(gate: Gate) -> dict[str, Any]:
    return {
        "paper": _number(gate.numbers.paper),
        "reference": _number(gate.numbers.reference),
        "emitted": gate.numbers.emitted,
        "mode": gate.rule.mode,
        "rule": gate.rule.kind,
        "threshold": gate.rule.threshold,
        "retrieve": gate.retrieve,
    }


def _gate_from_row(row: Row) -> Gate:
    emitted, threshold = row["emitted"], row["threshold"]
    return Gate(
        numbers=GateNumbers(
            paper=float(row["paper"]),
            reference=float(row["reference"]),
            emitted=None if emitted is None else Retrieve(emitted),
        ),
        rule=GateRule(
            mode=RetrievalMode(row["mode"]),
            kind=GateKind(row["rule"]),
            threshold=None if threshold is None else float(threshold),
        ),
        retrieve=typed(row, "retrieve", bool),
    )


def _hit_to_row(hit: Hit) -> dict[str, Any]:
    row = {**hit_to_json(hit), "start": hit.passage.start, "end": hit.passage.end}
    return {**row, "score": _number(hit.score)}


def _hit_from_row(row: Row) -> Hit:
    texts = {name: typed(row, name, str) for name in ("id", "title", "text", "source")}
    offsets = {name: typed(row, name, int) for name in ("start", "end")}
    passage = Passage(**texts, **offsets)
    return Hit(passage=passage, score=float(row["score"]), rank=typed(row, "rank", int))


def _segment_to_row(segment: Segment) -> dict[str, Any]:
    scores, logprobs = segment.scores, segment.logprobs
    return {
        "text": segment.text,
        "body_ids": list(segment.body_ids),
        "critique": list(segment.critique),
        "scores": {
            "relevance": scores.relevance,
            "support": scores.support,
            "utility": scores.utility,
            "sequence": _number(scores.sequence),
            "total": _number(scores.total),
            "missing": scores.missing,
        },
        "finished": segment.finished,
        "truncated": segment.truncated,
        "ends_on": segment.ends_on,
        "next_retrieve": _numbers(segment.next_retrieve),
        "logprobs": {
            "relevance": _numbers(logprobs.relevance),
            "support": _numbers(logprobs.support),
            "utility": _numbers(logprobs.utility),
            "mean": _number(logprobs.mean),
        },
        "n_tokens": segment.n_tokens,
    }


def _segment_from_row(row: Row) -> Segment:
    scores, logprobs, ends_on = row["scores"], row["logprobs"], row["ends_on"]
    judged = {
        name: None if scores[name] is None else float(scores[name])
        for name in ("relevance", "support", "utility")
    }
    return Segment(
        text=typed(row, "text", str),
        body_ids=_ids(row["body_ids"]),
        critique=tuple(_token(surface) for surface in row["critique"]),
        scores=SegmentScores(
            **judged,
            sequence=float(scores["sequence"]),
            total=float(scores["total"]),
            missing=dict(scores["missing"]),
        ),
        finished=typed(row, "finished", bool),
        truncated=typed(row, "truncated", bool),
        ends_on=None if ends_on is None else Retrieve(ends_on),
        next_retrieve=_array(row["next_retrieve"], len(Retrieve)),
        logprobs=GroupLogprobs(
            relevance=_array(logprobs["relevance"], len(Relevance)),
            support=_array(logprobs["support"], len(Support)),
            utility=_array(logprobs["utility"], len(Utility)),
            mean=float(logprobs["mean"]),
        ),
        n_tokens=typed(row, "n_tokens", int),
    )


def typed(row: Row, name: str, kind: type) -> Any:
    """The field `name`, which has to be a `kind`; a bool is no int."""
    value = row[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
    return value


def _token(surface: str) -> ReflectionToken:
    if surface not in _TOKEN_OF:
        raise ValueError(f"{surface!r} is no reflection token")
    return _TOKEN_OF[surface]


def _ids(values: list[Any]) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise TypeError(f"token ids are {values!r}, expected ints")
    return tuple(values)


def _number(value: float) -> float | str:
    """JSON has no infinity and no NaN; `float` reads their names."""
    return float(value) if math.isfinite(value) else str(float(value))


def _numbers(values: FloatArray | None) -> list[float | str] | None:
    return None if values is None else [_number(value) for value in values.tolist()]


def _array(values: list[Any] | None, size: int) -> FloatArray | None:
    if values is None:
        return None
    array = np.array([float(value) for value in values])
    if array.shape != (size,):
        raise ValueError(f"{len(array)} log-probabilities, expected {size}")
    return array
