"""Closed sets: the answer that the candidates of a short form agree on.

Self-RAG's released short-form script adds the scores of candidates with the same text
(AkariAsai/self-rag 1fcdc42, `run_short_form.py`); here the text is first mapped to one of the
choices, so that `A`, `A.` and `a` are one answer.
"""

import re
from collections.abc import Sequence

from selfrag.gold import find_gold

_ARTICLES = {"a", "an", "the"}


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles in front, single spaces."""
    words = _bare(text).split()
    while len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)


def _bare(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def choice_of(text: str, choices: Sequence[str]) -> str | None:
    """The choice that `text` gives, or None.

    It is the one that the text begins with, the longest of several, else the one that the text
    begins with but for articles, else the only one that stands in it; in lower case, without
    punctuation, at word boundaries. A choice of one letter stands within a text as spelt only: the
    article "a" is not choice A.
    """
    for plain in (_bare, normalise):
        said = f"{plain(text)} "
        leading = [choice for choice in choices if said.startswith(f"{plain(choice)} ")]
        if leading:
            return max(leading, key=lambda choice: len(plain(choice)))
    within = [choice for choice in choices if _stands_in(choice, text)]
    return within[0] if len(within) == 1 else None


def _stands_in(choice: str, text: str) -> bool:
    if len(choice.strip()) == 1:
        return find_gold(choice, text, as_spelt=True) is not None
    return f" {normalise(choice)} " in f" {_bare(text)} "


def vote(texts: Sequence[str], scores: Sequence[float], choices: Sequence[str]) -> dict[str, float]:
    """The sum of the scores of the candidates that give each choice, best first.

    Ties keep the order of `choices`; a choice that no candidate gives is left out.
    """
    sums: dict[str, float] = {}
    given = [choice_of(text, choices) for text in texts]
    for choice in choices:
        mine = [score for score, said in zip(scores, given, strict=True) if said == choice]
        if mine:
            sums[choice] = sum(mine)
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
