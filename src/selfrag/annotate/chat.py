"""Teachers over HTTP: any chat model with the rubrics, or a critic of ours that a server runs.

Knows nothing of connections: see `engine.endpoint`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from selfrag.annotate.critic import CRITIC_INSTRUCTIONS, critic_input, critic_prompt
from selfrag.annotate.judgement import LABELS, Answer, Case
from selfrag.annotate.rubric import RUBRICS, messages
from selfrag.annotate.verdict import Step, Verdict, parse_verdict, spelling_probs
from selfrag.engine.endpoint import Endpoint, NonsenseReply, first_choice
from selfrag.engine.failure import Failure

if TYPE_CHECKING:
    import openai

N_LOGPROBS = 20  # the most that OpenAI gives, and enough for five labels in two spellings
_CHARACTERS_A_TOKEN = 4
_LABEL_TOKENS = 12  # the longest label as text has ten with most vocabularies
_EXPLANATION_TOKENS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """How a chat model is asked.

    `explain`: with a sentence that says why. `structured`: as a JSON object whose label can be
    nothing else, for servers that can hold a model to a schema; such answers have no
    probabilities. `max_tokens` bounds a reply. `identity` stands for the model in the keys of
    stored answers: what the server is, not where it listens today.
    """

    identity: str
    explain: bool = False
    structured: bool = False
    max_tokens: int = 200


class ChatTeacher:
    """A chat model with one rubric a group, greedily; label probabilities where it gives them."""

    def __init__(self, endpoint: Endpoint, config: ChatConfig) -> None:
        self._endpoint = endpoint
        self._config = config

    @property
    def name(self) -> str:
        """The model's name."""
        return self._endpoint.config.model

    def request(self, case: Case) -> str:
        """Model, messages and form of the reply; whether probabilities came back is not in it."""
        config = self._config
        form = [config.explain, config.structured, config.max_tokens]
        chat = messages(case, explain=config.explain, structured=config.structured)
        return json.dumps([config.identity, self.name, chat, form])

    def size(self, case: Case) -> tuple[int, int]:
        """About four characters a token, and a few tokens of frame a message."""
        chat = messages(case, explain=self._config.explain, structured=self._config.structured)
        n_prompt = sum(len(text) // _CHARACTERS_A_TOKEN + 4 for _, text in chat)
        n_reply = _EXPLANATION_TOKENS if self._config.explain else 3
        return n_prompt, min(n_reply, self._config.max_tokens)

    def ask(self, cases: Sequence[Case]) -> Iterator[tuple[int, Answer | Failure]]:
        """Every case with its answer, as they arrive."""
        return self._endpoint.run([partial(self._call, case) for case in cases])

    def read(self, case: Case, answer: Answer) -> Verdict:
        """The label that the reply begins with."""
        return parse_verdict(case.group, answer.text)

    def _call(self, case: Case, client: "openai.OpenAI") -> Answer:
        config = self._config
        chat = messages(case, explain=config.explain, structured=config.structured)
        is_short = not config.explain and not config.structured
        options: dict[str, Any] = {
            "max_tokens": _LABEL_TOKENS if is_short else config.max_tokens,
            "temperature": 0,
        }
        if config.structured:
            options["response_format"] = _verdict_schema(case)
        else:
            options |= {"logprobs": True, "top_logprobs": N_LOGPROBS}
        return self._answer(case, self._endpoint.chat(client, chat, options))

    def _answer(self, case: Case, reply: object) -> Answer:
        choice = first_choice(reply)
        message = getattr(choice, "message", None)
        text = getattr(message, "refusal", None) or getattr(message, "content", None)
        if not isinstance(text, str):
            raise NonsenseReply(f"expected text from a chat model, found {message!r}")
        options = RUBRICS[case.group].options
        words = [option.word for option in options]
        probs = spelling_probs(_chat_steps(getattr(choice, "logprobs", None)), words)
        by_label = {option.label: probs[option.word] for option in options} if probs else {}
        return _counted(text, by_label, reply)


class ServedCritic:
    """A critic of `selfrag train critic` behind a completions endpoint, with its own prompt."""

    def __init__(self, endpoint: Endpoint, *, identity: str) -> None:
        self._endpoint = endpoint
        self._identity = identity

    @property
    def name(self) -> str:
        """The model's name."""
        return self._endpoint.config.model

    def request(self, case: Case) -> str:
        """Model and prompt."""
        return json.dumps([self._identity, self.name, _prompt(case)])

    def size(self, case: Case) -> tuple[int, int]:
        """About four characters a token."""
        return len(_prompt(case)) // _CHARACTERS_A_TOKEN, _LABEL_TOKENS

    def ask(self, cases: Sequence[Case]) -> Iterator[tuple[int, Answer | Failure]]:
        """Every case with its answer, as they arrive."""
        return self._endpoint.run([partial(self._call, case) for case in cases])

    def read(self, case: Case, answer: Answer) -> Verdict:
        """The label that it wrote."""
        return parse_verdict(case.group, answer.text)

    def _call(self, case: Case, client: "openai.OpenAI") -> Answer:
        reply: object = client.completions.create(
            model=self.name,
            prompt=_prompt(case),
            temperature=0,
            max_tokens=_LABEL_TOKENS,
            logprobs=N_LOGPROBS,
            # vLLM hides a label that is one special token otherwise; others pass this over.
            extra_body={"skip_special_tokens": False},
        )
        choice = first_choice(reply)
        text = getattr(choice, "text", None)
        if not isinstance(text, str):
            raise NonsenseReply(f"expected text from a critic, found {text!r}")
        probs = spelling_probs(_steps(getattr(choice, "logprobs", None)), LABELS[case.group])
        return _counted(text, probs, reply)


def _prompt(case: Case) -> str:
    return critic_prompt(CRITIC_INSTRUCTIONS[case.group], critic_input(case))


def _chat_steps(logprobs: object) -> list[Step]:
    """The tokens of a chat reply with the log-probabilities at their places, if it has them."""
    steps = []
    for token in getattr(logprobs, "content", None) or []:
        places = [token, *(getattr(token, "top_logprobs", None) or [])]
        pairs = [(getattr(p, "token", None), getattr(p, "logprob", None)) for p in places]
        steps.append(_step(pairs))
    return steps


def _steps(logprobs: object) -> list[Step]:
    """The same of a completion."""
    tokens = getattr(logprobs, "tokens", None) or []
    chosen = getattr(logprobs, "token_logprobs", None) or []
    others = getattr(logprobs, "top_logprobs", None) or []
    return [
        _step([(token, logprob), *(dict(top or {}).items())])
        for token, logprob, top in zip(tokens, chosen, others, strict=False)
    ]


def _step(pairs: Sequence[tuple[object, object]]) -> Step:
    """The first pair is the token that was written; raises `NonsenseReply` for what is no pair."""
    logprobs: dict[str, float] = {}
    for token, logprob in pairs:
        if (
            not isinstance(token, str)
            or not isinstance(logprob, int | float)
            or not logprob <= 0.01
        ):
            raise NonsenseReply(f"expected tokens with log-probabilities, found {pairs!r:.200}")
        logprobs[token] = float(logprob)
    return Step(token=str(pairs[0][0]), logprobs=logprobs)


def _verdict_schema(case: Case) -> dict[str, Any]:
    words = [option.word for option in RUBRICS[case.group].options]
    properties = {"label": {"type": "string", "enum": words}, "explanation": {"type": "string"}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    form = {"name": "verdict", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": form}


def _counted(text: str, probs: Mapping[Any, float], reply: object) -> Answer:
    usage = getattr(reply, "usage", None)
    return Answer(
        text=text,
        probs=tuple((str(label), round(prob, 6)) for label, prob in probs.items()),
        prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
    )
