"""Texts as vectors: the seam to embedding models, and two ways to run one.

Knows nothing of passages or indexes.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from selfrag.errors import AssetError, MissingPackage
from selfrag.passage import Passage
from selfrag.retrieval.spec import EncoderSpec, Metric, Precision, Recipe

_MAX_TOKENS = 512  # the limit of BERT, where a folder names none


class Encoder(Protocol):
    """Anything that turns texts into vectors, as its `spec` says."""

    @property
    def spec(self) -> EncoderSpec:
        """What an index records, so that no other encoder queries it."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, dim) float32, in order, without prefixes; no text gives (0, dim)."""
        ...


@runtime_checkable
class TokenSpans(Protocol):
    """An encoder that tells the tokens of a text: passages can be cut to what it reads."""

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Offsets of the tokens of the whole text, in order, without the marks around it."""
        ...


def encode_queries(encoder: Encoder, queries: Sequence[str]) -> NDArray[np.float32]:
    """Shape (n_queries, dim) float32: queries with the prefix that the encoder asks for."""
    return encoder.encode([encoder.spec.query_text(query) for query in queries])


def encode_passages(encoder: Encoder, passages: Sequence[Passage]) -> NDArray[np.float32]:
    """Shape (n_passages, dim) float32: titles and texts with the encoder's prefix."""
    return encoder.encode([encoder.spec.passage_text(passage) for passage in passages])


class SentenceTransformerEncoder:
    """Any sentence-transformers model, from a folder on this machine; nothing is downloaded.

    The library, with torch and transformers, takes many seconds to import. For a mean-pooled BERT
    model `MeanPoolingEncoder` gives the same vectors without it.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        batch_size: int = 64,
        max_tokens: int | None = None,
        recipe: Recipe | None = None,
        precision: Precision = Precision.FP32,
        device: str = "cpu",
    ) -> None:
        """Loads the model. Raises `AssetError` when `path` does not hold one.

        Without a `recipe` the folder says how it is used. An empty `device` is the best there is.
        """
        with loading(name, path):
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()  # else loading draws one on stderr, under the command line's own
            dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
            self._model = SentenceTransformer(
                str(path),
                device=device or None,
                local_files_only=True,
                model_kwargs={"dtype": dtype},
            )
            recipe = recipe or recipe_of(path)
        limit = max_tokens or recipe.max_tokens
        self._model.max_seq_length = min(limit, int(self._model.max_seq_length or limit))
        self._batch_size = batch_size
        self.spec = recipe.spec(
            name,
            dim=int(self._model.get_embedding_dimension() or 0),
            max_tokens=int(self._model.max_seq_length),
            pooling=_pooling_of(self._model),
            precision=precision,
        )

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, dim) float32, in order; no text gives (0, dim).

        Texts are cut at the spec's `max_tokens`.
        """
        if not texts:
            return np.zeros((0, self.spec.dim), dtype=np.float32)
        vectors = self._model.encode(
            list(texts),
            prompt="",  # prefixes are in the texts
            batch_size=self._batch_size,
            normalize_embeddings=self.spec.normalised,
            convert_to_numpy=False,
            convert_to_tensor=True,  # numpy has no bfloat16
            show_progress_bar=False,
        )
        return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Offsets of the tokens of the whole text, in order; none where its tokenizer has none."""
        tokenizer = self._model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            return []
        options = {"add_special_tokens": False, "truncation": False, "verbose": False}
        found = tokenizer(text, return_offsets_mapping=True, **options)
        return [(start, end) for start, end in found["offset_mapping"]]


class MeanPoolingEncoder:
    """A BERT model whose vector is the mean of its last states, such as MiniLM or Contriever.

    The recipe of the model card of sentence-transformers/all-MiniLM-L6-v2, on numpy and the Rust
    tokenizer, so that a question need not wait for torch.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        batch_size: int = 64,
        max_tokens: int | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Loads the model. Raises `AssetError` when `path` does not hold one."""
        with loading(name, path):
            from selfrag.retrieval.encoder.bert import Bert

            require_mean_pooling(path)
            recipe = recipe or recipe_of(path)
            self._model = Bert(path)
            limit = min(max_tokens or recipe.max_tokens, self._model.max_tokens)
            self._tokenizer = open_tokenizer(path, max_tokens=limit)
        self._batch_size = batch_size
        self.spec = recipe.spec(name, dim=self._model.dim, max_tokens=limit)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, dim) float32, in order; no text gives (0, dim).

        Texts are cut at the spec's `max_tokens`.
        """
        vectors = np.zeros((len(texts), self.spec.dim), dtype=np.float32)
        for first in range(0, len(texts), self._batch_size):
            batch = self._tokenizer.encode_batch(list(texts[first : first + self._batch_size]))
            for row, states in enumerate(self._model.states([text.ids for text in batch]), first):
                vectors[row] = states.mean(axis=0)
        return unit_rows(vectors) if self.spec.normalised else vectors

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Offsets of the tokens of the whole text, in order."""
        return spans_of_tokens(self._tokenizer, text)


def spans_of_tokens(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Offsets of all tokens of a text, also of those that the tokenizer would cut off."""
    found = tokenizer.encode(text, add_special_tokens=False)
    return [span for part in (found, *found.overflowing) for span in part.offsets]


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def open_tokenizer(path: Path, *, max_tokens: int) -> Tokenizer:
    """The Rust tokenizer of a folder, which cuts and does not pad; `ValueError` where it is bad."""
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the Rust side raises bare Exception
        raise ValueError(f"tokenizer.json: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def recipe_of(path: Path) -> Recipe:
    """Prefixes, normalisation and limit as the folder `path` has them.

    Raises `OSError` and `ValueError` for files that cannot be read.
    """
    use = _read_json(path / "config_sentence_transformers.json")
    prompts = use.get("prompts") or {}
    return Recipe(
        normalised=use.get("similarity_fn_name") != Metric.DOT.value,
        query_prefix=prompts.get("query") or "",
        passage_prefix=prompts.get("passage") or prompts.get("document") or "",
        max_tokens=_read_json(path / "sentence_bert_config.json").get("max_seq_length")
        or _MAX_TOKENS,
    )


def require_mean_pooling(path: Path) -> None:
    """Raises `ValueError` where the folder says that vectors are more than the mean of states."""
    if not (path / "modules.json").is_file():
        return
    for module in json.loads((path / "modules.json").read_text(encoding="utf-8")):
        kind = str(module["type"]).rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(f"a model with a module {kind}, expected mean pooling alone")
        modes = _pooling_modes(_read_json(path / module["path"] / "config.json"))
        if kind == "Pooling" and modes != ["mean"]:
            raise ValueError(f"a model pooled by {modes}, expected the mean")


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    """Both spellings: `pooling_mode` of new folders, a switch for each mode in old ones."""
    mode = config.get("pooling_mode")
    if mode is not None:
        return [mode] if isinstance(mode, str) else list(mode)
    start, switches = "pooling_mode_", {"mean_tokens": "mean", "cls_token": "cls"}
    names = [
        name.removeprefix(start) for name, on in config.items() if name.startswith(start) and on
    ]
    return [switches.get(name, name) for name in names]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _pooling_of(model: Any) -> str:
    modes = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    return "+".join(mode if isinstance(mode, str) else "+".join(mode) for mode in modes) or "own"


@contextmanager
def loading(name: str, path: Path) -> Iterator[None]:
    """Turns what the libraries raise while they load a model into one sentence of ours."""
    try:
        if not path.is_dir():  # else they take the path for a name on the hub
            raise NotADirectoryError("no such folder")
        yield
    except ImportError as error:
        extra = "retrieval" if str(error.name).startswith("onnx") else "encoders"
        raise MissingPackage(
            f"cannot load encoder {name!r}: a package is missing ({error}), expected it installed; "
            f'run pip install "selfrag[{extra}]"'
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(
            f"cannot load encoder {name!r} from {path}: found "
            f"{str(error).strip().splitlines()[0]!r}, expected the folder of an embedding model; "
            "fetch the model again or name its folder"
        ) from error
