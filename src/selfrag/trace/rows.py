"""The rows of a trace: JSON objects for nodes and events, and back.

Form and field names are documented in docs/formats.md. Knows nothing of files, of row order or of
how question numbers are made unique. Reading raises `KeyError`, `TypeError` or `ValueError` for
what is no such row; the caller knows file and line.

Not msgspec: nodes are told by number, arrays and infinite numbers have forms of their own, and a
critique is a union of several enums.
"""

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any

import numpy as np

from selfrag.decode.answer import hit_to_json
from selfrag.decode.config import SearchConfig
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
from selfrag.decode.node import Node
from selfrag.decode.score import retrieval_score
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
from selfrag.serial import config_from

Row = Mapping[str, Any]
SerialOf = Callable[[Node], int]
NodeOf = Callable[[int], Node]
Reader = Callable[[Any, NodeOf], Any]

_KIND_OF = {
    "gate": GateEvent,
    "retrieval": RetrievalEvent,
    "skip": SkipEvent,
    "candidate": CandidateEvent,
    "keep": KeepEvent,
    "prune": PruneEvent,
    "finish": FinishEvent,
}
_TYPE_OF: dict[type, str] = {kind: name for name, kind in _KIND_OF.items()}
_TOKEN_OF = {token.value: token for token in REFLECTION_TOKENS}
# What traces of earlier versions lack; see also `with_retrieval`.
_LATER: Row = {"likelihoods": {}, "retrieval": None, "probability": None, "conflict": ()}
# How many log-probabilities a field holds.
_SIZES = {
    "next_retrieve": len(Retrieve),
    "relevance": len(Relevance),
    "support": len(Support),
    "utility": len(Utility),
}


def config_to_row(config: SearchConfig) -> dict[str, Any]:
    """Every setting of a search; `weights` is an object of its own."""
    return asdict(config)


def config_from_row(row: Row) -> SearchConfig:
    """The settings in `row`; one that is missing has its default."""
    return config_from(SearchConfig, row, table="decode")


def node_to_row(node: Node, serial_of: SerialOf) -> dict[str, Any]:
    """One node; its parent and itself by their serial numbers."""
    values = {each.name: _plain(getattr(node, each.name), serial_of) for each in fields(node)}
    return {"node": serial_of(node), **{name: values[name] for name in values if name != "id"}}


def node_from_row(row: Row, node_of: NodeOf) -> Node:
    """The node of `row`, linked to the parent that `node_of` knows by its serial number."""
    node: Node = _read_fields(Node, {**row, "id": row["node"]}, node_of)
    return node


def with_retrieval(node: Node, best: float) -> Node:
    """The node of an earlier version's trace with its retrieval score; `best` of its look-up."""
    if node.segment is None or not node.hits:
        return node
    found = retrieval_score(node.hits[0].score, best)
    scores = replace(node.segment.scores, retrieval=found)
    return replace(node, segment=replace(node.segment, scores=scores))


def event_to_row(event: Event, serial_of: SerialOf) -> dict[str, Any]:
    """One event with `type` and `question`; nodes by their serial numbers."""
    values = {each.name: _plain(getattr(event, each.name), serial_of) for each in fields(event)}
    return {"type": _TYPE_OF[type(event)], **values}


def event_from_row(row: Row, question: int, node_of: NodeOf) -> Event:
    """The event of `row`, told of `question`; its nodes are those that `node_of` knows."""
    if row["type"] not in _KIND_OF:
        raise ValueError(f"unknown type {row['type']!r}")
    values = {**row, "question": question}
    event: Event = _read_fields(_KIND_OF[row["type"]], values, node_of)
    return event


def _plain(value: Any, serial_of: SerialOf) -> Any:
    """A value of a node or an event as JSON has it."""
    if isinstance(value, Node):
        return serial_of(value)
    if isinstance(value, Gate):
        return _gate_to_row(value)
    if isinstance(value, Hit):
        row = {**hit_to_json(value), "start": value.passage.start, "end": value.passage.end}
        return {**row, "score": _number(value.score)}
    if isinstance(value, Usage):
        return {"tokens": value.n_tokens, "passages": value.n_passages}
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name), serial_of) for each in fields(value)}
    if isinstance(value, np.ndarray):
        return [_number(each) for each in value.tolist()]
    if isinstance(value, tuple):
        return [_plain(each, serial_of) for each in value]
    return _number(value) if isinstance(value, float) else value


def _read_fields(kind: Any, row: Row, node_of: NodeOf) -> Any:
    """The dataclass `kind` whose fields `row` holds by name."""
    values = {**_LATER, **row}
    return kind(**{name: read(values[name], node_of) for name, read in _readers(kind)})


@cache
def _readers(kind: Any) -> tuple[tuple[str, Reader], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((name, _reader(hint, name)) for name, hint in hints.items())


def _reader(hint: Any, name: str) -> Reader:
    """What reads the values of a field of the type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    # On Python 3.12, newer numpy's NDArray is a `type` alias, whose value says what it stands for.
    origin = typing.get_origin(getattr(origin, "__value__", None)) or origin
    if NoneType in inner:
        (bare,) = (_reader(each, name) for each in inner if each is not NoneType)
        return lambda value, node_of: None if value is None else bare(value, node_of)
    if hint in _SPECIAL:
        return _SPECIAL[hint]
    if origin is np.ndarray:
        return lambda value, node_of: _array(value, _SIZES[name])
    if origin is tuple:
        item = _reader(inner[0], name)
        return lambda value, node_of: tuple(item(each, node_of) for each in value)
    if origin is dict:
        item = _reader(inner[1], name)
        return lambda value, node_of: {str(k): item(each, node_of) for k, each in value.items()}
    if is_dataclass(hint):
        return lambda value, node_of: _read_fields(hint, value, node_of)
    if hint is float or issubclass(hint, Enum):
        return lambda value, node_of: hint(value)
    return lambda value, node_of: _checked(value, name, hint)


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


def _hit_from_row(row: Row) -> Hit:
    texts = {name: typed(row, name, str) for name in ("id", "title", "text", "source")}
    offsets = {name: typed(row, name, int) for name in ("start", "end")}
    # Where the document has pages.
    offsets |= {name: typed(row, name, int) for name in ("page", "last_page") if name in row}
    passage = Passage(**texts, **offsets)
    return Hit(passage=passage, score=float(row["score"]), rank=typed(row, "rank", int))


def typed(row: Row, name: str, kind: type) -> Any:
    """The field `name`, which has to be a `kind`; a bool is no int."""
    return _checked(row[name], name, kind)


def _checked(value: Any, name: str, kind: type) -> Any:
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


def _array(values: list[Any], size: int) -> FloatArray:
    array = np.array([float(value) for value in values])
    if array.shape != (size,):
        raise ValueError(f"{len(array)} log-probabilities, expected {size}")
    return array


def _usage(row: Row) -> Usage:
    return Usage(n_tokens=typed(row, "tokens", int), n_passages=typed(row, "passages", int))


_SPECIAL: dict[Any, Reader] = {
    Node: lambda value, node_of: node_of(value),
    Gate: lambda value, node_of: _gate_from_row(value),
    Hit: lambda value, node_of: _hit_from_row(value),
    Usage: lambda value, node_of: _usage(value),
    ReflectionToken: lambda value, node_of: _token(value),
    tuple[int, ...]: lambda value, node_of: _ids(value),
}
