"""Closed sets: the answer that the candidates of a short form agree on.

Self-RAG's released short-form script adds the scores of candidates with the same text
(AkariAsai/self-rag 1fcdc42, `run_short_form.py`); here the text is first mapped to one of the
choices, so that `A`, `A.` and `a` are one answer.
"""

import re
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles in front, single spaces."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    while len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)


def choice_of(text: str, choices: Sequence[str]) -> str | None:
    """The choice that `text` gives, or None.

    It is the one that the whole text equals, else the one that the text begins with, else the only
    one that stands in it; the longest of several that fit, all normalised, at word boundaries.
    """
    said = normalise(text)
    forms = {choice: normalise(choice) for choice in choices}
    equal = [choice for choice, form in forms.items() if form == said]
    leading = [choice for choice, form in forms.items() if f"{said} ".startswith(f"{form} ")]
    within = [choice for choice, form in forms.items() if f" {form} " in f" {said} "]
    for fitting in (equal, leading):
        if fitting:
            return max(fitting, key=lambda choice: len(forms[choice]))
    return within[0] if len(within) == 1 else None


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
