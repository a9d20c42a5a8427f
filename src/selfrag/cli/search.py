"""`selfrag search` and `retrieve`: the passages that an index holds for one query or for many.

`retrieve` writes them as the released scripts read them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli import options, render
from selfrag.cli.console import Reporter, print_json, stderr, stdout
from selfrag.cli.questions import continued, index_facts, keep_rejects
from selfrag.decode.answer import hit_to_json, pages_to_json
from selfrag.errors import BadInput
from selfrag.files import check_outputs, is_plain
from selfrag.open import indexes
from selfrag.passage import Hit
from selfrag.progress import working
from selfrag.retrieval.base import Retriever
from selfrag.retrieval.fusion import FusionKind
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.rows import Row, answers_of, question_of, read_questions
from selfrag.text import counted, has_answer, require_text


@options.command
def search(
    *,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    index: options.Index = None,
    top_k: Annotated[int, typer.Option(help="How many passages.")] = 5,
    how: SearchOptions,
    as_json: options.Json = False,
    given: options.Given,
) -> None:
    """Show the passages an index holds for a query."""
    _refuse_unused(how, given)
    if not query.strip():
        raise BadInput(
            "cannot search: the query is empty; expected words to look for, so give some"
        )
    if top_k < 1:
        raise BadInput(f"cannot search: --top-k is {top_k}; expected at least 1, so raise it")
    require_text(query)
    report = Reporter()
    store = indexes.open_index(index, report)
    found = indexes.open_retriever(store, how, report)
    with working(report, "searching"):
        hits = found.search([query], top_k)[0]
    if as_json:
        print_json({"query": query, "hits": [hit_to_json(hit) for hit in hits]})
        return
    render.show_hits(stdout, hits)
    if not hits:
        report.say("no passage found")


@options.command
def retrieve(
    *,
    data: Annotated[
        Path, typer.Option("--data", help="JSON or JSONL: `question` or `instruction` in each row.")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSONL to write, or to go on with.")],
    index: options.Index = None,
    n_docs: Annotated[
        int, typer.Option("--n-docs", "--n_docs", "--top-k", min=1, help="Passages a question.")
    ] = 20,
    how: SearchOptions,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions searched together.")] = 32,
    restart: Annotated[bool, typer.Option("--restart", help="Write --out again.")] = False,
    given: options.Given,
) -> None:
    """Retrieve for every row of a file; run again to go on after an interruption."""
    _refuse_unused(how, given)
    check_outputs({"--out": out}, {"the questions": data})
    report = Reporter()
    numbered, rejects = read_questions(data)
    rows = list(numbered.values())
    store = indexes.open_index(index, report)
    found = indexes.open_retriever(store, how, report)
    facts = {**index_facts(index, store), "n_docs": n_docs, **asdict(how)}
    with continued(out, rows, facts, data, restart=restart) as (log, n_done):
        told = keep_rejects(out, rejects)
        if n_done:
            report.say(f"going on after {n_done} of {counted(len(rows), 'question')}")
        report.progress("retrieving", n_done, len(rows))
        try:
            for first in range(n_done, len(rows), batch_size):
                done = retrieved(rows[first : first + batch_size], found, n_docs)
                log.append(done)
                report.progress("retrieving", first + len(done), len(rows))
        finally:
            report.close()
    if told:
        report.say(told)
    # Standard output may be the file itself.
    console = stdout if is_plain(out) else stderr
    console.print(f"retrieved for {counted(len(rows), 'question')} in {out}", markup=False)


def _refuse_unused(how: SearchOptions, given: options.Given) -> None:
    """Raises `BadInput` for an option that changes nothing beside the others."""
    if not how.rerank:
        given.refuse(("rerank_weight", "candidates"), "search", "there is no --rerank")
    if how.mode is not SearchMode.HYBRID:
        fused = ("fusion.kind", "fusion.dense_weight", "fusion.constant")
        given.refuse(fused, f"search in mode {how.mode}", "it is about mode hybrid")
    elif how.fusion.kind is not FusionKind.RANKS:
        given.refuse(("fusion.constant",), "search", "it is about --fusion ranks")


def retrieved(rows: Sequence[Row], found: Retriever, n_docs: int) -> list[Row]:
    """The rows with `ctxs`, the hits of their questions, best first; others of that name go.

    A passage has `id`, `title`, `text`, `score` (text, as in the released files), its `source`
    where it has one, and `hasanswer` where the row has gold strings.
    """
    all_hits = found.search([question_of(row) for row in rows], n_docs)
    return [
        {**row, "ctxs": [_ctx(hit, answers_of(row)) for hit in hits]}
        for row, hits in zip(rows, all_hits, strict=True)
    ]


def _ctx(hit: Hit, answers: Sequence[str]) -> Row:
    passage = hit.passage
    ctx: Row = {"id": passage.id, "title": passage.title, "text": passage.text}
    ctx["score"] = str(hit.score)
    if passage.source:
        ctx["source"] = passage.source
    ctx |= pages_to_json(passage)
    if answers:
        ctx["hasanswer"] = has_answer(passage.text, answers)
    return ctx
