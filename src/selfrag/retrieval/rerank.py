"""Hits put in a new order by a cross-encoder, which reads a query and a passage together.

Nogueira and Cho, "Passage Re-ranking with BERT" (arXiv 1901.04085). Knows nothing of indexes.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import AssetError, ConfigError, MissingPackage
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import Retriever
from selfrag.retrieval.fusion import block_ends

FloatArray = NDArray[np.float32]


class CrossEncoder(Protocol):
    """Anything that scores how well passages answer queries."""

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> FloatArray:
        """Shape (n_pairs,) float32, in order; higher is better, for one query at least."""
        ...


class Reranker:
    """A retriever that fetches `n_candidates` hits of another and puts them in order anew."""

    def __init__(
        self,
        retriever: Retriever,
        encoder: CrossEncoder,
        *,
        n_candidates: int = 20,
        weight: float = 1.0,
    ) -> None:
        """`weight` is the share of `encoder` in the new order, the old scores have the rest.

        Raises `ConfigError` for less than one candidate or a weight outside 0 to 1.
        """
        if n_candidates < 1:
            raise ConfigError(
                f"cannot rerank: n_candidates is {n_candidates}, expected at least 1; set it higher"
            )
        if not 0 <= weight <= 1:
            raise ConfigError(
                f"cannot rerank: the weight is {weight}, expected 0 (the order that is there) to 1 "
                "(the cross-encoder alone); set it between"
            )
        self._retriever = retriever
        self._encoder = encoder
        self._n_candidates = n_candidates
        self._weight = weight

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """For every query at most `top_k` hits, best first, ranks from 1.

        `Hit.score` is that of the cross-encoder; with a weight below 1 it is the weighted mean of
        both scores, each put to 0 for the lowest and 1 for the highest of the candidates. Ties stay
        in the order of the inner retriever. Where `top_k` is more than `n_candidates`, hits beyond
        these are put in order among themselves, 3 `n_candidates` more, then 12, so that the first
        hits are the same whatever `top_k` is; their scores are at most that of the hit before them.
        """
        if not top_k:
            return [[] for _ in queries]
        ends = block_ends(top_k, first=self._n_candidates)
        found = self._retriever.search(queries, ends[-1])
        scores = self._encoder.score(
            [
                (query, hit.passage)
                for query, hits in zip(queries, found, strict=True)
                for hit in hits
            ]
        )
        starts = np.cumsum([0, *map(len, found)])
        return [
            self._reordered(hits, scores[start : start + len(hits)], ends)[:top_k]
            for hits, start in zip(found, starts, strict=False)
        ]

    def _reordered(self, hits: Sequence[Hit], scores: FloatArray, ends: Sequence[int]) -> list[Hit]:
        ordered: list[Hit] = []
        for first, end in pairwise([0, *ends]):
            block, own = hits[first:end], scores[first:end]
            if self._weight < 1 and block:
                before = np.array([hit.score for hit in block], dtype=np.float32)
                own = self._weight * _spread(own) + (1 - self._weight) * _spread(before)
            highest = ordered[-1].score if ordered else np.inf
            ordered += [
                Hit(
                    passage=block[row].passage,
                    score=min(float(own[row]), highest),
                    rank=first + rank,
                )
                for rank, row in enumerate(np.argsort(-own, kind="stable").tolist(), start=1)
            ]
        return ordered


def _spread(scores: FloatArray) -> FloatArray:
    """The scores from 0 to 1; all 1 where they are equal."""
    width = np.ptp(scores)
    return (scores - scores.min()) / width if width else np.ones_like(scores)


class OnnxCrossEncoder:
    """The packaged reranker (`reranker` in `assets.toml`): BERT of two classes in int8, on the CPU.

    It reads `Query: ...` and `Sentence: ...` as one text; the score is the log-odds that the
    passage answers, the difference of the two logits.
    """

    def __init__(self, path: Path, *, max_tokens: int = 512) -> None:
        """Loads `model.onnx` and `tokenizer.json` of the folder `path`.

        Raises `AssetError` where they cannot be read.
        """
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingPackage(
                f"cannot load the reranker: a package is missing ({error}), expected onnxruntime "
                'installed; run pip install "selfrag[rerank]"'
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # warnings of the optimiser are nothing to a user
        options.intra_op_num_threads = 1  # matrices are small: two threads double the CPU time
        try:
            self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            self._session = onnxruntime.InferenceSession(
                str(path / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # both raise classes of their own, straight below Exception
            raise _not_loaded(path, error) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> FloatArray:
        """Shape (n_pairs,) float32, nats, in order."""
        texts = [f"Query: {query}\nSentence: {_text(passage)}" for query, passage in pairs]
        # One by one: the scale of int8 activations is taken over the batch, so that the score of a
        # pair would change with its neighbours.
        encoded = self._tokenizer.encode_batch(texts)
        return np.array([self._log_odds(text.ids) for text in encoded], dtype=np.float32)

    def _log_odds(self, token_ids: Sequence[int]) -> float:
        ids = np.array([token_ids], dtype=np.int64)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        ((no, yes),) = self._session.run(None, inputs)[0]
        return float(yes - no)


class SentenceTransformerCrossEncoder:
    """Any cross-encoder with one output that sentence-transformers can load, on the CPU."""

    def __init__(self, name: str, *, batch_size: int = 32, max_tokens: int | None = None) -> None:
        """Loads the model of a folder, or by its name on the hub, which downloads it once.

        Raises `AssetError` when there is none, or one with several outputs.
        """
        try:
            from sentence_transformers import CrossEncoder as Model
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise MissingPackage(
                f"cannot load the reranker: a package is missing ({error}), expected "
                'sentence-transformers installed; run pip install "selfrag[encoders]"'
            ) from error
        disable_progress_bar()
        is_folder = Path(name).is_dir()
        try:
            self._model = Model(
                name, device="cpu", max_length=max_tokens, local_files_only=is_folder
            )
        except (OSError, ValueError, KeyError) as error:
            raise _not_loaded(Path(name), error) from error
        if self._model.num_labels != 1:
            raise _not_loaded(Path(name), ValueError(f"{self._model.num_labels} outputs, not 1"))
        self._batch_size = batch_size

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> FloatArray:
        """Shape (n_pairs,) float32, in the model's own unit, in order."""
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        texts = [(query, _text(passage)) for query, passage in pairs]
        scores = self._model.predict(texts, batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(scores, dtype=np.float32)


def _text(passage: Passage) -> str:
    return f"{passage.title}. {passage.text}" if passage.title else passage.text


def _not_loaded(path: Path, error: Exception) -> AssetError:
    first = (str(error).strip().splitlines() or [repr(error)])[0]
    return AssetError(
        f"cannot load the reranker from {path}: found {first!r}, expected a cross-encoder with one "
        "output, or the packaged one; name its folder, or fetch it again"
    )
