"""The `selfrag` command: subcommands, options, and how errors end."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from selfrag import assets
from selfrag.cli import build, options, render
from selfrag.cli.ask import ask, batch, chat, print_json, replay, stderr, stdout
from selfrag.cli.eval_tasks import add_to, report
from selfrag.cli.report import Reporter
from selfrag.cli.rescore import rescore
from selfrag.cli.train import train_app
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.errors import BadInput, SelfRAGError
from selfrag.ingest.chunking import Chunking

app = typer.Typer(
    name="selfrag",
    help="Answers with citations and reflection scores: retrieve on demand, write, criticise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer(help="Build and inspect indexes.", no_args_is_help=True)
app.add_typer(index_app, name="index")
app.add_typer(train_app, name="train")
eval_app = typer.Typer(help="Measure on questions with known answers.")
add_to(eval_app)
app.add_typer(eval_app, name="eval")


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


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    index: options.Index = None,
    top_k: Annotated[int, typer.Option(help="How many passages.")] = 5,
    as_json: options.Json = False,
) -> None:
    """Show the passages an index holds for a query."""
    if not query.strip():
        raise BadInput(
            "cannot search: the query is empty; expected words to look for, so give some"
        )
    if top_k < 1:
        raise BadInput(f"cannot search: --top-k is {top_k}; expected at least 1, so raise it")
    hits = build.open_index(index, Reporter()).search([query], top_k)[0]
    if as_json:
        from selfrag.decode.answer import hit_to_json

        print_json({"query": query, "hits": [hit_to_json(hit) for hit in hits]})
        return
    render.show_hits(stdout, hits)


@index_app.command("build")
def index_build(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: .txt .md .jsonl")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new index.")],
    chunking: Annotated[Chunking, typer.Option(help="How to cut.")] = Chunking.WORDS,
    size: Annotated[int, typer.Option(help="Words a passage.")] = 100,
) -> None:
    """Index your own documents."""
    if size < 1:
        raise BadInput(f"cannot build an index: --size is {size}; expected at least 1 word")
    passages = build.read_passages(paths, chunking, size)
    Reporter().say(f"indexing {len(passages)} passages into {out}")
    build.build_index(passages, out, Reporter())
    stdout.print(f"indexed {len(passages)} passages in {out}", markup=False)


@index_app.command("info")
def index_info(
    path: Annotated[Path, typer.Argument(help="Index folder.")], as_json: options.Json = False
) -> None:
    """Show what an index holds and how it was made."""
    facts = build.index_facts(path)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        stdout.print(f"{name}: {value}", markup=False)


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
