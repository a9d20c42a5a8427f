"""The tensors of a safetensors file as numpy arrays that view the mapped file, bf16 as fp32.

Knows nothing of what they are the weights of.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "U16": np.uint16}


def mapped_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors by name, read-only; raises `OSError`, and `ValueError` for a damaged file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= path.stat().st_size - 8:
            raise ValueError(f"{path.name} does not begin with the header of a safetensors file")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + size).view(np.ndarray)
    return {
        name: _viewed(data[slice(*entry["data_offsets"])], entry["dtype"]).reshape(entry["shape"])
        for name, entry in header.items()
    }


def _viewed(data: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    """Bytes as numbers; numpy knows no bf16, so that becomes fp32."""
    if kind == "BF16":
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind not in _TYPES:
        raise ValueError(f"a tensor of type {kind}, which is none of {', '.join(_TYPES)} and BF16")
    return data.view(_TYPES[kind])
