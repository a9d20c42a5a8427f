"""What the released scripts send to a model and read back, as pieces of text.

Knows nothing of engines, or of how an answer is chosen. Text is a tuple of pieces, so a control
token stays one value and no plain text can become one. Released code: AkariAsai/self-rag 1fcdc42,
`retrieval_lm/`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import FloatArray
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL
from selfrag.reflection import (
    REFLECTION_TOKENS,
    Marker,
    ReflectionToken,
    Relevance,
    Retrieve,
    Support,
    Utility,
)


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
