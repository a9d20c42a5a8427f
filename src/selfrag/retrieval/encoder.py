"""Texts as unit vectors: the seam to embedding models, and sentence-transformers behind it.

Knows nothing of passages or indexes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import AssetError, SelfRAGError


class Encoder(Protocol):
    """Anything that turns texts into vectors whose inner product is their similarity."""

    @property
    def name(self) -> str:
        """What an index records, so that no other encoder queries it."""
        ...

    @property
    def dim(self) -> int:
        """Components of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, dim) float32, rows of length 1, in order; no text gives (0, dim)."""
        ...


class SentenceTransformerEncoder:
    """A sentence-transformers model from a folder on this machine; nothing is downloaded.

    Importing the library costs about 2.6 s on top of torch and transformers (2-core AVX2
    machine, mostly scikit-learn), so it happens here and not when this module is imported.
    """

    def __init__(self, path: Path, *, name: str, batch_size: int = 64) -> None:
        """Loads the model. Raises `AssetError` when `path` does not hold one."""
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise SelfRAGError(
                f"cannot load encoder {name!r}: found no usable package sentence-transformers "
                f'({error}), expected it installed; run pip install "selfrag[retrieval]"'
            ) from error
        disable_progress_bar()  # else loading draws one on stderr, under the command line's own
        try:
            if not path.is_dir():  # else the library takes the path for a name on the hub
                raise NotADirectoryError("no such folder")
            self._model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
        except (OSError, ValueError) as error:
            raise AssetError(
                f"cannot load encoder {name!r} from {path}: found {_first_line(error)!r}, expected "
                "a sentence-transformers model folder; fetch the model again or name its folder"
            ) from error
        self._batch_size = batch_size
        self.name = name
        self.dim = int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, dim) float32, rows of length 1, in order; texts are cut at 256 tokens.

        The limit is the model's own (MiniLM: 256). Batches are sorted by length by the library.
        """
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = self._model.encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
