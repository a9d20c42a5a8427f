"""BERT encoders with mean pooling on ONNX Runtime, the quickest way to embed passages on a CPU.

The graph is written node by node: an export through torch takes half a minute, and the fused graph
that comes out of it is a fifth slower. Knows nothing of passages or indexes.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.retrieval.encoder.base import (
    loading,
    open_tokenizer,
    recipe_of,
    require_mean_pooling,
    spans_of_tokens,
    unit_rows,
)
from selfrag.retrieval.encoder.bert import Array, Bert, Linear, Norm
from selfrag.retrieval.spec import Precision, Recipe

# Texts of one length go through together until so many tokens: their states stay in the cache.
# With 2048 it is 4% quicker and takes 60 MB more.
_TOKENS_AT_ONCE = 1024
# uint8 times int8 in pairs must stay below 2^15: 2 x 255 x 64 does. With the whole range of int8,
# AVX2 machines without VNNI saturate, silently (onnxruntime's `reduce_range`).
_LARGEST = 64
# Cutting the few largest weights of a column makes the steps for all others finer.
_CLIPS = np.linspace(0.6, 1.0, 9, dtype=np.float32)
_OPSETS = {"": 18, "com.microsoft": 1}
_IR_VERSION = 9  # ONNX Runtime 1.16 and later read it


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
            options.enable_mem_pattern = False  # a plan of the memory for every length met, kept
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            self._session = onnxruntime.InferenceSession(
                bert_graph(model, int8=precision is Precision.INT8),
                options,
                providers=["CPUExecutionProvider"],
            )
        self._words = model.words
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

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Offsets of the tokens of the whole text, in order."""
        return spans_of_tokens(self._tokenizer, text)

    def _means(self, ids: NDArray[np.int64]) -> Any:
        inputs = {"words": self._words[ids], "places": np.arange(ids.shape[1])}
        return self._session.run(None, inputs)[0]


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


def bert_graph(model: Bert, *, int8: bool) -> bytes:
    """The model as ONNX: `words` (n_texts, T, dim) and `places` 0..T-1 to the `mean` of states.

    The rows of `words` are taken from the model's table outside: within, it would be copied four
    times before the first run, and it is most of a small model. All texts of a batch have T tokens;
    nothing is masked. With `int8`, weights are int8 by column and activations uint8 by batch, in
    all products but attention's. To be run without ONNX Runtime's own fusions: their one node for
    `Add` and `LayerNormalization` is much slower.
    """
    graph = _Graph(int8=int8, eps=model.eps)
    places = graph.node("Gather", graph.tensor(model.places), "places")
    hidden = graph.norm(graph.node("Add", "words", places), model.norm)
    for layer in model.layers:
        seen = graph.attention(graph.linear(hidden, layer.qkv), n_heads=model.n_heads)
        hidden = graph.norm(graph.linear(seen, layer.out), layer.attended, skip=hidden)
        wide = graph.gelu(graph.linear(hidden, layer.up))
        hidden = graph.norm(graph.linear(wide, layer.down), layer.transformed, skip=hidden)
    axes = graph.tensor(np.array([1], np.int64))
    graph.node("ReduceMean", hidden, axes, outputs=["mean"], keepdims=0)
    return graph.to_bytes(model.dim)


class _Graph:
    """Nodes and tensors as they are added; every method returns the name of its result."""

    def __init__(self, *, int8: bool, eps: float) -> None:
        import onnx.helper
        import onnx.numpy_helper

        self._onnx = onnx
        self._int8 = int8
        self._eps = eps
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []

    def node(
        self,
        kind: str,
        *inputs: str,
        outputs: list[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        outputs = outputs or [f"n{len(self._nodes)}"]
        self._nodes.append(
            self._onnx.helper.make_node(kind, inputs, outputs, domain=domain, **attributes)
        )
        return outputs[0]

    def tensor(self, values: NDArray[Any]) -> str:
        name = f"t{len(self._tensors)}"
        values = np.ascontiguousarray(values)
        self._tensors.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def linear(self, rows: str, linear: Linear) -> str:
        bias = self.tensor(linear.bias)
        if not self._int8:
            return self.node("Add", self.node("MatMul", rows, self.tensor(linear.weight)), bias)
        weights, scales = quantised(linear.weight)
        zeros = np.zeros_like(scales, np.int8)
        inputs = (rows, self.tensor(weights), self.tensor(scales), self.tensor(zeros), bias)
        return self.node("DynamicQuantizeMatMul", *inputs, domain="com.microsoft")

    def norm(self, rows: str, norm: Norm, *, skip: str = "") -> str:
        rows = self.node("Add", rows, skip) if skip else rows
        weight, bias = self.tensor(norm.weight), self.tensor(norm.bias)
        return self.node("LayerNormalization", rows, weight, bias, epsilon=self._eps)

    def attention(self, qkv: str, *, n_heads: int) -> str:
        number = len(self._nodes)
        parts = [f"{name}{number}" for name in "qkv"]
        self.node("Split", qkv, outputs=parts, axis=-1, num_outputs=3)
        kind = "MultiHeadAttention"
        return self.node(kind, *parts, domain="com.microsoft", num_heads=n_heads)

    def gelu(self, rows: str) -> str:
        # The form with tanh is quicker and off by at most 5e-4, far less than int8 is.
        kind = "FastGelu" if self._int8 else "Gelu"
        return self.node(kind, rows, domain="com.microsoft")

    def to_bytes(self, dim: int) -> bytes:
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        shape = ["n_texts", "n_tokens", dim]
        words = helper.make_tensor_value_info("words", kinds.FLOAT, shape)
        places = helper.make_tensor_value_info("places", kinds.INT64, ["n_tokens"])
        mean = helper.make_tensor_value_info("mean", kinds.FLOAT, ["n_texts", dim])
        graph = helper.make_graph(self._nodes, "bert", [words, places], [mean], self._tensors)
        opsets = [helper.make_opsetid(*each) for each in _OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        content: bytes = model.SerializeToString()
        return content


def quantised(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """`weight` (n_in, n_out) as int8 in -64..64 times a scale (n_out,), each column's error least.

    Of the scales that cut nothing to those that cut 40% of the largest weight, in steps of 5%.
    """
    largest = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny)
    best, scales = np.full_like(largest, np.inf), largest
    for clip in _CLIPS:
        tried = clip * largest / _LARGEST
        error = np.square(_rounded(weight, tried) * tried - weight).sum(axis=0)
        scales = np.where(error < best, tried, scales)
        best = np.minimum(error, best)
    return _rounded(weight, scales).astype(np.int8), scales


def _rounded(weight: Array, scales: Array) -> Array:
    rounded: Array = np.clip(np.rint(weight / scales), -_LARGEST, _LARGEST)
    return rounded
