"""Whether other passages support another answer: what the reader of an answer is told.

Knows nothing of how it is shown. The rule is made to stay silent in doubt: it compares short
answers and numbers, not the meaning of sentences, and then has the model judge each text by the
passage of the other. Does no I/O.
"""

import re
from collections.abc import Iterable, Sequence

from selfrag.decode.events import Side
from selfrag.decode.node import Node
from selfrag.decode.score import FULL, PARTIAL, support_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Completion, Request
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Support
from selfrag.text import first_sentence

# Share of the total of the answer's first segment. On 25 questions to the demo index this tells of
# two of six wrong answers and beside one right one; without it, beside ten right ones.
_CLOSE = 0.97
MAX_RIVALS = 3  # each costs two tokens
_SHORT = 6  # words: an answer rather than a sentence about it
_ALIKE = 0.6  # share of common words above which two sentences speak of the same
_WORD = re.compile(r"\w+")


def disagreements(best: Node, candidates: Iterable[Node]) -> list[Node]:
    """First segments from other passages, judged nearly as good and fully supported, that differ.

    `best` ends the path of the answer. Texts differ where their short answers do, which is a first
    sentence of at most six words, or where sentences with mostly the same words hold other
    numbers. One for each short answer and each passage, best path first.
    """
    if not best.path or not _is_supported(first := best.path[0]):
        return []
    least = _CLOSE * _total(first)
    found: dict[str, Node] = {}
    read: set[str] = set()
    for node in sorted(candidates, key=lambda each: -each.path_score):
        is_other = node.depth == 1 and best.read_ids.isdisjoint(hit.passage.id for hit in node.hits)
        is_rival = is_other and _is_supported(node) and _total(node) >= least
        if is_rival and read.isdisjoint(node.read_ids) and differ(first.text, node.text):
            found.setdefault(" ".join(_words(opening(node.text))), node)
            read |= node.read_ids
    return list(found.values())


class CrossJudgement:
    """Whether the passages of the answer and of a rival each leave the other without support.

    What to ask, two requests a rival, and what it comes to.
    """

    def __init__(self, best: Node, rivals: Sequence[Node], fmt: PromptFormat) -> None:
        self._first, self._rivals = best.path[0], rivals
        pairs = [(self._first, rival) for rival in rivals]
        self.requests = [
            _judging(said, read, fmt) for pair in pairs for said, read in (pair, pair[::-1])
        ]

    def sides(self, completions: Sequence[Completion]) -> tuple[Side, ...]:
        """The answer and the rivals that exclude it; empty where none does."""
        found = iter(support_score(each.watched[0, COLUMNS[Support]]) for each in completions)
        crossed = [(rival, next(found), next(found)) for rival in self._rivals]
        against = [each for each in crossed if max(each[1:]) < PARTIAL]
        if not against:
            return ()
        own = Side(node=self._first, elsewhere=max(mine for _, mine, _ in against))
        return (own, *(Side(node=rival, elsewhere=theirs) for rival, _, theirs in against))


def _judging(said: Node, read: Node, fmt: PromptFormat) -> Request:
    """Asks for the support of what one node says by the passages of another, taken as relevant."""
    text = [token_id for token_id in said.body_ids if token_id not in fmt.ids.token_of]
    return Request(
        prefix_ids=read.start.path_ids(),
        suffix_ids=(*read.lead_ids, fmt.ids[Relevance.RELEVANT], *text),
        max_new_tokens=1,
        watch_ids=fmt.ids.all,
    )


def _is_supported(node: Node) -> bool:
    segment = node.segment
    if segment is None or not node.hits or Relevance.RELEVANT not in segment.critique:
        return False
    return (segment.scores.support or 0.0) >= FULL


def _total(node: Node) -> float:
    return node.segment.scores.total if node.segment is not None else 0.0


def differ(one: str, other: str) -> bool:
    """Whether texts give different short answers; not where either holds the other's opening."""
    first, second = _words(opening(one)), _words(opening(other))
    if not first or not second or _holds(one, second) or _holds(other, first):
        return False
    if max(len(first), len(second)) <= _SHORT:
        return True
    numbers = [{word for word in words if word.isdecimal()} for words in (first, second)]
    common, both = set(first) & set(second), set(first) | set(second)
    return all(numbers) and numbers[0].isdisjoint(numbers[1]) and len(common) >= _ALIKE * len(both)


def opening(text: str) -> str:
    """The first sentence, which is the short answer where the model gives one."""
    return first_sentence(text)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _holds(text: str, part: list[str]) -> bool:
    return f" {' '.join(part)} " in f" {' '.join(_words(text))} "
