"""How an index grows: time, memory, disk, recall and latency at several sizes, beside flat FAISS.

`python benchmarks/index_scale.py --rows 1000000 5000000 --work DIR --json`. The vectors are made
from those of the demo index (10,033 real MiniLM vectors of Wikipedia leads; `make demo` builds it):
two of them are mixed, noise is added, and a fixed orthonormal map takes them from 384 to 768
components, which keeps every inner product. Every phase runs in a process of its own, so that its
peak memory is its own. Tables stay in --work and are used again. The last line is one JSON object.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.open.indexes import demo_index_dir
from selfrag.retrieval.build import build_folder, new_manifest
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.store import PassageStore
from selfrag.retrieval.table import PASSAGES, connect, passages_schema, written_facts

DIM, CHUNK, N_QUERIES, TOP = 768, 50_000, 200, 10
NOISE = 0.35  # length of the noise beside the mixed vectors of length 1
Vectors = NDArray[np.float32]


class GivenVectors:
    """Queries `q0`, `q1`, ... have vectors computed beforehand."""

    spec = EncoderSpec(name="made MiniLM-like", dim=DIM)

    def __init__(self, vectors: Vectors | None = None) -> None:
        self._vectors = vectors if vectors is not None else np.zeros((0, DIM), dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Rows by the number after the `q`."""
        return self._vectors[[int(text[1:]) for text in texts]]


def base_vectors() -> tuple[Vectors, list[str]]:
    """The real vectors of the demo index, (10,033, 384), and their texts."""
    table = connect(demo_index_dir()).open_table(PASSAGES)
    rows = table.search().select(["text", "vector"]).to_arrow()
    flat = rows["vector"].combine_chunks().flatten().to_numpy()
    return flat.reshape(rows.num_rows, -1), rows["text"].to_pylist()


def made(base: Vectors, n: int, seed: int) -> Vectors:
    """Unit vectors (n, DIM) distributed like `base`."""
    rng = np.random.default_rng(seed)
    one, two = (base[rng.integers(len(base), size=n)] for _ in range(2))
    share = rng.uniform(0.5, 1.0, size=(n, 1)).astype(np.float32)
    noise = rng.standard_normal(one.shape, dtype=np.float32) * (NOISE / np.sqrt(one.shape[1]))
    mixed = share * one + (1 - share) * two + noise
    square = np.random.default_rng(7).standard_normal((DIM, base.shape[1]))
    orthonormal = np.linalg.qr(square)[0].T.astype(np.float32)
    mixed = mixed @ orthonormal
    lengths: Vectors = np.linalg.norm(mixed, axis=1, keepdims=True)
    return np.asarray(mixed / lengths, dtype=np.float32)


def batches(n_rows: int) -> Iterator[Any]:
    """Rows of the passages table, about 0.5 KB of text each."""
    import pyarrow as pa

    base, texts = base_vectors()
    schema = passages_schema(DIM)
    text_column = pa.array([text[:500] for text in texts])
    for start in range(0, n_rows, CHUNK):
        n = min(CHUNK, n_rows - start)
        vectors = made(base, n, seed=1000 + start // CHUNK)
        text = text_column.take(pa.array(np.arange(start, start + n) % len(texts)))
        numbers = pa.array(np.arange(start, start + n))
        empty = pa.array([""] * n)
        columns = dict.fromkeys(("source", "file", "version", "title"), empty)
        columns |= dict.fromkeys(
            ("start", "end", "page", "last_page"), pa.array(np.zeros(n, dtype=np.int64))
        )
        columns |= {"row": numbers, "id": numbers.cast(pa.string()), "text": text}
        facts = [written_facts(str(row), "", "", 0, 0, 0, 0) for row in range(start, start + n)]
        columns |= {
            "facts": pa.array(facts),
            "search_text": text,
            "metadata": pa.array([[]] * n, pa.list_(pa.string())),
        }
        columns["vector"] = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), type=schema.field("vector").type
        )
        yield pa.record_batch({name: columns[name] for name in schema.names}, schema=schema)


def exact_top(n_rows: int, queries: Vectors) -> NDArray[np.int64]:
    """The numbers of the TOP rows of largest inner product for every query, (n_queries, TOP)."""
    base, _ = base_vectors()
    scores = np.full((len(queries), TOP), -np.inf, dtype=np.float32)
    rows = np.zeros((len(queries), TOP), dtype=np.int64)
    for start in range(0, n_rows, CHUNK):
        vectors = made(base, min(CHUNK, n_rows - start), seed=1000 + start // CHUNK)
        all_scores = np.hstack([scores, queries @ vectors.T])
        all_rows = np.hstack(
            [
                rows,
                np.broadcast_to(
                    np.arange(start, start + len(vectors)), (len(queries), len(vectors))
                ),
            ]
        )
        best = np.argpartition(-all_scores, TOP, axis=1)[:, :TOP]
        scores = np.take_along_axis(all_scores, best, axis=1)
        rows = np.take_along_axis(all_rows, best, axis=1)
    return rows


def phase_build(path: Path, n_rows: int) -> dict[str, float]:
    """Ingest and index; the seconds of each."""
    marks = [time.perf_counter()]

    def fill(writer: Any) -> None:
        writer.append(batches(n_rows))
        marks.append(time.perf_counter())

    spec = GivenVectors.spec
    build_folder(path, GivenVectors(), new_manifest(spec, kind=IndexKind.BALANCED), fill)
    marks.append(time.perf_counter())
    return {"ingest_s": marks[1] - marks[0], "index_s": marks[2] - marks[1]}


def phase_truth(path: Path, n_rows: int) -> dict[str, float]:
    """Saves the query vectors and their exact answers beside the table."""
    queries = made(base_vectors()[0], N_QUERIES, seed=1)
    np.savez(path.with_suffix(".truth.npz"), queries=queries, top=exact_top(n_rows, queries))
    return {}


def phase_query(path: Path, n_rows: int, probes: int, refine: int) -> dict[str, float]:
    """Recall@10 and milliseconds of single queries in a fresh process, after 20 to warm up."""
    truth = np.load(path.with_suffix(".truth.npz"))
    encoder = GivenVectors(truth["queries"])
    store = PassageStore.open(path, encoder, options=SearchOptions(mode=SearchMode.DENSE))
    if probes:
        store.manifest = replace(store.manifest, n_probes=probes, refine_factor=refine)
    for number in range(20):
        store.search([f"q{number}"], TOP)
    times, found = [], []
    for number in range(N_QUERIES):
        started = time.perf_counter()
        (hits,) = store.search([f"q{number}"], TOP)
        times.append(1000 * (time.perf_counter() - started))
        found.append({int(hit.passage.id) for hit in hits})
    overlap = [len(each & set(top)) for each, top in zip(found, truth["top"].tolist(), strict=True)]
    return {
        "recall": float(np.mean(overlap)) / TOP,
        "p50_ms": float(np.median(times)),
        "p95_ms": float(np.quantile(times, 0.95)),
    }


def phase_faiss(path: Path, n_rows: int) -> dict[str, float]:
    """The same vectors in a flat inner-product index, as the original keeps them."""
    import faiss

    faiss.omp_set_num_threads(2)
    base, _ = base_vectors()
    index = faiss.IndexFlatIP(DIM)
    for start in range(0, n_rows, CHUNK):
        index.add(made(base, min(CHUNK, n_rows - start), seed=1000 + start // CHUNK))
    truth = np.load(path.with_suffix(".truth.npz"))
    times, overlap = [], []
    for query, top in zip(truth["queries"][:50], truth["top"].tolist()[:50], strict=True):
        started = time.perf_counter()
        _, found = index.search(query[None], TOP)
        times.append(1000 * (time.perf_counter() - started))
        overlap.append(len(set(found[0].tolist()) & set(top)))
    return {"recall": float(np.mean(overlap)) / TOP, "p50_ms": float(np.median(times))}


def in_process(phase: str, path: Path, n_rows: int, probes: int = 0, refine: int = 0) -> Any:
    """Runs one phase in a fresh process; its figures, wall time and peak memory in MB."""
    arguments = [phase, str(path), str(n_rows), str(probes), str(refine)]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--phase", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{phase} ended with {done.returncode}: {done.stderr[-2000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    figures["wall_s"] = time.perf_counter() - started
    print(phase, n_rows, probes, refine, figures, file=sys.stderr, flush=True)
    return figures


def run_phase(phase: str, path: str, n_rows: str, probes: str, refine: str) -> None:
    """Entry of the child process."""
    rows = int(n_rows)
    if phase == "query":
        figures = phase_query(Path(path), rows, int(probes), int(refine))
    else:
        figures = {"build": phase_build, "truth": phase_truth, "faiss": phase_faiss}[phase](
            Path(path), rows
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**figures, "peak_mb": peak}))


def disk_mb(path: Path) -> float:
    """Size of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def is_built(path: Path) -> bool:
    """Whether an earlier run left the index."""
    return path.is_dir() and Manifest.load(path).kind is IndexKind.BALANCED


def measure(
    sizes: Sequence[int], work: Path, settings: Sequence[str], faiss_rows: int
) -> dict[str, float]:
    """All figures, named by size in thousands of rows."""
    work.mkdir(parents=True, exist_ok=True)
    result: dict[str, float] = {}
    for n_rows in sizes:
        path, name = work / f"rows-{n_rows}", f"{n_rows // 1000}k"
        if not is_built(path):
            built = in_process("build", path, n_rows)
            (work / f"build-{n_rows}.json").write_text(json.dumps(built))
        built = json.loads((work / f"build-{n_rows}.json").read_text())
        if not path.with_suffix(".truth.npz").is_file():
            in_process("truth", path, n_rows)
        result[f"ingest_s_{name}"] = built["ingest_s"]
        result[f"index_s_{name}"] = built["index_s"]
        result[f"build_peak_mb_{name}"] = built["peak_mb"]
        result[f"disk_mb_{name}"] = disk_mb(path)
        for setting in ("0x0", *settings):
            probes, refine = map(int, setting.split("x"))
            found = in_process("query", path, n_rows, probes, refine)
            label = f"{name}_{setting}" if probes else name
            for figure in ("recall", "p50_ms", "p95_ms", "peak_mb"):
                result[f"{figure}_{label}"] = found[figure]
        if n_rows <= faiss_rows:
            flat = in_process("faiss", path, n_rows)
            for figure in ("recall", "p50_ms", "peak_mb"):
                result[f"faiss_{figure}_{name}"] = flat[figure]
    return {name: round(value, 3) for name, value in result.items()}


def main() -> None:
    """Parses the arguments and prints the figures."""
    if sys.argv[1:2] == ["--phase"]:
        run_phase(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 1_000_000, 5_000_000])
    parser.add_argument("--work", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--settings", nargs="*", default=[], help="probes x refine, such as 64x20")
    parser.add_argument("--faiss-rows", type=int, default=1_000_000, help="flat FAISS up to here")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    result = measure(options.rows, options.work, options.settings, options.faiss_rows)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>24}  {value}")


if __name__ == "__main__":
    main()
