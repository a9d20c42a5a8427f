"""The tree of one search as it is shown: candidates in order, with what became of each.

The page's `search.js` and `tree.js` make the same of the same events. Knows nothing of drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
    SkipEvent,
)
from selfrag.decode.node import Node

_Content = tuple[int, str, tuple[str, ...]]  # number of the parent, text, ids of its passages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """One candidate and what follows it; `fate` is the last decision on it, if there was one.

    `has_answer` is False where the search ended by withholding every answer.
    """

    node: Node
    is_in_answer: bool
    has_answer: bool
    fate: KeepEvent | PruneEvent | None
    below: "Level"

    @property
    def verdict(self) -> str:
        """What became of it, in words."""
        if isinstance(self.fate, PruneEvent) and not self.is_in_answer:
            return f"lost: {self.fate.reason}"
        if not isinstance(self.fate, KeepEvent):
            return "in the answer" if self.is_in_answer else "not followed further"
        ending = "finished" if self.fate.node.finished else "goes on"
        kept = f"kept, rank {self.fate.rank}, {ending}"
        if self.is_in_answer:
            return f"in the answer: {kept}"
        why = "another path was better" if self.has_answer else "no answer was given"
        return f"{kept}, but {why}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Level:
    """What followed one node: look-ups, passages that were not read on, and candidates.

    Of the candidates those in the answer come first, then those with the higher path score; ties
    keep the order in which they were written.
    """

    steps: tuple[RetrievalEvent | SkipEvent, ...]
    branches: tuple[Branch, ...]


def tree_of(events: Sequence[Event]) -> Level:
    """What followed the question, from the events of one search, whether it has ended or not."""
    tree = _Tree(events)
    return tree.level(tree.root)


class _Tree:
    def __init__(self, events: Sequence[Event]) -> None:
        self._written = [each.node for each in events if isinstance(each, CandidateEvent)]
        self._steps = [each for each in events if isinstance(each, RetrievalEvent | SkipEvent)]
        self._numbers: dict[_Content, int] = {}
        for node in self._written:
            self._numbers.setdefault(_content(node), node.id)
        self._below: dict[int, list[Node]] = {}
        for node in self._written:
            assert node.parent is not None
            self._below.setdefault(self._as_written(node.parent), []).append(node)
        decided = [each for each in events if isinstance(each, KeepEvent | PruneEvent)]
        self._fates = {self._as_written(each.node): each for each in decided}
        self._winners = {self._as_written(node) for node in _best(events).path}
        self._has_answer = not any(
            isinstance(each, FinishEvent) and each.abstained for each in events
        )

    @property
    def root(self) -> int:
        """The number of the question's node: 0, but counted on where traces were put together."""
        nodes = [*self._written, *(each.parent for each in self._steps)]
        node = nodes[0] if nodes else None
        while node is not None and node.parent is not None:
            node = node.parent
        return node.id if node is not None else 0

    def level(self, parent: int) -> Level:
        """What followed the node of this number."""
        nodes = sorted(
            self._below.get(parent, ()),
            key=lambda node: (node.id not in self._winners, -node.path_score),
        )
        return Level(
            steps=tuple(each for each in self._steps if each.parent.id == parent),
            branches=tuple(map(self._branch, nodes)),
        )

    def _branch(self, node: Node) -> Branch:
        return Branch(
            node=node,
            is_in_answer=node.id in self._winners,
            has_answer=self._has_answer,
            fate=self._fates.get(node.id),
            below=self.level(node.id),
        )

    def _as_written(self, node: Node) -> int:
        """The number of the candidate that `node` is; a path that ends gets another number."""
        return node.id if node.segment is None else self._numbers.get(_content(node), node.id)


def _content(node: Node) -> _Content:
    assert node.segment is not None  # candidates are never roots
    assert node.parent is not None
    return node.parent.id, node.segment.text, tuple(hit.passage.id for hit in node.hits)


def _best(events: Sequence[Event]) -> Node:
    """The node that ends the answer; of a search under way the one that is ahead."""
    ahead = Node.root(())
    for event in events:
        if isinstance(event, FinishEvent):
            return event.best
        if isinstance(event, KeepEvent) and event.rank == 1:
            ahead = event.node
    return ahead
