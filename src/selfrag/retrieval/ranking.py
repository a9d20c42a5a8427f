"""What every index does last: scored passages in order, rankings fused, hits numbered.

Knows nothing of what gave the scores, or of how they are fused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from selfrag.passage import Hit, Passage


@dataclass(frozen=True, slots=True)
class Scored:
    """A passage with its score, and its row: its place in the corpus."""

    score: float
    row: int
    passage: Passage


def in_order(found: Iterable[Scored]) -> list[Scored]:
    """Best first, ties in corpus order; a passage that is there twice counts once."""
    # Where several writers wrote at once, some rows have one number.
    ranked = sorted(found, key=lambda each: (-each.score, each.row, each.passage.id))
    first: dict[Passage, Scored] = {}
    for scored in ranked:
        first.setdefault(scored.passage, scored)
    return list(first.values())


def fused(
    rankings: Sequence[Sequence[Scored]],
    fuse: Callable[[list[dict[int, float]]], list[tuple[int, float]]],
) -> list[Scored]:
    """One ranking of several by `fuse`, which gets the scores of each by key, best first.

    Keys are in corpus order, so a fusion that puts the smaller of two equal ones first keeps it.
    """
    found = {each.passage: each for ranking in rankings for each in ranking}
    corpus_order = sorted(found.values(), key=lambda each: (each.row, each.passage.id))
    key = {each.passage: place for place, each in enumerate(corpus_order)}
    scores = [{key[each.passage]: each.score for each in ranking} for ranking in rankings]
    return [
        Scored(score, corpus_order[place].row, corpus_order[place].passage)
        for place, score in fuse(scores)
    ]


def hits_of(ranking: Sequence[Scored], top_k: int) -> list[Hit]:
    """The best `top_k`, ranks from 1."""
    return [
        Hit(passage=found.passage, score=found.score, rank=rank)
        for rank, found in enumerate(ranking[:top_k], start=1)
    ]
