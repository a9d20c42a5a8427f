"""A frozen node of the search tree: one segment, linked to the path before it."""

from collections.abc import Iterator
from dataclasses import dataclass

from selfrag.decode.segment import Segment
from selfrag.passage import Hit
from selfrag.reflection import Retrieve


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One hypothesis: its parent's path plus one segment. The root holds the instruction only.

    `own_ids` are the ids this node adds to the path: decision, passage, segment. `wants` is what
    the next segment needs, None once finished. `path_score` sums the segments' totals (paper
    Eq. 3-4).
    """

    parent: "Node | None"
    own_ids: tuple[int, ...]
    hit: Hit | None
    segment: Segment | None
    wants: Retrieve | None
    path_score: float

    @classmethod
    def root(cls, prompt_ids: tuple[int, ...]) -> "Node":
        """The node before the first segment; the gate has not decided yet."""
        return cls(
            parent=None, own_ids=prompt_ids, hit=None, segment=None, wants=None, path_score=0.0
        )

    def decided(self, wants: Retrieve) -> "Node":
        """The same root with the gate's decision."""
        return Node(
            parent=None, own_ids=self.own_ids, hit=None, segment=None, wants=wants, path_score=0.0
        )

    def child(
        self, lead_ids: tuple[int, ...], hit: Hit | None, segment: Segment, wants: Retrieve | None
    ) -> "Node":
        """The node that goes on from here with `segment`."""
        return Node(
            parent=self,
            own_ids=lead_ids + segment.body_ids,
            hit=hit,
            segment=segment,
            wants=wants,
            path_score=self.path_score + segment.scores.total,
        )

    @property
    def finished(self) -> bool:
        """Whether the model ended its answer here, or ran into the token limit."""
        return self.segment is not None and self.wants is None

    @property
    def text(self) -> str:
        """The text of this segment alone; the root has none."""
        return self.segment.text if self.segment else ""

    @property
    def path(self) -> tuple["Node", ...]:
        """The nodes from the first segment to this one; empty at the root."""
        return tuple(reversed([node for node in self._upward() if node.segment is not None]))

    @property
    def path_ids(self) -> tuple[int, ...]:
        """Everything the model has read and written on the way here, as ids."""
        ids: tuple[int, ...] = ()
        for node in self._upward():
            ids = node.own_ids + ids
        return ids

    def _upward(self) -> Iterator["Node"]:
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent
