"""The released scripts' settings and crashes, what they send to a model, and who completes it.

Text is a tuple of pieces, so a control token stays one value and no plain text can become one.
`short` and `long` decide what the released scripts decide, faults included; see docs/compat.md.
Knows nothing of either decision. Released code: AkariAsai/self-rag 1fcdc42, `retrieval_lm/`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby, takewhile
from typing import Protocol

from selfrag.decode.gate import RetrievalMode
from selfrag.decode.score import ScoreWeights
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Completion, Engine, FloatArray, Request
from selfrag.errors import ConfigError
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL, PromptFormat, wrapped
from selfrag.reflection import (
    REFLECTION_TOKENS,
    Marker,
    ReflectionToken,
    Relevance,
    Retrieve,
    Support,
    Utility,
)


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
    weights: ScoreWeights = field(default_factory=lambda: ScoreWeights(utility=1.0, retrieval=0.0))
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


class End(StrEnum):
    """The end of sequence, spelt as the released model spells it, whatever ours calls it."""

    OF_SEQUENCE = "</s>"


# Plain text, or one control token that a model wrote or we put there.
Piece = str | ReflectionToken | End
Pieces = tuple[Piece, ...]

# The released cleaning lists lack [Continue to Use Evidence], so that token survives.
CLEANED_TOKENS = tuple(str(token) for token in REFLECTION_TOKENS if token is not Retrieve.CONTINUE)
_BLANK_LINE = "\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePrompt:
    """What a model reads: the instruction, what was written before, then one passage or none."""

    instruction: str
    written: Pieces = ()
    passage: Passage | None = None

    def then(self, pieces: Pieces) -> "ReferencePrompt":
        """The same prompt with more written text, and no passage."""
        return ReferencePrompt(instruction=self.instruction, written=self.written + pieces)

    def reading(self, passage: Passage) -> "ReferencePrompt":
        """The same prompt, ending on a passage."""
        return ReferencePrompt(instruction=self.instruction, written=self.written, passage=passage)

    @property
    def text(self) -> str:
        """The prompt as one string, as the released scripts send it."""
        head = f"{INSTRUCTION_HEAD}{self.instruction}{INSTRUCTION_TAIL}{spell(self.written)}"
        if self.passage is None:
            return head
        body = f"{self.passage.title}\n{self.passage.text}"
        return f"{head}{Retrieve.YES}{Marker.PARAGRAPH_START}{body}{Marker.PARAGRAPH_END}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Written:
    """One completion of T positions, T >= 1, the end of sequence included.

    `controls`: the control token at each position, else None. `logprobs`: shape (T,), nats, of
    the chosen tokens. `watched`: shape (T, 15), nats, in the order of `REFLECTION_TOKENS`.
    `pieces`: the decoded text, with control tokens only where the engine leaves them in.
    """

    controls: tuple[ReflectionToken | None, ...]
    logprobs: FloatArray
    watched: FloatArray
    pieces: Pieces

    def first(self, group: type[Support] | type[Utility]) -> FloatArray | None:
        """The group's log-probabilities where the model first wrote a token of it, else None."""
        at = next((i for i, token in enumerate(self.controls) if isinstance(token, group)), None)
        return None if at is None else self.watched[at, COLUMNS[group]]

    def at_start(self, group: type[Retrieve] | type[Relevance]) -> FloatArray:
        """The group's log-probabilities at the first position, whatever was written there."""
        return self.watched[0, COLUMNS[group]]


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
        prefix = self.fmt.begin([wrapped(prompt.instruction), *self._parts(prompt.written)])
        suffix: list[int] = []
        if prompt.passage is not None:
            body = self.fmt.passage(prompt.passage, self.max_passage_tokens, verbatim=True)
            suffix = [ids[Retrieve.YES], *body]
        return Request(
            prefix_ids=tuple(prefix),
            suffix_ids=tuple(suffix),
            max_new_tokens=max_new_tokens,
            stop_ids=frozenset({ids.end_of_sequence}),
            watch_ids=ids.all,
        )

    def _parts(self, pieces: Pieces) -> list[str | int]:
        """What was written before, control tokens by id."""
        ids = self.fmt.ids
        return [
            ids.end_of_sequence
            if isinstance(piece, End)
            else ids[piece]
            if isinstance(piece, ReflectionToken)
            else piece
            for piece in pieces
        ]

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


def spell(pieces: Iterable[Piece]) -> str:
    """The pieces as one string, control tokens spelt out."""
    return "".join(pieces)


def clean(pieces: Pieces) -> str:
    """The text without control tokens and newlines; [Continue to Use Evidence] stays."""
    text = spell(pieces)
    for string in (*CLEANED_TOKENS, End.OF_SEQUENCE.value, "\n", "<|endoftext|>"):
        text = text.replace(string, "")
    return text


def holds(pieces: Pieces, token: ReflectionToken) -> bool:
    """Whether `token` itself is among the pieces; plain text that spells it is not."""
    # By identity: a control token is a string, and equal to plain text of the same letters.
    return any(piece is token for piece in pieces)


def cut_before(pieces: Pieces, token: ReflectionToken) -> Pieces:
    """What precedes the first `token`, or everything."""
    return tuple(takewhile(lambda piece: piece is not token, pieces))


def cut_at_blank_line(pieces: Pieces) -> Pieces:
    """What precedes the first blank line, or everything."""
    for at, piece in enumerate(pieces):
        before, blank, _ = piece.partition(_BLANK_LINE)
        if blank:
            return (*pieces[:at], before)
    return pieces
