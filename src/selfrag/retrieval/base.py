"""The seam to retrieval: queries in, ranked hits out, in order."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from selfrag.passage import Hit, Passage


class Retriever(Protocol):
    """Anything that ranks passages for queries."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """For every query at most `top_k` hits, best first, ranks from 1; ties in corpus order."""
        ...


class FixedRetriever:
    """Hits known beforehand, by query: for recorded passages and for tests."""

    def __init__(self, hits: Mapping[str, Sequence[Hit]]) -> None:
        self._hits = dict(hits)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The recorded hits of each query; a query that was not recorded has none."""
        return [list(self._hits.get(query, ()))[:top_k] for query in queries]


class GivenPassages:
    """The same passages for every query, in the order given; a bare string has no title."""

    def __init__(self, passages: Sequence[Passage | str]) -> None:
        whole = [
            each if isinstance(each, Passage) else Passage(id=f"given-{n}", title="", text=each)
            for n, each in enumerate(passages, start=1)
        ]
        self.hits = tuple(
            Hit(passage=passage, score=0.0, rank=rank) for rank, passage in enumerate(whole, 1)
        )

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The first `top_k` passages, whatever the query."""
        return [list(self.hits[:top_k]) for _ in queries]
