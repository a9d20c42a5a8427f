"""Which hypotheses of a level stay in the search, and which of the last may be said.

Knows nothing of how they are written.
"""

from collections.abc import Generator, Iterator, Sequence

from selfrag.decode.config import SearchConfig
from selfrag.decode.events import Event, KeepEvent, PruneEvent
from selfrag.decode.node import Node


def keep_best(
    beam: Sequence[Node],
    grown: Sequence[Node],
    config: SearchConfig,
    *,
    number: int,
    new_ids: Iterator[int],
) -> Generator[Event, None, list[Node]]:
    """Ranks new and finished hypotheses together and keeps `beam_width`, best first.

    Ties keep finished before new ones, and retrieval order within a parent. A hypothesis after
    which all that was written is forbidden ends as it is, and competes so. `number` is what the
    events call the question; nodes that end here get their ids from `new_ids`.
    """
    width = config.beam_width
    allowed: list[Node] = []
    for node in grown:
        reason = _forbidden(node, config)
        if reason is None:
            allowed.append(node)
        else:
            yield PruneEvent(question=number, node=node, rank=0, reason=reason)
    continued = {node.parent.id for node in allowed if node.parent is not None}
    ended = [
        node.ended(next(new_ids)) if node.is_open else node
        for node in beam
        if node.id not in continued
    ]
    pool = [node for node in ended if node.finished] + allowed
    if not pool:  # all that followed the question itself is forbidden
        return ended
    ranked = sorted(pool, key=lambda node: -node.path_score)
    for rank, node in enumerate(ranked, start=1):
        if rank <= width:
            yield KeepEvent(question=number, node=node, rank=rank)
        else:
            behind = ranked[width - 1].path_score - node.path_score
            reason = f"ranked {rank} of {len(ranked)}, {behind:.2f} behind the last of {width} kept"
            yield PruneEvent(question=number, node=node, rank=rank, reason=reason)
    return ranked[:width]


def _forbidden(node: Node, config: SearchConfig) -> str | None:
    """Why a segment leaves the search before ranking, or None."""
    if config.drop_unsupported and node.contradicted:
        return "judged without support, which drop_unsupported takes out of the search"
    if not config.repeat and node.repeats:
        return "says what its answer has said before"
    if node.depth > 1 and node.text and (least := _least_relevance(node)) < config.join_relevance:
        bound = f"less than {config.join_relevance:g}"
        return f"joins passages of which one has relevance {least:.2f}, {bound}"
    return None


def _least_relevance(node: Node) -> float:
    """That of the passages that the path says something from; 1 where none was judged."""
    said = [each.segment for each in node.path if each.segment is not None and each.text]
    return min((s.scores.relevance for s in said if s.scores.relevance is not None), default=1.0)


def is_probable(
    sayable: Sequence[Node], probability: float | None, min_probability: float | None
) -> bool:
    """Whether the first of `sayable` is probable enough; what read no passage always is."""
    if min_probability is None or not any(node.hits for each in sayable[:1] for node in each.path):
        return True
    return probability is not None and probability >= min_probability
