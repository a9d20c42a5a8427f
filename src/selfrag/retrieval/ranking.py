"""What every index does last: scored passages in order, rankings fused, hits numbered.

Knows nothing of what gave the scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfrag.passage import Hit, Passage
from selfrag.retrieval.fusion import reciprocal_rank_fusion


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


def hits_of(rankings: Sequence[Sequence[Scored]], top_k: int) -> list[Hit]:
    """The best `top_k` of one ranking, or of the reciprocal rank fusion of several."""
    ranking = rankings[0] if len(rankings) == 1 else _fused(rankings)
    return [
        Hit(passage=found.passage, score=found.score, rank=rank)
        for rank, found in enumerate(ranking[:top_k], start=1)
    ]


def _fused(rankings: Sequence[Sequence[Scored]]) -> list[Scored]:
    found = {each.passage: each for ranking in rankings for each in ranking}
    corpus_order = sorted(found.values(), key=lambda each: (each.row, each.passage.id))
    number = {each.passage: place for place, each in enumerate(corpus_order)}
    # Equal sums come in key order: that is corpus order.
    fused = reciprocal_rank_fusion(
        [[number[each.passage] for each in ranking] for ranking in rankings]
    )
    return [Scored(score, corpus_order[key].row, corpus_order[key].passage) for key, score in fused]
