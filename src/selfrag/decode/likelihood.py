"""Closed sets that no candidate has named: how likely the model begins its answer with each choice.

Ours: the released short-form script counts such an answer as wrong. Knows nothing of the search.
"""

from collections.abc import Sequence

import numpy as np

from selfrag.decode.config import SearchConfig
from selfrag.decode.node import Node
from selfrag.decode.vote import choice_of
from selfrag.engine.base import Engine, Request
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance


def names_none(candidates: Sequence[Node], choices: Sequence[str]) -> bool:
    """Whether there are candidates and choices, but no candidate gives one."""
    given = (choice_of(node.text, choices) for node in candidates)
    return bool(candidates and choices) and all(choice is None for choice in given)


def rate_choices(
    candidates: Sequence[Node],
    engine: Engine,
    fmt: PromptFormat,
    config: SearchConfig,
    *,
    n_tokens_left: int | None,
) -> tuple[dict[str, float], int]:
    """The share of every choice, best first, sum 1; and how many tokens it took.

    Nothing where that is more than `n_tokens_left`.

    After the passages of each candidate, taken as relevant, the probability of every choice as the
    next text, as a share of all choices. Shares are averaged over the candidates, each by its score
    of relevance, or by 1 without a passage. Ties keep the order of `config.choices`.
    """
    texts = [tuple(fmt.tokenizer.encode(choice.strip())) for choice in config.choices]
    # What a choice begins with is read once for all that share it.
    starts = list(dict.fromkeys(ids[:place] for ids in texts for place in range(len(ids))))
    n_tokens = len(candidates) * len(starts)
    if n_tokens_left is not None and n_tokens > n_tokens_left:
        return {}, 0
    watched = tuple(dict.fromkeys(token for ids in texts for token in ids))
    requests = [
        _request(node, start, watched, fmt, config) for node in candidates for start in starts
    ]
    done = iter(engine.generate(requests))
    total = np.zeros(len(texts))
    for node in candidates:
        after = {start: dict(zip(watched, next(done).watched[0], strict=True)) for start in starts}
        logprobs = np.array([sum(after[ids[:n]][ids[n]] for n in range(len(ids))) for ids in texts])
        probs = np.exp(logprobs - logprobs.max())
        total += _weight(node) * probs / probs.sum()
    shares = dict(zip(config.choices, (total / total.sum()).tolist(), strict=True))
    return dict(sorted(shares.items(), key=lambda item: -item[1])), n_tokens


def _request(
    node: Node,
    start: tuple[int, ...],
    watched: tuple[int, ...],
    fmt: PromptFormat,
    config: SearchConfig,
) -> Request:
    before = node.parent.path_ids(with_passages=config.inline_passages) if node.parent else ()
    relevant = (fmt.ids[Relevance.RELEVANT],) if node.hits else ()
    return Request(
        prefix_ids=before,
        suffix_ids=(*node.lead_ids, *relevant, *start),
        max_new_tokens=1,
        watch_ids=watched,
    )


def _weight(node: Node) -> float:
    """At least a little, so that passages that are all beside the point still count."""
    relevance = node.segment.scores.relevance if node.segment is not None else None
    return 1.0 if relevance is None else max(relevance, 1e-6)
