"""Index folders made whole or not at all, and opened for writing by one process at a time.

A build works in a hidden folder beside its target, which the same build finds again after a crash.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from selfrag.errors import BadInput, IndexNotUsable, StorageError
from selfrag.retrieval.encoder.base import Encoder
from selfrag.retrieval.manifest import FORMAT_VERSION, MANIFEST_NAME, IndexKind, Manifest
from selfrag.retrieval.objectstore import TIMEOUT_S, Location, is_remote
from selfrag.retrieval.remote import build_remote, open_remote_writer
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.table import PASSAGES, connect, open_tables, storage
from selfrag.retrieval.writer import IndexWriter


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

    An index that is already there is replaced once the new one is complete. Where a build of
    the same encoder and cutting was broken off, its passages are kept and `fill` meets them, unless
    `resume` is off. Raises `BadInput` when nothing was put or something else is there,
    `StorageError` when the disk refuses or another build of it is running; what was committed until
    then stays for the next try, where nothing was, nothing is left. On an object store commits are
    seen at once and nothing is replaced as a whole: see `build_remote`.
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
    with locked(workspace, path):
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

    Raises as `open_manifest` does, and `StorageError` while another process is writing a folder.
    """
    if is_remote(location):
        with open_remote_writer(str(location), encoder, on_progress=on_progress) as writer:
            yield writer
        return
    manifest = open_manifest(location, encoder, for_passages=True)
    path = Path(location).resolve()
    with locked(path, path):
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


@contextmanager
def locked(folder: Path, path: Path) -> Iterator[None]:
    """Holds a folder for writing; `StorageError` while another process does. A crash frees it."""
    with storage(path):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"cannot write the index {path}: another process is writing it, expected to be "
                "the only one; wait until it has ended"
            ) from error
        yield
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for item in folder.iterdir():
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
