"""From the winning path to what the asker reads: text, citations, passages, a verdict."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfrag.decode.closed_set import vote
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import search
from selfrag.decode.events import CandidateEvent, Event, FinishEvent, Usage
from selfrag.decode.gate import Gate
from selfrag.decode.node import Node
from selfrag.decode.score import SegmentScores
from selfrag.engine.base import Engine
from selfrag.passage import Hit, Passage
from selfrag.prompt import Turn
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
    """An answer to one question. `passages` holds the hits read on the way, in order.

    `abstained`: nothing was supported enough; there are no segments then, and `passages` holds the
    best evidence. `stopped_by` names the budget that ended the search early. `choices`: the sum of
    scores for each answer of a closed set that a candidate gave, best first; where none gave one,
    `choices_rated`, the share of each by its likelihood.
    """

    question: str
    segments: tuple[AnswerSegment, ...]
    passages: tuple[Hit, ...]
    gate: Gate
    score: float
    usage: Usage
    abstained: bool = False
    stopped_by: str | None = None
    choices: dict[str, float]
    choices_rated: bool = False

    @property
    def retrieved(self) -> bool:
        """Whether a passage was read."""
        return bool(self.passages)

    @property
    def text(self) -> str:
        """The segments, joined by a space, without citation marks; of a closed set the choice."""
        if self.choices:
            return next(iter(self.choices))
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def citations(self) -> tuple[int, ...]:
        """All numbers cited, in order, each once."""
        return tuple(dict.fromkeys(n for segment in self.segments for n in segment.citations))

    @property
    def scores(self) -> tuple[SegmentScores, ...]:
        """The scores of every segment."""
        return tuple(segment.scores for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form (docs/formats.md), without timing, model and index."""
        return answer_to_json(self)

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
        if self.abstained:
            return "no answer: nothing was supported enough; the best evidence is shown"
        if self.choices_rated:
            return "chosen by likelihood: nothing that was written names one of the choices"
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
    histories: Sequence[Sequence[Turn]] = (),
    passages: Sequence[Sequence[Passage] | None] = (),
    on_event: Callable[[Event], None] | None = None,
) -> list[Answer]:
    """One answer a question, in order. `on_event` sees every event of the search as it happens.

    `histories` and `passages` are as in `drive.search`.
    """
    events = search(
        questions,
        engine=engine,
        retriever=retriever,
        config=config,
        histories=histories,
        passages=passages,
    )
    closed_sets = [config.choices] * len(questions)
    return collect_answers(questions, events, closed_sets=closed_sets, on_event=on_event)


def collect_answers(
    questions: Sequence[str],
    events: Iterable[Event],
    *,
    closed_sets: Sequence[Sequence[str]] = (),
    on_event: Callable[[Event], None] | None = None,
) -> list[Answer]:
    """The answers that a stream of events comes to, in the order of the questions."""
    done = finished_answers(questions, events, closed_sets=closed_sets, on_event=on_event)
    return [answer for _, answer in sorted(done, key=lambda each: each[0])]


def finished_answers(
    questions: Sequence[str],
    events: Iterable[Event],
    *,
    closed_sets: Sequence[Sequence[str]] = (),
    on_event: Callable[[Event], None] | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Number and answer of every question as soon as its search has ended.

    `closed_sets`: the choices of each question; empty: there are none.
    """
    first_level: dict[int, list[Node]] = {}
    for event in events:
        if on_event is not None:
            on_event(event)
        number = event.question
        if isinstance(event, CandidateEvent) and event.node.depth == 1:
            first_level.setdefault(number, []).append(event.node)
        elif isinstance(event, FinishEvent):
            choices = closed_sets[number] if closed_sets else ()
            candidates = first_level.pop(number, [])
            yield number, build_answer(questions[number], event, candidates, choices)


def build_answer(
    question: str, finish: FinishEvent, candidates: Sequence[Node] = (), choices: Sequence[str] = ()
) -> Answer:
    """Walks the winning path back and numbers its passages in reading order.

    `candidates`, the first segments written, vote among `choices`.
    """
    passages: dict[str, Hit] = {}
    segments = []
    for node in finish.best.path:
        segment = node.segment
        assert segment is not None  # a path holds no root
        for hit in node.hits:
            passages.setdefault(hit.passage.id, hit)
        numbers = {passage_id: n for n, passage_id in enumerate(passages, start=1)}
        # A passage that the model judged irrelevant was read, but carries nothing.
        cited = () if Relevance.IRRELEVANT in segment.critique else node.hits
        segments.append(
            AnswerSegment(
                text=segment.text,
                citations=tuple(numbers[hit.passage.id] for hit in cited),
                scores=segment.scores,
                truncated=segment.truncated,
            )
        )
    if finish.abstained and finish.beam:
        passages = {hit.passage.id: hit for hit in finish.beam[0].hits}
    texts = [node.text for node in candidates]
    scores = [node.path_score for node in candidates]
    votes = {} if finish.abstained else vote(texts, scores, choices)
    return Answer(
        question=question,
        segments=tuple(segments),
        passages=tuple(passages.values()),
        gate=finish.gate,
        score=finish.best.path_score,
        usage=finish.usage,
        abstained=finish.abstained,
        stopped_by=finish.stopped_by,
        choices=votes or finish.likelihoods,
        choices_rated=not votes and bool(finish.likelihoods),
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
            "rule": answer.gate.rule.kind,
            "would_retrieve": {str(kind): said for kind, said in answer.gate.would.items()},
        },
        "segments": [_segment_to_json(segment) for segment in answer.segments],
        "passages": [hit_to_json(hit) for hit in answer.passages],
        "verdict": answer.verdict,
        "abstained": answer.abstained,
        "stopped_by": answer.stopped_by,
        "choices": answer.choices,
        "choices_rated": answer.choices_rated,
        "usage": {"tokens": answer.usage.n_tokens, "passages": answer.usage.n_passages},
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
