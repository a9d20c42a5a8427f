"""From a decision of the released scripts to the text that they store, faults included.

Released: AkariAsai/self-rag 1fcdc42, `main` of `retrieval_lm/run_short_form.py` and of
`run_long_form_static.py`. Knows nothing of scores; docs/compat.md names the faults.
"""

import re
from dataclasses import dataclass

from selfrag.compat.completer import Crash
from selfrag.compat.long import LongAnswer, LongPath
from selfrag.compat.text import CLEANED_TOKENS, End
from selfrag.passage import Passage
from selfrag.reflection import Retrieve

EMPTY_PREDICTION = Crash(
    error="IndexError",
    cause="the first character of an empty prediction is looked at",
    instead="stores the empty prediction",
)
NO_SECOND_PATH = Crash(
    error="KeyError",
    cause="an empty first path is replaced by the second, and there is none",
    instead="stores an empty output without passages",
)
NOT_RETRIEVED = Crash(
    error="KeyError",
    cause="segments are looked up although nothing was retrieved",
    instead="stores the whole text",
)

_UNSPACED = re.compile(r"(?<=\w)([.!?])(?=\w)")
# For scoring, the first of these that occurs in a prediction stands for the whole.
_VERDICTS = {"SUPPORTS": "true", "REFUTES": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is stored for one question; `passages` are those of the kept segments, in order."""

    text: str
    passages: tuple[Passage, ...] = ()
    crash: Crash | None = None


def short_output(text: str) -> Output:
    """A short-form prediction as it is scored: one leading "#" or ":" cut, a verdict as a word."""
    if not text:
        return Output(text="", crash=EMPTY_PREDICTION)
    text = text[1:] if text[0] in "#:" else text
    return Output(text=next((word for name, word in _VERDICTS.items() if name in text), text))


def cited_output(answer: LongAnswer) -> Output:
    """The first path with `[n]` after each segment, for tasks asqa and eli5.

    n counts the segments of the path, skipped ones included, so it can run ahead of `passages`.
    """
    if not answer.retrieved:
        return Output(text=clean_long(answer.text))
    path, *others = answer.paths
    if not clean_long(path.text):
        if not others:
            return Output(text="", crash=NO_SECOND_PATH)
        path = others[0]
    text, passages = _cite(path)
    text = fix_spacing(text)
    # The token survives cleaning, and stands where the released script wants a citation.
    text = text.replace(f".{Retrieve.CONTINUE}", " [1]. ").replace(". [1] ", " [1]. ")
    return Output(text=text.rstrip(), passages=passages)


def biography_output(answer: LongAnswer) -> Output:
    """The first path as plain text, for task factscore."""
    crash = None if answer.retrieved else NOT_RETRIEVED
    return Output(text=fix_spacing(clean_long(answer.text)), crash=crash)


def fix_spacing(text: str) -> str:
    """A space after every mark between word characters: "3.5" and "U.S." break too."""
    return _UNSPACED.sub(r"\1 ", text)


def clean_long(text: str) -> str:
    """The text without control tokens and one leading space; [Continue to Use Evidence] stays."""
    for string in (*CLEANED_TOKENS, End.OF_SEQUENCE.value):
        text = text.replace(string, "")
    return text.removeprefix(" ")


def _cite(path: LongPath) -> tuple[str, tuple[Passage, ...]]:
    parts: list[str] = []
    passages: list[Passage] = []
    seen: set[str] = set()
    for number, (segment, passage) in enumerate(zip(path.segments, path.passages, strict=True)):
        sentence = clean_long(segment)
        if not segment or sentence in seen or passage is None:
            continue
        seen.add(sentence)
        # The last character is taken for a full stop, whatever it is.
        parts.append(f"{sentence[:-1]} [{number}]. ")
        passages.append(passage)
    return "".join(parts), tuple(passages)
