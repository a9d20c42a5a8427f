"""The seam to models that are asked in words: text in, text out.

Two of them: any engine, and any OpenAI-compatible chat API. Knows nothing of what is asked.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from selfrag.engine.base import Completion, Engine, FinishReason, Request
from selfrag.engine.failure import Failure, Reason
from selfrag.errors import BadInput, EngineError
from selfrag.prompt import CHAT_END, CHAT_START, chat_ids, is_chat

T = TypeVar("T")
N_ALTERNATIVES = 20  # what the API shows of a distribution at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text to be answered; `chat`: as a user's message, else to be continued as it stands."""

    text: str
    chat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model wrote, and how many tokens that took.

    `truncated`: the limit cut it. `mean_logprob`: nats a token, where the model tells.
    """

    text: str
    n_tokens: int
    truncated: bool = False
    mean_logprob: float | None = None


class TextModel(Protocol):
    """A language model that is asked in words, greedily unless it says otherwise."""

    @property
    def name(self) -> str:
        """What model this is, for reports."""
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


class Writer(Protocol):
    """A model that writes what it is asked for."""

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        ...

    def attempt(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply | Failure]:
        """A reply a prompt, in order, or why there is none."""
        ...

    def close(self) -> None:
        """Lets go of the model."""
        ...


class EngineModel:
    """Any local engine asked in words.

    Messages are written in ChatML where the vocabulary has its two tokens; a `Prompt` that is a
    chat to a model without them is refused.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_chat = is_chat(engine.tokenizer)

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    def require_chat(self, way_out: str = "name a model of that form") -> None:
        """Raises `BadInput` for a model without a chat format; `way_out` says what to do then."""
        if not self._is_chat:
            raise BadInput(
                f"cannot ask {self.name} as a chat model: its vocabulary lacks {CHAT_START}; "
                f"expected a chat model of the ChatML form, so {way_out}"
            )

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

    def attempt(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply | Failure]:
        """Greedy replies; a prompt that does not fit has none."""
        fit = [self.fits(prompt, max_new_tokens) for prompt in prompts]
        asked = [prompt for prompt, fits in zip(prompts, fit, strict=True) if fits]
        replies = iter(self.complete(asked, max_new_tokens))
        why = f"longer than the context of {self._engine.max_context} tokens"
        too_long = Failure(reason=Reason.TOO_LONG, detail=why)
        return [next(replies) if fits else too_long for fits in fit]

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()

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
            return (*tokenizer.start_ids, *tokenizer.encode(prompt.text))
        self.require_chat()
        return chat_ids(tokenizer, prompt.text)

    def _stops(self) -> frozenset[int]:
        tokenizer = self._engine.tokenizer
        ends = {tokenizer.end_of_sequence_id}
        return frozenset(ends | {tokenizer.token_to_id(CHAT_END)} if self._is_chat else ends)

    def _reply(self, done: Completion) -> Reply:
        ids = done.token_ids
        truncated = done.finish_reason is not FinishReason.STOP
        return Reply(
            text=self._engine.tokenizer.decode(ids if truncated else ids[:-1]).strip(),
            n_tokens=len(ids),
            truncated=truncated,
            mean_logprob=float(done.logprobs.mean()) if ids else None,
        )


def _shares(done: Completion) -> list[float]:
    logprobs = done.watched[0]
    if not np.isfinite(logprobs.max()):
        raise EngineError(
            f"cannot rate a prompt: the engine gave {logprobs.max()} as a log-probability; "
            "expected finite ones, so look whether its weights are sound"
        )
    probs = np.exp(logprobs - logprobs.max())
    return [float(prob) for prob in probs / probs.sum()]


if TYPE_CHECKING:
    import openai


class Sampling(StrEnum):
    """How tokens are drawn."""

    GREEDY = "greedy"
    RELEASED = "released"  # the released baselines: temperature 0.8, top_p 0.95


_SETTINGS: dict[Sampling, tuple[float, float]] = {
    Sampling.GREEDY: (0.0, 1.0),
    Sampling.RELEASED: (0.8, 0.95),
}


class ApiModel:
    """A model behind `base_url`, by its name there."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        sampling: Sampling = Sampling.GREEDY,
        seed: int = 0,
        n_parallel: int = 8,
        api_key: str = "",
        timeout_s: float = 120.0,
    ) -> None:
        from selfrag.engine.endpoint import Endpoint, EndpointConfig  # an extra, and a second slow

        key = api_key or os.environ.get("OPENAI_API_KEY", "")
        if not key:
            raise BadInput(
                f"cannot ask {base_url}: there is no key; expected one, so set OPENAI_API_KEY (any "
                "word for a local server)"
            )
        config = EndpointConfig(
            base_url=base_url,
            model=model,
            api_key=key,
            concurrency=n_parallel,
            max_failures=sys.maxsize,  # whoever asks counts failed questions, not calls
            timeout_s=timeout_s,
        )
        self._endpoint = Endpoint(config)
        self._sampling = sampling
        self._seed = seed

    @property
    def name(self) -> str:
        """The model's name there."""
        return self._endpoint.config.model

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Always: the API says so itself when a prompt is too long."""
        return True

    def complete(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """A reply a prompt, each as a user's message. Raises `EngineError`."""
        return self._all([partial(self._reply, prompt, max_new_tokens) for prompt in prompts])

    def attempt(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply | Failure]:
        """A reply a prompt with its log-probability where the API shows one, or the failure."""
        calls = [partial(self._reply, prompt, max_new_tokens, logprobs=True) for prompt in prompts]
        return [found for _, found in sorted(self._endpoint.run(calls), key=itemgetter(0))]

    def close(self) -> None:
        """Gives the connections back."""
        self._endpoint.close()

    def rate(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[float]]:
        """The share of each label among the first tokens that the API shows."""
        return self._all([partial(self._rating, prompt, labels) for prompt in prompts])

    def _all(self, calls: "Sequence[Callable[[openai.OpenAI], T]]") -> list[T]:
        answers: dict[int, T] = {}
        for place, found in self._endpoint.run(calls):
            if isinstance(found, Failure):
                raise EngineError(
                    f"cannot ask {self.name} at {self._endpoint.config.base_url}: {found.detail}; "
                    "expected an answer, so look whether the server runs and knows the model"
                )
            answers[place] = found
        return [answers[place] for place in range(len(calls))]

    def _reply(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        client: "openai.OpenAI",
        *,
        logprobs: bool = False,
    ) -> Reply:
        from selfrag.engine.endpoint import chat_text, first_choice, shown_logprob, shown_steps

        temperature, top_p = _SETTINGS[self._sampling]
        options: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature}
        options |= {"top_p": top_p} | ({"logprobs": True} if logprobs else {})
        done = self._ask(client, prompt, options)
        choice = first_choice(done)
        n_tokens = getattr(done.usage, "completion_tokens", None)
        shown = [shown_logprob(step) for step in shown_steps(choice)]
        said = [each for each in shown if each is not None]
        return Reply(
            text=chat_text(choice),
            n_tokens=n_tokens if isinstance(n_tokens, int) else 0,
            truncated=getattr(choice, "finish_reason", "") == "length",
            mean_logprob=min(sum(said) / len(said), 0.0) if said else None,
        )

    def _rating(
        self, prompt: Prompt, labels: Sequence[str], client: "openai.OpenAI"
    ) -> list[float]:
        from selfrag.engine.endpoint import chat_text, first_choice, shown_logprob, shown_steps

        options = {"max_tokens": 8, "temperature": 0.0, "top_p": 1.0}
        shown_too = {"logprobs": True, "top_logprobs": N_ALTERNATIVES}
        choice = first_choice(self._ask(client, prompt, options | shown_too))
        first = [getattr(step, "top_logprobs", None) or [] for step in shown_steps(choice)[:1]]
        weights = [0.0] * len(labels)
        for each in (token for tokens in first for token in tokens):
            said = str(getattr(each, "token", "")).strip().lower()
            logprob = shown_logprob(each)
            for place, label in enumerate(labels):
                if said and logprob is not None and label.lower().startswith(said):
                    weights[place] += math.exp(min(logprob, 0.0))
        if not sum(weights):  # no distribution, or none of the labels in it: the word counts
            said = chat_text(choice).lower()
            weights = [float(said.startswith(label.lower())) for label in labels]
        total = sum(weights)
        return [w / total for w in weights] if total else [1 / len(labels)] * len(labels)

    def _ask(self, client: "openai.OpenAI", prompt: Prompt, options: dict[str, Any]) -> Any:
        said = [("user", prompt.text)]
        return self._endpoint.chat(client, said, {"seed": self._seed, **options})
