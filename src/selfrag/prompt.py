"""The format the generator reads, as token ids; the only place that spells it.

Untrusted text (question, title, passage) is tokenised alone with special-token parsing off, and
control ids are joined here, so no passage can forge a reflection token or end the answer.
Strings: AkariAsai/self-rag 1fcdc42, `retrieval_lm/utils.py` and `run_short_form.py`.
Knows nothing of models, retrieval or search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from selfrag.errors import EngineError
from selfrag.passage import Passage
from selfrag.reflection import REFLECTION_TOKENS, Marker, ReflectionIds, bind

INSTRUCTION_HEAD = "### Instruction:\n"
INPUT_HEAD = "\n\n### Input:\n"
INSTRUCTION_TAIL = "\n\n### Response:\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An earlier question of a conversation and the answer that was given, both untrusted text."""

    question: str
    answer: str


class Tokenizer(Protocol):
    """Text to ids and back, with no way for text to become a control id."""

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What every prompt begins with (`<s>` of Llama), where the model was trained so."""
        ...

    @property
    def end_of_sequence_id(self) -> int:
        """The id that ends an answer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text` read as plain text: special-token parsing is off, nothing is added."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ordinary ids; special and reflection ids are left out."""
        ...

    def token_to_id(self, token: str) -> int:
        """The id of one vocabulary entry; raises `KeyError` when there is none."""
        ...


@dataclass(frozen=True)
class PromptFormat:
    """Instruction and passages as ids of one tokenizer."""

    tokenizer: Tokenizer
    ids: ReflectionIds

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, model: str = "the model") -> "PromptFormat":
        """Binds the reflection tokens of `tokenizer`; `model` is named where that fails.

        Raises `EngineError` for a vocabulary that lacks one of the tokens or lets two share an id.
        """
        end = tokenizer.end_of_sequence_id
        try:
            return cls(tokenizer, bind(tokenizer.token_to_id, end_of_sequence=end))
        except (KeyError, ValueError) as error:
            raise EngineError(_unusable(tokenizer, model)) from error

    def instruction(self, instruction: str, task_input: str = "") -> list[int]:
        """`### Instruction:` wrapper around the question; the next id is the model's.

        `task_input`: what the instruction is about, where the data keep it apart.
        """
        return [*self.tokenizer.start_ids, *self._wrapped(instruction, task_input)]

    def _wrapped(self, instruction: str, task_input: str = "") -> list[int]:
        encode = self.tokenizer.encode
        about = [*encode(INPUT_HEAD), *encode(task_input)] if task_input else []
        return [*encode(INSTRUCTION_HEAD), *encode(instruction), *about, *encode(INSTRUCTION_TAIL)]

    def conversation(self, turns: Sequence[Turn], question: str) -> list[int]:
        """The instruction after the earlier turns, oldest first, each in the same wrapper.

        The released data have one turn; this is the format of each, joined by a blank line.
        """
        ids = [*self.tokenizer.start_ids]
        for turn in turns:
            ids += self._wrapped(turn.question)
            ids += [*self.tokenizer.encode(turn.answer), *self.tokenizer.encode("\n\n")]
        return [*ids, *self._wrapped(question)]

    def passage(self, passage: Passage, max_tokens: int | None = None) -> list[int]:
        """Title and text on two lines between paragraph markers; no retrieval token before them.

        Of the body at most the first `max_tokens` ids are kept.
        """
        encode = self.tokenizer.encode
        body = [*encode(f"{passage.title}\n"), *encode(passage.text)][:max_tokens]
        return [self.ids[Marker.PARAGRAPH_START], *body, self.ids[Marker.PARAGRAPH_END]]

    def surface(self, token_ids: Sequence[int]) -> str:
        """`token_ids` as text with the reflection tokens spelled out; other control ids go."""
        parts: list[str] = []
        plain: list[int] = []
        for token_id in token_ids:
            token = self.ids.token_of.get(token_id)
            if token is None:
                plain.append(token_id)
                continue
            parts += [self.tokenizer.decode(plain), token.value]
            plain = []
        return "".join([*parts, self.tokenizer.decode(plain)])


def _unusable(tokenizer: Tokenizer, model: str) -> str:
    lacking = [token.value for token in REFLECTION_TOKENS if not _knows(tokenizer, token.value)]
    found = (
        f"its vocabulary lacks {len(lacking)} of the 15 reflection tokens, {lacking[0]} among them"
        if lacking
        else "some of its 15 reflection tokens share an id with each other or the end of sequence"
    )
    return (
        f"cannot ask {model} for reflections: {found}; expected a Self-RAG model, so use "
        "`default` or `selfrag/selfrag_llama2_7b`, or train this one with `selfrag train generator`"
    )


def _knows(tokenizer: Tokenizer, token: str) -> bool:
    try:
        tokenizer.token_to_id(token)
    except KeyError:
        return False
    return True
