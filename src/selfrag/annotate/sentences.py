"""The pieces of an answer that are annotated, cut so that joined they are the answer again.

Knows nothing of teachers. Sentences are those of `ingest.sentences`.
"""

from dataclasses import dataclass

from selfrag.reflection import REFLECTION_TOKENS
from selfrag.text import sentence_spans

SHORT_CHARACTERS = 30  # in answers of more than two sentences

_CONTROL = (*(str(token) for token in REFLECTION_TOKENS), "<s>", "</s>")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPart:
    """A piece of an answer; `is_bare`: too short to be judged, and copied as it is."""

    text: str
    is_bare: bool = False


def split_answer(output: str, *, merge_short: bool) -> list[AnswerPart]:
    """The sentences of `output` without the space between them, in order; none is lost.

    In answers of more than two sentences, one of fewer than 30 characters stays bare, as in the
    released code, or with `merge_short` goes with the sentence before it (the first with the next).
    """
    spans = sentence_spans(output) or [(0, len(output))]
    many = len(spans) > 2
    short = [many and end - start < SHORT_CHARACTERS for start, end in spans]
    if not merge_short:
        return [
            AnswerPart(text=output[start:end], is_bare=is_short)
            for (start, end), is_short in zip(spans, short, strict=True)
        ]
    merged: list[tuple[int, int]] = []
    open_start: int | None = None  # of short sentences that have none before them
    for (start, end), is_short in zip(spans, short, strict=True):
        if is_short and merged:
            merged[-1] = (merged[-1][0], end)
        elif is_short:
            open_start = start if open_start is None else open_start
        else:
            merged.append((start if open_start is None else open_start, end))
            open_start = None
    if open_start is not None:  # all of them are short
        merged.append((open_start, spans[-1][1]))
    return [AnswerPart(text=output[start:end]) for start, end in merged]


def without_control(text: str) -> str:
    """`text` with the brackets of what spells a control token made round, as in `(Relevant)`.

    Whoever reads generator data finds tokens by their spelling, so a source must not spell one.
    """
    for token in _CONTROL:
        if token in text:
            text = text.replace(token, f"({token[1:-1]})")
    return text
