"""Texts: their sentences, whether a gold string occurs in them, counts in words.

Knows nothing of where texts come from; training data, benchmarks and rescoring count alike.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from selfrag.errors import BadInput

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer


# Lower case, without the final period, as Punkt wants them.
ABBREVIATIONS = (
    "a.m al apr approx aug ave b.c b.c.e c ca capt cf co col corp dec dept dr e.g ed est et etc "
    "feb fig fr ft gen gov hon i.e inc jan jr jun jul lt ltd m.d maj mr mrs ms mt no nov oct op "
    "p.m ph.d pp pres prof rep rev sen sep sept sgt sr st u.k u.n u.s u.s.a v vol vs d.c b r"
).split()


@cache
def _splitter() -> "PunktSentenceTokenizer":
    # NLTK takes seconds to import, and most commands split no sentence.
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    # A list of our own, so that no data need be downloaded.
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


# Ends a sentence of a language that has no space after it, with what closes it.
_UNSPACED_END = re.compile(
    "[\u3002\uff01\uff1f\uff61\u0964\u104b\u17d4]+[\u3001-\u301f\"')\uff09]*"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character offsets of the sentences of `text`, without the space between.

    NLTK's Punkt, which knows no sentence of languages without spaces: those end where their
    punctuation does.
    """
    spans = []
    for start, end in _splitter().span_tokenize(text):
        for found in _UNSPACED_END.finditer(text, start, end):
            if text[found.end() : end].strip():
                spans.append((start, found.end()))
                start = found.end()
                start += len(text[start:end]) - len(text[start:end].lstrip())
        spans.append((start, end))
    return spans


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, in order."""
    return [text[start:end] for start, end in sentence_spans(text)]


# A mark, what closes a quotation or bracket after it, and space before more.
_SENTENCE_END = re.compile(r"[.!?]+[\"'\u201d\u2019)\]]*\s+(?=\S)")
_NO_END = frozenset(ABBREVIATIONS)


def first_sentence(text: str) -> str:
    """The first sentence of `text`, found by rule: Punkt takes a second to import.

    A mark ends no sentence after an abbreviation or an initial, nor before a small letter. Of 1,495
    answers of the default weights the first sentence of Punkt has the same words in all but one.
    """
    for found in _SENTENCE_END.finditer(text):
        before = text[: found.start()].split()
        word = before[-1].lstrip("\"'(\u201c\u2018[").lower() if before else ""
        is_initial = len(word) == 1 and word.isalpha()
        is_short = found.group().startswith(".") and (word in _NO_END or is_initial)
        if not is_short and not text[found.end()].islower():
            return text[: found.end()].strip()
    return text.strip()


def counted(n: int, noun: str, plural: str = "") -> str:
    """`1 passage`, `2 passages`; `plural` where it is not the noun with an s."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def require_text(text: str) -> str:
    """`text`, where UTF-8 can hold it; raises `BadInput` for half a surrogate pair.

    Python makes such halves of bytes that are not UTF-8, in arguments, file names and input; no
    tokenizer takes them.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(error.start - 20, 0) : error.start + 20]
        raise BadInput(
            f"cannot read the text {around!r}: it holds bytes that are not UTF-8, or half a "
            "surrogate pair; expected Unicode text, so fix its encoding"
        ) from error
    return text


_CITATION = re.compile(r" ?\[\d+(?:, ?\d+)*\]")


def without_citations(text: str) -> str:
    """The text without marks such as `[1]` and `[1, 2]`."""
    return _CITATION.sub("", text)


def gold_pattern(answer: str) -> str:
    """A regular expression for `answer` as whole words; to be used with `re.IGNORECASE`."""
    return rf"(?<!\w){re.escape(answer)}(?!\w)"


def find_gold(answer: str, text: str, *, as_spelt: bool = False) -> re.Match[str] | None:
    """Where `answer` first occurs in `text` as whole words; an empty answer occurs nowhere.

    Letter case is ignored, unless `as_spelt`.
    """
    bare = answer.strip()
    flags = re.RegexFlag(0) if as_spelt else re.IGNORECASE
    return re.search(gold_pattern(bare), text, flags) if bare else None


def holds_gold(text: str, answers: Sequence[str]) -> bool:
    """Whether any of `answers` occurs in `text`; see `find_gold`."""
    return any(find_gold(answer, text) is not None for answer in answers)


def has_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether the tokens of any answer occur in those of `text`, one after the other.

    How open question answering counts passages: the test behind `hasanswer` of DPR
    (facebookresearch/DPR, `has_answer` with match type string; Karpukhin et al., arXiv 2004.04906):
    Unicode NFD, lower case, a token is a run of letters, digits and marks, or any other single
    character that is no space or control character. So case, spacing and the normal form do not
    matter, accents do, and words are whole. Unlike there, an answer without a token occurs nowhere.
    `holds_gold` is stricter about spacing and signs.
    """
    words = _tokens(text)
    return any(_occurs_in(_tokens(answer), words) for answer in answers)


def _occurs_in(part: Sequence[str], whole: Sequence[str]) -> bool:
    size = len(part)
    return size > 0 and any(
        part[0] == word and part == whole[start : start + size] for start, word in enumerate(whole)
    )


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[str, ...]:
    spaced = unicodedata.normalize("NFD", text).translate(_SPACING)
    return tuple(token.lower() for token in spaced.split())


class _Spacing(dict[int, str]):
    """What a character becomes so that `str.split` gives the tokens; filled as characters come."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        spaced = {"L": character, "N": character, "M": character, "Z": " ", "C": " "}
        self[code] = spaced.get(kind, f" {character} ")
        return self[code]


_SPACING = _Spacing()
