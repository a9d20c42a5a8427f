"""What a search tells as it goes: one typed event for every decision."""

from dataclasses import dataclass

from selfrag.decode.gate import Gate
from selfrag.decode.node import Node
from selfrag.passage import Hit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GateEvent:
    """The first decision on a question; `question` counts from 0 within the batch."""

    question: int
    gate: Gate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetrievalEvent:
    """Passages found for the segment after `parent`."""

    question: int
    parent: Node
    query: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CandidateEvent:
    """A segment was written and scored."""

    question: int
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeepEvent:
    """A hypothesis stays in the beam; `rank` from 1."""

    question: int
    node: Node
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PruneEvent:
    """A hypothesis leaves the beam, and why."""

    question: int
    node: Node
    rank: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishEvent:
    """The search for one question is over; `best` is the end of the winning path."""

    question: int
    best: Node
    gate: Gate


Event = GateEvent | RetrievalEvent | CandidateEvent | KeepEvent | PruneEvent | FinishEvent
