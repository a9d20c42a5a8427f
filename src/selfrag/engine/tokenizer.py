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
from selfrag.prompt import require_unforgeable
from selfrag.text import require_text

# Put before a text to have it read as one that does not begin the prompt. Of no script, so that no
# text holds it by chance.
_ANCHOR = "\U0010fade\U0010beef"


def open_tokenizer(folder: Path) -> "FileTokenizer":
    """The tokenizer of a model folder; raises `EngineError` where there is none."""
    return FileTokenizer(folder / "tokenizer.json", end_of_sequence=end_of_sequence(folder))


class FileTokenizer:
    """The tokenizer saved beside a model; special-token parsing is off for good.

    Without a `tokenizer.json` at `path`, transformers converts what is in its folder.
    """

    def __init__(self, path: Path, *, end_of_sequence: str) -> None:
        self._tokenizer = _load(path)
        try:
            self.end_of_sequence_id = self.token_to_id(end_of_sequence)
        except KeyError as error:
            raise EngineError(
                f"cannot use the tokenizer {path}: it has no token {end_of_sequence!r}, which "
                "tokenizer_config.json names as the end of sequence; restore the model folder"
            ) from error
        self.start_ids = self._start_ids()
        # What follows a control id is read as in one string with it.
        together = self._tokenizer.encode(f"{end_of_sequence}a", add_special_tokens=False).ids[1:]
        self._tokenizer.encode_special_tokens = True  # "[Relevant]" in text becomes plain ids
        self._anchored = self._tokenizer if together == self.encode("a") else _anchored(path)
        require_unforgeable(self, [end_of_sequence], model=f"the tokenizer {path}")

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Ids of `text` read as plain text, nothing added; `continues`: after a control id.

        Raises `BadInput` for what is no Unicode text.
        """
        require_text(text)
        if continues and self._anchored is not self._tokenizer and _ANCHOR not in text:
            return list(self._anchored.encode(_ANCHOR + text, add_special_tokens=False).ids)[1:]
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


def _load(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file() and path.parent.is_dir():
        return _converted(path.parent)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        raise EngineError(
            f"cannot load the tokenizer {path}: {error}; expected a Hugging Face "
            "tokenizer.json, so restore the model folder"
        ) from error


def _converted(folder: Path) -> tokenizers.Tokenizer:
    """What transformers makes of `tokenizer.model` or of vocabulary and merges."""
    try:
        from transformers import AutoTokenizer

        made = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        return tokenizers.Tokenizer.from_str(made.to_str())
    except Exception as error:  # of every kind: a missing package, no such file, a damaged one
        raise EngineError(
            f"cannot load the tokenizer of {folder}: it has no tokenizer.json, and conversion of "
            f"what is there fails ({str(error).strip().partition(chr(10))[0]}); expected a "
            'tokenizer of a model folder, so restore it, and run `pip install "selfrag[train]"` '
            "where a package is missing"
        ) from error


def _anchored(path: Path) -> tokenizers.Tokenizer:
    """The same tokenizer with the anchor as a token, outside the model's vocabulary."""
    tokenizer = _load(path)
    tokenizer.encode_special_tokens = True
    # Not special, as special tokens are not looked for.
    tokenizer.add_tokens([tokenizers.AddedToken(_ANCHOR, normalized=False, special=False)])
    return tokenizer


def end_of_sequence(folder: Path) -> str:
    """The surface of the end token of a model folder, by the first of its files that names one."""
    found: Any = None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        found = _read_json(path).get("eos_token") if path.is_file() else None
        surface = found.get("content") if isinstance(found, dict) else found
        if isinstance(surface, str):
            return surface
    ids = read_model_config(folder).get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    surface = _load(folder / "tokenizer.json").id_to_token(first) if type(first) is int else None
    if not isinstance(surface, str):
        raise EngineError(
            f"cannot learn the end token of {folder}: tokenizer_config.json says {found!r} and "
            f"config.json {ids!r}; expected eos_token in the former, so restore the model folder"
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
