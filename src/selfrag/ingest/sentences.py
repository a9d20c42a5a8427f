"""Sentence splitting: NLTK's Punkt with a built-in abbreviation list, so nothing is downloaded."""

from functools import cache
from typing import TYPE_CHECKING

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
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character offsets of the sentences of `text`, in order, without the space between them."""
    return [(start, end) for start, end in _splitter().span_tokenize(text)]


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, in order."""
    return [text[start:end] for start, end in sentence_spans(text)]
