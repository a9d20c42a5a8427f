"""Documents cut into passages: blocks of words, or windows of whole sentences.

Every passage is an exact slice of its document, so its offsets lead back to the original text.
Knows nothing of files or indexes.
"""

import hashlib
import re
from bisect import bisect_right
from enum import StrEnum

from selfrag.errors import ConfigError
from selfrag.passage import Document, Passage
from selfrag.text import sentence_spans

Span = tuple[int, int]

_WORD = re.compile(r"\S+")


class Chunking(StrEnum):
    """Where a document may be cut."""

    WORDS = "words"
    SENTENCES = "sentences"


def chunk_document(
    document: Document, *, chunking: Chunking = Chunking.WORDS, size: int = 100
) -> list[Passage]:
    """The passages of a document, in order, of at most `size` whitespace-separated words each.

    WORDS: disjoint blocks of exactly `size` words, as DPR cuts Wikipedia (arXiv 2004.04906,
    section 4.1); the last block is shorter, where DPR fills it from the article's beginning.
    SENTENCES: as many whole sentences as fit; a sentence longer than `size` is cut into blocks.
    A document that has an `id` is a passage already, whole and under that id. White space only
    gives no passage. Raises `ConfigError` when `size` is below 1.
    """
    if size < 1:
        raise ConfigError(
            f"cannot cut documents into passages: the passage size is {size} words, expected "
            "at least 1; set a larger size"
        )
    if document.id:
        return [_whole(document)] if document.text.strip() else []
    cut = _sentence_windows if chunking is Chunking.SENTENCES else _word_blocks
    return [_passage(document, start, end) for start, end in cut(document.text, size)]


def passage_id(source: str, start: int, text: str) -> str:
    """16 hexadecimal digits that stay the same while source, offset and text do."""
    content = f"{source}\n{start}\n{text}".encode("utf-8", "surrogatepass")
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()[:16]


def _passage(document: Document, start: int, end: int) -> Passage:
    text = document.text[start:end]
    return Passage(
        id=passage_id(document.source, start, text),
        title=document.title,
        text=text,
        source=document.source,
        start=start,
        end=end,
        page=_page(document, start),
        metadata=document.metadata,
    )


def _whole(document: Document) -> Passage:
    return Passage(
        id=document.id,
        title=document.title,
        text=document.text,
        source=document.source,
        end=len(document.text),
        page=_page(document, 0),
        metadata=document.metadata,
    )


def _page(document: Document, start: int) -> int:
    """The page that `start` lies on, from 1; 0 without pages."""
    return bisect_right(document.page_starts, start)


def _word_blocks(text: str, size: int) -> list[Span]:
    return _blocks([match.span() for match in _WORD.finditer(text)], size)


def _blocks(words: list[Span], size: int) -> list[Span]:
    blocks = (words[first : first + size] for first in range(0, len(words), size))
    return [(block[0][0], block[-1][1]) for block in blocks]


def _sentence_windows(text: str, size: int) -> list[Span]:
    windows: list[Span] = []
    n_words = size  # a full window: the first piece opens a new one
    for start, end, n_piece in _pieces(text, size):
        if n_words + n_piece <= size:
            windows[-1] = (windows[-1][0], end)
            n_words += n_piece
        else:
            windows.append((start, end))
            n_words = n_piece
    return windows


def _pieces(text: str, size: int) -> list[tuple[int, int, int]]:
    """Start, end and number of words of every sentence, or of its blocks where it is too long."""
    pieces: list[tuple[int, int, int]] = []
    for start, end in _spaced_sentences(text):
        words = [match.span() for match in _WORD.finditer(text, start, end)]
        blocks = _blocks(words, size)
        counts = [min(size, len(words) - size * index) for index in range(len(blocks))]
        pieces += [(*block, count) for block, count in zip(blocks, counts, strict=True)]
    return pieces


def _spaced_sentences(text: str) -> list[Span]:
    """The sentences, joined where no white space parts them: Punkt splits words such as `??`."""
    spans: list[Span] = []
    for start, end in sentence_spans(text):
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans
