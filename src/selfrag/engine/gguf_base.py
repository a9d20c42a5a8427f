"""A Llama model in a GGUF file as the parts of a Hugging Face folder: config, weights, tokenizer.

Needs no torch. Knows nothing of adapters, and nothing of llama.cpp, which runs such files as they
are.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from selfrag.errors import AssetError

Tensors = dict[str, NDArray[np.float32]]

EMBEDDING = "model.embed_tokens.weight"
# Modules of a layer by their names in GGUF files.
_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # type of a token in GGUF files
# What GGUF files call the tokens that a tokenizer_config.json names.
_TOKEN_IDS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "pad_token": "padding",
    "unk_token": "unknown",
}


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A model with a tied output head, its weights in fp32; parts are changed in place.

    `named_tokens`: what a tokenizer_config.json says. `chat_template`: '' where there is none.
    """

    config: dict[str, Any]
    weights: Tensors
    tokenizer: Tokenizer
    named_tokens: dict[str, Any]
    chat_template: str

    def add_special_tokens(self, tokens: list[str]) -> list[int]:
        """Puts them at the end of the vocabulary; their ids in order."""
        self.tokenizer.add_special_tokens([_special(token) for token in tokens])
        self.named_tokens["extra_special_tokens"] = tokens
        ids = self.tokenizer.get_vocab(with_added_tokens=True)
        return [ids[token] for token in tokens]

    def save(self, folder: Path) -> None:
        """Writes the files of a model folder."""
        # fp32 although twice the size: bf16 rounding of merged weights moves logits by up to 0.4.
        config = {**self.config, "vocab_size": len(self.weights[EMBEDDING])}
        tokenizer = {**self.named_tokens, "tokenizer_class": "TokenizersBackend"}
        for name, fields in {"config": config, "tokenizer_config": tokenizer}.items():
            (folder / f"{name}.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
        if self.chat_template:
            (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")
        self.tokenizer.save(str(folder / "tokenizer.json"))
        save_file(self.weights, folder / "model.safetensors", metadata={"format": "pt"})


def read_base(path: Path) -> Base:
    """The model in a file; raises `AssetError` where it is no Llama with a tied head."""
    try:
        reader = gguf.GGUFReader(path)
        fields = _Fields(reader)
        kinds = fields["general.architecture"], fields["tokenizer.ggml.model"]
        if kinds != ("llama", "gpt2"):
            raise ValueError(f"its architecture and tokenizer are {' and '.join(kinds)}")
        vocabulary = fields["tokenizer.ggml.tokens"]
        ids = {
            name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKEN_IDS.items()
        }
        return Base(
            config=_config(fields, ids),
            weights=_weights(reader, fields),
            tokenizer=_tokenizer(fields, vocabulary),
            named_tokens={name: vocabulary[i] for name, i in ids.items() if i is not None},
            chat_template=fields.get("tokenizer.chat_template") or "",
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise AssetError(
            f"cannot read {path}: {error}; expected a GGUF file of a Llama model with a tied head "
            "and a byte-level BPE tokenizer, so reinstall the package that carries it"
        ) from error


class _Fields:
    """The metadata of a GGUF file by key."""

    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key].contents()

    def get(self, key: str) -> Any:
        """The value, None where there is none."""
        return self[key] if key in self._fields else None


def _config(fields: _Fields, ids: dict[str, int | None]) -> dict[str, Any]:
    """What a Hugging Face config.json says, without the size of the vocabulary."""
    hidden_size = fields["llama.embedding_length"]
    n_heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],  # vLLM and GGUF converters go by it
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": n_heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv") or n_heads,
        "head_dim": fields.get("llama.rope.dimension_count") or hidden_size // n_heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": fields.get("llama.rope.freq_base") or 10_000.0,
        },
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        **{f"{name}_id": i for name, i in ids.items()},
    }


def _weights(reader: Any, fields: _Fields) -> Tensors:
    n_heads = fields["llama.attention.head_count"]
    halved = {"attn_q": n_heads, "attn_k": fields.get("llama.attention.head_count_kv") or n_heads}
    weights = {}
    for tensor in reader.tensors:
        array = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        module = tensor.name.split(".")[-2]
        if module in halved:
            array = _unpermuted(array, halved[module])
        weights[_name(tensor.name)] = array
    return weights


def _name(name: str) -> str:
    """The Hugging Face name of a tensor in a GGUF file, as of `blk.0.attn_q.weight`."""
    known = {"token_embd.weight": EMBEDDING, "output_norm.weight": "model.norm.weight"}
    if name in known:
        return known[name]
    match name.split("."):
        case ["blk", layer, module, "weight"] if module in _MODULES:
            return f"model.layers.{layer}.{_MODULES[module]}.weight"
    raise ValueError(f"it has a tensor {name}")


def _unpermuted(weights: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Rows of a projection in their first order; GGUF interleaves the rotary halves of a head."""
    pairs = weights.reshape(n_heads, -1, 2, weights.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weights.shape))


def _tokenizer(fields: _Fields, vocabulary: list[str]) -> Tokenizer:
    """Byte-level BPE; control tokens are special."""
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    control = [t for t, kind in zip(vocabulary, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([_special(token) for token in control])
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)
