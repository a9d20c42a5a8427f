"""Files and pages become passages, and passages an index: built, changed and kept small.

    from selfrag import indexing

    indexing.build(["docs"], "notes")
    indexing.update("notes")  # after the files have changed

Draws and prints nothing. An encoder that is not given is the index's own, or the default one for a
build. Knows nothing of language models.
"""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import chain
from pathlib import Path

from selfrag.errors import BadInput, StorageError
from selfrag.ingest.chunking import Chunking, TokenLimit, chunk_document
from selfrag.ingest.faults import OnSkip, Skipped, log_skip, printable
from selfrag.ingest.files import Found, SourceFile, find_files, fixed_part, list_files, rooted
from selfrag.ingest.formats import ReadOptions, format_of, is_one_document
from selfrag.ingest.readers import read_all, read_documents
from selfrag.ingest.web import fetch
from selfrag.passage import Document, Passage
from selfrag.progress import SILENT, Progress, working
from selfrag.retrieval.build import build_folder, new_manifest, open_writer
from selfrag.retrieval.encoder.base import Encoder, TokenSpans
from selfrag.retrieval.encoder.named import open_encoder, usual_precision
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.objectstore import Location, is_remote
from selfrag.retrieval.spec import DEFAULT_ENCODER, Precision
from selfrag.retrieval.table import quoted, require_lancedb
from selfrag.retrieval.writer import FileState, IndexWriter
from selfrag.serial import setting

_TOLD_EVERY = 100  # passages of a file, on the bar
_MAKING_SEARCHABLE = "making the search indexes"  # what follows the last passage

# An encoder, or what opens it once it is needed: after the files were found, for example.
EncoderSource = Encoder | Callable[[], Encoder] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How files are cut, in `size` words a passage, and what answers a search by meaning."""

    chunking: Chunking = setting(Chunking.WORDS, "Where to cut.")
    size: int = setting(100, "Words a passage.")
    kind: IndexKind = setting(IndexKind.AUTO, "What answers a dense search.")

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput(
                f"cannot build an index: --size is {self.size}; expected at least 1 word"
            )


class Outcome(StrEnum):
    """What became of one file; the first three are those of `FileChange`."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    SKIPPED = "skipped"


@dataclass(slots=True)
class Changes:
    """What became of all files, and how many passages the index holds then.

    `missing` are roots of the index that are gone: their passages stay.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    n_passages: int = 0


@dataclass(frozen=True, slots=True)
class _Intake:
    """One change of an index while it is made."""

    writer: IndexWriter
    read: ReadOptions
    changes: Changes
    on_skip: OnSkip
    progress: Progress
    emptied: set[str] = field(default_factory=set)

    def skip(self, fault: Skipped) -> None:
        """A file of which nothing was read counts as skipped; one without text is remembered."""
        self.changes.outcomes[Outcome.SKIPPED] += fault.whole
        if fault.is_empty:
            self.emptied.add(key_of(fault.path))
        self.on_skip(fault)


@dataclass(slots=True)
class _Place:
    """How far the reading of a file is; `before` of `total` bytes are those of other files."""

    file: SourceFile
    progress: Progress
    before: int
    total: int
    n_passages: int = 0
    n_characters: int = 0  # of the documents before the one that is being read

    def tell(self, n_bytes: int) -> None:
        """That so many bytes of the file have been read."""
        self.progress.progress("bytes read", self.before + n_bytes, self.total)

    def told(self, document: Document, passages: Iterable[Passage]) -> Iterator[Passage]:
        """The passages of a document, told now and then.

        Rows: a character is taken for a byte, so far as the file goes.
        """
        size, n_bytes = len(document.text), self.file.n_bytes
        for passage in passages:
            yield passage
            self.n_passages += 1
            if self.n_passages % _TOLD_EVERY == 0:
                n_read = self.n_characters + passage.end
                is_whole = is_one_document(format_of(self.file.path))
                self.tell(n_bytes * passage.end // size if is_whole else min(n_read, n_bytes))
        self.n_characters += size


@dataclass(frozen=True, slots=True)
class PassageFiles:
    """The passages of files, of 100 words each, read again each time they are gone through.

    `limit` gives what the encoder reads of a passage at most, and is asked then: where others read
    the files, it travels to them.
    """

    paths: tuple[str, ...]
    limit: Callable[[], TokenLimit | None] = lambda: None

    def __iter__(self) -> Iterator[Passage]:
        tokens = self.limit()
        for document in read_documents(self.paths):
            yield from chunk_document(document, tokens=tokens)


def build(
    paths: Sequence[str | Path],
    out: Location,
    encoder: EncoderSource = None,
    *,
    options: BuildOptions | None = None,
    read: ReadOptions | None = None,
    on_skip: OnSkip = log_skip,
    progress: Progress = SILENT,
) -> Changes:
    """An index of files, folders and patterns in the folder `out`, or at s3://bucket/prefix.

    What a build of the same encoder and cutting that was broken off has done is kept; an index that
    is there is replaced once the new one is complete. `on_skip` is told of every file, or part of
    one, that could not be read. Raises as `find_files` and `build_folder` do.
    """
    options, read = options or BuildOptions(), read or ReadOptions()
    require_lancedb(f"the index {out}", "build")
    if pages := [str(path) for path in paths if is_url(path)]:
        raise BadInput(
            f"cannot build an index from {pages[0]}: a build reads files; build it of files, then "
            "add pages with `selfrag index add DIR URL --allow-urls`"
        )
    roots, changes = _roots(paths), Changes()
    with working(progress, "looking for files"):
        found = find_files(roots, options=read)
    with working(progress, "opening the encoder"):
        model = _opened_encoder(encoder, DEFAULT_ENCODER, usual_precision(DEFAULT_ENCODER), None)
    manifest = new_manifest(
        model.spec,
        kind=options.kind,
        chunking=options.chunking.value,
        chunk_words=options.size,
        roots=roots,
        cut_rows=read.cut_rows,
        encoding=read.encoding,
    )
    manifest = replace(
        manifest,
        text_column=read.text_column,
        title_column=read.title_column,
        ignore=read.ignore,
    )

    def fill(writer: IndexWriter) -> None:
        intake = _Intake(writer, read, changes, on_skip, progress)
        _put_files(intake, found)
        if not is_remote(out):  # there others may be putting files of their own
            _drop_others(intake, {key_of(file.path) for file in found.files})
        writer.flush()
        changes.n_passages = writer.n_passages
        progress.progress(_MAKING_SEARCHABLE, 0, 0)

    try:
        build_folder(out, model, manifest, fill)
    finally:
        progress.close()
    return changes


def add(
    index: Location,
    paths: Sequence[str | Path],
    encoder: EncoderSource = None,
    *,
    allow_urls: bool = False,
    max_mb: int = ReadOptions().max_mb,
    on_skip: OnSkip = log_skip,
    progress: Progress = SILENT,
) -> Changes:
    """Puts files, folders and patterns into an index, and web pages where `allow_urls` is on.

    They are read as those of the build were; a later `update` reads the files again, but no page.
    Raises `BadInput` for a page that is not allowed or a name with nothing behind it.
    """
    pages = [str(name) for name in paths if is_url(name)]
    roots = _roots([name for name in paths if not is_url(name)])
    if pages and not allow_urls:
        raise BadInput(
            f"cannot add {pages[0]}: web pages are not fetched unless you say so; "
            "give --allow-urls, or save the page as a file and add that"
        )
    with _changed(index, encoder, max_mb, on_skip, progress) as intake:
        for page in pages:
            progress.say(f"fetching {page}")
            _put_page(intake, fetch.fetch_document(page))
        if roots:
            _put_files(intake, find_files(roots, options=intake.read))
            manifest = intake.writer.manifest
            known = tuple(dict.fromkeys([*manifest.roots, *roots]))
            intake.writer.manifest = replace(manifest, roots=known)
    return intake.changes


def update(
    index: Location,
    paths: Sequence[str | Path] = (),
    encoder: EncoderSource = None,
    *,
    max_mb: int = ReadOptions().max_mb,
    on_skip: OnSkip = log_skip,
    progress: Progress = SILENT,
) -> Changes:
    """Reads what has changed by its hash, and takes out the files that are gone.

    Of `paths` alone, else of all that the index was built of. A root that is gone keeps its
    passages: it may be a disk that is not there now. So does a file that cannot be read; one that
    has no text any more has no passages.
    """
    roots = _roots(paths) or Manifest.load(index).roots
    if not roots:
        raise BadInput(
            f"cannot update {index}: it was not built of files; expected one of "
            "`selfrag index build`, so name the files or folders to read"
        )
    there = [root for root in roots if not _is_gone(fixed_part(root))]
    with _changed(index, encoder, max_mb, on_skip, progress) as intake:
        gone = (str(fixed_part(root)) for root in roots if root not in there)
        intake.changes.missing += dict.fromkeys(gone)
        found = list_files(there, options=intake.read)
        _put_files(intake, found)
        _drop_ignored(intake, found)
        _drop_missing(intake, [fixed_part(root) for root in there])
    return intake.changes


def delete(
    index: Location,
    encoder: EncoderSource = None,
    *,
    files: Sequence[str | Path] = (),
    ids: Sequence[str] = (),
    where: str = "",
    progress: Progress = SILENT,
) -> tuple[int, int]:
    """Takes out files, folders and pages, passages by id, and those for which `where` holds.

    How many passages went, and how many are left. Raises `BadInput` where nothing is named, for a
    file that the index does not hold and for what is no SQL condition.
    """
    if not (files or ids or where):
        raise BadInput(
            "cannot delete: nothing is named; expected --file, --id or --where, so name what goes"
        )
    with _opened(index, encoder, progress) as writer:
        names: set[str] = set()
        for name in files:
            found = _named_files(writer, name)
            if not found:
                raise BadInput(
                    f"cannot delete from {index}: it holds no file {key_of(name)}; "
                    "expected one that `selfrag index info --files` lists"
                )
            names |= found
        n_gone = writer.delete_files(sorted(names))
        if ids:
            n_gone += writer.delete(f"id IN ({', '.join(map(quoted, ids))})")
        if where:
            n_gone += writer.delete(where)
        keys = {form for name in files for form in (key_of(name), glob.escape(key_of(name)))}
        roots = tuple(root for root in writer.manifest.roots if root not in keys)
        writer.manifest = replace(writer.manifest, roots=roots)
        return n_gone, writer.n_passages


def compact(
    index: Location,
    encoder: EncoderSource = None,
    *,
    keep: timedelta = timedelta(hours=1),
    progress: Progress = SILENT,
) -> None:
    """Merges small files, brings the search indexes up to date, drops versions older than `keep`.

    A reader that is still at a dropped version fails; 0 drops all but the newest.
    """
    if keep < timedelta(0):
        minutes = keep / timedelta(minutes=1)
        raise BadInput(f"cannot compact: --keep-minutes is {minutes}; expected 0 or more")
    with _opened(index, encoder, progress) as writer:
        progress.progress("merging files", 0, 0)
        writer.compact(keep=keep)


def is_url(name: str | Path) -> bool:
    """Whether a name is that of a page rather than of a file."""
    return str(name).lower().startswith(("http://", "https://"))


def key_of(name: str | Path) -> str:
    """The name under which the index holds a file: its absolute path; a URL is its own."""
    return str(name) if is_url(name) else printable(os.path.abspath(os.path.expanduser(name)))


def _roots(names: Iterable[str | Path]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(rooted, names)))


def _is_gone(path: Path) -> bool:
    """Whether there is nothing; not where that cannot be seen, as in a folder that is shut."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


@contextmanager
def _opened(index: Location, encoder: EncoderSource, progress: Progress) -> Iterator[IndexWriter]:
    spec = Manifest.load(index).encoder
    with working(progress, "opening the encoder"):
        model = _opened_encoder(encoder, spec.name, spec.precision, spec.max_tokens)
    try:
        with open_writer(index, model) as writer:
            yield writer
            progress.progress(_MAKING_SEARCHABLE, 0, 0)
    finally:
        progress.close()


def _opened_encoder(
    encoder: EncoderSource, name: str, precision: Precision, max_tokens: int | None
) -> Encoder:
    if encoder is None:
        return open_encoder(name, precision=precision, max_tokens=max_tokens)
    return encoder() if callable(encoder) else encoder


@contextmanager
def _changed(
    index: Location, encoder: EncoderSource, max_mb: int, on_skip: OnSkip, progress: Progress
) -> Iterator[_Intake]:
    with _opened(index, encoder, progress) as writer:
        there = writer.manifest
        read = ReadOptions(
            max_mb=max_mb,
            encoding=there.encoding,
            cut_rows=there.cut_rows,
            text_column=there.text_column,
            title_column=there.title_column,
            ignore=there.ignore,
        )
        intake = _Intake(writer, read, Changes(), on_skip, progress)
        yield intake
        writer.flush()
        intake.changes.n_passages = writer.n_passages


def _put_files(intake: _Intake, found: Found) -> None:
    """Every file that the index does not hold as it is now; broken ones keep what was there."""
    for fault in found.skipped:
        intake.skip(fault)
    _put_changed(intake, found.files)
    _delete_files(intake, intake.emptied & _held(intake.writer))


def _put_changed(intake: _Intake, files: Sequence[SourceFile]) -> None:
    held = {name: state.version for name, state in intake.writer.files.items()}
    total = sum(file.n_bytes for file in files)
    done = 0
    for file, documents in read_all(files, on_skip=intake.skip, options=intake.read):
        place = _Place(file, intake.progress, done, total)
        place.tell(0)
        _put_file(intake, place, documents, held)
        done += file.n_bytes


def _put_file(
    intake: _Intake, place: _Place, documents: Iterator[Document], held: Mapping[str, str]
) -> None:
    outcomes, file = intake.changes.outcomes, place.file
    try:
        state = FileState(
            file=key_of(file.path),
            version=file.sha256,
            n_bytes=file.n_bytes,
            mtime_ns=file.mtime_ns,
        )
    except StorageError as error:
        intake.skip(Skipped(path=file.path, reason=str(error)))
        return
    if held.get(state.file) == state.version:
        outcomes[Outcome.UNCHANGED] += 1
        return
    # Of a file that gives no document the fault has been told; what was held of it stays.
    first = next(documents, None)
    if first is not None:
        passages = _passages(chain([first], documents), intake.writer, place)
        del first  # it may be large, and the passages of the last document come from it
        outcomes[Outcome(intake.writer.put_file(state, passages).value)] += 1


def _put_page(intake: _Intake, document: Document) -> None:
    """One web page, as it is now; `source` is its URL."""
    text = f"{document.title}\n{document.text}".encode()
    state = FileState(file=document.source, version=sha256(text).hexdigest(), n_bytes=len(text))
    change = intake.writer.put_file(state, _passages([document], intake.writer))
    intake.changes.outcomes[Outcome(change.value)] += 1


def _passages(
    documents: Iterable[Document], writer: IndexWriter, place: _Place | None = None
) -> Iterator[Passage]:
    chunking, size = Chunking(writer.manifest.chunking), writer.manifest.chunk_words
    tokens = token_limit(writer.encoder)
    for document in documents:
        passages = chunk_document(document, chunking=chunking, size=size, tokens=tokens)
        yield from passages if place is None else place.told(document, passages)


def token_limit(encoder: Encoder) -> TokenLimit | None:
    """What an encoder reads of a passage, where it tells its tokens; the rest it would cut off."""
    if not isinstance(encoder, TokenSpans):
        return None
    around = encoder.spec.passage_text(Passage(id="", title="-", text="-"))
    # [CLS] and [SEP], or such; and prefix and separator, less the two dashes.
    n_around = 2 + max(len(encoder.token_spans(around)) - 2, 0)
    return TokenLimit(encoder.token_spans, max(encoder.spec.max_tokens - n_around, 1))


def _drop_others(intake: _Intake, keys: set[str]) -> None:
    """Takes out what a broken-off build of other files left."""
    _delete_files(intake, _held(intake.writer) - keys)


def _drop_missing(intake: _Intake, roots: Sequence[Path]) -> None:
    """Takes out the files under `roots` that are no longer there."""
    names = (name for name in _held(intake.writer) if not is_url(name))
    _delete_files(
        intake,
        {name for name in names if _is_under(Path(name), roots) and _is_gone(Path(name))},
    )


def _drop_ignored(intake: _Intake, found: Found) -> None:
    """Takes out what is left out now, and was not when it was read."""
    ignored = [Path(key_of(path)) for path in found.ignored]
    held = _held(intake.writer) - {key_of(file.path) for file in found.files}
    _delete_files(intake, {name for name in held if _is_under(Path(name), ignored)})


def _delete_files(intake: _Intake, names: set[str]) -> None:
    if names:
        intake.writer.delete_files(sorted(names))
        intake.changes.outcomes[Outcome.DELETED] += len(names)


def _named_files(writer: IndexWriter, name: str | Path) -> set[str]:
    """The file of that name, or all files of the folder."""
    key = Path(key_of(name))
    return {file for file in _held(writer) if file == key_of(name) or _is_under(Path(file), [key])}


def _held(writer: IndexWriter) -> set[str]:
    return set(writer.files) | writer.unfinished_files()


def _is_under(path: Path, roots: Sequence[Path]) -> bool:
    return any(root == path or root in path.parents for root in roots)
