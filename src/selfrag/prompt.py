"""The formats that models read; the only place that spells them. The generator's as token ids.

Untrusted text (question, title, passage) is tokenised with special-token parsing off, and control
ids are joined here, so no passage can forge a reflection token or end the answer. Texts between two
control ids are tokenised as one string: the ids are those of the whole prompt as one string, which
is how the released code builds it, unless a text spells a control token.
Strings: AkariAsai/self-rag 1fcdc42, `retrieval_lm/utils.py` and `run_short_form.py`. Untuned models
are asked by named templates or in ChatML.
Knows nothing of models, retrieval or search.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
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

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Ids of `text` read as plain text: special-token parsing is off, nothing is added.

        `continues`: a control id comes before it. Some tokenizers put a space before the first word
        of a prompt, and nowhere else. Raises `BadInput` for what is no Unicode text.
        """
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

        Raises `BadInput` for a vocabulary that lacks one of the tokens or lets two share an id, and
        `EngineError` for a tokenizer that makes one of them of plain text.
        """
        end = tokenizer.end_of_sequence_id
        try:
            fmt = cls(tokenizer, bind(tokenizer.token_to_id, end_of_sequence=end))
        except (KeyError, ValueError) as error:
            raise BadInput(_unusable(tokenizer, model)) from error
        require_unforgeable(tokenizer, [token.value for token in REFLECTION_TOKENS], model=model)
        return fmt

    def join(self, parts: Iterable[str | int], *, continues: bool = False) -> list[int]:
        """Ids of texts and control ids side by side, as if all were one string.

        `continues`: what comes before them is a control id.
        """
        joined: list[int] = []
        for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
            if not is_text:
                joined += [int(part) for part in run]
            elif text := "".join(map(str, run)):
                joined += self.tokenizer.encode(text, continues=continues or bool(joined))
        return joined

    def instruction(self, instruction: str, task_input: str = "") -> list[int]:
        """`### Instruction:` wrapper around the question; the next id is the model's.

        `task_input`: what the instruction is about, where the data keep it apart.
        """
        return self.begin([wrapped(instruction, task_input)])

    def begin(self, parts: Iterable[str | int]) -> list[int]:
        """Ids of a whole prompt: what every prompt begins with, and then `parts`."""
        return [*self.tokenizer.start_ids, *self.join(parts)]

    def conversation(self, turns: Sequence[Turn], question: str) -> list[int]:
        """The instruction after the earlier turns, oldest first, each in the same wrapper.

        The released data have one turn; this is the format of each, joined by a blank line.
        """
        before = [f"{wrapped(turn.question)}{turn.answer}\n\n" for turn in turns]
        return self.begin([*before, wrapped(question)])

    def passage(
        self, passage: Passage, max_tokens: int | None = None, *, verbatim: bool = False
    ) -> list[int]:
        """Title and text on two lines between paragraph markers; no retrieval token before them.

        Of the two at most the first `max_tokens` ids are kept. A title that the text repeats as
        its heading is shown once (`Passage.body`), as models copy both; `verbatim` shows it twice,
        as the released code does.
        """
        text = f"{passage.title or ''}\n{passage.text if verbatim else passage.body}"
        body = self.tokenizer.encode(text, continues=True)[:max_tokens]
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


def wrapped(instruction: str, task_input: str = "") -> str:
    """The text of a prompt up to where the model writes."""
    about = f"{INPUT_HEAD}{task_input}" if task_input else ""
    return f"{INSTRUCTION_HEAD}{instruction}{about}{INSTRUCTION_TAIL}"


def check_instruction(claim: str) -> str:
    """The instruction under which a sentence is judged that answers no question."""
    return f"Check this claim: {claim}"


def following(tokenizer: Tokenizer, before: str, text: str) -> list[int]:
    """Ids of `text` where it follows `before` in one string; alone where the two would melt."""
    alone = tokenizer.encode(before)
    joined = tokenizer.encode(before + text)
    is_apart = joined[: len(alone)] == alone
    return joined[len(alone) :] if is_apart else tokenizer.encode(text, continues=True)


# What may stand around a token in a text; some tokenizers take spaces along.
_AROUND = ("{}", " {} ", "a{}b", "\n{}\n")


def require_unforgeable(tokenizer: Tokenizer, tokens: Sequence[str], *, model: str) -> None:
    """Raises `EngineError` where a text that spells one of `tokens` becomes one of their ids."""
    ids = {tokenizer.token_to_id(token) for token in tokens}
    for token in tokens:
        texts = [around.format(token) for around in _AROUND]
        read = [tokenizer.encode(text, continues=on) for text in texts for on in (False, True)]
        if any(not ids.isdisjoint(found) for found in read):
            raise EngineError(
                f"cannot use {model}: its tokenizer reads the text {token!r} as the control token, "
                "so a passage could forge it; expected control tokens marked as special in "
                "tokenizer.json, so mark them there, or export the model with `selfrag export`"
            )


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
    return all(_knows(tokenizer, mark) for mark in (CHAT_START, CHAT_END))


def chat_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """`text` as a user's message in ChatML, and the head of the reply."""
    start, end = tokenizer.token_to_id(CHAT_START), tokenizer.token_to_id(CHAT_END)
    message, newline, head = (
        tokenizer.encode(part, continues=True) for part in (f"user\n{text}", "\n", "assistant\n")
    )
    return (start, *message, end, *newline, start, *head)


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
