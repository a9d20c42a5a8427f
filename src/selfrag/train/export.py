"""From a PEFT checkpoint to the adapter folder that is shipped (docs/formats.md), and back.

The folder is what `engine/prepare.py` reads: bf16 factors by module, and the rows of the
reflection tokens. Knows nothing of how the adapter was trained.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from selfrag.engine.adapter import (
    ADAPTER_DESCRIPTION,
    ADAPTER_FORMAT,
    ADAPTER_TENSORS,
    REFLECTION_ROWS,
    AdapterDescription,
)
from selfrag.errors import BadInput
from selfrag.files import storage_errors, write_json
from selfrag.reflection import REFLECTION_TOKENS
from selfrag.train.checkpoints import require_sound

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]

# PEFT replaces rows by these and never adds them, whatever the name says
# (peft 0.21, tuners/trainable_tokens/layer.py, `update_layer` and `get_merged_weights`).
_TOKEN_ADAPTER = ".token_adapter."
_TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"
_PREFIX = "base_model.model."

# Options under which an adapter is not `alpha / rank * B @ A` for one rank; all are off here.
_UNSUPPORTED = (
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "use_dora",
    "use_qalora",
    "use_rslora",
)


def export_adapter(peft_folder: Path, out: Path, *, base_name: str, gguf_sha256: str) -> Path:
    """`out`, holding the adapter of `peft_folder` in bf16; files already there are replaced.

    `base_name` and `gguf_sha256` name the base file that the adapter is to be merged into.
    Raises `BadInput` for a folder that is no LoRA checkpoint of ours.
    """
    config, saved = _read_checkpoint(peft_folder)
    tensors = _rename(saved, peft_folder)
    n_rows = len(tensors[REFLECTION_ROWS])
    if n_rows != len(REFLECTION_TOKENS):
        raise BadInput(
            f"cannot export {peft_folder}: it trained {n_rows} token rows, expected the "
            f"{len(REFLECTION_TOKENS)} reflection tokens; train with `train/run.py`"
        )
    modules = sorted({name.rpartition(".")[0] for name in tensors if name != REFLECTION_ROWS})
    description = AdapterDescription(
        base_name=base_name,
        gguf_sha256=gguf_sha256,
        rank=config["r"],
        alpha=config["lora_alpha"],
        tokens=tuple(token.value for token in REFLECTION_TOKENS),
        modules=tuple(modules),
    )
    save_adapter(out, description, tensors)
    logger.info("exported %d modules to %s", len(modules), out)
    return out


def start_from(model: Any, adapter: Path) -> None:
    """Sets the LoRA factors and token rows of a PEFT `model`, in place, to those of `adapter`.

    Raises `BadInput` for a folder that is no adapter, and where the two do not have the same
    modules and shapes.
    """
    try:
        tensors = dict(load_file(adapter / ADAPTER_TENSORS))
        rows = tensors.pop(REFLECTION_ROWS)
    except (OSError, KeyError, SafetensorError) as error:
        raise BadInput(
            f"cannot start from {adapter}: {error}; expected an adapter folder as shipped, with "
            f"{ADAPTER_TENSORS}, so name one"
        ) from error
    require_sound([*tensors.items(), (REFLECTION_ROWS, rows)], f"start from {adapter}")
    targets = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    found = {name: rows for name in targets if "token_adapter" in name}
    for name, tensor in tensors.items():
        found[f"{_PREFIX}{name}.default.weight"] = tensor
    differing = targets.keys() ^ found.keys()
    differing |= {n for n in targets.keys() & found.keys() if targets[n].shape != found[n].shape}
    if differing:
        raise BadInput(
            f"cannot start from {adapter}: {len(differing)} tensors do not fit the model, "
            f"{min(differing)!r} among them; expected an adapter of this base and LoRA rank"
        )
    with torch.no_grad():
        for name, parameter in targets.items():
            parameter.copy_(found[name])


def _read_checkpoint(folder: Path) -> tuple[dict[str, Any], Tensors]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = dict(load_file(folder / "adapter_model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(
            f"cannot export {folder}: {error}; expected a PEFT checkpoint, a folder with "
            "adapter_config.json and adapter_model.safetensors"
        ) from error
    used = [name for name in _UNSUPPORTED if config.get(name)]
    if used:
        raise BadInput(
            f"cannot export {folder}: it was trained with {', '.join(used)}, which the adapter "
            "format does not hold; train with plain LoRA"
        )
    return config, tensors


def _rename(saved: Tensors, folder: Path) -> Tensors:
    """Tensors by our names, bf16: `base_model.model.X.lora_A.weight` becomes `X.lora_A`."""
    tensors = {REFLECTION_ROWS: _token_rows(saved, folder)}
    for name, tensor in saved.items():
        ours = name.removeprefix(_PREFIX).removesuffix(".weight")
        if ours.endswith((".lora_A", ".lora_B")):
            tensors[ours] = tensor
        elif _TOKEN_ADAPTER not in name:
            raise BadInput(
                f"cannot export {folder}: found the tensor {name!r}, expected LoRA factors and "
                "token rows only; train with `train/run.py`"
            )
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}


def _token_rows(saved: Tensors, folder: Path) -> torch.Tensor:
    """The trained rows (n_tokens, dim); PEFT repeats those of the embedding for a tied head."""
    found = [tensor for name, tensor in saved.items() if name.endswith(_TOKEN_ROWS)]
    if not found or any(not torch.equal(found[0], other) for other in found[1:]):
        raise BadInput(
            f"cannot export {folder}: found {len(found)} different sets of token rows, expected "
            "one that embedding and head share; train a base with a tied head by `train/run.py`"
        )
    return found[0]


def save_adapter(out: Path, description: AdapterDescription, tensors: Tensors) -> None:
    """Writes an adapter folder; raises `StorageError` when it cannot be written."""
    require_sound(tensors.items(), f"write the adapter {out}")
    with storage_errors(f"write the adapter {out}", also=(SafetensorError,)):
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / ADAPTER_TENSORS)
        write_json(out / ADAPTER_DESCRIPTION, {"format": ADAPTER_FORMAT, **asdict(description)})
