"""Calls to an OpenAI-compatible server: many at once, waits that it asks for, failures by name.

The only module that knows the `openai` client. Knows nothing of what is asked.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from selfrag.engine.failure import Failure, Reason
from selfrag.errors import MissingPackage

try:
    import openai
except ImportError as error:
    raise MissingPackage(
        f"cannot ask a model over HTTP: {error}; it needs the openai client, "
        'so run `pip install "selfrag[api]"`'
    ) from error

T = TypeVar("T")

_STOPPING = (Reason.UNAUTHORISED,)  # it will not be otherwise for the next call
_ROW_ONLY = (Reason.BAD_REQUEST, Reason.TOO_LONG)  # says nothing of the next call
_OPTIONAL = ("logprobs", "temperature", "max_tokens", "seed", "top_p")  # some servers lack one
# What the client lets through where a body is no JSON or no text.
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
# No try of a call begins later: a server that hangs is not waited for seven times over.
PATIENCE_S = 600.0


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


class _Client(openai.OpenAI):
    """The client, which begins no try of a call after `PATIENCE_S`."""

    since = threading.local()  # `began`: when the call of this thread began

    def _prepare_request(self, request: Any) -> None:
        """Is called before every try; see there."""
        if time.monotonic() - getattr(self.since, "began", time.monotonic()) > PATIENCE_S:
            raise openai.APITimeoutError(request=request)


class Endpoint:
    """Calls one server. 429, 5xx and lost connections are tried again with growing waits.

    The waits are the client's: what `Retry-After` says, else 0.5 s doubled up to 8 s. No try begins
    `PATIENCE_S` after the first.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._client = _Client(
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
        asked: SimpleQueue[tuple[int, Callable[[openai.OpenAI], T]] | None] = SimpleQueue()
        arrived: SimpleQueue[tuple[int, Future[T | Failure]]] = SimpleQueue()

        def work() -> None:
            while (each := asked.get()) is not None:
                done: Future[T | Failure] = Future()
                try:
                    done.set_result(self._try(each[1]))
                except Exception as error:  # is raised where the answers are read
                    done.set_exception(error)
                arrived.put((each[0], done))

        n_threads = min(self.config.concurrency, len(calls))
        # Not those of a pool: whoever stops the program would wait for a server that hangs.
        for _ in range(n_threads):
            threading.Thread(target=work, daemon=True).start()
        try:
            # Not all at once: whoever stops reading stops the calls that have not begun.
            for each in enumerate(calls[:n_threads]):
                asked.put(each)
            for n_read in range(len(calls)):
                place, found = arrived.get()
                yield place, found.result()
                if (following := n_read + n_threads) < len(calls):
                    asked.put((following, calls[following]))
        finally:
            for _ in range(n_threads):
                asked.put(None)

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

    def _try(self, call: Callable[[openai.OpenAI], T]) -> T | Failure:
        if self._stopped:
            return Failure(reason=Reason.NOT_ASKED, detail=self._stopped)
        _Client.since.began = time.monotonic()
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
    return Failure(reason=reason, detail=_detail(error)[:300])


def _detail(error: Exception) -> str:
    if isinstance(error, _UNREADABLE):
        return f"a reply that is no JSON ({error})"
    # Of a lost connection the client says no more; what it lost it by is its cause.
    is_lost = isinstance(error, openai.APIConnectionError) and str(error.__cause__ or "")
    return f"{str(error).rstrip('.')} ({error.__cause__})" if is_lost else str(error)


def first_choice(reply: object) -> Any:
    """The first of the choices of a completion; raises `NonsenseReply` where there is none."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices or choices[0] is None:
        found = getattr(reply, "error", None) or reply  # some say their errors with status 200
        raise NonsenseReply(f"expected a completion, found {str(found)[:200]!r}")
    return choices[0]


def chat_text(choice: object) -> str:
    """What a choice of a chat completion says, stripped; nothing where the model was silent.

    Raises `NonsenseReply` where it holds no message.
    """
    message = getattr(choice, "message", None)
    text = getattr(message, "content", 0)
    if not isinstance(text, str | None):
        raise NonsenseReply(f"expected text from a chat model, found {str(message)[:200]!r}")
    return (text or "").strip()


def shown_steps(choice: object) -> list[Any]:
    """The tokens of a chat reply as the API shows them; none where it shows none."""
    steps = getattr(getattr(choice, "logprobs", None), "content", None)
    return steps if isinstance(steps, list) else []


def shown_logprob(token: object) -> float | None:
    """The log-probability of a token that is shown, nats; None where it is no finite number."""
    found = getattr(token, "logprob", None)
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def listed_models(client: openai.OpenAI) -> list[str]:
    """The names of the models that a server lists; to be called in `Endpoint.run`.

    Raises `NonsenseReply` where it lists something else.
    """
    listed: Any = client.get("/models", cast_to=object)
    models: Any = (listed.get("data") or []) if isinstance(listed, dict) else None
    if not isinstance(models, list):
        raise NonsenseReply(f"expected a list of models, found {str(listed)[:200]!r}")
    names = [each.get("id") for each in models if isinstance(each, dict)]
    return [name for name in names if isinstance(name, str)]
