"""The seam to language models: requests in, completions out, in order.

Everything Self-RAG computes follows from the arrays of a `Completion`; no engine is ever asked
for the whole vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selfrag.passage import Passage
from selfrag.prompt import Tokenizer, Turn

FloatArray = NDArray[np.float64]


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"  # a stop id was emitted; it is the last of `token_ids`
    LENGTH = "length"  # max_new_tokens was reached


class Precision(StrEnum):
    """In what an engine computes, where it lets one choose."""

    AUTO = "auto"  # whoever opens the engine decides
    EXACT = "exact"  # fp32 throughout
    MIXED = "mixed"  # bf16 products; residual stream, softmax, keys and values in fp32
    BF16 = "bf16"  # all in bf16; needs a processor with bf16 instructions


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTask:
    """What a segment is written from, in words, for a writer that reads no ids.

    `said`: the answer so far. `is_fresh`: the passages are read here for the first time.
    """

    question: str
    turns: tuple[Turn, ...]
    passages: tuple[Passage, ...]
    said: str
    is_fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One greedy completion to compute.

    The prompt is `prefix_ids + suffix_ids`; engines read a beginning that prompts have in common
    once, wherever the two parts meet. `watch_ids` are the ids whose log-probabilities come back
    each step. Once `is_wanted` says no, nobody reads the completion: an engine of this machine asks
    at every step, and what it gives then is what there was, perhaps nothing. `task` says in words
    what the ids say, where they ask for a segment; only `engine.written` reads it.
    """

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...] = ()
    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    watch_ids: tuple[int, ...] = ()
    is_wanted: Callable[[], bool] = field(default=_always, compare=False)
    task: SegmentTask | None = field(default=None, compare=False)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """All ids the model reads."""
        return self.prefix_ids + self.suffix_ids


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """What the model wrote: T tokens, the last one being the stop id if one was met.

    `logprobs`: shape (T,), nats, of the chosen ids. `watched`: shape (T, n_watched), nats, over
    the whole vocabulary (not renormalised).
    """

    token_ids: tuple[int, ...]
    logprobs: FloatArray
    watched: FloatArray
    finish_reason: FinishReason


class Engine(Protocol):
    """A language model that completes batches greedily."""

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        ...

    @property
    def max_context(self) -> int:
        """How many tokens prompt and completion may hold together."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary this model reads."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request greedily, in order; an empty batch gives an empty list.

        Neither the batch nor earlier calls change a result beyond rounding. Raises `EngineError`.
        """
        ...

    def close(self) -> None:
        """Lets go of the model; `generate` raises `EngineError` after. Closing twice is allowed."""
        ...
