"""Closed sets: the choice that the candidates of a short form agree on, or else the likeliest one.

Self-RAG's released short-form script adds the scores of candidates with the same text
(AkariAsai/self-rag 1fcdc42, `run_short_form.py`); here the text is first mapped to one of the
choices, so that `A`, `A.` and `a` are one answer. Where no candidate names a choice, which the
released script counts as wrong, the likelihood of each choice decides. Does no I/O.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from selfrag.decode.choices import choice_of
from selfrag.decode.config import SearchConfig
from selfrag.decode.node import Node
from selfrag.engine.base import Completion, FloatArray, Request
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Retrieve


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


def voters(candidates: Sequence[Node], config: SearchConfig) -> list[Node]:
    """The first segments that have a vote: those that may be said."""
    dropped = config.drop_unsupported
    return [
        node
        for node in candidates
        if node.meets(config.min_support) and not (dropped and node.contradicted)
    ]


class Rating:
    """How likely the model begins its answer with each choice: what to ask, and what it comes to.

    After the passages of each candidate, taken as relevant, the probability of every choice as the
    next text, divided by its probability without passage and question, as a share of all choices:
    "no" is likelier than "yes" whatever is asked. Shares are averaged over the candidates, each by
    its score of relevance, or by 1 without a passage.
    """

    def __init__(self, candidates: Sequence[Node], fmt: PromptFormat, config: SearchConfig) -> None:
        self._candidates, self._choices = candidates, config.choices
        self._ids = [tuple(fmt.join([choice.strip()], continues=True)) for choice in config.choices]
        # What a choice begins with is asked for once for all choices that share it.
        starts = [ids[:place] for ids in self._ids for place in range(len(ids))]
        self._starts = tuple(dict.fromkeys(starts))
        self._watched = tuple(dict.fromkeys(token for ids in self._ids for token in ids))
        prior = (*fmt.instruction(""), fmt.ids[Retrieve.NO])
        prompts = [(prior, ()), *(_before_text(node, fmt, config) for node in candidates)]
        self.requests = [
            Request(
                prefix_ids=prefix,
                suffix_ids=(*suffix, *start),
                max_new_tokens=1,
                watch_ids=self._watched,
            )
            for prefix, suffix in prompts
            for start in self._starts
        ]

    def shares(self, completions: Sequence[Completion]) -> dict[str, float]:
        """The share of every choice, best first, sum 1; ties keep the order of the choices."""
        done = iter(completions)
        prior = self._logprobs(done)
        total = np.zeros(len(self._choices))
        for node in self._candidates:
            logprobs = self._logprobs(done) - prior
            probs = np.exp(logprobs - logprobs.max())
            total += _weight(node) * probs / probs.sum()
        shares = dict(zip(self._choices, (total / total.sum()).tolist(), strict=True))
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def _logprobs(self, done: Iterator[Completion]) -> FloatArray:
        """Shape (n_choices,), nats: of every choice as the next text after one prompt."""
        after = {
            start: dict(zip(self._watched, next(done).watched[0], strict=True))
            for start in self._starts
        }
        return np.array(
            [sum(after[ids[:n]][ids[n]] for n in range(len(ids))) for ids in self._ids], dtype=float
        )


def _before_text(
    node: Node, fmt: PromptFormat, config: SearchConfig
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prefix and suffix of the prompt that the text of `node` follows."""
    before = node.parent.path_ids(with_passages=config.inline_passages) if node.parent else ()
    relevant = (fmt.ids[Relevance.RELEVANT],) if node.hits else ()
    return before, (*node.lead_ids, *relevant)


def _weight(node: Node) -> float:
    """At least a little, so that passages that are all beside the point still count."""
    relevance = node.segment.scores.relevance if node.segment is not None else None
    return 1.0 if relevance is None else max(relevance, 1e-6)
