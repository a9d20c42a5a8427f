"""Documents cut into passages: blocks of words, or windows of whole sentences.

Every passage is an exact slice of its document, so its offsets lead back to the original text.
Text is looked at piece by piece: beyond the document nothing large is held. Knows nothing of files
or indexes.
"""

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from selfrag.errors import ConfigError
from selfrag.passage import Document, Passage
from selfrag.text import sentence_spans

Span = tuple[int, int]

_WORD = re.compile(r"\S+")
# Longer runs are no words: languages written without spaces, minified text, encoded pictures. So
# many of their characters count as a word, by whether they are of Han, kana or Hangul.
_LONGEST_WORD = 40
_HAN = r"\u2e80-\u312f\u31a0-\ua4cf\uac00-\ud7af\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff"
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
_CHARACTERS_OF_WORD = {True: 2, False: 6}
# A sentence of a language that has no space after it, with what closes it.
_UNSPACED_END = re.compile(
    "[\u3002\uff01\uff1f\uff0e\uff61\u0964\u104b\u17d4][\u3001-\u301f\"')\uff09]*"
)
_SEGMENT = 1 << 16  # characters among which sentences are looked for at once
# A cut moves back to such a place where that loses no more than half of a passage.
_BREAKS = re.compile(r"\s+|(?<=[\u3002\uff01\uff1f\u3001\uff0c,;.:!?>)}\]])")


class Chunking(StrEnum):
    """Where a document may be cut."""

    WORDS = "words"
    SENTENCES = "sentences"


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """How much of a title and text an encoder reads: `limit` of the tokens that `spans` gives.

    `spans` are the offsets in a text of the tokens that it is encoded as, in order.
    """

    spans: Callable[[str], Sequence[Span]]
    limit: int


def chunk_document(
    document: Document,
    *,
    chunking: Chunking = Chunking.WORDS,
    size: int = 100,
    tokens: TokenLimit | None = None,
) -> Iterator[Passage]:
    """The passages of a document, in order, of at most `size` whitespace-separated words each.

    WORDS: disjoint blocks of exactly `size` words, as DPR cuts Wikipedia (arXiv 2004.04906,
    section 4.1); the last block is shorter, where DPR fills it from the article's beginning.
    SENTENCES: as many whole sentences as fit; a sentence longer than `size` is cut into blocks.
    Of a run of more than 40 characters without space, 2 of Chinese, Japanese or Korean and 6 of
    others count as a word. What has more tokens than `tokens` allows is cut again into parts of
    equal length. A document that has an `id` is a passage already, whole and under that id. White
    space only gives no passage. Raises `ConfigError` when `size` is below 1.
    """
    if size < 1:
        raise ConfigError(
            f"cannot cut documents into passages: the passage size is {size} words, expected "
            "at least 1; set a larger size"
        )
    return _passages(document, chunking, size, tokens)


def paragraphs(document: Document, *, size: int = 100) -> Iterator[Passage]:
    """A passage a paragraph, as blank lines part them, titled by the headings over it.

    A heading is one of Markdown with `#`. A text without blank lines in which every line ends a
    sentence has a passage a line. What is longer than `size` words is cut between sentences.
    """
    text = document.text
    is_line_each = "\n\n" not in text and all(map(_ENDED_LINE.search, text.strip().split("\n")))
    headings: dict[int, str] = {}
    fence = ""
    for start, end in _parts_between(text, _NEW_LINE if is_line_each else _BLANK_LINES):
        n_read = start
        for line in _LINE.finditer(text, start, end):
            fence = _fence_after(fence, line.group())
            found = None if fence else _HEADING.match(line.group())
            if found is None:
                continue
            yield from _paragraph(document, (n_read, line.start()), headings, size)
            level, n_read = len(found[1]), line.end()
            headings = {n: title for n, title in headings.items() if n < level}
            headings[level] = found[2]
        yield from _paragraph(document, (n_read, end), headings, size)


_ENDED_LINE = re.compile("[.!?\u3002\uff01\uff1f][\"')\\]\u201d\u2019]*\\s*$")
_NEW_LINE, _BLANK_LINES = re.compile(r"\n"), re.compile(r"\n(?:[ \t]*\n)+")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*?)[ \t#]*$", re.MULTILINE)
_FENCED = re.compile(r" {0,3}(`{3,}|~{3,})")


def _parts_between(text: str, gap: re.Pattern[str]) -> Iterator[Span]:
    start = 0
    for found in gap.finditer(text):
        yield start, found.start()
        start = found.end()
    yield start, len(text)


def _fence_after(fence: str, line: str) -> str:
    """The fence of code that is open after a line; empty for none."""
    found = _FENCED.match(line)
    if found is None:
        return fence
    if not fence:
        return found[1]
    return "" if found[1].startswith(fence) else fence


def _paragraph(
    document: Document, span: Span, headings: dict[int, str], size: int
) -> Iterator[Passage]:
    title = ": ".join(headings[level] for level in sorted(headings)) or document.title
    start = span[0]
    for first, last in _sentence_windows(document.text[start : span[1]], size):
        yield _passage(replace(document, title=title), (start + first, start + last))


def passage_id(source: str, start: int, text: str) -> str:
    """16 hexadecimal digits that stay the same while source, offset and text do."""
    content = f"{source}\n{start}\n{text}".encode("utf-8", "surrogatepass")
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()[:16]


def _passages(
    document: Document, chunking: Chunking, size: int, tokens: TokenLimit | None
) -> Iterator[Passage]:
    if document.id:
        if document.text.strip():
            yield _passage(document, (0, len(document.text)), document.id)
        return
    if chunking is Chunking.SENTENCES:
        spans = _sentence_windows(document.text, size)
    else:
        spans = _blocks(_words(document.text, 0, len(document.text)), size)
    if tokens is not None:
        spans = _bounded(document, spans, tokens)
    for span in spans:
        yield _passage(document, span)


def _passage(document: Document, span: Span, name: str = "") -> Passage:
    start, end = span
    text = document.text[start:end]
    return Passage(
        id=name or passage_id(document.source, start, text),
        title=document.title,
        text=text,
        source=document.source,
        start=start,
        end=end,
        page=_page(document, start),
        last_page=_page(document, end - 1),
        metadata=document.metadata,
    )


def _page(document: Document, offset: int) -> int:
    """The page that a character is on, from 1; 0 without pages."""
    return bisect_right(document.page_starts, offset)


def _words(text: str, start: int, end: int) -> Iterator[Span]:
    for match in _WORD.finditer(text, start, end):
        first, last = match.span()
        # A sentence may begin or end within a run.
        is_part = (first == start > 0 and not text[first - 1].isspace()) or (
            last == end < len(text) and not text[last].isspace()
        )
        if last - first <= _LONGEST_WORD and not is_part:
            yield first, last
        else:
            yield from _parts_of_run(text, first, last)


def _parts_of_run(text: str, start: int, end: int) -> Iterator[Span]:
    """A run without space as what counts as its words; marks stay with their letter."""
    while start < end:
        is_han = bool(_HAN_CHARACTER.match(text, start))
        stop = min(start + _CHARACTERS_OF_WORD[is_han], end)
        while _is_mark(text, stop, end):
            stop += 1
        yield start, stop
        start = stop


def _is_mark(text: str, offset: int, end: int) -> bool:
    return offset < end and unicodedata.category(text[offset]).startswith("M")


def _blocks(words: Iterator[Span], size: int) -> Iterator[Span]:
    start, end, n_words = 0, 0, 0
    for first, last in words:
        start = start if n_words else first
        end, n_words = last, n_words + 1
        if n_words == size:
            yield start, end
            n_words = 0
    if n_words:
        yield start, end


def _sentence_windows(text: str, size: int) -> Iterator[Span]:
    window: Span | None = None
    n_words = 0
    for start, end, n_piece in _pieces(text, size):
        if window is not None and n_words + n_piece <= size:
            window = (window[0], end)
            n_words += n_piece
            continue
        if window is not None:
            yield window
        window, n_words = (start, end), n_piece
    if window is not None:
        yield window


def _pieces(text: str, size: int) -> Iterator[tuple[int, int, int]]:
    """Start, end and number of words of every sentence, or of its blocks where it is too long."""
    for start, end in _spaced_sentences(text):
        words = list(_words(text, start, end))
        for first in range(0, len(words), size):
            block = words[first : first + size]
            yield block[0][0], block[-1][1], len(block)


def _spaced_sentences(text: str) -> Iterator[Span]:
    """The sentences, joined where no white space parts them: Punkt splits words such as `??`.

    Those of languages without spaces end where their punctuation does.
    """
    last: Span | None = None
    for start, end in _sentences(text):
        if last is not None and last[1] == start and not _ends_unspaced(text, last):
            last = (last[0], end)
            continue
        if last is not None:
            yield last
        last = (start, end)
    if last is not None:
        yield last


def _ends_unspaced(text: str, span: Span) -> bool:
    return any(match.end() == span[1] for match in _UNSPACED_END.finditer(text, *span))


def _sentences(text: str) -> Iterator[Span]:
    for start, end in _segments(text):
        for first, last in sentence_spans(text[start:end]):
            begin = start + first
            for match in _UNSPACED_END.finditer(text, begin, start + last):
                if match.end() < start + last and not text[match.end()].isspace():
                    yield begin, match.end()
                    begin = match.end()
            yield begin, start + last


def _segments(text: str) -> Iterator[Span]:
    """Pieces of a long text that end with a paragraph, else with a line or word."""
    start = 0
    while len(text) - start > _SEGMENT:
        limit = start + _SEGMENT
        places = (text.rfind(each, start, limit) for each in ("\n\n", "\n", " "))
        end = next((place + 1 for place in places if place > start), limit)
        yield start, end
        start = end
    yield start, len(text)


def _bounded(document: Document, spans: Iterator[Span], tokens: TokenLimit) -> Iterator[Span]:
    """The spans, those of too many tokens in parts."""
    # A title longer than half of the limit is cut by the encoder, and takes its share of no text.
    n_title = min(len(tokens.spans(document.title)), tokens.limit // 2)
    budget = max(tokens.limit - n_title, 1)
    for start, end in spans:
        yield from _parts(document.text, start, end, budget, tokens)


def _parts(text: str, start: int, end: int, budget: int, tokens: TokenLimit) -> Iterator[Span]:
    """A span in parts of about equal length that are within the budget."""
    while (span := _trimmed(text, start, end))[0] < span[1]:
        start, end = span
        n_tokens, stop = _n_tokens(text, span, budget, tokens), end
        while n_tokens > budget:
            # The beginning of a text may be other tokens than it was within the text: look again.
            found = tokens.spans(text[start:stop])
            n_parts = -(-n_tokens // budget)
            stop = _cut(text, start, start + found[-(-n_tokens // n_parts)][0], stop)
            n_tokens = _n_tokens(text, (start, stop), budget, tokens)
        yield _trimmed(text, start, stop)
        start = stop


def _n_tokens(text: str, span: Span, budget: int, tokens: TokenLimit) -> int:
    start, end = span
    if end - start <= budget:  # a token has one character at least, or the encoder's own mark
        return 0
    return len(tokens.spans(text[start:end]))


def _trimmed(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _cut(text: str, start: int, at: int, end: int) -> int:
    """The last good place to cut before `at`, or `at` itself where there is none near.

    More than `start`, and less than `end` unless only marks of one letter follow.
    """
    at = min(max(at, start + 1), end - 1) if end - start > 1 else end
    places = [match.end() for match in _BREAKS.finditer(text, start + (at - start) // 2, at)]
    cut = places[-1] if places and places[-1] > start else at
    while _is_mark(text, cut, end):
        cut += 1
    return cut
