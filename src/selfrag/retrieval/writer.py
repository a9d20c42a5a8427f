"""What changes an index: files and passages put in, replaced and taken out, commit by commit.

Every commit is atomic, and passages come before the record that their file is whole; so a reader
never sees half a commit, and after a crash the same calls go on where they stopped. One writer of
files at a time; passages without a file may come from several. Knows nothing of file formats.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import chain, islice
from typing import Any

import numpy as np

from selfrag.passage import Passage
from selfrag.retrieval.encoder.base import Encoder, encode_passages
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.objectstore import Location
from selfrag.retrieval.table import (
    FILES,
    NO_FILE,
    PASSAGES,
    Origin,
    check_condition,
    count_by_origin,
    create_vector_index,
    create_word_index,
    files_schema,
    is_segmented,
    kind_for,
    needs_segmenting,
    open_or_make,
    passages_schema,
    quoted,
    record_batch,
    storage,
    vector_index,
    word_index,
)

BATCH_SIZE = 512  # passages encoded together
# A commit is a file. Encoding is slow, so time bounds what a crash costs; writing is fast, so rows
# bound the memory: of 4,096 rows of 384 floats and their texts some 60 MB while they are written.
_ROWS_A_COMMIT = BATCH_SIZE * 8
_SECONDS_A_COMMIT = 30.0
# Batches that come with their vectors: as many rows as Lance wants in a file, or merging the files
# later writes them all again. They stream, so memory stays small.
APPENDED_AT_ONCE = 1 << 20
# Old rows of a changed file are looked up as far as this before and behind a new one.
_WINDOW_ROWS = 1 << 15
# A changed file of at most so many passages is replaced in one commit.
REPLACED_AT_ONCE = 8192
# A vector index that knows less than this share of the rows is made anew.
_KNOWN_SHARE = 0.5
# Lance counts ages in milliseconds, and warns of 0.
_LEAST_AGE = timedelta(milliseconds=1)
_MAX_DROPS = 100
# Rows of two files may carry the same ids, 1 to n for example.
_PASSAGE_KEY = ["file", "id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """A file as it was read: `version` changes with its content, as a hash does."""

    file: str
    version: str
    n_bytes: int = 0
    mtime_ns: int = 0


class FileChange(StrEnum):
    """What putting a file did."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(slots=True)
class _Pending:
    """Passages not yet encoded, batches not yet written, files whole once they are."""

    passages: list[Passage] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    batches: list[Any] = field(default_factory=list)
    n_rows: int = 0
    files: dict[str, tuple[FileState, int]] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)


class IndexWriter:
    """Adds to and takes from the tables of one index; nothing is sure before `flush` returned."""

    def __init__(
        self,
        location: Location,
        database: Any,
        manifest: Manifest,
        encoder: Encoder,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Opens the tables, or makes them where there are none.

        `on_progress` is called with the number of passages put since, encoded and not yet sure.
        """
        self._location = location
        self._encoder = encoder
        self._on_progress = on_progress
        self._pending = _Pending()
        self._n_put = 0
        self._is_unspaced = False  # passages in a script without spaces were put
        self._old: _OldVectors | None = None  # of the file that is being replaced
        self.manifest = manifest
        with storage(location):
            self._passages = open_or_make(database, PASSAGES, encoder.spec.dim)
            self._files = database.create_table(FILES, schema=files_schema(), exist_ok=True)
            self._known = {row["file"]: row for row in self._files.to_arrow().to_pylist()}
            # Passages of files that are not whole: left by a broken-off run, or being put now.
            self._unfinished = self._count_unfinished()
            self._next_row = self._first_free_row()

    @property
    def files(self) -> dict[str, FileState]:
        """The files that the index holds whole, by name."""
        return {
            name: FileState(
                file=name,
                version=row["version"],
                n_bytes=row["n_bytes"],
                mtime_ns=row["mtime_ns"],
            )
            for name, row in self._known.items()
        }

    @property
    def encoder(self) -> Encoder:
        """What encodes the passages."""
        return self._encoder

    @property
    def n_passages(self) -> int:
        """Passages that readers find."""
        return int(self._passages.count_rows())

    def put_file(self, state: FileState, passages: Iterable[Passage]) -> FileChange:
        """The passages of one file in place of those of any earlier version of it.

        A file that the index holds in this version is not read. Of one whose reading was broken
        off, the passages that are there already are skipped: reading has to repeat itself. Of one
        that has changed, only passages that are new are encoded, in any place or order that is not
        too far from the old one.
        """
        self._old = None
        if state.file in self._pending.files:
            self.flush()
        known = self._known.get(state.file)
        if known is not None and known["version"] == state.version:
            return FileChange.UNCHANGED
        origin = (state.file, state.version)
        n_there = self._unfinished[origin]
        others = {other for other in self._unfinished if other[0] == state.file} - {origin}
        is_old = known is not None or bool(others)
        rest: Iterator[Passage] = islice(passages, n_there, None)
        if is_old:
            self.flush()  # what is encoded of other files with it would not be looked up
            self._old = _OldVectors(self._passages, state)
        if is_old and not n_there:
            self.flush()
            head = list(islice(rest, REPLACED_AT_ONCE + 1))
            if len(head) <= REPLACED_AT_ONCE:
                self._replace(state, head)
                self._forget(others)
                return FileChange.REPLACED
            rest = chain(head, rest)
        self._push(rest, origin)
        self._pending.files[state.file] = (state, self._unfinished[origin])
        if is_old:
            self.flush()
            self._delete_rows(f"file = {quoted(state.file)} AND version <> {quoted(state.version)}")
        self._forget({origin, *others})
        return FileChange.REPLACED if is_old else FileChange.ADDED

    def put(self, passages: Iterable[Passage]) -> int:
        """Passages that belong to no file; one takes the place of another with its id."""
        self.flush()
        rest, n_before = iter(passages), self._n_put
        if not self.n_passages:
            self._push(rest, NO_FILE)
            self.flush()
        while batch := list({p.id: p for p in islice(rest, BATCH_SIZE)}.values()):
            rows = self._encode(batch, [NO_FILE] * len(batch))
            with storage(self._location):
                _upsert(self._passages, _PASSAGE_KEY).execute(_table([rows]))
        return self._n_put - n_before

    def append(self, batches: Iterable[Any]) -> None:
        """Arrow batches of the passages table, with vectors.

        They stream through to disk, in commits of some `APPENDED_AT_ONCE` rows.
        """
        import pyarrow as pa

        self.flush()
        schema = passages_schema(self._encoder.spec.dim)
        rest = iter(batches)
        while (head := next(rest, None)) is not None:
            commit = _Counted(chain([head], rest))
            with storage(self._location):
                self._passages.add(pa.RecordBatchReader.from_batches(schema, commit))
            self._next_row += commit.n_rows
            self._n_put += commit.n_rows
            if self._on_progress is not None:
                self._on_progress(self._n_put)

    def delete(self, condition: str) -> int:
        """Takes out the passages for which an SQL condition on their columns holds.

        Raises `BadInput` for what is no such condition.
        """
        check_condition(self._location, self._passages, condition, "delete")
        self.flush()
        return self._delete_rows(condition)

    def delete_files(self, files: Sequence[str]) -> int:
        """Takes out files with all their passages; a name that is not there does nothing."""
        self.flush()
        condition = f"file IN ({', '.join(map(quoted, files))})" if files else "false"
        with storage(self._location):
            self._files.delete(condition)  # first: passages of no whole file are counted on
        n_gone = self._delete_rows(condition)
        for name in files:
            self._known.pop(name, None)
        self._forget({key for key in self._unfinished if key[0] in files})
        return n_gone

    def unfinished_files(self) -> set[str]:
        """Files of which only a part is there: a run was broken off, or their reading failed."""
        return {file for file, _ in self._unfinished}

    def flush(self) -> None:
        """Everything put so far is on disk and seen by readers when this returns."""
        self._encode_pending()
        pending, self._pending = self._pending, _Pending()
        with storage(self._location):
            if pending.batches:
                self._passages.add(_table(pending.batches))
            self._record(list(pending.files.values()))

    def index(self, *, anew: bool = False) -> None:
        """Brings the search indexes up to date with the passages; makes those that are missing.

        The one over words is made again once passages came that need another kind of it.

        `anew`: the vector index is made again, as for another kind.
        """
        self.flush()
        n_rows = self.n_passages
        with storage(self._location):
            # Merges files and, where they are, brings search indexes up to date.
            self._passages.optimize()
            there = word_index(self._passages)
            if there is None:
                batches = self._passages.search().select(["text"]).to_batches()
                is_unspaced = any(needs_segmenting(batch["text"]) for batch in batches)
                create_word_index(self._passages, segmented=is_unspaced)
            elif self._is_unspaced and not is_segmented(there):
                create_word_index(self._passages, segmented=True)
            if self._wants_vector_index(n_rows, anew):
                create_vector_index(
                    self._passages, self.manifest.kind, self.manifest.encoder.metric, n_rows
                )

    def compact(self, *, keep: timedelta = timedelta(hours=1)) -> None:
        """Few large files in place of many small ones; versions older than `keep` are dropped.

        A reader that is still at a dropped version fails, so `keep` is longer than any search; 0
        drops all but the newest.
        """
        self.index()
        for table in (self._passages, self._files):
            with storage(self._location):
                table.optimize(cleanup_older_than=max(keep, _LEAST_AGE))
                if not keep:
                    _drop_old_versions(table)

    def _push(self, passages: Iterable[Passage], origin: Origin) -> None:
        for passage in passages:
            self._pending.passages.append(passage)
            self._pending.origins.append(origin)
            if origin != NO_FILE:
                self._unfinished[origin] += 1
            if len(self._pending.passages) == BATCH_SIZE:
                self._encode_pending()

    def _forget(self, origins: Set[Origin]) -> None:
        """These are whole now, or gone."""
        for origin in origins:
            self._unfinished.pop(origin, None)

    def _encode_pending(self) -> None:
        pending = self._pending
        if not pending.passages:
            return
        rows = self._encode(pending.passages, pending.origins)
        pending.passages, pending.origins = [], []
        self._queue(rows)

    def _encode(self, passages: Sequence[Passage], origins: Sequence[Origin]) -> Any:
        vectors = self._vectors(passages)
        rows = record_batch(passages, vectors, first_row=self._next_row, files=origins)
        self._is_unspaced = self._is_unspaced or needs_segmenting(rows["text"])
        self._next_row += len(passages)
        self._n_put += len(passages)
        if self._on_progress is not None:
            self._on_progress(self._n_put)
        return rows

    def _vectors(self, passages: Sequence[Passage]) -> Any:
        if self._old is None:
            return encode_passages(self._encoder, passages)
        found = self._old.of(passages)
        new = [n for n, vector in enumerate(found) if vector is None]
        encoded = encode_passages(self._encoder, [passages[n] for n in new]) if new else ()
        for n, vector in zip(new, encoded, strict=True):
            found[n] = vector
        return np.array(found, dtype=np.float32).reshape(len(found), self._encoder.spec.dim)

    def _queue(self, rows: Any) -> None:
        pending = self._pending
        pending.batches.append(rows)
        pending.n_rows += rows.num_rows
        is_late = time.monotonic() - pending.since > _SECONDS_A_COMMIT
        if pending.n_rows >= _ROWS_A_COMMIT or is_late:
            self.flush()

    def _replace(self, state: FileState, passages: Sequence[Passage]) -> None:
        """One commit puts the new passages in and takes the old ones out."""
        passages = list({passage.id: passage for passage in passages}.values())
        rows = self._encode(passages, [(state.file, state.version)] * len(passages))
        with storage(self._location):
            if passages:
                merge = _upsert(self._passages, _PASSAGE_KEY)
                merge.when_not_matched_by_source_delete(f"file = {quoted(state.file)}")
                merge.execute(_table([rows]))
            else:
                self._passages.delete(f"file = {quoted(state.file)}")
            self._record([(state, len(passages))])

    def _record(self, files: Sequence[tuple[FileState, int]]) -> None:
        """Writes down that the index holds `files` whole."""
        import pyarrow as pa

        rows = [
            {
                "file": state.file,
                "version": state.version,
                "n_passages": n_passages,
                "n_bytes": state.n_bytes,
                "mtime_ns": state.mtime_ns,
            }
            for state, n_passages in files
        ]
        if rows:
            _upsert(self._files, ["file"]).execute(pa.Table.from_pylist(rows, files_schema()))
            self._known.update({row["file"]: row for row in rows})

    def _delete_rows(self, condition: str) -> int:
        with storage(self._location):
            n_before = self.n_passages
            self._passages.delete(condition)
            return n_before - self.n_passages

    def _wants_vector_index(self, n_rows: int, anew: bool) -> bool:
        if kind_for(self.manifest.kind, n_rows) is IndexKind.EXACT:
            return False
        if anew:
            return True
        index = vector_index(self._passages)
        if index is None:
            return True
        stats = self._passages.index_stats(index.name)
        return bool(stats is None or stats.num_indexed_rows < _KNOWN_SHARE * n_rows)

    def _count_unfinished(self) -> Counter[Origin]:
        """Passages by (file, version) that no record of a whole file speaks for."""
        n_known = sum(row["n_passages"] for row in self._known.values())
        if self._passages.count_rows() == n_known:
            return Counter()
        whole = {(row["file"], row["version"]) for row in self._known.values()}
        counts = count_by_origin(self._passages)
        return Counter({origin: n for origin, n in counts.items() if origin not in whole})

    def _first_free_row(self) -> int:
        import pyarrow.compute as pc

        batches = self._passages.search().select(["row"]).to_batches()
        highest = (pc.max(batch["row"]).as_py() for batch in batches if batch.num_rows)
        return max(highest, default=-1) + 1


class _OldVectors:
    """Vectors of the earlier version of a file, by the title and text that were encoded.

    The rows are read in the order of the new passages, a window of them at a time: a dump of
    millions of rows does not fit into memory, and most rows of a changed file stay where they were.
    """

    def __init__(self, table: Any, state: FileState) -> None:
        condition = f"file = {quoted(state.file)} AND version <> {quoted(state.version)}"
        search = table.search().where(condition).select(["title", "text", "vector"])
        self._rows = iter(search.to_batches(BATCH_SIZE))
        self._window: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._n_ahead = _WINDOW_ROWS  # rows to read

    def of(self, passages: Sequence[Passage]) -> list[Any]:
        """A vector (dim,) for each passage; None for those that are new."""
        self._n_ahead += len(passages)
        while self._n_ahead > 0 and (batch := next(self._rows, None)) is not None:
            self._n_ahead -= batch.num_rows
            vectors = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
            texts = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
            self._window.update(zip(texts, vectors, strict=True))
        while len(self._window) > 2 * _WINDOW_ROWS:
            self._window.popitem(last=False)
        return [self._window.get((passage.title, passage.text)) for passage in passages]


class _Counted:
    """Batches of one commit: it ends once `APPENDED_AT_ONCE` rows have passed."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self.n_rows = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.n_rows += batch.num_rows
            yield batch
            if self.n_rows >= APPENDED_AT_ONCE:
                return


def _drop_old_versions(table: Any) -> None:
    """Leaves the newest version alone, and the files that only older ones need go with them.

    Lance drops by age, and a version that is younger than the least age stays: so it is asked until
    one is left. Only for a clock that was put back does it end before that.
    """
    for _ in range(_MAX_DROPS):
        if len(table.list_versions()) == 1:
            return
        time.sleep(_LEAST_AGE.total_seconds())
        table.optimize(cleanup_older_than=_LEAST_AGE)


def _upsert(table: Any, key: list[str]) -> Any:
    return table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()


def _table(batches: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches(batches)
