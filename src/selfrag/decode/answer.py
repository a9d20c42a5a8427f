"""From the winning path to what the asker reads: text, citations, passages, a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfrag.decode.events import Event, FinishEvent
from selfrag.decode.gate import Gate
from selfrag.decode.node import Node
from selfrag.decode.score import SegmentScores
from selfrag.decode.search import SearchConfig, search
from selfrag.engine.base import Engine
from selfrag.passage import Hit
from selfrag.reflection import Relevance
from selfrag.retrieval.base import Retriever


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSegment:
    """One segment of an answer. `citations` are 1-based numbers into `Answer.passages`."""

    text: str
    citations: tuple[int, ...]
    scores: SegmentScores
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to one question. `passages` holds the hits read on the way, in order."""

    question: str
    segments: tuple[AnswerSegment, ...]
    passages: tuple[Hit, ...]
    gate: Gate
    score: float

    @property
    def retrieved(self) -> bool:
        """Whether a passage was read."""
        return bool(self.passages)

    @property
    def text(self) -> str:
        """The segments, joined by a space, without citation marks."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def cited_text(self) -> str:
        """The segments, each followed by its citations as `[n]`."""
        parts = [
            " ".join([segment.text, "".join(f"[{number}]" for number in segment.citations)]).strip()
            for segment in self.segments
            if segment.text
        ]
        return " ".join(parts)

    @property
    def support(self) -> float | None:
        """The support of the least supported segment that was judged, or None."""
        judged = [s.scores.support for s in self.segments if s.scores.support is not None]
        return min(judged, default=None)

    @property
    def verdict(self) -> str:
        """One line for people: how far the cited passages carry the answer.

        The model judges itself; this is no verification.
        """
        if not self.retrieved:
            return "answered without retrieval: nothing is cited"
        if self.support is None:
            return "not supported: no retrieved passage was judged to answer the question"
        if self.support >= 0.75:
            word = "fully supported"
        elif self.support >= 0.4:
            word = "partially supported"
        else:
            word = "not supported"
        return f"{word} ({self.support:.2f})"


def answer_questions(
    questions: Sequence[str],
    *,
    engine: Engine,
    retriever: Retriever,
    config: SearchConfig,
    on_event: Callable[[Event], None] | None = None,
) -> list[Answer]:
    """One answer a question, in order. `on_event` sees every event of the search as it happens."""
    answers: dict[int, Answer] = {}
    for event in search(questions, engine=engine, retriever=retriever, config=config):
        if on_event is not None:
            on_event(event)
        if isinstance(event, FinishEvent):
            number = event.question
            answers[number] = build_answer(questions[number], event.best, event.gate)
    return [answers[number] for number in range(len(questions))]


def build_answer(question: str, best: Node, gate: Gate) -> Answer:
    """Walks the path to `best` back and numbers its passages in reading order."""
    passages: dict[str, Hit] = {}
    segments = []
    for node in best.path:
        segment = node.segment
        assert segment is not None  # a path holds no root
        citations: tuple[int, ...] = ()
        if node.hit is not None:
            passages.setdefault(node.hit.passage.id, node.hit)
            # A passage that the model judged irrelevant was read, but carries nothing.
            if Relevance.IRRELEVANT not in segment.critique:
                citations = (list(passages).index(node.hit.passage.id) + 1,)
        segments.append(
            AnswerSegment(
                text=segment.text,
                citations=citations,
                scores=segment.scores,
                truncated=segment.truncated,
            )
        )
    return Answer(
        question=question,
        segments=tuple(segments),
        passages=tuple(passages.values()),
        gate=gate,
        score=best.path_score,
    )


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """The documented JSON form (docs/formats.md), without timing, model and index."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "retrieved": answer.retrieved,
        "gate": {
            "paper": answer.gate.paper,
            "reference": answer.gate.reference,
            "threshold": answer.gate.threshold,
        },
        "segments": [_segment_to_json(segment) for segment in answer.segments],
        "passages": [hit_to_json(hit) for hit in answer.passages],
        "verdict": answer.verdict,
    }


def _segment_to_json(segment: AnswerSegment) -> dict[str, Any]:
    scores = segment.scores
    return {
        "text": segment.text,
        "citations": list(segment.citations),
        "truncated": segment.truncated,
        "scores": {
            "relevance": scores.relevance,
            "support": scores.support,
            "utility": scores.utility,
            "sequence": scores.sequence,
            "total": scores.total,
            "missing": scores.missing,
        },
    }


def hit_to_json(hit: Hit) -> dict[str, Any]:
    """One hit in its documented JSON form."""
    passage = hit.passage
    return {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "source": passage.source,
        "score": hit.score,
        "rank": hit.rank,
    }
