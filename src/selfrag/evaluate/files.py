"""Files that appear whole or not at all, and files that grow by whole lines."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from selfrag.errors import StorageError


def write_text(path: Path, text: str) -> None:
    """Replaces `path` in one step. Raises `StorageError`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(text.encode(errors="backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; expected a writable folder with "
            "room, so make room or name another"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` with one indented JSON value; keys keep their order."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds JSON lines after what is there, and after a line that a crash cut short."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    try:
        with path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            torn = b"" if file.read() in (b"", b"\n") else b"\n"
            file.write(torn + lines.encode())
    except OSError as error:
        raise StorageError(
            f"cannot add to {path}: {error.strerror}; expected a writable folder with room, so "
            "make room"
        ) from error


def whole_lines(path: Path) -> list[bytes]:
    """The JSON lines that a crash did not cut short: each ends with a brace. None without file."""
    if not path.is_file():
        return []
    return [line for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]


def file_name(text: str) -> str:
    """`text` with a hyphen for all that does not belong into the name of a file."""
    return "".join(sign if sign.isalnum() or sign in "-." else "-" for sign in text)
