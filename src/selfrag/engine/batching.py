"""What every engine needs around its model: grouping requests, and drafts being written.

Numpy alone. Knows nothing of architectures or caches.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from selfrag.engine.base import Completion, FinishReason, FloatArray, Request
from selfrag.errors import BadInput, EngineError

# Prompt ids, padding included, that one forward pass may hold: bounds memory, not results.
MAX_PADDED_TOKENS = 8192

# A common start shorter than this is cheaper to compute in every row than in a pass of its own.
MIN_SHARED_TOKENS = 32


class Rows(Protocol):
    """Prompts in flight. `logits`: shape (B, V), of the next id of every row."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """Shape (B, V)."""
        ...


R = TypeVar("R", bound=Rows)


def complete_in_groups(
    requests: Sequence[Request],
    *,
    max_batch: int,
    max_context: int,
    read: Callable[[Sequence[Request]], R],
    write: Callable[[R, list[int], NDArray[np.int64]], R],
) -> list[Completion]:
    """Greedy completions, in order, of requests that are computed in groups of similar length.

    `read` takes the prompts of one group; `write` keeps the rows listed and lets each read the id
    (B,) that it just chose. A request for one token costs no `write`. Raises `BadInput` for a
    prompt that leaves no room.
    """
    for request in requests:
        require_room(request, max_context)
    completions: dict[int, Completion] = {}
    for group in groups(requests, max_batch):
        completed = _complete([requests[index] for index in group], read, write)
        completions.update(zip(group, completed, strict=True))
    return [completions[index] for index in range(len(requests))]


def _complete(
    requests: Sequence[Request],
    read: Callable[[Sequence[Request]], R],
    write: Callable[[R, list[int], NDArray[np.int64]], R],
) -> list[Completion]:
    drafts = [_Draft(request) for request in requests]
    writing = list(drafts)
    rows = read(requests)
    while True:
        logprobs = log_softmax(rows.logits)
        chosen = logprobs.argmax(axis=-1)
        for draft, token_id, row in zip(writing, chosen.tolist(), logprobs, strict=True):
            draft.add(token_id, row)
        kept = [row for row, draft in enumerate(writing) if draft.finish_reason is None]
        if not kept:
            return [draft.completion() for draft in drafts]
        writing = [writing[row] for row in kept]
        rows = write(rows, kept, chosen[kept])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities of every row, (B, V), nats."""
    shifted: NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


@dataclass(slots=True, eq=False)
class _Draft:
    """One completion being written."""

    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    watched: list[FloatArray] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, token_id: int, logprobs: NDArray[np.float32]) -> None:
        """Appends `token_id`; `logprobs`: shape (V,), nats."""
        self.token_ids.append(token_id)
        self.logprobs.append(float(logprobs[token_id]))
        watched = logprobs[list(self.request.watch_ids)]
        self.watched.append(watched.astype(np.float64))
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


def require_room(request: Request, max_context: int) -> None:
    """Raises `BadInput` for a prompt that is empty or leaves no room for its completion."""
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


def groups(requests: Sequence[Request], max_batch: int) -> list[list[int]]:
    """Indices of requests of similar length, shortest first; ties keep their order."""
    made: list[list[int]] = []
    for index in sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids)):
        n_padded = len(requests[index].prompt_ids) * (len(made[-1]) + 1 if made else 0)
        if not made or len(made[-1]) >= max_batch or n_padded > MAX_PADDED_TOKENS:
            made.append([])
        made[-1].append(index)
    return made


def shared_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many first ids to read once for all rows; every row keeps at least one for itself."""
    if len(prompts) < 2:
        return 0
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    n_shared = min(sum(1 for _ in columns), min(len(prompt) for prompt in prompts) - 1)
    return n_shared if n_shared >= MIN_SHARED_TOKENS else 0


def end_of_sequence(path: Path) -> str:
    """The surface of the end token, from `tokenizer_config.json` in a model folder."""
    token = _read_json(path / "tokenizer_config.json").get("eos_token")
    surface = token.get("content") if isinstance(token, dict) else token
    if not isinstance(surface, str):
        raise EngineError(
            f"cannot learn the end token from {path / 'tokenizer_config.json'}: found {token!r}; "
            "expected a JSON object with eos_token, so restore the model folder"
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
