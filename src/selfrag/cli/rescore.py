"""`selfrag rescore`: recorded searches under a grid of settings, as tables and curves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from selfrag import plots
from selfrag.cli import options
from selfrag.cli.console import Reporter, print_json, stdout
from selfrag.progress import working
from selfrag.text import counted
from selfrag.trace.report import Row, rank, save_report, shown, table_rows
from selfrag.trace.rescore import Grid, load_traces
from selfrag.trace.rescore import rescore as rescore_traces

N_SHOWN = 10  # settings in the terminal
SETTINGS = ("threshold", "w_rel", "w_sup", "w_use", "w_seq", "w_ret")
MEASURES = {
    "retrieval_rate": "retr",
    "accuracy": "acc",
    "citation_precision": "cit",
    "n_answered": "answ",
    "n_unrecorded": "unrec",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values of each setting as texts, as `Grid.parse` reads them."""

    threshold: Annotated[
        str, typer.Option(help="Gate thresholds: 0.2, a list 0.1,0.5,none or a range 0:1:0.05.")
    ] = "0.2,0:1:0.05"
    w_rel: Annotated[
        str, typer.Option("--w-rel", "--w_rel", help="Weights of relevance, written so too.")
    ] = "1"
    w_sup: Annotated[str, typer.Option("--w-sup", "--w_sup", help="Of support.")] = "1,0:2:0.25"
    w_use: Annotated[str, typer.Option("--w-use", "--w_use", help="Of utility.")] = "0.5"
    w_seq: Annotated[str, typer.Option("--w-seq", "--w_seq", help="Of the sequence score.")] = "1"
    w_ret: Annotated[str, typer.Option("--w-ret", help="Of the retriever's own score.")] = "1"


@options.command
def rescore(
    *,
    traces: Annotated[list[Path], typer.Argument(help="JSONL files written with --trace.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for tables and curves.")],
    values: Values,
    as_json: options.Json = False,
) -> None:
    """Rescore recorded searches under other thresholds and weights, without a model."""
    grid = Grid.parse(**asdict(values))
    plots.require_matplotlib()  # a missing library is told before the work
    with working(Reporter(), "rescoring"):
        recorded = load_traces(*traces)
        rows = table_rows(rescore_traces(recorded, grid))
        files = save_report(rows, out, recorded.n_questions)
    ranked = sorted(rows, key=rank)
    judged = bool(recorded.has_gold.any())
    if as_json:
        report = {
            "traces": [str(path) for path in traces],
            "questions": recorded.n_questions,
            "settings": len(rows),
            "best": ranked[0] if judged else None,
            "files": {name: str(path) for name, path in files.items()},
        }
        print_json(report)
        return
    _show(ranked, recorded.n_questions, judged)
    for path in files.values():
        stdout.print(str(path), markup=False)


def _show(ranked: Sequence[Row], n_questions: int, judged: bool) -> None:
    best = "the most accurate first" if judged else "no gold strings, so nothing is judged"
    table = Table(
        title=f"{counted(len(ranked), 'setting')} on {counted(n_questions, 'question')}: {best}"
    )
    varied = [name for name in SETTINGS if len({row[name] for row in ranked}) > 1]
    for heading in (*varied, *MEASURES.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in ranked[:N_SHOWN]:
        table.add_row(*(shown(row, name) for name in (*varied, *MEASURES)))
    stdout.print(table)
    fixed = [f"{name} {shown(ranked[0], name)}" for name in SETTINGS if name not in varied]
    stdout.print(f"in all of them: {', '.join(fixed)}" if fixed else "", soft_wrap=True)
