"""Teachers over HTTP: any chat model with the rubrics, or a critic of ours that a server runs.

Many calls at once, waits that the server asks for, failures by name. The only module that knows the
`openai` client.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from selfrag.annotate.critic import CRITIC_INSTRUCTIONS, critic_input, critic_prompt
from selfrag.annotate.judgement import LABELS, Answer, Case, Failure, Reason
from selfrag.annotate.rubric import RUBRICS, messages
from selfrag.annotate.verdict import Step, Verdict, parse_verdict, spelling_probs
from selfrag.errors import EngineError

if TYPE_CHECKING:
    import openai


try:
    import openai
except ImportError as error:
    raise EngineError(
        f"cannot ask a teacher over HTTP: {error}; it needs the openai client, "
        'so run `pip install "selfrag[api]"`'
    ) from error

T = TypeVar("T")

_STOPPING = (Reason.UNAUTHORISED,)  # it will not be otherwise for the next call
_ROW_ONLY = (Reason.BAD_REQUEST, Reason.TOO_LONG)  # says nothing of the next call
# What the client lets through where a body is no JSON or no text.
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError)


class NonsenseReply(Exception):
    """A reply that is none of such a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """Where and how to call. `base_url` ends in `/v1` as a rule.

    `max_failures`: calls in a row that may fail, after `max_retries` each, before the rest is not
    asked. `api_key` is sent to the server and goes nowhere else.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    concurrency: int = 8
    max_retries: int = 6
    max_failures: int = 10
    timeout_s: float = 60.0


class Endpoint:
    """Calls one server. 429, 5xx and lost connections are tried again with growing waits.

    The waits are the client's: what `Retry-After` says, else 0.5 s doubled up to 8 s.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=config.api_key or "none",
            max_retries=config.max_retries,
            timeout=config.timeout_s,
        )
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._stopped = ""

    def run(
        self, calls: Sequence[Callable[[openai.OpenAI], T]]
    ) -> Iterator[tuple[int, T | Failure]]:
        """The answer of every call with its index, as they arrive, `concurrency` at a time.

        After a refused key, or `max_failures` failures in a row, the rest is not asked.
        """
        waiting: dict[Future[T | Failure], int] = {}
        numbers = count()
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            # Not all at once: whoever stops reading stops the calls that have not begun.
            for call in calls:
                waiting[pool.submit(self._try, call)] = next(numbers)
                if len(waiting) >= self.config.concurrency:
                    yield from self._arrived(waiting)
            while waiting:
                yield from self._arrived(waiting)

    def close(self) -> None:
        """Gives the connections back."""
        self._client.close()

    @staticmethod
    def _arrived(
        waiting: "dict[Future[T | Failure], int]",
    ) -> Iterator[tuple[int, T | Failure]]:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield waiting.pop(future), future.result()

    def _try(self, call: Callable[[openai.OpenAI], T]) -> T | Failure:
        if self._stopped:
            return Failure(reason=Reason.NOT_ASKED, detail=self._stopped)
        try:
            answer = call(self._client)
        except (openai.OpenAIError, NonsenseReply, *_UNREADABLE) as error:
            failure = failure_from(error)
            self._note(failure)
            return failure
        with self._lock:
            self._failed_in_a_row = 0
        return answer

    def _note(self, failure: Failure) -> None:
        if failure.reason in _ROW_ONLY:
            return
        with self._lock:
            self._failed_in_a_row += 1
            if failure.reason in _STOPPING:
                self._stopped = f"not asked, since the server said: {failure.detail}"
            elif self._failed_in_a_row >= self.config.max_failures:
                self._stopped = (
                    f"not asked after {self._failed_in_a_row} failures in a row, the last of them "
                    f"{failure.reason}: {failure.detail}"
                )


def failure_from(error: Exception) -> Failure:
    """The kind of an error of the client, and what the server said, in at most 300 characters."""
    kinds: tuple[tuple[type[Exception], Reason], ...] = (
        (openai.AuthenticationError, Reason.UNAUTHORISED),
        (openai.PermissionDeniedError, Reason.UNAUTHORISED),
        (openai.RateLimitError, Reason.RATE_LIMITED),
        (openai.InternalServerError, Reason.SERVER_ERROR),
        (openai.BadRequestError, Reason.BAD_REQUEST),
        (openai.UnprocessableEntityError, Reason.BAD_REQUEST),
        (openai.APIConnectionError, Reason.UNREACHABLE),
        (NonsenseReply, Reason.NONSENSE),
        (openai.APIResponseValidationError, Reason.NONSENSE),
        (openai.APIStatusError, Reason.SERVER_ERROR),
    )
    reason = next((reason for kind, reason in kinds if isinstance(error, kind)), Reason.NONSENSE)
    told = str(error).lower()
    if reason is Reason.BAD_REQUEST and ("context" in told or "too long" in told):
        reason = Reason.TOO_LONG
    return Failure(reason=reason, detail=str(error)[:300])


N_LOGPROBS = 20  # the most that OpenAI gives, and enough for five labels in two spellings
_CHARACTERS_A_TOKEN = 4
_LABEL_TOKENS = 12  # the longest label as text has ten with most vocabularies
_EXPLANATION_TOKENS = 100
# What is left out of a request, or spelt otherwise, once a server has refused it by name.
_OPTIONAL = ("logprobs", "temperature", "max_tokens")


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
        self._without: set[str] = {"logprobs"} if config.structured else set()

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
        import openai

        while True:
            without = set(self._without)
            try:
                return self._answer(case, self._create(case, client, without))
            except openai.BadRequestError as error:
                # Some servers and models lack one of these: ask without from now on.
                told = str(error).lower()
                lacking = {name for name in _OPTIONAL if name.rstrip("s") in told} - without
                if not lacking:
                    raise
                self._without |= lacking

    def _create(self, case: Case, client: "openai.OpenAI", without: set[str]) -> object:
        config = self._config
        chat: Any = [
            {"role": role, "content": text}
            for role, text in messages(case, explain=config.explain, structured=config.structured)
        ]
        n_tokens = config.max_tokens if config.explain or config.structured else _LABEL_TOKENS
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        options: dict[str, Any] = {limit: n_tokens}
        if "temperature" not in without:
            options["temperature"] = 0
        if "logprobs" not in without:
            options |= {"logprobs": True, "top_logprobs": N_LOGPROBS}
        if config.structured:
            options["response_format"] = _verdict_schema(case)
        return client.chat.completions.create(model=self.name, messages=chat, **options)

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


def first_choice(reply: object) -> Any:
    """The first of the choices of a completion; raises `NonsenseReply` where there is none."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise NonsenseReply(f"expected a completion, found {str(reply)[:200]!r}")
    return choices[0]


def _counted(text: str, probs: Mapping[Any, float], reply: object) -> Answer:
    usage = getattr(reply, "usage", None)
    return Answer(
        text=text,
        probs=tuple((str(label), round(prob, 6)) for label, prob in probs.items()),
        prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
    )
