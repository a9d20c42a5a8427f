"""Rankings: put in order, several made one by their scores or by their ranks alone, then numbered.

Knows nothing of what gave the scores.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from selfrag.errors import ConfigError
from selfrag.passage import Hit, Passage
from selfrag.serial import setting

Key = TypeVar("Key", int, str)

# The value of the paper on reciprocal rank fusion, fixed there in a pilot study.
RRF_CONSTANT = 60
# Mean R@5 over 1,500 train questions each of SQuAD and QED is .923 or .924 from .55 to .65, and
# lower on both sides (`benchmarks/retrieval_quality.py --tune`).
DENSE_WEIGHT = 0.6
# Ranks 1 to 5 are decided together, then those to 20, to 80 and so on: see `ranked_in_blocks`.
FIRST_BLOCK, _GROWTH = 5, 4
_PROPOSALS_A_RANK = 4


class FusionKind(StrEnum):
    """What of two rankings is added up."""

    SCORES = "scores"
    RANKS = "ranks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """How a search by meaning and one by words become one.

    `dense_weight`, 0 to 1, is the share of the search by meaning, words have the rest; `constant`
    is that of RANKS, which with equal weights fall behind the search by meaning alone on Natural
    Questions.
    """

    kind: FusionKind = setting(
        FusionKind.SCORES, "What mode hybrid adds up: scores, or ranks alone.", "--fusion"
    )
    dense_weight: float = setting(
        DENSE_WEIGHT, "Share of the dense search in mode hybrid, 0 to 1.", "--dense-weight"
    )
    constant: int = setting(RRF_CONSTANT, "Constant of --fusion ranks.", "--rank-constant")

    def __post_init__(self) -> None:
        if not 0 <= self.dense_weight <= 1:
            raise ConfigError(
                f"cannot fuse two searches: the dense weight is {self.dense_weight}, expected 0 "
                "(words alone) to 1 (meaning alone); set it between"
            )
        if self.constant < 0:
            raise ConfigError(
                f"cannot fuse two searches: the rank constant is {self.constant}, expected 0 or "
                "more; set it higher"
            )

    def fuse(
        self,
        dense: Mapping[Key, float],
        words: Mapping[Key, float],
        *,
        floors: tuple[float, float],
    ) -> list[tuple[Key, float]]:
        """Every key of either with its fused score, highest first.

        Both are given best first; `floors` as in `score_fusion`.
        """
        weights = (self.dense_weight, 1 - self.dense_weight)
        if self.kind is FusionKind.SCORES:
            return score_fusion([dense, words], weights=weights, floors=floors)
        return reciprocal_rank_fusion(
            [list(dense), list(words)], weights=weights, constant=self.constant
        )


def score_fusion(
    rankings: Sequence[Mapping[Key, float]], *, weights: Sequence[float], floors: Sequence[float]
) -> list[tuple[Key, float]]:
    """Every key of any ranking with the weighted sum of its scores, highest sum first.

    The convex combination of Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid
    Retrieval" (arXiv 2210.11934), with each score as a share of the highest of its ranking. They
    also subtract the lowest score there can be, which inner products do not have. `floors`: one a
    ranking, the score of a key that it lacks. Equal sums: the smaller key first. A ranking that is
    empty or of weight 0 is as if it were not there. Raises `ConfigError` for weights that do not
    fit.
    """
    kept = [
        (weight / (abs(max(scores.values())) or 1.0), scores, floor)
        for scores, weight, floor in zip(
            rankings, _checked(weights, len(rankings)), floors, strict=True
        )
        if scores and weight
    ]
    keys = dict.fromkeys(key for _, scores, _ in kept for key in scores)
    return _in_order(
        {key: [scale * scores.get(key, floor) for scale, scores, floor in kept] for key in keys}
    )


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Key]],
    *,
    weights: Sequence[float] | None = None,
    constant: int = RRF_CONSTANT,
) -> list[tuple[Key, float]]:
    """Every key of any ranking with its sum of weight / (constant + rank), highest sum first.

    Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods", SIGIR 2009; the weights, 1 each where not given, are ours. Ranks count from
    1; a ranking adds nothing for a key it lacks, and a key that it repeats counts once, where it
    stands first. Equal sums: the smaller key first. A ranking of weight 0 is as if it were not
    there. The order of `rankings`, with their weights, does not matter, to the last bit. Raises
    `ConfigError` for weights that do not fit.
    """
    shares: dict[Key, list[float]] = defaultdict(list)
    weights = [1.0] * len(rankings) if weights is None else weights
    for ranking, weight in zip(rankings, _checked(weights, len(rankings)), strict=True):
        seen: set[Key] = set()
        for rank, key in enumerate(ranking if weight else (), start=1):
            if key not in seen:
                seen.add(key)
                shares[key].append(weight / (constant + rank))
    return _in_order(shares)


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


def block_ends(top_k: int, *, first: int) -> list[int]:
    """The last ranks of the blocks that hold the ranks 1 to `top_k`: `first`, 4 `first`, ..."""
    ends = [first]
    while ends[-1] < top_k:
        ends.append(_GROWTH * ends[-1])
    return ends


def ranked_in_blocks(
    top_k: int,
    propose: Callable[[int], tuple[Sequence[Scored], bool]],
    *,
    first: int = FIRST_BLOCK,
) -> list[Scored]:
    """The best `top_k`, best first: the first of them whatever `top_k` is.

    What fusion makes of a passage depends on how many others are proposed, and so does what an
    approximate index finds. So a rank is decided by the block that it is in: on a number of
    proposals that the block fixes, less the passages of earlier blocks. `propose` gets that number
    and gives a ranking, and whether there is nothing beyond it. `first`: ranks in the first block.
    No score is above an earlier one.
    """
    ranking: list[Scored] = []
    held: set[Passage] = set()
    end, is_all = first, False
    while len(ranking) < top_k and not is_all:
        block, is_all = propose(_PROPOSALS_A_RANK * end)
        for each in block:
            if len(ranking) == end and not is_all:
                break
            if each.passage not in held:
                held.add(each.passage)
                highest = ranking[-1].score if ranking else math.inf
                ranking.append(replace(each, score=min(each.score, highest)))
        end *= _GROWTH
    return ranking[:top_k]


def hits_of(ranking: Iterable[Scored]) -> list[Hit]:
    """The ranking with ranks from 1."""
    return [
        Hit(passage=found.passage, score=found.score, rank=rank)
        for rank, found in enumerate(ranking, start=1)
    ]


def _in_order(parts: Mapping[Key, Sequence[float]]) -> list[tuple[Key, float]]:
    # fsum: the rounding of a plain sum depends on the order and would break exact ties.
    fused = [(key, math.fsum(shares)) for key, shares in parts.items()]
    return sorted(fused, key=lambda item: (-item[1], item[0]))


def _checked(weights: Sequence[float], n_rankings: int) -> Sequence[float]:
    if len(weights) != n_rankings or not all(0 <= weight < math.inf for weight in weights):
        raise ConfigError(
            f"cannot fuse {n_rankings} rankings: found the weights {list(weights)}, expected one "
            "finite number of 0 or more for each; name as many as there are rankings"
        )
    return weights
