"""What a citation points at: the part of a passage that a segment rests on, and an address.

Knows nothing of answers or of how citations are shown.
"""

import re
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache

from selfrag.text import sentence_spans

# Characters of scripts without spaces are words of their own.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_URL = re.compile(r"https?://[^\s<>\"'\\]+", re.IGNORECASE)
_GAP = re.compile(r"\n[ \t]*\n\s*")
_LEAST_RUN = 3  # shorter runs of equal words occur by chance


def url_of(source: str) -> str | None:
    """The first http or https address in the source of a passage, or None.

    A period or comma behind it belongs to the sentence, and so does a bracket that it does not
    open itself.
    """
    found = _URL.search(source)
    if found is None:
        return None
    url = found.group().rstrip(".,;:!?")
    while url.endswith((")", "]", "}")) and url.count(url[-1]) > url.count(_OPENING[url[-1]]):
        url = url[:-1].rstrip(".,;:!?")
    return url if len(url) > len("https://") else None


_OPENING = {")": "(", "]": "[", "}": "{"}


@lru_cache(maxsize=4096)
def cited_span(segment: str, passage: str) -> tuple[int, int] | None:
    """Offsets in `passage` (code points) of the sentences that `segment` rests on, or None.

    They hold the longest run of words that both have; where no run is long, it is the sentence
    that has most in common with the segment, the first of equals: a word counts by how few
    sentences have it, so that "the" decides nothing. None where they share no word.
    """
    said, read = list(_words(segment)), list(_words(passage))
    spoken = [word for word, _, _ in said]
    matcher = SequenceMatcher(None, spoken, [word for word, _, _ in read], autojunk=False)
    run = matcher.find_longest_match()
    if run.size >= _LEAST_RUN or 0 < 2 * len(said) <= 3 * run.size:
        first, last = read[run.b], read[run.b + run.size - 1]
        touched = [s for s in _sentences(passage) if s[1] > first[1] and s[0] < last[2]]
        return touched[0][0], touched[-1][1]
    spans = _sentences(passage)
    shared = [
        set(spoken) & {word for word, _, _ in _words(passage[start:end])} for start, end in spans
    ]
    n_with = Counter(word for words in shared for word in words)
    worth = [sum(1 / n_with[word] for word in words) for words in shared]
    best = max(range(len(spans)), key=worth.__getitem__, default=None)
    return None if best is None or not worth[best] else spans[best]


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Every word in lower case, with its offsets."""
    return ((found.group().casefold(), *found.span()) for found in _WORD.finditer(text))


def _sentences(text: str) -> list[tuple[int, int]]:
    """Offsets of the sentences; what is over a blank line is no part of what follows."""
    spans = []
    for start, end in sentence_spans(text):
        for gap in _GAP.finditer(text, start, end):
            spans.append((start, gap.start()))
            start = gap.end()
        spans.append((start, end))
    return spans
