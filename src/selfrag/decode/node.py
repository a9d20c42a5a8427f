"""A frozen node of the search tree: one segment, linked to the path before it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from selfrag.decode.score import SegmentScores
from selfrag.decode.segment import Segment
from selfrag.passage import Hit
from selfrag.reflection import Retrieve, Support


class PathScore(StrEnum):
    """How the totals of a path's segments become one number."""

    SUM = "sum"  # paper, Eq. 3-4
    MEAN = "mean"  # the sum divided by the number of segments
    PRODUCT = "product"  # AkariAsai/self-rag 1fcdc42, `run_long_form_static.py`


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One hypothesis: its parent's path plus one segment. The root holds the instruction only.

    `id` is unique within the search of one question. The token ids that a node adds to its path are
    `lead_ids`, the decision and the passages `hits` that it reads, and those of its segment.
    `wants` is what the next segment needs, None once finished.
    """

    id: int
    parent: "Node | None"
    lead_ids: tuple[int, ...]
    hits: tuple[Hit, ...] = ()
    segment: Segment | None = None
    wants: Retrieve | None = None
    path_score: float = 0.0

    @classmethod
    def root(cls, prompt_ids: tuple[int, ...]) -> "Node":
        """The node before the first segment, with id 0; the gate has not decided yet."""
        return cls(id=0, parent=None, lead_ids=prompt_ids)

    def decided(self, wants: Retrieve) -> "Node":
        """The same root with the gate's decision."""
        return replace(self, wants=wants)

    def ended(self, node_id: int) -> "Node":
        """A node with an id of its own for the same path, which no segment follows."""
        return replace(self, id=node_id, wants=None)

    def child(
        self,
        node_id: int,
        segment: Segment,
        *,
        lead_ids: tuple[int, ...],
        hits: tuple[Hit, ...] = (),
        wants: Retrieve | None = None,
        rule: PathScore = PathScore.SUM,
    ) -> "Node":
        """The node that continues this path with `segment`."""
        totals = [node.segment.scores.total for node in self.path if node.segment is not None]
        return Node(
            id=node_id,
            parent=self,
            lead_ids=lead_ids,
            hits=hits,
            segment=segment,
            wants=wants,
            path_score=path_score([*totals, segment.scores.total], rule),
        )

    @property
    def hit(self) -> Hit | None:
        """The first passage that the segment was written from, if there is one."""
        return self.hits[0] if self.hits else None

    @property
    def is_open(self) -> bool:
        """Whether another segment is to be written from here."""
        return self.wants is not None

    @property
    def finished(self) -> bool:
        """Whether the model ended its answer here, or ran into a limit."""
        return self.segment is not None and self.wants is None

    @property
    def body_ids(self) -> tuple[int, ...]:
        """The ids of this segment alone; the root has none."""
        return self.segment.body_ids if self.segment else ()

    @property
    def depth(self) -> int:
        """How many segments the path has; 0 at the root."""
        return len(self.path)

    @property
    def text(self) -> str:
        """The text of this segment alone; the root has none."""
        return self.segment.text if self.segment else ""

    @property
    def contradicted(self) -> bool:
        """Whether the model judged this segment to have no support."""
        return self.segment is not None and Support.NONE in self.segment.critique

    @property
    def repeats(self) -> bool:
        """Whether an earlier segment of the path holds the text of this one, in whole words."""
        said = (f" {before.text} " for before in self.path[:-1])
        return self.text != "" and any(f" {self.text} " in text for text in said)

    @property
    def support(self) -> float | None:
        """The support of the least supported segment on the path; see `least_support`."""
        return least_support(node.segment for node in self.path if node.segment is not None)

    def meets(self, min_support: float | None) -> bool:
        """Whether the path may be said: without passages always, else when supported enough."""
        if min_support is None or not any(node.hits for node in self.path):
            return True
        return self.support is not None and self.support >= min_support

    @property
    def read_ids(self) -> set[str]:
        """The ids of all passages read on the path."""
        return {hit.passage.id for each in self.path for hit in each.hits}

    @property
    def path(self) -> tuple["Node", ...]:
        """The nodes from the first segment to this one; empty at the root."""
        return tuple(reversed([node for node in self._upward() if node.segment is not None]))

    @property
    def start(self) -> "Node":
        """The root that the path begins at."""
        *_, root = self._upward()
        return root

    def path_ids(self, *, with_passages: bool = True) -> tuple[int, ...]:
        """Everything the model has read and written on the way here, as ids.

        Without passages a path is the instruction and all segments with their critique, as the
        released long-form script builds it.
        """
        ids: tuple[int, ...] = ()
        for node in self._upward():
            lead = node.lead_ids if with_passages or node.parent is None else ()
            ids = lead + node.body_ids + ids
        return ids

    def _upward(self) -> Iterator["Node"]:
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class Judged(Protocol):
    """A segment as far as its support goes."""

    @property
    def text(self) -> str:
        """What it says."""
        ...

    @property
    def scores(self) -> SegmentScores:
        """Its scores; `support` None where the model judged none."""
        ...


def least_support(segments: Iterable[Judged]) -> float | None:
    """The lowest support of `segments`, where what says something unjudged counts 0.

    None where no segment was judged at all.
    """
    said = [each for each in segments if each.text or each.scores.support is not None]
    if all(each.scores.support is None for each in said):
        return None
    return min(each.scores.support or 0.0 for each in said)


def path_score(totals: list[float], rule: PathScore) -> float:
    """One number for the totals of a path with at least one segment, first to last.

    A product counts only where all totals are above 0: otherwise two bad segments would make a
    good path. Then it is the sum of the totals that are not, which is below every product.
    """
    if rule is PathScore.PRODUCT:
        return math.prod(totals) if min(totals) > 0 else sum(min(each, 0.0) for each in totals)
    return sum(totals) / (len(totals) if rule is PathScore.MEAN else 1)
