"""A language model on Hugging Face transformers: greedy decoding of batches on CPU or GPU.

Knows nothing of Self-RAG: it completes ids with ids and reports log-probabilities. Owns `torch`
and `transformers`; import it only where a model is about to run, as they take seconds to import.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.engine.base import Completion, FinishReason, FloatArray, Request
from selfrag.engine.tokenizer import FileTokenizer
from selfrag.errors import BadInput, EngineError
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

# Prompt ids, padding included, that one forward pass may hold: bounds memory, not results.
MAX_PADDED_TOKENS = 8192

# A common start shorter than this is cheaper to compute in every row than in a pass of its own.
MIN_SHARED_TOKENS = 32


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
            path / "tokenizer.json", end_of_sequence=_end_of_sequence(path)
        )
        self._model = _load_model(path, dtype).to(device)
        self._device = torch.device(device)
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
        for request in requests:
            _require_room(request, self.max_context)
        completions: dict[int, Completion] = {}
        for group in _groups(requests, self._max_batch):
            with torch.inference_mode():
                completed = self._complete([requests[index] for index in group])
            completions.update(zip(group, completed, strict=True))
        return [completions[index] for index in range(len(requests))]

    def _complete(self, requests: Sequence[Request]) -> list[Completion]:
        drafts = [_Draft(request) for request in requests]
        writing = list(drafts)
        batch = self._read([request.prompt_ids for request in requests])
        while True:
            logprobs = torch.log_softmax(batch.logits.float(), dim=-1)
            chosen = logprobs.argmax(dim=-1)
            for draft, token_id, row in zip(writing, chosen.tolist(), logprobs, strict=True):
                draft.add(token_id, row)
            kept = [row for row, draft in enumerate(writing) if draft.finish_reason is None]
            if not kept:
                return [draft.completion() for draft in drafts]
            writing = [writing[row] for row in kept]
            batch = self._write(batch.select(kept), chosen[kept])

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> "_Batch":
        """One pass over the prompts, padded on the left; a long common start is read once."""
        n_shared = _shared_length(prompts)
        cache = DynamicCache(config=self._model.config)
        if n_shared:
            self._forward(cache, *self._tensors([prompts[0][:n_shared]], 0))
            cache.batch_repeat_interleave(len(prompts))
        ids, mask, positions = self._tensors([prompt[n_shared:] for prompt in prompts], n_shared)
        logits = self._forward(cache, ids, mask, positions)
        return _Batch(cache, mask, positions[:, -1:], logits)

    def _write(self, batch: "_Batch", token_ids: torch.Tensor) -> "_Batch":
        """One decode step: every row reads the id that it just chose."""
        mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
        positions = batch.positions + 1
        logits = self._forward(batch.cache, token_ids[:, None], mask, positions)
        return _Batch(batch.cache, mask, positions, logits)

    def _tensors(
        self, prompts: Sequence[Sequence[int]], n_shared: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`ids` and `positions`: (B, T), T the longest. `mask`: (B, n_shared + T), 0 on padding."""
        longest = max(len(prompt) for prompt in prompts)
        ids = np.zeros((len(prompts), longest), np.int64)
        positions = np.zeros_like(ids)
        mask = np.ones((len(prompts), n_shared + longest), np.int64)
        for row, prompt in enumerate(prompts):
            n_padding = longest - len(prompt)
            ids[row, n_padding:] = prompt
            positions[row, n_padding:] = np.arange(n_shared, n_shared + len(prompt))
            mask[row, n_shared : n_shared + n_padding] = 0
        ids_there, mask_there, positions_there = (
            torch.from_numpy(array).to(self._device) for array in (ids, mask, positions)
        )
        return ids_there, mask_there, positions_there

    def _forward(
        self, cache: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Logits of the last position, (B, V); `cache` grows in place."""
        try:
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        except (RuntimeError, MemoryError) as error:  # what torch raises, out of memory included
            raise EngineError(
                f"cannot run {self._name} on {ids.shape[0]} rows of {mask.shape[1]} tokens: "
                f"{error}; if memory is short, lower max_batch or top_k"
            ) from error
        return output.logits[:, -1]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Rows in flight: `mask` (B, K), `positions` (B, 1) of the last ids, `logits` (B, V)."""

    cache: Any
    mask: torch.Tensor
    positions: torch.Tensor
    logits: torch.Tensor

    def select(self, rows: Sequence[int]) -> "_Batch":
        """Only `rows`; the cache is cut in place."""
        if len(rows) == len(self.mask):
            return self
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        return _Batch(self.cache, self.mask[index], self.positions[index], self.logits[index])


@dataclass(slots=True, eq=False)
class _Draft:
    """One completion being written."""

    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    watched: list[FloatArray] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, token_id: int, logprobs: torch.Tensor) -> None:
        """Appends `token_id`; `logprobs`: shape (V,), nats."""
        self.token_ids.append(token_id)
        self.logprobs.append(float(logprobs[token_id]))
        watched = logprobs[list(self.request.watch_ids)]
        self.watched.append(watched.cpu().numpy().astype(np.float64))
        if token_id in self.request.stop_ids:
            self.finish_reason = FinishReason.STOP
        elif len(self.token_ids) == self.request.max_new_tokens:
            self.finish_reason = FinishReason.LENGTH

    def completion(self) -> Completion:
        if self.finish_reason is None:
            raise ValueError("cannot close a completion that is still being written")
        return Completion(
            token_ids=tuple(self.token_ids),
            logprobs=np.array(self.logprobs),
            watched=np.stack(self.watched),
            finish_reason=self.finish_reason,
        )


def _require_room(request: Request, max_context: int) -> None:
    n_prompt, n_new = len(request.prompt_ids), request.max_new_tokens
    if n_prompt < 1 or n_new < 1:
        raise BadInput(
            f"cannot complete a prompt of {n_prompt} tokens by {n_new}: expected at least one "
            "of each, so ask something and raise max_new_tokens"
        )
    if n_prompt + n_new > max_context:
        raise BadInput(
            f"cannot complete a prompt of {n_prompt} tokens: the model holds {max_context}, of "
            f"which {n_new} are kept for the answer, so at most {max_context - n_new} are allowed; "
            "shorten the question or the passages, or lower max_new_tokens"
        )


def _groups(requests: Sequence[Request], max_batch: int) -> list[list[int]]:
    """Indices of requests of similar length, shortest first; ties keep their order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids)):
        n_padded = len(requests[index].prompt_ids) * (len(groups[-1]) + 1 if groups else 0)
        if not groups or len(groups[-1]) >= max_batch or n_padded > MAX_PADDED_TOKENS:
            groups.append([])
        groups[-1].append(index)
    return groups


def _shared_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many first ids to read once for all rows; every row keeps at least one for itself."""
    if len(prompts) < 2:
        return 0
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    n_shared = min(sum(1 for _ in columns), min(len(prompt) for prompt in prompts) - 1)
    return n_shared if n_shared >= MIN_SHARED_TOKENS else 0


def _end_of_sequence(path: Path) -> str:
    """The surface of the end token, from `tokenizer_config.json`."""
    config_path = path / "tokenizer_config.json"
    try:
        token = json.loads(config_path.read_text(encoding="utf-8"))["eos_token"]
        return str(token["content"] if isinstance(token, dict) else token)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"cannot learn the end token from {config_path}: {error!r}; expected a JSON object "
            "with eos_token, so restore the model folder"
        ) from error


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
