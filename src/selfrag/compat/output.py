"""The released scripts from a question to the text that they store, faults included.

Released: AkariAsai/self-rag 1fcdc42, `main` of `retrieval_lm/run_short_form.py` and of
`run_long_form_static.py`. docs/compat.md names the faults.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfrag.compat.completer import CLEANED_TOKENS, Crash, End, EngineCompleter, ReferenceConfig
from selfrag.compat.long import LongAnswer, LongPath, answer_long_form
from selfrag.compat.short import ShortAnswer, answer_short_form
from selfrag.decode.config import SearchConfig
from selfrag.engine.base import Engine
from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat
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


def follow_reference(
    question: str, hits: Sequence[Hit], engine: Engine, config: SearchConfig, *, max_depth: int
) -> ShortAnswer | LongAnswer:
    """The short-form script's answer, or the long-form script's where `max_depth` is above 0.

    All score terms are on; `hits` are the passages that the scripts read from their input file.
    """
    completer = EngineCompleter(
        engine=engine,
        fmt=PromptFormat.of(engine.tokenizer, model=engine.name),
        special_tokens_in_text=True,
        max_passage_tokens=config.max_passage_tokens,
    )
    settings = ReferenceConfig(
        mode=config.mode,
        threshold=config.threshold,
        max_new_tokens=config.max_new_tokens,
        use_groundness=True,
        use_utility=True,
        use_seqscore=True,
        weights=config.weights,
        closed=bool(config.choices),
        beam_width=config.beam_width,
        max_depth=max(1, max_depth),
        ignore_cont=config.drop_unsupported,
    )
    decide = answer_long_form if max_depth else answer_short_form
    return decide(question, [hit.passage for hit in hits], completer=completer, config=settings)


def reference_json(question: str, answer: ShortAnswer | LongAnswer) -> dict[str, Any]:
    """The documented JSON form (docs/formats.md)."""
    stored = short_output(answer.text) if isinstance(answer, ShortAnswer) else cited_output(answer)
    return {
        "question": question,
        "answer": answer.text,
        "stored": stored.text,
        "retrieved": answer.retrieved,
        "compat": "reference",
        "form": "short" if isinstance(answer, ShortAnswer) else "long",
        "candidates": candidates_json(answer),
        "crash": None if answer.crash is None else asdict(answer.crash),
    }


def candidates_json(answer: ShortAnswer | LongAnswer) -> list[dict[str, Any]]:
    """What an answer was chosen from, as JSON."""
    if isinstance(answer, ShortAnswer):
        return [
            {"passage": c.passage.title, "text": c.text, "score": c.score}
            for c in answer.candidates
        ]
    return [{"text": path.text} for path in answer.paths]


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
