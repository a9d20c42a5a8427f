"""Passages to and from the text and metadata that other frameworks pass around.

Knows nothing of any framework; what their loaders call things is in the tables here.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfrag.decode.answer import Answer
from selfrag.decode.citation import cited_span
from selfrag.errors import BadInput
from selfrag.passage import Hit, Passage

# What a hit says of itself beside its text, and what readers of it need not see.
OWN_NAMES = ("id", "title", "source", "score", "rank", "page", "start", "end")
NOT_FOR_PROMPTS = ("id", "score", "rank", "page", "start", "end")
_TITLE_NAMES = ("title", "file_name")
_SOURCE_NAMES = ("source", "url", "file_path")
_SCORE_NAMES = ("score", "relevance_score")
# PDF loaders of LangChain leave one of these, and their "page" counts from 0.
_FROM_ZERO_NAMES = ("page_label", "total_pages")


def metadata_of(hit: Hit) -> dict[str, str | int | float]:
    """The passage's own metadata, then the names in `OWN_NAMES`, which win; `page` from 1.

    Of several values of one name the last is there.
    """
    passage = hit.passage
    return {
        **dict(passage.metadata),
        "id": passage.id,
        "title": passage.title,
        "source": passage.source,
        "score": hit.score,
        "rank": hit.rank,
        "page": passage.page,
        "start": passage.start,
        "end": passage.end,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cited:
    """A part of the text of an answer, and what it is written from.

    `start` and `end` are offsets in `Answer.text`. `cited_text` is the part of the passage that it
    rests on. `support` in [0, 1] is None where the model judged none.
    """

    start: int
    end: int
    hit: Hit
    cited_text: str
    support: float | None


def citations_of(answer: Answer) -> list[Cited]:
    """The citations of an answer in the order of its text, one for each segment and passage."""
    found, at = [], 0
    for segment in answer.segments:
        start, end = at, at + len(segment.text)
        at = end + bool(segment.text)
        if answer.choices:  # the text is the choice, not what the segments say
            start, end = 0, len(answer.text)
        for number in segment.citations:
            hit = answer.passages[number - 1]
            span = cited_span(segment.text, hit.passage.text)
            text = hit.passage.text[slice(*span)] if span else ""
            support = segment.scores.support
            found.append(Cited(start=start, end=end, hit=hit, cited_text=text, support=support))
    return found


def facts_of(answer: Answer) -> dict[str, Any]:
    """What an answer says of itself beside its text, for metadata."""
    return {
        "verdict": answer.verdict,
        "probability": answer.probability,
        "support": answer.support,
        "abstained": answer.abstained,
        "retrieved": answer.retrieved,
        "stopped_by": answer.stopped_by,
    }


def passage_from(text: str, name: str, metadata: Mapping[str, Any]) -> Passage:
    """The passage that `text` and its metadata make; without a name or "id" a hash names it.

    What has no field of ours is kept as metadata: text as it is, other values as JSON.
    """
    source = _first_text(metadata, _SOURCE_NAMES)
    rest = {key: value for key, value in metadata.items() if key not in OWN_NAMES}
    return Passage(
        id=name or _first_text(metadata, ("id",)) or _digest(f"{source}\0{text}", 16),
        title=_first_text(metadata, _TITLE_NAMES),
        text=text,
        source=source,
        start=_whole_number(metadata.get("start")),
        end=_whole_number(metadata.get("end")),
        page=_page(metadata),
        metadata=tuple((str(key), _written(value)) for key, value in rest.items()),
    )


def score_in(metadata: Mapping[str, Any]) -> float:
    """The score that metadata gives; 0 where there is none."""
    for name in _SCORE_NAMES:
        value = metadata.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return 0.0


def hits_from(scored: Iterable[tuple[Passage, float]], top_k: int) -> list[Hit]:
    """The first `top_k` as hits, in the order given, without repetitions and blank texts.

    Chunks that share the id of their document are told apart by a hash of their text.
    """
    first_text: dict[str, str] = {}
    found: dict[str, tuple[Passage, float]] = {}
    for passage, score in scored:
        if first_text.setdefault(passage.id, passage.text) != passage.text:
            passage = replace(passage, id=f"{passage.id}#{_digest(passage.text, 8)}")
        if passage.text.strip():
            found.setdefault(passage.id, (passage, score))
    best = list(found.values())[:top_k]
    return [
        Hit(passage=passage, score=score, rank=rank)
        for rank, (passage, score) in enumerate(best, start=1)
    ]


def is_asked(queries: Sequence[str], top_k: int) -> bool:
    """Whether there is anything to search for; raises `BadInput` when `top_k` is negative."""
    if top_k < 0:
        raise BadInput(f"cannot search: top_k is {top_k}, expected 0 or more; set it higher")
    return bool(queries) and top_k > 0


def cleaned(queries: Sequence[str]) -> list[str]:
    """The queries without lone surrogates, which no framework lets through its checks."""
    return [query.encode("utf-8", "replace").decode() for query in queries]


def _page(metadata: Mapping[str, Any]) -> int:
    page, label = metadata.get("page"), str(metadata.get("page_label", ""))
    if type(page) is int:
        is_ours = "rank" in metadata
        return page + (not is_ours and any(name in metadata for name in _FROM_ZERO_NAMES))
    return int(label) if label.isdecimal() else 0


def _whole_number(value: object) -> int:
    return value if type(value) is int else 0


def _first_text(metadata: Mapping[str, Any], names: Iterable[str]) -> str:
    found = (metadata.get(name) for name in names)
    return next((each for each in found if isinstance(each, str) and each), "")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _digest(text: str, n_digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:n_digits]
