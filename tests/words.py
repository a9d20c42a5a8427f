"""A small encoder for tests: no model, and texts with the same words are alike."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfrag.retrieval.spec import EncoderSpec


class WordEncoder:
    """Counts of hashed lower-case words, normalised."""

    def __init__(self, name: str = "words", dim: int = 64) -> None:
        self.spec = EncoderSpec(name=name, dim=dim)
        self.n_calls = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.n_calls += 1
        vectors = np.zeros((len(texts), self.spec.dim), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                vector[int(hashlib.md5(word.encode()).hexdigest(), 16) % self.spec.dim] += 1
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-9)
