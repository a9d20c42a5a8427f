"""Whether an engine's log-probabilities can be trusted: a few requests whose answers must agree.

Catches servers too old to know the field, proxies that drop it, and servers that answer one request
of a batch with the ids of another. Knows nothing of how an engine computes.
"""

from dataclasses import replace

import numpy as np

from selfrag.engine.base import Completion, Engine, Request
from selfrag.errors import EngineError
from selfrag.prompt import PromptFormat

# How far batches may move a log-probability of a likely id: rounding, also of 16-bit engines.
_TOLERANCE = 0.25
_LIKELY = np.log(1e-3)

_QUESTIONS = (
    "Which planet has the moon Titan?",
    "Write a short poem about the sea, with the words wave, salt and gull in it.",
)


def check_engine(engine: Engine) -> int:
    """How many log-probabilities were checked; raises `EngineError` where one cannot be trusted.

    Asks two known prompts alone and together, each with other watched ids: every id asked for must
    come back, finite, together at most 1, and as alone.
    """
    fmt = PromptFormat.of(engine.tokenizer)
    all_ids = fmt.ids.all
    asked = [
        Request(prefix_ids=tuple(fmt.instruction(question)), max_new_tokens=4, watch_ids=ids)
        for question, ids in zip(_QUESTIONS, (all_ids, all_ids[::-1]), strict=True)
    ]
    alone = [engine.generate([request])[0] for request in asked]
    # Together each also watches the first id that it chose alone, which is a likely one.
    again = [
        replace(request, watch_ids=(*request.watch_ids, one.token_ids[0]))
        for request, one in zip(asked, alone, strict=True)
    ]
    together = engine.generate(again)
    for request, longer, one, other in zip(asked, again, alone, together, strict=True):
        _check(engine, request, one)
        _check(engine, longer, other)
        if one.token_ids[0] != other.token_ids[0]:
            continue  # a tie that rounding decides either way
        likely = one.watched[0] > _LIKELY
        moved = np.abs(one.watched[0] - other.watched[0, :-1])[likely]
        if moved.size and moved.max() > _TOLERANCE:
            raise _untrusted(
                engine, f"a log-probability moves by {moved.max():.2f} when prompts share a batch"
            )
    return sum(completion.watched.size for completion in (*alone, *together))


def _check(engine: Engine, request: Request, completion: Completion) -> None:
    shape = (len(completion.token_ids), len(request.watch_ids))
    if completion.watched.shape != shape or completion.logprobs.shape != shape[:1]:
        raise _untrusted(engine, f"log-probs of shape {completion.watched.shape}, not {shape}")
    values = np.concatenate([completion.watched.ravel(), completion.logprobs])
    if not np.isfinite(values).all() or values.max() > 1e-3 or values.min() < -9000:
        raise _untrusted(engine, "log-probs that are missing, not finite or above 0")
    _, first = np.unique(request.watch_ids, return_index=True)
    mass = np.exp(completion.watched[:, first]).sum(axis=1)
    if mass.max() > 1.01:
        raise _untrusted(engine, f"probabilities of different ids that sum to {mass.max():.2f}")
    for token_id, logprob, row in zip(
        completion.token_ids, completion.logprobs, completion.watched, strict=True
    ):
        if token_id in request.watch_ids:
            found = row[request.watch_ids.index(token_id)]
            if abs(found - logprob) > _TOLERANCE:
                raise _untrusted(engine, f"{logprob:.2f} and {found:.2f} for one and the same id")


def _untrusted(engine: Engine, found: str) -> EngineError:
    return EngineError(
        f"cannot trust the scores of {engine.name}: found {found}; expected the log-probabilities "
        "of exactly the ids asked for, so use vLLM 0.26 or newer, SGLang, or a model run here"
    )
