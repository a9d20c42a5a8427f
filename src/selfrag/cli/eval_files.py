"""`selfrag eval export` and `selfrag eval check`: records for other scorers, published numbers."""

from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli import eval_options
from selfrag.cli.console import stdout
from selfrag.evaluate.export import ExportFormat, export
from selfrag.evaluate.metrics import mauve_score
from selfrag.evaluate.report import check_run
from selfrag.evaluate.summary import keep_corpus, load_run, save_summary
from selfrag.files import write_text


def export_runs(
    runs: eval_options.Runs,
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Whose form.")],
) -> None:
    """Write records in the form of ALCE, FActScore or lm-evaluation-harness."""
    write_text(out, export([load_run(folder) for folder in runs], form))
    stdout.print(f"wrote {out} for {form}", markup=False)


def mauve(
    run: eval_options.Run,
    model: Annotated[str, typer.Option(help="Folder of the model that gives features.")],
) -> None:
    """Compute MAUVE of long answers; ALCE takes GPT-2 large. Other models do not compare."""
    records = load_run(run).records
    value = mauve_score(records, model=model)
    keep_corpus(run, f"mauve@{Path(model).name}", value)
    save_summary(load_run(run))
    stdout.print(f"mauve@{Path(model).name} {value:.3f}", markup=False)


def check(
    runs: eval_options.Runs,
    published: Annotated[
        str, typer.Option(help="Whose numbers: selfrag-7b or selfrag-13b.")
    ] = "selfrag-7b",
) -> None:
    """Print published numbers beside the measured ones; ends with 1 where one is out of range."""
    checks = [found for folder in runs for found in check_run(load_run(folder), published)]
    for each in checks:
        verdict = "ok" if each.agrees else "OUTSIDE"
        stdout.print(
            f"{each.task:>14} {each.metric:<15} expected {each.expected:.3f}  measured "
            f"{each.measured:.3f}  tolerance {each.tolerance:.3f}  n {each.n:>5}  {verdict}",
            markup=False,
        )
    raise typer.Exit(0 if all(each.agrees for each in checks) else 1)
