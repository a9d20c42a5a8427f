"""Which passages a sentence is compared with, and which passages the numbers in its text mean.

`[n]` is the source that the text lists under this number, where it lists any; else the n-th of the
passages given; else nobody knows. Passages without a number get the next free one when they are
first cited. Knows nothing of models.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfrag.decode.citation import url_of
from selfrag.decode.claims import Claims, Listed, Sentence, words_of
from selfrag.decode.wording import content_words
from selfrag.passage import Passage

MAX_LISTED = 100  # sources of a text that are looked for
PIECES_OF_CITED = 2  # of a long passage that is cited, the nearest are read
_LEAST_BODY = 8  # words: a listed source of fewer is an address, no text
# What points back: such a sentence is searched for together with the one before.
_BACK = re.compile(
    r"(?:it|its|he|his|she|her|they|their|this|these|that|those|there|both|one|such|the latter|"
    r"the former|here)\b",
    re.IGNORECASE,
)
SHORT = 4  # words: a sentence of no more is a short answer


def query_of(sentence: Sentence, question: str) -> str:
    """What is searched for a sentence: itself, in its context where it is short or points back."""
    is_short = len(words_of(sentence.text)) <= SHORT
    points_back = _BACK.match(sentence.claim) is not None
    before = sentence.before if points_back else ""
    asked = question if is_short or (points_back and not before) else ""
    return " ".join(filter(None, [asked, before, sentence.claim]))


@dataclass(frozen=True, slots=True)
class Numbered:
    """A passage, or the pieces of a long one, under the number that cites it."""

    number: int
    pieces: tuple[Passage, ...]


class Sources:
    """The passages of one check. `given`: each in pieces that a model can read, in order."""

    def __init__(
        self, claims: Claims, given: Sequence[Sequence[Passage]] | None, *, top_k: int
    ) -> None:
        self._claims, self._given, self._top_k = claims, given, top_k
        self._pieces = [piece for pieces in given or () for piece in pieces]
        self._words = [content_words(f"{p.title} {p.text}") for p in self._pieces]
        n_with = Counter(word for words in self._words for word in words)
        n = len(self._pieces)
        self._worth = {word: math.log(1 + n / count) for word, count in n_with.items()}
        self._by_number: dict[int, tuple[Passage, ...]] = {}
        self._numbers: dict[str, int] = {}  # by the id of a passage
        listed = [each.number for each in claims.listed[:MAX_LISTED]]
        cited = [n for each in claims.sentences for n in each.numbers]
        if not listed and given is not None:
            for number, pieces in enumerate(given, start=1):
                self._name(number, pieces)
        self._next = max([0, *listed, *cited, *self._by_number]) + 1
        if given is not None:
            self.found_listed([self._pieces] * len(listed))

    @property
    def needs_search(self) -> bool:
        """Whether passages are to be found, as none are given."""
        return self._given is None

    @property
    def listed_queries(self) -> list[str]:
        """What to search to find the sources that the text lists; see `found_listed`."""
        return [each.head for each in self._claims.listed[:MAX_LISTED]]

    def found_listed(self, found: Sequence[Iterable[Passage]]) -> None:
        """Takes what was found for each source that the text lists, as far as it is that source."""
        for listed, passages in zip(self._claims.listed, found, strict=False):
            same = tuple(each for each in passages if _is_of(listed, each))
            if not same and (own := _own_text(listed)) is not None:
                same = (own,)
            if same:
                self._name(listed.number, same)

    def passages_for(self, sentence: Sentence, found: Sequence[Passage]) -> list[Passage]:
        """What a sentence is compared with: found, or the nearest given, and what it cites."""
        words = content_words(sentence.claim)
        near = list(found) if self.needs_search else self._nearest(words, self._pieces, self._top_k)
        for number in sentence.numbers:
            near += self._nearest(words, self._by_number.get(number, ()), PIECES_OF_CITED)
        return list({each.id: each for each in near}.values())

    def knows(self, number: int) -> bool:
        """Whether `[number]` means a passage that is at hand."""
        return number in self._by_number

    def pieces_of(self, number: int) -> tuple[Passage, ...]:
        """What `[number]` means; nothing where it means none."""
        return self._by_number.get(number, ())

    @property
    def says_what_numbers_mean(self) -> bool:
        """Whether the text lists its sources, or passages were given: else numbers mean nothing."""
        return bool(self._claims.listed) or self._given is not None

    def number_of(self, passage: Passage) -> int:
        """The number that cites a passage; a new one where it has none."""
        if passage.id not in self._numbers:
            self._name(self._next, (passage,))
            self._next += 1
        return self._numbers[passage.id]

    @property
    def numbered(self) -> tuple[Numbered, ...]:
        """All passages with a number, in its order."""
        return tuple(Numbered(n, self._by_number[n]) for n in sorted(self._by_number))

    def _name(self, number: int, pieces: Sequence[Passage]) -> None:
        self._by_number[number] = tuple(pieces)
        for each in pieces:
            self._numbers.setdefault(each.id, number)

    def _nearest(self, words: frozenset[str], passages: Sequence[Passage], n: int) -> list[Passage]:
        """The `n` that share most with `words`, rare words before common ones; ties in order."""
        if len(passages) <= n:
            return list(passages)
        if passages is self._pieces:
            held = self._words
        else:
            held = [content_words(f"{each.title} {each.text}") for each in passages]
        shared = [sum(self._worth.get(word, 1.0) for word in words & own) for own in held]
        order = sorted(range(len(passages)), key=lambda row: (-shared[row], row))
        return [passages[row] for row in order[:n]]


def _is_of(listed: Listed, passage: Passage) -> bool:
    """Whether a passage is from the source that a text lists: the same address, title or file."""
    entry = f"{listed.head} {listed.body}"
    address = url_of(entry)
    if address is not None and address == url_of(passage.source):
        return True
    said = f" {' '.join(words_of(listed.head))} "
    names = [" ".join(words_of(name)) for name in (passage.title, passage.source)]
    return any(name and f" {name} " in said for name in names)


def _own_text(listed: Listed) -> Passage | None:
    """The text that a list gives of a source, as a passage."""
    text = listed.body if len(words_of(listed.body)) >= _LEAST_BODY else ""
    if not text and url_of(listed.head) is None and len(words_of(listed.head)) >= _LEAST_BODY:
        return Passage(id=f"listed-{listed.number}", text=listed.head)
    return Passage(id=f"listed-{listed.number}", title=listed.head, text=text) if text else None
