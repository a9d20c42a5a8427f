"""Documents, passages and hits: what is retrieved, and where it came from.

Knows nothing of how text was read, indexed or scored.
"""

import re
from dataclasses import dataclass
from itertools import takewhile

_OPENING = 200  # characters behind a heading that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text as read from one place; `source` is its path or attribution.

    `id` is set where the text is a passage already, to be kept whole under that name.
    `page_starts` are the offsets in `text` where its pages begin, none where it has no pages.
    `metadata` is what else is known of it, as (name, value) pairs to filter by.
    """

    title: str
    text: str
    source: str
    id: str = ""
    page_starts: tuple[int, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The unit of retrieval. `start` and `end` (excluded) are offsets in its document's text.

    `id` may be empty for a passage that is given by hand, in an index it is its key. `page` is the
    one on which it begins, from 1, and `last_page` the one on which it ends; 0 where the document
    has no pages.
    """

    id: str = ""
    title: str = ""
    text: str
    source: str = ""
    start: int = 0
    end: int = 0
    page: int = 0
    last_page: int = 0
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> str:
        """The text without the title that stands as a heading before it, a sentence or a line.

        It is one where the capitalised words behind it name the thing again ("Ada Ada Lovelace
        was ..."), or where it ends in brackets and begins the text, as no sentence does.
        """
        title = (self.title or "").strip()
        if not title or title not in self.text:
            return self.text

        def rest(heading: re.Match[str]) -> str:
            behind = self.text[heading.end() : heading.end() + _OPENING].split()
            opening = list(takewhile(_is_capitalised, behind))
            named = set(re.findall(r"\w{3,}", title)) & set(re.findall(r"\w+", " ".join(opening)))
            in_brackets = heading.start() == 0 and opening and title.endswith(")")
            return "" if named or in_brackets else heading.group()

        return re.sub(rf"(?:^\s*|(?<=[.!?]\s)|(?<=\n)){re.escape(title)}\s+", rest, self.text)


def _is_capitalised(word: str) -> bool:
    """Whether a word may belong to a name: it begins with no small letter, brackets aside."""
    return not re.sub(r"^\W+", "", word)[:1].islower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One result for a query. `rank` counts from 1; a higher `score` is better."""

    passage: Passage
    score: float
    rank: int
