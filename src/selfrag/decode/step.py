"""What is written next: a node, the passages that it reads, and how the text has to begin.

The paper writes one segment from each passage (arXiv 2310.11511, algorithm 1), so that the first
word decides before anything is judged. A relevant passage can also give the answers that begin with
another of its words, where the model finds one likely; the critique then chooses. Does no I/O.
"""

import re
from collections.abc import Iterable, Sequence
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

# Of a first word. On 500 development questions .05 and .1 match alike, .2 gives half of the gain.
_LEAST = log(0.05)
_AT_ONCE = 14  # words that one request asks for: servers watch 15 ids
N_BEGUN = 2  # ids that another answer begins with
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How another answer from the passage of `node` begins: its relevance, and one id more.

    `logprob`: of that id, in nats.
    """

    node: Node
    ids: tuple[int, int]
    logprob: float

    def completed(self, done: Completion) -> Completion:
        """The whole segment, of which `done` is what follows; nobody watched its second step."""
        begun = np.full((2, done.watched.shape[1]), -np.inf)
        if self.node.segment is not None and self.node.segment.logprobs.relevance is not None:
            begun[0, COLUMNS[Relevance]] = self.node.segment.logprobs.relevance
        relevant = begun[0, COLUMNS[Relevance]].max()
        return replace(
            done,
            token_ids=self.ids + done.token_ids,
            logprobs=np.concatenate([[relevant, self.logprob], done.logprobs]),
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


class Beginnings:
    """With which other words of their passage answers may begin: what to ask, and what comes of it.

    `steps` have been written as `nodes`. `requests` ask for one token after each passage that was
    judged relevant.
    """

    def __init__(self, steps: Sequence[Step], nodes: Sequence[Node], fmt: PromptFormat) -> None:
        relevant = fmt.ids[Relevance.RELEVANT]
        self._asked = [
            (step, node, watched)
            for step, node in zip(steps, nodes, strict=True)
            if step.reads_one and node.body_ids[:1] == (relevant,)
            for watched in _parts(_first_ids(node.hits[0], fmt), node.body_ids[1:2])
        ]
        self.requests = [
            Request(
                prefix_ids=step.parent.path_ids(),
                suffix_ids=(*step.lead_ids, relevant),
                max_new_tokens=1,
                # The first is that of a whole word: of a part, llama.cpp servers tell nothing.
                watch_ids=(relevant, *watched),
            )
            for step, _, watched in self._asked
        ]

    def likeliest(self, completions: Sequence[Completion], n: int) -> list[Step]:
        """At most `n` steps for each node, likeliest first, in the order of the nodes."""
        found: dict[int, list[Step]] = {}
        for (step, node, watched), done in zip(self._asked, completions, strict=True):
            for token_id, logprob in zip(watched, done.watched[0, 1:].tolist(), strict=True):
                if logprob >= _LEAST:
                    begun = Beginning(node=node, ids=(node.body_ids[0], token_id), logprob=logprob)
                    found.setdefault(node.id, []).append(replace(step, begun=begun))
        ranked = (sorted(steps, key=_logprob, reverse=True) for steps in found.values())
        return [step for steps in ranked for step in steps[:n]]


def _logprob(step: Step) -> float:
    return step.begun.logprob if step.begun else 0.0


def _first_ids(hit: Hit, fmt: PromptFormat) -> dict[int, None]:
    """The ids that an answer begins with where it begins with a word of the passage.

    Not those of a torn character.
    """
    words = _WORD.findall(f"{hit.passage.title or ''} {hit.passage.text}")
    capitals = dict.fromkeys(word[:1].upper() + word[1:] for word in words)
    first = dict.fromkeys(fmt.join([word], continues=True)[0] for word in capitals)
    return {i: None for i in first if "\ufffd" not in fmt.tokenizer.decode([i])}


def _parts(ids: Iterable[int], known: Sequence[int]) -> list[tuple[int, ...]]:
    """`ids` but for those `known`, so many at a time as one request watches."""
    rest = [token_id for token_id in ids if token_id not in known]
    return [tuple(rest[at : at + _AT_ONCE]) for at in range(0, len(rest), _AT_ONCE)]
