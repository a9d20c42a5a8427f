"""From generator records to what the model trains on: ids, and a loss weight for every id.

Each passage's body and markers are masked separately (the released mask ran to the last
`</paragraph>` and silenced everything between, REFERENCE section 8). Records that share their
prompt become one tree: the prompt is read once and every answer branches off it, which the
attention mask keeps apart. Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from selfrag.prompt import PromptFormat
from selfrag.record import GeneratorRecord, SegmentRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """How much the loss of one id counts, by what the id is; prompts and passages count 0.

    `answer` is for the short answer that a text begins with: there the choice is made.
    """

    text: float = 1.0
    answer: float = 3.0
    retrieve: float = 1.0
    relevance: float = 4.0
    support: float = 3.0
    utility: float = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Ids of one record and the loss weight of each, both shape (T,)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Several records on one shared prompt.

    `ids`, `positions`, `branches`: shape (T,); branch 0 is the shared part. An id sees earlier
    ids of branch 0 and of its own. `sources`, `targets`, `weights`: shape (M,): the hidden state
    at `sources[m]` predicts `targets[m]`; the last shared position may predict several.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    branches: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]


def encode_record(record: GeneratorRecord, fmt: PromptFormat, weights: LossWeights) -> Encoded:
    """The ids of prompt and answer, with the loss weight of each."""
    pieces: list[tuple[Sequence[int], float]] = [(fmt.instruction(record.instruction), 0.0)]
    for segment in record.segments:
        pieces += _segment_pieces(segment, fmt, weights)
    if record.utility is not None:
        pieces.append(([fmt.ids[record.utility]], weights.utility))
        pieces.append(([fmt.ids.end_of_sequence], 1.0))
    ids = tuple(token_id for piece, _ in pieces for token_id in piece)
    return Encoded(ids, tuple(weight for piece, weight in pieces for _ in piece))


def _segment_pieces(
    segment: SegmentRecord, fmt: PromptFormat, weights: LossWeights
) -> list[tuple[Sequence[int], float]]:
    pieces: list[tuple[Sequence[int], float]] = [
        ([fmt.ids[segment.retrieve]], weights.retrieve),
    ]
    if segment.passage is not None:
        pieces.append((fmt.passage(segment.passage), 0.0))
    if segment.relevance is not None:
        learned = weights.relevance if segment.learn_relevance else 0.0
        pieces.append(([fmt.ids[segment.relevance]], learned))
    if segment.text:
        pieces += _text_pieces(segment, fmt, weights)
    if segment.support is not None:
        pieces.append(([fmt.ids[segment.support]], weights.support))
    return pieces


def _text_pieces(
    segment: SegmentRecord, fmt: PromptFormat, weights: LossWeights
) -> list[tuple[Sequence[int], float]]:
    ids = fmt.tokenizer.encode(segment.text)
    if not segment.learn_text:
        return [(ids, 0.0)]
    n_answer = len(fmt.tokenizer.encode(segment.answer)) if segment.answer else 0
    return [(ids[:n_answer], weights.answer), (ids[n_answer:], weights.text)]


def build_trees(
    records: Sequence[GeneratorRecord], fmt: PromptFormat, weights: LossWeights, max_tokens: int
) -> list[Tree]:
    """One tree for each run of records of one group; those over `max_tokens` are left out."""
    runs = groupby(enumerate(records), key=lambda item: item[1].group or str(item[0]))
    encoded = ([encode_record(record, fmt, weights) for _, record in run] for _, run in runs)
    trees = (pack_tree(group) for group in encoded)
    return [tree for tree in trees if len(tree.ids) <= max_tokens and len(tree.targets)]


def pack_tree(group: Sequence[Encoded]) -> Tree:
    """Joins the common beginning of `group` once and hangs the rests on it as branches.

    A shared id keeps its largest weight in the group.
    """
    shared = _common_prefix([item.ids for item in group])
    shared_weights = np.max([item.weights[:shared] for item in group], axis=0)
    ids = list(group[0].ids[:shared])
    positions, branches = list(range(shared)), [0] * shared
    links = [(i - 1, ids[i], float(shared_weights[i])) for i in range(1, shared)]
    for number, item in enumerate(group, start=1):
        start = len(ids) - shared
        for i in range(shared, len(item.ids)):
            source = shared - 1 if i == shared else start + i - 1
            links.append((source, item.ids[i], item.weights[i]))
        ids += item.ids[shared:]
        positions += range(shared, len(item.ids))
        branches += [number] * (len(item.ids) - shared)
    learned = [link for link in links if link[2] > 0]
    sources, targets, link_weights = zip(*learned, strict=True) if learned else ((), (), ())
    return Tree(
        ids=np.array(ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        branches=np.array(branches, dtype=np.int64),
        sources=np.array(sources, dtype=np.int64),
        targets=np.array(targets, dtype=np.int64),
        weights=np.array(link_weights, dtype=np.float32),
    )


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many leading ids all sequences share; each keeps at least one of its own.

    A single sequence is all prefix.
    """
    if len(sequences) == 1:
        return len(sequences[0])
    limit = min(len(sequence) for sequence in sequences) - 1
    first = sequences[0]
    return next(
        (i for i in range(limit) if any(sequence[i] != first[i] for sequence in sequences)), limit
    )


def visible(branches: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Who sees whom, shape (T, T): earlier ids of the shared part and of the own branch."""
    causal = np.tri(len(branches), dtype=bool)
    own = branches[:, None] == branches[None, :]
    seen: NDArray[np.bool_] = causal & (own | (branches == 0)[None, :])
    return seen
