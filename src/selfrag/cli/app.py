"""The `selfrag` command: subcommands, options, and how errors end."""

import sys
from typing import Annotated

import typer

from selfrag import assets
from selfrag.cli import build, options, render, retriever
from selfrag.cli.annotate import annotate_app
from selfrag.cli.ask import ask, batch, chat, replay
from selfrag.cli.console import print_json, stderr, stdout
from selfrag.cli.embed import embed
from selfrag.cli.eval_tasks import add_to, report
from selfrag.cli.evaluate import eval_app
from selfrag.cli.export import export
from selfrag.cli.index import index_app
from selfrag.cli.report import Reporter
from selfrag.cli.rescore import rescore
from selfrag.cli.retrieve import retrieve
from selfrag.cli.train import train_app
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.errors import BadInput, SelfRAGError
from selfrag.retrieval.fusion import DENSE_WEIGHT, RRF_CONSTANT, Fusion, FusionKind
from selfrag.retrieval.store import SearchMode

app = typer.Typer(
    name="selfrag",
    help="Answers with citations and reflection scores: retrieve on demand, write, criticise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(index_app, name="index")
app.add_typer(train_app, name="train")
add_to(eval_app)
app.add_typer(eval_app, name="eval")
app.add_typer(annotate_app, name="annotate")


def main() -> None:
    """Runs the command line; exit code 2 for the user's mistake, 1 for ours."""
    build.keep_tokenizers_single()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(args=arguments, standalone_mode=False)
    except SelfRAGError as error:
        _stop(str(error), error.exit_code, error)
    except typer.Abort:
        _stop("stopped on request; nothing half-written is left", 1, None)
    except typer.TyperException as error:
        if not error.format_message():  # a bare command group, which has shown its help
            sys.exit(2)
        doing = f"cannot run `selfrag {' '.join(arguments)}`"
        found = error.format_message().rstrip(".")
        _stop(f"{doing}: {found}; see `selfrag --help` for what is expected", 2, error)
    except Exception as error:
        _stop(
            f"stopped by a fault of ours: {error!r}; run again with --debug and report it", 1, error
        )
    sys.exit(code if isinstance(code, int) else 0)


def _stop(message: str, code: int, error: BaseException | None) -> None:
    if "--debug" in sys.argv and error is not None:
        raise error
    stderr.print(f"selfrag: {message}", markup=False, soft_wrap=True)
    sys.exit(code)


app.command()(ask)
app.command()(chat)
app.command()(batch)
app.command()(rescore)
app.command()(replay)
app.command()(report)
app.command()(retrieve)
app.command()(export)
app.command()(embed)


@app.command()
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
    plan = retriever.SearchPlan(
        mode=mode,
        where=where,
        fusion=Fusion(kind=fusion, dense_weight=dense_weight, constant=rank_constant),
        rerank=rerank,
        rerank_weight=rerank_weight,
        candidates=candidates,
    )
    store = build.open_index(index, Reporter())
    hits = retriever.open_retriever(store, plan, Reporter()).search([query], top_k)[0]
    if as_json:
        from selfrag.decode.answer import hit_to_json

        print_json({"query": query, "hits": [hit_to_json(hit) for hit in hits]})
        return
    render.show_hits(stdout, hits)


@app.command()
def demo() -> None:
    """Fetch the assets, build the demo index and answer three questions."""
    store, engine = build.load(None, Reporter())
    for question in build.DEMO_QUESTIONS:
        stdout.rule(f"[bold]{question}[/bold]", align="left")
        answer = answer_questions(
            [question], engine=engine, retriever=store, config=SearchConfig()
        )[0]
        render.show_answer(stdout, answer)
        stdout.print()
    stdout.print(
        f'Passages: {assets.CORPUS.attribution}\nAsk your own: selfrag ask "…" [--explain]',
        style="dim",
        markup=False,
    )


@app.command()
def doctor() -> None:
    """Show what is installed and cached, what is wrong, and how to mend it."""
    from selfrag.cli.doctor import examine

    wrong = 0
    for finding in examine():
        mark = "[green]ok  [/green]" if finding.ok else "[red]FAIL[/red]"
        stdout.print(mark, end=" ")
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        stdout.print(f"{finding.name}: {finding.found}{remedy}", markup=False)
        wrong += not finding.ok
    raise typer.Exit(1 if wrong else 0)
