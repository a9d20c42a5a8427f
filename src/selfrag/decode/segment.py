"""Cutting a completion into a segment: its text, its critique, and what comes next.

Works on ids, never on text: what a tokenizer prints for a control id does not matter here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selfrag.decode.score import (
    ScoreWeights,
    SegmentScores,
    relevance_score,
    sequence_score,
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
class Segment:
    """One segment as written.

    `body_ids`: all ids but the final stop. `next_retrieve`: log-probabilities of the retrieval
    tokens (3,) where the segment ended on one, else None. `truncated`: the token limit cut it.
    """

    text: str
    body_ids: tuple[int, ...]
    critique: tuple[ReflectionToken, ...]
    scores: SegmentScores
    finished: bool
    truncated: bool
    ends_on: Retrieve | None
    next_retrieve: FloatArray | None


def cut_segment(
    completion: Completion, fmt: PromptFormat, weights: ScoreWeights, *, read_passage: bool
) -> Segment:
    """The segment in `completion`, whose request watched all 15 reflection ids in order."""
    ids = completion.token_ids
    stopped = completion.finish_reason is FinishReason.STOP
    body = ids[:-1] if stopped else ids
    last = fmt.ids.token_of.get(ids[-1]) if stopped else None
    ends_on = last if isinstance(last, Retrieve) else None
    tokens = [fmt.ids.token_of.get(token_id) for token_id in body]
    plain = [token_id for token_id, token in zip(body, tokens, strict=True) if token is None]
    return Segment(
        text=fmt.tokenizer.decode(plain).strip(),
        body_ids=tuple(body),
        critique=tuple(token for token in tokens if token is not None),
        scores=_scores(completion, tokens, weights, read_passage=read_passage),
        finished=ends_on is None,
        truncated=not stopped,
        ends_on=ends_on,
        next_retrieve=completion.watched[-1, COLUMNS[Retrieve]] if ends_on else None,
    )


def _scores(
    completion: Completion,
    tokens: Sequence[object],
    weights: ScoreWeights,
    *,
    read_passage: bool,
) -> SegmentScores:
    watched = completion.watched
    missing: dict[str, str] = {}
    irrelevant = Relevance.IRRELEVANT in tokens[:1]

    def first(group: type[Relevance] | type[Support] | type[Utility]) -> FloatArray | None:
        at = next((i for i, token in enumerate(tokens) if isinstance(token, group)), None)
        return None if at is None else watched[at, COLUMNS[group]]

    relevance, support, utility = first(Relevance), first(Support), first(Utility)
    if relevance is None:
        missing["relevance"] = (
            "the model judged no relevance" if read_passage else "no new passage was read"
        )
    if support is None:
        missing["support"] = (
            "the passage was judged irrelevant, so no support is judged"
            if irrelevant
            else "the model judged no support"
            if read_passage
            else "no new passage was read"
        )
    if utility is None:
        missing["utility"] = "the model judged no usefulness in this segment"
    return weigh(
        relevance=None if relevance is None else relevance_score(relevance),
        support=None if support is None else support_score(support),
        utility=None if utility is None else utility_score(utility),
        sequence=sequence_score(completion.logprobs),
        weights=weights,
        missing=missing,
    )
