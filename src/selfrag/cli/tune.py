"""`selfrag index tune`: recall, latency and size of the ways to search, as text and plot."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from selfrag import plots
from selfrag.cli import options
from selfrag.cli.console import print_json, stdout
from selfrag.cli.report import Reporter
from selfrag.errors import BadInput, ConfigError
from selfrag.open import indexes
from selfrag.retrieval.manifest import IndexKind, Manifest

if TYPE_CHECKING:
    from selfrag.retrieval.tune import Tuned


def index_tune(
    path: Annotated[str, typer.Argument(help="Index folder or s3://bucket/prefix.")],
    kind: Annotated[list[IndexKind] | None, typer.Option(help="Kinds to try.")] = None,
    queries: Annotated[int, typer.Option(help="Queries, the first words of passages.")] = 50,
    max_rows: Annotated[int, typer.Option(help="Passages tried at most, drawn evenly.")] = 100_000,
    recall: Annotated[float, typer.Option(help="Least recall@10 that will do.")] = 0.95,
    apply: Annotated[bool, typer.Option("--apply", help="Write the choice down.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a picture.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure recall@10 against exact search, latency and size, and name the best choice."""
    from selfrag.retrieval.tune import fastest, tune_index

    if queries < 1 or max_rows < 1 or not 0 < recall <= 1:
        raise BadInput(
            f"cannot tune: --queries {queries}, --max-rows {max_rows}, --recall {recall}; "
            "expected at least 1, at least 1, and more than 0 up to 1"
        )
    manifest = Manifest.load(path)
    report = Reporter()
    encoder = indexes.encoder_of(path, manifest, report)
    kinds = kind or [IndexKind.BALANCED, IndexKind.SMALL]
    total = 1 + 16 * len(kinds)
    try:
        found = tune_index(
            path,
            encoder,
            manifest.encoder.metric,
            kinds=kinds,
            n_queries=queries,
            max_rows=max_rows,
            on_progress=lambda done: report.progress("tuning", done, total),
        )
    finally:
        report.close()
    best = fastest(found, recall=recall)
    if plot is not None:
        _draw(found, plot)
    if as_json:
        chosen = None if best is None else asdict(best)
        print_json({"index": str(path), "ways": [asdict(each) for each in found], "best": chosen})
    else:
        _show_ways(found, best)
    if apply:
        if best is None:
            raise ConfigError(f"cannot apply: no way reaches recall {recall}; lower --recall")
        _apply(path, manifest, best)


def _show_ways(found: "list[Tuned]", best: "Tuned | None") -> None:
    table = Table(title=f"{found[0].n_rows} passages", title_justify="left")
    for name in ("kind", "probes", "refine", "recall@10", "p50 ms", "p95 ms", "index MB", ""):
        table.add_column(name, justify="left" if name in ("kind", "") else "right")
    for each in found:
        table.add_row(
            each.kind.value,
            str(each.n_probes or "-"),
            str(each.refine_factor or "-"),
            f"{each.recall:.3f}",
            f"{each.p50_ms:.2f}",
            f"{each.p95_ms:.2f}",
            f"{each.index_mb:.1f}",
            "best" if each is best else "",
        )
    stdout.print(table)


def _draw(found: "list[Tuned]", out: Path) -> None:
    ways: dict[str, list[tuple[float, float]]] = {}
    for each in found:
        label = f"{each.kind.value}, {each.index_mb:.1f} MB"
        ways.setdefault(label, []).append((each.p50_ms, each.recall))
    plots.save(plots.latency_figure(ways, f"{found[0].n_rows} passages"), out)


def _apply(path: str, manifest: Manifest, best: "Tuned") -> None:
    with indexes.open_index_writer(path, Reporter()) as writer:
        writer.manifest = replace(
            manifest,
            kind=best.kind,
            n_probes=best.n_probes,
            refine_factor=best.refine_factor,
        )
        writer.index(anew=best.kind is not manifest.kind)
    stdout.print(f"{path} now searches as {best.kind.value}", markup=False)
