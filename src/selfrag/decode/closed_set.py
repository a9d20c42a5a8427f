"""Closed sets: the choice that the candidates of a short form agree on, or else the likeliest one.

Self-RAG's released short-form script adds the scores of candidates with the same text
(AkariAsai/self-rag 1fcdc42, `run_short_form.py`); here the text is first mapped to one of the
choices, so that `A`, `A.` and `a` are one answer. Where no candidate names a choice, which the
released script counts as wrong, the likelihood of each choice decides. Does no I/O.
"""

from collections.abc import Sequence

import numpy as np

from selfrag.decode.choices import choice_of
from selfrag.decode.config import SearchConfig
from selfrag.decode.node import Node
from selfrag.engine.base import Completion, Request
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance


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


def names_none(candidates: Sequence[Node], choices: Sequence[str]) -> bool:
    """Whether there are candidates and choices, but no candidate gives one."""
    given = (choice_of(node.text, choices) for node in candidates)
    return bool(candidates and choices) and all(choice is None for choice in given)


class Rating:
    """How likely the model begins its answer with each choice: what to ask, and what it comes to.

    After the passages of each candidate, taken as relevant, the probability of every choice as the
    next text, as a share of all choices. Shares are averaged over the candidates, each by its score
    of relevance, or by 1 without a passage.
    """

    def __init__(self, candidates: Sequence[Node], fmt: PromptFormat, config: SearchConfig) -> None:
        self._candidates, self._choices = candidates, config.choices
        self._ids = [tuple(fmt.join([choice.strip()], continues=True)) for choice in config.choices]
        # What a choice begins with is asked for once for all choices that share it.
        starts = [ids[:place] for ids in self._ids for place in range(len(ids))]
        self._starts = tuple(dict.fromkeys(starts))
        self._watched = tuple(dict.fromkeys(token for ids in self._ids for token in ids))
        self.requests = [
            Request(
                prefix_ids=node.parent.path_ids(with_passages=config.inline_passages),
                suffix_ids=(
                    *node.lead_ids,
                    *([fmt.ids[Relevance.RELEVANT]] if node.hits else []),
                    *start,
                ),
                max_new_tokens=1,
                watch_ids=self._watched,
            )
            for node in candidates
            if node.parent is not None
            for start in self._starts
        ]

    def shares(self, completions: Sequence[Completion]) -> dict[str, float]:
        """The share of every choice, best first, sum 1; ties keep the order of the choices."""
        done = iter(completions)
        total = np.zeros(len(self._choices))
        for node in self._candidates:
            after = {
                start: dict(zip(self._watched, next(done).watched[0], strict=True))
                for start in self._starts
            }
            logprobs = np.array(
                [sum(after[ids[:n]][ids[n]] for n in range(len(ids))) for ids in self._ids]
            )
            probs = np.exp(logprobs - logprobs.max())
            total += _weight(node) * probs / probs.sum()
        shares = dict(zip(self._choices, (total / total.sum()).tolist(), strict=True))
        return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _weight(node: Node) -> float:
    """At least a little, so that passages that are all beside the point still count."""
    relevance = node.segment.scores.relevance if node.segment is not None else None
    return 1.0 if relevance is None else max(relevance, 1e-6)
