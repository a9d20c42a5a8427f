"""What a search tells as it goes: one typed event for every decision."""

from dataclasses import dataclass, field

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
class SkipEvent:
    """A passage was not read on: its `relevance` after one token is under `bound`."""

    question: int
    parent: Node
    hit: Hit
    relevance: float
    bound: float


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
    """A hypothesis leaves the beam, and why. `rank` 0: it was not ranked."""

    question: int
    node: Node
    rank: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one question has cost: ids written, the gate's included, and passages read."""

    n_tokens: int = 0
    n_passages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One of several answers that exclude one another, by the first segment that gives it.

    `elsewhere`: the most support that its text has from a passage of another side, in [0, 1].
    """

    node: Node
    elsewhere: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishEvent:
    """The search for one question is over.

    `best` ends the winning path; it is the root where nothing was written or nothing may be said.
    `beam` holds the last hypotheses, best first. `stopped_by` names the budget that ended the
    search early, if one did. `abstained`: no hypothesis reached `min_support`, all were
    contradicted, or the best is under `min_probability`. `likelihoods`: the share of every choice
    of a closed set that no candidate named. `probability`: that the best hypothesis is right, said
    or not; None where no calibration speaks of it. `conflict`: the answers that sources give and
    that exclude one another, that of `best` first; empty where none does.
    """

    question: int
    best: Node
    gate: Gate
    beam: tuple[Node, ...]
    usage: Usage
    stopped_by: str | None = None
    abstained: bool = False
    likelihoods: dict[str, float] = field(default_factory=dict)
    probability: float | None = None
    conflict: tuple[Side, ...] = ()


Event = (
    GateEvent | RetrievalEvent | SkipEvent | CandidateEvent | KeepEvent | PruneEvent | FinishEvent
)
