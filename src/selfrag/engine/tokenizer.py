"""A `tokenizer.json` as our `Tokenizer`: plain text in, ids out, no control ids from text.

Knows nothing of models. Uses the Rust `tokenizers` library directly, which imports in milliseconds.
"""

from collections.abc import Sequence
from pathlib import Path

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
        self.end_of_sequence_id = self.token_to_id(end_of_sequence)
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
