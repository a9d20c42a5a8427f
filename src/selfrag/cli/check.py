"""`selfrag check`: a text that anyone wrote, sentence by sentence against passages."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli import options
from selfrag.cli.console import Reporter, print_json, stdout
from selfrag.cli.questions import open_source
from selfrag.cli.render_check import show_check
from selfrag.decode.check import check_texts, require_checkable
from selfrag.decode.config import SearchConfig
from selfrag.errors import BadInput
from selfrag.files import read_errors
from selfrag.open.engines import ModelOptions
from selfrag.open.grounding import grounding_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked, and against what."""

    text: Annotated[Path, typer.Argument(help="File with the text; - reads it from stdin.")]
    question: Annotated[
        str, typer.Option("--question", help="What the text answers, if anything.")
    ] = ""


@options.command
def check(
    *,
    subject: Subject,
    source: options.Source,
    fix: Annotated[
        bool, typer.Option("--fix", help="Print the text with citations and marks added.")
    ] = False,
    model: Annotated[ModelOptions, options.Without({"calibration", "writer", "writer_key_env"})],
    search: Annotated[SearchConfig, options.Only({"top_k", "max_seconds"})],
    as_json: options.Json = False,
    given: options.Given,
) -> None:
    """Check a text against passages: what supports or contradicts each sentence, and where."""
    if source.passages is not None:
        given.refuse(("index",), "compare with passages", "an index is not searched then")
    if as_json:
        given.refuse(("fix",), "print JSON", "it prints the text")
    report = Reporter()
    written = _text_in(subject.text)
    grounding = grounding_of(model)
    retriever, engine, own = open_source(source, model, report, by_paragraph=True)
    with closing(report):
        (found,) = check_texts(
            [written],
            engine=engine,
            retriever=retriever,
            question=subject.question,
            passages=own,
            grounding=grounding,
            config=search,
            on_progress=lambda done, total: report.progress("checking sentences", done, total),
        )
    if as_json:
        print_json({**found.to_dict(), "model": engine.name})
    elif fix:
        sys.stdout.write(found.fixed_text)
    else:
        show_check(stdout, found)


def _text_in(path: Path) -> str:
    """The text of a file in UTF-8, or of standard input for `-`, with its line ends as they are."""
    with read_errors("the text to check", path):
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        return require_checkable(data.decode())
    except UnicodeDecodeError as error:
        raise BadInput(
            f"cannot check {path}: byte {error.start + 1} of it is not UTF-8; expected text in "
            "UTF-8, so convert it"
        ) from error
