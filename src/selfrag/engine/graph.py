"""A Llama forward pass as an OpenVINO graph around paged attention, built op by op.

It ends in the chosen id, its log-probability and those of the watched ids, so nothing of the
vocabulary leaves it. A graph with this operation cannot be saved, so it is built at every start.
Knows nothing of blocks, rows or requests.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfrag.engine.base import Precision
from selfrag.engine.numpy_llama import LlamaShape
from selfrag.engine.tensors import mapped_tensors, told
from selfrag.errors import EngineError, MissingPackage, StorageError
from selfrag.files import replacing

# Importing openvino sends an event to its makers, from a process that it forks, wherever this
# package is found. Nothing here may do that, and a fork of lancedb's threads may hang.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

try:
    import openvino as ov
    from openvino import Type
    from openvino import opset15 as op
    from openvino.op import _PagedAttentionExtension as paged_attention
except ImportError as error:
    raise MissingPackage(
        f"cannot start the OpenVINO engine: {error}; it needs openvino 2026.4, "
        'so run `pip install "selfrag[cpu]"`'
    ) from error

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]


def has_bf16() -> bool:
    """Whether this processor computes bf16 in hardware."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class CompiledLlama:
    """The model of a folder, compiled for this processor.

    Inputs, int32: `input_ids` and `position_ids` (N,), the rows packed end to end; `last` (M,), of
    which of them outputs are wanted; `watch` (W,); the block tables of paged attention; and
    `key_cache.i`, `value_cache.i`. Outputs: `chosen` (M, 1), `logprob` (M, 1), `watched` (M, W).
    `n_threads` 0: as many as the processor has cores. Raises `EngineError`.
    """

    def __init__(
        self, path: Path, shape: LlamaShape, *, precision: Precision, n_threads: int
    ) -> None:
        if precision is not Precision.EXACT and not has_bf16():
            raise EngineError(
                f"cannot run {path} in {precision}: this processor has no bf16 instructions; "
                "expected --precision exact here"
            )
        kind = "bf16" if precision is Precision.BF16 else "f32"
        try:
            self._weights = _Weights(path, precision)  # which the constants of the graph point to
            compiled = ov.Core().compile_model(
                _Graph(self._weights, shape, precision).build(),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": kind,
                    "KEY_CACHE_PRECISION": kind,
                    "VALUE_CACHE_PRECISION": kind,
                    "INFERENCE_NUM_THREADS": n_threads,
                    "NUM_STREAMS": 1,
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"cannot load {path} with OpenVINO: {told(error)}; expected the whole "
                f"model.safetensors of a Llama model and a processor that computes in {precision}, "
                "so restore the file, or choose another engine or precision"
            ) from error
        self._weights.keep()
        self._request = compiled.create_infer_request()
        self._cache_ports = [p for p in compiled.inputs if "_cache." in p.get_any_name()]

    def make_caches(self, n_blocks: int) -> list[Any]:
        """Keys and values of all layers as tensors (n_blocks, ...), which the model fills."""
        caches = []
        with _memory_errors(f"keep {n_blocks} blocks of keys and values"):
            for port in self._cache_ports:
                sizes = [n_blocks if d.is_dynamic else d.get_length() for d in port.partial_shape]
                caches.append(ov.Tensor(port.element_type, ov.Shape(sizes)))
        for port, cache in zip(self._cache_ports, caches, strict=True):
            self._request.set_tensor(port.get_any_name(), cache)
        return caches

    def infer(self, inputs: dict[str, Any]) -> tuple[NDArray[np.int32], Array, Array]:
        """`chosen` (M,), their log-probabilities (M,) and `watched` (M, W), nats."""
        for name, value in inputs.items():
            self._request.set_tensor(name, ov.Tensor(np.asarray(value, np.int32)))
        with _memory_errors(f"read {len(inputs['input_ids'])} tokens together"):
            self._request.infer()
        chosen, logprobs, watched = (
            self._request.get_tensor(name).data.copy() for name in ("chosen", "logprob", "watched")
        )
        return chosen[:, 0], logprobs[:, 0], watched


@contextmanager
def _memory_errors(doing: str) -> Iterator[None]:
    """What OpenVINO raises of itself, out of memory as a rule, as one sentence of ours."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise EngineError(
            f"cannot {doing}: {error}; if memory is short, lower max_batch or top_k"
        ) from error


class _Weights:
    """The weights of a model folder as constants of a graph, which point into mapped memory.

    bf16 is rounded once and kept beside the model where the folder can be written.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        self._is_exact = precision is Precision.EXACT
        self._source = path / "model.safetensors"
        self._tensors = mapped_tensors(self._source)
        # Not *.safetensors: vLLM takes every file of that name for weights of the model.
        self._packed_path = path / "packed.bf16"
        self._packed = {} if self._is_exact else _packed(self._packed_path, self._source)
        self._shared: list[Any] = []  # what constants point to lives as long as this

    def vector(self, name: str) -> Array:
        """A small tensor, in fp32."""
        return np.asarray(self._tensors[name], np.float32)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def matrix(self, *names: str) -> Any:
        """The constant of matrices (n_out, n_in) stacked along n_out, in fp32 or bf16."""
        stacked: NDArray[Any]
        if self._is_exact:
            stacked = self._stacked(names)
        else:
            key = " ".join(names)
            if key not in self._packed:
                self._packed[key] = _bf16(self._stacked(names))
            stacked = self._packed[key]
        self._shared.append(stacked)
        kind = Type.f32 if self._is_exact else Type.bf16
        return ov.op.Constant(ov.Tensor(stacked, ov.Shape(list(stacked.shape)), kind), True)

    def keep(self) -> None:
        """Writes what was rounded for the next start."""
        if self._is_exact or self._packed_path.exists():
            return
        facts = {"source": _fingerprint(self._source)}
        try:
            with replacing(self._packed_path, "packed weights") as partial:
                save_file(self._packed, partial, metadata=facts)
        except StorageError as error:
            logger.info("weights are packed again at the next start: %s", error)

    def _stacked(self, names: Sequence[str]) -> Array:
        found = [self._tensors[name] for name in names]
        stacked = np.concatenate(found) if len(found) > 1 else found[0]
        return np.ascontiguousarray(stacked, np.float32)


def _bf16(weights: Array) -> NDArray[np.uint16]:
    """The bits of bf16, rounded to nearest, ties to even."""
    bits = weights.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _fingerprint(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _packed(path: Path, source: Path) -> dict[str, NDArray[Any]]:
    """What was packed from `source` as it is now; nothing where there is none."""
    with suppress(OSError, SafetensorError), safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}).get("source") == _fingerprint(source):
            return dict(mapped_tensors(path))
    with suppress(OSError):
        path.unlink(missing_ok=True)  # of other weights, or damaged
    return {}


class _Graph:
    """Builds the model op by op."""

    def __init__(self, weights: _Weights, shape: LlamaShape, precision: Precision) -> None:
        self._weights, self._shape, self._precision = weights, shape, precision
        self._inputs: list[Any] = []
        self._c = _Constants()

    def build(self) -> "ov.Model":
        """Inputs as in `CompiledLlama`, then key and value caches of every layer."""
        shape = self._shape
        self._ids, self._positions, self._last, self._watch = (
            self._input(name) for name in ("input_ids", "position_ids", "last", "watch")
        )
        names = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
        self._tables = [self._input(name) for name in names]
        self._longest = self._input("max_context_len", [])
        embedding = self._weights.matrix("model.embed_tokens.weight")
        rows = self._float(op.gather(embedding, self._ids, self._c.axis(0)))
        hidden = op.unsqueeze(rows, self._c.ints(1))  # (N, 1, dim)
        self._angles()
        for number in range(shape.n_layers):
            hidden = self._layer(hidden, number)
        flat = op.gather(op.squeeze(hidden, self._c.ints(1)), self._last, self._c.axis(0))
        head = "lm_head.weight"
        tied = embedding if head not in self._weights else self._weights.matrix(head)
        logits = self._product(self._norm(flat, "model.norm.weight"), tied)
        return self._model(logits)

    def _model(self, logits: Any) -> "ov.Model":
        best = op.topk(logits, self._c.axis(1), -1, "max", "none", "i32")
        top = best.output(0)
        total = op.reduce_sum(op.exp(op.subtract(logits, top)), self._c.ints(-1), True)
        normaliser = op.add(top, op.log(total))
        watched = op.subtract(op.gather(logits, self._watch, self._c.axis(1)), normaliser)
        outputs = {
            "chosen": best.output(1),
            "logprob": op.subtract(top, normaliser),
            "watched": watched,
        }
        results = []
        for name, value in outputs.items():
            result = op.result(value)
            result.output(0).set_names({name})
            results.append(result)
        return ov.Model(results, self._inputs, "llama")

    def _input(self, name: str, sizes: Sequence[int] = (-1,), kind: Any = None) -> Any:
        node = op.parameter(ov.PartialShape(list(sizes)), kind or Type.i32, name=name)
        node.output(0).set_names({name})
        self._inputs.append(node)
        return node

    def _float(self, node: Any) -> Any:
        return node if self._precision is Precision.EXACT else op.convert(node, "f32")

    def _product(self, rows: Any, weight: Any) -> Any:
        if self._precision is Precision.EXACT:
            return op.matmul(rows, weight, False, True)
        product = op.matmul(op.convert(rows, Type.bf16), weight, False, True)
        return op.convert(product, "f32")

    def _angles(self) -> None:
        shape = self._shape
        frequencies = shape.rope_theta ** -(np.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = np.outer(np.arange(shape.max_context), np.tile(frequencies, 2))
        self._cos, self._sin = (
            op.unsqueeze(
                op.gather(
                    op.constant(f(angles).astype(np.float32)), self._positions, self._c.axis(0)
                ),
                self._c.ints(1, 2),
            )
            for f in (np.cos, np.sin)
        )  # (N, 1, 1, head_dim)

    def _rotated(self, rows: Any, n_heads: int) -> Any:
        size = self._shape.head_dim
        heads = op.reshape(rows, self._c.ints(-1, n_heads, 1, size), False)
        first = op.slice(
            heads, self._c.ints(0), self._c.ints(size // 2), self._c.ints(1), self._c.ints(3)
        )
        second = op.slice(
            heads, self._c.ints(size // 2), self._c.ints(size), self._c.ints(1), self._c.ints(3)
        )
        turned = op.concat([op.multiply(second, self._c.float(-1)), first], -1)
        rotated = op.add(op.multiply(heads, self._cos), op.multiply(turned, self._sin))
        return op.reshape(rotated, self._c.ints(-1, n_heads * size), False)

    def _norm(self, rows: Any, name: str) -> Any:
        mean = op.reduce_mean(op.power(rows, self._c.float(2)), self._c.ints(-1), True)
        scale = op.divide(
            self._c.float(1), op.sqrt(op.add(mean, self._c.float(self._shape.rms_eps)))
        )
        gamma = op.constant(self._weights.vector(name))
        return op.multiply(op.multiply(rows, scale), gamma)

    def _layer(self, hidden: Any, number: int) -> Any:
        shape, prefix = self._shape, f"model.layers.{number}."
        q_size, kv_size = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        names = [f"{prefix}self_attn.{which}_proj.weight" for which in "qkv"]
        read = self._norm(hidden, f"{prefix}input_layernorm.weight")
        qkv = self._product(read, self._weights.matrix(*names))
        biases = [name.replace("weight", "bias") for name in names]
        if biases[0] in self._weights:  # Qwen2
            bias = np.concatenate([self._weights.vector(name) for name in biases])
            qkv = op.add(qkv, op.constant(bias))
        parts = op.variadic_split(
            qkv, self._c.axis(-1), self._c.ints(q_size + kv_size, kv_size)
        ).outputs()
        turned = self._rotated(parts[0], shape.n_heads + shape.n_kv_heads)
        queries, keys = op.variadic_split(
            turned, self._c.axis(-1), self._c.ints(q_size, kv_size)
        ).outputs()
        values = op.reshape(parts[1], self._c.ints(-1, kv_size), False)
        seen = op.reshape(
            self._attend(queries, keys, values, number), self._c.ints(-1, 1, q_size), False
        )
        out = self._weights.matrix(f"{prefix}self_attn.o_proj.weight")
        hidden = op.add(hidden, self._product(seen, out))
        read = self._norm(hidden, f"{prefix}post_attention_layernorm.weight")
        both = self._weights.matrix(*(f"{prefix}mlp.{n}_proj.weight" for n in ("gate", "up")))
        gate, up = op.split(self._product(read, both), self._c.axis(-1), 2).outputs()
        down = self._weights.matrix(f"{prefix}mlp.down_proj.weight")
        return op.add(hidden, self._product(op.multiply(op.swish(gate), up), down))

    def _attend(self, queries: Any, keys: Any, values: Any, number: int) -> Any:
        shape = self._shape
        caches = [
            self._input(f"{kind}_cache.{number}", (-1, -1, -1, -1), Type.dynamic)
            for kind in ("key", "value")
        ]
        scale = self._c.float(shape.head_dim**-0.5)
        none_i, none_f, none_4d, none_u8 = (
            self._c.none(np.int32),
            self._c.none(np.float32),
            self._c.none(np.float32, 4),
            self._c.none(np.uint8),
        )
        off = self._c.axis(0)
        node = paged_attention(
            [
                node.output(0) if not isinstance(node, ov.Output) else node
                for node in (
                    queries, keys, values, *caches, *self._tables,
                    scale, off,  # sliding window
                    none_f,  # alibi
                    self._longest,
                    # Aggregation, eviction, rotation, sparse attention and sinks: unused.
                    none_i, none_i, none_i, none_f, none_f, off, off,
                    none_4d, off, none_i, none_i, none_i, none_i, none_u8, none_i,
                )
            ]
        )  # fmt: skip
        facts = node.get_rt_info()  # the plugin reads the sizes of the cache from here
        facts["num_k_heads"] = facts["num_v_heads"] = shape.n_kv_heads
        facts["k_head_size"] = facts["v_head_size"] = shape.head_dim
        return node.output(0)


class _Constants:
    """The constants of one graph, each once: the plugin's passes take their time by node."""

    def __init__(self) -> None:
        self.ints = once(lambda *values: op.constant(np.asarray(values, np.int64)))
        self.axis = once(lambda value: op.constant(np.int32(value)))
        self.float = once(lambda value: op.constant(np.float32(value)))
        self.none = once(lambda kind, n_axes=1: op.constant(np.zeros([0] * n_axes, kind)))
