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
from numpy.typing import NDArray

from selfrag.engine.base import Completion, Request
from selfrag.engine.batching import complete_in_groups, end_of_sequence, shared_length
from selfrag.engine.tokenizer import FileTokenizer
from selfrag.errors import EngineError
from selfrag.prompt import Tokenizer

try:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache
    from transformers.utils import logging as transformers_logging
except ImportError as error:
    raise EngineError(
        f"cannot start the transformers engine: {error}; it needs torch and transformers, "
        'so run `pip install "selfrag[engine]"`'
    ) from error

logger = logging.getLogger(__name__)


class TransformersEngine:
    """A causal language model folder (config, safetensors, tokenizer.json) as an `Engine`.

    `n_threads` sets torch's threads for the whole process; `None` leaves them. `max_batch` is in
    rows. Raises `EngineError` where the folder does not hold a model.
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
    ) -> None:
        started = time.perf_counter()
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        self._name = name
        self._max_batch = max_batch
        self._tokenizer = FileTokenizer(
            path / "tokenizer.json", end_of_sequence=end_of_sequence(path)
        )
        self._model = _load_model(path, dtype).to(device)
        self._device = torch.device(device)
        # transformers 5.24 renamed the argument.
        accepted = inspect.signature(self._model.forward).parameters
        self._cache_argument = "cache" if "cache" in accepted else "past_key_values"
        logger.info("loaded %s in %.1f s", name, time.perf_counter() - started)

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        return self._name

    @property
    def max_context(self) -> int:
        """How many tokens prompt and completion may hold together."""
        return int(self._model.config.max_position_embeddings)

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary this model reads."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request greedily, in order; an empty batch gives an empty list.

        Rows of similar length are computed together, and a start that all of them share is
        computed once. A request for one token costs no decode step. Raises `BadInput` for a
        prompt that leaves no room and `EngineError` when the back end fails.
        """
        return complete_in_groups(
            requests,
            max_batch=self._max_batch,
            max_context=self.max_context,
            read=self._read,
            write=self._write,
        )

    def _read(self, requests: Sequence[Request]) -> "_Batch":
        """One pass over the prompts, padded on the left; a long common start is read once."""
        prompts = [request.prompt_ids for request in requests]
        n_shared = shared_length(prompts)
        cache = DynamicCache(config=self._model.config)
        if n_shared:
            self._forward(cache, _pad_left([prompts[0][:n_shared]], 0, self._device))
            cache.batch_repeat_interleave(len(prompts))
        rows = _pad_left([prompt[n_shared:] for prompt in prompts], n_shared, self._device)
        logits = self._forward(cache, rows)
        return _Batch(cache, rows.mask, rows.positions[:, -1:], logits)

    def _write(self, batch: "_Batch", kept: list[int], token_ids: NDArray[np.int64]) -> "_Batch":
        """One decode step: every row kept reads the id that it just chose."""
        batch = batch.select(kept)
        ids = torch.from_numpy(token_ids).to(self._device)
        mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
        positions = batch.positions + 1
        logits = self._forward(batch.cache, _Padded(ids[:, None], mask, positions))
        return _Batch(batch.cache, mask, positions, logits)

    def _forward(self, cache: Any, rows: "_Padded") -> NDArray[np.float32]:
        """Logits of the last position, (B, V); `cache` grows in place."""
        try:
            with torch.inference_mode():
                output = self._model(
                    input_ids=rows.ids,
                    attention_mask=rows.mask,
                    position_ids=rows.positions,
                    **{self._cache_argument: cache},
                    use_cache=True,
                    logits_to_keep=1,
                )
        except (RuntimeError, MemoryError) as error:  # what torch raises, out of memory included
            raise EngineError(
                f"cannot run {self._name} on {len(rows.mask)} rows of {rows.mask.shape[1]} tokens: "
                f"{error}; if memory is short, lower max_batch or top_k"
            ) from error
        logits: NDArray[np.float32] = output.logits[:, -1].float().cpu().numpy()
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Rows in flight: `mask` (B, K), `positions` (B, 1) of the last ids, `logits` (B, V)."""

    cache: Any
    mask: torch.Tensor
    positions: torch.Tensor
    logits: NDArray[np.float32]

    def select(self, rows: Sequence[int]) -> "_Batch":
        """Only `rows`; the cache is cut in place."""
        if len(rows) == len(self.mask):
            return self
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        mask, positions = self.mask[index], self.positions[index]
        return _Batch(self.cache, mask, positions, self.logits[list(rows)])


@dataclass(frozen=True, slots=True, eq=False)
class _Padded:
    """Prompts padded on the left. `ids`, `positions`: (B, T), T the longest.

    `mask`: (B, n_before + T), 0 on padding.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def _pad_left(
    prompts: Sequence[Sequence[int]], n_before: int, device: torch.device | str
) -> _Padded:
    """Rows of one length, after `n_before` ids that every row has read already."""
    longest = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), longest), np.int64)
    positions = np.zeros_like(ids)
    mask = np.ones((len(prompts), n_before + longest), np.int64)
    for row, prompt in enumerate(prompts):
        n_padding = longest - len(prompt)
        ids[row, n_padding:] = prompt
        positions[row, n_padding:] = np.arange(n_before, n_before + len(prompt))
        mask[row, n_before : n_before + n_padding] = 0
    there = [torch.from_numpy(array).to(device) for array in (ids, mask, positions)]
    return _Padded(*there)


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
    had_progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_progress_bar:
            transformers_logging.enable_progress_bar()
