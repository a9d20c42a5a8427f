"""Indexes made, and opened for writing: folders by one process at a time, prefixes by any number.

A build works in a hidden folder beside its target, which the same build finds again after a crash;
the folder is there complete or not at all. On object storage a commit is one conditional put, Lance
brings a commit that comes second behind the first, and nothing is replaced as a whole.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from selfrag.errors import BadInput, IndexNotUsable, StorageError
from selfrag.files import locked
from selfrag.retrieval.encoder.base import Encoder
from selfrag.retrieval.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    IndexKind,
    Manifest,
    not_usable,
)
from selfrag.retrieval.memory import freed_blocks_returned
from selfrag.retrieval.objectstore import (
    CONFLICT,
    TIMEOUT_S,
    Location,
    Objects,
    checked,
    is_remote,
)
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.table import PASSAGES, brief, connect, open_tables, storage
from selfrag.retrieval.writer import IndexWriter

T = TypeVar("T")

_MAX_TRIES = 20  # of a change that other writers come before


def new_manifest(
    encoder: EncoderSpec,
    *,
    kind: IndexKind = IndexKind.AUTO,
    chunking: str = "",
    chunk_words: int = 0,
    roots: tuple[str, ...] = (),
    cut_rows: bool = False,
    encoding: str = "",
    attribution: str = "",
) -> Manifest:
    """The manifest of an index that is made now, with this version of the package."""
    return Manifest(
        format_version=FORMAT_VERSION,
        encoder=encoder,
        kind=kind,
        chunking=chunking,
        chunk_words=chunk_words,
        roots=roots,
        cut_rows=cut_rows,
        encoding=encoding,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        selfrag_version=version("selfrag"),
        attribution=attribution,
    )


@freed_blocks_returned()
def build_folder(
    location: Location,
    encoder: Encoder,
    manifest: Manifest,
    fill: Callable[[IndexWriter], object],
    *,
    on_progress: Callable[[int], None] | None = None,
    resume: bool = True,
) -> Manifest:
    """An index in the folder `location`, which `fill` puts files and passages into.

    An index that is already there is replaced once the new one is complete. Where a build of the
    same encoder and cutting was broken off, its passages are kept and `fill` meets them, unless
    `resume` is off. Raises `BadInput` when nothing was put, something else is there or another
    build of it is running, `StorageError` when the disk refuses; what was committed until then
    stays for the next try, where nothing was, nothing is left. On an object store commits are seen
    at once and nothing is replaced as a whole: see `build_remote`.
    """
    if is_remote(location):
        return build_remote(str(location), encoder, manifest, fill, on_progress=on_progress)
    path = Path(location).resolve()
    with storage(path):
        _bring_back(path)
    _refuse_to_overwrite(path)
    workspace = path.parent / f".{path.name}.building"
    with storage(path):
        workspace.mkdir(parents=True, exist_ok=True)
    with locked(workspace, shown=path):
        writer = None
        try:
            with storage(path):
                if not (resume and _is_same_build(workspace, manifest)):
                    _empty(workspace)
                manifest.save(workspace)
            writer = IndexWriter(
                path, connect(workspace), manifest, encoder, on_progress=on_progress
            )
            fill(writer)
            writer.flush()
            if not writer.n_passages:
                raise BadInput(
                    f"cannot build the index {path}: found no passages, expected at least one; "
                    "name documents that contain text"
                )
            # Nobody reads it yet, so no older version is of use.
            writer.compact(keep=timedelta(0))
            with storage(path):
                _put_in_place(workspace, path)
        except Exception:
            if writer is None or not _holds_work(writer):
                shutil.rmtree(workspace, ignore_errors=True)
            raise
    return manifest


@contextmanager
def open_writer(
    location: Location, encoder: Encoder, *, on_progress: Callable[[int], None] | None = None
) -> Iterator[IndexWriter]:
    """The index at `location`, to be changed; its search indexes are brought up to date at the end.

    Raises as `open_manifest` does, and `BadInput` while another process is writing a folder.
    """
    if is_remote(location):
        with open_remote_writer(str(location), encoder, on_progress=on_progress) as writer:
            yield writer
        return
    manifest = open_manifest(location, encoder, for_passages=True)
    path = Path(location).resolve()
    with locked(path), freed_blocks_returned():
        database = connect(path)
        open_tables(path, database, to_search=False)
        writer = IndexWriter(path, database, manifest, encoder, on_progress=on_progress)
        yield writer
        writer.index()
        if writer.manifest != manifest:
            with storage(path):
                writer.manifest.save(path)


def open_manifest(
    location: Location,
    encoder: Encoder,
    *,
    for_passages: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Manifest:
    """The manifest of the index at `location`, made with the same encoder.

    Whoever adds `for_passages` has to write and cut them in the same way, too.

    Raises `IndexNotUsable` when it is absent or damaged, `IndexMismatch` when it was built with
    another encoder.
    """
    manifest = Manifest.load(location, timeout_s=timeout_s)
    manifest.check_encoder(encoder.spec, location, for_passages=for_passages)
    return manifest


def _empty(folder: Path) -> None:
    for item in folder.iterdir():
        if item.name != ".lock":  # it is held: another process could take one made anew
            shutil.rmtree(item) if item.is_dir() else item.unlink()


def _is_same_build(workspace: Path, manifest: Manifest) -> bool:
    try:
        there = Manifest.load(workspace)
    except IndexNotUsable:
        return False
    return manifest == replace(
        there,
        created_at=manifest.created_at,
        roots=manifest.roots,
        attribution=manifest.attribution,
    )


def _holds_work(writer: IndexWriter) -> bool:
    try:
        return writer.n_passages > 0
    except (OSError, RuntimeError):
        return False


def _refuse_to_overwrite(path: Path) -> None:
    is_index = (path / MANIFEST_NAME).is_file() and (path / f"{PASSAGES}.lance").is_dir()
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_index and not is_free:
        raise BadInput(
            f"cannot build an index in {path}: found something else there, expected no folder or "
            "an index to replace; name another folder"
        )


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _bring_back(path: Path) -> None:
    """The old index, where a crash between the two renames of `_put_in_place` left none."""
    if _aside(path).exists() and not path.exists():
        _aside(path).rename(path)


def _put_in_place(new: Path, path: Path) -> None:
    """Renames `new` to `path`; an old index goes aside, and comes back should that fail."""
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        if aside.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def open_remote_writer(
    uri: str,
    encoder: Encoder,
    *,
    manifest: Manifest | None = None,
    on_progress: Callable[[int], None] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[IndexWriter]:
    """The index at `uri`, to be changed; its search indexes are brought up to date at the end.

    Where there is none, `manifest` makes one; one that is there keeps its own, with the roots of
    `manifest` added. Others may write other files and passages at the same time. Raises
    `IndexNotUsable` when there is no index and no `manifest`, `IndexMismatch` for another encoder,
    `BadInput` for another kind or cutting, `StorageError` when the store does not take a write in
    time or has no conditional put; what was committed until then stays.
    """
    uri = checked(uri)
    objects = Objects(uri, timeout_s=timeout_s)
    objects.refuse_careless_store()
    if manifest is not None:
        objects.create(MANIFEST_NAME, manifest.to_json().encode())
    found = Manifest.load(uri, timeout_s=timeout_s)
    found.check_encoder(encoder.spec, uri, for_passages=True)
    if manifest is not None:
        _refuse_to_mix(found, manifest, uri)
        roots = manifest.roots
        found = _changed(objects, uri, lambda there: _with_roots(there, roots))
    database = connect(uri, timeout_s=timeout_s)
    writer = _settled(
        lambda: IndexWriter(uri, database, found, encoder, on_progress=on_progress), uri
    )
    yield writer
    _settled(writer.index, uri)
    if writer.manifest != found:
        _changed(objects, uri, lambda there: _with_roots(writer.manifest, _beside(there, found)))


def build_remote(
    uri: str,
    encoder: Encoder,
    manifest: Manifest,
    fill: Callable[[IndexWriter], object],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Manifest:
    """An index at `uri` with what `fill` puts; in an index that is there, beside what it holds.

    Raises `BadInput` when the index holds nothing then, else as `open_remote_writer`.
    """
    with open_remote_writer(uri, encoder, manifest=manifest, on_progress=on_progress) as writer:
        fill(writer)
        writer.flush()
        if not writer.n_passages:
            raise BadInput(
                f"cannot build the index {uri}: found no passages, expected at least one; "
                "name documents that contain text"
            )
    return writer.manifest


def _refuse_to_mix(there: Manifest, manifest: Manifest, uri: str) -> None:
    names = ["chunking", "chunk_words", "cut_rows", "encoding", "text_column", "title_column"]
    if manifest.kind is not IndexKind.AUTO:
        names.append("kind")
    odd = [
        f"{name} {getattr(there, name)!r} against {getattr(manifest, name)!r}"
        for name in names
        if getattr(there, name) != getattr(manifest, name)
    ]
    if odd:
        raise BadInput(
            f"cannot build the index {uri}: found one there that was made otherwise "
            f"({', '.join(odd)}), expected the same or none; name another prefix"
        )


def _beside(there: Manifest, found: Manifest) -> tuple[str, ...]:
    """The roots that others have added since."""
    return tuple(root for root in there.roots if root not in found.roots)


def _with_roots(manifest: Manifest, roots: tuple[str, ...]) -> Manifest:
    return replace(manifest, roots=tuple(dict.fromkeys((*manifest.roots, *roots))))


def _changed(objects: Objects, uri: str, change: Callable[[Manifest], Manifest]) -> Manifest:
    """The manifest of the index, changed; what another writer changes meanwhile is not lost."""
    for _ in range(_MAX_TRIES):
        try:
            data, tag = objects.get(MANIFEST_NAME)
        except FileNotFoundError as error:
            raise not_usable(uri, f"a folder without {MANIFEST_NAME}") from error
        there = Manifest.from_json(data, uri)
        manifest = change(there)
        if manifest == there or objects.replace(MANIFEST_NAME, manifest.to_json().encode(), tag):
            return manifest
    raise _never_a_turn(uri, f"its {MANIFEST_NAME} changed")


def _settled(change: Callable[[], T], uri: str) -> T:
    """What `change` returns, made again while others commit before it.

    Lance repeats appends, merges and deletions by itself, but not two tables made at once, nor
    compaction against a new search index.
    """
    for _ in range(_MAX_TRIES):
        try:
            return change()
        except StorageError as error:
            conflict = error.__cause__ or error
            if not CONFLICT.search(str(conflict)):
                raise
        # A second: then the tables are read anew. More: writers that collided wake apart.
        time.sleep(random.uniform(1.0, 2.0))
    raise _never_a_turn(uri, brief(conflict)) from conflict


def _never_a_turn(uri: str, found: str) -> StorageError:
    return StorageError(
        f"cannot write the index {uri}: other writers came first {_MAX_TRIES} times ({found}), "
        "expected a turn; try again when fewer are writing"
    )
