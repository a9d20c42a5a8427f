"""How the words of a claim meet those of a passage: what it repeats, adds, and turns round.

Words alone, of English: no model. A number or a name that the passage does not have, or a "not" too
many, is what a model of this size is worst at seeing. Knows nothing of verdicts.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from selfrag.text import split_sentences

_TOKEN = re.compile(r"\d[\d,]*(?:\.\d+)?|[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_STOP = frozenset(
    "a an the of and to in is was for that with as by from are at it its his her which this be has "
    "had were or have they their who been also into than more there he she but on these those such "
    "i you we them him our your my me us do does did so if about will would can could should may "
    "might being am what when where while then some any all both each other only very just".split()
)
_NEGATIONS = frozenset(
    "not no never none nobody nothing neither nor without cannot unable fails failed lacks lack "
    "except false untrue".split()
)
_SPELLED = {
    word: str(number)
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty",
        "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
        "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
    )
    for number, word in enumerate(words.split())
} | {
    word: str(10 * tens)
    for tens, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), start=3)
}
_ARTICLES = frozenset(("the", "a", "an"))
# A number behind one of these is a bound, which other numbers may keep.
_BOUNDS = frozenset("than over under about around nearly almost least most up some".split())


@dataclass(frozen=True, slots=True)
class _Words:
    """`stems`: content words; `names`, `first`: with a capital, inside and at the beginning.

    The beginning is the first word, or the second behind an article.
    `exact`: the numbers that are no bounds. `negated`: the first content word behind each negation.
    `slots`: every name as written, with the word before it.
    """

    stems: frozenset[str]
    names: frozenset[str]
    first: frozenset[str]
    numbers: frozenset[str]
    exact: frozenset[str]
    negated: frozenset[str]
    slots: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a claim meets a passage; every field but `nearest` in [0, 1].

    `in_passage`, `in_sentence`: the share of the claim's content words that the passage has, and
    that its nearest sentence has. `new_numbers`, `new_names`: the share of the claim's numbers and
    names that the passage lacks; 0 where it has none. `turned`: a word that one of claim and
    nearest sentence negates is not negated in the other. `besides_numbers`: as `in_sentence`,
    numbers aside; `other_numbers`: those of that sentence where the claim has others.
    `same_names`: the passage has all names of the claim, and that sentence or the title its first.
    `other_name`: what that sentence has behind the word before a name that the passage lacks, where
    it says mostly the same of a subject that the passage has. `nearest`: that sentence.
    """

    in_passage: float
    in_sentence: float
    new_numbers: float
    new_names: float
    turned: bool
    besides_numbers: float
    other_numbers: tuple[str, ...]
    same_names: bool
    other_name: str
    nearest: str


def compare(claim: str, title: str, text: str) -> Wording:
    """The wording of `claim` against a passage."""
    said = _read(claim)
    sentences = _sentences(text)
    heading = _read(title)
    whole = frozenset().union(heading.stems, *(each.stems for _, each in sentences))
    numbers = frozenset().union(heading.numbers, *(each.numbers for _, each in sentences))
    shares = [_share(said.stems, each.stems | heading.stems) for _, each in sentences]
    best = max(range(len(shares)), key=shares.__getitem__, default=None)
    nearest, near = sentences[best] if best is not None else ("", heading)
    return Wording(
        in_passage=_share(said.stems, whole),
        in_sentence=shares[best] if best is not None else 0.0,
        new_numbers=1 - _share(said.numbers, numbers) if said.numbers else 0.0,
        new_names=1 - _share(said.names, whole) if said.names else 0.0,
        turned=_is_turned(said, near) or _is_turned(near, said),
        besides_numbers=_share(said.stems - said.numbers, near.stems | heading.stems),
        other_numbers=_others(said.exact - numbers, near.exact - said.numbers),
        same_names=said.names <= whole and said.first <= near.stems | heading.stems,
        other_name=_other_name(said, near, whole, heading.stems),
        nearest=nearest,
    )


def _is_turned(one: _Words, other: _Words) -> bool:
    """Whether `one` negates a word that `other` has without a negation."""
    return bool((one.negated - other.negated) & other.stems)


def _others(said: frozenset[str], read: frozenset[str]) -> tuple[str, ...]:
    """The numbers of `read` that are of the kind of one of `said`: years, or no years."""
    kinds = {_is_year(number) for number in said}
    return tuple(sorted(number for number in read if _is_year(number) in kinds))


def _is_year(number: str) -> bool:
    return len(number) == 4 and number.isdecimal() and 1000 <= int(number) < 2100


_ALIKE = 0.7  # share of the words of two sentences that say the same of different names


def _other_name(said: _Words, near: _Words, whole: frozenset[str], title: frozenset[str]) -> str:
    names = said.names | said.first
    is_alike = _share(said.stems - names, near.stems | title) >= _ALIKE
    if not is_alike or not said.first <= whole or not names & whole:
        return ""
    places = {word for word, name in said.slots if _stem(name.casefold()) in said.names - whole}
    others = (
        name
        for word, name in near.slots
        if word and word in places - _ARTICLES and _stem(name.casefold()) not in said.stems
    )
    return next(others, "")


def content_words(text: str) -> frozenset[str]:
    """The stems of all words but function words."""
    return _read(text).stems


@lru_cache(maxsize=256)
def _sentences(text: str) -> tuple[tuple[str, _Words], ...]:
    return tuple((each, _read(each)) for each in split_sentences(text))


@lru_cache(maxsize=4096)
def _read(text: str) -> _Words:
    stems: set[str] = set()
    capitals: list[tuple[int, str]] = []
    slots: list[tuple[str, str]] = []
    numbers: set[str] = set()
    exact: set[str] = set()
    negated: set[str] = set()
    before, is_negated = "", False
    for at, found in enumerate(_TOKEN.finditer(text)):
        lower = found.group().casefold().replace("\u2019", "'")
        number = lower.replace(",", "") if lower[0].isdigit() else _SPELLED.get(lower)
        if number is not None:
            numbers.add(number)
            if before not in _BOUNDS:
                exact.add(number)
        if lower in _NEGATIONS or lower.endswith("n't"):
            is_negated = True
        elif lower in ("only", "just", "merely"):  # "not only" negates nothing
            is_negated = False
        elif lower not in _STOP:
            stem = number if number is not None and lower[0].isdigit() else _stem(lower)
            stems.add(stem)
            if is_negated:
                negated.add(stem)
            is_negated = False
            if found.group()[0].isupper():
                capitals.append((at, stem))
                slots.append((before, found.group()))
        before = lower
    names = [stem for at, stem in capitals if at]
    first = [
        stem
        for (at, stem), (word, _) in zip(capitals, slots, strict=True)
        if at == 0 or (at == 1 and word in _ARTICLES)
    ]
    return _Words(
        stems=frozenset(stems),
        names=frozenset(names),
        first=frozenset(first),
        numbers=frozenset(numbers),
        exact=frozenset(exact),
        negated=frozenset(negated),
        slots=tuple(slots),
    )


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    for ending in ("ingly", "edly", "ing", "ies", "ied", "es", "ed", "ly", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part & whole) / len(part) if part else 0.0
