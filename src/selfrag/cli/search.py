"""`selfrag search`: the passages an index holds for a query."""

from typing import Annotated

import typer

from selfrag.cli import options, render
from selfrag.cli.console import print_json, stdout
from selfrag.cli.report import Reporter
from selfrag.decode.answer import hit_to_json
from selfrag.errors import BadInput
from selfrag.open import indexes
from selfrag.retrieval.options import SearchOptions


@options.command
def search(
    *,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    index: options.Index = None,
    top_k: Annotated[int, typer.Option(help="How many passages.")] = 5,
    how: SearchOptions,
    as_json: options.Json = False,
) -> None:
    """Show the passages an index holds for a query."""
    if not query.strip():
        raise BadInput(
            "cannot search: the query is empty; expected words to look for, so give some"
        )
    if top_k < 1:
        raise BadInput(f"cannot search: --top-k is {top_k}; expected at least 1, so raise it")
    store = indexes.open_index(index, Reporter())
    hits = indexes.open_retriever(store, how, Reporter()).search([query], top_k)[0]
    if as_json:
        print_json({"query": query, "hits": [hit_to_json(hit) for hit in hits]})
        return
    render.show_hits(stdout, hits)
