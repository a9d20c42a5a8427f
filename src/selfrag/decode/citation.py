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
_CLAUSE = re.compile(r"[^\u3002\uff01\uff1f]+[\u3002\uff01\uff1f]*|[\u3002\uff01\uff1f]+")
_URL = re.compile(r"https?://[^\s<>\"'\\]+", re.IGNORECASE)
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
    that has most words of the segment, the first of equals. None where they share no word.
    """
    said, read = list(_words(segment)), list(_words(passage))
    spoken = [word for word, _, _ in said]
    matcher = SequenceMatcher(None, spoken, [word for word, _, _ in read], autojunk=False)
    run = matcher.find_longest_match()
    if run.size >= _LEAST_RUN or 0 < 2 * len(said) <= 3 * run.size:
        first, last = read[run.b], read[run.b + run.size - 1]
        touched = [s for s in _sentences(passage) if s[1] > first[1] and s[0] < last[2]]
        return touched[0][0], touched[-1][1]
    shared = [
        (_shared(spoken, passage[start:end]), start, end) for start, end in _sentences(passage)
    ]
    best = max(shared, key=lambda each: each[0], default=(0, 0, 0))
    return best[1:] if best[0] else None


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Every word in lower case, with its offsets."""
    return ((found.group().casefold(), *found.span()) for found in _WORD.finditer(text))


def _sentences(text: str) -> list[tuple[int, int]]:
    """Offsets of the sentences, those of scripts that Punkt does not split too."""
    return [
        (start + clause.start(), start + clause.end())
        for start, end in sentence_spans(text)
        for clause in _CLAUSE.finditer(text[start:end])
    ]


def _shared(spoken: list[str], sentence: str) -> int:
    """How many letters the words have that both texts hold: longer words say more."""
    both = Counter(spoken) & Counter(word for word, _, _ in _words(sentence))
    return sum(len(word) * n for word, n in both.items() if len(word) > 1 or not word.isascii())
