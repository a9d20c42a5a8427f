"""A `tokenizer.json` as our `Tokenizer`: plain text in, ids out, no control ids from text.

Also reads the JSON files beside it. Knows nothing of weights. Uses the Rust `tokenizers` library
directly, which imports in milliseconds.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from selfrag.errors import EngineError


class FileTokenizer:
    """The tokenizer saved beside a model; special-token parsing is off for good."""

    def __init__(self, path: Path, *, end_of_sequence: str) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise EngineError(
                f"cannot load the tokenizer {path}: {error}; expected a Hugging Face "
                "tokenizer.json, so restore the model folder"
            ) from error
        self._tokenizer.encode_special_tokens = True  # "[Relevant]" in text becomes plain ids
        try:
            self.end_of_sequence_id = self.token_to_id(end_of_sequence)
        except KeyError as error:
            raise EngineError(
                f"cannot use the tokenizer {path}: it has no token {end_of_sequence!r}, which "
                "tokenizer_config.json names as the end of sequence; restore the model folder"
            ) from error
        self.start_ids = self._start_ids()

    def encode(self, text: str) -> list[int]:
        """Ids of `text` read as plain text, nothing added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _start_ids(self) -> tuple[int, ...]:
        """What the tokenizer's own template puts before a text, as it did in pre-training."""
        plain = self.encode("a")
        whole = list(self._tokenizer.encode("a", add_special_tokens=True).ids)
        n_before = len(whole) - len(plain)
        while n_before and whole[n_before : n_before + len(plain)] != plain:
            n_before -= 1
        return tuple(whole[:n_before])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ordinary ids; special and reflection ids are left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def token_to_id(self, token: str) -> int:
        """The id of one vocabulary entry; raises `KeyError` when there is none."""
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise KeyError(token)
        return int(token_id)


def end_of_sequence(path: Path) -> str:
    """The surface of the end token, from `tokenizer_config.json` in a model folder."""
    token = _read_json(path / "tokenizer_config.json").get("eos_token")
    surface = token.get("content") if isinstance(token, dict) else token
    if not isinstance(surface, str):
        raise EngineError(
            f"cannot learn the end token from {path / 'tokenizer_config.json'}: found {token!r}; "
            "expected a JSON object with eos_token, so restore the model folder"
        )
    return surface


def read_model_config(path: Path) -> dict[str, Any]:
    """`config.json` of a model folder; raises `EngineError`."""
    return _read_json(path / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"cannot load a model: {path} is not readable ({error}); expected a JSON file of a "
            "model folder, so restore the folder"
        ) from error
    if not isinstance(data, dict):
        raise EngineError(
            f"cannot load a model: {path} holds no JSON object; restore the model folder"
        )
    return data
