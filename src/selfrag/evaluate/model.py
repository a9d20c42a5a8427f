"""The seam to models that are asked in words: text in, text out; and any engine as such a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from selfrag.engine.base import Completion, Engine, FinishReason, Request
from selfrag.errors import BadInput

_CHAT_START, _CHAT_END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text to be answered; `chat`: as a user's message, else to be continued as it stands."""

    text: str
    chat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model wrote, and how many tokens that took."""

    text: str
    n_tokens: int


class TextModel(Protocol):
    """A language model that is asked in words, greedily unless it says otherwise."""

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that its answers depend on, as JSON."""
        ...

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Whether the model can read the prompt and write so much."""
        ...

    def complete(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """A reply a prompt, in order. Raises `EngineError`."""
        ...

    def rate(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[float]]:
        """For every prompt how probable each label is as the answer; sums to 1 each.

        `labels` differ in their first token. Raises `EngineError`.
        """
        ...


class EngineModel:
    """Any local engine asked in words.

    Messages are written in ChatML where the vocabulary has its two tokens; a `Prompt` that is a
    chat to a model without them is refused.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_chat = _has(engine, _CHAT_START) and _has(engine, _CHAT_END)

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    def require_chat(self) -> None:
        """Raises `BadInput` for a model without a chat format."""
        if not self._is_chat:
            raise BadInput(
                f"cannot ask {self.name} as a chat model: its vocabulary lacks {_CHAT_START}; "
                "expected a chat model, so name another prompt, such as --prompt prompt_no_input"
            )

    def describe(self) -> dict[str, Any]:
        """Name and decoding."""
        return {"model": self.name, "decoding": "greedy"}

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Whether prompt and completion fit into the context."""
        return len(self._ids(prompt)) + max_new_tokens <= self._engine.max_context

    def complete(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Greedy replies, without the end mark."""
        requests = [
            Request(
                prefix_ids=self._ids(prompt), max_new_tokens=max_new_tokens, stop_ids=self._stops()
            )
            for prompt in prompts
        ]
        done = self._engine.generate(requests) if requests else []
        return [self._reply(each) for each in done]

    def rate(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[float]]:
        """The share of each label's first token among those of all."""
        firsts = tuple(self._engine.tokenizer.encode(label)[0] for label in labels)
        if len(set(firsts)) < len(labels):
            raise BadInput(
                f"cannot rate {', '.join(labels)} with {self.name}: two of them begin with the "
                "same token; expected labels that differ at once, so word them otherwise"
            )
        requests = [
            Request(prefix_ids=self._ids(prompt), max_new_tokens=1, watch_ids=firsts)
            for prompt in prompts
        ]
        done = self._engine.generate(requests) if requests else []
        return [_shares(each) for each in done]

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        tokenizer = self._engine.tokenizer
        if not prompt.chat:
            return tuple(tokenizer.encode(prompt.text))
        self.require_chat()
        start, end = tokenizer.token_to_id(_CHAT_START), tokenizer.token_to_id(_CHAT_END)
        ids = [start, *tokenizer.encode("user\n"), *tokenizer.encode(prompt.text), end]
        return (*ids, *tokenizer.encode("\n"), start, *tokenizer.encode("assistant\n"))

    def _stops(self) -> frozenset[int]:
        tokenizer = self._engine.tokenizer
        ends = {tokenizer.end_of_sequence_id}
        return frozenset(ends | {tokenizer.token_to_id(_CHAT_END)} if self._is_chat else ends)

    def _reply(self, done: Completion) -> Reply:
        ids = done.token_ids
        body = ids[:-1] if done.finish_reason is FinishReason.STOP else ids
        return Reply(text=self._engine.tokenizer.decode(body).strip(), n_tokens=len(ids))


def _has(engine: Engine, token: str) -> bool:
    try:
        engine.tokenizer.token_to_id(token)
    except KeyError:
        return False
    return True


def _shares(done: Completion) -> list[float]:
    logprobs = done.watched[0]
    probs = np.exp(logprobs - logprobs.max())
    return [float(prob) for prob in probs / probs.sum()]
