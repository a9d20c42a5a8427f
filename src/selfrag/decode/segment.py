"""Cutting a completion into a segment: its text, its critique, and what comes next.

Works on ids, never on text: what a tokenizer prints for a control id does not matter here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfrag.decode.score import (
    ScoreWeights,
    SegmentScores,
    mean_logprob,
    relevance_score,
    support_score,
    utility_score,
    weigh,
)
from selfrag.engine.base import Completion, FinishReason, FloatArray
from selfrag.prompt import PromptFormat
from selfrag.reflection import (
    REFLECTION_TOKENS,
    ReflectionToken,
    Relevance,
    Retrieve,
    Support,
    Utility,
)

# Where each group lies in a row of watched log-probabilities (order of `ReflectionIds.all`).
COLUMNS = {
    group: [i for i, token in enumerate(REFLECTION_TOKENS) if isinstance(token, group)]
    for group in (Retrieve, Relevance, Support, Utility)
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupLogprobs:
    """What the scores of a segment are computed from, in nats, within the whole vocabulary.

    `relevance`: (2,), `support`: (3,), `utility`: (5,), each where the model first emitted a token
    of the group, None where it emitted none. `mean`: of all ids written.
    """

    relevance: FloatArray | None
    support: FloatArray | None
    utility: FloatArray | None
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """One segment as written.

    `body_ids`: all ids but the final stop. `next_retrieve`: log-probabilities of the retrieval
    tokens (3,) where the segment ended on one, else None. `truncated`: the token limit cut it.
    `n_tokens`: written, the stop included.
    """

    text: str
    body_ids: tuple[int, ...]
    critique: tuple[ReflectionToken, ...]
    scores: SegmentScores
    finished: bool
    truncated: bool
    ends_on: Retrieve | None
    next_retrieve: FloatArray | None
    logprobs: GroupLogprobs
    n_tokens: int


def cut_segment(
    completion: Completion,
    fmt: PromptFormat,
    weights: ScoreWeights,
    *,
    read_passage: bool,
    retrieval: float | None = None,
) -> Segment:
    """The segment in `completion`, whose request watched all 15 reflection ids in order.

    `retrieval` is the score of the passage that it was written from.
    """
    ids = completion.token_ids
    stopped = completion.finish_reason is FinishReason.STOP
    body = ids[:-1] if stopped else ids
    last = fmt.ids.token_of.get(ids[-1]) if stopped else None
    ends_on = last if isinstance(last, Retrieve) else None
    tokens = [fmt.ids.token_of.get(token_id) for token_id in body]
    plain = [token_id for token_id, token in zip(body, tokens, strict=True) if token is None]
    logprobs = _group_logprobs(completion, tokens)
    irrelevant = Relevance.IRRELEVANT in tokens[:1]
    return Segment(
        text=_without_torn_character(fmt.tokenizer.decode(plain), not stopped).strip(),
        body_ids=tuple(body),
        critique=tuple(token for token in tokens if token is not None),
        scores=score_groups(
            logprobs,
            weights,
            missing=_reasons(logprobs, read_passage, irrelevant),
            retrieval=retrieval,
        ),
        finished=ends_on is None,
        truncated=not stopped,
        ends_on=ends_on,
        next_retrieve=completion.watched[-1, COLUMNS[Retrieve]] if ends_on else None,
        logprobs=logprobs,
        n_tokens=len(ids),
    )


def _without_torn_character(text: str, truncated: bool) -> str:
    """Without the U+FFFD that stands for a character of which the limit let only a part through."""
    return text.rstrip("\ufffd") if truncated else text


def score_groups(
    logprobs: GroupLogprobs,
    weights: ScoreWeights,
    *,
    missing: dict[str, str],
    retrieval: float | None = None,
) -> SegmentScores:
    """The scores of a segment; `missing` gives the reason for every group that is None."""
    relevance, support, utility = logprobs.relevance, logprobs.support, logprobs.utility
    return weigh(
        relevance=None if relevance is None else relevance_score(relevance),
        support=None if support is None else support_score(support),
        utility=None if utility is None else utility_score(utility),
        sequence=float(np.exp(logprobs.mean)),
        weights=weights,
        missing=missing,
        retrieval=retrieval,
    )


def _group_logprobs(completion: Completion, tokens: Sequence[object]) -> GroupLogprobs:
    def first(group: type[Relevance] | type[Support] | type[Utility]) -> FloatArray | None:
        at = next((i for i, token in enumerate(tokens) if isinstance(token, group)), None)
        return None if at is None else completion.watched[at, COLUMNS[group]]

    return GroupLogprobs(
        relevance=first(Relevance),
        support=first(Support),
        utility=first(Utility),
        mean=mean_logprob(completion.logprobs),
    )


def _reasons(logprobs: GroupLogprobs, read_passage: bool, irrelevant: bool) -> dict[str, str]:
    """Why a group is missing, by its name."""
    reasons: dict[str, str] = {}
    unread = "no new passage was read"
    if logprobs.relevance is None:
        reasons["relevance"] = "the model judged no relevance" if read_passage else unread
    if logprobs.support is None and irrelevant:
        reasons["support"] = "the passage was judged irrelevant, so no support is judged"
    elif logprobs.support is None:
        reasons["support"] = "the model judged no support" if read_passage else unread
    if logprobs.utility is None:
        reasons["utility"] = "the model judged no usefulness in this segment"
    return reasons
