"""Whether a passage holds an answer, as open question answering counts it.

Knows nothing of retrieval or of models.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any


def has_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether the tokens of any answer stand in those of `text`, one after the other.

    The test behind `hasanswer` of DPR (facebookresearch/DPR, `has_answer` with match type string;
    Karpukhin et al., arXiv 2004.04906): Unicode NFD, lower case, a token is a run of letters,
    digits and marks, or any other single character that is no space or control character. So case,
    spacing and the normal form do not matter, accents do, and words are whole. Unlike there, an
    answer without a token stands nowhere. `selfrag.gold` is stricter of spacing and signs.
    """
    words = _tokens(text)
    return any(_stands_in(_tokens(answer), words) for answer in answers)


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The gold strings of a row: its `answers`, else `golds`, else `answer`; none where unknown."""
    for name in ("answers", "golds", "answer"):
        found = row.get(name)
        several = found if isinstance(found, list) else [found]
        strings = [str(each) for each in several if isinstance(each, str | int | float)]
        if strings := [each for each in strings if each.strip()]:
            return tuple(strings)
    return ()


def _stands_in(part: Sequence[str], whole: Sequence[str]) -> bool:
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
