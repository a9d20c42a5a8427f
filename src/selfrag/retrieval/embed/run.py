"""A corpus as vectors on disk: shards encoded apart, each resumed where it was stopped; then read.

A shard is a contiguous range of the corpus and one LanceDB table with the columns of an index. It
grows by commits of a fixed number of passages, so its number of rows says where to resume. All
shards become an index without encoding anything. Knows nothing of files or of search.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from selfrag.errors import BadInput, EngineError, StorageError
from selfrag.files import locked
from selfrag.passage import Passage
from selfrag.retrieval.build import build_folder, new_manifest
from selfrag.retrieval.embed.plan import Plan, Progress, Vectors, damaged, storage
from selfrag.retrieval.encoder.base import Encoder, encode_passages
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.table import (
    NO_FILE,
    brief,
    connect,
    open_or_make,
    passages_schema,
    record_batch,
    upgraded,
)
from selfrag.retrieval.writer import IndexWriter

logger = logging.getLogger(__name__)

_AT_ONCE = 512  # passages an encoder gets, to sort by length as it likes

T = TypeVar("T")


def embed_corpus(
    passages: Iterable[Passage],
    encoder: Encoder,
    folder: Path,
    plan: Plan,
    *,
    shards: Sequence[int] | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Embeds `shards` of a corpus, or all, into `folder` in one pass over all its `passages`.

    What is committed already is kept, so the same call goes on after any kind of end. `on_progress`
    hears after every batch how many passages of these shards are done. Raises `BadInput` when
    `folder` holds another plan or another process writes the shard, `StorageError` when the disk
    refuses.
    """
    plan.claim(folder)
    todo, stream, position, n_before = unfinished_shards(folder, plan), iter(passages), 0, 0
    for shard in sorted(range(plan.n_shards) if shards is None else set(shards)):
        rows = plan.rows(shard)
        if shard in todo:
            own = islice(stream, rows.start - position, rows.stop - position)
            tell = _shifted(on_progress, n_before)
            embed_shard(own, encoder, folder, plan, shard, on_progress=tell)
            deque(own, maxlen=0)  # read what another process has embedded meanwhile
            position = rows.stop
        n_before += len(rows)
    if on_progress is not None:
        on_progress(n_before)


def embed_shard(
    passages: Iterable[Passage],
    encoder: Encoder,
    folder: Path,
    plan: Plan,
    shard: int,
    *,
    wait_s: float = 0.0,
    on_progress: Progress | None = None,
) -> None:
    """Embeds one shard from `passages`, which are its own only, in order.

    Waits `wait_s` seconds for another process that writes it, then raises `BadInput`. Raises
    `EngineError` for vectors of a wrong shape and for infinite ones, which float16 overflow gives.
    """

    def encode(batch: list[Passage], n_before: int) -> tuple[list[Passage], Vectors]:
        vectors = np.empty((len(batch), plan.encoder.dim), dtype=np.float32)
        for first in range(0, len(batch), _AT_ONCE):
            some = batch[first : first + _AT_ONCE]
            vectors[first : first + len(some)] = _checked(
                encode_passages(encoder, some), some, plan
            )
            if on_progress is not None:
                on_progress(n_before + first + len(some))
        return batch, vectors

    fill_shard(passages, encode, folder, plan, shard, wait_s=wait_s)


def fill_shard(
    items: Iterable[T],
    to_vectors: Callable[[list[T], int], tuple[Sequence[Passage], Vectors]],
    folder: Path,
    plan: Plan,
    shard: int,
    *,
    wait_s: float = 0.0,
) -> None:
    """Commits one shard, an item a row, from where it stands; for whoever makes the vectors.

    `to_vectors` gets the items of a commit, and how many rows of the shard come before them.
    """
    rows, started = plan.rows(shard), time.monotonic()
    name = plan.table_name(shard)
    locks = folder / ".locks"
    with storage(folder):
        locks.mkdir(exist_ok=True)
    with locked(locks / name, wait_s=wait_s, shown=folder / name):
        with storage(folder):
            table = open_or_make(connect(folder), name, plan.encoder.dim)
        n_done = n_before = _sound_count(folder, plan, shard, table)
        stream = islice(items, n_done, None)
        while n_done < len(rows):
            wanted = min(plan.commit_rows, len(rows) - n_done)
            batch = list(islice(stream, wanted))
            if len(batch) < wanted:
                raise BadInput(
                    f"cannot embed shard {shard} of {plan.n_shards}: the passages ended after "
                    f"{rows.start + n_done + len(batch)}, expected {plan.corpus.n_passages} as "
                    "were counted before; run again when the files no longer change"
                )
            passages, vectors = to_vectors(batch, n_done)
            first_row, files = rows.start + n_done, [NO_FILE] * wanted
            with storage(folder):
                table.add(record_batch(passages, vectors, first_row=first_row, files=files))
            n_done += wanted
    if n_done > n_before:
        seconds = time.monotonic() - started
        logger.info("embedded %s passages of shard %s in %.1f s", n_done - n_before, shard, seconds)


def committed_rows(folder: Path, plan: Plan, shards: Sequence[int]) -> list[int]:
    """How many rows of each of `shards` are safe on disk."""
    database, counts = connect(folder), []
    for name in map(plan.table_name, shards):
        try:
            counts.append(int(database.open_table(name).count_rows()))
        except ValueError:  # no such table, or one killed before its first version
            counts.append(0)
    return counts


def unfinished_shards(folder: Path, plan: Plan) -> list[int]:
    """The shards of a folder that lack rows, in order."""
    counts = committed_rows(folder, plan, range(plan.n_shards))
    return [shard for shard, n_done in enumerate(counts) if n_done < len(plan.rows(shard))]


def _checked(vectors: Vectors, passages: Sequence[Passage], plan: Plan) -> Vectors:
    if vectors.shape != (len(passages), plan.encoder.dim) or not np.isfinite(vectors).all():
        raise EngineError(
            f"cannot embed passage {passages[0].id!r} and {len(passages) - 1} others: found "
            f"vectors of shape {vectors.shape}, or infinite ones, from encoder "
            f"{plan.encoder.name!r}; expected finite ones of {plan.encoder.dim} dims, so use "
            "float32 or another encoder"
        )
    return vectors


def _shifted(on_progress: Progress | None, n_before: int) -> Progress | None:
    return None if on_progress is None else lambda n_done: on_progress(n_before + n_done)


def _sound_count(folder: Path, plan: Plan, shard: int, table: Any) -> int:
    """Rows of a shard; raises `BadInput` when commits of this plan cannot have left so many."""
    rows, n_done = plan.rows(shard), int(table.count_rows())
    is_sound = n_done == len(rows) or (n_done < len(rows) and n_done % plan.commit_rows == 0)
    if not is_sound:
        raise damaged(folder, plan, shard, f"{n_done} of {len(rows)} rows")
    return n_done


def read_shards(folder: Path, *, batch_rows: int = 1024) -> Iterator[Any]:
    """Arrow record batches of all shards in corpus order, of at most `batch_rows` rows.

    They are as `IndexWriter.append` wants them. Raises `BadInput`, at once for unfinished shards,
    while reading for rows that are missing, doubled or damaged.
    """
    plan = Plan.load(folder)
    if unfinished := unfinished_shards(folder, plan):
        shard = unfinished[0]
        raise BadInput(
            f"cannot read the embeddings in {folder}: found {len(unfinished)} of {plan.n_shards} "
            f"shards unfinished, the first being {shard}, expected all of them whole; "
            f"run `selfrag embed` with --shard {shard}/{plan.n_shards} and so on, or without "
            "--shard for all that is left"
        )
    return _in_order(folder, plan, batch_rows)


def index_shards(
    folder: Path,
    path: Path,
    *,
    kind: IndexKind = IndexKind.AUTO,
    attribution: str = "",
    on_progress: Progress | None = None,
) -> Manifest:
    """Makes the shards of a `folder` the index in `path`, encoding nothing.

    Raises as `read_shards` and `build_folder` do. It begins anew each time: writing is quick.
    """
    encoder = _Encoded(Plan.load(folder).encoder)
    manifest = new_manifest(encoder.spec, kind=kind, attribution=attribution)
    batches, faults = read_shards(folder), list[BadInput]()

    def checked() -> Iterator[Any]:
        try:
            yield from batches
        except BadInput as fault:
            faults.append(fault)
            raise

    def fill(writer: IndexWriter) -> None:
        try:
            writer.append(checked())
        except StorageError as error:  # Lance tells of an error in its source as of one of the disk
            raise faults.pop() if faults else error from None

    return build_folder(path, encoder, manifest, fill, on_progress=on_progress, resume=False)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """In place of an encoder where all vectors are there: it need not even be installed."""

    spec: EncoderSpec

    def encode(self, texts: Sequence[str]) -> Vectors:
        raise EngineError(
            f"cannot encode {len(texts)} texts: found vectors of {self.spec.name!r} only, expected "
            "the encoder itself; open it by its name"
        )


def _in_order(folder: Path, plan: Plan, batch_rows: int) -> Iterator[Any]:
    database, position = connect(folder), 0
    columns = passages_schema(plan.encoder.dim).names  # a column that was added later is the last
    for shard in range(plan.n_shards):
        try:
            table = upgraded(database.open_table(plan.table_name(shard)))
            for batch in table.search().to_batches(batch_rows):
                rows = batch["row"].to_numpy()
                if not np.array_equal(rows, np.arange(position, position + len(rows))):
                    raise ValueError(f"rows missing or doubled at {position}")
                position += len(rows)
                yield batch.select(columns)
            if position != plan.rows(shard).stop:
                raise ValueError(f"{position} rows, not {plan.rows(shard).stop}")
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(folder, plan, shard, brief(error)) from error
