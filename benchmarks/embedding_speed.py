"""Passages a second: our encoder against plain sentence-transformers, in one run on one machine.

    python benchmarks/embedding_speed.py --passages FILE [--precision int8] [--threads 1] [--json]

Both embed the same texts with the same number of threads, in turns, so that what else the machine
does falls on both. The reference is `SentenceTransformer.encode` in fp32 with its defaults. Seconds
are those of the process's CPU time, divided by the threads; the cosine is between both results.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfrag.ingest.chunking import chunk_document
from selfrag.ingest.readers import read_documents
from selfrag.retrieval.encoder.base import Encoder
from selfrag.retrieval.encoder.named import open_encoder, usual_precision
from selfrag.retrieval.spec import DEFAULT_ENCODER, Precision

Vectors = NDArray[np.float32]
N_BLOCKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one run found; `ratio` is ours to the reference."""

    encoder: str
    precision: str
    n_passages: int
    n_threads: int
    mean_words: float
    passages_per_s: float
    passages_per_s_reference: float
    ratio: float
    ratio_wall: float
    cosine_mean: float
    cosine_p01: float


def main() -> None:
    """Prints one JSON object, or a line in words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=Path, required=True, help=".jsonl, a text a line")
    parser.add_argument("--n", type=int, default=1500, help="how many of them")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--precision", type=Precision, help="else the usual one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found = measure(
        read_texts(options.passages, options.n),
        name=options.encoder,
        precision=options.precision or usual_precision(options.encoder, device="cpu"),
        n_threads=options.threads,
    )
    if options.json:
        print(json.dumps(asdict(found)))
    else:
        print(
            f"{found.passages_per_s:.1f} passages/s against {found.passages_per_s_reference:.1f}, "
            f"{found.ratio:.2f} x; cosine {found.cosine_mean:.4f}, 1% below {found.cosine_p01:.4f}"
        )


def read_texts(path: Path, n_texts: int) -> list[str]:
    """The first passages of a file, as "title. text"."""
    passages = (
        passage for document in read_documents([path]) for passage in chunk_document(document)
    )
    texts = [f"{each.title}. {each.text}" for each in islice(passages, n_texts)]
    if not texts:
        sys.exit(f"no passages in {path}")
    return texts


def measure(texts: Sequence[str], *, name: str, precision: Precision, n_threads: int) -> Speed:
    """Both encoders over all texts, a block by one and then by the other."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(n_threads)
    ours = _ours(name, precision, n_threads)
    folder = _folder(name)
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    reference.max_seq_length = ours.spec.max_tokens  # the same limit for both
    runs: list[Callable[[Sequence[str]], Vectors]] = [
        ours.encode,
        lambda block: np.asarray(reference.encode(list(block), show_progress_bar=False)),
    ]
    cpu, wall = np.zeros(2), np.zeros(2)
    cosines: list[Vectors] = []
    for run in runs:
        run(texts[:8])  # what is allocated and compiled once is not counted
    for number, block in enumerate(np.array_split(np.array(texts, dtype=object), N_BLOCKS)):
        results: dict[int, Vectors] = {}
        for which in (0, 1) if number % 2 else (1, 0):
            cpu_before, wall_before = time.process_time(), time.perf_counter()
            results[which] = runs[which](list(block))
            cpu[which] += time.process_time() - cpu_before
            wall[which] += time.perf_counter() - wall_before
        cosines.append(_cosines(results[0], results[1]))
    speeds, all_cosines = len(texts) * n_threads / cpu, np.concatenate(cosines)
    return Speed(
        encoder=name,
        precision=precision.value,
        n_passages=len(texts),
        n_threads=n_threads,
        mean_words=round(float(np.mean([len(text.split()) for text in texts])), 1),
        passages_per_s=round(float(speeds[0]), 2),
        passages_per_s_reference=round(float(speeds[1]), 2),
        ratio=round(float(speeds[0] / speeds[1]), 3),
        ratio_wall=round(float(wall[1] / wall[0]), 3),
        cosine_mean=round(float(all_cosines.mean()), 5),
        cosine_p01=round(float(np.quantile(all_cosines, 0.01)), 5),
    )


def _ours(name: str, precision: Precision, n_threads: int) -> Encoder:
    if precision is not Precision.INT8:
        return open_encoder(name, precision=precision, device="cpu")
    from selfrag.retrieval.encoder.onnx import OnnxEncoder

    return OnnxEncoder(_folder(name), name=name, n_threads=n_threads)


def _folder(name: str) -> Path:
    from selfrag import assets

    return assets.fetch(assets.named("encoder")) if name == DEFAULT_ENCODER else Path(name)


def _cosines(found: Vectors, reference: Vectors) -> Vectors:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    cosines: Vectors = (found * reference).sum(axis=1) / lengths
    return cosines


if __name__ == "__main__":
    main()
