"""The tensors of a safetensors file as numpy arrays that view the mapped file.

numpy knows no bf16, so such a tensor becomes a new one in fp32 each time that it is asked for.

Knows nothing of what they are the weights of.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "U16": np.uint16,
    "BF16": np.uint16,
}


def mapped_tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    """All tensors by name, read-only; raises `OSError`, and `ValueError` for a damaged file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= path.stat().st_size - 8:
            raise ValueError(f"{path.name} does not begin with the header of a safetensors file")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + size).view(np.ndarray)
    whole = max((each["data_offsets"][1] for each in header.values()), default=0)
    if len(data) < whole:
        raise ValueError(f"{path.name} is cut: {len(data)} bytes of tensors, {whole} in its header")
    return _Tensors(
        {
            name: _viewed(data[slice(*each["data_offsets"])], each["dtype"]).reshape(each["shape"])
            for name, each in header.items()
        },
        {name for name, each in header.items() if each["dtype"] == "BF16"},
    )


def told(error: Exception) -> str:
    """What went wrong with a file of tensors; a `KeyError` holds the bare name of one."""
    return f"it has no tensor {error}" if isinstance(error, KeyError) else str(error)


class _Tensors(Mapping[str, NDArray[Any]]):
    """Arrays by name; those of `halves` hold the bits of bf16."""

    def __init__(self, arrays: dict[str, NDArray[Any]], halves: set[str]) -> None:
        self._arrays, self._halves = arrays, halves

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = self._arrays[name]
        if name not in self._halves:
            return array
        return (array.astype(np.uint32) << 16).view(np.float32)

    def __contains__(self, name: object) -> bool:  # that of Mapping would expand the tensor
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _viewed(data: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    if kind not in _TYPES:
        raise ValueError(f"a tensor of type {kind}, which is none of {', '.join(_TYPES)}")
    return data.view(_TYPES[kind])
