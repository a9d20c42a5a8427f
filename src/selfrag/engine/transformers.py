"""A language model on Hugging Face transformers: greedy decoding of batches on CPU or GPU.

Knows nothing of Self-RAG: it completes ids with ids and reports log-probabilities. Owns `torch`
and `transformers`; import it only where a model is about to run, as they take seconds to import.
"""

import inspect
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.engine.batching import (
    CACHE_BYTES,
    BatchedEngine,
    Batcher,
    Draft,
    Next,
    Row,
    Step,
    steps_of,
)
from selfrag.engine.tokenizer import open_tokenizer
from selfrag.errors import EngineError, MissingPackage

try:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache
    from transformers.cache_utils import DynamicLayer
    from transformers.utils import logging as transformers_logging
except ImportError as error:
    raise MissingPackage(
        f"cannot start the transformers engine: {error}; it needs torch and transformers, "
        'so run `pip install "selfrag[engine]"`'
    ) from error

logger = logging.getLogger(__name__)


class TransformersEngine(BatchedEngine):
    """A causal language model folder (config, safetensors, tokenizer.json) as an `Engine`.

    `n_threads` sets torch's threads for the whole process; `None` leaves them. `max_batch` is in
    rows; `cache_bytes` bounds what is kept for later calls, on the device. Raises `EngineError`
    where the folder does not hold a model.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        n_threads: int | None = None,
        max_batch: int = 16,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        started = time.perf_counter()
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        tokenizer = open_tokenizer(path)
        model = _CausalModel(_load_model(path, dtype).to(device), name)
        is_plain = model.has_plain_cache()
        batcher = Batcher(
            model,
            name=name,
            max_context=int(model.config.max_position_embeddings),
            max_batch=max_batch,
            cache_bytes=cache_bytes,
            share=is_plain,
            guess=is_plain,
        )
        super().__init__(batcher, tokenizer)
        logger.info("loaded %s in %.1f s", name, time.perf_counter() - started)


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """Keys and values of consecutive positions, by layer, (n_kv_heads, n, head_dim) each."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def n(self) -> int:
        return int(self.layers[0][0].shape[1])


class _CausalModel:
    """The model as `batching.Model`."""

    def __init__(self, model: Any, name: str) -> None:
        self._model = model
        self._name = name
        self.config = model.config
        # transformers 5.24 renamed the argument.
        accepted = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in accepted else "past_key_values"

    def has_plain_cache(self) -> bool:
        """Whether every layer keeps keys and values of all positions.

        Sliding windows and recurrent states cannot be taken apart by position, nor go back.
        """
        layers = DynamicCache(config=self.config).layers
        return all(type(layer) is DynamicLayer for layer in layers)

    def read(self, rows: Sequence[Row[_Span]]) -> "_Batch":
        """One pass; what is known and what is new are each padded on the left."""
        cache = DynamicCache(config=self.config)
        n_known = max(row.known.n for row in rows)
        if n_known:
            with torch.inference_mode():
                for number, layer in enumerate(_joined([row.known.spans for row in rows])):
                    cache.update(*layer, number)
        padded = _pad_left(rows, n_known, self._model.device)
        logits = self._forward(cache, padded, n_last=1)
        return _Batch(cache, padded.mask, logits[:, 0], [1] * len(rows))

    def write(self, rows: "_Batch", steps: Sequence[Next]) -> "_Batch":
        """One decode step; every id read tells what comes next."""
        batch = rows.select([step.row for step in steps]).cut([step.n_read for step in steps])
        n_each = [len(step.ids) for step in steps]
        padded = _pad_right(steps, batch.mask)
        logits = self._forward(batch.cache, padded, n_last=max(n_each))
        real = padded.mask[:, batch.mask.shape[1] :].bool()
        return _Batch(batch.cache, padded.mask, logits[real], n_each)

    def cut(self, span: _Span, start: int, stop: int) -> _Span:
        """A copy of some positions."""
        return _Span(
            tuple((k[:, start:stop].clone(), v[:, start:stop].clone()) for k, v in span.layers)
        )

    def n_bytes(self, span: _Span) -> int:
        """The memory that a span holds."""
        return sum(k.nbytes + v.nbytes for k, v in span.layers)

    def _forward(self, cache: Any, rows: "_Padded", *, n_last: int) -> torch.Tensor:
        """Logits of the last positions, (B, n_last, V); `cache` grows in place."""
        try:
            with torch.inference_mode():
                output = self._model(
                    input_ids=rows.ids,
                    attention_mask=rows.mask,
                    position_ids=rows.positions,
                    **{self._cache_argument: cache},
                    use_cache=True,
                    logits_to_keep=n_last,
                )
        except (RuntimeError, MemoryError) as error:  # what torch raises, out of memory included
            raise EngineError(
                f"cannot run {self._name} on {len(rows.mask)} rows of {rows.mask.shape[1]} tokens: "
                f"{error}; if memory is short, lower max_batch or top_k"
            ) from error
        logits: torch.Tensor = output.logits[:, -n_last:].float()
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Rows in flight. `mask` (B, K): 1 on what counts. `logits` (N, V): `n_each` a row."""

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor
    n_each: list[int]

    def choose(self, drafts: Sequence[Draft]) -> list[list[Step]]:
        """What comes next in every row; only what is asked for leaves the device."""
        watch_ids = list(dict.fromkeys(i for draft in drafts for i in draft.request.watch_ids))
        column = {token_id: n for n, token_id in enumerate(watch_ids)}
        with torch.inference_mode():
            top, chosen = self.logits.max(dim=-1)
            normalisers = self.logits.logsumexp(dim=-1)
            watched = (self.logits[:, watch_ids] - normalisers[:, None]).cpu().numpy()
            logprobs = (top - normalisers).cpu().numpy()
        return steps_of(
            chosen.cpu().numpy(),
            logprobs,
            lambda rows, ids: watched[rows][:, [column[i] for i in ids]],
            drafts,
            self.n_each,
        )

    def span(self, row: int, start: int, stop: int) -> _Span:
        """A copy of some positions of one row, padding left out."""
        columns = self.mask[row].nonzero()[start:stop, 0]
        return _Span(
            tuple(
                (
                    layer.keys[row].index_select(1, columns),
                    layer.values[row].index_select(1, columns),
                )
                for layer in self.cache.layers
            )
        )

    def select(self, rows: Sequence[int]) -> "_Batch":
        """Only `rows`; the cache is cut in place."""
        if len(rows) == len(self.mask):
            return self
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        return _Batch(self.cache, self.mask[index], self.logits, self.n_each)

    def cut(self, n_read: Sequence[int]) -> "_Batch":
        """Only the first positions of every row: guesses that did not hold are masked.

        Columns at the end that no row needs any more leave the cache.
        """
        counts = torch.tensor(n_read, device=self.mask.device)
        mask = self.mask * (self.mask.cumsum(dim=1) <= counts[:, None])
        n_kept = int(mask.any(dim=0).nonzero().max()) + 1
        if n_kept < mask.shape[1]:
            self.cache.crop(n_kept - mask.shape[1])
        return _Batch(self.cache, mask[:, :n_kept], self.logits, self.n_each)


@dataclass(frozen=True, slots=True, eq=False)
class _Padded:
    """New ids padded to one length. `ids`, `positions`: (B, T), T the longest.

    `mask`: (B, n_known + T), 0 on padding.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def _joined(rows: Sequence[Sequence[_Span]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of every layer, (B, n_kv_heads, n, head_dim), rows padded on the left."""
    n_longest = max(sum(span.n for span in spans) for spans in rows)
    first = next(span for spans in rows for span in spans)
    for number, layer in enumerate(first.layers):
        both = []
        for part, like in enumerate(layer):
            # Zeros, as padding is masked but still multiplied.
            padded = like.new_zeros(len(rows), like.shape[0], n_longest, like.shape[2])
            for row, spans in zip(padded, rows, strict=True):
                if spans:
                    known = torch.cat([span.layers[number][part] for span in spans], dim=1)
                    row[:, n_longest - known.shape[1] :] = known
            both.append(padded)
        yield both[0], both[1]


def _pad_left(rows: Sequence[Row[_Span]], n_known: int, device: torch.device) -> _Padded:
    """New ids of one length, after `n_known` columns for what rows have read already."""
    longest = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    positions = np.zeros_like(ids)
    mask = np.zeros((len(rows), n_known + longest), np.int64)
    for number, row in enumerate(rows):
        n_padding = longest - len(row.ids)
        ids[number, n_padding:] = row.ids
        positions[number, n_padding:] = np.arange(row.known.n, row.known.n + len(row.ids))
        mask[number, n_known - row.known.n : n_known] = 1
        mask[number, n_known + n_padding :] = 1
    there = [torch.from_numpy(array).to(device) for array in (ids, mask, positions)]
    return _Padded(*there)


def _pad_right(steps: Sequence[Next], before: torch.Tensor) -> _Padded:
    """Ids of decode steps, after the columns of `before` (B, K), which is the mask so far."""
    longest = max(len(step.ids) for step in steps)
    ids = np.zeros((len(steps), longest), np.int64)
    positions = np.zeros_like(ids)
    mask = np.zeros_like(ids)
    for number, step in enumerate(steps):
        n = len(step.ids)
        ids[number, :n] = step.ids
        positions[number, :n] = np.arange(step.n_read, step.n_read + n)
        mask[number, :n] = 1
    new_ids, new_mask, places = (
        torch.from_numpy(array).to(before.device) for array in (ids, mask, positions)
    )
    return _Padded(new_ids, torch.cat([before, new_mask], dim=1), places)


def _load_model(path: Path, dtype: torch.dtype) -> Any:
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"cannot load the model {path}: {error}; expected config.json and model.safetensors "
            "of a causal language model, so restore the folder"
        ) from error
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars or warnings of transformers inside; its settings are restored after."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers inside, which in a log are a flood."""
    had_progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_progress_bar:
            transformers_logging.enable_progress_bar()
