"""From rows of training data to what the model trains on: ids, and a loss weight for every id.

One function renders ids and mask together, so they cannot part. Each passage is masked separately
(the released mask ran to the last `</paragraph>` and silenced everything between, REFERENCE
section 8). Records that share their prompt become one tree: the prompt is read once and every
answer branches off it, which the attention mask keeps apart. Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from selfrag.prompt import PromptFormat, wrapped
from selfrag.reflection import Marker, ReflectionToken, Relevance, Retrieve, Support, Utility
from selfrag.released import (
    GeneratorRecord,
    InstructionRow,
    PassageText,
    SegmentRecord,
    TrainingRow,
    split_output,
)
from selfrag.serial import NonNegative, check_config


class Mask(StrEnum):
    """Which ids of an answer carry no loss.

    `passages`: every passage with its markers, on its own. `reference`: what the released code
    masks (AkariAsai/self-rag 1fcdc42, `finetune.py`): from behind the first `<paragraph>` to before
    the last `</paragraph>`, so also the sentences and critiques between two passages; the last id
    of the prompt is learned.
    """

    PASSAGES = "passages"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """How much the loss of one id counts, by what the id is; prompts and passages count 0.

    `answer` is for the short answer that a text begins with: there the choice is made.
    """

    text: NonNegative = 1.0
    answer: NonNegative = 3.0
    retrieve: NonNegative = 1.0
    relevance: NonNegative = 4.0
    support: NonNegative = 3.0
    utility: NonNegative = 1.5

    def __post_init__(self) -> None:
        check_config(self, "loss", doing="train")

    def of(self, token: ReflectionToken) -> float:
        """The weight of a reflection token; a marker counts as text."""
        kinds = {
            Retrieve: self.retrieve,
            Relevance: self.relevance,
            Support: self.support,
            Utility: self.utility,
        }
        return next((w for kind, w in kinds.items() if isinstance(token, kind)), self.text)


# Every id that is learned counts the same, as in the paper.
UNIFORM = LossWeights(answer=1.0, relevance=1.0, support=1.0, utility=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Ids of one record and the loss weight of each, both shape (T,)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some ids of an answer, what each counts, and whether they are a passage with its markers."""

    ids: Sequence[int]
    weight: float
    passage: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Several records on one shared prompt.

    `ids`, `positions`, `branches`: shape (T,); branch 0 is the shared part. An id sees earlier
    ids of branch 0 and of its own. `sources`, `targets`, `weights`: shape (M,): the hidden state
    at `sources[m]` predicts `targets[m]`; the last shared position may predict several.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    branches: NDArray[np.int32]
    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]


def encode_row(
    row: TrainingRow,
    fmt: PromptFormat,
    weights: LossWeights,
    *,
    mask: Mask = Mask.PASSAGES,
    max_tokens: int | None = None,
) -> Encoded:
    """The ids of prompt and answer, cut behind `max_tokens`, with the loss weight of each."""
    if isinstance(row, InstructionRow):
        prompt, pieces = _released_row(row, fmt, weights)
    else:
        prompt, pieces = fmt.instruction(row.instruction), _record_pieces(row, fmt, weights)
    return render(prompt, pieces, fmt, mask=mask, max_tokens=max_tokens)


def render(
    prompt: Sequence[int],
    pieces: Sequence[Piece],
    fmt: PromptFormat,
    *,
    mask: Mask = Mask.PASSAGES,
    max_tokens: int | None = None,
) -> Encoded:
    """Prompt and answer as ids with their weights, both cut behind `max_tokens`."""
    ids = [*prompt, *(token_id for piece in pieces for token_id in piece.ids)][:max_tokens]
    counted = [0.0] * len(prompt)
    for piece in pieces:
        hidden = piece.passage and mask is Mask.PASSAGES
        counted += [0.0 if hidden else piece.weight] * len(piece.ids)
    counted = counted[:max_tokens]
    if mask is Mask.REFERENCE:
        _mask_as_released(ids, counted, len(prompt), fmt)
    return Encoded(tuple(ids), tuple(counted))


def _mask_as_released(
    ids: Sequence[int], weights: list[float], n_prompt: int, fmt: PromptFormat
) -> None:
    """Sets `weights` in place; a passage that is cut masks all but the very last id."""
    start, end = fmt.ids[Marker.PARAGRAPH_START], fmt.ids[Marker.PARAGRAPH_END]
    at = min(n_prompt, len(ids))
    if at:
        weights[at - 1] = 1.0
    while at < len(ids):
        if ids[at] == start:
            ends = [i for i in range(at, len(ids)) if ids[i] == end]
            last = ends[-1] if ends else len(ids) - 1
            weights[at + 1 : last] = [0.0] * (last - at - 1)
            at = max(at, last - 1)
        at += 1


def _released_row(
    row: InstructionRow, fmt: PromptFormat, weights: LossWeights
) -> tuple[list[int], list[Piece]]:
    """Prompt and answer as the ids of one string; reflection tokens are put in by id.

    A text that the answer begins with is tokenised together with the prompt, and what the prompt
    alone takes of it is prompt, as in the released code.
    """
    prompt = fmt.instruction(row.instruction, row.task_input)
    pieces = []
    for number, part in enumerate(split_output(row.output)):
        if isinstance(part, PassageText):
            end = [fmt.ids[Marker.PARAGRAPH_END]] if part.closed else []
            body = fmt.join([fmt.ids[Marker.PARAGRAPH_START], part.text, *end])
            pieces.append(Piece(body, weights.text, passage=True))
        elif isinstance(part, ReflectionToken):
            pieces.append(Piece([fmt.ids[part]], weights.of(part)))
        elif number == 0:
            whole = fmt.begin([wrapped(row.instruction, row.task_input), part])
            n_prompt = len(prompt)
            prompt = whole[:n_prompt]
            pieces.append(Piece(whole[n_prompt:], weights.text))
        else:
            pieces.append(Piece(fmt.join([part], continues=True), weights.text))
    return prompt, [*pieces, Piece([fmt.ids.end_of_sequence], 1.0)]


def _record_pieces(record: GeneratorRecord, fmt: PromptFormat, weights: LossWeights) -> list[Piece]:
    pieces = [
        piece for segment in record.segments for piece in _segment_pieces(segment, fmt, weights)
    ]
    if record.utility is not None:
        pieces.append(Piece([fmt.ids[record.utility]], weights.utility))
        pieces.append(Piece([fmt.ids.end_of_sequence], 1.0))
    return pieces


def _segment_pieces(segment: SegmentRecord, fmt: PromptFormat, weights: LossWeights) -> list[Piece]:
    pieces = [Piece([fmt.ids[segment.retrieve]], weights.retrieve)]
    if segment.passage is not None:
        pieces.append(Piece(fmt.passage(segment.passage), weights.text, passage=True))
    if segment.relevance is not None:
        learned = weights.relevance if segment.learn_relevance else 0.0
        pieces.append(Piece([fmt.ids[segment.relevance]], learned))
    if segment.text:
        pieces += _text_pieces(segment, fmt, weights)
    if segment.support is not None:
        pieces.append(Piece([fmt.ids[segment.support]], weights.support))
    return pieces


def _text_pieces(segment: SegmentRecord, fmt: PromptFormat, weights: LossWeights) -> list[Piece]:
    ids = fmt.join([segment.text], continues=True)
    if not segment.learn_text:
        return [Piece(ids, 0.0)]
    n_answer = len(fmt.join([segment.answer], continues=True))
    return [Piece(ids[:n_answer], weights.answer), Piece(ids[n_answer:], weights.text)]


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
        ids=np.array(ids, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        branches=np.array(branches, dtype=np.int32),
        sources=np.array(sources, dtype=np.int32),
        targets=np.array(targets, dtype=np.int32),
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


def visible(branches: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Who sees whom in a tree, shape (T, T): earlier ids of the shared part and own branch."""
    causal = np.tri(len(branches), dtype=bool)
    own = branches[:, None] == branches[None, :]
    seen: NDArray[np.bool_] = causal & (own | (branches == 0)[None, :])
    return seen
