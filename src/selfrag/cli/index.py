"""`selfrag index`: build, change, check and tune an index."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from selfrag import indexing, plots
from selfrag.cli import options
from selfrag.cli.console import Reporter, print_json, stderr, stdout
from selfrag.errors import ConfigError
from selfrag.ingest.faults import Skipped
from selfrag.ingest.formats import EXPECTED, ReadOptions
from selfrag.open import indexes
from selfrag.progress import working
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.objectstore import is_remote
from selfrag.retrieval.spec import DEFAULT_ENCODER, Precision
from selfrag.text import counted

if TYPE_CHECKING:
    from selfrag.retrieval.encoder.base import Encoder
    from selfrag.retrieval.tune import Tuned

index_app = typer.Typer(help="Build, change and inspect indexes.", no_args_is_help=True)

Folder = Annotated[str, typer.Argument(help="Index folder or s3://bucket/prefix.")]
Paths = Annotated[
    list[str], typer.Argument(help=f"Files, folders or patterns of {EXPECTED}; .gz where it fits.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Name every file that is skipped.")]
N_NAMED = 3  # files that share a fault; more are summed
MaxMb = Annotated[int, typer.Option(help="Larger files are skipped; rows have no limit.")]


@index_app.command("build")
@options.command
def index_build(
    *,
    paths: Paths,
    out: Annotated[str, typer.Option("--out", help="Folder of the new index, or s3://….")],
    cut: indexing.BuildOptions,
    encoder: Annotated[
        str, typer.Option(help="A folder or hub name of sentence-transformers, or contriever.")
    ] = DEFAULT_ENCODER,
    precision: Annotated[
        Precision | None, typer.Option(help="Of the encoder; int8 for the default one on a CPU.")
    ] = None,
    read: ReadOptions,
    verbose: Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Index your own documents; what a broken-off build has done is kept and gone on from."""
    report = Reporter()
    with _told(out, report, as_json=as_json, verbose=verbose) as told:
        told.changes = indexing.build(
            paths,
            out,
            lambda: indexes.load_passage_encoder(report, name=encoder, precision=precision),
            options=cut,
            read=read,
            on_skip=told.faults.append,
            progress=report,
        )


@index_app.command("add")
def index_add(
    path: Folder,
    paths: Annotated[list[str], typer.Argument(help="Files, folders, patterns or URLs.")],
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch web pages.")] = False,
    max_mb: MaxMb = 512,
    verbose: Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Put files into an index, or web pages where that is allowed; changed ones are replaced."""
    report = Reporter()
    with _told(path, report, as_json=as_json, verbose=verbose) as told:
        told.changes = indexing.add(
            path,
            paths,
            _encoder(path, report),
            allow_urls=allow_urls,
            max_mb=max_mb,
            on_skip=told.faults.append,
            progress=report,
        )


@index_app.command("update")
def index_update(
    path: Folder,
    paths: Annotated[
        list[str] | None, typer.Argument(help="Of these alone; all it was built of if not given.")
    ] = None,
    max_mb: MaxMb = 512,
    verbose: Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Read what has changed since, by its hash, and take out the files that are gone."""
    report = Reporter()
    with _told(path, report, as_json=as_json, verbose=verbose) as told:
        told.changes = indexing.update(
            path,
            paths or (),
            _encoder(path, report),
            max_mb=max_mb,
            on_skip=told.faults.append,
            progress=report,
        )


@index_app.command("delete")
def index_delete(
    path: Folder,
    file: Annotated[
        list[str] | None, typer.Option(help="A file, a folder or a page, with all its passages.")
    ] = None,
    passage: Annotated[list[str] | None, typer.Option("--id", help="A passage by its id.")] = None,
    where: Annotated[str | None, typer.Option(help='SQL condition, as in "page > 3".')] = None,
) -> None:
    """Take files or passages out of an index."""
    report = Reporter()
    n_gone, n_left = indexing.delete(
        path,
        _encoder(path, report),
        files=file or (),
        ids=passage or (),
        where=where or "",
        progress=report,
    )
    stdout.print(f"deleted {counted(n_gone, 'passage')} from {path}, {n_left} left", markup=False)


@index_app.command("info")
def index_info(
    path: Folder,
    files: Annotated[bool, typer.Option("--files", help="List its files.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show what an index holds and how it was made."""
    facts = indexes.index_facts(path)
    if not files:
        del facts["files"]
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        several = isinstance(value, list | tuple)
        told = "".join(f"\n  {each}" for each in value) if several else f" {value}"
        stdout.print(f"{name}:{told}", markup=False)


@index_app.command("compact")
def index_compact(
    path: Folder,
    keep_minutes: Annotated[float, typer.Option(help="Older versions are dropped.")] = 60.0,
) -> None:
    """Merge small files, bring the search indexes up to date, drop old versions."""
    before = _size(path)
    report, keep = Reporter(), timedelta(minutes=keep_minutes)
    indexing.compact(path, _encoder(path, report), keep=keep, progress=report)
    sizes = f": {before} before, {_size(path)} after" if before else ""
    stdout.print(f"compacted {path}{sizes}", markup=False)


@index_app.command("verify")
def index_verify(
    path: Folder,
    encode: Annotated[bool, typer.Option(help="Encode a sample again and compare.")] = True,
    as_json: options.Json = False,
) -> None:
    """Read every row and say what is wrong; exit code 1 when something is."""
    from selfrag.retrieval.verify import verify_index

    manifest = Manifest.load(path)
    report = Reporter()
    with working(report, "opening the encoder"):
        encoder = indexes.passage_encoder_of(manifest, report) if encode else None
    with closing(report):
        checks = verify_index(path, encoder=encoder, progress=report)
    if as_json:
        print_json({"index": str(path), "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            stdout.print("[green]ok  [/green]" if check.ok else "[red]FAIL[/red]", end=" ")
            remedy = f"  -> {check.remedy}" if check.remedy else ""
            stdout.print(f"{check.name}: {check.found}{remedy}", markup=False)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@index_app.command("tune")
def index_tune(
    path: Folder,
    kind: Annotated[list[IndexKind] | None, typer.Option(help="Kinds to try.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Queries, the first words of passages.")] = 50,
    max_rows: Annotated[
        int, typer.Option(min=1, help="Passages tried at most, drawn evenly.")
    ] = 100_000,
    recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least recall@10 that will do.")
    ] = 0.95,
    apply: Annotated[bool, typer.Option("--apply", help="Write the choice down.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a picture.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure recall@10 against exact search, latency and size, and name the best choice."""
    from selfrag.retrieval.tune import apply_way, fastest, tune_index

    if plot is not None:
        plots.require_matplotlib()  # a missing library is told before the work
    manifest = Manifest.load(path)
    report = Reporter()
    with working(report, "opening the encoder"):
        encoder = indexes.encoder_of(path, manifest, report)
    kinds = kind or [IndexKind.BALANCED, IndexKind.SMALL]
    total = 1 + 16 * len(kinds)
    report.progress("tuning", 0, total)
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
        with (
            working(report, "applying the choice"),
            indexes.open_index_writer(path, report) as writer,
        ):
            apply_way(writer, best)
        stdout.print(f"{path} now searches as {best.kind.value}", markup=False)


def _show_ways(found: "list[Tuned]", best: "Tuned | None") -> None:
    table = Table(title=counted(found[0].n_rows, "passage"), title_justify="left")
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
    plots.save(plots.latency_figure(ways, counted(found[0].n_rows, "passage")), out)


@dataclass(slots=True)
class _Told:
    """What is said of a change once it is done."""

    changes: indexing.Changes = field(default_factory=indexing.Changes)
    faults: list[Skipped] = field(default_factory=list)


@contextmanager
def _told(path: str, report: Reporter, *, as_json: bool, verbose: bool) -> Iterator[_Told]:
    """Every fault, one line each, once all is done; then what became of the files."""
    told = _Told()
    try:
        yield told
    finally:
        report.close()
        for line in fault_lines(told.faults, is_verbose=verbose):
            stderr.print(line, markup=False, soft_wrap=True)
    for root in told.changes.missing:
        stderr.print(
            f"{root} is gone: its passages stay; "
            f"to be rid of them: selfrag index delete {path} --file {root}",
            markup=False,
            soft_wrap=True,
        )
    n_passages = told.changes.n_passages
    outcomes = {outcome.value: told.changes.outcomes[outcome] for outcome in indexing.Outcome}
    if as_json:
        faults = [{**asdict(fault), "path": str(fault.path)} for fault in told.faults]
        print_json({"index": str(path), "passages": n_passages, **outcomes, "faults": faults})
        return
    said = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items() if n) or "nothing to do"
    stdout.print(f"{path} holds {counted(n_passages, 'passage')}; files: {said}", markup=False)


def fault_lines(faults: Sequence[Skipped], *, is_verbose: bool) -> Iterator[str]:
    """What is said of faults: of files that share one, their number; the others one by one.

    Those that are named come last, where they are seen.
    """
    by_reason: dict[tuple[bool, str], list[Skipped]] = {}
    for fault in faults:
        by_reason.setdefault((fault.whole, fault.reason), []).append(fault)
    is_summed = {} if is_verbose else {k: v for k, v in by_reason.items() if len(v) > N_NAMED}
    for (whole, reason), alike in is_summed.items():
        files = counted(len(alike), "file")
        yield f"{'skipped ' if whole else ''}{files}, {alike[0].path} first: {reason}"
    for fault in faults:
        if (fault.whole, fault.reason) not in is_summed:
            yield f"{'skipped ' if fault.whole else ''}{fault}"
    if is_summed:
        yield "--verbose names every file"


def _encoder(path: str, report: Reporter) -> Callable[[], "Encoder"]:
    """What opens the encoder of the index in `path`, showing what is fetched."""
    return lambda: indexes.passage_encoder_of(Manifest.load(path), report)


def _size(path: str) -> str:
    """That of a folder; none of what is elsewhere."""
    is_here = not is_remote(path) and Path(path).is_dir()
    return f"{_folder_mb(Path(path)):.1f} MB" if is_here else ""


def _folder_mb(path: Path) -> float:
    """The size of all files under a folder, in MB."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
