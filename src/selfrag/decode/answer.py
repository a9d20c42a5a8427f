"""From the winning path to what the asker reads: text, citations, passages, a verdict."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfrag.decode.calibration import Calibration
from selfrag.decode.choices import choice_of
from selfrag.decode.closed_set import vote, voters
from selfrag.decode.config import SearchConfig
from selfrag.decode.disagreement import opening
from selfrag.decode.drive import search
from selfrag.decode.events import CandidateEvent, Event, FinishEvent, Side, Usage
from selfrag.decode.gate import Gate
from selfrag.decode.node import Node, least_support
from selfrag.decode.score import FULL, PARTIAL, SegmentScores
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
class Claim:
    """One of several answers that sources give and that exclude one another.

    `answer` is the short one, `text` the segment that gives it, `citations` count into
    `Answer.passages`. `support` is that by its own passages, `elsewhere` the most by another's.
    """

    answer: str
    text: str
    citations: tuple[int, ...]
    support: float | None
    elsewhere: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to one question. `passages` holds the hits read on the way, in order.

    `abstained`: nothing was supported enough; there are no segments then, and `passages` holds the
    best evidence. `stopped_by` names the budget that ended the search early. `probability`: that
    the answer is right, or would have been, where a calibration speaks of it; `min_probability` as
    in the settings. `choices`: the sum of
    scores for each answer of a closed set that a candidate gave, best first; where none gave one,
    `choices_rated`, the share of each by its likelihood. `conflict`: what sources say that exclude
    one another, the answer's own first.
    """

    question: str
    segments: tuple[AnswerSegment, ...]
    passages: tuple[Hit, ...]
    gate: Gate
    score: float
    usage: Usage
    abstained: bool = False
    stopped_by: str | None = None
    probability: float | None = None
    min_probability: float | None = None
    choices: dict[str, float]
    choices_rated: bool = False
    conflict: tuple[Claim, ...] = ()

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
        """The segments, each followed by its citations as `[n]`; a rated choice alone."""
        if self.choices_rated:
            return self.text
        parts = [
            " ".join([segment.text, "".join(f"[{number}]" for number in segment.citations)]).strip()
            for segment in self.segments
            if segment.text
        ]
        return " ".join(parts)

    @property
    def support(self) -> float | None:
        """The support of the least supported segment; one that is not judged has none, 0.

        None where no segment was judged, and where no segment gives the answer.
        """
        return None if self.choices_rated else least_support(self.segments)

    @property
    def utility(self) -> float | None:
        """What the model last judged of the answer's use, in [-1, 1], or None."""
        judged = [s.utility for s in self.scores if s.utility is not None]
        return judged[-1] if judged else None

    @property
    def verdict(self) -> str:
        """One line for people: how far the cited passages carry the answer.

        The model judges itself; this is no verification.
        """
        if self.abstained:
            return f"no answer: {self._withheld()}; the best evidence is shown"
        if not self.text:
            by = f"{self.stopped_by} ended the search before anything was said"
            return f"no answer: {by if self.stopped_by else 'the model wrote nothing'}"
        said = self._carried()
        if self.probability is not None:
            is_at_odds = self.probability < 0.5 and said.startswith(("fully", "partially"))
            joint = ", though" if is_at_odds else ":"
            said = f"{percent(self.probability)} likely to be right{joint} {said}"
        if self.utility is not None and self.utility < 0 and not self.choices_rated:
            said += f"; judged of little use ({3 + 2 * self.utility:.1f} of 5)"
        is_cut = bool(self.segments) and self.segments[-1].truncated
        if self.stopped_by or is_cut:
            said += f"; incomplete, ended by {self.stopped_by or 'max_new_tokens'}"
        return f"{said}; sources disagree" if self.conflict else said

    @property
    def disagreement(self) -> str:
        """One line for people: what sources say that exclude one another; empty where none do."""
        said = [
            f"{claim.answer} {''.join(f'[{n}]' for n in claim.citations)}"
            for claim in self.conflict
        ]
        return f"Sources disagree: {'; '.join(said)}" if said else ""

    def _withheld(self) -> str:
        bound, found = self.min_probability, self.probability
        if bound is None or (found is not None and found >= bound):
            return "nothing was supported enough"
        if found is None:
            return "nothing tells how probable the best one is"
        asked = f"{100 * bound:g}% is asked for"
        return f"the best one is {percent(found)} likely to be right, and {asked}"

    def _carried(self) -> str:
        if self.choices_rated:
            return "chosen by likelihood: nothing that was written names one of the choices"
        if not self.retrieved:
            return "answered without retrieval: nothing is cited"
        said = [segment for segment in self.segments if segment.text]
        judged = [s.scores.support for s in said if s.scores.support is not None]
        if not judged:
            if said[-1].truncated:
                return "not judged: the answer ends before its support was judged"
            return "not supported: no retrieved passage was judged to answer the question"
        least = min(judged)
        # The probability stands in place of the raw number, which is high for wrong answers too.
        shown = f" ({least:.2f})" if self.probability is None else ""
        if least < PARTIAL:
            return f"not supported{shown}"
        if len(judged) < len(said):
            found = f"only {len(judged)} of {len(said)} segments were judged"
            return f"partially supported{shown}: {found}"
        return f"{'fully' if least >= FULL else 'partially'} supported{shown}"


def percent(probability: float) -> str:
    """A probability for people; never certain."""
    return f"{min(max(round(100 * probability), 1), 99)}%"


def answer_questions(
    questions: Sequence[str],
    *,
    engine: Engine,
    retriever: Retriever,
    config: SearchConfig,
    histories: Sequence[Sequence[Turn]] = (),
    passages: Sequence[Sequence[Passage] | None] = (),
    calibration: Calibration | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Answer]:
    """One answer a question, in order. `on_event` sees every event of the search as it happens.

    `histories`, `passages` and `calibration` are as in `drive.search`.
    """
    events = search(
        questions,
        engine=engine,
        retriever=retriever,
        config=config,
        histories=histories,
        passages=passages,
        calibration=calibration,
    )
    configs = [config] * len(questions)
    return collect_answers(questions, events, configs=configs, on_event=on_event)


def collect_answers(
    questions: Sequence[str],
    events: Iterable[Event],
    *,
    configs: Sequence[SearchConfig] = (),
    on_event: Callable[[Event], None] | None = None,
) -> list[Answer]:
    """The answers that a stream of events comes to, in the order of the questions."""
    done = finished_answers(questions, events, configs=configs, on_event=on_event)
    return [answer for _, answer in sorted(done, key=lambda each: each[0])]


def finished_answers(
    questions: Sequence[str],
    events: Iterable[Event],
    *,
    configs: Sequence[SearchConfig] = (),
    on_event: Callable[[Event], None] | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Number and answer of every question as soon as its search has ended.

    `configs`: the settings of each search; empty: the defaults.
    """
    first_level: dict[int, list[Node]] = {}
    for event in events:
        if on_event is not None:
            on_event(event)
        number = event.question
        if isinstance(event, CandidateEvent) and event.node.depth == 1:
            first_level.setdefault(number, []).append(event.node)
        elif isinstance(event, FinishEvent):
            config = configs[number] if configs else SearchConfig()
            candidates = first_level.pop(number, [])
            yield number, build_answer(questions[number], event, candidates, config)


def build_answer(
    question: str,
    finish: FinishEvent,
    candidates: Sequence[Node] = (),
    config: SearchConfig | None = None,
) -> Answer:
    """Walks the winning path back and numbers its passages in reading order.

    `candidates`, the first segments written, vote where `config` has a closed set. The answer then
    is the best path that begins with the choice, so that text and citations agree.
    """
    votes: dict[str, float] = {}
    best = finish.best
    if config is not None and config.choices and not finish.abstained:
        voting = voters(candidates, config)
        votes = vote([n.text for n in voting], [n.path_score for n in voting], config.choices)
        best = _giving(next(iter(votes), None), [best, *finish.beam], voting, config) or best
    segments, passages = _read_along(best)
    conflict = _claims(finish.conflict, best, passages)
    if finish.abstained:
        dropped = sorted(candidates, key=lambda node: -node.path_score)
        shown = next(iter((*finish.beam, *dropped)), best)
        passages = {hit.passage.id: hit for node in shown.path for hit in node.hits}
    return Answer(
        question=question,
        segments=segments,
        passages=tuple(passages.values()),
        gate=finish.gate,
        score=best.path_score,
        usage=finish.usage,
        abstained=finish.abstained,
        stopped_by=finish.stopped_by,
        probability=finish.probability,
        min_probability=None if config is None else config.min_probability,
        choices=votes or finish.likelihoods,
        choices_rated=not votes and bool(finish.likelihoods),
        conflict=conflict,
    )


def _claims(sides: Sequence[Side], best: Node, passages: dict[str, Hit]) -> tuple[Claim, ...]:
    """What each side says; passages of rivals are added, so that they can be cited.

    Nothing where another path than that of the first side is the answer.
    """
    if not sides or not best.path or best.path[0].id != sides[0].node.id:
        return ()
    for side in sides:
        for hit in side.node.hits:
            passages.setdefault(hit.passage.id, hit)
    numbers = {passage_id: n for n, passage_id in enumerate(passages, start=1)}
    return tuple(
        Claim(
            answer=opening(side.node.text),
            text=side.node.text,
            citations=tuple(numbers[hit.passage.id] for hit in side.node.hits),
            support=side.node.support,
            elsewhere=side.elsewhere,
        )
        for side in sides
    )


def _giving(
    choice: str | None, paths: Sequence[Node], voting: Sequence[Node], config: SearchConfig
) -> Node | None:
    """The best path that begins with `choice` and may be said, else the best vote for it."""
    ranked = [node for node in paths if node.meets(config.min_support)]
    ranked += sorted(voting, key=lambda node: -node.path_score)
    given = ((choice_of(node.path[0].text, config.choices), node) for node in ranked if node.path)
    return next((node for said, node in given if choice is not None and said == choice), None)


def _read_along(best: Node) -> tuple[tuple[AnswerSegment, ...], dict[str, Hit]]:
    """The segments of a path and the passages read on the way, by id, in reading order."""
    passages: dict[str, Hit] = {}
    segments = []
    for node in best.path:
        segment = node.segment
        assert segment is not None  # a path holds no root
        for hit in node.hits:
            passages.setdefault(hit.passage.id, hit)
        numbers = {passage_id: n for n, passage_id in enumerate(passages, start=1)}
        # A passage that the model judged irrelevant was read, but carries nothing.
        carries = bool(segment.text) and Relevance.IRRELEVANT not in segment.critique
        cited = node.hits if carries else ()
        segments.append(
            AnswerSegment(
                text=segment.text,
                citations=tuple(numbers[hit.passage.id] for hit in cited),
                scores=segment.scores,
                truncated=segment.truncated,
            )
        )
    return tuple(segments), passages


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
        "probability": answer.probability,
        "abstained": answer.abstained,
        "stopped_by": answer.stopped_by,
        "choices": answer.choices,
        "choices_rated": answer.choices_rated,
        "conflict": [asdict(claim) for claim in answer.conflict],
        "usage": {"tokens": answer.usage.n_tokens, "passages": answer.usage.n_passages},
    }


def _segment_to_json(segment: AnswerSegment) -> dict[str, Any]:
    return {
        "text": segment.text,
        "citations": list(segment.citations),
        "truncated": segment.truncated,
        "scores": asdict(segment.scores),
    }


def hit_to_json(hit: Hit) -> dict[str, Any]:
    """One hit in its documented JSON form; pages where its document has any."""
    passage = hit.passage
    return {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "source": passage.source,
        "score": hit.score,
        "rank": hit.rank,
        **pages_to_json(passage),
    }


def pages_to_json(passage: Passage) -> dict[str, int]:
    """`page` and `last_page`, on which a passage begins and ends; nothing without pages."""
    if not passage.page:
        return {}
    return {"page": passage.page, "last_page": max(passage.page, passage.last_page)}
