"""The passage index: one LanceDB table with passages, vectors and full text, and its manifest.

The only module that imports LanceDB, and late: it costs about 3 s. Knows nothing of files or of
language models.
"""

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput, IndexMismatch, SelfRAGError, StorageError
from selfrag.passage import Hit, Passage
from selfrag.retrieval.encoder import Encoder, encode_passages, encode_queries
from selfrag.retrieval.fusion import reciprocal_rank_fusion
from selfrag.retrieval.lance import import_lancedb
from selfrag.retrieval.manifest import MANIFEST_NAME, Manifest, not_usable

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

# Brute force is exact and takes 199 ms a query over 200,000 x 384 rows; IVF_RQ takes 5-10 ms at
# recall@10 0.98 to 0.996 with these probes and this refinement (STACK 1.2, 1.3).
VECTOR_INDEX_ROWS = 20_000
_PROBES, _REFINE = 32, 10

_TABLE = "passages"
_COLUMNS = ["row", "id", "title", "text", "source", "start", "end"]
_BATCHES_PER_COMMIT = 32  # every commit is a file: 512 x 32 rows of 384 floats are 25 MB
_INDEX_CACHE_BYTES, _METADATA_CACHE_BYTES = 512 << 20, 128 << 20


class SearchMode(StrEnum):
    """What ranks the passages: both kinds of search fused, or one alone."""

    HYBRID = "hybrid"
    DENSE = "dense"
    BM25 = "bm25"


@dataclass(frozen=True, slots=True)
class _Scored:
    score: float
    row: int
    passage: Passage


class PassageStore:
    """Passages on disk, found by meaning (inner product), by words (BM25), or by both fused.

    Made with `build`, opened with `open`. An index never changes after it was built. LanceDB runs
    threads of its own: do not fork a process that has opened one (lancedb#1393).
    """

    def __init__(
        self, path: Path, table: Any, manifest: Manifest, encoder: Encoder, mode: SearchMode
    ) -> None:
        self._path = path
        self._table = table
        self._encoder = encoder
        self._mode = mode
        self.manifest = manifest

    @staticmethod
    def build(
        passages: Iterable[Passage],
        encoder: Encoder,
        path: Path,
        *,
        attribution: str = "",
        batch_size: int = 512,
        on_progress: Callable[[int], None] | None = None,
    ) -> Manifest:
        """Writes an index of `passages` into the folder `path` and returns its manifest.

        What is encoded is `title. text`, or the text alone where there is no title. An index that
        is already at `path` is replaced once the new one is complete; on any failure it stays, and
        nothing half-written is left. `on_progress` is called after every batch with the number of
        passages done. Raises `BadInput` when there are no passages or `path` holds something else,
        `StorageError` when the disk refuses.
        """
        started = time.monotonic()
        path = path.resolve()
        _refuse_to_overwrite(path)
        with _storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            workspace = tempfile.TemporaryDirectory(
                prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True
            )
        with workspace as folder:
            new = Path(folder) / "new"
            writer = _Writer(new, path, encoder)
            rest = iter(passages)
            while batch := list(islice(rest, batch_size)):
                writer.add(batch)
                if on_progress is not None:
                    on_progress(writer.n_passages)
            manifest = writer.finish(attribution)
            with _storage(path):
                manifest.save(new)
                _put_in_place(new, path, aside=Path(folder) / "old")
        seconds = time.monotonic() - started
        logger.info("indexed %s passages in %.1f s", manifest.n_passages, seconds)
        return manifest

    @classmethod
    def open(
        cls, path: Path, encoder: Encoder, *, mode: SearchMode = SearchMode.HYBRID
    ) -> "PassageStore":
        """The index in folder `path`, to be searched with `encoder`.

        Raises `IndexNotUsable` when it is absent, damaged or empty, `IndexMismatch` when it was
        built with another encoder.
        """
        manifest = Manifest.load(path)
        if manifest.format_version != FORMAT_VERSION:
            raise not_usable(path, f"index format {manifest.format_version}, not {FORMAT_VERSION}")
        if (manifest.encoder_name, manifest.encoder_dim) != (encoder.spec.name, encoder.spec.dim):
            raise IndexMismatch(
                f"cannot open the index {path}: built with encoder {manifest.encoder_name!r} "
                f"({manifest.encoder_dim} dims), but the query encoder is {encoder.spec.name!r} "
                f"({encoder.spec.dim} dims); rebuild with `selfrag index build` or use the encoder "
                "it was built with"
            )
        return cls(path, _open_table(path, manifest), manifest, encoder, mode)

    def search(
        self, queries: Sequence[str], top_k: int, *, mode: SearchMode | None = None
    ) -> list[list[Hit]]:
        """For every query at most `top_k` hits, best first, ranks from 1; ties in corpus order.

        Each kind of search proposes max(4 `top_k`, 20) passages. HYBRID scores are the reciprocal
        rank fusion of both proposals, DENSE scores are cosines, BM25 scores BM25. A query without
        a content word has no BM25 hits, so in HYBRID only dense ones. Raises `BadInput` when
        `top_k` is negative, `IndexNotUsable` when the files turn out to be damaged.
        """
        if top_k < 0:
            raise BadInput(f"cannot search: top_k is {top_k}, expected 0 or more; set it higher")
        mode = mode or self._mode
        n_found = max(4 * top_k, 20)
        queries = [query.encode("utf-8", "replace").decode() for query in queries]
        rankings: list[list[list[_Scored]]] = [[] for _ in queries]
        if mode is not SearchMode.BM25:
            vectors = encode_queries(self._encoder, queries)
            for ranking, vector in zip(rankings, vectors, strict=True):
                ranking.append(self._by_meaning(vector, n_found))
        if mode is not SearchMode.DENSE:
            for ranking, query in zip(rankings, queries, strict=True):
                ranking.append(self._by_words(query, n_found))
        fuse = _fused if mode is SearchMode.HYBRID else _only
        return [_hits(fuse(ranking)[:top_k]) for ranking in rankings]

    def _by_meaning(self, vector: NDArray[np.float32], n_found: int) -> list[_Scored]:
        search = self._table.search(vector, vector_column_name="vector").distance_type("dot")
        search = search.nprobes(_PROBES).refine_factor(_REFINE)
        rows = self._rows(search, "_distance", n_found)
        # Lance's dot distance is 1 - inner product.
        return _in_order(_Scored(1.0 - row["_distance"], row["row"], _passage(row)) for row in rows)

    def _by_words(self, query: str, n_found: int) -> list[_Scored]:
        from lancedb.query import MatchQuery

        # MatchQuery and not a query string: the quotes and brackets of a question are no operators.
        search = self._table.search(MatchQuery(query, "search_text"))
        rows = self._rows(search, "_score", n_found)
        return _in_order(_Scored(row["_score"], row["row"], _passage(row)) for row in rows)

    def _rows(self, search: Any, score: str, n_found: int) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = search.select([*_COLUMNS, score]).limit(n_found).to_list()
        except (OSError, RuntimeError, ValueError) as error:
            raise not_usable(self._path, f"damaged files ({_brief(error)})") from error
        return rows


def _in_order(found: Iterable[_Scored]) -> list[_Scored]:
    return sorted(found, key=lambda scored: (-scored.score, scored.row))


def _only(rankings: Sequence[list[_Scored]]) -> list[_Scored]:
    return rankings[0]


def _fused(rankings: Sequence[list[_Scored]]) -> list[_Scored]:
    passages = {found.row: found.passage for ranking in rankings for found in ranking}
    # Keys are rows, and equal sums come in key order: that is corpus order.
    fused = reciprocal_rank_fusion([[found.row for found in ranking] for ranking in rankings])
    return [_Scored(score, row, passages[row]) for row, score in fused]


def _hits(ranking: Sequence[_Scored]) -> list[Hit]:
    return [
        Hit(passage=found.passage, score=found.score, rank=rank)
        for rank, found in enumerate(ranking, start=1)
    ]


def _passage(row: dict[str, Any]) -> Passage:
    return Passage(**{name: row[name] for name in _COLUMNS if name != "row"})


class _Writer:
    """Fills the new folder with a table; `path`, where it will go, is only named in errors."""

    def __init__(self, folder: Path, path: Path, encoder: Encoder) -> None:
        self._path = path
        self._encoder = encoder
        self._digest = hashlib.sha256()
        self._pending: list[Any] = []
        self.n_passages = 0
        with _storage(path):
            folder.mkdir()
            self._table = _connect(folder).create_table(_TABLE, schema=_schema(encoder.spec.dim))

    def add(self, passages: Sequence[Passage]) -> None:
        """Encodes one batch and appends it, in the order given."""
        for passage in passages:
            self._digest.update(f"{passage.id}\x1f{passage.text}\x1e".encode())
        vectors = encode_passages(self._encoder, passages)
        self._pending.append(_record_batch(passages, vectors, first_row=self.n_passages))
        self.n_passages += len(passages)
        if len(self._pending) == _BATCHES_PER_COMMIT:
            self._commit()

    def finish(self, attribution: str) -> Manifest:
        """Writes what is left and the search indexes; the manifest is returned, not yet written."""
        if not self.n_passages:
            raise BadInput(
                f"cannot build the index {self._path}: found no passages, expected at least one; "
                "name documents that contain text"
            )
        self._commit()
        with _storage(self._path):
            _create_indexes(self._table, self.n_passages)
        return Manifest(
            format_version=FORMAT_VERSION,
            encoder_name=self._encoder.spec.name,
            encoder_dim=self._encoder.spec.dim,
            n_passages=self.n_passages,
            passages_sha256=self._digest.hexdigest(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            selfrag_version=version("selfrag"),
            attribution=attribution,
        )

    def _commit(self) -> None:
        import pyarrow as pa

        if self._pending:
            with _storage(self._path):
                self._table.add(pa.Table.from_batches(self._pending))
            self._pending = []


def _schema(dim: int) -> Any:
    import pyarrow as pa

    strings = [(name, pa.string()) for name in ("id", "title", "text", "source", "search_text")]
    numbers = [(name, pa.int64()) for name in ("row", "start", "end")]
    return pa.schema([*strings, *numbers, ("vector", pa.list_(pa.float32(), dim))])


def _record_batch(
    passages: Sequence[Passage], vectors: NDArray[np.float32], *, first_row: int
) -> Any:
    import pyarrow as pa

    schema = _schema(vectors.shape[1])
    columns: dict[str, Any] = {
        name: [getattr(passage, name) for passage in passages]
        for name in ("id", "title", "text", "source", "start", "end")
    }
    columns["row"] = range(first_row, first_row + len(passages))
    columns["search_text"] = [f"{passage.title} {passage.text}" for passage in passages]
    columns["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel()), type=schema.field("vector").type
    )
    return pa.record_batch({name: columns[name] for name in schema.names}, schema=schema)


def _create_indexes(table: Any, n_passages: int) -> None:
    from lancedb.index import FTS, IvfRq

    table.create_index("search_text", config=FTS(stem=True, remove_stop_words=True))
    if n_passages >= VECTOR_INDEX_ROWS:
        table.create_index("vector", config=IvfRq(distance_type="dot"))


def _refuse_to_overwrite(path: Path) -> None:
    is_index = (path / MANIFEST_NAME).is_file() and (path / f"{_TABLE}.lance").is_dir()
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_index and not is_free:
        raise BadInput(
            f"cannot build an index in {path}: found something else there, expected no folder or "
            "an index to replace; name another folder"
        )


def _put_in_place(new: Path, path: Path, *, aside: Path) -> None:
    """Renames `new` to `path`; an old index goes to `aside`, and comes back should that fail."""
    if path.exists():
        path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        if aside.exists():
            aside.rename(path)
        raise


def _open_table(path: Path, manifest: Manifest) -> Any:
    try:
        table = _connect(path).open_table(_TABLE)
        n_rows = table.count_rows()
        # Counting reads no data file; taking a row finds one that is missing or cut short.
        table.search().select(_COLUMNS).limit(1).to_list()
        n_full_text = sum("search_text" in index.columns for index in table.list_indices())
    except (OSError, RuntimeError, ValueError) as error:
        raise not_usable(path, f"damaged files ({_brief(error)})") from error
    if n_rows != manifest.n_passages or not n_rows:
        raise not_usable(path, f"{n_rows} passages where its manifest says {manifest.n_passages}")
    if not n_full_text:
        raise not_usable(path, "no full-text index")
    return table


def _connect(folder: Path) -> Any:
    try:
        lancedb = import_lancedb()
    except ImportError as error:
        raise SelfRAGError(
            f"cannot use the index {folder}: found no usable package lancedb ({error}), expected "
            'it installed; run pip install "selfrag[retrieval]"'
        ) from error
    session = lancedb.Session(
        index_cache_size_bytes=_INDEX_CACHE_BYTES, metadata_cache_size_bytes=_METADATA_CACHE_BYTES
    )
    # An index never changes after it was built, so a reader need not look for newer versions.
    return lancedb.connect(folder, read_consistency_interval=None, session=session)


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turns what the disk refuses, to Python or to LanceDB, into one sentence of ours."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"cannot write the index {path}: found {_brief(error)!r}, expected a folder with "
            "enough free space; make room or name another folder"
        ) from error


def _brief(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
