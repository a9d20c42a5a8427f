"""The search for one question as steps: it yields what it asks for and is sent the replies.

Self-RAG (arXiv 2310.11511), algorithm 1 and section 3.3: a beam search over segments. A node never
changes; its prompt is derived from its path, with all earlier passages and reflection tokens inline
as in training. Finished hypotheses keep competing with open ones. Every decision is an event.
Does no I/O and knows nothing of engines, retrievers and other questions: see `drive`.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from selfrag.decode.beam import is_probable, keep_best
from selfrag.decode.calibration import Calibration
from selfrag.decode.choices import choice_of
from selfrag.decode.closed_set import Rating, voters
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.disagreement import MAX_RIVALS, CrossJudgement, disagreements
from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    GateEvent,
    RetrievalEvent,
    Side,
    SkipEvent,
    Usage,
)
from selfrag.decode.gate import Gate, RetrievalMode, decide
from selfrag.decode.node import Node
from selfrag.decode.passages import as_read
from selfrag.decode.query import follow_up_query, turns_for
from selfrag.decode.score import relevance_score
from selfrag.decode.segment import COLUMNS, cut_segment
from selfrag.decode.step import N_BEGUN, Beginnings, Step
from selfrag.engine.base import Completion, Engine, Request
from selfrag.errors import BadInput, ConfigError
from selfrag.passage import Hit
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import Relevance, Retrieve


@dataclass(frozen=True, slots=True)
class Generate:
    """Requests to complete; a completion for each is sent back, in order."""

    requests: Sequence[Request]


@dataclass(frozen=True, slots=True)
class Lookup:
    """Queries to search; at most `top_k` hits for each are sent back, in order."""

    queries: Sequence[str]
    top_k: int


Ask = Generate | Lookup
Steps = Generator[Ask | Event, Any, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a search has to know of the model that it asks."""

    fmt: PromptFormat
    max_context: int
    name: str
    calibration: Calibration | None = None

    @classmethod
    def of(cls, engine: Engine, calibration: Calibration | None = None) -> "Model":
        """The facts of `engine`, which is asked nothing, and what its scores mean."""
        return cls(
            fmt=PromptFormat.of(engine.tokenizer, model=engine.name),
            max_context=engine.max_context,
            name=engine.name,
            calibration=calibration,
        )


def steps(
    question: str,
    *,
    model: Model,
    config: SearchConfig,
    query: str | None = None,
    passages: Sequence[Hit] | None = None,
    history: Sequence[Turn] = (),
    number: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Steps:
    """The search for one question; its last event is the `FinishEvent`. Closing it cancels it.

    `query` is searched in place of the question, and `passages` are read in place of what a search
    would find. `history` holds the earlier turns, oldest first, for a question that does not stand
    alone. `number` is what the events call the question. Ends after at most `max_segments` levels;
    budgets are checked between levels, so a level in progress always completes. Raises `BadInput`
    at once for a question that is empty or longer than the context allows, `ConfigError` for
    `min_probability` without a calibration.
    """
    asked, history = question.strip(), turns_for(question, history)
    if not asked:
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            "so write one in quotes"
        )
    if config.min_probability is not None and model.calibration is None:
        raise ConfigError(
            f"cannot answer with decode.min_probability {config.min_probability:g}: nothing says "
            f"how probable answers of {model.name} are; expected a calibration of it, so name one "
            "with --calibration (`selfrag calibrate` makes it)"
        )
    search = _Search(
        question=asked,
        history=history,
        model=model,
        config=config,
        query=follow_up_query((query or asked).strip(), history),
        passages=passages,
        number=number,
        clock=clock,
    )
    return search.run(search.root())


class _Search:
    """One question being answered: what has been spent, and why the search ended early if it did.

    `room` is how long a path may be so that one more read and one more segment fit after it.
    """

    def __init__(
        self,
        *,
        question: str,
        history: Sequence[Turn],
        model: Model,
        config: SearchConfig,
        query: str,
        passages: Sequence[Hit] | None,
        number: int,
        clock: Callable[[], float],
    ) -> None:
        self.model, self.fmt, self.config = model, model.fmt, config
        self.question, self.query, self.passages, self.number = question, query, passages, number
        self.turns = tuple(history)
        self.clock, self.started = clock, clock()
        # One control id is the retrieval decision, and every passage has two markers.
        n_read = config.n_evidence * (config.max_passage_tokens + 2) + 1
        self.room = model.max_context - config.max_new_tokens - n_read
        self.new_ids = count(1)  # 0 is the root
        self.usage = Usage()
        self.stopped_by: str | None = None
        self.out_of_room: set[int] = set()  # ids of nodes after which nothing more would fit

    def root(self) -> Node:
        for first in range(len(self.turns) + 1):  # the oldest turns go where all do not fit
            prompt_ids = tuple(self.fmt.conversation(self.turns[first:], self.question))
            if len(prompt_ids) <= self.room:
                self.turns = self.turns[first:]
                return Node.root(prompt_ids)
        # Not the question's fault where not even the wrapper of one would fit.
        n_least = len(self.fmt.instruction("?"))
        advice = "shorten the question"
        if self.room < n_least:
            advice = "lower max_new_tokens, max_passage_tokens or n_evidence"
        raise BadInput(
            f"cannot answer: the question takes {len(prompt_ids)} tokens, but {self.model.name} "
            f"has room for {max(self.room, 0)} of its {self.model.max_context} beside a passage "
            f"and a segment of max_new_tokens ({self.config.max_new_tokens}); {advice}"
        )

    def run(self, root: Node) -> Steps:
        gate = yield from self._gate(root)
        beam = [root.decided(Retrieve.YES if gate.retrieve else Retrieve.NO)]
        first_level: list[Node] = []
        for _ in range(self.config.max_segments):
            if not any(node.is_open for node in beam) or self._is_late():
                break
            beam, planned = yield from self._plan(beam)
            if self.config.prune_relevance is not None:
                planned = yield from self._without_irrelevant(planned)
            children = yield from self._write(planned)
            if not children:
                break
            if not first_level:
                children += yield from self._write((yield from self._others(planned, children)))
                first_level = children
            beam = yield from keep_best(
                beam, children, self.config, number=self.number, new_ids=self.new_ids
            )
        yield (yield from self._finish(gate, beam, first_level))

    def _gate(self, root: Node) -> Generator[Ask | Event, Any, Gate]:
        """One token tells the gate; the same token is asked for in every mode."""
        request = Request(prefix_ids=root.path_ids(), max_new_tokens=1, watch_ids=self.fmt.ids.all)
        (done,) = yield Generate([request])
        self._pay(n_tokens=1)
        token = self.fmt.ids.token_of.get(done.token_ids[-1])
        emitted = token if isinstance(token, Retrieve) else None
        gate = decide(done.watched[-1, COLUMNS[Retrieve]], emitted, self.config.gate_rule)
        yield GateEvent(question=self.number, gate=gate)
        return gate

    def _has_expired(self) -> bool:
        limit = self.config.max_seconds
        return limit is not None and self.clock() - self.started >= limit

    def _is_late(self) -> bool:
        if self.stopped_by is None and self._has_expired():
            self.stopped_by = "max_seconds"
        return self.stopped_by is not None

    def _pay(self, *, n_tokens: int = 0, n_passages: int = 0) -> None:
        self.usage = Usage(
            n_tokens=self.usage.n_tokens + n_tokens, n_passages=self.usage.n_passages + n_passages
        )

    def _plan(
        self, beam: Sequence[Node]
    ) -> Generator[Ask | Event, Any, tuple[list[Node], list[Step]]]:
        """The steps of one level; paths that want passages and get none end as they are."""
        config = self.config
        asking = [node for node in beam if node.wants is Retrieve.YES]
        found = yield from self._look_up(asking)
        n_left = config.top_k * config.beam_width
        if config.max_passages is not None:
            n_left = max(0, config.max_passages - self.usage.n_passages)
        reads: dict[int, tuple[Hit, ...]] = {}  # by the id of the node that reads
        ended: dict[int, Node] = {}
        for node, hits in zip(asking, found, strict=True):
            known = set() if config.repeat else node.read_ids
            new = [hit for hit in hits if hit.passage.id not in known][: config.top_k]
            read = tuple(as_read(hit, self.fmt, config.max_passage_tokens) for hit in new[:n_left])
            out_of_passages, over_budget = bool(hits and not new), bool(new and not read)
            if over_budget:
                self.stopped_by = "max_passages"
            if out_of_passages or over_budget:
                ended[node.id] = node.ended(next(self.new_ids))
                continue
            n_left -= len(read)
            reads[node.id] = read
            query = self._query(node)
            yield RetrievalEvent(question=self.number, parent=node, query=query, hits=read)
        going_on = [node for node in beam if node.is_open and node.id not in ended]
        planned = [step for node in going_on for step in self._steps(node, reads.get(node.id, ()))]
        return [ended.get(node.id, node) for node in beam], planned

    def _look_up(self, asking: Sequence[Node]) -> Generator[Ask | Event, Any, list[Sequence[Hit]]]:
        """What is found for each node: so much that `top_k` are new to it, where there are."""
        if not asking:
            return []
        if self.passages is not None:
            return [self.passages] * len(asking)
        known = [set() if self.config.repeat else node.read_ids for node in asking]
        top_k = self.config.top_k + max(map(len, known))
        found: list[Sequence[Hit]] = yield Lookup([self._query(node) for node in asking], top_k)
        return found

    def _query(self, node: Node) -> str:
        follows = self.config.query is QueryPolicy.QUESTION_AND_SEGMENT
        return f"{self.query} {node.text}".strip() if follows else self.query

    def _steps(self, node: Node, hits: tuple[Hit, ...]) -> list[Step]:
        """Reads each of `hits`, or goes on with the evidence at hand, or without any."""
        ids = self.fmt.ids
        best = max((hit.score for hit in hits), default=0.0)
        planned = [self._reading(node, (hit,), best) for hit in hits]
        if self.config.n_evidence > 1 and len(hits) > 1:
            planned.append(self._reading(node, hits[: self.config.n_evidence], best))
        if not hits and node.wants is Retrieve.CONTINUE and node.hits:
            return [Step(parent=node, hits=node.hits, lead_ids=(ids[Retrieve.CONTINUE],))]
        if not hits or self.config.with_no_retrieval:
            planned.append(Step(parent=node, lead_ids=(ids[Retrieve.NO],)))
        return planned

    def _reading(self, node: Node, hits: tuple[Hit, ...], best: float) -> Step:
        lead = [self.fmt.ids[Retrieve.YES]]
        for hit in hits:
            lead += self.fmt.passage(hit.passage, self.config.max_passage_tokens)
        return Step(parent=node, hits=hits, lead_ids=tuple(lead), fresh=True, best=best)

    def _request(self, step: Step, max_new_tokens: int) -> Request:
        return Request(
            prefix_ids=step.parent.path_ids(with_passages=self.config.inline_passages),
            suffix_ids=step.lead_ids + step.begun_ids,
            max_new_tokens=max_new_tokens - len(step.begun_ids),
            stop_ids=self.fmt.ids.segment_stops,
            watch_ids=self.fmt.ids.all,
        )

    def _without_irrelevant(self, planned: list[Step]) -> Generator[Ask | Event, Any, list[Step]]:
        """The steps without passages whose relevance is under `prune_relevance`.

        One token a passage tells; where the budget has none for each, nothing is written. The most
        relevant passage of a node always stays. Steps that read several passages lose the skipped
        ones, and go where that leaves less than two.
        """
        probed = [step for step in planned if step.reads_one]
        if not probed:
            return planned
        if self._tokens_left(len(probed)) < len(probed):
            self.stopped_by = "max_tokens"
            return []
        done = yield Generate([self._request(step, 1) for step in probed])
        self._pay(n_tokens=len(probed), n_passages=len(probed))
        relevance: dict[tuple[int, str], float] = {}  # by node and passage
        best: dict[int, float] = {}  # by node
        for step, one in zip(probed, done, strict=True):
            value = relevance_score(one.watched[0, COLUMNS[Relevance]])
            relevance[step.parent.id, step.hits[0].passage.id] = value
            best[step.parent.id] = max(value, best.get(step.parent.id, 0.0))
        bound = self.config.prune_relevance or 0.0
        kept: list[Step] = []
        for step in planned:
            node = step.parent
            stays = [
                hit
                for hit in step.hits
                if not step.fresh or relevance[node.id, hit.passage.id] >= min(bound, best[node.id])
            ]
            if len(stays) == len(step.hits):
                kept.append(step)
            elif len(stays) > 1:
                kept.append(self._reading(node, tuple(stays), step.best))
            elif len(step.hits) == 1:
                hit = step.hits[0]
                yield SkipEvent(
                    question=self.number,
                    parent=node,
                    hit=hit,
                    relevance=relevance[node.id, hit.passage.id],
                    bound=bound,
                )
        return kept

    def _tokens_left(self, otherwise: int) -> int:
        """What the budget leaves, or `otherwise` where there is no budget."""
        limit = self.config.max_tokens
        return otherwise if limit is None else limit - self.usage.n_tokens

    def _write(self, planned: Sequence[Step]) -> Generator[Ask | Event, Any, list[Node]]:
        """The candidates of a level, each with its share of the tokens that are left.

        A share under one token stops the search.
        """
        if not planned:
            return []
        limit = self.config.max_new_tokens
        limit = min(limit, self._tokens_left(limit * len(planned)) // len(planned))
        if limit < 1:
            self.stopped_by = "max_tokens"
            return []
        is_probed = self.config.prune_relevance is not None
        requests = [
            replace(self._request(step, limit), task=step.task(self.question, self.turns))
            for step in planned
        ]
        done = yield Generate(requests)
        children = [self._child(step, each) for step, each in zip(planned, done, strict=True)]
        for child in children:
            yield CandidateEvent(question=self.number, node=child)
        self._pay(
            n_tokens=sum(len(each.token_ids) for each in done),
            # What was probed has been paid for.
            n_passages=0 if is_probed else sum(step.reads_one for step in planned),
        )
        return children

    def _others(
        self, planned: Sequence[Step], children: Sequence[Node]
    ) -> Generator[Ask | Event, Any, list[Step]]:
        """The same passages again for answers that begin otherwise, each within the budget."""
        n, size = self.config.n_alternatives(self.model.calibration), self.config.max_new_tokens
        if not n or size <= N_BEGUN or self._has_expired():
            return []
        beginnings = Beginnings(planned, children, self.fmt)
        n_tokens = len(beginnings.requests)
        if not 0 < n_tokens <= self._tokens_left(n_tokens):
            return []
        self._pay(n_tokens=n_tokens)
        found = beginnings.likeliest((yield Generate(beginnings.requests)), n)
        return found[: self._tokens_left(size * len(found)) // size]

    def _child(self, step: Step, done: Completion) -> Node:
        config, parent = self.config, step.parent
        segment = cut_segment(
            step.whole(done),
            self.fmt,
            config.weights,
            read_passage=step.fresh,
            retrieval=step.retrieval,
        )
        wants = None
        if segment.next_retrieve is not None:
            gate = decide(segment.next_retrieve, segment.ends_on, config.gate_rule)
            wants = Retrieve.YES if gate.retrieve else Retrieve.NO
            # Honoured when emitted; otherwise the gate decides again.
            if segment.ends_on is Retrieve.CONTINUE and config.mode is not RetrievalMode.NEVER:
                wants = Retrieve.CONTINUE
        child = parent.child(
            next(self.new_ids),
            segment,
            lead_ids=step.lead_ids,
            hits=step.hits,
            wants=wants,
            rule=config.path_score,
        )
        if child.is_open and len(child.path_ids(with_passages=config.inline_passages)) > self.room:
            self.out_of_room.add(child.id)
            return replace(child, wants=None)
        return child

    def _finish(
        self, gate: Gate, beam: Sequence[Node], first_level: Sequence[Node]
    ) -> Generator[Ask | Event, Any, FinishEvent]:
        """The best hypothesis that may be said, the root when none may.

        With its probability, and the likelihood of every choice where the search came to its end
        but named none.
        """
        config = self.config
        nodes = [node for node in beam if node.segment is not None]
        sayable = [node for node in nodes if node.meets(config.min_support)]
        probability = self._probability([*sayable, *nodes][:1], first_level)
        if not is_probable(sayable, probability, config.min_probability):
            sayable = []
        abstained = not sayable and (bool(nodes) or self.stopped_by is None)
        best = sayable[0] if sayable else beam[0].start
        likelihoods: dict[str, float] = {}
        if config.choices and not abstained and self.stopped_by is None:
            likelihoods = yield from self._likelihoods(voters(first_level, config))
        conflict = yield from self._conflict(best, first_level)
        return FinishEvent(
            question=self.number,
            best=best,
            gate=gate,
            beam=tuple(nodes),
            usage=self.usage,
            stopped_by=self.stopped_by or self._cut_by(best),
            abstained=abstained,
            likelihoods=likelihoods,
            probability=probability,
            conflict=conflict,
        )

    def _conflict(
        self, best: Node, first_level: Sequence[Node]
    ) -> Generator[Ask | Event, Any, tuple[Side, ...]]:
        """The answers that exclude one another, where the budget allows to judge them."""
        is_open = not self.config.choices and self.stopped_by is None
        rivals = disagreements(best, first_level)[:MAX_RIVALS] if is_open else []
        n_tokens = 2 * len(rivals)
        if not 0 < n_tokens <= self._tokens_left(n_tokens):
            return ()
        judgement = CrossJudgement(best, rivals, self.fmt)
        done = yield Generate(judgement.requests)
        self._pay(n_tokens=n_tokens)
        return judgement.sides(done)

    def _probability(self, best: Sequence[Node], first_level: Sequence[Node]) -> float | None:
        """That the path is right, where there is one and a calibration speaks of it."""
        calibration = self.model.calibration
        if calibration is None or self.config.choices:
            return None
        return next((calibration.probability_of(node, first_level) for node in best), None)

    def _cut_by(self, best: Node) -> str | None:
        """The budget that truncated the winning path, where one did."""
        segment = best.segment
        if segment is not None and segment.truncated:
            # A share of what the budget left, and not the limit of a segment.
            is_share = segment.n_tokens < self.config.max_new_tokens
            return "max_tokens" if is_share and self.config.max_tokens is not None else None
        return "max_context" if best.id in self.out_of_room else None

    def _likelihoods(
        self, candidates: Sequence[Node]
    ) -> Generator[Ask | Event, Any, dict[str, float]]:
        """The share of every choice, where the candidates name none and the budget allows it."""
        said = [choice_of(node.text, self.config.choices) for node in candidates]
        if not said or any(choice is not None for choice in said):
            return {}
        rating = Rating(candidates, self.fmt, self.config)
        n_tokens = len(rating.requests)
        longest = max(len(request.prompt_ids) for request in rating.requests)
        if n_tokens > self._tokens_left(n_tokens) or longest >= self.model.max_context:
            return {}
        shares = rating.shares((yield Generate(rating.requests)))
        self._pay(n_tokens=n_tokens)
        return shares
