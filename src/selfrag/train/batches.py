"""Trees side by side in one row, and their losses: no padding, and a head only where needed.

Positions restart in every tree and the attention mask keeps trees apart, so each has the losses
that it has alone (tested); `packs_cleanly` makes sure of it for the model at hand.
"""

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from selfrag.train.examples import Encoded, Tree, pack_tree, visible

Batch = dict[str, torch.Tensor]

# Two ways to compute one loss, in nats: fp32 differs by 1e-5, bf16 by some 1e-2; a model that
# lets trees see each other is off by tenths and more.
_SAME_LOSS = 0.05


def collate(trees: Sequence[Tree]) -> Batch:
    """One row of all trees, T ids in all.

    `input_ids`, `position_ids`: (1, T). `attention_mask`: (1, 1, T, T) bool, left out for a single
    tree without branches, which is plain causal text. `sources`, `targets`, `weights`: (M,).
    `starts`: where each tree begins, and T.
    """
    starts = np.cumsum([0, *(len(tree.ids) for tree in trees)])
    batch = {
        "input_ids": _joined([tree.ids for tree in trees])[None],
        "position_ids": _joined([tree.positions for tree in trees])[None],
        "sources": _joined([t.sources + at for t, at in zip(trees, starts, strict=False)]),
        "targets": _joined([tree.targets for tree in trees]),
        "weights": torch.from_numpy(np.concatenate([tree.weights for tree in trees])),
        "starts": torch.from_numpy(starts),
    }
    if len(trees) > 1 or trees[0].branches.any():
        mask = np.zeros((starts[-1], starts[-1]), bool)
        for tree, at in zip(trees, starts, strict=False):
            block = slice(at, at + len(tree.ids))
            mask[block, block] = visible(tree.branches)
        batch["attention_mask"] = torch.from_numpy(mask[None, None])
    return batch


def _joined(arrays: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def make_batches(
    trees: Sequence[Tree], tokens_per_batch: int, rng: np.random.Generator
) -> list[list[Tree]]:
    """Trees of about equal length together, at most `tokens_per_batch` ids each, shuffled.

    A batch is filled as if padded to its longest tree, so the work of attention is alike in all.
    Sorting happens within runs of 512 trees, so that a batch still mixes kinds.
    """
    batches: list[list[Tree]] = []
    order = rng.permutation(len(trees))
    for start in range(0, len(order), 512):
        run = sorted((trees[int(i)] for i in order[start : start + 512]), key=lambda t: len(t.ids))
        batch: list[Tree] = []
        for tree in run:
            if batch and len(tree.ids) * (len(batch) + 1) > tokens_per_batch:
                batches.append(batch)
                batch = []
            batch.append(tree)
        batches.append(batch)
    return [batches[int(i)] for i in rng.permutation(len(batches))]


def token_losses(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of every target, shape (M,), nats; the head sees only positions with a loss."""
    taken = _parameters(model)
    wanted = ("input_ids", "position_ids", "attention_mask")
    arguments: dict[str, Any] = {
        name: batch[name] for name in wanted if name in batch and name in taken
    }
    if _is_by_tree(model):
        arguments["starts"] = batch["starts"].tolist()
    sources = batch["sources"]
    if "logits_to_keep" in taken:
        logits = model(**arguments, use_cache=False, logits_to_keep=sources).logits[0]
    else:
        logits = model(**arguments, use_cache=False).logits[0, sources]
    return functional.cross_entropy(logits.float(), batch["targets"], reduction="none")


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_inner(model).forward).parameters


def _inner(model: Any) -> Any:
    """The model itself, without what shards or adapts it."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


_BY_TREE = "selfrag_by_tree"


def attend_by_tree(model: Any) -> None:
    """Lets `model` attend within one tree at a time, where it takes its attention from outside.

    Else a CPU computes all pairs of ids of a row and masks most of them: a quarter of a step.
    """
    inner = _inner(model)
    kinds = {parameter.kind for parameter in _parameters(model).values()}
    passes_on = inspect.Parameter.VAR_KEYWORD in kinds  # `starts`, to the attention
    takes_any = passes_on and getattr(inner, "_supports_attention_backend", False)
    if takes_any and inner.config._attn_implementation == "sdpa":
        AttentionInterface.register(_BY_TREE, _attention_by_tree)
        AttentionMaskInterface.register(_BY_TREE, sdpa_mask)
        inner.set_attn_implementation(_BY_TREE)


def _is_by_tree(model: Any) -> bool:
    config = getattr(_inner(model), "config", None)
    return getattr(config, "_attn_implementation", None) == _BY_TREE


def _attention_by_tree(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    starts: Sequence[int] = (),
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """What sdpa gives, (1, T, heads, dim), of queries, keys and values of (1, heads, T, dim)."""
    parts = []
    for start, end in pairwise(starts or (0, query.shape[2])):
        here = slice(start, end)
        mask = None if attention_mask is None else attention_mask[:, :, here, here]
        taken = (states[:, :, here] for states in (query, key, value))
        parts.append(sdpa_attention_forward(module, *taken, mask, **rest)[0])
    return torch.cat(parts, dim=1), None


def packs_cleanly(model: Any, trees: Sequence[Tree]) -> bool:
    """Whether trees side by side, and branches of one, have the losses that each has alone.

    Not so where a model takes no positions or no mask of this shape (state-space models, ALiBi), or
    sees less of a long text than the mask allows (sliding windows). So the shortest tree is tried
    beside the longest, and beside the longest that has branches.
    """
    by_length = sorted(trees, key=lambda tree: len(tree.ids))
    branched = [tree for tree in by_length if tree.branches.any()]
    groups = [_texts(tree) for tree in (by_length[0], by_length[-1], *branched[-1:])]
    packed = [pack_tree(group) for group in groups]
    device = next(model.parameters()).device

    def losses(some: Sequence[Tree]) -> torch.Tensor:
        return token_losses(model, {k: v.to(device) for k, v in collate(some).items()})

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            apart = []
            for group, tree in zip(groups, packed, strict=True):
                # Of a second text only what follows the shared beginning is in the tree.
                n_shared = int((tree.branches == 0).sum())
                starts = [0, *[n_shared - 1] * (len(group) - 1)]
                apart += [
                    losses([pack_tree([x])])[at:] for x, at in zip(group, starts, strict=True)
                ]
            together = losses(packed)
    except (RuntimeError, TypeError, ValueError):  # what models raise at a mask they do not know
        return False
    finally:
        model.train(was_training)
    return bool((torch.cat(apart) - together).abs().max() < _SAME_LOSS)


def _texts(tree: Tree) -> list[Encoded]:
    """The first two texts of a tree, each as it is alone, with a loss on every id."""
    numbers = range(1, min(int(tree.branches.max()), 2) + 1) if tree.branches.any() else [0]
    found = []
    for number in numbers:
        ids = tuple(tree.ids[(tree.branches == 0) | (tree.branches == number)].tolist())
        found.append(Encoded(ids, (1.0,) * len(ids)))
    return found
