"""Segment-level beam search over frozen nodes: retrieve, write, criticise, keep the best.

Self-RAG (arXiv 2310.11511), algorithm 1 and section 3.3. Every level of every question is one
engine call. A node never changes; its prompt is derived from its path, with all earlier passages
and reflection tokens inline as in training. Finished hypotheses keep competing with open ones.
Yields an event for every decision; the answer, the command line and the server are its readers.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from selfrag.decode.config import SearchConfig
from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    GateEvent,
    KeepEvent,
    PruneEvent,
    Usage,
)
from selfrag.decode.gate import Gate, GateRule, RetrievalMode, decide
from selfrag.decode.likelihood import names_none, rate_choices
from selfrag.decode.node import Node
from selfrag.decode.plan import Level, Step, plan_level, room, skip_irrelevant
from selfrag.decode.segment import COLUMNS, cut_segment
from selfrag.engine.base import Completion, Engine, Request
from selfrag.errors import BadInput
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import Retrieve
from selfrag.retrieval.base import Retriever


@dataclass(slots=True, eq=False)
class _Question:
    """One question in flight: what the search knows of it so far."""

    number: int
    text: str
    gate: Gate
    beam: list[Node]
    usage: Usage
    stopped_by: str | None = None
    first_level: list[Node] = field(default_factory=list)


def search(
    questions: Sequence[str],
    *,
    engine: Engine,
    retriever: Retriever,
    config: SearchConfig,
    histories: Sequence[Sequence[Turn]] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Searches all questions together, level by level; the last event of each is its `FinishEvent`.

    `histories` holds the earlier turns of every question, oldest first; empty: there are none.
    Ends after at most `max_segments` levels. Budgets are looked at before a level, so a level that
    has begun is ended. Raises `BadInput` for a question that is empty or longer than the model's
    context allows.
    """
    started = clock()
    fmt = PromptFormat.of(engine.tokenizer)
    histories = histories or [()] * len(questions)
    roots = [
        _root(question, turns, fmt, engine, config)
        for question, turns in zip(questions, histories, strict=True)
    ]
    states = []
    for number, (root, gate) in enumerate(
        zip(roots, _gate_all(roots, engine, fmt, config.gate_rule), strict=True)
    ):
        yield GateEvent(question=number, gate=gate)
        wants = Retrieve.YES if gate.retrieve else Retrieve.NO
        text = _with_history(questions[number], histories[number])
        beam = [root.decided(wants)]
        states.append(_Question(number, text, gate, beam, Usage(n_tokens=1)))
    for _ in range(config.max_segments):
        late = config.max_seconds is not None and clock() - started >= config.max_seconds
        grown = yield from _grow(states, engine, retriever, fmt, config, late=late)
        if not grown:
            break
    for state in states:
        yield _rated(_finish(state, config), state.first_level, engine, fmt, config)


def _root(
    question: str, turns: Sequence[Turn], fmt: PromptFormat, engine: Engine, config: SearchConfig
) -> Node:
    if not question.strip():
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            "so write one in quotes"
        )
    space = room(engine, config)
    for first in range(len(turns) + 1):  # the oldest turns go where all do not fit
        prompt_ids = tuple(fmt.conversation(turns[first:], question.strip()))
        if len(prompt_ids) <= space:
            return Node.root(prompt_ids)
    raise BadInput(
        f"cannot answer: the question takes {len(prompt_ids)} tokens, but {engine.name} has "
        f"room for {max(space, 0)} beside a passage and an answer; shorten the question"
    )


def _with_history(question: str, turns: Sequence[Turn]) -> str:
    """What is searched: a follow-up is looked up together with the question before it."""
    return " ".join([*(turn.question.strip() for turn in turns[-1:]), question.strip()])


def _gate_all(
    roots: Sequence[Node], engine: Engine, fmt: PromptFormat, rule: GateRule
) -> list[Gate]:
    """One token a question tells the gate; the same token is asked for in every mode."""
    requests = [
        Request(prefix_ids=root.path_ids(), max_new_tokens=1, watch_ids=fmt.ids.all)
        for root in roots
    ]
    return [_gate_of(done, fmt, rule) for done in engine.generate(requests)]


def _gate_of(done: Completion, fmt: PromptFormat, rule: GateRule) -> Gate:
    token = fmt.ids.token_of.get(done.token_ids[-1])
    emitted = token if isinstance(token, Retrieve) else None
    return decide(done.watched[-1, COLUMNS[Retrieve]], emitted, rule)


def _grow(
    states: Sequence[_Question],
    engine: Engine,
    retriever: Retriever,
    fmt: PromptFormat,
    config: SearchConfig,
    *,
    late: bool,
) -> Generator[Event, None, bool]:
    """One level of all questions; False when none of them has anything left to write."""
    for state in states:
        if late and any(node.is_open for node in state.beam):
            state.stopped_by = state.stopped_by or "max_seconds"
    asking = [s for s in states if s.stopped_by is None]
    plan = plan_level(
        [(s.number, s.text, node, s.usage) for s in asking for node in s.beam if node.is_open],
        retriever=retriever,
        fmt=fmt,
        config=config,
    )
    yield from plan.events
    _end_unfed(states, plan)
    if config.prune_relevance is not None:
        for state in asking:
            plan = _affordable_probes(state, plan, config)
        plan, costs = skip_irrelevant(plan, engine, fmt, config)
        yield from plan.events
        for number, n_tokens in costs.items():
            _pay(states[number], n_tokens=n_tokens)
    steps = [step for state in asking for step in _affordable(state, plan, config)]
    children = _write(steps, engine, fmt, config)
    for step, child in zip(steps, children, strict=True):
        yield CandidateEvent(question=step.question, node=child)
    for state in asking:
        mine = [c for s, c in zip(steps, children, strict=True) if s.question == state.number]
        if mine:
            state.first_level = state.first_level or mine
            written = sum(c.segment.n_tokens for c in mine if c.segment is not None)
            n_read = plan.n_passages_read(state.number)
            _pay(state, n_tokens=written, n_passages=n_read)
            state.beam = yield from _keep_best(state.number, state.beam, mine, config)
    return bool(steps)


def _end_unfed(states: Sequence[_Question], plan: Level) -> None:
    """Paths that want passages and get none end as they are."""
    for number, _ in plan.starved:
        states[number].stopped_by = "max_passages"
    for number, node in (*plan.starved, *plan.sated):
        states[number].beam = [
            replace(each, wants=None) if each is node else each for each in states[number].beam
        ]


def _pay(state: _Question, *, n_tokens: int = 0, n_passages: int = 0) -> None:
    state.usage = Usage(
        n_tokens=state.usage.n_tokens + n_tokens,
        n_passages=state.usage.n_passages + n_passages,
    )


def _affordable_probes(state: _Question, plan: Level, config: SearchConfig) -> Level:
    """The plan, without one question where a token for each of its passages is not left."""
    needed = plan.n_passages_read(state.number)
    if config.max_tokens is None or config.max_tokens - state.usage.n_tokens >= needed:
        return plan
    state.stopped_by = "max_tokens"
    return replace(plan, steps=tuple(s for s in plan.steps if s.question != state.number))


def _affordable(state: _Question, plan: Level, config: SearchConfig) -> list[Step]:
    """The steps of one question, each with its share of the tokens that are left.

    A share under one token stops the question.
    """
    steps = [step for step in plan.steps if step.question == state.number]
    if config.max_tokens is None or not steps:
        return steps
    share = (config.max_tokens - state.usage.n_tokens) // len(steps)
    if share < 1:
        state.stopped_by = "max_tokens"
        return []
    limit = min(share, config.max_new_tokens)
    return [replace(step, max_new_tokens=limit) for step in steps]


def _write(
    steps: Sequence[Step], engine: Engine, fmt: PromptFormat, config: SearchConfig
) -> list[Node]:
    """All candidates of a level, in one engine call."""
    requests = [step.request(fmt, config) for step in steps]
    children = []
    for step, done in zip(steps, engine.generate(requests) if requests else [], strict=True):
        segment = cut_segment(done, fmt, config.weights, read_passage=step.fresh)
        wants = None
        if segment.next_retrieve is not None:
            gate = decide(segment.next_retrieve, segment.ends_on, config.gate_rule)
            wants = _next_decision(segment.ends_on, gate, config.mode)
        child = step.parent.child(
            step.lead_ids, step.hits, segment, wants=wants, rule=config.path_score
        )
        if len(child.path_ids()) > room(engine, config):  # the next segment would not fit
            child = replace(child, wants=None)
        children.append(child)
    return children


def _next_decision(ends_on: Retrieve | None, gate: Gate, mode: RetrievalMode) -> Retrieve:
    """[Continue to Use Evidence] is honoured when emitted; otherwise the gate decides anew."""
    if ends_on is Retrieve.CONTINUE and mode is not RetrievalMode.NEVER:
        return Retrieve.CONTINUE
    return Retrieve.YES if gate.retrieve else Retrieve.NO


def _keep_best(
    number: int, beam: Sequence[Node], grown: Sequence[Node], config: SearchConfig
) -> Generator[Event, None, list[Node]]:
    """Ranks new and finished hypotheses together and keeps `beam_width`, best first.

    Ties keep finished before new ones, and retrieval order within a parent. A hypothesis after
    which all that was written is forbidden ends as it is, and competes so.
    """
    allowed: list[Node] = []
    for node in grown:
        reason = _forbidden(node, config)
        if reason is None:
            allowed.append(node)
        else:
            yield PruneEvent(question=number, node=node, rank=0, reason=reason)
    going_on = {id(node.parent) for node in allowed}
    ended = [
        replace(node, wants=None) if node.is_open else node
        for node in beam
        if id(node) not in going_on
    ]
    pool = [node for node in ended if node.finished] + allowed
    if not pool:  # all that followed the question itself is forbidden
        return ended
    ranked = sorted(pool, key=lambda node: -node.path_score)
    kept = ranked[: config.beam_width]
    for rank, node in enumerate(ranked, start=1):
        if rank <= config.beam_width:
            yield KeepEvent(question=number, node=node, rank=rank)
        else:
            behind = kept[-1].path_score - node.path_score
            reason = (
                f"ranked {rank} of {len(ranked)}, {behind:.2f} behind the last of "
                f"{config.beam_width} kept"
            )
            yield PruneEvent(question=number, node=node, rank=rank, reason=reason)
    return kept


def _forbidden(node: Node, config: SearchConfig) -> str | None:
    """Why a segment leaves the search before ranking, or None."""
    if config.drop_unsupported and node.contradicted:
        return "judged without support, which drop_unsupported takes out of the search"
    if not config.repeat and node.repeats:
        return "says what its answer has said before"
    return None


def _finish(state: _Question, config: SearchConfig) -> FinishEvent:
    """The best hypothesis that may be said; the root when none may."""
    beam = [node for node in state.beam if node.segment is not None]
    sayable = [node for node in beam if _may_be_said(node, config)]
    root = state.beam[0]
    while root.parent is not None:
        root = root.parent
    return FinishEvent(
        question=state.number,
        best=sayable[0] if sayable else root,
        gate=state.gate,
        beam=tuple(beam),
        usage=state.usage,
        stopped_by=state.stopped_by,
        abstained=not sayable and (bool(beam) or state.stopped_by is None),
    )


def _rated(
    finish: FinishEvent,
    candidates: Sequence[Node],
    engine: Engine,
    fmt: PromptFormat,
    config: SearchConfig,
) -> FinishEvent:
    """With the likelihood of every choice where the search came to its end but named none."""
    if finish.abstained or finish.stopped_by or not names_none(candidates, config.choices):
        return finish
    spent = finish.usage.n_tokens
    left = None if config.max_tokens is None else config.max_tokens - spent
    shares, n_tokens = rate_choices(candidates, engine, fmt, config, n_tokens_left=left)
    usage = replace(finish.usage, n_tokens=spent + n_tokens)
    return replace(finish, likelihoods=shares, usage=usage)


def _may_be_said(node: Node, config: SearchConfig) -> bool:
    """Whether a path that read passages is supported enough; without passages it always is."""
    if config.min_support is None or not any(each.hits for each in node.path):
        return True
    return node.support is not None and node.support >= config.min_support
