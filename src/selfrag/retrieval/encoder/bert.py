"""BERT encoders (arXiv 1810.04805) on numpy alone: token ids in, last states out.

Importing torch takes longer than encoding a question. Knows nothing of texts, pooling or search.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

Array = NDArray[np.float32]

# erf to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
_ERF_SLOPE = 0.3275911
_ERF_POLYNOMIAL = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_GELU_ROWS = 64  # rows of 1536 floats that stay in the cache over the passes of `gelu`


class Bert:
    """An encoder folder (config.json, model.safetensors) in fp32.

    `words` (n_words, dim) and `places` (max_tokens, dim) are added up and normed by `norm`, then
    every layer of `layers` follows. Raises `OSError` where a file is missing and `ValueError` for a
    model of another kind.
    """

    def __init__(self, path: Path) -> None:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kinds = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        odd = {name: config.get(name, kind) for name, kind in kinds.items()}
        if odd != kinds:
            raise ValueError(f"a model with {odd}, expected {kinds}")
        self.dim = int(config["hidden_size"])
        self.max_tokens = int(config["max_position_embeddings"])
        self.n_heads = int(config["num_attention_heads"])
        self.eps = float(config["layer_norm_eps"])
        tensors = _read(path / "model.safetensors")
        self.words = tensors["embeddings.word_embeddings.weight"]
        # Every token here is of the first of BERT's two segments.
        self.places = (
            tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = _norm(tensors, "embeddings.LayerNorm")
        self.layers = [_layer(tensors, n) for n in range(int(config["num_hidden_layers"]))]

    def states(self, token_ids: Sequence[Sequence[int]]) -> list[Array]:
        """The last states of every text, (n_tokens, dim) each; no text sees another.

        Texts are computed end to end, without padding; each has 1 to `max_tokens` ids.
        """
        if not token_ids:
            return []
        ends = list(accumulate(len(ids) for ids in token_ids))
        texts = [slice(end - len(ids), end) for ids, end in zip(token_ids, ends, strict=True)]
        words = self.words[np.concatenate([np.asarray(ids, np.int64) for ids in token_ids])]
        places = np.concatenate([self.places[: len(ids)] for ids in token_ids])
        hidden = self.norm(words + places, self.eps)  # (all tokens, dim)
        for layer in self.layers:
            seen = np.empty_like(hidden)
            qkv = layer.qkv(hidden)
            for text in texts:
                seen[text] = _attend(qkv[text], self.n_heads)
            hidden = layer.attended(hidden + layer.out(seen), self.eps)
            hidden = layer.transformed(hidden + layer.down(gelu(layer.up(hidden))), self.eps)
        return [hidden[text] for text in texts]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A product with `weight` (n_in, n_out), plus `bias` (n_out,)."""

    weight: Array
    bias: Array

    def __call__(self, rows: Array) -> Array:
        """Shape (n, n_out)."""
        out: Array = rows @ self.weight
        out += self.bias
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """Rows with mean 0 and variance 1 (arXiv 1607.06450), times `weight`, plus `bias`."""

    weight: Array
    bias: Array

    def __call__(self, rows: Array, eps: float) -> Array:
        """Shape (n, dim); `eps` is added to the variance."""
        rows = rows - rows.mean(axis=-1, keepdims=True)
        variance = np.einsum("ij,ij->i", rows, rows)[:, None] / rows.shape[1]
        rows *= self.weight / np.sqrt(variance + np.float32(eps))
        rows += self.bias
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One block; `qkv` is three matrices read in one product."""

    qkv: Linear
    out: Linear
    attended: Norm
    up: Linear
    down: Linear
    transformed: Norm


def gelu(rows: Array) -> Array:
    """X times the normal distribution function of x (arXiv 1606.08415), in place.

    With q(x) = (1 - erf(x / sqrt 2)) / 2 it is max(x, 0) - |x| q(|x|).
    """
    for block in _blocks(rows, _GELU_ROWS):
        size = np.abs(block)
        t = np.reciprocal(size * np.float32(_ERF_SLOPE / math.sqrt(2)) + np.float32(1))
        tail = np.full_like(t, _ERF_POLYNOMIAL[0])
        for coefficient in _ERF_POLYNOMIAL[1:]:
            tail *= t
            tail += np.float32(coefficient)
        tail *= t
        tail *= np.exp(size * size * np.float32(-0.5))
        tail *= size
        np.maximum(block, 0, out=block)
        block -= tail * np.float32(0.5)
    return rows


def _blocks(rows: Array, size: int) -> Iterator[Array]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _attend(qkv: Array, n_heads: int) -> Array:
    """Attention of all tokens of one text on all; `qkv`: (T, 3 dim)."""
    n_tokens, width = qkv.shape
    heads = qkv.reshape(n_tokens, 3, n_heads, -1).transpose(1, 2, 0, 3)
    queries, keys, values = heads  # (n_heads, T, head_dim) each
    scores: Array = queries @ keys.swapaxes(1, 2)
    scores *= np.float32(1 / math.sqrt(heads.shape[3]))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    np.divide(scores, scores.sum(axis=-1, keepdims=True), out=scores)
    seen: Array = (scores @ values).transpose(1, 0, 2).reshape(n_tokens, width // 3)
    return seen


def _read(path: Path) -> dict[str, Array]:
    """fp32 tensors by name, without the prefix that some exports put before all of them."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return {
        name.removeprefix("bert."): w.astype(np.float32, copy=False) for name, w in tensors.items()
    }


def _layer(tensors: dict[str, Array], number: int) -> Layer:
    prefix = f"encoder.layer.{number}"
    parts = [f"{prefix}.attention.self.{name}" for name in ("query", "key", "value")]
    return Layer(
        qkv=_linear(tensors, *parts),
        out=_linear(tensors, f"{prefix}.attention.output.dense"),
        attended=_norm(tensors, f"{prefix}.attention.output.LayerNorm"),
        up=_linear(tensors, f"{prefix}.intermediate.dense"),
        down=_linear(tensors, f"{prefix}.output.dense"),
        transformed=_norm(tensors, f"{prefix}.output.LayerNorm"),
    )


def _linear(tensors: dict[str, Array], *names: str) -> Linear:
    weight = np.concatenate([tensors[f"{name}.weight"] for name in names])
    bias = np.concatenate([tensors[f"{name}.bias"] for name in names])
    return Linear(np.ascontiguousarray(weight.T), bias)


def _norm(tensors: dict[str, Array], name: str) -> Norm:
    return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])
