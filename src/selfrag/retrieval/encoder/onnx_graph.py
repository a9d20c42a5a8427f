"""A BERT encoder with mean pooling as an ONNX graph for ONNX Runtime, in fp32 or int8.

Written node by node: an export through torch takes half a minute, and the fused graph that comes
out of it is a fifth slower. Knows nothing of texts or search.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.retrieval.encoder.bert import Array, Bert, Linear, Norm

# uint8 times int8 in pairs must stay below 2^15: 2 x 255 x 64 does. With the whole range of int8,
# AVX2 machines without VNNI saturate, silently (onnxruntime's `reduce_range`).
_LARGEST = 64
# Cutting the few largest weights of a column makes the steps for all others finer.
_CLIPS = np.linspace(0.6, 1.0, 9, dtype=np.float32)
_OPSETS = {"": 18, "com.microsoft": 1}
_IR_VERSION = 9  # ONNX Runtime 1.16 and later read it


def bert_graph(model: Bert, *, int8: bool) -> bytes:
    """The model as ONNX: `ids` (n_texts, T) and `places` 0..T-1, int64, to the `mean` of states.

    All texts of a batch have T tokens; nothing is masked. With `int8`, weights are int8 by column
    and activations uint8 by batch, in all products but attention's. To be run without ONNX
    Runtime's own fusions: their one node for `Add` and `LayerNormalization` is much slower.
    """
    graph = _Graph(int8=int8, eps=model.eps)
    words = graph.node("Gather", graph.tensor(model.words), "ids")
    places = graph.node("Gather", graph.tensor(model.places), "places")
    hidden = graph.norm(graph.node("Add", words, places), model.norm)
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
        ids = helper.make_tensor_value_info("ids", kinds.INT64, ["n_texts", "n_tokens"])
        places = helper.make_tensor_value_info("places", kinds.INT64, ["n_tokens"])
        mean = helper.make_tensor_value_info("mean", kinds.FLOAT, ["n_texts", dim])
        graph = helper.make_graph(self._nodes, "bert", [ids, places], [mean], self._tensors)
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
