"""A generator behind HTTP servers of token ids: vLLM, SGLang and llama.cpp, one or several alike.

vLLM (0.26 or newer): `POST /v1/completions` with `logprob_token_ids`. SGLang: `POST /generate` with
`token_ids_logprob`. Both give the log-probabilities of chosen ids at every step, so nothing else of
the vocabulary travels. llama.cpp is probed for them (`engine/llama_server.py`). Knows nothing of
Self-RAG.
"""

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from selfrag.engine import llama_server
from selfrag.engine.base import Completion, FinishReason, Request
from selfrag.engine.batching import require_room
from selfrag.errors import EngineError, MissingPackage
from selfrag.prompt import Tokenizer

try:
    import openai
except ImportError as error:
    raise MissingPackage(
        f"cannot reach a model server: {error}; it needs the openai client, "
        'so run `pip install "selfrag[api]"`'
    ) from error

# What servers put where they have no value for an id (vllm-project/vllm issue 51789).
_MISSING = -9000.0
# Prompts in one HTTP request: enough for a server to batch, few enough to spread over servers.
_PROMPTS_A_CALL = 32


class Dialect(StrEnum):
    """Which server it is."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMACPP = "llamacpp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the servers are and how to call them; all of `urls` must serve the same model.

    `urls` end in `/v1`. `api_key` is sent to the servers and goes nowhere else.
    """

    urls: tuple[str, ...]
    model: str = ""  # as served; empty: the only one there is
    api_key: str = field(default="", repr=False)
    concurrency: int = 8  # calls on their way to one server
    max_retries: int = 2  # of one call to one server
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of the model that it runs. `root` is its folder or hub id there."""

    name: str
    root: str
    max_context: int
    dialect: Dialect


class _Server:
    """One server; where a call fails for good it is passed over from then on."""

    def __init__(self, url: str, config: ServerConfig) -> None:
        self.url = url
        self.is_up = True
        self.client = openai.OpenAI(
            base_url=url,
            api_key=config.api_key or "none",
            max_retries=config.max_retries,
            timeout=config.timeout_s,
        )

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON reply; retried by the client on 429, 5xx and lost connections."""
        return self.client.post(path, body=body, cast_to=object)

    def get(self, path: str) -> Any:
        """The JSON reply."""
        return self.client.get(path, cast_to=object)


class RemoteEngine:
    """The model of one or several equal servers as an `Engine`.

    `tokenizer` is that of the model served. Raises `EngineError` where no server answers or what
    comes back is not what was asked for.
    """

    def __init__(self, config: ServerConfig, *, tokenizer: Tokenizer, served: Served) -> None:
        self._servers = [_Server(url, config) for url in config.urls]
        self._served = served
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(config.concurrency * len(config.urls))
        self._turn = itertools.cycle(range(len(self._servers)))
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        return self._served.name

    @property
    def max_context(self) -> int:
        """How many tokens prompt and completion may hold together."""
        return self._served.max_context

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary this model reads."""
        return self._tokenizer

    def close(self) -> None:
        """Ends the connections; a call on its way is waited for."""
        self._pool.shutdown(cancel_futures=True)
        for server in self._servers:
            server.client.close()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request greedily, in order; an empty batch gives an empty list.

        Calls go round the servers; one that stops answering is passed over and its calls go to the
        others. Raises `EngineError` when none is left.
        """
        for request in requests:
            require_room(request, self.max_context)
        at_once = 1 if self._served.dialect is Dialect.LLAMACPP else _PROMPTS_A_CALL
        calls = list(_calls(requests, at_once))
        try:
            replies = self._pool.map(lambda call: self._call([requests[i] for i in call]), calls)
            done = {
                i: each
                for call, reply in zip(calls, replies, strict=True)
                for i, each in zip(call, reply, strict=True)
            }
        except RuntimeError as error:  # the pool was shut down
            raise EngineError(
                f"cannot complete {len(requests)} prompts: {self.name} was closed ({error}); "
                "expected an engine in use, so open the model again"
            ) from error
        return [done[i] for i in range(len(requests))]

    def _call(self, requests: Sequence[Request]) -> list[Completion]:
        failures = []
        for server in self._in_turn():
            try:
                return completed(self._served, server, requests)
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code != 429:
                    raise EngineError(
                        f"cannot complete prompts on {server.url}: it answered "
                        f"{error.status_code} ({_said(error)}); expected completions, so look "
                        "whether it serves this model and knows the fields that are sent "
                        "(vLLM 0.26 or newer, SGLang 0.5 or newer)"
                    ) from error
                failures.append(f"{server.url}: {error.status_code}")
            except openai.APIError as error:  # connection lost, time-out, no JSON
                failures.append(f"{server.url}: {error}")
            with self._lock:
                server.is_up = False
        raise EngineError(
            f"cannot complete prompts: no server is left ({'; '.join(failures)}); expected at "
            "least one to answer, so start it again or name another"
        )

    def _in_turn(self) -> Iterator[_Server]:
        """All servers, each once, from the next in turn on; those that are down come last."""
        with self._lock:
            start = next(self._turn)
            order = self._servers[start:] + self._servers[:start]
            order.sort(key=lambda server: not server.is_up)
        yield from order


def look_up(config: ServerConfig) -> Served:
    """Asks the first server that answers what it serves. Raises `EngineError`."""
    failures = []
    for url in config.urls:
        server = _Server(url, config)
        try:
            return _served(server, config.model)
        except (openai.APIError, KeyError, TypeError, ValueError) as error:
            failures.append(f"{url}: {error or type(error).__name__}")
        finally:
            server.client.close()
    raise EngineError(
        f"cannot reach a model server: {'; '.join(failures)}; expected the address of a running "
        "vLLM, SGLang or llama.cpp server that ends in /v1, so start it or correct the address"
    )


def _served(server: _Server, wanted: str) -> Served:
    models = {model["id"]: model for model in server.get("/models")["data"]}
    if wanted and wanted not in models:
        raise ValueError(f"serves {sorted(models)}, not {wanted!r}")
    if not wanted and len(models) != 1:
        raise ValueError(f"serves {sorted(models)}: name one of them")
    model = models[wanted or next(iter(models))]
    owner = str(model.get("owned_by", ""))
    found = [dialect for dialect in Dialect if dialect in owner]
    if not found:
        raise ValueError(
            f"the server calls itself {owner!r}; only vLLM, SGLang and llama.cpp tell the "
            "log-probabilities of chosen ids"
        )
    root, max_context = model.get("root"), model.get("max_model_len")
    if found[0] is Dialect.LLAMACPP:
        root = server.get(_beside(server, "props"))["model_path"]
        max_context = model["meta"]["n_ctx"]
    return Served(
        name=str(model["id"]).rpartition("/")[2] if found[0] is Dialect.LLAMACPP else model["id"],
        root=str(root or model["id"]),
        max_context=int(max_context),
        dialect=found[0],
    )


def _beside(server: _Server, path: str) -> str:
    """The address of `path` beside `/v1`."""
    return str(server.client.base_url.join(f"../{path}"))


def _calls(requests: Sequence[Request], at_once: int) -> Iterator[list[int]]:
    """Indices that travel together, at most `at_once`.

    What a call says of limits and ids holds for all its prompts. They keep the order of the
    requests, so that those which share a prefix meet in a server's cache.
    """
    alike: dict[Any, list[int]] = {}
    for index, request in enumerate(requests):
        key = (request.max_new_tokens, request.stop_ids, request.watch_ids)
        alike.setdefault(key, []).append(index)
    for indices in alike.values():
        for start in range(0, len(indices), at_once):
            yield indices[start : start + at_once]


def completed(served: Served, server: _Server, requests: Sequence[Request]) -> list[Completion]:
    """The completions of one call to one server; `EngineError` where its reply lacks something."""
    asks = {
        Dialect.VLLM: _ask_vllm,
        Dialect.SGLANG: _ask_sglang,
        Dialect.LLAMACPP: _ask_llamacpp,
    }
    try:
        return asks[served.dialect](server, served.name, requests)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineError(
            f"cannot use what {server.url} answered: {type(error).__name__} {error}; expected "
            "token ids and the log-probabilities of the ids asked for at every step, so use vLLM "
            "0.26 or newer, or SGLang, without a proxy that drops fields"
        ) from error


def _ask_vllm(server: _Server, model: str, requests: Sequence[Request]) -> list[Completion]:
    """One call of `/v1/completions`. The chosen id is watched by vLLM itself."""
    first = requests[0]
    watched = list(first.watch_ids)
    body = {
        "model": model,
        "prompt": [list(request.prompt_ids) for request in requests],
        "max_tokens": first.max_new_tokens,
        "temperature": 0,
        "stop_token_ids": sorted(first.stop_ids),
        "ignore_eos": True,  # what ends a completion are the stop ids alone
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "logprobs": len(watched),
        # On every request: one without would be answered with its neighbour's ids
        # (vllm-project/vllm issue 51789).
        "logprob_token_ids": watched,
    }
    if not watched:
        del body["logprob_token_ids"]
    choices = sorted(server.post("/completions", body)["choices"], key=lambda c: c["index"])
    if len(choices) != len(requests):
        raise ValueError(f"{len(choices)} completions for {len(requests)} prompts")
    return [_from_vllm(choice, request) for choice, request in zip(choices, requests, strict=True)]


def _from_vllm(choice: dict[str, Any], request: Request) -> Completion:
    logprobs = choice["logprobs"]
    rows = [
        {int(name.removeprefix("token_id:")): value for name, value in step.items()}
        for step in logprobs["top_logprobs"] or [{}] * len(choice["token_ids"])
    ]
    return _completion(choice["token_ids"], logprobs["token_logprobs"], rows, request)


def _ask_sglang(server: _Server, model: str, requests: Sequence[Request]) -> list[Completion]:
    """One call of `/generate`, which lies beside `/v1`. Ids come back in any order."""
    first = requests[0]
    body = {
        "input_ids": [list(request.prompt_ids) for request in requests],
        "sampling_params": {
            "max_new_tokens": first.max_new_tokens,
            "temperature": 0,
            "stop_token_ids": sorted(first.stop_ids),
            "ignore_eos": True,
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        },
        "return_logprob": True,
        "logprob_start_len": -1,  # 0 would defeat the server's prefix cache
        "token_ids_logprob": [list(first.watch_ids)] * len(requests),
    }
    replies = server.post(_beside(server, "generate"), body)
    if len(replies) != len(requests):
        raise ValueError(f"{len(replies)} completions for {len(requests)} prompts")
    return [_from_sglang(reply, request) for reply, request in zip(replies, requests, strict=True)]


def _from_sglang(reply: dict[str, Any], request: Request) -> Completion:
    facts = reply["meta_info"]
    chosen = facts["output_token_logprobs"]
    rows = [
        {int(token_id): value for value, token_id, *_ in step}
        for step in facts.get("output_token_ids_logprobs") or [[]] * len(chosen)
    ]
    return _completion(
        [int(token_id) for _, token_id, *_ in chosen],
        [value for value, *_ in chosen],
        rows,
        request,
    )


def _ask_llamacpp(server: _Server, model: str, requests: Sequence[Request]) -> list[Completion]:
    """Several calls of `/completion`, which lies beside `/v1`, for every prompt."""
    address = _beside(server, "completion")
    return [
        llama_server.complete(lambda body: server.post(address, body), request)
        for request in requests
    ]


def _completion(
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    rows: Sequence[dict[int, float]],
    request: Request,
) -> Completion:
    """Checked: as many steps everywhere, every watched id at every step, all finite."""
    if not token_ids or not len(token_ids) == len(logprobs) == len(rows):
        raise ValueError(f"{len(token_ids)} ids, {len(logprobs)} log-probs, {len(rows)} rows")
    watched = np.array(
        [[row[token_id] for token_id in request.watch_ids] for row in rows], np.float64
    ).reshape(len(rows), len(request.watch_ids))
    values = [*logprobs, *watched.ravel()]
    if not all(math.isfinite(value) and _MISSING < value <= 1e-3 for value in values):
        raise ValueError("a log-probability is missing or above 0")
    is_stopped = token_ids[-1] in request.stop_ids
    return Completion(
        token_ids=tuple(int(token_id) for token_id in token_ids),
        logprobs=np.array(logprobs, np.float64),
        watched=watched,
        finish_reason=FinishReason.STOP if is_stopped else FinishReason.LENGTH,
    )


def _said(error: openai.APIStatusError) -> str:
    return " ".join(str(error.message).split())[:200]
