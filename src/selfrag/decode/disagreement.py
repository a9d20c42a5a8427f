"""Whether other passages support another answer: what the reader of an answer is told.

Knows nothing of how it is shown. The rule is made to stay silent in doubt: it compares short
answers and numbers, not the meaning of sentences.
"""

import re
from collections.abc import Iterable

from selfrag.decode.node import Node
from selfrag.decode.score import FULL
from selfrag.reflection import Relevance
from selfrag.text import split_sentences

# Share of the total of the answer's first segment. On 25 questions to the demo index this tells of
# two of six wrong answers and beside one right one; without it, beside ten right ones.
_CLOSE = 0.97
_SHORT = 6  # words: an answer rather than a sentence about it
_ALIKE = 0.6  # share of common words above which two sentences speak of the same
_WORD = re.compile(r"\w+")


def disagreements(best: Node, candidates: Iterable[Node]) -> list[Node]:
    """First segments from other passages, judged nearly as good and fully supported, that differ.

    `best` ends the path of the answer. Texts differ where their short answers do, which is a first
    sentence of at most six words, or where sentences with mostly the same words hold other
    numbers. One for each short answer, best path first.
    """
    if not best.path or not _is_supported(first := best.path[0]):
        return []
    least = _CLOSE * _total(first)
    read = {hit.passage.id for node in best.path for hit in node.hits}
    found: dict[str, Node] = {}
    for node in sorted(candidates, key=lambda each: -each.path_score):
        is_other = node.depth == 1 and read.isdisjoint(hit.passage.id for hit in node.hits)
        is_rival = is_other and _is_supported(node) and _total(node) >= least
        if is_rival and differ(first.text, node.text):
            found.setdefault(" ".join(_words(_opening(node.text))), node)
    return list(found.values())


def _is_supported(node: Node) -> bool:
    segment = node.segment
    if segment is None or not node.hits or Relevance.RELEVANT not in segment.critique:
        return False
    return (segment.scores.support or 0.0) >= FULL


def _total(node: Node) -> float:
    return node.segment.scores.total if node.segment is not None else 0.0


def differ(one: str, other: str) -> bool:
    """Whether texts give different short answers; not where either holds the other's opening."""
    first, second = _words(_opening(one)), _words(_opening(other))
    if not first or not second or _holds(one, second) or _holds(other, first):
        return False
    if max(len(first), len(second)) <= _SHORT:
        return True
    numbers = [{word for word in words if word.isdecimal()} for words in (first, second)]
    common, both = set(first) & set(second), set(first) | set(second)
    return all(numbers) and numbers[0].isdisjoint(numbers[1]) and len(common) >= _ALIKE * len(both)


def _opening(text: str) -> str:
    return next(iter(split_sentences(text)), "")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _holds(text: str, part: list[str]) -> bool:
    return f" {' '.join(part)} " in f" {' '.join(_words(text))} "
