"""Embedding shards read back in corpus order, and made an index without encoding anything.

Knows nothing of how they were made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.errors import BadInput, EngineError, StorageError
from selfrag.retrieval.build import build_folder, new_manifest
from selfrag.retrieval.embed.run import Plan, Progress, Vectors, damaged, unfinished_shards
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.table import brief, connect
from selfrag.retrieval.writer import IndexWriter


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
    for shard in range(plan.n_shards):
        try:
            table = database.open_table(plan.table_name(shard))
            for batch in table.search().to_batches(batch_rows):
                rows = batch["row"].to_numpy()
                if not np.array_equal(rows, np.arange(position, position + len(rows))):
                    raise ValueError(f"rows missing or doubled at {position}")
                position += len(rows)
                yield batch
            if position != plan.rows(shard).stop:
                raise ValueError(f"{position} rows, not {plan.rows(shard).stop}")
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(folder, plan, shard, brief(error)) from error
