"""Which member of a closed set a text gives.

Knows nothing of scores, candidates or models; the vote, the command line and the measures of an
evaluation read a text alike.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

# Signs that belong to the word they touch: C# is not C, A- is not A, <5 is not 5, N/A is not A.
_BEFORE = re.escape("+-<>≤≥≠^&@/\\|$€£¥_")
_AFTER = re.escape("+-#%°<>^&@/\\|*_")
_OUTER = ".,;:!?…\"'()[]{}«»"  # what may surround a choice without being of it
_ARTICLES = ("a ", "an ", "the ")
_NEGATED = re.compile(r"(?:\b(?:not|never|nor|neither|no|hardly|cannot)|n't)\s(?:\w+\s){0,3}$")

# Words that are a choice only where they stand for an answer of their own, and what may follow
# them then without a sign between: "No it is not", but not "No single one" or "A dog".
_FOLLOWING = {
    "a": "is because since",
    "i": "is because since",
    "no": (
        "it its it's they he she i we you this that these those there here the a an his her my our "
        "your their because since as and but or if when while although though not neither in on at "
        "by from with according based"
    ),
}


def key_of(choice: str) -> str:
    """What has to occur in a text: case, outer punctuation and the kind of dashes do not matter."""
    plain = _plain(choice)
    return (_stripped(plain) or plain).casefold()


def colliding(choices: Sequence[str]) -> tuple[str, str] | None:
    """The first two choices that no text tells apart, or None."""
    first: dict[str, str] = {}
    for choice in choices:
        before = first.setdefault(key_of(choice), choice)
        if before is not choice:
            return before, choice
    return None


def choice_of(text: str, choices: Sequence[str]) -> str | None:
    """The choice that `text` gives, or None.

    It is the one that the text begins with, the longest of several, else the one that the text
    begins with but for articles, else the only one that occurs in it, and is not denied there;
    at word boundaries. A choice of one letter occurs within a text as spelt only, and `no`, `a` and
    `i` count only where they stand for an answer of their own: "There is no doubt" is not a no.
    """
    said = _plain(text)
    keys = [key_of(choice) for choice in choices]
    for plain in (_without_opening, _without_articles):
        begun = plain(said)
        leading = {
            choice: len(plain(key))
            for choice, key in zip(choices, keys, strict=True)
            if any(start == 0 for start, _ in _places(plain(key), begun))
        }
        if leading:
            longest = max(leading.values())
            return _only([choice for choice, size in leading.items() if size == longest])
    return only_mentioned(text, choices)


def only_mentioned(text: str, choices: Sequence[str]) -> str | None:
    """The only choice that occurs in `text`, and is not denied there, or None."""
    said = _plain(text)
    found = {choice: _mentions(choice, said) for choice in choices}
    every = [place for places in found.values() for place in places]
    # New York does not occur in New York City where that is a choice too.
    named = {
        choice: own
        for choice, places in found.items()
        if (own := [each for each in places if not any(_is_within(each, o) for o in every)])
    }
    denied = any(
        all(_NEGATED.search(said[:start].casefold()) for start, _ in places)
        for places in named.values()
    )
    return None if denied else _only(list(named))


def _mentions(choice: str, said: str) -> list[tuple[int, int]]:
    key = key_of(choice)
    if len(key) == 1:
        return list(_places(_stripped(_plain(choice)) or key, said, as_spelt=True))
    return list(_places(key, said))


def _only(choices: Sequence[str]) -> str | None:
    return choices[0] if len(choices) == 1 else None


def _is_within(place: tuple[int, int], other: tuple[int, int]) -> bool:
    return place != other and other[0] <= place[0] and place[1] <= other[1]


def _places(key: str, text: str, *, as_spelt: bool = False) -> Iterator[tuple[int, int]]:
    """Start and end of every occurrence of `key` as a word of its own, or as several."""
    before = rf"(?<![\w{_BEFORE}])" + (r"(?<!\d[.,:])" if key[:1].isdigit() else "")
    after = rf"(?![\w{_AFTER}]|'\w)" + (r"(?![.,:]\d)" if key[-1:].isdigit() else "")
    flags = re.RegexFlag(0) if as_spelt else re.IGNORECASE
    following = _FOLLOWING.get(key.casefold())
    for found in re.finditer(before + re.escape(key) + after, text, flags):
        if following is None or _stands_alone(text[found.end() :], following):
            yield found.span()


def _stands_alone(rest: str, following: str) -> bool:
    word = re.match(r"\s+([\w']+)", rest)
    return word is None or word[1].casefold() in following.split()


def _plain(text: str) -> str:
    """One line, one kind of quote, dash and comparison; without marks of Markdown."""
    text = unicodedata.normalize("NFC", text).strip()
    text = re.sub(r"(\*{1,3}|_{1,3}|`)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"\s*[\r\n]\s*", "; ", text)
    text = re.sub("[\u2018\u2019]", "'", re.sub("[\u201c\u201d\u201e]", '"', text))
    text = re.sub(r"\s*[\u2014\u2013]\s*", " - ", text.replace("\u2212", "-"))
    text = text.replace("<=", "≤").replace(">=", "≥")
    text = re.sub(r"([<>≤≥])\s+(?=[\d.+-])", r"\1", text)
    text = re.sub(r"(?<=\d)\s+(?=%)", "", text)
    return re.sub(r"\s+", " ", text)


def _stripped(text: str) -> str:
    return _without_opening(text).rstrip(_OUTER + " ")


def _without_opening(text: str) -> str:
    """Without punctuation in front; a period before a letter or digit, as in .NET, stays."""
    while text and text[0] in _OUTER + " " and not re.match(r"\.\w", text):
        text = text[1:]
    return text


def _without_articles(text: str) -> str:
    text = _without_opening(text)
    while text.casefold().startswith(_ARTICLES):
        text = text.partition(" ")[2]
    return text
