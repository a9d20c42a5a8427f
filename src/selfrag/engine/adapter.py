"""The shipped adapter folder: what it says of itself, and the name of what is made from it.

Knows nothing of torch, so that a command can find a prepared model without importing it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from selfrag.errors import AssetError
from selfrag.reflection import REFLECTION_TOKENS

ADAPTER_FORMAT = 1
ADAPTER_DESCRIPTION = "adapter.json"
ADAPTER_TENSORS = "adapter.safetensors"
REFLECTION_ROWS = "reflection_rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDescription:
    """What `adapter.json` says: the base it belongs to and how to merge it.

    `tokens` are in the order of the rows of `reflection_rows`; `modules` are names of linear
    layers such as `model.layers.0.self_attn.q_proj`.
    """

    base_name: str
    gguf_sha256: str
    rank: int
    alpha: float
    tokens: tuple[str, ...]
    modules: tuple[str, ...]


def read_description(adapter: Path) -> AdapterDescription:
    """The description of an adapter folder; raises `AssetError` when it cannot be used."""
    path = adapter / ADAPTER_DESCRIPTION
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != ADAPTER_FORMAT:
            raise ValueError(f"format {fields['format']!r}")
        description = AdapterDescription(
            base_name=fields["base_name"],
            gguf_sha256=fields["gguf_sha256"],
            rank=fields["rank"],
            alpha=fields["alpha"],
            tokens=tuple(fields["tokens"]),
            modules=tuple(fields["modules"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(
            f"cannot use the adapter {adapter}: {error!r} in {path.name}; expected format "
            f"{ADAPTER_FORMAT}, so restore the folder or install the matching selfrag"
        ) from error
    if description.tokens != tuple(token.value for token in REFLECTION_TOKENS):
        raise AssetError(
            f"cannot use the adapter {adapter}: its tokens are {description.tokens}, not the 15 "
            "reflection tokens in their order; export it again with `train/export.py`"
        )
    return description


def prepared_name(gguf_sha256: str, adapter: Path) -> str:
    """A folder name that changes with the base, the adapter or the format: 16 hex digits."""
    digest = hashlib.sha256(f"{ADAPTER_FORMAT} {gguf_sha256}\n".encode())
    for name in (ADAPTER_DESCRIPTION, ADAPTER_TENSORS):
        digest.update(file_sha256(adapter / name).encode())
    return f"model-{digest.hexdigest()[:16]}"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex; raises `AssetError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AssetError(
            f"cannot read {path}: {error.strerror}; reinstall the package that carries it"
        ) from error
