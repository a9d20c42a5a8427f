"""What requests say, and how answers of ours are told: plain dataclasses and tables.

msgspec reads requests: it is strict about types, knows no NaN, and never repeats what it was given.
Knows nothing of HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from selfrag.decode.answer import (
    Answer,
    AnswerSegment,
    answer_to_json,
    pages_to_json,
)
from selfrag.decode.citation import cited_span, url_of
from selfrag.decode.config import SearchConfig
from selfrag.decode.node import Node
from selfrag.decode.score import PARTIAL, ScoreWeights
from selfrag.errors import BadInput
from selfrag.passage import Hit, Passage
from selfrag.prompt import Turn
from selfrag.retrieval.options import SearchMode
from selfrag.serial import Count, Share, config_from
from selfrag.trace.rows import config_to_row

T = TypeVar("T")

MAX_TURNS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    """A question, after the earlier turns; `settings` are those of a search, as in `[decode]`."""

    question: str
    history: list[Turn] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    stream: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What to look for, among passages that have all of the metadata in `filter`."""

    query: str
    top_k: Count = 5
    mode: SearchMode = SearchMode.HYBRID
    filter: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """A text, what it answers, and what to compare it with: passages, else those of the index."""

    text: str
    question: str = ""
    passages: list[str | Passage] | None = None
    top_k: Count = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreRequest:
    """The rows of a trace, and what decides now; `threshold` null: the emitted token."""

    trace: list[dict[str, Any]]
    threshold: Share | None = 0.2
    weights: ScoreWeights = field(default_factory=ScoreWeights)


def read(kind: type[T], body: bytes) -> T:
    """The request in `body`; raises `BadInput` that says where it does not fit."""
    try:
        return msgspec.json.decode(body or b"null", type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        found = "JSON nested too deep" if isinstance(error, RecursionError) else _bare(error)
        raise BadInput(
            f"cannot read the request: {found}; expected what /openapi.json describes, so change it"
        ) from error


def _bare(error: Exception) -> str:
    """What msgspec found and where, without anything of the request but names of fields."""
    return str(error).encode("ascii", "replace").decode()[:300]


def search_config(base: SearchConfig, settings: Mapping[str, Any]) -> SearchConfig:
    """`base` with the settings of a request; raises `ConfigError` naming one that does not fit."""
    if not settings:
        return base
    row = config_to_row(base)
    weights = settings.get("weights")
    both = {**row["weights"], **weights} if isinstance(weights, dict) else row["weights"]
    changed = {**row, **settings, "weights": both if isinstance(weights, dict | None) else weights}
    return config_from(SearchConfig, changed, table="decode")


def bounded_history(turns: Sequence[Turn], max_chars: int) -> list[Turn]:
    """The latest turns that together have at most `max_chars` characters."""
    kept: list[Turn] = []
    for turn in reversed(turns[-MAX_TURNS:]):
        max_chars -= len(turn.question) + len(turn.answer)
        if max_chars < 0:
            break
        kept.insert(0, turn)
    return kept


def address_of(passage: Passage) -> str:
    """The page that a passage is from, else an address that names the passage."""
    return url_of(passage.source) or f"selfrag://passage/{passage.id}"


def passage_view(passage: Passage) -> dict[str, Any]:
    """One passage with its place; `start` and `end` are offsets in the text of its document."""
    return {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "source": passage.source,
        "url": address_of(passage),
        "start": passage.start,
        "end": passage.end,
        **pages_to_json(passage),
        "metadata": dict(passage.metadata),
    }


def hit_view(hit: Hit) -> dict[str, Any]:
    """One hit as `passage_view` has it, with score and rank."""
    return {**passage_view(hit.passage), "score": hit.score, "rank": hit.rank}


def answer_view(answer: Answer, *, model: str, index: str) -> dict[str, Any]:
    """The documented answer with what the server knows beside: evidence, places and confidence."""
    view = answer_to_json(answer)
    for told, segment in zip(view["segments"], answer.segments, strict=True):
        told["evidence"] = evidence(segment, answer.passages)
    view["passages"] = [hit_view(hit) for hit in answer.passages]
    view |= {
        "cited_answer": answer.cited_text,
        "score": answer.score,
        "support": answer.support,
        "utility": answer.utility,
        "low_confidence": is_unsure(answer),
        "model": model,
        "index": index,
    }
    return view


def evidence(segment: AnswerSegment, passages: Sequence[Hit]) -> list[dict[str, Any]]:
    """For each citation the sentences of its passage that the segment rests on.

    `start` and `end` are offsets in the text of the document, `text_start` and `text_end` in that
    of the passage. A number that names none of `passages` is left out: only what was retrieved for
    this question can be cited.
    """
    found = []
    for number in segment.citations:
        if not 1 <= number <= len(passages):
            continue
        passage = passages[number - 1].passage
        start, end = cited_span(segment.text, passage.text) or (0, len(passage.text))
        found.append(
            {
                "number": number,
                "passage_id": passage.id,
                "cited_text": passage.text[start:end],
                "text_start": start,
                "text_end": end,
                "start": passage.start + start,
                "end": passage.start + end,
            }
        )
    return found


def is_unsure(answer: Answer) -> bool:
    """Whether passages were read, and do not carry the answer, or it is likely to be wrong."""
    support, probability = answer.support, answer.probability
    is_improbable = probability is not None and probability < PARTIAL
    is_carried = support is not None and support >= PARTIAL
    return answer.abstained or is_improbable or (answer.retrieved and not is_carried)


def segment_view(node: Node, serial: int) -> dict[str, Any]:
    """The best path so far, whose last node the events call `serial`."""
    return {
        "node": serial,
        "segments": [
            {"text": each.text, "passage_ids": [hit.passage.id for hit in each.hits]}
            for each in node.path
        ],
    }


def described(kind: type) -> dict[str, Any]:
    """What OpenAPI says of a route that reads a `kind`; see `components`."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def components(kinds: Sequence[type]) -> dict[str, Any]:
    """The schemas of requests, by name, for OpenAPI."""
    template = "#/components/schemas/{name}"
    _, found = msgspec.json.schema_components(kinds, ref_template=template)
    return found
