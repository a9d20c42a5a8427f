"""`selfrag index`: build, change, check and tune an index."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfrag.cli import options
from selfrag.cli.console import print_json, stderr, stdout
from selfrag.cli.intake import (
    Intake,
    Outcome,
    drop_missing,
    drop_others,
    is_url,
    key_of,
    named_files,
    put_files,
    put_page,
)
from selfrag.cli.report import Reporter
from selfrag.cli.tune import index_tune
from selfrag.errors import BadInput
from selfrag.ingest.chunking import Chunking
from selfrag.ingest.files import Found, find_files, fixed_part, list_files
from selfrag.ingest.formats import EXPECTED, ReadOptions
from selfrag.open import indexes
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.objectstore import is_remote
from selfrag.retrieval.spec import DEFAULT_ENCODER, Precision

if TYPE_CHECKING:
    from selfrag.retrieval.writer import IndexWriter

index_app = typer.Typer(help="Build, change and inspect indexes.", no_args_is_help=True)
index_app.command("tune")(index_tune)

_TOLD_EVERY = 20_000

Folder = Annotated[str, typer.Argument(help="Index folder or s3://bucket/prefix.")]
Paths = Annotated[
    list[str], typer.Argument(help=f"Files, folders or patterns of {EXPECTED}; .gz where it fits.")
]
MaxMb = Annotated[int, typer.Option(help="Larger files are skipped; rows have no limit.")]
Encoding = Annotated[str, typer.Option(help="Of text, HTML and tables; found out if not given.")]


@index_app.command("build")
def index_build(
    paths: Paths,
    out: Annotated[str, typer.Option("--out", help="Folder of the new index, or s3://….")],
    chunking: Annotated[Chunking, typer.Option(help="Where to cut.")] = Chunking.WORDS,
    size: Annotated[int, typer.Option(help="Words a passage.")] = 100,
    kind: Annotated[IndexKind, typer.Option(help="What searches by meaning.")] = IndexKind.AUTO,
    encoder: Annotated[
        str, typer.Option(help="A folder or hub name of sentence-transformers, or contriever.")
    ] = DEFAULT_ENCODER,
    precision: Annotated[
        Precision | None, typer.Option(help="Of the encoder; int8 for the default one on a CPU.")
    ] = None,
    encoding: Encoding = "",
    max_mb: MaxMb = 512,
    cut_rows: Annotated[bool, typer.Option(help="Cut rows that have an id, too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Index your own documents; what a broken-off build has done is kept and gone on from."""
    from selfrag.retrieval.build import build_folder, new_manifest

    if size < 1:
        raise BadInput(f"cannot build an index: --size is {size}; expected at least 1 word")
    if pages := [path for path in paths if is_url(path)]:
        raise BadInput(
            f"cannot build an index from {pages[0]}: a build reads files; build it of files, then "
            "add pages with `selfrag index add DIR URL --allow-urls`"
        )
    report, roots = Reporter(), _roots(paths)
    read = ReadOptions(encoding=encoding, max_mb=max_mb, cut_rows=cut_rows)
    with _told(out, as_json) as intake:
        found = _listed(find_files(roots, options=read), intake)
        model = indexes.load_passage_encoder(report, name=encoder, precision=precision)
        manifest = new_manifest(
            model.spec,
            kind=kind,
            chunking=chunking.value,
            chunk_words=size,
            roots=roots,
            cut_rows=cut_rows,
            encoding=encoding,
        )

        def fill(writer: "IndexWriter") -> None:
            put_files(writer, found.files, intake, report, read)
            if not is_remote(out):  # there others may be putting files of their own
                drop_others(writer, (key_of(file.path) for file in found.files), intake)

        try:
            build_folder(out, model, manifest, fill, on_progress=_counter(report))
        finally:
            report.close()


@index_app.command("add")
def index_add(
    path: Folder,
    paths: Annotated[list[str], typer.Argument(help="Files, folders, patterns or URLs.")],
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch web pages.")] = False,
    max_mb: MaxMb = 512,
    as_json: options.Json = False,
) -> None:
    """Put files into an index, or web pages where that is allowed; changed ones are replaced."""
    pages = [name for name in paths if is_url(name)]
    names = [name for name in paths if not is_url(name)]
    if pages and not allow_urls:
        raise BadInput(
            f"cannot add {pages[0]}: web pages are not fetched unless you say so; "
            "give --allow-urls, or save the page as a file and add that"
        )
    with _told(path, as_json) as intake, changed(path) as (writer, report):
        read = _reading(writer.manifest, max_mb)
        for page in pages:
            from selfrag.ingest.web.fetch import fetch_document

            report.say(f"fetching {page}")
            put_page(writer, fetch_document(page), intake)
        if names:
            roots = _roots(names)
            found = _listed(find_files(roots, options=read), intake)
            put_files(writer, found.files, intake, report, read)
            known = dict.fromkeys([*writer.manifest.roots, *roots])
            writer.manifest = replace(writer.manifest, roots=tuple(known))


@index_app.command("update")
def index_update(
    path: Folder,
    paths: Annotated[
        list[str] | None, typer.Argument(help="Of these alone; all it was built of if not given.")
    ] = None,
    max_mb: MaxMb = 512,
    as_json: options.Json = False,
) -> None:
    """Read what has changed since, by its hash, and take out the files that are gone."""
    roots = _roots(paths or ()) or Manifest.load(path).roots
    if not roots:
        raise BadInput(
            f"cannot update {path}: it was not built of files; expected one of "
            "`selfrag index build`, so name the files or folders to read"
        )
    with _told(path, as_json) as intake, changed(path) as (writer, report):
        there = [root for root in roots if fixed_part(root).exists()]
        for root in set(roots) - set(there):
            stderr.print(
                f"{root} is gone: its passages stay; "
                f"to be rid of them: selfrag index delete {path} --file {root}",
                markup=False,
                soft_wrap=True,
            )
        read = _reading(writer.manifest, max_mb)
        found = _listed(list_files(there, options=read), intake)
        put_files(writer, found.files, intake, report, read)
        drop_missing(writer, [fixed_part(root) for root in there], intake)


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
    from selfrag.retrieval.table import quoted

    if not (file or passage or where):
        raise BadInput(
            "cannot delete: nothing is named; expected --file, --id or --where, so name what goes"
        )
    with changed(path) as (writer, _):
        names: set[str] = set()
        for name in file or ():
            found = named_files(writer, name)
            if not found:
                raise BadInput(
                    f"cannot delete from {path}: it holds no file {key_of(name)}; "
                    "expected one that `selfrag index info --files` lists"
                )
            names |= found
        n_gone = writer.delete_files(sorted(names))
        if passage:
            n_gone += writer.delete(f"id IN ({', '.join(map(quoted, passage))})")
        if where:
            n_gone += writer.delete(where)
        keys = {key_of(name) for name in file or ()}
        roots = tuple(root for root in writer.manifest.roots if root not in keys)
        writer.manifest = replace(writer.manifest, roots=roots)
        n_left = writer.n_passages
    stdout.print(f"deleted {n_gone} passages from {path}, {n_left} left", markup=False)


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
        lines = [""] + [f"  {each}" for each in value] if name == "files" else [f" {value}"]
        stdout.print(f"{name}:" + "\n".join(lines), markup=False)


@index_app.command("compact")
def index_compact(
    path: Folder,
    keep_minutes: Annotated[float, typer.Option(help="Older versions are dropped.")] = 60.0,
) -> None:
    """Merge small files, bring the search indexes up to date, drop old versions."""
    if keep_minutes < 0:
        raise BadInput(f"cannot compact: --keep-minutes is {keep_minutes}; expected 0 or more")
    before = _size(path)
    with changed(path) as (writer, _):
        writer.compact(keep=timedelta(minutes=keep_minutes))
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
    encoder = None
    if encode:
        encoder = indexes.passage_encoder_of(manifest, Reporter())
    checks = verify_index(path, encoder=encoder)
    if as_json:
        print_json({"index": str(path), "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            stdout.print("[green]ok  [/green]" if check.ok else "[red]FAIL[/red]", end=" ")
            remedy = f"  -> {check.remedy}" if check.remedy else ""
            stdout.print(f"{check.name}: {check.found}{remedy}", markup=False)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@contextmanager
def _told(path: str, as_json: bool) -> Iterator[Intake]:
    """Every fault, one line each, once all is done; then what became of the files."""
    intake = Intake()
    try:
        yield intake
    finally:
        for fault in intake.skipped:
            stderr.print(
                f"{'skipped ' if fault.whole else ''}{fault}", markup=False, soft_wrap=True
            )
    n_passages = indexes.index_facts(path)["n_passages"]
    outcomes = {outcome.value: intake.outcomes[outcome] for outcome in Outcome}
    if as_json:
        faults = [{**asdict(fault), "path": str(fault.path)} for fault in intake.skipped]
        print_json({"index": str(path), "passages": n_passages, **outcomes, "faults": faults})
        return
    said = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items() if n) or "nothing to do"
    stdout.print(f"{path} holds {n_passages} passages; files: {said}", markup=False)


@contextmanager
def changed(path: str) -> "Iterator[tuple[IndexWriter, Reporter]]":
    """The index at `path`, to be changed, and a reporter that shows it."""
    report = Reporter()
    try:
        with indexes.open_index_writer(path, report, on_progress=_counter(report)) as writer:
            yield writer, report
    finally:
        report.close()


def _size(path: str) -> str:
    """That of a folder; none of what is elsewhere."""
    is_here = not is_remote(path) and Path(path).is_dir()
    return f"{_folder_mb(Path(path)):.1f} MB" if is_here else ""


def _counter(report: Reporter) -> Callable[[int], None]:
    """Says how many passages have been encoded, every so many: one file may hold millions."""
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if done // _TOLD_EVERY > told:
            told = done // _TOLD_EVERY
            report.say(f"{done} passages encoded")

    return tell


def _listed(found: Found, intake: Intake) -> Found:
    for fault in found.skipped:
        intake.skip(fault)
    return found


def _reading(manifest: Manifest, max_mb: int) -> ReadOptions:
    return ReadOptions(encoding=manifest.encoding, max_mb=max_mb, cut_rows=manifest.cut_rows)


def _roots(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(key_of, names)))


def _folder_mb(path: Path) -> float:
    """The size of all files under a folder, in MB."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
