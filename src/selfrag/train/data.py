"""From a training file to trees that fit, with an account of the rows that do not.

A bad row never stops a run: it is counted, named and written to a rejects file. Knows nothing of
models.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from selfrag.errors import BadInput
from selfrag.files import write_rows
from selfrag.prompt import PromptFormat
from selfrag.released import GeneratorRecord, InstructionRow, TrainingRow, read_training_rows
from selfrag.rows import Reject
from selfrag.text import counted
from selfrag.train.config import HeldOut, OverLong
from selfrag.train.examples import LossWeights, Mask, Tree, encode_row, pack_tree

# Of the examples at most this share is held out, however many the settings ask for.
MAX_HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """How rows become trees; see `TrainConfig` and `LossWeights`."""

    weights: LossWeights
    max_tokens: int
    mask: Mask = Mask.PASSAGES
    over_long: OverLong = OverLong.CUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of the rows of a file: `n_rows` = used + rejected. Lengths in tokens.

    `n_plain`: rows used that hold no reflection token; `datasets`: rows used, by source.
    """

    n_rows: int
    n_used: int
    n_rejected: int
    n_cut: int
    n_plain: int
    n_trees: int
    n_tokens: int
    n_learned: int
    datasets: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Trees in the order of the file, rejects in the order of their lines."""

    trees: tuple[Tree, ...]
    rejects: tuple[Reject, ...]
    account: Account


def prepare_file(path: Path, fmt: PromptFormat, options: RenderOptions) -> Prepared:
    """Everything in `path` that can be trained on; raises `BadInput` where nothing can."""
    prepared = prepare_rows(read_training_rows(path), fmt, options)
    if not prepared.trees:
        first = prepared.rejects[0] if prepared.rejects else None
        found = (
            f"of {counted(len(prepared.rejects), 'row')} none can be used, {first}"
            if first
            else "it has no rows"
        )
        raise BadInput(
            f"cannot train on {path}: {found}; expected rows with instruction and output, or "
            "generator records (docs/formats.md), so mend the file"
        )
    return prepared


def prepare_rows(
    rows: Iterable[tuple[int, TrainingRow | Reject]], fmt: PromptFormat, options: RenderOptions
) -> Prepared:
    """Trees of `rows`; neighbouring records of one group become one tree."""
    trees: list[Tree] = []
    rejects: list[Reject] = []
    datasets: Counter[str] = Counter()
    n_cut = n_plain = n_rows = 0
    for run in _groups(rows):
        n_rows += len(run)
        made = _one_tree(run, fmt, options)
        if isinstance(made, str):
            rejects += [_reject(line, row, made) for line, row in run]
            continue
        tree, cut, plain = made
        trees.append(tree)
        n_cut += cut
        n_plain += plain
        datasets.update(row.dataset for _, row in run if not isinstance(row, Reject))
    account = Account(
        n_rows=n_rows,
        n_used=n_rows - len(rejects),
        n_rejected=len(rejects),
        n_cut=n_cut,
        n_plain=n_plain,
        n_trees=len(trees),
        n_tokens=sum(len(tree.ids) for tree in trees),
        n_learned=sum(len(tree.targets) for tree in trees),
        datasets=dict(datasets.most_common()),
    )
    return Prepared(trees=tuple(trees), rejects=tuple(rejects), account=account)


Numbered = tuple[int, TrainingRow | Reject]


def _groups(rows: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """Runs of records of one group; every other row alone."""

    def key(item: Numbered) -> str:
        line, row = item
        group = row.group if isinstance(row, GeneratorRecord) else ""
        return f"group {group}" if group else f"line {line}"

    return (list(run) for _, run in groupby(rows, key=key))


def _one_tree(
    run: Sequence[Numbered], fmt: PromptFormat, options: RenderOptions
) -> tuple[Tree, int, int] | str:
    """The tree, how many of its rows were cut, how many hold no reflection token; or why not."""
    encoded = []
    for _, row in run:
        if isinstance(row, Reject):
            return row.detail
        encoded.append(encode_row(row, fmt, options.weights, mask=options.mask))
    n_cut = sum(len(item.ids) > options.max_tokens for item in encoded)
    if n_cut and options.over_long is OverLong.CUT:
        encoded = [
            encode_row(row, fmt, options.weights, mask=options.mask, max_tokens=options.max_tokens)
            for _, row in run
            if not isinstance(row, Reject)
        ]
    tree = pack_tree(encoded)
    if len(tree.ids) > options.max_tokens:
        return f"has {len(tree.ids)} tokens, more than max_tokens ({options.max_tokens})"
    if not len(tree.targets):
        return f"has nothing to learn from within max_tokens ({options.max_tokens})"
    reflection = set(fmt.ids.all)
    return tree, n_cut, sum(reflection.isdisjoint(item.ids) for item in encoded)


def _reject(line: int, row: TrainingRow | Reject, reason: str) -> Reject:
    if isinstance(row, Reject):
        return row
    text = row.output if isinstance(row, InstructionRow) else row.surface
    return Reject(number=line, reason="not_rendered", detail=reason, row=text)


def save_rejects(rejects: Sequence[Reject], path: Path) -> None:
    """One JSON object a line: `line`, `reason`, `text`; replaces `path`."""
    write_rows(path, (reject.to_line() for reject in rejects), "the rejected rows")


def split_held_out(
    trees: Sequence[Tree], n_held_out: int, where: HeldOut
) -> tuple[list[Tree], list[Tree]]:
    """Trees to train on and trees to measure on; of two or more at least one is measured on.

    `SPREAD` takes them at even distances, so a file sorted by source is held out from all over.
    """
    most = max(1, int(len(trees) * MAX_HELD_OUT_SHARE)) if len(trees) > 1 else 0
    n_kept = min(n_held_out, most)
    if where is HeldOut.FIRST:
        chosen = set(range(n_kept))
    else:
        chosen = {len(trees) * i // n_kept for i in range(n_kept)}
    measured = [tree for i, tree in enumerate(trees) if i in chosen]
    return [tree for i, tree in enumerate(trees) if i not in chosen], measured
