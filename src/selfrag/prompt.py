"""The formats that models read; the only place that spells them. The generator's as token ids.

Untrusted text (question, title, passage) is tokenised alone with special-token parsing off, and
control ids are joined here, so no passage can forge a reflection token or end the answer.
Strings: AkariAsai/self-rag 1fcdc42, `retrieval_lm/utils.py` and `run_short_form.py`. Untuned models
are asked by named templates or in ChatML.
Knows nothing of models, retrieval or search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from selfrag.errors import BadInput, EngineError
from selfrag.passage import Passage
from selfrag.reflection import REFLECTION_TOKENS, Marker, ReflectionIds, bind

INSTRUCTION_HEAD = "### Instruction:\n"
INPUT_HEAD = "\n\n### Input:\n"
INSTRUCTION_TAIL = "\n\n### Response:\n"
CHAT_START, CHAT_END = "<|im_start|>", "<|im_end|>"  # ChatML


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
        body = [*encode(f"{passage.title or ''}\n"), *encode(passage.text)][:max_tokens]
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


def is_chat(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has the two tokens of ChatML."""
    try:
        return all(tokenizer.token_to_id(mark) >= 0 for mark in (CHAT_START, CHAT_END))
    except KeyError:
        return False


def chat_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """`text` as a user's message in ChatML, and the head of the reply."""
    start, end = tokenizer.token_to_id(CHAT_START), tokenizer.token_to_id(CHAT_END)
    ids = [start, *tokenizer.encode("user\n"), *tokenizer.encode(text), end]
    return (*ids, *tokenizer.encode("\n"), start, *tokenizer.encode("assistant\n"))


# Named templates of the released baselines (AkariAsai/self-rag 1fcdc42, `retrieval_lm/utils.py`);
# `chat` is for models with a chat format of their own.
_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n"
)
_BARE_TAIL = INSTRUCTION_TAIL.removesuffix("\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Texts with `{instruction}`, and `{passages}` in the second.

    `chat`: the text is a user's message; else it is the prompt as it stands, and the answer ends
    at a blank line, as in the released script.
    """

    name: str
    plain: str
    reading: str
    chat: bool = False

    def render(self, instruction: str, passages: Sequence[Passage]) -> str:
        """The prompt; passages are numbered as `[1] title`, text on the next line."""
        if not passages:
            return self.plain.replace("{instruction}", instruction)
        listed = "\n".join(
            f"[{number}] {passage.title}\n{passage.text}"
            for number, passage in enumerate(passages, start=1)
        )
        # Not `format`: passages may hold braces. What is put in first must not be read again.
        before, after = self.reading.split("{passages}")
        fill = instruction.join
        return f"{fill(before.split('{instruction}'))}{listed}{fill(after.split('{instruction}'))}"


_RELEASED_RETRIEVAL = (
    f"{_PREAMBLE}### Paragraph:\n{{passages}}\n\n{INSTRUCTION_HEAD}{{instruction}}{_BARE_TAIL}"
)

TEMPLATES = {
    template.name: template
    for template in (
        Template(
            name="chat",
            plain="{instruction}",
            reading="Answer the question using the passages.\n\n{passages}\n\nQuestion: "
            "{instruction}",
            chat=True,
        ),
        Template(
            name="prompt_no_input",
            plain=f"{INSTRUCTION_HEAD}{{instruction}}{INSTRUCTION_TAIL}",
            reading=_RELEASED_RETRIEVAL,
        ),
        Template(
            name="prompt_no_input_retrieval",
            plain=f"{INSTRUCTION_HEAD}{{instruction}}{INSTRUCTION_TAIL}",
            reading=_RELEASED_RETRIEVAL,
        ),
        Template(
            name="prompt_open_instruct",
            plain="<user>\n{instruction}\n<assistant>\n",
            reading="<user>\nReference:{passages}\n{instruction}\n<assistant>\n",
        ),
        Template(
            name="llama_chat_prompt",
            plain="[INST]{instruction}[/INST]",
            reading="[INST]{passages}\n{instruction}[/INST]",
        ),
    )
}


def template_named(name: str) -> Template:
    """The template of this name; raises `BadInput` that lists them all."""
    if name not in TEMPLATES:
        raise BadInput(
            f"cannot evaluate: there is no prompt {name!r}; expected one of "
            f"{', '.join(TEMPLATES)}, so name one"
        )
    return TEMPLATES[name]
