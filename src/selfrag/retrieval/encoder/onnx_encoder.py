"""BERT encoders with mean pooling on ONNX Runtime, the quickest way to embed passages on a CPU.

Knows nothing of passages or indexes.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.retrieval.encoder.base import loading, open_tokenizer, unit_rows
from selfrag.retrieval.encoder.bert import Bert
from selfrag.retrieval.encoder.folder import recipe_of, require_mean_pooling
from selfrag.retrieval.encoder.onnx_graph import bert_graph
from selfrag.retrieval.spec import Precision, Recipe

# Texts of one length go through together until so many tokens: their states stay in the cache.
_TOKENS_AT_ONCE = 2048


class OnnxEncoder:
    """A mean-pooled BERT folder in fp32 or int8.

    Only texts of the same number of tokens share a batch, so none is padded or masked, and batches
    run on `n_threads` threads, or one for each core.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        precision: Precision = Precision.INT8,
        recipe: Recipe | None = None,
        max_tokens: int | None = None,
        n_threads: int = 0,
    ) -> None:
        """Loads and converts the model. Raises `AssetError` when `path` holds no such one."""
        with loading(name, path):
            import onnxruntime

            require_mean_pooling(path)
            recipe = recipe or recipe_of(path)
            model = Bert(path)
            limit = min(max_tokens or recipe.max_tokens, model.max_tokens)
            self._tokenizer = open_tokenizer(path, max_tokens=limit)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            self._session = onnxruntime.InferenceSession(
                bert_graph(model, int8=precision is Precision.INT8),
                options,
                providers=["CPUExecutionProvider"],
            )
        self._n_threads = n_threads or _n_cores()
        self.spec = recipe.spec(name, dim=model.dim, max_tokens=limit, precision=precision)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, dim) float32, in order; no text gives (0, dim)."""
        vectors = np.zeros((len(texts), self.spec.dim), dtype=np.float32)
        token_ids = [each.ids for each in self._tokenizer.encode_batch(list(texts))]
        batches = list(_batches([len(ids) for ids in token_ids]))
        inputs = [np.array([token_ids[row] for row in rows]) for rows in batches]
        with ThreadPoolExecutor(self._n_threads) as pool:
            for rows, means in zip(batches, pool.map(self._means, inputs), strict=True):
                vectors[rows] = means
        return unit_rows(vectors) if self.spec.normalised else vectors

    def _means(self, ids: NDArray[np.int64]) -> Any:
        return self._session.run(None, {"ids": ids, "places": np.arange(ids.shape[1])})[0]


def _n_cores() -> int:
    """Threads that the numeric libraries are told to use, as Ray tells its workers; else cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of texts of one length, the longest first, so that no long one ends the work alone."""
    rows_by_length: defaultdict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths):
        rows_by_length[length].append(row)
    for length in sorted(rows_by_length, reverse=True):
        rows, size = rows_by_length[length], max(1, _TOKENS_AT_ONCE // length)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]
