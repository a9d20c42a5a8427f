"""A byte-level tokenizer and a two-layer random Llama, small enough to make in every test run.

The tokenizer needs no torch; what needs it imports it on its own.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from selfrag.reflection import REFLECTION_TOKENS

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

SPECIALS = ("<|endoftext|>", "<|im_end|>", "</s>")
END = "<|im_end|>"
TOKENS = [token.value for token in REFLECTION_TOKENS]


def plain_vocabulary() -> list[str]:
    return [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]


def byte_tokenizer(extra: list[str]) -> tokenizers.Tokenizer:
    """Bytes and `ab` as tokens; `SPECIALS` and `extra` are special tokens, `extra` at the end."""
    vocabulary = {token: index for index, token in enumerate(plain_vocabulary())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*SPECIALS, *extra)]
    )
    return tokenizer


def save_tokenizer(folder: Path, extra: list[str]) -> int:
    """Writes tokenizer.json and tokenizer_config.json; the size of the vocabulary."""
    tokenizer = byte_tokenizer(extra)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "eos_token": END,
        "extra_special_tokens": extra,
        "tokenizer_class": "TokenizersBackend",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def tiny_llama(vocab_size: int, hidden_size: int = 32) -> "LlamaForCausalLM":
    """Grouped-query attention, tied head, weights wide enough that logits are far from ties."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def save_tiny_model(folder: Path, extra: list[str], hidden_size: int = 32) -> Path:
    tiny_llama(save_tokenizer(folder, extra), hidden_size).save_pretrained(folder)
    return folder


def write_gguf(path: Path, model: "LlamaForCausalLM") -> Path:
    """The model and the plain byte tokenizer as fp32 GGUF, as llama.cpp would convert them."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = plain_vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in SPECIALS else 1 for token in vocabulary])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            stem, _, suffix = name.rpartition(".")
            weights = _permuted(name, tensor.numpy(), config)
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(name: str, weights: np.ndarray, config: "LlamaConfig") -> np.ndarray:
    """llama.cpp interleaves the rotary halves of the query and key projections."""
    n_heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for module, n in n_heads.items():
        if module in name:
            halves = weights.reshape(n, 2, -1, weights.shape[1])
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))
    return weights
