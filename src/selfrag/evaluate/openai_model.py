"""Any OpenAI-compatible chat API as a model that is asked in words.

The key comes from OPENAI_API_KEY where none is given; local servers take any. Requests of a batch
run side by side.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from selfrag.annotate.chat import first_choice
from selfrag.annotate.endpoint import Endpoint, EndpointConfig
from selfrag.annotate.judgement import Failure
from selfrag.errors import BadInput, EngineError
from selfrag.evaluate.model import Prompt, Reply

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

N_ALTERNATIVES = 20  # what the API shows of a distribution at most


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
    ) -> None:
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
            timeout_s=120.0,
        )
        self._endpoint = Endpoint(config)
        self._sampling = sampling
        self._seed = seed

    @property
    def name(self) -> str:
        """The model's name there."""
        return self._endpoint.config.model

    def describe(self) -> dict[str, Any]:
        """Where, which and how; never the key."""
        return {
            "model": self.name,
            "base_url": self._endpoint.config.base_url,
            "decoding": str(self._sampling),
            "seed": self._seed,
        }

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Always: the API says so itself when a prompt is too long."""
        return True

    def complete(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """A reply a prompt, each as a user's message. Raises `EngineError`."""
        return self._all([partial(self._reply, prompt, max_new_tokens) for prompt in prompts])

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

    def _reply(self, prompt: Prompt, max_new_tokens: int, client: "openai.OpenAI") -> Reply:
        temperature, top_p = _SETTINGS[self._sampling]
        options = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        done = self._ask(client, prompt, options)
        usage = done.usage
        return Reply(
            text=(first_choice(done).message.content or "").strip(),
            n_tokens=usage.completion_tokens if usage else 0,
        )

    def _rating(
        self, prompt: Prompt, labels: Sequence[str], client: "openai.OpenAI"
    ) -> list[float]:
        options = {"max_tokens": 8, "temperature": 0.0, "top_p": 1.0}
        shown_too = {"logprobs": True, "top_logprobs": N_ALTERNATIVES}
        choice = first_choice(self._ask(client, prompt, options | shown_too))
        shown = choice.logprobs.content if choice.logprobs else None
        weights = [0.0] * len(labels)
        for each in shown[0].top_logprobs if shown else []:
            said = each.token.strip().lower()
            for place, label in enumerate(labels):
                if said and label.lower().startswith(said):
                    weights[place] += math.exp(each.logprob)
        if not sum(weights):  # no distribution, or none of the labels in it: the word counts
            said = (choice.message.content or "").strip().lower()
            weights = [float(said.startswith(label.lower())) for label in labels]
        total = sum(weights)
        return [w / total for w in weights] if total else [1 / len(labels)] * len(labels)

    def _ask(self, client: "openai.OpenAI", prompt: Prompt, options: dict[str, Any]) -> Any:
        said: Any = [{"role": "user", "content": prompt.text}]
        return client.chat.completions.create(
            model=self.name, messages=said, seed=self._seed, **options
        )
