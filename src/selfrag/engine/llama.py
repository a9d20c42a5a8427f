"""Llama-family language models on torch alone: the default engine, quick to start and to decode.

Importing transformers takes longer than a short answer; this engine needs torch and safetensors
only. Same folder, same results as `engine/transformers.py` (tests compare the two), which stays
for every other architecture. Architecture: LLaMA (arXiv 2302.13971), with grouped-query attention
(arXiv 2305.13245). Knows nothing of Self-RAG.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrag.engine.base import Completion, Request
from selfrag.engine.batching import (
    Padded,
    complete_in_groups,
    end_of_sequence,
    pad_left,
    read_model_config,
    shared_length,
)
from selfrag.engine.tokenizer import FileTokenizer
from selfrag.errors import EngineError
from selfrag.prompt import Tokenizer

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch.nn import functional
except ImportError as error:
    raise EngineError(
        f"cannot start the llama engine: {error}; it needs torch and safetensors, "
        'so run `pip install "selfrag[engine]"`'
    ) from error

logger = logging.getLogger(__name__)


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
        odd = [name for name in ("attention_bias", "mlp_bias") if config.get(name)]
        if config.get("model_type") != "llama" or kind != "default" or odd:
            raise EngineError(
                f"cannot run {path} with the llama engine: model_type is "
                f"{config.get('model_type')!r}, rope_type {kind!r}, extra parts {odd}; expected a "
                "plain Llama, so use the transformers engine"
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


class LlamaEngine:
    """A Llama model folder (config.json, model.safetensors, tokenizer.json) as an `Engine`.

    Computes in fp32. `n_threads` sets torch's threads for the whole process; `None` leaves them.
    `max_batch` is in rows. Raises `EngineError` where the folder does not hold such a model.
    """

    def __init__(
        self, path: Path, *, name: str, n_threads: int | None = None, max_batch: int = 16
    ) -> None:
        started = time.perf_counter()
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        self._name = name
        self._max_batch = max_batch
        self._tokenizer = FileTokenizer(
            path / "tokenizer.json", end_of_sequence=end_of_sequence(path)
        )
        self._shape = LlamaShape.read(path)
        self._weights = _load(path, self._shape)
        logger.info("loaded %s in %.1f s", name, time.perf_counter() - started)

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        return self._name

    @property
    def max_context(self) -> int:
        """How many tokens prompt and completion may hold together."""
        return self._shape.max_context

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary this model reads."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request greedily, in order; an empty batch gives an empty list.

        Rows of similar length are computed together, and a start that all of them share is
        computed once. A request for one token costs no decode step. Raises `BadInput` for a
        prompt that leaves no room and `EngineError` when torch fails.
        """
        return complete_in_groups(
            requests,
            max_batch=self._max_batch,
            max_context=self.max_context,
            read=self._read,
            write=self._write,
        )

    def _read(self, requests: Sequence[Request]) -> "_Rows":
        """One pass over the prompts; the caches have room for all that may be written."""
        prompts = [request.prompt_ids for request in requests]
        n_shared = shared_length(prompts)
        rows = pad_left([prompt[n_shared:] for prompt in prompts], n_shared)
        n_places = rows.mask.shape[1] + max(request.max_new_tokens for request in requests)
        cache = _Cache.empty(self._shape, len(prompts), n_places)
        if n_shared:
            start = _Cache.empty(self._shape, 1, n_shared)
            self._forward(pad_left([prompts[0][:n_shared]], 0), start)
            cache = cache.after(start)
        return self._forward(rows, cache)

    def _write(self, rows: "_Rows", kept: list[int], token_ids: torch.Tensor) -> "_Rows":
        """One decode step: every row kept reads the id that it just chose."""
        rows = rows.select(kept)
        mask = functional.pad(rows.mask, (0, 1), value=1)
        return self._forward(Padded(token_ids[:, None], mask, rows.positions + 1), rows.cache)

    def _forward(self, rows: Padded, cache: "_Cache") -> "_Rows":
        try:
            logits = _logits(self._weights, self._shape, rows, cache)
        except (RuntimeError, MemoryError) as error:  # what torch raises, out of memory included
            raise EngineError(
                f"cannot run {self._name} on {len(rows.mask)} rows of {rows.mask.shape[1]} tokens: "
                f"{error}; if memory is short, lower max_batch or top_k"
            ) from error
        grown = _Cache(cache.keys, cache.values, rows.mask.shape[1])
        return _Rows(grown, rows.mask, rows.positions[:, -1:], logits)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Weights of one block; `qkv` and `gate_up` are several matrices read in one product."""

    norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """`embedding`, `head`: (V, dim). `cos`, `sin`: (max_context, head_dim)."""

    embedding: torch.Tensor
    head: torch.Tensor
    norm: torch.Tensor
    layers: tuple[_Layer, ...]
    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Cache:
    """Keys and values read so far, (n_layers, B, n_kv_heads, n_places, head_dim) each.

    The first `n_used` places are filled; a forward pass fills more in place.
    """

    keys: torch.Tensor
    values: torch.Tensor
    n_used: int

    @classmethod
    def empty(cls, shape: LlamaShape, n_rows: int, n_places: int) -> "_Cache":
        size = (shape.n_layers, n_rows, shape.n_kv_heads, n_places, shape.head_dim)
        return cls(torch.zeros(size), torch.zeros(size), 0)

    def after(self, start: "_Cache") -> "_Cache":
        """The cache, begun in every row with the one row of `start`."""
        n = start.keys.shape[3]
        self.keys[:, :, :, :n] = start.keys
        self.values[:, :, :, :n] = start.values
        return _Cache(self.keys, self.values, n)

    def select(self, index: torch.Tensor) -> "_Cache":
        return _Cache(self.keys[:, index], self.values[:, index], self.n_used)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows in flight: `mask` (B, n_used), `positions` (B, 1) of the last ids, `logits` (B, V)."""

    cache: _Cache
    mask: torch.Tensor
    positions: torch.Tensor
    logits: torch.Tensor

    def select(self, kept: Sequence[int]) -> "_Rows":
        if len(kept) == len(self.mask):
            return self
        index = torch.tensor(kept)
        cache = self.cache.select(index)
        return _Rows(cache, self.mask[index], self.positions[index], self.logits[index])


def _logits(weights: _Weights, shape: LlamaShape, rows: Padded, cache: _Cache) -> torch.Tensor:
    """Logits of the last position, (B, V); fills the places of `rows` in `cache`."""
    hidden = weights.embedding[rows.ids]
    cos, sin = weights.cos[rows.positions, None], weights.sin[rows.positions, None]
    visible = _visible(rows.mask, rows.ids.shape[1])
    for number, layer in enumerate(weights.layers):
        read = functional.rms_norm(hidden, hidden.shape[-1:], layer.norm, shape.rms_eps)
        qkv = functional.linear(read, layer.qkv).unflatten(-1, (-1, shape.head_dim))
        n_rotated = shape.n_heads + shape.n_kv_heads
        rotated = _rotate(qkv[:, :, :n_rotated], cos, sin).transpose(1, 2)
        queries, keys = rotated.split([shape.n_heads, shape.n_kv_heads], dim=1)
        places = slice(cache.n_used, cache.n_used + rows.ids.shape[1])
        cache.keys[number, :, :, places] = keys
        cache.values[number, :, :, places] = qkv[:, :, n_rotated:].transpose(1, 2)
        seen = _attend(
            queries,
            cache.keys[number, :, :, : places.stop],
            cache.values[number, :, :, : places.stop],
            visible,
        )
        hidden = hidden + functional.linear(seen.transpose(1, 2).flatten(2), layer.out)
        read = functional.rms_norm(hidden, hidden.shape[-1:], layer.mlp_norm, shape.rms_eps)
        gate, up = functional.linear(read, layer.gate_up).chunk(2, dim=-1)
        hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down)
    last = functional.rms_norm(hidden[:, -1], hidden.shape[-1:], weights.norm, shape.rms_eps)
    return functional.linear(last, weights.head)


def _visible(mask: torch.Tensor, n_new: int) -> torch.Tensor:
    """Who sees whom, (B, 1, n_new, n_used) bool: earlier ids that are no padding, and oneself."""
    n_used = mask.shape[1]
    causal = torch.ones(n_new, n_used, dtype=torch.bool).tril(n_used - n_new)
    oneself = torch.eye(n_used, dtype=torch.bool)[n_used - n_new :]
    # Padding sees itself, so that no row of attention is empty.
    return ((mask[:, None, :] > 0) & causal | oneself)[:, None]


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (arXiv 2104.09864) of (B, T, n_heads, head_dim), halves paired."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    """Attention of (B, n_heads, T, d) on (B, n_kv_heads, n, d); heads share keys in runs."""
    per_key = queries.shape[1] // keys.shape[1]
    if queries.shape[2] > 1:
        keys, values = (each.repeat_interleave(per_key, dim=1) for each in (keys, values))
        return functional.scaled_dot_product_attention(queries, keys, values, visible)
    # One new id a row: the heads of a run become the rows of one product, and nothing is repeated.
    runs = queries.unflatten(1, (-1, per_key)).squeeze(3)  # (B, n_kv_heads, per_key, d)
    return functional.scaled_dot_product_attention(runs, keys, values, visible).flatten(1, 2)[
        :, :, None
    ]


def _load(path: Path, shape: LlamaShape) -> _Weights:
    try:
        tensors = load_file(path / "model.safetensors")
        embedding = tensors["model.embed_tokens.weight"].float()
        return _Weights(
            embedding=embedding,
            head=tensors.get("lm_head.weight", embedding).float(),
            norm=tensors["model.norm.weight"].float(),
            layers=tuple(
                _layer(tensors, f"model.layers.{number}.") for number in range(shape.n_layers)
            ),
            cos=_angles(shape).cos(),
            sin=_angles(shape).sin(),
        )
    except (OSError, KeyError, SafetensorError) as error:
        raise EngineError(
            f"cannot load the model {path}: {error}; expected model.safetensors of a Llama model "
            "in one file, so restore the folder or use the transformers engine"
        ) from error


def _layer(tensors: dict[str, Any], prefix: str) -> _Layer:
    def weight(*names: str) -> torch.Tensor:
        found = [tensors.pop(f"{prefix}{name}.weight").float() for name in names]
        return torch.cat(found) if len(found) > 1 else found[0]

    return _Layer(
        norm=weight("input_layernorm"),
        qkv=weight("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=weight("self_attn.o_proj"),
        mlp_norm=weight("post_attention_layernorm"),
        gate_up=weight("mlp.gate_proj", "mlp.up_proj"),
        down=weight("mlp.down_proj"),
    )


def _angles(shape: LlamaShape) -> torch.Tensor:
    """Rotation of every position, (max_context, head_dim), halves equal."""
    steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    frequencies = 1.0 / shape.rope_theta**steps
    angles = torch.outer(torch.arange(shape.max_context, dtype=torch.float32), frequencies)
    return torch.cat([angles, angles], dim=-1)
