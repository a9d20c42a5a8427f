"""Whether an index is whole: every row read, files and search indexes compared with the rows.

Reads all vectors once, a batch at a time. Changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import IndexNotUsable
from selfrag.passage import Passage
from selfrag.progress import SILENT, Progress
from selfrag.retrieval.encoder.base import Encoder, encode_passages
from selfrag.retrieval.manifest import Manifest
from selfrag.retrieval.objectstore import Location
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.table import (
    FACTS,
    brief,
    connect,
    count_by_origin,
    open_tables,
    passage_of,
    quoted,
    word_search,
    written_facts,
)
from selfrag.text import counted

_BATCH_ROWS = 4096
_LENGTH_TOLERANCE = 1e-2  # of a vector that should have length 1; int8 models are that coarse
_SAMPLE = 16
_LEAST_COSINE = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; `remedy` says what to do where it is not `ok`."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


@dataclass(slots=True)
class _Rows:
    """What one pass over all rows found."""

    n: int = 0
    n_repeated: int = 0
    n_empty: int = 0
    n_bad_vectors: int = 0


def verify_index(
    path: Location, *, encoder: Encoder | None = None, progress: Progress = SILENT
) -> list[Check]:
    """What is right and what is wrong with the index in `path`.

    With an `encoder` some passages are encoded again and compared with their stored vectors.
    Damage is a check that is not ok, never an exception.
    """
    try:
        manifest = Manifest.load(path)
        passages, files = open_tables(path, connect(path))
    except IndexNotUsable as error:
        return [Check(name="index", ok=False, found=str(error), remedy="build it anew")]
    checks = [Check(name="index", ok=True, found=f"format {manifest.format_version}")]
    try:
        checks += _row_checks(passages, manifest.encoder, progress)
        progress.progress("comparing files and search indexes", 0, 0)
        checks += _file_checks(passages, files)
        checks += _search_checks(passages)
        if encoder is not None:
            checks.append(_vector_check(passages, encoder))
    except (OSError, RuntimeError, ValueError) as error:
        found = f"damaged files ({brief(error)})"
        checks.append(Check(name="rows", ok=False, found=found, remedy="build the index anew"))
    return checks


def _row_checks(passages: Any, spec: EncoderSpec, progress: Progress) -> Iterator[Check]:
    rows, n_rows = _Rows(), int(passages.count_rows())
    seen: list[NDArray[np.int64]] = []
    for batch in passages.search().select(["file", "id", "text", "vector"]).to_batches(_BATCH_ROWS):
        names = zip(batch["file"].to_pylist(), batch["id"].to_pylist(), strict=True)
        seen.append(np.fromiter((hash(each) for each in names), dtype=np.int64))
        rows.n += batch.num_rows
        rows.n_empty += sum(not (text or "").strip() for text in batch["text"].to_pylist())
        flat = batch["vector"].flatten().to_numpy(zero_copy_only=False)
        rows.n_bad_vectors += _n_bad(flat.reshape(batch.num_rows, -1), spec)
        progress.progress("rows read", rows.n, n_rows)
    rows.n_repeated = rows.n - len(np.unique(np.concatenate(seen)))
    for name, n_wrong, wrong, remedy in (
        ("ids", rows.n_repeated, "are there twice", "delete them by id and add them again"),
        ("texts", rows.n_empty, "are empty", "delete them"),
        ("vectors", rows.n_bad_vectors, "cannot come from the encoder", "build the index anew"),
    ):
        found = f"{n_wrong} of {rows.n} {wrong}" if n_wrong else f"{rows.n} in order"
        yield Check(name=name, ok=not n_wrong, found=found, remedy=remedy if n_wrong else "")


def _n_bad(vectors: NDArray[np.float32], spec: EncoderSpec) -> int:
    is_bad = ~np.isfinite(vectors).all(axis=1)
    if spec.normalised:
        lengths = np.linalg.norm(vectors, axis=1)
        # An empty text may have the vector 0.
        is_bad |= (np.abs(lengths - 1) > _LENGTH_TOLERANCE) & (lengths > 0)
    return int(is_bad.sum())


def _file_checks(passages: Any, files: Any) -> Iterator[Check]:
    counts = count_by_origin(passages)
    whole = {
        (row["file"], row["version"]): row["n_passages"] for row in files.to_arrow().to_pylist()
    }
    unfinished = sorted({file for file, version in counts if (file, version) not in whole})
    yield Check(
        name="files",
        ok=not unfinished,
        found=f"of {counted(len(unfinished), 'file')} only a part, such as {unfinished[0]}"
        if unfinished
        else f"{len(whole)} whole",
        remedy="run the interrupted `selfrag index` command again" if unfinished else "",
    )
    short = sorted(key[0] for key, n in whole.items() if counts[key] < n)
    over = sorted(key[0] for key, n in whole.items() if counts[key] > n)
    yield Check(
        name="passages of files",
        ok=not over,
        found=f"more than were read from {over[0]}" if over else _as_read(short),
        remedy="build the index anew" if over else "",
    )


def _as_read(short: list[str]) -> str:
    return (
        f"as read, but for {counted(len(short), 'file')} with deleted ones" if short else "as read"
    )


def _search_checks(passages: Any) -> Iterator[Check]:
    for index in passages.list_indices():
        stats = passages.index_stats(index.name)
        behind = stats.num_unindexed_rows if stats else 0
        found = f"{index.index_type}, {counted(stats.num_indexed_rows if stats else 0, 'passage')}"
        later = f", {behind} more are compared one by one" if behind else ""
        yield Check(name=f"search by {index.columns[0]}", ok=True, found=found + later)
    sample = _sample(passages)
    odd = [row["id"] for row in sample if passage_of(row) != _by_columns(row)]
    yield Check(
        name="facts",
        ok=not odd,
        found=f"as their columns say: {len(sample) - len(odd)} of {len(sample)}",
        remedy="build the index anew" if odd else "",
    )
    lost = []
    for row in sample:
        words = " ".join(row["search_text"].split()[:8])
        search = word_search(passages, words)
        condition = f"id = {quoted(row['id'])}"
        hits = search.where(condition, prefilter=True).select(["id", "_score"]).limit(1).to_list()
        alike = passages.search().where(condition).select(["id"]).limit(1).to_list()
        if alike and not hits and any(character.isalnum() for character in words):
            lost.append(row["id"])
    yield Check(
        name="words",
        ok=len(lost) <= len(sample) // 2,  # a passage may begin with stop words alone
        found=f"found by their words: {len(sample) - len(lost)} of {len(sample)}",
        remedy="run `selfrag index compact`" if len(lost) > len(sample) // 2 else "",
    )


def _by_columns(row: dict[str, Any]) -> Passage:
    row = {"last_page": row["page"], **row}  # of an index that is older than the column
    facts = written_facts(**{name: row[name] for name in FACTS})
    return passage_of({**row, "facts": facts})


def _vector_check(passages: Any, encoder: Encoder) -> Check:
    sample = _sample(passages)
    stored = np.array([row["vector"] for row in sample], dtype=np.float32)
    again = encode_passages(encoder, [passage_of(row) for row in sample])
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(again, axis=1)
    worst = float(np.min((stored * again).sum(axis=1) / np.maximum(lengths, 1e-9)))
    is_same = worst >= _LEAST_COSINE
    return Check(
        name="encoder",
        ok=is_same,
        found=f"cosine {worst:.4f} or more between {len(sample)} vectors and their texts",
        remedy="" if is_same else "build the index anew with this encoder",
    )


def _sample(passages: Any) -> list[dict[str, Any]]:
    n_rows = passages.count_rows()
    step = max(1, n_rows // _SAMPLE)
    rows: list[dict[str, Any]] = []
    for start in range(0, n_rows, step)[:_SAMPLE]:
        rows += passages.search().offset(start).limit(1).to_list()
    return rows
