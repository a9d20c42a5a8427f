"""`selfrag search`: the passages an index holds for a query."""

from typing import Annotated

import typer

from selfrag.cli import options, render, retriever
from selfrag.cli.console import print_json, stdout
from selfrag.cli.report import Reporter
from selfrag.decode.answer import hit_to_json
from selfrag.errors import BadInput
from selfrag.open import indexes
from selfrag.retrieval.fusion import DENSE_WEIGHT, RRF_CONSTANT, Fusion, FusionKind
from selfrag.retrieval.options import SearchMode, SearchOptions


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    index: options.Index = None,
    top_k: Annotated[int, typer.Option(help="How many passages.")] = 5,
    mode: retriever.Mode = SearchMode.HYBRID,
    where: retriever.Where = "",
    fusion: retriever.Fuse = FusionKind.SCORES,
    dense_weight: retriever.DenseWeight = DENSE_WEIGHT,
    rank_constant: retriever.RankConstant = RRF_CONSTANT,
    rerank: retriever.Rerank = "",
    rerank_weight: retriever.RerankWeight = None,
    candidates: retriever.Candidates = 20,
    as_json: options.Json = False,
) -> None:
    """Show the passages an index holds for a query."""
    if not query.strip():
        raise BadInput(
            "cannot search: the query is empty; expected words to look for, so give some"
        )
    if top_k < 1:
        raise BadInput(f"cannot search: --top-k is {top_k}; expected at least 1, so raise it")
    plan = SearchOptions(
        mode=mode,
        where=where,
        fusion=Fusion(kind=fusion, dense_weight=dense_weight, constant=rank_constant),
        rerank=rerank,
        rerank_weight=rerank_weight,
        candidates=candidates,
    )
    store = indexes.open_index(index, Reporter())
    hits = retriever.open_retriever(store, plan, Reporter()).search([query], top_k)[0]
    if as_json:
        print_json({"query": query, "hits": [hit_to_json(hit) for hit in hits]})
        return
    render.show_hits(stdout, hits)
