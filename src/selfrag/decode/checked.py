"""A checked text: the verdicts, and what is told of them: JSON, a summary, the text with marks.

Knows nothing of how verdicts are found.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from selfrag.decode.citation import url_of
from selfrag.decode.claims import Claims, Sentence
from selfrag.decode.grounding import Judgement, Verdict
from selfrag.decode.sources import Numbered
from selfrag.passage import Passage

CLAIM_VERDICTS = (Verdict.SUPPORTED, Verdict.PARTIAL, Verdict.UNSUPPORTED, Verdict.CONTRADICTED)


class CitationStatus(StrEnum):
    """What a citation in the text is worth."""

    RIGHT = "right passage"  # it supports the sentence, at least in part
    WRONG = "wrong passage"  # it is there and does not
    MISSING = "no such passage"
    UNKNOWN = "not verified"  # of what is no claim, or nobody knows what the number means


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A passage that a sentence was compared with, and what came of it."""

    passage: Passage
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class CitationCheck:
    """One number of a mark in the text, which is at `start` to `end`."""

    number: int
    start: int
    end: int
    status: CitationStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceCheck:
    """A sentence with its verdict; `reason` says why, where the verdict alone does not.

    `best`: the number of the passage that decided, 0 for none; the first of `evidence`, which is
    all that it was compared with. `span`: offsets in the text of that passage of what the sentence
    rests on. `is_quote`: it occurs there word for word. `disagreeing`: numbers of other passages
    that say otherwise.
    """

    sentence: Sentence
    verdict: Verdict
    probability: float | None = None
    reason: str = ""
    best: int = 0
    evidence: tuple[Evidence, ...] = ()
    span: tuple[int, int] | None = None
    is_quote: bool = False
    disagreeing: tuple[int, ...] = ()
    citations: tuple[CitationCheck, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A checked text. `passages`: those with a number, which is how sentences name them.

    `names_sources`: somebody says what `[n]` in the text means. `is_fitted`: the probabilities
    mean what they say.
    """

    claims: Claims
    question: str
    sentences: tuple[SentenceCheck, ...]
    passages: tuple[Numbered, ...]
    names_sources: bool
    is_fitted: bool

    @property
    def n_claims(self) -> int:
        """The sentences that got a verdict on what they claim."""
        return sum(each.probability is not None for each in self.sentences)

    @property
    def fixed_text(self) -> str:
        """The text with citations added and unsupported sentences marked; see `fixed_text`."""
        return fixed_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form (docs/formats.md), without model and timing."""
        return check_to_json(self)


def check_to_json(check: Check) -> dict[str, Any]:
    """The documented form (docs/formats.md), without model and timing."""
    return {
        "question": check.question,
        "summary": summary_of(check),
        "sentences": [_sentence_to_json(each) for each in check.sentences],
        "passages": [
            _passage_to_json(each.number, piece)
            for each in used_passages(check)
            for piece in each.pieces
        ],
    }


def summary_of(check: Check) -> dict[str, Any]:
    """Counts of verdicts and citations; `supported_share` of the claims, null without any."""
    verdicts = Counter(each.verdict for each in check.sentences)
    statuses = Counter(one.status for each in check.sentences for one in each.citations)
    n_claims = sum(verdicts[verdict] for verdict in CLAIM_VERDICTS)
    return {
        "sentences": len(check.sentences),
        "claims": n_claims,
        "supported_share": verdicts[Verdict.SUPPORTED] / n_claims if n_claims else None,
        "verdicts": {str(verdict): verdicts[verdict] for verdict in Verdict},
        "citations": dict(sorted((str(status), n) for status, n in statuses.items())),
        "kept_apart": {str(kind): n for kind, n in check.claims.apart.items()},
        "is_fitted": check.is_fitted,
        "notes": notes_of(check),
    }


def notes_of(check: Check) -> list[str]:
    """What a reader has to know to trust the figures, a sentence each."""
    notes = []
    if n_foreign := sum(each.verdict is Verdict.UNCHECKED for each in check.sentences):
        reasons = Counter(e.reason for e in check.sentences if e.verdict is Verdict.UNCHECKED)
        notes.append(
            f"{n_foreign} of {len(check.sentences)} sentences were not checked: "
            + "; ".join(reasons)
        )
    statuses = {one.status for each in check.sentences for one in each.citations}
    if CitationStatus.UNKNOWN in statuses and not check.names_sources:
        notes.append(
            "nobody knows what the numbers [n] in the text mean: found no list of sources under "
            "it, so list them there as `[1] title`, or give the passages in their order"
        )
    if check.n_claims and not check.is_fitted:
        notes.append(
            "this model has no constants for checking, so a probability is relevance times "
            "support, and only the order of probabilities means something"
        )
    return notes


def _sentence_to_json(each: SentenceCheck) -> dict[str, Any]:
    best = None
    if each.evidence:
        passage, judgement = each.evidence[0].passage, each.evidence[0].judgement
        start, end = each.span or (0, 0)
        best = {
            "number": each.best,
            "passage_id": passage.id,
            "text": passage.text[start:end],
            "start": passage.start + start,
            "end": passage.start + end,
            "relevance": judgement.relevance,
            "support": judgement.support,
        }
    return {
        "text": each.sentence.text,
        "start": each.sentence.start,
        "end": each.sentence.end,
        "verdict": str(each.verdict),
        "probability": each.probability,
        "reason": each.reason,
        "best": best,
        "is_quote": each.is_quote,
        "disagreeing": list(each.disagreeing),
        "citations": [
            {"number": one.number, "start": one.start, "end": one.end, "status": str(one.status)}
            for one in each.citations
        ],
    }


def _passage_to_json(number: int, passage: Passage) -> dict[str, Any]:
    return {
        "number": number,
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "source": passage.source,
        "url": url_of(passage.source),
        "page": passage.page,
    }


def used_passages(check: Check) -> list[Numbered]:
    """The passages, or their pieces, that a sentence names, by number."""
    named = {number for each in check.sentences for number in (each.best, *each.disagreeing)}
    named |= {number for each in check.sentences for number in each.sentence.numbers}
    return [each for each in check.passages if each.number in named]


def fixed_text(check: Check) -> str:
    """The text with citations added and unsupported sentences marked; the rest as it is.

    A mark stands behind the sentence that it is about. The passages that it adds are listed under
    the text, where the text itself does not list them.
    """
    text, at = check.claims.text, 0
    parts: list[str] = []
    added: set[int] = set()
    for each in check.sentences:
        mark, number = _mark_for(each)
        if mark and mark not in text[each.sentence.start : each.sentence.end]:
            parts += [text[at : each.sentence.end], " ", mark]
            at = each.sentence.end
            added.add(number)
    parts.append(text[at:])
    listed = {each.number for each in check.claims.listed}
    lines = [
        f"[{each.number}] {_named(each.pieces[0])}"
        for each in used_passages(check)
        if each.number in added - listed and each.pieces
    ]
    if not lines:
        return "".join(parts)
    # Under anything but a list of sources a line without a blank one before it would join that.
    gap = "\n" * (1 + (not check.claims.ends_in_sources) - text.endswith("\n"))
    added_lines = gap + "\n".join(lines) + "\n"
    if "\r\n" in text:
        added_lines = added_lines.replace("\n", "\r\n")
    return "".join([*parts, added_lines])


def _mark_for(each: SentenceCheck) -> tuple[str, int]:
    """What is added behind a sentence, and the number in it; nothing where one is right."""
    if each.verdict is Verdict.UNSUPPORTED:
        return "[not supported]", 0
    if each.verdict is Verdict.CONTRADICTED:
        return f"[contradicted by {each.best}]", each.best
    if each.verdict is Verdict.PARTIAL:
        return f"[partially supported by {each.best}]", each.best
    if each.verdict is Verdict.SUPPORTED and not _cites_right(each):
        return f"[{each.best}]", each.best
    return "", 0


def _cites_right(each: SentenceCheck) -> bool:
    return any(one.status is CitationStatus.RIGHT for one in each.citations)


def _named(passage: Passage) -> str:
    """A passage in one line of a list of sources."""
    parts = [passage.title, f"p. {passage.page}" if passage.page else "", passage.source]
    return " ".join(", ".join(filter(None, parts)).split()) or passage.id
