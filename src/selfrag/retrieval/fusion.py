"""Reciprocal rank fusion: several rankings of the same things become one.

Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
Learning Methods", SIGIR 2009. Knows nothing of passages or of what made the rankings.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

Key = TypeVar("Key", int, str)

# The value of the paper, fixed there in a pilot study.
RRF_CONSTANT = 60


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Key]], *, constant: int = RRF_CONSTANT
) -> list[tuple[Key, float]]:
    """Every key of any ranking with its sum of 1 / (constant + rank), highest sum first.

    Ranks count from 1; a ranking adds nothing for a key it lacks, and a key that it repeats counts
    once, where it stands first. Equal sums: the smaller key first. The order of `rankings` does not
    matter, to the last bit. No rankings, or only empty ones, give an empty list.
    """
    shares: dict[Key, list[float]] = defaultdict(list)
    for ranking in rankings:
        seen: set[Key] = set()
        for rank, key in enumerate(ranking, start=1):
            if key not in seen:
                seen.add(key)
                shares[key].append(1.0 / (constant + rank))
    # fsum: the rounding of a plain sum depends on the order and would break exact ties.
    fused = [(key, math.fsum(parts)) for key, parts in shares.items()]
    return sorted(fused, key=lambda item: (-item[1], item[0]))
