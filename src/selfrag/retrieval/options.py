"""How an index is searched: one set of options for every store, and for the command line.

Knows nothing of what answers a search.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from selfrag.errors import BadInput
from selfrag.retrieval.fusion import Fusion


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

    mode: SearchMode = SearchMode.HYBRID
    where: str = ""
    fusion: Fusion = field(default_factory=Fusion)
    rerank: str = ""
    rerank_weight: float | None = None
    candidates: int = 20

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
