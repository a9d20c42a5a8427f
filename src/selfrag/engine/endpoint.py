"""Calls to an OpenAI-compatible server: many at once, waits that it asks for, failures by name.

The only module that knows the `openai` client. Knows nothing of what is asked.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from selfrag.engine.failure import Failure, Reason
from selfrag.errors import EngineError

try:
    import openai
except ImportError as error:
    raise EngineError(
        f"cannot ask a model over HTTP: {error}; it needs the openai client, "
        'so run `pip install "selfrag[api]"`'
    ) from error

T = TypeVar("T")

_STOPPING = (Reason.UNAUTHORISED,)  # it will not be otherwise for the next call
_ROW_ONLY = (Reason.BAD_REQUEST, Reason.TOO_LONG)  # says nothing of the next call
_OPTIONAL = ("logprobs", "temperature", "max_tokens", "seed", "top_p")  # some servers lack one
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
        self._without: set[str] = set()
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

    def chat(
        self, client: openai.OpenAI, said: Iterable[tuple[str, str]], options: Mapping[str, Any]
    ) -> Any:
        """A chat completion after the messages `said`, each with its role; to be called in `run`.

        What a server refuses by name is left out, or spelt otherwise, from then on.
        """
        messages: Any = [{"role": role, "content": text} for role, text in said]
        while True:
            without = set(self._without)
            kept = {name: options[name] for name in options if name not in without}
            if "logprobs" in without:
                kept.pop("top_logprobs", None)
            if "max_tokens" in without and "max_tokens" in options:
                kept["max_completion_tokens"] = options["max_tokens"]
            try:
                return client.chat.completions.create(
                    model=self.config.model, messages=messages, **kept
                )
            except openai.BadRequestError as error:
                told = str(error).lower()
                refused = {name for name in _OPTIONAL if name.rstrip("s") in told}
                if not (lacking := refused & options.keys() - without):
                    raise
                self._without |= lacking

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


def first_choice(reply: object) -> Any:
    """The first of the choices of a completion; raises `NonsenseReply` where there is none."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise NonsenseReply(f"expected a completion, found {str(reply)[:200]!r}")
    return choices[0]
