"""Models on vLLM in this process: batches on GPUs, one call for all questions of a round.

Ids go in and out; of the vocabulary only the ids that are watched travel (`logprob_token_ids`, vLLM
0.20 or newer). Knows nothing of Self-RAG.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.engine.base import Completion, FinishReason, Precision, Request
from selfrag.engine.batching import require_room
from selfrag.engine.tokenizer import open_tokenizer
from selfrag.errors import BadInput, EngineError, MissingPackage
from selfrag.prompt import Tokenizer

try:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.platforms import current_platform
except ImportError as error:
    raise MissingPackage(
        f"cannot start the vLLM engine: {error}; it needs vLLM, so run "
        '`pip install "selfrag[vllm]"` in an environment of its own, or name a server\'s address'
    ) from error

logger = logging.getLogger(__name__)

_DTYPES = {Precision.AUTO: "auto", Precision.EXACT: "float32", Precision.BF16: "bfloat16"}
_MOST_WATCHED = 128  # what vLLM allows


class VllmEngine:
    """A model folder as an `Engine`, run by vLLM with its prefix cache.

    `n_gpus`: over how many GPUs the weights are spread (tensor parallel). `max_context` None: what
    the model was trained for; less takes less memory. Raises `EngineError` where vLLM cannot start.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        precision: Precision = Precision.AUTO,
        n_gpus: int = 1,
        max_context: int | None = None,
    ) -> None:
        started = time.perf_counter()
        if precision not in _DTYPES:
            raise BadInput(
                f"cannot run {name} on vLLM in precision {precision}; expected auto, exact or "
                "bf16, so name one of these"
            )
        self._name = name
        self._tokenizer = open_tokenizer(path)
        self._llm: Any = _start(path, _DTYPES[precision], n_gpus, max_context)
        self._max_context = int(self._llm.llm_engine.model_config.max_model_len)
        logger.info("loaded %s in %.1f s", name, time.perf_counter() - started)

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        return self._name

    @property
    def max_context(self) -> int:
        """How many tokens prompt and completion may hold together."""
        return self._max_context

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary this model reads."""
        return self._tokenizer

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request greedily, in order; an empty batch gives an empty list.

        One call of vLLM for all requests that watch the same ids, as of different lists in a batch
        one may replace the others (vllm-project/vllm issue 51789). Raises `BadInput` for a prompt
        that leaves no room and `EngineError` when vLLM fails.
        """
        if self._llm is None:
            raise EngineError(
                f"cannot complete {len(requests)} prompts: {self._name} was closed; expected an "
                "engine in use, so open the model again"
            )
        for request in requests:
            require_room(request, self._max_context)
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            alike.setdefault(request.watch_ids, []).append(index)
        done: dict[int, Completion] = {}
        for indices in alike.values():
            completed = self._complete([requests[index] for index in indices])
            done.update(zip(indices, completed, strict=True))
        return [done[index] for index in range(len(requests))]

    def close(self) -> None:
        """Ends vLLM and its processes; the engine cannot be used after."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    def _complete(self, requests: Sequence[Request]) -> list[Completion]:
        prompts = [TokensPrompt(prompt_token_ids=list(r.prompt_ids)) for r in requests]
        try:
            outputs = self._llm.generate(prompts, [_params(r) for r in requests], use_tqdm=False)
        except Exception as error:  # its errors have no common class; ours are not raised in there
            raise EngineError(
                f"cannot complete {len(requests)} prompts: vLLM says {type(error).__name__} "
                f"{error}; if memory is short, lower top_k"
            ) from error
        return [_completion(o.outputs[0], r) for o, r in zip(outputs, requests, strict=True)]


def _start(path: Path, dtype: str, n_gpus: int, max_context: int | None) -> Any:
    # On a processor compilation takes minutes, and its blocks of 128 positions share little.
    on_cpu = {"enforce_eager": True, "block_size": 32} if current_platform.is_cpu() else {}
    try:
        return LLM(
            str(path),
            skip_tokenizer_init=True,  # ids go in and out
            dtype=dtype,
            tensor_parallel_size=n_gpus,
            max_model_len=max_context,
            max_logprobs=_MOST_WATCHED,
            enable_prefix_caching=True,
            **on_cpu,
        )
    except Exception as error:  # its errors have no common class
        raise EngineError(
            f"cannot run {path} on vLLM: {type(error).__name__} {' '.join(str(error).split())}; "
            "expected a model and memory that it can use, so look at what it logged above"
        ) from error


def _params(request: Request) -> Any:
    watched = list(dict.fromkeys(request.watch_ids))
    return SamplingParams(
        temperature=0.0,
        max_tokens=request.max_new_tokens,
        stop_token_ids=sorted(request.stop_ids),
        ignore_eos=True,  # what ends a completion are the stop ids alone
        detokenize=False,
        # With both set their numbers must agree; none watched still gives the chosen id's own.
        logprob_token_ids=watched or None,
        logprobs=None if watched else 0,
    )


def _completion(output: Any, request: Request) -> Completion:
    token_ids = tuple(int(token_id) for token_id in output.token_ids)
    steps = output.logprobs or []
    try:
        chosen = [step[i].logprob for step, i in zip(steps, token_ids, strict=True)]
        watched = [[step[i].logprob for i in request.watch_ids] for step in steps]
    except (KeyError, ValueError) as error:
        raise EngineError(
            f"cannot use what vLLM computed: {type(error).__name__} {error}; expected the "
            "log-probabilities of the ids asked for at every step, so install vLLM 0.26 or newer"
        ) from error
    is_stopped = token_ids[-1] in request.stop_ids
    return Completion(
        token_ids=token_ids,
        logprobs=np.array(chosen, np.float64),
        watched=np.array(watched, np.float64).reshape(len(steps), len(request.watch_ids)),
        finish_reason=FinishReason.STOP if is_stopped else FinishReason.LENGTH,
    )
