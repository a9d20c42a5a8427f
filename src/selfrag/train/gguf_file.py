"""A model folder as one GGUF file, for llama.cpp and what builds on it.

Llama, Mistral and Qwen2 models, with the tokenizer as it is in the folder; reflection tokens and
the other special tokens are marked as control tokens, so no text can become one. Layout: the GGUF
specification (ggml `docs/gguf.md`); tensor names are those of the package `gguf`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from selfrag.engine.tokenizer import end_of_sequence, open_tokenizer, read_model_config
from selfrag.errors import BadInput
from selfrag.files import replacing
from selfrag.train.checkpoints import require_sound


class GgufType(StrEnum):
    """In what matrices are stored; vectors are always fp32."""

    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    F32 = "f32"


_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
}

# How llama.cpp names a way to split text, by what tokenizer.json says of it. Without the right name
# a text gets other ids than in training.
_GPT2_SPLIT = "gpt-2"
_KNOWN_SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vocabulary:
    """Tokens by id with their types; merges and split of a byte BPE, or scores of SentencePiece."""

    model: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    split: str
    scores: list[float]


def write_gguf(folder: Path, out: Path, kind: GgufType) -> Path:
    """`out`, the model of `folder` as GGUF; whole or absent, an older one replaced.

    Raises `BadInput` for a model or tokenizer that llama.cpp is not known to read like we do.
    """
    config = read_model_config(folder)
    # Models that were prepared or merged by hand may name their type alone.
    by_type = {arch.removesuffix("ForCausalLM").lower(): arch for arch in _ARCHITECTURES}
    name = (config.get("architectures") or [by_type.get(config["model_type"], "none")])[0]
    if name not in _ARCHITECTURES:
        raise BadInput(
            f"cannot write {folder} as GGUF: it is a {name}; expected one of "
            f"{', '.join(_ARCHITECTURES)}, so use the converter of llama.cpp"
        )
    vocabulary = _read_vocabulary(folder, int(config["vocab_size"]))
    with replacing(out) as partial:
        writer = gguf.GGUFWriter(partial, _ARCHITECTURES[name])
        _write_settings(writer, config, out.stem)
        _write_vocabulary(writer, vocabulary, folder, config)
        _write_tensors(writer, folder, config, _ARCHITECTURES[name], kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out


def _write_settings(writer: Any, config: dict[str, Any], name: str) -> None:
    n_heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        raise BadInput(
            f"cannot write GGUF: the model scales its positions ({rope.get('rope_type')}); "
            "expected plain rotary positions, so use the converter of llama.cpp"
        )
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", n_heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta", 10000.0))
    writer.add_vocab_size(config["vocab_size"])
    head_dim = config.get("head_dim") or config["hidden_size"] // n_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def _write_vocabulary(
    writer: Any, vocabulary: _Vocabulary, folder: Path, config: dict[str, Any]
) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "gpt2":
        writer.add_tokenizer_pre(vocabulary.split)
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
    writer.add_eos_token_id(vocabulary.tokens.index(end_of_sequence(folder)))
    starts = open_tokenizer(folder).start_ids
    start = starts[0] if starts else config.get("bos_token_id")
    if start is not None:
        writer.add_bos_token_id(start)
    writer.add_add_bos_token(bool(starts))


def _read_vocabulary(folder: Path, size: int) -> _Vocabulary:
    try:
        data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        model = data["model"]
        vocabulary: dict[str, int] = dict(model["vocab"])
        added = data["added_tokens"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"cannot write GGUF: the tokenizer in {folder} is no BPE ({error!r}); expected a "
            "tokenizer.json of that kind, so use the converter of llama.cpp"
        ) from error
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [int(gguf.TokenType.UNUSED)] * size
    in_bytes = bool(model.get("byte_fallback"))
    for token, index in vocabulary.items():
        tokens[index] = token
        is_byte = in_bytes and token.startswith("<0x") and token.endswith(">") and len(token) == 6
        types[index] = int(gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL)
    for token in added:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        tokens[token["id"]], types[token["id"]] = token["content"], int(kind)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return _Vocabulary(
        model="llama" if in_bytes else "gpt2",
        tokens=tokens,
        types=types,
        merges=merges,
        split="" if in_bytes else _split_name(data.get("pre_tokenizer") or {}),
        scores=_scores(tokens, model["merges"]) if in_bytes else [],
    )


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """SentencePiece merges the pair of the highest score first: minus the rank of its merge."""
    parts = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    rank = {"".join(part): float(-n) for n, part in enumerate(parts)}
    lowest = float(-len(rank))
    return [rank.get(token, lowest if len(token) > 1 else 0.0) for token in tokens]


def _split_name(pre_tokenizer: dict[str, Any]) -> str:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return _GPT2_SPLIT
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    patterns = [step.get("pattern", {}).get("Regex", "") for step in steps]
    known = [_KNOWN_SPLITS[pattern] for pattern in patterns if pattern in _KNOWN_SPLITS]
    if known and kinds == ["Split", "ByteLevel"]:
        return known[0]
    raise BadInput(
        f"cannot write GGUF: llama.cpp has no name for how this tokenizer splits text ({kinds}); "
        "expected the way of GPT-2, SmolLM, Llama 3 or Qwen 2, so use the converter of llama.cpp"
    )


def _write_tensors(
    writer: Any, folder: Path, config: dict[str, Any], architecture: str, kind: GgufType
) -> None:
    arch = gguf.MODEL_ARCH.LLAMA if architecture == "llama" else gguf.MODEL_ARCH.QWEN2
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    stored = gguf.GGMLQuantizationType[kind.upper()]
    share = "ALL" if kind is GgufType.F32 else "MOSTLY"
    writer.add_file_type(gguf.LlamaFileType[f"{share}_{kind.upper()}"])
    for name, tensor in _tensors(folder):
        if config.get("tie_word_embeddings") and name == "lm_head.weight":
            continue
        stem, _, suffix = name.rpartition(".")
        if architecture == "llama":
            tensor = _interleaved(name, tensor, config)
        target = f"{names.get_name(stem)}.{suffix}"
        if tensor.ndim == 1:
            writer.add_tensor(target, tensor)
            continue
        # Blocks of 8 bits hold 32 weights of a row; a row that is no multiple stays in 16 bits.
        whole = kind is not GgufType.Q8_0 or tensor.shape[1] % 32 == 0
        own = stored if whole else gguf.GGMLQuantizationType.F16
        writer.add_tensor(target, gguf.quants.quantize(tensor, own), raw_dtype=own)


def _tensors(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor in fp32, one at a time."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                tensor = file.get_tensor(name).to(torch.float32)
                require_sound([(name, tensor)], f"write {folder} as GGUF")
                yield name, tensor.numpy()


def _interleaved(
    name: str, tensor: NDArray[np.float32], config: dict[str, Any]
) -> NDArray[np.float32]:
    """Query and key rows in the order of llama.cpp, which pairs neighbours where we pair halves."""
    n_heads = config["num_attention_heads"]
    heads = {"q_proj": n_heads, "k_proj": config.get("num_key_value_heads", n_heads)}
    for module, n in heads.items():
        if f".{module}." in name:
            halves = tensor.reshape(n, 2, -1, *tensor.shape[1:])
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
    return tensor
