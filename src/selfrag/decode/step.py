"""What is written next: a node, the passages that it reads, and how the text has to begin.

The paper writes one segment from each passage (arXiv 2310.11511, algorithm 1), so that its first
words decide before anything is judged. A relevant passage can also give answers that begin with
another of its words, or part from the first answer where the passage goes on in another way, where
the model finds that likely; the critique then chooses. Does no I/O.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from selfrag.decode.node import Node
from selfrag.decode.score import retrieval_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Completion, Request, SegmentTask
from selfrag.passage import Hit
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import Relevance

# Of a beginning. On 500 development questions .05 and .1 match alike, .2 gives half of the gain.
_LEAST = log(0.05)
_AT_ONCE = 13  # ids that one request asks for beside two others: servers watch 15
_DEEPEST = 8  # ids of the first answer after which another may part from it
_WORD = re.compile(r"\w+")
_NEXT_WORD = re.compile(r"[^\w.;:!?]*\w*")  # of the same clause


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How another answer from the passage of `node` begins: its relevance, and one id or more.

    `logprobs`: of the ids after the first, in nats.
    """

    node: Node
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def logprob(self) -> float:
        """Of all that it begins with, in nats."""
        return sum(self.logprobs)

    def completed(self, done: Completion) -> Completion:
        """The whole segment, of which `done` is what follows; only its relevance was watched."""
        begun = np.full((len(self.ids), done.watched.shape[1]), -np.inf)
        if self.node.segment is not None and self.node.segment.logprobs.relevance is not None:
            begun[0, COLUMNS[Relevance]] = self.node.segment.logprobs.relevance
        relevant = begun[0, COLUMNS[Relevance]].max()
        return replace(
            done,
            token_ids=self.ids + done.token_ids,
            logprobs=np.concatenate([[relevant, *self.logprobs], done.logprobs]),
            watched=np.concatenate([begun, done.watched]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One candidate to be written: the node that it continues and the passages that it reads.

    `fresh`: the passages are read here for the first time; `best` is the highest score among all
    that are read beside them. `begun`: how it has to begin, where another was written from them.
    """

    parent: Node
    hits: tuple[Hit, ...] = ()
    lead_ids: tuple[int, ...]
    fresh: bool = False
    best: float = 0.0
    begun: Beginning | None = None

    @property
    def begun_ids(self) -> tuple[int, ...]:
        """The ids that the text has to begin with."""
        return self.begun.ids if self.begun else ()

    @property
    def retrieval(self) -> float | None:
        """The retrieval score of the first passage, where it is fresh."""
        return retrieval_score(self.hits[0].score, self.best) if self.fresh else None

    @property
    def reads_one(self) -> bool:
        """Whether it pays for one passage."""
        return self.fresh and len(self.hits) == 1 and self.begun is None

    def task(self, question: str, turns: tuple[Turn, ...]) -> SegmentTask | None:
        """The step in words for a writer, who is not told how to begin."""
        if self.begun:
            return None
        return SegmentTask(
            question=question,
            turns=turns,
            passages=tuple(hit.passage for hit in self.hits),
            said=" ".join(node.text for node in self.parent.path),
            is_fresh=self.fresh,
        )

    def whole(self, done: Completion) -> Completion:
        """The whole segment, where `done` is what the model wrote."""
        return self.begun.completed(done) if self.begun else done


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A place in the first answer from a passage, and ids that could stand there in its stead.

    `said`: the ids of the answer before it, the relevance first.
    """

    step: Step
    node: Node
    said: tuple[int, ...]
    others: tuple[int, ...]

    def request(self) -> Request:
        """Asks how likely each is; the first id watched is that of a whole word.

        Of a part of one, llama.cpp servers tell nothing.
        """
        return Request(
            prefix_ids=self.step.parent.path_ids(),
            suffix_ids=self.step.lead_ids + self.said,
            max_new_tokens=1,
            watch_ids=(self.said[0], self.node.body_ids[len(self.said)], *self.others),
        )


class Beginnings:
    """How else answers from their passages may begin: what to ask, and what comes of it.

    `steps` have been written as `nodes`, each in `size` tokens at most. `requests` ask for one
    token at each place of an answer at which the passage has other words.
    """

    def __init__(
        self, steps: Sequence[Step], nodes: Sequence[Node], fmt: PromptFormat, size: int
    ) -> None:
        relevant = fmt.ids[Relevance.RELEVANT]
        self._places = [
            place
            for step, node in zip(steps, nodes, strict=True)
            if step.reads_one and node.body_ids[:1] == (relevant,)
            for place in _places(step, node, fmt, size)
        ]
        self.requests = [place.request() for place in self._places]

    def likeliest(self, completions: Sequence[Completion], n: int) -> list[Step]:
        """At most `n` steps for each node, likeliest first, in the order of the nodes."""
        found: dict[int, list[Step]] = {}
        said: dict[int, tuple[float, ...]] = {}  # of the first answer as far as it has been asked
        for place, done in zip(self._places, completions, strict=True):
            id_, n_said = place.node.id, len(place.said) - 1
            told, *others = done.watched[0, 1:].tolist()
            said[id_] = (*said.get(id_, ())[:n_said], told)
            for token_id, logprob in zip(place.others, others, strict=True):
                begun = Beginning(
                    node=place.node,
                    ids=(*place.said, token_id),
                    logprobs=(*said[id_][:n_said], logprob),
                )
                if begun.logprob >= _LEAST:
                    found.setdefault(id_, []).append(replace(place.step, begun=begun))
        ranked = (sorted(steps, key=_logprob, reverse=True) for steps in found.values())
        return [step for steps in ranked for step in steps[:n]]


def _logprob(step: Step) -> float:
    return step.begun.logprob if step.begun else 0.0


def _places(step: Step, node: Node, fmt: PromptFormat, size: int) -> Iterator[_Place]:
    """The places of the short answer up to the last at which it may part, each in its order."""
    hit, ids = node.hits[0], node.body_ids
    text = f"{hit.passage.title or ''} {hit.passage.text}"
    found = []
    for at in range(1, min(len(ids), _DEEPEST + 1, size - 1)):
        others = _next_ids(text, ids[1:at], fmt) if at > 1 else _first_ids(text, fmt)
        found.append([other for other in others if other != ids[at]])
        if ids[at] in fmt.ids.token_of or "." in fmt.tokenizer.decode([ids[at]]):
            break
    n_places = max((at for at, others in enumerate(found, 1) if others), default=0)
    for at, others in enumerate(found[:n_places], 1):
        for start in range(0, max(1, len(others)), _AT_ONCE):
            asked = tuple(others[start : start + _AT_ONCE])
            yield _Place(step=step, node=node, said=ids[:at], others=asked)


def _first_ids(text: str, fmt: PromptFormat) -> Iterable[int]:
    """The ids that an answer begins with where it begins with a word of the passage.

    Not those of a torn character.
    """
    capitals = dict.fromkeys(word[:1].upper() + word[1:] for word in _WORD.findall(text))
    first = dict.fromkeys(fmt.join([word], continues=True)[0] for word in capitals)
    return [i for i in first if "\ufffd" not in fmt.tokenizer.decode([i])]


def _next_ids(text: str, said: tuple[int, ...], fmt: PromptFormat) -> Iterable[int]:
    """The ids that follow where the passage says the same as the answer so far."""
    begun = fmt.tokenizer.decode(said)
    places = re.finditer(rf"(?<!\w){re.escape(begun)}", text, re.IGNORECASE)
    words = (_NEXT_WORD.match(text, place.end()) for place in places)
    ways = dict.fromkeys(begun + word.group() for word in words if word)
    whole = [tuple(fmt.join([way], continues=True)) for way in ways]
    n = len(said)
    return dict.fromkeys(ids[n] for ids in whole if ids[:n] == said and len(ids) > n)
