"""The vocabulary inside a GGUF file as our `Tokenizer`, by llama.cpp's own tokeniser.

Knows nothing of weights.
"""

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from selfrag.engine.llama_h import CONTROL, SENTENCEPIECE, USER_DEFINED, Owned, llama, token_array
from selfrag.errors import EngineError
from selfrag.prompt import require_unforgeable
from selfrag.reflection import REFLECTION_TOKENS
from selfrag.text import require_text

# A byte of its own in vocabularies of SentencePiece: text after it gets no space in front.
_ANCHOR = "\n"


class GgufTokenizer:
    """The vocabulary of a GGUF file; no text becomes a control or a user-defined id.

    llama.cpp looks for user-defined tokens in every text, and many GGUF files mark the reflection
    tokens so: texts that spell one are cut inside it and read in parts. Raises `EngineError` where
    the file is no GGUF.
    """

    def __init__(self, path: Path) -> None:
        self._llama = llama()
        params = self._llama.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        self._owned = Owned(self)
        model = self._owned.take(self._llama.llama_model_free, load_model(path, params))
        self._vocab = self._llama.llama_model_get_vocab(model)
        n_tokens = self._llama.llama_vocab_n_tokens(self._vocab)
        surfaces = [self._llama.llama_vocab_get_text(self._vocab, i) for i in range(n_tokens)]
        attributes = [self._llama.llama_vocab_get_attr(self._vocab, i) for i in range(n_tokens)]
        self._ids = {text.decode(errors="replace"): i for i, text in enumerate(surfaces)}
        self._unsaid = {i for i, kind in enumerate(attributes) if kind & CONTROL}
        self._unsaid |= {self._ids[t] for t in REFLECTION_TOKENS if t in self._ids}
        self._names = [
            text
            for text, i in self._ids.items()
            if attributes[i] & USER_DEFINED and len(text.strip()) > 1
        ]
        self.end_of_sequence_id = int(self._llama.llama_vocab_eos(self._vocab))
        self.n_tokens = n_tokens
        self._has_space_before = (
            self._llama.llama_vocab_type(self._vocab) == SENTENCEPIECE
            and self._read("a") != self._read(f"{_ANCHOR}a")[-1:]
        )
        starts = self._llama.llama_vocab_get_add_bos(self._vocab)
        self.start_ids = (int(self._llama.llama_vocab_bos(self._vocab)),) if starts else ()
        if self.end_of_sequence_id < 0:
            raise EngineError(
                f"cannot use the vocabulary of {path}: it names no end of sequence, expected "
                "tokenizer.ggml.eos_token_id; convert the model again"
            )
        end = surfaces[self.end_of_sequence_id].decode()
        require_unforgeable(self, [end], model=f"the vocabulary of {path}")

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Ids of `text` read as plain text, nothing added.

        llama.cpp reads a text after a control id as it reads one that begins. Raises `BadInput`
        for what is no Unicode text.
        """
        first, *others = self._parts(require_text(text))
        ids = self._read(first)
        for part in others:
            if self._has_space_before:
                ids += self._read(_ANCHOR + part)[len(self._read(_ANCHOR)) :]
            else:
                ids += self._read(part)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ordinary ids; control and reflection ids are left out."""
        ids = [i for i in token_ids if i not in self._unsaid]
        n = 0
        while True:
            text = ctypes.create_string_buffer(-n or 1)
            room, array = len(text), token_array(ids)
            n = self._llama.llama_detokenize(self._vocab, array, len(ids), text, room, False, False)
            if n >= 0:  # else what it needs, negative
                return text.raw[:n].decode(errors="replace")

    def token_to_id(self, token: str) -> int:
        """The id of one vocabulary entry; raises `KeyError` when there is none."""
        return self._ids[token]

    def _parts(self, text: str) -> list[str]:
        """`text`, cut after the first character of every user-defined token that it spells."""
        cuts = {0, len(text)}
        for name in self._names:
            at = text.find(name)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(name, at + 1)
        ends = sorted(cuts)
        return [text[a:b] for a, b in pairwise(ends)] or [""]

    def _read(self, text: str) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        n = self._llama.llama_tokenize(self._vocab, data, len(data), ids, room, False, False)
        return list(ids[: max(n, 0)])


def load_model(path: Path, params: ctypes.Structure) -> int:
    """llama.cpp's handle of a model; raises `EngineError`."""
    model = llama().llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise EngineError(
            f"cannot load the model {path}: llama.cpp says {llama().complaint()}; expected a "
            "GGUF file of an architecture that it knows, and memory for it, so name another"
        )
    return int(model)
