"""Files that appear whole or not at all."""

import json
import os
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
