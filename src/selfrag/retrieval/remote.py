"""Indexes on object storage: the same tables, written from any number of machines at once.

A commit is one conditional put; Lance brings a commit that comes second behind the first. A store
without conditional put is refused. Knows nothing of file formats.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from selfrag.errors import BadInput, StorageError
from selfrag.retrieval.encoder.base import Encoder
from selfrag.retrieval.manifest import MANIFEST_NAME, IndexKind, Manifest, not_usable
from selfrag.retrieval.objectstore import CONFLICT, TIMEOUT_S, Objects, checked
from selfrag.retrieval.table import brief, connect
from selfrag.retrieval.writer import IndexWriter

T = TypeVar("T")

_MAX_TRIES = 20


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
    names = ["chunking", "chunk_words", "cut_rows", "encoding"]
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
