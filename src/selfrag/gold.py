"""Whether a gold string stands in a text: letter case aside, at word boundaries.

Knows nothing of where either comes from; training data, benchmarks and rescoring count alike.
"""

import re
from collections.abc import Sequence


def gold_pattern(answer: str) -> str:
    """A regular expression for `answer` as whole words; to be used with `re.IGNORECASE`."""
    return rf"(?<!\w){re.escape(answer)}(?!\w)"


def find_gold(answer: str, text: str, *, as_spelt: bool = False) -> re.Match[str] | None:
    """Where `answer` first stands in `text`; an empty answer stands nowhere.

    `as_spelt` heeds letter case.
    """
    bare = answer.strip()
    flags = re.RegexFlag(0) if as_spelt else re.IGNORECASE
    return re.search(gold_pattern(bare), text, flags) if bare else None


def holds_gold(text: str, answers: Sequence[str]) -> bool:
    """Whether any of `answers` stands in `text`."""
    return any(find_gold(answer, text) is not None for answer in answers)
