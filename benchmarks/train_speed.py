"""Training speed against the original's way, on the same rows and weights, in one run.

    python benchmarks/train_speed.py --model runs/base --data train.jsonl --json

Ours: rows packed without padding, each attending to itself alone, and the head only where there is
a loss. The original's way (AkariAsai/self-rag 1fcdc42, `finetune.py`): rows in order,
`--reference-rows` at a time padded to the longest of them, logits of every position. Both take the
same optimiser steps on the same rows. Each way runs in a process of its own, in turn; speeds count
ids that are no padding.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from selfrag.train.batches import attend_by_tree, collate, make_batches, token_losses
from selfrag.train.config import Method, TrainConfig
from selfrag.train.data import RenderOptions, prepare_file
from selfrag.train.examples import UNIFORM, Mask, Tree
from selfrag.train.model import (
    attach_lora,
    grow_model,
    grow_tokenizer,
    load_model,
    load_tokenizer,
    prompt_format,
    reflection_ids,
)

WAYS = ("ours", "reference")


def main() -> None:
    """Prints both speeds and their ratio."""
    options = arguments()
    if options.way:
        print(json.dumps(measure(options)))
        return
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            runs[way].append(in_own_process(way))
    ours, reference = (summary(runs[way]) for way in WAYS)
    found = {
        "tokens_per_s": ours["speed"],
        "tokens_per_s_reference": reference["speed"],
        "ratio": ours["speed"] / reference["speed"],
        "tokens_per_cpu_s": ours["cpu_speed"],
        "tokens_per_cpu_s_reference": reference["cpu_speed"],
        "ratio_cpu": ours["cpu_speed"] / reference["cpu_speed"],
        "peak_mb": ours["peak_mb"],
        "peak_mb_reference": reference["peak_mb"],
        "tokens": ours["tokens"],
        "learned_share": ours["learned"] / ours["tokens"],
        "reference_rows": options.reference_rows,
        "method": options.method,
        "threads": options.threads,
    }
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
    if options.json:
        print(json.dumps(rounded))
        return
    for name, value in rounded.items():
        print(f"{name:28} {value}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--data", required=True, help="rows of the released schema")
    parser.add_argument("--method", choices=["full", "lora"], default="full")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--tokens-per-batch", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=32, help="rows")
    parser.add_argument("--reference-rows", type=int, default=4, help="rows padded together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(way: str) -> dict[str, float]:
    """What `measure` finds, in a fresh process of this script."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"the process for {way} failed:\n{ended.stderr[-2000:]}")
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def summary(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Speeds over all rounds, the highest peak."""
    tokens = sum(run["tokens"] for run in runs)
    return {
        "speed": tokens / sum(run["seconds"] for run in runs),
        "cpu_speed": tokens / sum(run["cpu_seconds"] for run in runs),
        "peak_mb": max(run["peak_mb"] for run in runs),
        "tokens": runs[0]["tokens"],
        "learned": runs[0]["learned"],
    }


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One pass over the rows in one way, after a warm-up batch."""
    torch.set_num_threads(options.threads)
    model, trees = prepare(options)
    if options.way == "ours" and not torch.cuda.is_available():
        attend_by_tree(model)
    losses = {"ours": packed_losses, "reference": padded_losses}[options.way]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    model.train()
    next(iter(losses(model, trees, options))).backward()
    optimiser.step()  # the moments are allocated before the clock starts
    optimiser.zero_grad()
    started, cpu = time.perf_counter(), time.process_time()
    for loss in losses(model, trees, options):
        loss.backward()
    optimiser.step()
    return {
        "tokens": sum(len(tree.ids) for tree in trees),
        "learned": sum(len(tree.targets) for tree in trees),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def prepare(options: argparse.Namespace) -> tuple[Any, list[Tree]]:
    """The model to train and the rows, rendered with the mask of the way that is measured."""
    method = Method(options.method)
    config = TrainConfig(base=options.model, out="", method=method, max_tokens=options.max_tokens)
    tokenizer = load_tokenizer(options.model)
    new = grow_tokenizer(tokenizer)
    with TemporaryDirectory() as folder:
        fmt = prompt_format(tokenizer, Path(folder))
    rendering = RenderOptions(weights=UNIFORM, max_tokens=options.max_tokens, mask=Mask.PASSAGES)
    trees = prepare_file(Path(options.data), fmt, rendering).trees[: options.limit]
    model = load_model(config)
    grow_model(model, tokenizer, new)
    if method is Method.LORA:
        model = attach_lora(model, reflection_ids(tokenizer), config)
    return model, list(trees)


def packed_losses(
    model: Any, trees: Sequence[Tree], options: argparse.Namespace
) -> Iterator[torch.Tensor]:
    """The loss of every batch, as `selfrag train generator` computes it."""
    for batch in make_batches(trees, options.tokens_per_batch, np.random.default_rng(0)):
        yield token_losses(model, collate(batch)).mean()


def padded_losses(
    model: Callable[..., Any] | PreTrainedModel,
    trees: Sequence[Tree],
    options: argparse.Namespace,
) -> Iterator[torch.Tensor]:
    """The loss of every batch, as the released trainer computes it."""
    for start in range(0, len(trees), options.reference_rows):
        rows = trees[start : start + options.reference_rows]
        shape = (len(rows), max(len(tree.ids) for tree in rows))
        ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, tree in enumerate(rows):
            ids[row, : len(tree.ids)] = torch.from_numpy(tree.ids.astype(np.int64))
            mask[row, : len(tree.ids)] = 1
            labels[row, tree.sources + 1] = torch.from_numpy(tree.targets.astype(np.int64))
        yield model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss


if __name__ == "__main__":
    main()
