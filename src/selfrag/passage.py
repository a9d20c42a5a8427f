"""Documents, passages and hits: what is retrieved, and where it came from.

Knows nothing of how text was read, indexed or scored.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text as read from one place; `source` is its path or attribution."""

    title: str
    text: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The unit of retrieval. `start` and `end` (excluded) are offsets in its document's text."""

    id: str
    title: str
    text: str
    source: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One result for a query. `rank` counts from 1; a higher `score` is better."""

    passage: Passage
    score: float
    rank: int
