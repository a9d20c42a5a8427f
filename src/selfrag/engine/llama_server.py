"""Completions from a llama.cpp server, which cannot be asked for log-probs of chosen ids.

The text comes from plain requests with the log-probability of every id chosen. What is watched
comes from probes: a request for one id after the same, cached, prompt, with all ids of interest
lifted by one bias, tells how probable they are relative to each other; the chosen id is among them
and its log-probability is known. Probes are made where a score can be read: at the first id, at the
last, and where the chosen id is watched itself. Elsewhere `watched` holds `UNKNOWN`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from selfrag.engine.base import Completion, FinishReason, Request

# nats, where nobody asked; below what any model gives.
UNKNOWN = -100.0
# Ids a plain request writes: the server knows no stop ids, so what comes after one is thrown away.
_PIECE = 16
_BIAS = 60.0  # lifts what is watched above the rest of the vocabulary
_LEAD = 40.0  # lifts one of them above the others

Post = Callable[[dict[str, Any]], Any]


def complete(post: Post, request: Request) -> Completion:
    """One completion; `post` sends a body to `/completion`. Raises `KeyError`, `ValueError`."""
    token_ids: list[int] = []
    logprobs: list[float] = []
    while len(token_ids) < request.max_new_tokens:
        n = min(_PIECE, request.max_new_tokens - len(token_ids))
        reply = post(_body(request, token_ids, n))
        ids = _until_stop([int(token_id) for token_id in reply["tokens"]], request)
        steps = reply.get("completion_probabilities", [])
        if len(steps) == len(reply["tokens"]):
            logprobs += [float(step["logprob"]) for step in steps[: len(ids)]]
        else:  # the server leaves out ids that end within a character
            befores = [[*token_ids, *ids[:at]] for at in range(len(ids))]
            logprobs += [_top_logprob(post, request, before) for before in befores]
        token_ids += ids
        if not ids or ids[-1] in request.stop_ids or reply["stop_type"] != "limit":
            break
    if not token_ids:
        raise ValueError("no id in the reply")
    is_short = len(token_ids) < request.max_new_tokens
    return Completion(
        token_ids=tuple(token_ids),
        logprobs=np.minimum(logprobs, 0.0),
        watched=_watched(post, request, token_ids, logprobs),
        finish_reason=(
            FinishReason.STOP
            if is_short or token_ids[-1] in request.stop_ids
            else FinishReason.LENGTH
        ),
    )


def _until_stop(ids: Sequence[int], request: Request) -> list[int]:
    stops = (at for at, token_id in enumerate(ids, start=1) if token_id in request.stop_ids)
    return list(ids[: next(stops, len(ids))])


def _watched(
    post: Post, request: Request, token_ids: Sequence[int], logprobs: Sequence[float]
) -> Any:
    watched = np.full((len(token_ids), len(request.watch_ids)), UNKNOWN)
    if not request.watch_ids:
        return watched
    last = len(token_ids) - 1
    read = [at for at, i in enumerate(token_ids) if at in (0, last) or i in request.watch_ids]
    for at in reversed(read):  # each finds the beginning that it needs in the server's cache
        found = _relative(post, request, token_ids[:at], token_ids[at])
        for column, token_id in enumerate(request.watch_ids):
            if token_id in found:
                value = logprobs[at] + found[token_id] - found[token_ids[at]]
                watched[at, column] = min(value, 0.0)
    return watched


def _relative(post: Post, request: Request, before: Sequence[int], chosen: int) -> dict[int, float]:
    """Log-probabilities of the watched ids and the chosen one, up to a constant.

    The first that is watched is lifted above the others, so that the server writes that one: of
    an id that ends within a character it would tell nothing.
    """
    ids = list(dict.fromkeys((*request.watch_ids, chosen)))
    body = {
        **_body(request, before, 1),
        "temperature": 1.0,
        "n_probs": len(ids),
        "post_sampling_probs": True,
        "logit_bias": [[ids[0], _BIAS + _LEAD], *([token_id, _BIAS] for token_id in ids[1:])],
    }
    (step,) = post(body)["completion_probabilities"]
    found = {int(e["id"]): math.log(e["prob"]) for e in step["top_probs"] if e["prob"] > 0}
    if not found.keys() <= set(ids):
        raise ValueError(f"ids that were not asked for: {sorted(found.keys() - set(ids))}")
    found[ids[0]] -= _LEAD
    return found


def _top_logprob(post: Post, request: Request, before: Sequence[int]) -> float:
    """The log-probability of the most probable id, whatever is written."""
    forced = (*request.watch_ids, *sorted(request.stop_ids))[0]
    body = {**_body(request, before, 1), "logit_bias": [[forced, _BIAS + _LEAD]]}
    (step,) = post(body)["completion_probabilities"]
    return float(step["top_logprobs"][0]["logprob"])


def _body(request: Request, before: Sequence[int], n: int) -> dict[str, Any]:
    return {
        "prompt": [*request.prompt_ids, *before],
        "n_predict": n,
        "temperature": 0.0,
        "samplers": ["temperature"],
        "n_probs": 1,
        "post_sampling_probs": False,
        "cache_prompt": True,
        "return_tokens": True,
    }
