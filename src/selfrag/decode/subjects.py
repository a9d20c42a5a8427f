"""What a pronoun at the beginning of a sentence stands for, where that is plain to see.

"It is the largest moon of Jupiter." is true of something, so a claim that opens with a pronoun is
judged with its subject: the name that opens the sentence before it. English only, and silent in
doubt. Knows nothing of passages.
"""

import re

_NAME = re.compile(
    r"(?:(?:The|A|An) )?[A-Z][\w.'\u2019-]*"
    r"(?: (?:(?:of|the|de|da|del|der|van|von|la|le|and|for|in) ){0,2}[A-Z\d][\w.'\u2019-]*)*"
)
# What follows a name that is the subject: in brackets, or a verb, which is no word of these.
_AFTER = re.compile(
    r" (?:\([^()]*\) )?(?!(?:in|on|at|by|to|from|with|for|as|of|and|or|the|a|an)\b)[a-z]"
)
_PRONOUN = re.compile(r"(It|He|She|They|Its|His|Her|Their)\b(?! (?:seems|appears|turns)\b)")
_OWNERS = ("Its", "His", "Her", "Their")
# Words that open sentences with a capital and name nothing.
_NO_NAMES = frozenset(
    "in on at by to from with for as of and or but the a an it he she they its his her their this "
    "that these those there here when while where after before since although though because if "
    "however also then thus so yet both some many most all each one two what which who how why "
    "today yesterday recently finally first second i we you my our your no not is are was "
    "were".split()
)


def opening_name(sentence: str) -> str:
    """The name that is the subject of a sentence, if it opens with one; else nothing."""
    found = _NAME.match(sentence)
    if found is None or not _AFTER.match(sentence, found.end()):
        return ""
    name = found.group()
    words = name.split()
    bare = words[1:] if words[0] in ("The", "A", "An") else words
    return name if bare and bare[0].casefold() not in _NO_NAMES else ""


def with_subject(sentence: str, subject: str) -> str:
    """The sentence with `subject` in place of the pronoun that it opens with, if it does."""
    found = _PRONOUN.match(sentence)
    if found is None or not subject:
        return sentence
    owner = "\u2019s" if found.group() in _OWNERS else ""
    return f"{subject}{owner}{sentence[found.end() :]}"


def opens_with_pronoun(sentence: str) -> bool:
    """Whether a sentence speaks of what was named before it."""
    return _PRONOUN.match(sentence) is not None
