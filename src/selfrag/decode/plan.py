"""What one level of the search will write: which node goes on with which passages.

Searches for the nodes that want passages, keeps to the budget of passages, and can drop a passage
after its first token. Knows nothing of ranking or of how a level ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.events import RetrievalEvent, SkipEvent, Usage
from selfrag.decode.node import Node
from selfrag.decode.score import relevance_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Engine, Request
from selfrag.passage import Hit
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Retrieve
from selfrag.retrieval.base import Retriever

OpenNode = tuple[int, str, Node, Usage]  # question number, question, node, cost so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One candidate to be written: the node it continues, and what it reads.

    `fresh`: the passages are read here for the first time. `max_new_tokens` None is the config's.
    """

    question: int
    parent: Node
    hits: tuple[Hit, ...]
    lead_ids: tuple[int, ...]
    fresh: bool
    max_new_tokens: int | None = None

    def request(self, fmt: PromptFormat, config: SearchConfig) -> Request:
        """What the engine is asked."""
        return Request(
            prefix_ids=self.parent.path_ids(with_passages=config.inline_passages),
            suffix_ids=self.lead_ids,
            max_new_tokens=self.max_new_tokens or config.max_new_tokens,
            stop_ids=fmt.ids.segment_stops,
            watch_ids=fmt.ids.all,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Level:
    """The steps of one level of all questions, and the events that led to them.

    `starved`: question and node for every node that wants passages when its budget is spent;
    `sated`: for every node that has read all there is.
    """

    events: tuple[RetrievalEvent | SkipEvent, ...]
    steps: tuple[Step, ...]
    starved: tuple[tuple[int, Node], ...] = ()
    sated: tuple[tuple[int, Node], ...] = ()

    def n_passages_read(self, question: int) -> int:
        """How many passages one question reads anew here."""
        mine = [step for step in self.steps if step.question == question and step.fresh]
        return sum(len(step.hits) for step in mine if len(step.hits) == 1)


def room(engine: Engine, config: SearchConfig) -> int:
    """How long a path may be so that one more read and one more segment still fit."""
    # One control id is the retrieval decision, and every passage has two markers.
    n_read = config.n_evidence * (config.max_passage_tokens + 2) + 1
    return engine.max_context - config.max_new_tokens - n_read


def plan_level(
    nodes: Sequence[OpenNode], *, retriever: Retriever, fmt: PromptFormat, config: SearchConfig
) -> Level:
    """The steps of one level; one retriever call serves every node that wants passages."""
    asking = [open_node for open_node in nodes if open_node[2].wants is Retrieve.YES]
    queries = [_query(text, node, config) for _, text, node, _ in asking]
    known = [set() if config.repeat else _read_before(node) for _, _, node, _ in asking]
    n_known = max(map(len, known), default=0)
    found = retriever.search(queries, config.top_k + n_known) if queries else []
    events: list[RetrievalEvent | SkipEvent] = []
    hits_of: dict[int, tuple[Hit, ...]] = {}
    starved: list[tuple[int, Node]] = []
    sated: list[tuple[int, Node]] = []
    left = {number: _passages_left(usage, config) for number, _, _, usage in asking}
    for (number, _, node, _), query, ids, hits in zip(asking, queries, known, found, strict=True):
        new = [hit for hit in hits if hit.passage.id not in ids][: config.top_k]
        if hits and not new:
            sated.append((number, node))
            continue
        read = tuple(new[: left[number]])
        left[number] -= len(read)
        hits_of[id(node)] = read
        if new and not read:
            starved.append((number, node))
            continue
        events.append(RetrievalEvent(question=number, parent=node, query=query, hits=read))
    ending = {id(node) for _, node in (*starved, *sated)}
    steps = [
        step
        for number, _, node, _ in nodes
        if id(node) not in ending
        for step in _steps(number, node, hits_of.get(id(node), ()), fmt, config)
    ]
    return Level(
        events=tuple(events), steps=tuple(steps), starved=tuple(starved), sated=tuple(sated)
    )


def _read_before(node: Node) -> set[str]:
    return {hit.passage.id for each in node.path for hit in each.hits}


def _query(question: str, node: Node, config: SearchConfig) -> str:
    if config.query is QueryPolicy.QUESTION:
        return question
    return f"{question} {node.text}".strip()


def _passages_left(usage: Usage, config: SearchConfig) -> int:
    if config.max_passages is None:
        return config.top_k * config.beam_width
    return max(0, config.max_passages - usage.n_passages)


def _steps(
    number: int, node: Node, hits: tuple[Hit, ...], fmt: PromptFormat, config: SearchConfig
) -> list[Step]:
    """Reads each of `hits`, or goes on with the evidence at hand, or without any."""
    steps = [_reading(number, node, (hit,), fmt, config) for hit in hits]
    if config.n_evidence > 1 and len(hits) > 1:
        steps.append(_reading(number, node, hits[: config.n_evidence], fmt, config))
    if not hits and node.wants is Retrieve.CONTINUE and node.hits:
        lead = (fmt.ids[Retrieve.CONTINUE],)
        return [
            Step(question=number, parent=node, hits=node.hits, lead_ids=lead, fresh=False),
        ]
    if not hits or config.with_no_retrieval:
        lead = (fmt.ids[Retrieve.NO],)
        steps.append(Step(question=number, parent=node, hits=(), lead_ids=lead, fresh=False))
    return steps


def _reading(
    number: int, node: Node, hits: tuple[Hit, ...], fmt: PromptFormat, config: SearchConfig
) -> Step:
    lead = [fmt.ids[Retrieve.YES]]
    for hit in hits:
        lead += fmt.passage(hit.passage, config.max_passage_tokens)
    return Step(question=number, parent=node, hits=hits, lead_ids=tuple(lead), fresh=True)


def skip_irrelevant(
    level: Level, engine: Engine, fmt: PromptFormat, config: SearchConfig
) -> tuple[Level, dict[int, int]]:
    """The level without passages whose relevance is under `prune_relevance`, and its cost.

    One token a passage tells. The most relevant passage of a node always stays. The events are the
    skipped passages; the cost is in tokens by question. Candidates that read several passages
    lose the skipped ones, and go where that leaves less than two.
    """
    bound = config.prune_relevance or 0.0
    single = [step for step in level.steps if step.fresh and len(step.hits) == 1]
    probes = [replace(step, max_new_tokens=1).request(fmt, config) for step in single]
    relevance = {
        (id(step.parent), step.hits[0].passage.id): relevance_score(
            done.watched[0, COLUMNS[Relevance]]
        )
        for step, done in zip(single, engine.generate(probes) if probes else [], strict=True)
    }
    best: dict[int, float] = {}
    for (parent, _), value in relevance.items():
        best[parent] = max(value, best.get(parent, 0.0))
    kept: list[Step] = []
    skipped: list[SkipEvent] = []
    costs: dict[int, int] = {}
    for step in level.steps:
        if not step.fresh:
            kept.append(step)
            continue
        values = [relevance[id(step.parent), hit.passage.id] for hit in step.hits]
        stays = [value >= min(bound, best[id(step.parent)]) for value in values]
        hits = tuple(hit for hit, stay in zip(step.hits, stays, strict=True) if stay)
        if len(step.hits) == 1:
            costs[step.question] = costs.get(step.question, 0) + 1
        if all(stays):
            kept.append(step)
        elif len(hits) > 1:
            kept.append(_reading(step.question, step.parent, hits, fmt, config))
        elif len(step.hits) == 1:
            skipped.append(
                SkipEvent(
                    question=step.question,
                    parent=step.parent,
                    hit=step.hits[0],
                    relevance=values[0],
                    bound=bound,
                )
            )
    return Level(events=tuple(skipped), steps=tuple(kept)), costs
