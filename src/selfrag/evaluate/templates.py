"""How a plain language model is asked: named prompts, with passages and without.

Those of the released baselines (AkariAsai/self-rag 1fcdc42, `retrieval_lm/utils.py`) keep their
names there; `chat` is for models with a chat format of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selfrag.errors import BadInput
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL

_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n"
)
_TAIL = INSTRUCTION_TAIL.removesuffix("\n")


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
    f"{_PREAMBLE}### Paragraph:\n{{passages}}\n\n{INSTRUCTION_HEAD}{{instruction}}{_TAIL}"
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
