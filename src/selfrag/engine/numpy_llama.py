"""Llama-family language models on numpy alone: the default engine, quick to start and to decode.

Importing torch takes longer than many an answer; this engine needs numpy and safetensors only.
Same folder, same results as `engine/transformers.py` (tests compare the two), which stays for
every other architecture and for GPUs. Architecture: LLaMA (arXiv 2302.13971), with grouped-query
attention (arXiv 2305.13245); Mistral is the same, Qwen2 adds biases. Knows nothing of Self-RAG.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from selfrag.engine.base import Completion, Request
from selfrag.engine.batching import (
    CACHE_BYTES,
    BatchedEngine,
    Batcher,
    Draft,
    Next,
    Row,
    Step,
    greedy,
    half_of_cores,
)
from selfrag.engine.tensors import mapped_tensors, told
from selfrag.engine.tokenizer import open_tokenizer, read_model_config
from selfrag.errors import EngineError

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

FAMILIES = ("llama", "mistral", "qwen2")  # values of model_type; qwen2 has biases on q, k and v
_MANY_ROWS = 256  # measured with 576 to 3,072 columns: even at 128, up to a sixth faster at 750


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """The sizes of one model, from its `config.json`."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rms_eps: float
    rope_theta: float
    max_context: int

    @classmethod
    def read(cls, path: Path) -> "LlamaShape":
        """The sizes of the model in `path`; raises `EngineError` for what is computed otherwise."""
        config = read_model_config(path)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", "default")
        family = config.get("model_type")
        parts = ["attention_bias", "mlp_bias", "use_sliding_window"]
        parts += ["sliding_window"] if family == "mistral" else []  # Qwen2 has it beside a switch
        odd = [name for name in parts if config.get(name)]
        if family not in FAMILIES or kind != "default" or odd:
            raise EngineError(
                f"cannot run {path} with the llama engine: model_type is {family!r}, rope_type "
                f"{kind!r}, extra parts {odd}; expected a plain {', '.join(FAMILIES)}, so use the "
                "transformers engine"
            )
        n_heads = int(config["num_attention_heads"])
        return cls(
            n_layers=int(config["num_hidden_layers"]),
            n_heads=n_heads,
            n_kv_heads=int(config.get("num_key_value_heads") or n_heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // n_heads),
            rms_eps=float(config["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            max_context=int(config["max_position_embeddings"]),
        )


class LlamaEngine(BatchedEngine):
    """A Llama model folder (config.json, model.safetensors, tokenizer.json) as an `Engine`.

    Computes in fp32 with `n_threads` of numpy's BLAS, 0: half as many as the processor has cores,
    since BLAS threads wait for one another in loops and one that is held up stops them all.
    `max_batch` is in rows; `cache_bytes` bounds what is kept for later calls. Raises `EngineError`
    where the folder does not hold such a model.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        n_threads: int = 0,
        max_batch: int = 16,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        started = time.perf_counter()
        self._n_threads = n_threads or half_of_cores()
        self._pools = ThreadpoolController()
        tokenizer, shape = open_tokenizer(path), LlamaShape.read(path)
        batcher = Batcher(
            _Llama(_load(path, shape), shape, name),
            name=name,
            max_context=shape.max_context,
            max_batch=max_batch,
            cache_bytes=cache_bytes,
            guess=True,
        )
        super().__init__(batcher, tokenizer)
        logger.info("loaded %s in %.1f s", name, time.perf_counter() - started)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """As of every engine, on `n_threads`."""
        with self._pools.limit(limits=self._n_threads, user_api="blas"):
            return super().generate(requests)


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """Keys and values of consecutive positions, (n_layers, n_kv_heads, n, head_dim) each."""

    keys: Array
    values: Array

    def copy(self, start: int, stop: int) -> "_Span":
        return _Span(self.keys[:, :, start:stop].copy(), self.values[:, :, start:stop].copy())


@dataclass(frozen=True, slots=True, eq=False)
class _Llama:
    """The model as `batching.Model`."""

    weights: "_Weights"
    shape: LlamaShape
    name: str

    def read(self, rows: Sequence[Row[_Span]]) -> "_Rows":
        """One pass over the new ids of every row; the caches have room for all that follows."""
        caches = [
            _Cache.after(row.known.spans, self.shape, row.known.n + len(row.ids) + row.n_more)
            for row in rows
        ]
        return self._forward([row.ids for row in rows], caches)

    def write(self, rows: "_Rows", steps: Sequence[Next]) -> "_Rows":
        """One decode step; every id read gets its logits."""
        caches = [_Cache(rows.caches[step.row].span, step.n_read) for step in steps]
        return self._forward([step.ids for step in steps], caches, every=True)

    def cut(self, span: _Span, start: int, stop: int) -> _Span:
        """A copy of some positions."""
        return span.copy(start, stop)

    def n_bytes(self, span: _Span) -> int:
        """The memory that a span holds."""
        return span.keys.nbytes + span.values.nbytes

    def _forward(
        self, ids: Sequence[Sequence[int]], caches: Sequence["_Cache"], *, every: bool = False
    ) -> "_Rows":
        try:
            logits = _logits(self.weights, self.shape, ids, caches, every=every)
        except MemoryError as error:
            n_tokens = sum(len(row) for row in ids)
            raise EngineError(
                f"cannot run {self.name} on {len(ids)} rows of {n_tokens} tokens together: "
                f"{error}; memory is short, so lower max_batch or top_k"
            ) from error
        grown = [_Cache(c.span, c.n_used + len(row)) for row, c in zip(ids, caches, strict=True)]
        return _Rows(grown, logits, [len(row) if every else 1 for row in ids])


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Weights of one block, (n_out, n_in); `qkv` and `gate_up` are several read in one product.

    `bias` (n_out of `qkv`,), zeros where the model has none.
    """

    norm: Array
    qkv: Array
    bias: Array
    out: Array
    mlp_norm: Array
    gate_up: Array
    down: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """`embedding`, `head`: (V, dim). `cos`, `sin`: (max_context, head_dim / 2)."""

    embedding: Array
    head: Array
    norm: Array
    layers: tuple[_Layer, ...]
    cos: Array
    sin: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Cache:
    """The span of one row, of which the first `n_used` positions are filled.

    A forward pass fills more in place.
    """

    span: _Span
    n_used: int

    @classmethod
    def after(cls, known: Sequence[_Span], shape: LlamaShape, n_places: int) -> "_Cache":
        """Room for `n_places`, begun with a copy of the spans known."""
        size = (shape.n_layers, shape.n_kv_heads, n_places, shape.head_dim)
        span = _Span(np.empty(size, np.float32), np.empty(size, np.float32))
        n_used = 0
        for start in known:
            end = n_used + start.keys.shape[2]
            span.keys[:, :, n_used:end] = start.keys
            span.values[:, :, n_used:end] = start.values
            n_used = end
        return cls(span, n_used)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows in flight: a cache each, and `logits` (N, V) of what comes next, `n_each` a row."""

    caches: list[_Cache]
    logits: Array
    n_each: list[int]

    def choose(self, drafts: Sequence[Draft]) -> list[list[Step]]:
        """What comes next in every row."""
        return greedy(self.logits, drafts, self.n_each)

    def span(self, row: int, start: int, stop: int) -> _Span:
        """A copy of some positions of one row."""
        return self.caches[row].span.copy(start, stop)


def _logits(
    weights: _Weights,
    shape: LlamaShape,
    ids: Sequence[Sequence[int]],
    caches: Sequence[_Cache],
    *,
    every: bool,
) -> Array:
    """Logits after the last id of each row, (B, V), or after `every` id; fills the caches.

    Rows lie end to end, without padding: only attention tells one from another.
    """
    ends = list(accumulate(len(row) for row in ids))
    rows = [slice(end - len(row), end) for end, row in zip(ends, ids, strict=True)]
    positions = np.concatenate(
        [np.arange(c.n_used, c.n_used + len(row)) for c, row in zip(caches, ids, strict=True)]
    )
    cos, sin = weights.cos[positions, None], weights.sin[positions, None]
    hidden = weights.embedding[np.concatenate([np.asarray(row, np.int64) for row in ids])]
    n_rotated = shape.n_heads + shape.n_kv_heads
    for number, layer in enumerate(weights.layers):
        read = _rms_norm(hidden, layer.norm, shape.rms_eps)
        qkv = _linear(read, layer.qkv)
        qkv += layer.bias
        qkv = qkv.reshape(len(hidden), -1, shape.head_dim)
        rotated = _rotate(qkv[:, :n_rotated], cos, sin)
        seen = np.empty((len(hidden), shape.n_heads, shape.head_dim), np.float32)
        for row, cache in zip(rows, caches, strict=True):
            places = slice(cache.n_used, cache.n_used + row.stop - row.start)
            keys, values = cache.span.keys[number], cache.span.values[number]
            keys[:, places] = rotated[row, shape.n_heads :].swapaxes(0, 1)
            values[:, places] = qkv[row, n_rotated:].swapaxes(0, 1)
            queries = rotated[row, : shape.n_heads]
            seen[row] = _attend(queries, keys[:, : places.stop], values[:, : places.stop])
        hidden = hidden + _linear(seen.reshape(len(hidden), -1), layer.out)
        read = _rms_norm(hidden, layer.mlp_norm, shape.rms_eps)
        hidden += _linear(_silu_product(_linear(read, layer.gate_up)), layer.down)
    last = hidden if every else hidden[[end - 1 for end in ends]]
    return _linear(_rms_norm(last, weights.norm, shape.rms_eps), weights.head)


def _linear(rows: Array, weight: Array) -> Array:
    """Shape (n, n_out). Weights first: for a few rows OpenBLAS is up to twice as fast that way.

    For many, turning the product round costs more than that.
    """
    if len(rows) >= _MANY_ROWS:
        many: Array = rows @ weight.T
        return many
    product: Array = (weight @ rows.T).T
    return np.ascontiguousarray(product)


def _rms_norm(rows: Array, weight: Array, eps: float) -> Array:
    mean_square = np.einsum("ij,ij->i", rows, rows)[:, None] / np.float32(rows.shape[1])
    normed: Array = rows * (1 / np.sqrt(mean_square + np.float32(eps))) * weight
    return normed


def _rotate(heads: Array, cos: Array, sin: Array) -> Array:
    """Rotary position embedding (arXiv 2104.09864) of (n, n_heads, head_dim), halves paired."""
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _silu_product(gate_up: Array) -> Array:
    """silu(gate) * up, (n, n_hidden), of both side by side."""
    gate, up = np.split(gate_up, 2, axis=-1)
    # exp overflows to inf for gates below -88, where silu is 0 as it should be.
    with np.errstate(over="ignore"):
        smooth: Array = np.exp(-gate)
    smooth += 1
    product: Array = gate / smooth
    product *= up
    return product


def _attend(queries: Array, keys: Array, values: Array) -> Array:
    """Causal attention of one row: (T, n_heads, d) on (n_kv_heads, n, d); the last T of n are new.

    Heads share keys in runs; the heads of a run become the rows of one product.
    """
    n_new, n_heads, head_dim = queries.shape
    n_kv_heads, n_seen, _ = keys.shape
    shared = queries.reshape(n_new, n_kv_heads, -1, head_dim).transpose(1, 2, 0, 3)
    runs = shared.reshape(n_kv_heads, -1, head_dim)  # (n_kv_heads, heads of a run x T, d)
    scores: Array = runs @ keys.swapaxes(1, 2)
    scores *= np.float32(head_dim**-0.5)
    if n_new > 1:
        hidden = np.triu(np.full((n_new, n_seen), -np.inf, np.float32), n_seen - n_new + 1)
        scores.reshape(n_kv_heads, -1, n_new, n_seen)[:] += hidden
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    np.divide(scores, scores.sum(axis=-1, keepdims=True), out=scores)
    seen = (scores @ values).reshape(n_kv_heads, -1, n_new, head_dim)
    mixed: Array = seen.transpose(2, 0, 1, 3).reshape(n_new, n_heads, head_dim)
    return mixed


def _load(path: Path, shape: LlamaShape) -> _Weights:
    try:
        tensors = {
            name: weight.astype(np.float32, copy=False)
            for name, weight in mapped_tensors(path / "model.safetensors").items()
        }
        embedding = tensors["model.embed_tokens.weight"]
        angles = _angles(shape)
        return _Weights(
            embedding=embedding,
            head=tensors.get("lm_head.weight", embedding),
            norm=tensors["model.norm.weight"],
            layers=tuple(
                _layer(tensors, f"model.layers.{number}.") for number in range(shape.n_layers)
            ),
            cos=np.cos(angles),
            sin=np.sin(angles),
        )
    except (OSError, KeyError, ValueError) as error:
        raise EngineError(
            f"cannot load the model {path}: {told(error)}; expected "
            "model.safetensors of a Llama model in one file, so restore the folder or use the "
            "transformers engine"
        ) from error


def _layer(tensors: dict[str, Array], prefix: str) -> _Layer:
    def weight(*names: str) -> Array:
        found = [tensors.pop(f"{prefix}{name}.weight") for name in names]
        return np.concatenate(found) if len(found) > 1 else found[0]

    projections = [f"self_attn.{name}_proj" for name in "qkv"]
    n_out = [len(tensors[f"{prefix}{name}.weight"]) for name in projections]
    biases = [
        tensors.pop(f"{prefix}{name}.bias", np.zeros(n, np.float32))
        for name, n in zip(projections, n_out, strict=True)
    ]
    return _Layer(
        norm=weight("input_layernorm"),
        qkv=weight(*projections),
        bias=np.concatenate(biases),
        out=weight("self_attn.o_proj"),
        mlp_norm=weight("post_attention_layernorm"),
        gate_up=weight("mlp.gate_proj", "mlp.up_proj"),
        down=weight("mlp.down_proj"),
    )


def _angles(shape: LlamaShape) -> Array:
    """Rotation of every position, (max_context, head_dim / 2)."""
    steps = np.arange(0, shape.head_dim, 2) / shape.head_dim
    frequencies = shape.rope_theta**-steps
    return np.outer(np.arange(shape.max_context), frequencies).astype(np.float32)
