"""The options of every search, and the retriever that they ask for."""

from typing import TYPE_CHECKING, Annotated

import typer

from selfrag.cli.report import Reporter
from selfrag.open import engines
from selfrag.retrieval.base import Retriever
from selfrag.retrieval.fusion import FusionKind
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.store import PassageStore

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


def open_retriever(
    store: "PassageStore | PgVectorStore", options: SearchOptions, report: Reporter
) -> Retriever:
    """The store searched as `options` say, with the reranker that they name.

    Raises `BadInput` for what PostgreSQL does not do, and for a condition that is no SQL.
    """
    searched = store.with_options(options)
    if not options.rerank:
        return searched
    from selfrag.retrieval.rerank import Reranker

    usual = PACKAGED_WEIGHT if options.rerank == PACKAGED else 1.0
    return Reranker(
        searched,
        _cross_encoder(options.rerank, report),
        n_candidates=options.candidates,
        weight=usual if options.rerank_weight is None else options.rerank_weight,
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
