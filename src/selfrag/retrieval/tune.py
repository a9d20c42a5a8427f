"""Recall against latency of a vector index, measured on its own passages.

Exact search over the same rows is the truth. Nothing of the index is changed.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput
from selfrag.retrieval.encoder.base import Encoder, encode_queries
from selfrag.retrieval.manifest import IndexKind
from selfrag.retrieval.objectstore import Location
from selfrag.retrieval.spec import Metric
from selfrag.retrieval.table import (
    PASSAGES,
    connect,
    create_vector_index,
    kind_for,
    vector_index,
)
from selfrag.retrieval.writer import IndexWriter
from selfrag.text import counted

TOP = 10
PROBES = (8, 16, 32, 64)
REFINES = (1, 5, 10, 20)
_WORDS_A_QUERY = 12
_N_WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """One way to search: share of the true ten found, milliseconds a query, size of the index."""

    kind: IndexKind
    n_probes: int
    refine_factor: int
    recall: float
    p50_ms: float
    p95_ms: float
    index_mb: float
    n_rows: int


def tune_index(
    path: Location,
    encoder: Encoder,
    metric: Metric,
    *,
    kinds: Sequence[IndexKind],
    n_queries: int = 50,
    max_rows: int = 100_000,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> list[Tuned]:
    """Each kind over at most `max_rows` passages of the index in `path`, fastest last.

    Queries are the first words of passages drawn at random. Where the index is larger, a sample of
    it stands for it: recall falls as rows are added, so measure with `max_rows` as large as time
    allows. Raises `BadInput` when there are fewer than `TOP` passages.
    """
    source = connect(path).open_table(PASSAGES)
    n_rows = source.count_rows()
    if n_rows < TOP:
        raise BadInput(
            f"cannot tune the index {path}: it holds {counted(n_rows, 'passage')}, expected at "
            f"least {TOP}; add more"
        )
    rng = np.random.default_rng(seed)
    queries = encode_queries(encoder, _queries(source, n_queries, rng))
    found: list[Tuned] = []
    with tempfile.TemporaryDirectory() as folder:
        table = connect(folder).create_table("sample", _sample(source, max_rows, rng))
        n_sample = table.count_rows()
        exact, times = _search(table, queries, metric, None)
        found.append(
            _tuned(IndexKind.EXACT, (0, 0), (exact, exact), times, mb=0.0, n_rows=n_sample)
        )
        for kind in dict.fromkeys(kind_for(kind, n_sample) for kind in kinds):
            if kind is IndexKind.EXACT:
                continue
            create_vector_index(table, kind, metric, n_sample)
            size = _index_mb(Path(folder), table)
            for setting in [(probes, refine) for probes in PROBES for refine in REFINES]:
                ids, times = _search(table, queries, metric, setting)
                found.append(_tuned(kind, setting, (ids, exact), times, mb=size, n_rows=n_sample))
                if on_progress is not None:
                    on_progress(len(found))
    return found


def fastest(found: Sequence[Tuned], *, recall: float) -> Tuned | None:
    """The quickest way of those that find this share of the true ten; none where none does."""
    enough = [each for each in found if each.recall >= recall]
    return min(enough, key=lambda each: each.p50_ms, default=None)


def apply_way(writer: IndexWriter, way: Tuned) -> None:
    """Writes `way` down as that of the index, and builds the vector index that it needs."""
    before = writer.manifest
    writer.manifest = replace(
        before, kind=way.kind, n_probes=way.n_probes, refine_factor=way.refine_factor
    )
    writer.index(anew=way.kind is not before.kind)


def _queries(source: Any, n: int, rng: np.random.Generator) -> list[str]:
    rows = [int(row) for row in rng.integers(source.count_rows(), size=n)]
    texts = [source.search().select(["text"]).offset(row).limit(1).to_list() for row in rows]
    return [" ".join(found[0]["text"].split()[:_WORDS_A_QUERY]) for found in texts if found]


def _sample(source: Any, max_rows: int, rng: np.random.Generator) -> Any:
    """A reader of ids and vectors of at most `max_rows` rows, drawn evenly."""
    import pyarrow as pa

    share = min(1.0, max_rows / source.count_rows())
    batches = source.search().select(["id", "vector"]).to_batches()

    def drawn() -> Iterator[Any]:
        for batch in batches:
            keep = rng.random(batch.num_rows) < share
            yield batch.filter(pa.array(keep))

    return pa.RecordBatchReader.from_batches(batches.schema, drawn())


def _search(
    table: Any, queries: NDArray[np.float32], metric: Metric, setting: tuple[int, int] | None
) -> tuple[list[set[str]], list[float]]:
    """The ids found for every query and the milliseconds it took; no setting is exact search."""
    ids: list[set[str]] = []
    times: list[float] = []
    for query in [*queries[:_N_WARM_UP], *queries]:
        started = time.perf_counter()
        search = table.search(query, vector_column_name="vector").distance_type(metric.value)
        if setting is None:
            search = search.bypass_vector_index()
        else:
            search = search.nprobes(setting[0]).refine_factor(setting[1])
        rows = search.select(["id", "_distance"]).limit(TOP).to_list()
        times.append(1000 * (time.perf_counter() - started))
        ids.append({row["id"] for row in rows})
    return ids[_N_WARM_UP:], times[_N_WARM_UP:]


def _tuned(
    kind: IndexKind,
    setting: tuple[int, int],
    ids: tuple[list[set[str]], list[set[str]]],
    times: Sequence[float],
    *,
    mb: float,
    n_rows: int,
) -> Tuned:
    found, exact = ids
    shares = [len(a & b) / max(len(b), 1) for a, b in zip(found, exact, strict=True)]
    return Tuned(
        kind=kind,
        n_probes=setting[0],
        refine_factor=setting[1],
        recall=float(np.mean(shares)),
        p50_ms=float(np.median(times)),
        p95_ms=float(np.quantile(times, 0.95)),
        index_mb=mb,
        n_rows=n_rows,
    )


def _index_mb(folder: Path, table: Any) -> float:
    """Size of the newest vector index; those of kinds measured before are still on disk."""
    assert vector_index(table) is not None
    newest = max(
        (folder / "sample.lance" / "_indices").iterdir(), key=lambda each: each.stat().st_mtime
    )
    return sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) / 1e6
