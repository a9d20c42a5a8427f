"""`selfrag eval`: measures of the parts on questions with known answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from selfrag.cli import options
from selfrag.cli.console import print_json, stdout
from selfrag.evaluate.retrieval import (
    RetrievalScores,
    read_qrels,
    read_run,
    score_answers,
    score_run,
)

N_NAMED = 5  # queries named in the terminal; --json has all

eval_app = typer.Typer(help="Measure on questions with known answers.", no_args_is_help=True)


@eval_app.command("retrieval")
def eval_retrieval(
    run: Annotated[
        Path, typer.Argument(help="JSONL written by `selfrag retrieve`, or a TREC run.")
    ],
    qrels: Annotated[
        Path | None,
        typer.Option(help="Judged passages: TREC, BEIR table, or JSONL with `qid`, `gold_pids`."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap samples.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Recall, MRR and nDCG by judged passages, success by answers, with 95 % intervals."""
    found = read_run(run)
    scores = {}
    if qrels is not None:
        scores["passages"] = score_run(read_qrels(qrels), found, seed=seed)
    if qrels is None or any(each.holds_answer is not None for each in found.values()):
        scores["answers"] = score_answers(found, seed=seed)
    if as_json:
        print_json({kind: scores_to_json(each) for kind, each in scores.items()})
        return
    for kind, each in scores.items():
        _show(kind, each)


def scores_to_json(scores: RetrievalScores) -> dict[str, Any]:
    """The scores as plain values."""
    return {
        "n_queries": scores.n_queries,
        "depth": scores.depth,
        "measures": {
            name: {"mean": each.mean, "low": each.low, "high": each.high}
            for name, each in scores.estimates.items()
        },
        "without_results": list(scores.without_results),
        "without_judgements": list(scores.without_judgements),
    }


def _show(kind: str, scores: RetrievalScores) -> None:
    table = Table(
        title=f"by {kind}: {scores.n_queries} queries, {scores.depth} passages deep",
        title_justify="left",
    )
    table.add_column("measure")
    for name in ("mean", "95 % interval"):
        table.add_column(name, justify="right")
    for name, each in scores.estimates.items():
        table.add_row(name, f"{each.mean:.4f}", f"{each.low:.4f} to {each.high:.4f}")
    stdout.print(table)
    _name("without results, counted as 0", scores.without_results)
    _name("without judgements, left out", scores.without_judgements)
    deeper = [name for name in scores.estimates if int(name.partition("@")[2] or 0) > scores.depth]
    if deeper:
        stdout.print(
            f"{', '.join(deeper)} count only the {scores.depth} passages there are", markup=False
        )


def _name(what: str, queries: Sequence[str]) -> None:
    if queries:
        more = ", …" if len(queries) > N_NAMED else ""
        stdout.print(f"{len(queries)} {what}: {', '.join(queries[:N_NAMED])}{more}", markup=False)
