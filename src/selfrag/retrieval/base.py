"""The seam to retrieval: queries in, ranked hits out, in order."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from selfrag.passage import Hit


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
