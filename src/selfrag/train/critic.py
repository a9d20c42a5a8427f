"""Training a critic, and measuring it on held-out rows: any causal model, labels as text or tokens.

The probability of a label is that of its ids and the end after the prompt, over all labels of its
group; a label of one token gives the same as reading the logits once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selfrag import plots
from selfrag.annotate.judgement import LABELS
from selfrag.errors import BadInput
from selfrag.files import file_sha256, write_json, write_rows
from selfrag.prompt import Tokenizer
from selfrag.statistics import LabelQuality, label_quality
from selfrag.train.batches import collate, packs_cleanly, token_losses
from selfrag.train.checkpoints import OnStep
from selfrag.train.config import TrainConfig, is_first_process
from selfrag.train.critic_data import (
    CriticRow,
    CriticRows,
    LabelForm,
    encode_critic_row,
    load_critic_rows,
    split_rows,
)
from selfrag.train.data import save_rejects
from selfrag.train.examples import Encoded, Tree, pack_tree
from selfrag.train.model import file_tokenizer, grow_tokenizer, load_tokenizer
from selfrag.train.run import Data, run_folder, train_trees

REPORT_FILE = "critic.json"
PREDICTIONS_FILE = "predictions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedCritic:
    """Final weights, the rows of the file, and quality by group on those held out."""

    folder: Path
    rows: CriticRows
    quality: dict[str, LabelQuality]


def train_critic(
    path: Path,
    config: TrainConfig,
    form: LabelForm,
    on_step: OnStep = lambda step, total, loss: None,
) -> TrainedCritic:
    """Trains on the critic rows of `path`, then measures; both are saved in the run folder."""
    rows = load_critic_rows(path)
    out = run_folder(config)
    tokenizer = load_tokenizer(config.base)
    new = grow_tokenizer(tokenizer) if form is LabelForm.TOKEN else []
    fmt_tokenizer = file_tokenizer(tokenizer, out / "tokenizer")
    training, measured = split_rows(rows.rows, config.held_out_trees)
    limit = config.max_tokens
    trees, checks = (
        [pack_tree([encode_critic_row(row, fmt_tokenizer, limit)]) for row in some]
        for some in (training, measured)
    )
    if is_first_process():
        save_rejects(rows.rejects, out / "rejects.jsonl")
    facts = {
        "data_sha256": file_sha256(path, "training rows"),
        "labels": str(form),
        "counts": rows.counts,
    }
    data = Data(trees=trees, checks=checks, facts=facts)
    folder, model = train_trees(data, config, tokenizer, new, on_step)
    quality = judge(model, measured, fmt_tokenizer, config)
    if is_first_process():
        _save_report(out / REPORT_FILE, rows, len(measured), quality)
    return TrainedCritic(folder=folder, rows=rows, quality=quality)


def judge(
    model: Any, rows: Sequence[CriticRow], tokenizer: Tokenizer, config: TrainConfig
) -> dict[str, LabelQuality]:
    """Quality by group on `rows`; every probability goes to `predictions.jsonl`."""
    probs = label_probs(model, rows, tokenizer, config)
    if not all(np.isfinite(own).all() for own in probs):
        raise BadInput(
            f"cannot measure the critic of {config.out}: it gives labels probabilities that are "
            "not finite, so training has diverged; train again with a lower train.learning_rate"
        )
    if is_first_process():
        predictions = [
            {
                "id": row.id,
                "group": row.group,
                "gold": row.label,
                "probs": dict(zip(LABELS[row.group], map(float, own), strict=True)),
            }
            for row, own in zip(rows, probs, strict=True)
        ]
        write_rows(Path(config.out) / PREDICTIONS_FILE, predictions, "predictions")
    return quality_by_group(rows, probs)


def quality_by_group(
    rows: Sequence[CriticRow], probs: Sequence[NDArray[np.float64]]
) -> dict[str, LabelQuality]:
    """`label_quality` of every group that `rows` has."""
    found = {}
    for group in sorted({row.group for row in rows}):
        own = [(row, p) for row, p in zip(rows, probs, strict=True) if row.group is group]
        gold = np.array([LABELS[group].index(row.label) for row, _ in own])
        found[str(group)] = label_quality(np.stack([p for _, p in own]), gold, LABELS[group])
    return found


def plot_reliability(quality: Mapping[str, LabelQuality], path: Path) -> Path:
    """Draws how often labels are right against how sure the critic is, by group; `path`."""
    bins = {group: found.bins for group, found in quality.items()}
    titles = {group: f"{group}: ECE {q.ece:.3f}, n {q.n}" for group, q in quality.items()}
    return plots.save(plots.bins_figure(bins, titles), path)


def label_probs(
    model: Any, rows: Sequence[CriticRow], tokenizer: Tokenizer, config: TrainConfig
) -> list[NDArray[np.float64]]:
    """For every row the probabilities of all labels of its group, in the order of `LABELS`."""
    answers = [
        [encode_critic_row(row, tokenizer, config.max_tokens, label) for label in LABELS[row.group]]
        for row in rows
    ]
    shared = [pack_tree(some) for some in answers]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    found: list[NDArray[np.float64]] = []
    with torch.no_grad():
        if rows and not packs_cleanly(model, shared):
            found = [_probs([_alone(model, item, device) for item in some]) for some in answers]
        else:
            for batch in _runs(shared, config.tokens_per_batch):
                found += _batch_probs(model, batch, device)
    model.train(was_training)
    return found


def _alone(model: Any, item: Encoded, device: torch.device) -> float:
    batch = {k: v.to(device) for k, v in collate([pack_tree([item])]).items()}
    return -float(token_losses(model, batch).sum())


def _batch_probs(
    model: Any, trees: Sequence[Tree], device: torch.device
) -> list[NDArray[np.float64]]:
    """Probabilities of the branches of every tree; what they share counts for none."""
    batch = {k: v.to(device) for k, v in collate(trees).items()}
    losses = token_losses(model, batch).double().cpu().numpy()
    found, at = [], 0
    for tree in trees:
        own = losses[at : at + len(tree.targets)]
        at += len(tree.targets)
        lengths = np.bincount(tree.branches)[1:]
        n_shared = len(own) - int(lengths.sum())
        parts = np.split(own[n_shared:], np.cumsum(lengths)[:-1])
        found.append(_probs([-float(part.sum()) for part in parts]))
    return found


def _probs(logprobs: Sequence[float]) -> NDArray[np.float64]:
    values = np.array(logprobs)
    probs: NDArray[np.float64] = np.exp(values - values.max())
    probs /= probs.sum()
    return probs


def _runs(trees: Sequence[Tree], tokens_per_batch: int) -> Iterator[list[Tree]]:
    """Neighbouring trees, at most `tokens_per_batch` ids together; one alone may have more."""
    run: list[Tree] = []
    for tree in trees:
        if run and sum(len(t.ids) for t in run) + len(tree.ids) > tokens_per_batch:
            yield run
            run = []
        run.append(tree)
    if run:
        yield run


def _save_report(
    path: Path, rows: CriticRows, n_held_out: int, quality: dict[str, LabelQuality]
) -> None:
    report = {
        "n_rows": len(rows.rows),
        "n_rejected": len(rows.rejects),
        "n_held_out": n_held_out,
        "counts": rows.counts,
        "quality": {group: asdict(found) for group, found in quality.items()},
    }
    write_json(path, report, "the report of the critic")
