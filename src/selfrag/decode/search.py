"""Segment-level beam search over frozen nodes: retrieve, write, criticise, keep the best.

Self-RAG (arXiv 2310.11511), algorithm 1 and section 3.3. Every level of every question is one
engine call. A node never changes; its prompt is derived from its path, with all earlier passages
and reflection tokens inline as in training. Finished hypotheses keep competing with open ones.
Yields an event for every decision; the answer, the command line and the server are its readers.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    GateEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
)
from selfrag.decode.gate import Gate, RetrievalMode, decide
from selfrag.decode.node import Node
from selfrag.decode.score import ScoreWeights
from selfrag.decode.segment import COLUMNS, cut_segment
from selfrag.engine.base import Engine, Request
from selfrag.errors import BadInput, ConfigError
from selfrag.passage import Hit
from selfrag.prompt import PromptFormat
from selfrag.reflection import Retrieve
from selfrag.retrieval.base import Retriever


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Limits and weights of one search; TOML table `[decode]`.

    `threshold` in [0, 1]; lengths in tokens. `max_new_tokens` bounds a segment.
    """

    mode: RetrievalMode = RetrievalMode.ADAPTIVE
    threshold: float = 0.2
    top_k: int = 5
    beam_width: int = 2
    max_segments: int = 6
    max_new_tokens: int = 96
    max_passage_tokens: int = 512
    weights: ScoreWeights = field(default_factory=ScoreWeights)

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(
                f"cannot search: decode.threshold is {self.threshold}, "
                "but it is a probability; choose one from 0 to 1"
            )
        for name in ("top_k", "beam_width", "max_segments", "max_new_tokens", "max_passage_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"cannot search: decode.{name} is {getattr(self, name)}, "
                    "but it counts things; choose at least 1"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One candidate to be written: the node it continues, and what it reads."""

    question: int
    parent: Node
    hit: Hit | None
    lead_ids: tuple[int, ...]
    fresh: bool


def search(
    questions: Sequence[str], *, engine: Engine, retriever: Retriever, config: SearchConfig
) -> Iterator[Event]:
    """Searches all questions together, level by level; the last event of each is its `FinishEvent`.

    Ends after at most `max_segments` levels. Raises `BadInput` for a question that is empty or
    longer than the model's context allows.
    """
    fmt = PromptFormat.of(engine.tokenizer)
    roots = [_root(question, fmt, engine, config) for question in questions]
    gates = _gate_all(roots, engine, fmt, config)
    for number, gate in enumerate(gates):
        yield GateEvent(question=number, gate=gate)
    beams: list[list[Node]] = [
        [root.decided(Retrieve.YES if gate.retrieve else Retrieve.NO)]
        for root, gate in zip(roots, gates, strict=True)
    ]
    for _ in range(config.max_segments):
        retrievals, steps = _plan_level(questions, beams, retriever, fmt, config)
        yield from retrievals
        if not steps:
            break
        children = _write(steps, engine, fmt, config)
        for step, child in zip(steps, children, strict=True):
            yield CandidateEvent(question=step.question, node=child)
        for number, beam in enumerate(beams):
            grown = [c for s, c in zip(steps, children, strict=True) if s.question == number]
            if grown:
                beams[number] = yield from _keep_best(number, beam, grown, config)
    for number, beam in enumerate(beams):
        yield FinishEvent(question=number, best=beam[0], gate=gates[number])


def _root(question: str, fmt: PromptFormat, engine: Engine, config: SearchConfig) -> Node:
    if not question.strip():
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            "so write one in quotes"
        )
    prompt_ids = tuple(fmt.instruction(question.strip()))
    room = _room(engine, config)
    if len(prompt_ids) > room:
        raise BadInput(
            f"cannot answer: the question takes {len(prompt_ids)} tokens, but {engine.name} has "
            f"room for {max(room, 0)} beside a passage and an answer; shorten the question"
        )
    return Node.root(prompt_ids)


def _room(engine: Engine, config: SearchConfig) -> int:
    """How long a path may be so that one more passage and segment still fit."""
    # Three control ids come with a passage: the retrieval decision and the two markers.
    return engine.max_context - config.max_new_tokens - config.max_passage_tokens - 3


def _gate_all(
    roots: Sequence[Node], engine: Engine, fmt: PromptFormat, config: SearchConfig
) -> list[Gate]:
    """One token a question tells the gate; the same token is asked for in every mode."""
    requests = [
        Request(prefix_ids=root.path_ids, max_new_tokens=1, watch_ids=fmt.ids.all) for root in roots
    ]
    return [
        decide(done.watched[0, COLUMNS[Retrieve]], config.mode, config.threshold)
        for done in engine.generate(requests)
    ]


def _plan_level(
    questions: Sequence[str],
    beams: Sequence[Sequence[Node]],
    retriever: Retriever,
    fmt: PromptFormat,
    config: SearchConfig,
) -> tuple[list[RetrievalEvent], list[_Step]]:
    """The steps of one level; one retriever call serves every node that wants passages."""
    open_nodes = [(q, node) for q, beam in enumerate(beams) for node in beam if not node.finished]
    asking = [(q, node) for q, node in open_nodes if node.wants is Retrieve.YES]
    queries = [f"{questions[q].strip()} {node.text}".strip() for q, node in asking]
    found = retriever.search(queries, config.top_k) if queries else []
    events = [
        RetrievalEvent(question=number, parent=node, query=query, hits=tuple(hits))
        for (number, node), query, hits in zip(asking, queries, found, strict=True)
    ]
    hits_of = {id(event.parent): event.hits for event in events}
    steps = [
        _step(number, node, hit, fmt, config)
        for number, node in open_nodes
        for hit in hits_of.get(id(node)) or (None,)
    ]
    return events, steps


def _step(
    number: int, node: Node, hit: Hit | None, fmt: PromptFormat, config: SearchConfig
) -> _Step:
    """Reads `hit`, or goes on with the evidence at hand, or without any."""
    if hit is not None:
        lead = (fmt.ids[Retrieve.YES], *fmt.passage(hit.passage, config.max_passage_tokens))
        return _Step(question=number, parent=node, hit=hit, lead_ids=lead, fresh=True)
    if node.wants is Retrieve.CONTINUE and node.hit is not None:
        lead = (fmt.ids[Retrieve.CONTINUE],)
        return _Step(question=number, parent=node, hit=node.hit, lead_ids=lead, fresh=False)
    lead = (fmt.ids[Retrieve.NO],)
    return _Step(question=number, parent=node, hit=None, lead_ids=lead, fresh=False)


def _write(
    steps: Sequence[_Step], engine: Engine, fmt: PromptFormat, config: SearchConfig
) -> list[Node]:
    """All candidates of a level, in one engine call."""
    requests = [
        Request(
            prefix_ids=step.parent.path_ids,
            suffix_ids=step.lead_ids,
            max_new_tokens=config.max_new_tokens,
            stop_ids=fmt.ids.segment_stops,
            watch_ids=fmt.ids.all,
        )
        for step in steps
    ]
    children = []
    for step, completion in zip(steps, engine.generate(requests), strict=True):
        segment = cut_segment(completion, fmt, config.weights, read_passage=step.fresh)
        wants = None
        if segment.next_retrieve is not None:
            wants = _next_decision(
                segment.ends_on,
                decide(segment.next_retrieve, config.mode, config.threshold),
                config.mode,
            )
        child = step.parent.child(step.lead_ids, step.hit, segment, wants)
        if len(child.path_ids) > _room(engine, config):  # the next segment would not fit
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

    Ties keep finished before new ones, and retrieval order within a parent.
    """
    pool = [node for node in beam if node.finished] + list(grown)
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
