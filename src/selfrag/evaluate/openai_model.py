"""Any OpenAI-compatible chat API as a model that is asked in words; owns the `openai` package.

The key comes from OPENAI_API_KEY; local servers take any. Requests of a batch run side by side.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

from selfrag.errors import BadInput, EngineError
from selfrag.evaluate.model import Prompt, Reply

try:
    import openai
except ImportError as error:
    raise EngineError(f'cannot ask an API: {error}; run `pip install "selfrag[api]"`') from error

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
        timeout_s: float = 120.0,
        api_key: str | None = None,
    ) -> None:
        try:
            self._client = openai.OpenAI(
                base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=3
            )
        except openai.OpenAIError as error:
            raise BadInput(
                f"cannot ask {base_url}: {error}; expected a key, so set OPENAI_API_KEY (any word "
                "for a local server)"
            ) from error
        self._base_url = base_url
        self._model = model
        self._sampling = sampling
        self._seed = seed
        self._n_parallel = n_parallel

    @property
    def name(self) -> str:
        """The model's name there."""
        return self._model

    def describe(self) -> dict[str, Any]:
        """Where, which and how; never the key."""
        return {
            "model": self._model,
            "base_url": self._base_url,
            "decoding": str(self._sampling),
            "seed": self._seed,
        }

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Always: the API says so itself when a prompt is too long."""
        return True

    def complete(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """A reply a prompt, each as a user's message. Raises `EngineError`."""
        with ThreadPoolExecutor(self._n_parallel) as pool:
            return list(pool.map(lambda prompt: self._reply(prompt, max_new_tokens), prompts))

    def rate(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[list[float]]:
        """The share of each label among the first tokens that the API shows."""
        with ThreadPoolExecutor(self._n_parallel) as pool:
            return list(pool.map(lambda prompt: self._rating(prompt, labels), prompts))

    def _reply(self, prompt: Prompt, max_new_tokens: int) -> Reply:
        temperature, top_p = _SETTINGS[self._sampling]
        done = self._ask(prompt, max_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        usage = done.usage
        return Reply(
            text=(done.choices[0].message.content or "").strip(),
            n_tokens=usage.completion_tokens if usage else 0,
        )

    def _rating(self, prompt: Prompt, labels: Sequence[str]) -> list[float]:
        done = self._ask(
            prompt, max_tokens=8, temperature=0.0, top_p=1.0, n_alternatives=N_ALTERNATIVES
        )
        choice = done.choices[0]
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

    def _ask(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
        n_alternatives: int | None = None,
    ) -> Any:
        try:
            return self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt.text}],
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=self._seed,
                logprobs=n_alternatives is not None,
                top_logprobs=n_alternatives or openai.omit,
            )
        except openai.OpenAIError as error:
            raise EngineError(
                f"cannot ask {self._model} at {self._base_url}: {error}; expected an answer, so "
                "look whether the server runs and knows the model"
            ) from error
