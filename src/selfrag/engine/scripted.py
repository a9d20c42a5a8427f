"""A table-driven double of a language model: every prompt's completion is written beforehand.

It keeps the contract of `Engine` to the letter, so that the search is tested with arrays worked
out by hand and without weights. Knows nothing of torch.

    tokenizer = ScriptedTokenizer()
    ask = tokenizer.surface(PromptFormat.of(tokenizer).instruction("Where?"))
    engine = ScriptedEngine(tokenizer, {
        ask: say({Retrieve.YES: 0.7, Retrieve.NO: 0.3}, ...),
        ask + ...: say({Relevance.RELEVANT: 0.8}, "In Paris.", Support.FULL, "</s>"),
    })
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfrag.engine.base import Completion, FinishReason, Request
from selfrag.engine.batching import Batcher, Draft, Next, Row, Step
from selfrag.errors import BadInput, EngineError
from selfrag.reflection import REFLECTION_TOKENS
from selfrag.text import require_text

END_OF_SEQUENCE = "</s>"

# What a step reports for an id that its script does not mention, in nats.
FLOOR_LOGPROB = -20.0

_PIECE = re.compile(r"\w+|\s|[^\w\s]")  # every character falls in exactly one piece


class ScriptedTokenizer:
    """Words, single spaces and single signs as tokens; the vocabulary grows as text arrives.

    Ids 0 .. 14 are the reflection tokens in order and 15 is `</s>`; `encode` yields 16 and above.
    """

    start_ids: tuple[int, ...] = ()

    def __init__(self) -> None:
        self._surfaces = [*(token.value for token in REFLECTION_TOKENS), END_OF_SEQUENCE]
        self._control_ids = {surface: index for index, surface in enumerate(self._surfaces)}
        self._piece_ids: dict[str, int] = {}

    @property
    def end_of_sequence_id(self) -> int:
        """The id that ends an answer."""
        return self._control_ids[END_OF_SEQUENCE]

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Ids of `text` read as plain text: the name of a control token becomes several pieces."""
        return [self._piece_id(piece) for piece in _PIECE.findall(require_text(text))]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ordinary ids; control ids are left out."""
        n_control = len(self._control_ids)
        return "".join(self._surfaces[i] for i in token_ids if i >= n_control)

    def token_to_id(self, token: str) -> int:
        """The id of a control token or of a piece seen before; raises `KeyError` otherwise."""
        if token in self._control_ids:
            return self._control_ids[token]
        return self._piece_ids[token]

    def surface(self, token_ids: Sequence[int]) -> str:
        """All ids as one string, control tokens spelled out: the key of a script table."""
        return "".join(self._surfaces[token_id] for token_id in token_ids)

    def read(self, written: str) -> list[int]:
        """Ids of one element of a script: a control token by its name, or else plain text."""
        control_id = self._control_ids.get(written)
        return self.encode(written) if control_id is None else [control_id]

    def _piece_id(self, piece: str) -> int:
        if piece not in self._piece_ids:
            self._piece_ids[piece] = len(self._surfaces)
            self._surfaces.append(piece)
        return self._piece_ids[piece]


@dataclass(frozen=True, slots=True)
class ScriptedCompletion:
    """What the model would write to one prompt if nothing stopped it; see `say`."""

    written: tuple[str | Mapping[str, float], ...]
    text_prob: float


def say(*written: str | Mapping[str, float], text_prob: float = 1.0) -> ScriptedCompletion:
    """A completion, written as it reads.

    A string is a control token or plain text of any length, of which every token has probability
    `text_prob`. A mapping is one step with the probabilities of several tokens, of which the most
    probable one is chosen, the first of equals. Whatever a step leaves out has `FLOOR_LOGPROB`.
    """
    probs = [
        text_prob,
        *(p for step in written if not isinstance(step, str) for p in step.values()),
    ]
    if any(not 0.0 < prob <= 1.0 for prob in probs):
        raise ValueError(
            f"cannot script a completion with probabilities {probs}; expected each in (0, 1], so "
            "leave out what cannot happen"
        )
    return ScriptedCompletion(written, text_prob)


Script = Callable[[tuple[int, ...]], ScriptedCompletion] | Mapping[str, ScriptedCompletion]


class ScriptedEngine:
    """An `Engine` that looks its completions up.

    `script` maps a prompt as `ScriptedTokenizer.surface` spells it, or is a function of its ids.
    `calls` holds every batch received, in order. Batches are grouped and prefixes are cached as in
    any other engine, so that `n_tokens_read` is what a model would have read.
    """

    def __init__(
        self,
        tokenizer: ScriptedTokenizer,
        script: Script,
        *,
        max_context: int = 4096,
        max_batch: int = 16,
        cache_tokens: int = 1 << 16,
    ) -> None:
        self._tokenizer = tokenizer
        self._script = script
        self._max_context = max_context
        self._reader = _Reader()
        self._batcher = Batcher(
            self._reader,
            name=self.name,
            max_context=max_context,
            max_batch=max_batch,
            cache_bytes=cache_tokens,
        )
        self.calls: list[tuple[Request, ...]] = []

    @property
    def name(self) -> str:
        """What model this is, for reports."""
        return "scripted"

    @property
    def max_context(self) -> int:
        """How many tokens prompt and completion may hold together."""
        return self._max_context

    @property
    def tokenizer(self) -> ScriptedTokenizer:
        """The vocabulary this model reads."""
        return self._tokenizer

    @property
    def n_tokens_read(self) -> int:
        """How many tokens all forward passes so far would have computed."""
        return self._reader.n_tokens

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request by the script, in order; an empty batch gives an empty list.

        Raises `EngineError` for a prompt without a script, or one whose script is over before a
        stop id or `max_new_tokens`, and `BadInput` for a prompt that leaves no room.
        """
        self.calls.append(tuple(requests))
        self._reader.completions = {request: self._complete(request) for request in requests}
        return self._batcher.complete(requests)

    def close(self) -> None:
        """The engine cannot be used after."""
        self._batcher.close()

    def _complete(self, request: Request) -> Completion:
        n_prompt = len(request.prompt_ids)
        if n_prompt + request.max_new_tokens > self._max_context:
            raise BadInput(
                f"cannot complete a prompt of {n_prompt} tokens by {request.max_new_tokens}: "
                f"expected at most {self._max_context} in all; shorten the prompt"
            )
        steps = self._steps(request.prompt_ids)
        token_ids, reason = self._cut([next(iter(step)) for step in steps], request)
        steps = steps[: len(token_ids)]
        watched = [[step.get(i, FLOOR_LOGPROB) for i in request.watch_ids] for step in steps]
        return Completion(
            token_ids=token_ids,
            logprobs=np.array([next(iter(step.values())) for step in steps], dtype=float),
            watched=np.array(watched, dtype=float).reshape(len(steps), len(request.watch_ids)),
            finish_reason=reason,
        )

    def _steps(self, prompt_ids: tuple[int, ...]) -> list[dict[int, float]]:
        """Log-probabilities by id for every step; the chosen id comes first."""
        if callable(self._script):
            completion = self._script(prompt_ids)
        else:
            surface = self._tokenizer.surface(prompt_ids)
            if surface not in self._script:
                raise EngineError(
                    f"cannot complete {surface!r}: the script holds no such prompt among its "
                    f"{len(self._script)}; add it to the table"
                )
            completion = self._script[surface]
        steps: list[dict[int, float]] = []
        for written in completion.written:
            if isinstance(written, str):
                logprob = math.log(completion.text_prob)
                steps += [{token_id: logprob} for token_id in self._tokenizer.read(written)]
            else:
                steps.append(self._distribution(written))
        return steps

    def _distribution(self, probs: Mapping[str, float]) -> dict[int, float]:
        step = {}
        for written, prob in sorted(probs.items(), key=lambda item: -item[1]):
            token_ids = self._tokenizer.read(written)
            if len(token_ids) != 1:
                raise EngineError(
                    f"cannot script a step with {written!r}: it is {len(token_ids)} tokens, "
                    "expected one; split it over several steps"
                )
            step[token_ids[0]] = math.log(prob)
        return step

    def _cut(self, written: list[int], request: Request) -> tuple[tuple[int, ...], FinishReason]:
        for n, token_id in enumerate(written[: request.max_new_tokens], start=1):
            if token_id in request.stop_ids:
                return tuple(written[:n]), FinishReason.STOP
        if len(written) < request.max_new_tokens:
            raise EngineError(
                f"cannot complete {self._tokenizer.surface(request.prompt_ids)!r}: its script is "
                f"over after {len(written)} tokens, expected a stop token or "
                f"{request.max_new_tokens} tokens; end it with {END_OF_SEQUENCE!r}"
            )
        return tuple(written[: request.max_new_tokens]), FinishReason.LENGTH


class _Reader:
    """A model that only counts, as `batching.Model`; its state of n positions is n."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.completions: dict[Request, Completion] = {}

    def read(self, rows: Sequence[Row[int]]) -> "_Reader":
        """Counts the new ids."""
        self.n_tokens += sum(len(row.ids) for row in rows)
        return self

    def write(self, rows: "_Reader", steps: Sequence[Next]) -> "_Reader":
        """Counts one id a row."""
        self.n_tokens += len(steps)
        return self

    def choose(self, drafts: Sequence[Draft]) -> list[list[Step]]:
        """The next id of every completion as it was scripted."""
        steps = []
        for draft in drafts:
            done, n = self.completions[draft.request], len(draft.token_ids)
            steps.append([Step(done.token_ids[n], float(done.logprobs[n]), done.watched[n])])
        return steps

    def span(self, row: int, start: int, stop: int) -> int:
        """The state of some positions."""
        return stop - start

    def cut(self, span: int, start: int, stop: int) -> int:
        """The state of some of them."""
        return stop - start

    def n_bytes(self, span: int) -> int:
        """One for each position, so that the bound is one in tokens."""
        return span
