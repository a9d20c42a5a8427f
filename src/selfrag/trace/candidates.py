"""The complete hypotheses of recorded searches as arrays, to be chosen among again.

Knows nothing of weights, of thresholds or of files.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from selfrag.decode.answer import Answer, build_answer
from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    GateEvent,
    PruneEvent,
    RetrievalEvent,
    Side,
    Usage,
)
from selfrag.decode.gate import Gate
from selfrag.decode.node import Node, PathScore
from selfrag.engine.base import FloatArray
from selfrag.reflection import Retrieve
from selfrag.text import counted, holds_gold
from selfrag.trace.file import Trace, TracedQuestion

logger = logging.getLogger(__name__)

N_PARTS = 5  # scores of a path that a weight multiplies

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traces:
    """Q questions with up to C candidates each, padded; candidates in the order recorded.

    `features`: (Q, C, 5), a path's sum of relevance, support, utility, sequence and retrieval
    scores, 0 for a score that is missing. `reads` and `reads_not`: (Q, C) bool, what may be chosen
    when the gate retrieves and when it does not; False in the padding. `correct`: (Q, C), a gold
    string stands in the answer. `n_cited`, `n_cited_gold`: (Q, C) int, passages that the answer
    cites, and those of them that hold a gold string. `paper`: (Q,), the gate's number;
    `emitted_yes`: (Q,) bool, the model wrote the retrieval token; `has_gold`: (Q,) bool. `texts`: a
    tuple of answers for each question, not padded.
    """

    features: FloatArray
    reads: BoolArray
    reads_not: BoolArray
    correct: BoolArray
    n_cited: IntArray
    n_cited_gold: IntArray
    paper: FloatArray
    emitted_yes: BoolArray
    has_gold: BoolArray
    texts: tuple[tuple[str, ...], ...]

    @property
    def n_questions(self) -> int:
        """Q."""
        return len(self.paper)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One complete hypothesis, with the answer it would give."""

    leaf: Node
    answer: Answer
    reads: bool
    reads_not: bool

    def is_right(self, golds: Sequence[str]) -> bool:
        """Whether a gold string occurs in the answer."""
        return holds_gold(self.answer.text, golds)

    @property
    def features(self) -> FloatArray:
        """Shape (5,), each summed over the path; the order is that of `weight_row`."""
        scores = [node.segment.scores for node in self.leaf.path if node.segment is not None]
        rows = [
            (s.relevance or 0, s.support or 0, s.utility or 0, s.sequence, s.retrieval or 0)
            for s in scores
        ]
        summed: FloatArray = np.array(rows, dtype=float).sum(axis=0)
        return summed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedQuestion:
    """One question with its first decision and its candidates, in the order recorded.

    `first_level`: all first segments, among which a calibration compares the one that is chosen.
    """

    question: TracedQuestion
    gate: Gate
    candidates: tuple[Candidate, ...]
    first_level: tuple[Node, ...]


def recorded_questions(trace: Trace) -> list[RecordedQuestion]:
    """The questions of a trace whose search came to its end; others are left out with a warning.

    Candidates are hypotheses that are finished, or that are open at the last level or in the last
    beam; what was taken out of the search before ranking is none. An open hypothesis that left the
    beam earlier is none either: how it would have ended is not known. Where the search for the
    first segment found no passages, what was written without counts as what retrieval gives.

    Two traces of one question (text, id and gold strings), one with retrieval and one without,
    become one question with the gate of the first.
    """
    events: list[list[Event]] = [[] for _ in trace.questions]
    for event in trace.events:
        events[event.question].append(event)
    found: list[RecordedQuestion] = []
    place_of: dict[tuple[str, str | None, tuple[str, ...]], int] = {}
    n_unfinished = n_other_rule = 0
    for question, told in zip(trace.questions, events, strict=True):
        recorded = _recorded(question, told)
        if recorded is None:
            n_unfinished += 1
            continue
        config = question.config
        n_other_rule += config is not None and config.path_score is not PathScore.SUM
        place = place_of.setdefault((question.text, question.id, question.answers), len(found))
        if place < len(found) and _complements(found[place], recorded):
            found[place] = replace(
                found[place],
                candidates=(*found[place].candidates, *recorded.candidates),
                first_level=(*found[place].first_level, *recorded.first_level),
            )
        else:
            found.append(recorded)
    if n_unfinished:
        logger.warning(
            "left out, as their search did not come to its end in the trace: %d of %s",
            n_unfinished,
            counted(len(trace.questions), "question"),
        )
    if n_other_rule:
        logger.warning(
            "searched with another path_score than sum, but rescored by the sum over segments, so "
            "that the same settings may choose another answer: %s",
            counted(n_other_rule, "question"),
        )
    return found


def _complements(first: RecordedQuestion, second: RecordedQuestion) -> bool:
    """Whether two traces of one question share no branch."""
    return not any(
        (a.reads and b.reads) or (a.reads_not and b.reads_not)
        for a in first.candidates
        for b in second.candidates
    )


def to_arrays(questions: Sequence[RecordedQuestion]) -> Traces:
    """The candidates of all questions, padded to the longest list."""
    shape = (len(questions), max((len(q.candidates) for q in questions), default=0))
    features = np.zeros((*shape, N_PARTS))
    reads, reads_not, correct = (np.zeros(shape, dtype=bool) for _ in range(3))
    n_cited, n_cited_gold = (np.zeros(shape, dtype=np.int64) for _ in range(2))
    for row, recorded in enumerate(questions):
        golds = recorded.question.answers
        for column, candidate in enumerate(recorded.candidates):
            answer = candidate.answer
            cited = [answer.passages[number - 1].passage for number in answer.citations]
            features[row, column] = candidate.features
            reads[row, column] = candidate.reads
            reads_not[row, column] = candidate.reads_not
            correct[row, column] = candidate.is_right(golds)
            n_cited[row, column] = len(cited)
            n_cited_gold[row, column] = sum(holds_gold(passage.text, golds) for passage in cited)
    numbers = [recorded.gate.numbers for recorded in questions]
    return Traces(
        features=features,
        reads=reads,
        reads_not=reads_not,
        correct=correct,
        n_cited=n_cited,
        n_cited_gold=n_cited_gold,
        paper=np.array([number.paper for number in numbers], dtype=float),
        emitted_yes=np.array([number.emitted is Retrieve.YES for number in numbers], dtype=bool),
        has_gold=np.array([any(map(str.strip, q.question.answers)) for q in questions], dtype=bool),
        texts=tuple(tuple(c.answer.text for c in q.candidates) for q in questions),
    )


@dataclass(slots=True, eq=False)
class _Seen:
    """What the events of one question tell, gathered as they come."""

    gate: Gate | None = None
    nodes: dict[int, Node] = field(default_factory=dict)  # by the id of what was written
    first_level: list[Node] = field(default_factory=list)
    beam: set[int] = field(default_factory=set)
    forbidden: set[int] = field(default_factory=set)
    found_nothing: bool = False
    conflict: tuple[Side, ...] = ()
    ended: bool = False

    def take(self, event: Event) -> None:
        if isinstance(event, GateEvent):
            self.gate = event.gate
        elif isinstance(event, RetrievalEvent) and event.parent.parent is None:
            self.found_nothing = not event.hits
        elif isinstance(event, CandidateEvent):
            self.nodes[event.node.id] = event.node
            if event.node.depth == 1:
                self.first_level.append(event.node)
        elif isinstance(event, PruneEvent) and event.rank == 0:
            self.forbidden.add(event.node.id)
        elif isinstance(event, FinishEvent):
            self._take_beam(event.beam)
            self.conflict = event.conflict
            self.ended = True

    def _take_beam(self, beam: Sequence[Node]) -> None:
        """A hypothesis that a limit finished after it was written stands where it was written."""
        place_of = {_path_step(node): key for key, node in self.nodes.items() if node.is_open}
        for node in beam:
            key = node.id
            if key not in self.nodes:
                key = place_of.get(_path_step(node), key)
            self.nodes[key] = node
            self.beam.add(key)

    def leaves(self) -> list[Node]:
        """The complete hypotheses, in the order recorded."""
        parents = {node.parent.id for node in self.nodes.values() if node.parent is not None}
        last = max((node.depth for node in self.nodes.values()), default=0)
        complete = self.beam | {
            key
            for key, node in self.nodes.items()
            if node.finished or (node.depth == last and node.id not in parents)
        }
        return [node for key, node in self.nodes.items() if key in complete - self.forbidden]


def _path_step(node: Node) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return node.parent.id if node.parent else -1, node.lead_ids, node.body_ids


def _recorded(question: TracedQuestion, events: Iterable[Event]) -> RecordedQuestion | None:
    seen = _Seen()
    for event in events:
        seen.take(event)
    if seen.gate is None or not seen.ended:
        return None
    candidates = tuple(_candidate(question, leaf, seen.gate, seen) for leaf in seen.leaves())
    first_level = tuple(seen.first_level)
    return RecordedQuestion(
        question=question, gate=seen.gate, candidates=candidates, first_level=first_level
    )


def _candidate(question: TracedQuestion, leaf: Node, gate: Gate, seen: _Seen) -> Candidate:
    finish = FinishEvent(
        question=0, best=leaf, gate=gate, beam=(leaf,), usage=Usage(), conflict=seen.conflict
    )
    reads = bool(leaf.path[0].hits)
    return Candidate(
        leaf=leaf,
        answer=build_answer(question.text, finish),
        reads=reads or (gate.retrieve and seen.found_nothing),
        reads_not=not reads,
    )
