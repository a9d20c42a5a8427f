"""From the GGUF base and the shipped adapter to a model folder that every engine opens.

The adapter folder holds all that is needed: `adapter.json` says what it belongs to, and
`adapter.safetensors` holds the low-rank factors A (rank, n_in) and B (n_out, rank) of every
adapted module, and the rows of the reflection tokens. Merging is `W + alpha / rank * B @ A`
(LoRA, arXiv 2106.09685, section 4.1). Needs no torch; knows nothing
of training or PEFT.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from selfrag.engine.adapter import (
    ADAPTER_TENSORS,
    REFLECTION_ROWS,
    AdapterDescription,
    file_sha256,
    read_description,
)
from selfrag.engine.gguf_base import EMBEDDING, Tensors, read_base
from selfrag.engine.tensors import mapped_tensors
from selfrag.errors import AssetError
from selfrag.files import making_folder
from selfrag.reflection import REFLECTION_TOKENS

logger = logging.getLogger(__name__)


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
    base = read_base(gguf)
    tell("merging the adapter")
    token_ids = base.add_special_tokens([token.value for token in REFLECTION_TOKENS])
    merge_adapter(base.weights, _read_tensors(adapter), description, token_ids=token_ids)
    tell("saving the merged model")
    with making_folder(out, "the model folder", also=(SafetensorError,)) as folder:
        base.save(folder)
    logger.info("prepared %s in %.1f s", out.name, time.perf_counter() - started)
    return out


def dequantise_base(gguf: Path, out: Path) -> Path:
    """`out`, holding the plain fp32 base to train from; an `out` that exists is left as it is.

    Raises `AssetError` for a file that is no GGUF model, `StorageError` when `out` cannot be
    written.
    """
    if not out.is_dir():
        base = read_base(gguf)
        with making_folder(out, "the model folder", also=(SafetensorError,)) as folder:
            base.save(folder)
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
        low, high = (tensors[f"{module}.lora_{factor}"] for factor in "AB")
        weights[f"{module}.weight"] += np.float32(scale) * (high @ low)
    embedding = weights[EMBEDDING]
    n_missing = max(0, max(token_ids) + 1 - len(embedding))
    grown = np.concatenate([embedding, np.zeros((n_missing, embedding.shape[1]), np.float32)])
    grown[token_ids] = tensors[REFLECTION_ROWS]
    weights[EMBEDDING] = grown


def _read_tensors(adapter: Path) -> Tensors:
    path = adapter / ADAPTER_TENSORS
    try:
        return dict(mapped_tensors(path))
    except (OSError, ValueError) as error:
        raise AssetError(
            f"cannot read {path}: {error}; expected the tensors of an adapter, so restore the file"
        ) from error
