"""The released scripts' settings, their crashes, and the seam to whatever completes their prompts.

`reference_short.py` and `reference_long.py` decide what the released scripts decide, faults
included; see docs/compat.md. Knows nothing of either decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from selfrag.compat.text import End, Piece, Pieces, ReferencePrompt, Written
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.score import ScoreWeights
from selfrag.engine.base import Completion, Engine, Request
from selfrag.errors import ConfigError
from selfrag.prompt import PromptFormat
from selfrag.reflection import ReflectionToken, Retrieve


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig:
    """The released flags, with their defaults; each script reads only those named for it.

    `threshold` None is the released default. `weights.sequence` is never read: the released
    sequence score is on (`use_seqscore`) or off.
    """

    mode: RetrievalMode = RetrievalMode.ADAPTIVE
    threshold: float | None = None
    max_new_tokens: int = 15
    use_groundness: bool = False
    use_utility: bool = False
    # Short form only.
    weights: ScoreWeights = field(default_factory=lambda: ScoreWeights(utility=1.0))
    use_seqscore: bool = False
    closed: bool = False
    # Long form only.
    beam_width: int = 2
    max_depth: int = 2
    ignore_cont: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "beam_width", "max_depth"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(
                    f"cannot follow the reference: {name} is {value}, expected at least 1; set it "
                    "so"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """Where the released code ends with an exception, and what is returned instead."""

    error: str
    cause: str
    instead: str


class Completer(Protocol):
    """Completes prompts greedily up to the end of sequence; there are no other stops."""

    def complete(self, prompts: Sequence[ReferencePrompt], *, max_new_tokens: int) -> list[Written]:
        """One completion a prompt, in order; an empty batch gives an empty list."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCompleter:
    """A `Completer` on a real engine, with untrusted text tokenised so that it yields no control.

    Our deviation: the released scripts tokenise one joined string, control names in passages
    included. `special_tokens_in_text`: whether the text keeps control tokens, which the released
    engine strips by default. `max_passage_tokens` cuts passage bodies; the released scripts never
    cut.
    """

    engine: Engine
    fmt: PromptFormat
    special_tokens_in_text: bool = False
    max_passage_tokens: int | None = None

    def complete(self, prompts: Sequence[ReferencePrompt], *, max_new_tokens: int) -> list[Written]:
        """One completion a prompt, in order. Raises what the engine raises."""
        requests = [self._request(prompt, max_new_tokens) for prompt in prompts]
        return [self._written(completion) for completion in self.engine.generate(requests)]

    def _request(self, prompt: ReferencePrompt, max_new_tokens: int) -> Request:
        ids = self.fmt.ids
        prefix = [*self.fmt.instruction(prompt.instruction), *self._encode(prompt.written)]
        suffix: list[int] = []
        if prompt.passage is not None:
            body = self.fmt.passage(prompt.passage, max_tokens=self.max_passage_tokens)
            suffix = [ids[Retrieve.YES], *body]
        return Request(
            prefix_ids=tuple(prefix),
            suffix_ids=tuple(suffix),
            max_new_tokens=max_new_tokens,
            stop_ids=frozenset({ids.end_of_sequence}),
            watch_ids=ids.all,
        )

    def _encode(self, pieces: Pieces) -> list[int]:
        token_ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, End):
                token_ids.append(self.fmt.ids.end_of_sequence)
            elif isinstance(piece, ReflectionToken):
                token_ids.append(self.fmt.ids[piece])
            else:
                token_ids += self.fmt.tokenizer.encode(piece)
        return token_ids

    def _written(self, completion: Completion) -> Written:
        ids = self.fmt.ids
        tokens: list[Piece | None] = [
            End.OF_SEQUENCE if i == ids.end_of_sequence else ids.token_of.get(i)
            for i in completion.token_ids
        ]
        return Written(
            controls=tuple(t if isinstance(t, ReflectionToken) else None for t in tokens),
            logprobs=completion.logprobs,
            watched=completion.watched,
            pieces=self._pieces(completion.token_ids, tokens),
        )

    def _pieces(self, token_ids: Sequence[int], tokens: Sequence[Piece | None]) -> Pieces:
        decode = self.fmt.tokenizer.decode
        pairs = list(zip(token_ids, tokens, strict=True))
        if not self.special_tokens_in_text:
            return (decode([token_id for token_id, token in pairs if token is None]),)
        pieces: list[Piece] = []
        for is_plain, run in groupby(pairs, key=lambda pair: pair[1] is None):
            if is_plain:
                pieces.append(decode([token_id for token_id, _ in run]))
            else:
                pieces += [token for _, token in run if token is not None]
        return tuple(pieces)
