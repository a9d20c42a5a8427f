"""The seam to retrieval: queries in, ranked hits out, in order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from selfrag.errors import BadInput
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
    """The same passages for every query, in the order given; see `as_passages`."""

    def __init__(self, passages: Iterable[Passage | Hit | str]) -> None:
        self.passages = as_passages(passages)
        self.hits = tuple(
            Hit(passage=passage, score=0.0, rank=rank)
            for rank, passage in enumerate(self.passages, start=1)
        )

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The first `top_k` passages, whatever the query."""
        return [list(self.hits[:top_k]) for _ in queries]


def as_passages(given: Iterable[Passage | Hit | str]) -> list[Passage]:
    """What a caller gives as passages, each with an id of its own; a bare string has no title.

    Raises `BadInput` for anything else, a single passage outside a list among it.
    """
    if isinstance(given, str | bytes | Mapping | Passage | Hit) or not isinstance(given, Iterable):
        raise BadInput(
            f"cannot read the passages: found {given!r:.80}, expected a list of strings or of "
            "selfrag.Passage; put it into a list"
        )
    passages: list[Passage] = []
    taken: set[str] = set()
    for number, each in enumerate(given, start=1):
        passage = each.passage if isinstance(each, Hit) else each
        if isinstance(passage, str):
            passage = Passage(text=passage)
        if not isinstance(passage, Passage) or not _is_text(passage):
            raise BadInput(
                f"cannot read passage {number}: found {each!r:.80}, expected a string or "
                'selfrag.Passage(title="…", text="…"), both strings; write it so'
            )
        # Citations, and what was read before, go by id.
        is_free = passage.id and passage.id not in taken
        own = passage.id if is_free else f"given-{number}"
        taken.add(own)
        passages.append(replace(passage, id=own, title=passage.title or ""))
    return passages


def _is_text(passage: Passage) -> bool:
    return isinstance(passage.text, str) and isinstance(passage.title, str | None)
