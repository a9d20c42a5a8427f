"""What of a passage is read: all of a given one, in pieces if it is long; of a found one the start.

A passage in an event or an answer has the text that the model read, and no more.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat

_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
_MARKERS = 2  # around every passage


def as_read(hit: Hit, fmt: PromptFormat, max_tokens: int) -> Hit:
    """The hit with so much of its text, in whole words, as `max_tokens` hold beside the title."""
    text = hit.passage.text
    if _fits(hit.passage, text, fmt, max_tokens):
        return hit
    ends = [found.start() for found in _SPACE.finditer(text)] or list(range(len(text)))
    low, high = 0, len(ends)  # the text fits up to the end before `low`, not up to that of `high`
    while low < high:
        middle = (low + high) // 2
        if _fits(hit.passage, text[: ends[middle]], fmt, max_tokens):
            low = middle + 1
        else:
            high = middle
    return replace(hit, passage=_piece(hit.passage, 0, ends[low - 1] if low else 0))


def given_hits(passages: Sequence[Passage], fmt: PromptFormat, max_tokens: int) -> tuple[Hit, ...]:
    """Hits that hold all of `passages` in their order; long ones in pieces of at most `max_tokens`.

    A piece has `#` and its number behind the id of its passage.
    """
    pieces: list[Passage] = []
    for passage in passages:
        spans = list(_spans(passage, 0, len(passage.text), fmt, max_tokens))
        if len(spans) < 2:
            pieces.append(passage)
            continue
        for number, span in enumerate(spans, start=1):
            pieces.append(replace(_piece(passage, *span), id=f"{passage.id}#{number}"))
    return tuple(Hit(passage=piece, score=0.0, rank=n) for n, piece in enumerate(pieces, start=1))


def _spans(
    passage: Passage, start: int, end: int, fmt: PromptFormat, max_tokens: int
) -> Iterator[tuple[int, int]]:
    """Halves and their halves, cut between sentences, else words, until each fits."""
    text = passage.text[start:end]
    if len(text) < 2 or _fits(passage, text, fmt, max_tokens):
        yield start, end
        return
    middle = len(text) // 2
    for pattern in (_SENTENCE_END, _SPACE):
        # Not the very ends: of a text that begins or ends with space, one half would be empty.
        cuts = [m for m in pattern.finditer(text) if 0 < m.start() and m.end() < len(text)]
        near = [m for m in cuts if len(text) // 4 <= m.start() <= 3 * len(text) // 4]
        if near:
            cut = min(near, key=lambda m: abs(m.start() - middle))
            break
    left, right = (cut.start(), cut.end()) if near else (middle, middle)
    yield from _spans(passage, start, start + left, fmt, max_tokens)
    yield from _spans(passage, start + right, end, fmt, max_tokens)


def _fits(passage: Passage, text: str, fmt: PromptFormat, max_tokens: int) -> bool:
    return len(fmt.passage(replace(passage, text=text))) - _MARKERS <= max_tokens


def _piece(passage: Passage, start: int, end: int) -> Passage:
    return replace(
        passage,
        text=passage.text[start:end],
        start=passage.start + start,
        end=passage.start + end,
    )
