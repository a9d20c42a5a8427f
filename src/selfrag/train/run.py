"""Fine-tuning the generator: any base model, LoRA or all weights, one process or many.

Uses the Hugging Face Trainer for the loop (checkpoints, resume, schedule, FSDP, DeepSpeed) and PEFT
for adapters. The same command again goes on from the last whole checkpoint, to the same end.
"""

import logging
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from selfrag.engine.transformers import without_bars
from selfrag.errors import BadInput
from selfrag.files import claim_run, file_sha256, storage_errors, write_json
from selfrag.serial import finite
from selfrag.train.batches import (
    attend_by_tree,
    collate,
    make_batches,
    packs_cleanly,
    token_losses,
)
from selfrag.train.checkpoints import (
    LOG_FILE,
    RUN_FILE,
    HeldOutLosses,
    OnStep,
    diverged,
    drop_incomplete,
    forget_after,
    last_complete,
    require_sound,
)
from selfrag.train.config import Method, Precision, TrainConfig, is_first_process
from selfrag.train.data import (
    Prepared,
    RenderOptions,
    prepare_file,
    save_rejects,
    split_held_out,
)
from selfrag.train.examples import LossWeights, Tree
from selfrag.train.export import start_from
from selfrag.train.model import (
    attach_lora,
    grow_model,
    grow_tokenizer,
    halve_frozen,
    load_model,
    load_tokenizer,
    prompt_format,
    quiet_peft,
    reflection_ids,
)

logger = logging.getLogger(__name__)

# Settings that may change between a run and its resumption: they do not change what is learned.
_FREE_ON_RESUME = {"out", "save_steps", "eval_batches", "log_steps", "torch", "commit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The folder of the final weights (adapter or whole model), and what became of the data."""

    folder: Path
    data: Prepared


class _Batches(torch.utils.data.Dataset[list[Tree]]):
    """Ready-made batches, seen by the Trainer as items of batch size one."""

    def __init__(self, batches: list[list[Tree]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Tree]:
        return self.batches[index]


class GeneratorTrainer(Trainer):
    """The Trainer with our loss: weighted by what an id is, averaged over the weights of a step."""

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: Any
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The batches of one step, and the sum of their weights on all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = torch.stack([batch["weights"].sum() for batch in batches]).sum().to(device)
        return batches, self.accelerator.gather(weight).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The share of one batch in the weighted mean cross-entropy of a step, in nats."""
        losses = token_losses(model, inputs)
        # Checked at once: the Trainer logs a mean that leaves such losses out.
        if not torch.isfinite(losses).all():
            raise diverged(self.state.global_step, "the loss is not finite")
        total = inputs["weights"].sum() if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over processes, but `total` counts all of them.
        n_processes = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = (losses * inputs["weights"]).sum() / total * n_processes
        return (loss, {"losses": losses}) if return_outputs else loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Trees to train on, trees to measure on, and what `run.json` says of where they are from."""

    trees: list[Tree]
    checks: list[Tree]
    facts: dict[str, Any]


def train_from_file(
    path: Path,
    config: TrainConfig,
    weights: LossWeights,
    on_step: OnStep = lambda step, total, loss: None,
) -> Trained:
    """Trains on the rows of `path`; rows that cannot be used go to `rejects.jsonl` in the run."""
    digest = file_sha256(path, "training rows")
    tokenizer = load_tokenizer(config.base)
    new = grow_tokenizer(tokenizer)
    fmt = prompt_format(tokenizer, run_folder(config) / "tokenizer")
    prepared = prepare_file(path, fmt, _options(config, weights))
    if is_first_process():
        save_rejects(prepared.rejects, run_folder(config) / "rejects.jsonl")
    facts = {"data_sha256": digest, "loss": asdict(weights)}
    folder, _ = train_trees(_split(prepared, config, facts), config, tokenizer, new, on_step)
    return Trained(folder=folder, data=prepared)


def _options(config: TrainConfig, weights: LossWeights) -> RenderOptions:
    return RenderOptions(
        weights=weights,
        max_tokens=config.max_tokens,
        mask=config.mask,
        over_long=config.over_long,
    )


def _split(prepared: Prepared, config: TrainConfig, facts: dict[str, Any]) -> Data:
    trees, checks = split_held_out(prepared.trees, config.held_out_trees, config.held_out_from)
    return Data(trees=trees, checks=checks, facts={"data": asdict(prepared.account), **facts})


def run_folder(config: TrainConfig) -> Path:
    """The folder of a run, made where it is not there."""
    out = Path(config.out)
    with storage_errors(
        f"train into {out}",
        advice="expected a folder that can be made, so name another --out",
        raises=BadInput,
    ):
        out.mkdir(parents=True, exist_ok=True)
    return out


def train_trees(
    data: Data,
    config: TrainConfig,
    tokenizer: Any,
    new: list[str],
    on_step: OnStep = lambda step, total, loss: None,
) -> tuple[Path, Any]:
    """Trains the base on `data`, its vocabulary grown by `new`; final weights and model."""
    _require_launcher()
    _meet_after_restart()
    model = load_model(config)
    grow_model(model, tokenizer, new, multiple_of=config.pad_vocabulary_to)
    token_ids = reflection_ids(tokenizer)
    if config.method is not Method.FULL:
        model = attach_lora(model, token_ids, config)
    if config.start:
        start_from(model, Path(config.start))
    folder, trained = _run(data, config, model, token_ids, on_step)
    if config.method is Method.FULL and is_first_process():
        tokenizer.save_pretrained(str(folder))
    return folder, trained


def _run(
    data: Data, config: TrainConfig, model: Any, token_ids: list[int], on_step: OnStep
) -> tuple[Path, Any]:
    """Trains, resuming from the last whole checkpoint in `config.out`; final folder and model."""
    out = run_folder(config)
    rng = np.random.default_rng(config.seed)
    if not torch.cuda.is_available():
        attend_by_tree(model)
    size = _batch_size(data.trees, config, model)
    if _in_half(config) and config.method is Method.LORA:
        halve_frozen(model)
    batches = make_batches(data.trees, size, rng)
    checks = make_batches(data.checks, size, rng)[: config.eval_batches]
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if config.epochs == 1 and config.max_steps:
        batches = batches[: config.max_steps * config.accumulation * n_processes]
    n_tokens = sum(len(tree.ids) for batch in batches for tree in batch)
    run = {
        **asdict(config),
        **data.facts,
        "tokens": n_tokens,
        "batches": len(batches),
        "processes": n_processes,
        "torch": torch.__version__,
        "commit": _commit(),
    }
    last = _checkpoint_to_resume(out, run)
    logger.info("training on %d tokens in %d batches", n_tokens, len(batches))
    if config.gradient_checkpointing:
        # transformers 5.24 renamed it.
        new_name = getattr(model, "activation_checkpointing_enable", None)
        (new_name or model.gradient_checkpointing_enable)({"use_reentrant": False})
    with quiet_peft(), without_bars():
        trainer = GeneratorTrainer(
            model=model,
            args=_arguments(config, len(batches)),
            train_dataset=_Batches(batches),
            data_collator=lambda items: collate(items[0]),
            callbacks=[HeldOutLosses(list(map(collate, checks)), token_ids, out, on_step)],
        )
        trainer.remove_callback(PrinterCallback)  # prints; the log has it all
        # Our loss is a mean over the step: no second division.
        trainer.model_accepts_loss_kwargs = True
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        logger.info("trained in %.1f s", time.perf_counter() - started)
        return _save_final(trainer, config), trainer.model


def _batch_size(trees: Sequence[Tree], config: TrainConfig, model: Any) -> int:
    """Tokens of a batch: as asked, or one tree each where the model cannot keep two apart."""
    if packs_cleanly(model, trees):
        return config.tokens_per_batch
    if any(tree.branches.any() for tree in trees):
        raise BadInput(
            f"cannot train {config.base} on grouped records: the model lets the answers of a group "
            "see each other, as it takes no attention mask of its own; empty their `group`"
        )
    logger.warning("%s cannot read examples side by side: each is its own batch", config.base)
    return 1


def _in_half(config: TrainConfig) -> bool:
    on_gpu = torch.cuda.is_available()
    return config.precision is Precision.BF16 or (config.precision is Precision.AUTO and on_gpu)


def _arguments(config: TrainConfig, n_batches: int) -> TrainingArguments:
    on_cpu = not torch.cuda.is_available()
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    in_epoch = max(1, -(-n_batches // (config.accumulation * n_processes)))
    n_steps = min(config.max_steps or config.epochs * in_epoch, config.epochs * in_epoch)
    return TrainingArguments(
        output_dir=str(Path(config.out) / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=config.epochs,
        max_steps=n_steps if config.max_steps else -1,
        learning_rate=config.peak_learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=int(n_steps * config.warmup_share),
        weight_decay=config.weight_decay,
        max_grad_norm=1.0,
        bf16=_in_half(config),
        use_cpu=on_cpu,
        logging_steps=config.log_steps,
        save_steps=config.save_steps,
        save_total_limit=2,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        seed=config.seed,
        disable_tqdm=True,
    )


def _checkpoint_to_resume(out: Path, run: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from; raises `BadInput` where run and settings do not agree."""
    last = last_complete(out / "checkpoints")
    if (
        last is not None
    ):  # every process compares: one that stopped alone would leave others waiting
        claim_run(out / RUN_FILE, run, has_results=True, free=_FREE_ON_RESUME)
        logger.info("going on from %s", last)
    if is_first_process():
        drop_incomplete(out / "checkpoints")
        forget_after(out, last)
        write_json(out / RUN_FILE, run, "the settings of the run")
    return last


def _save_final(trainer: GeneratorTrainer, config: TrainConfig) -> Path:
    out = Path(config.out)
    require_sound(trainer.model.named_parameters(), f"save the weights of {out}")
    folder = out / ("model" if config.method is Method.FULL else "adapter")
    if trainer.is_fsdp_enabled:
        _save_sharded(trainer, folder)
    else:
        trainer.save_model(str(folder))
    if is_first_process():
        write_json(out / LOG_FILE, finite(trainer.state.log_history), "the log of the run")
    return folder


def _save_sharded(trainer: GeneratorTrainer, folder: Path) -> None:
    """Gathers one tensor after another, so that no process but the first ever holds the model."""
    first = is_first_process()
    gathered = {}
    for name, tensor in trainer.model.state_dict().items():
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        if first:
            gathered[name] = whole.detach().cpu().clone()
    if first:
        trainer.model.save_pretrained(str(folder), state_dict=gathered)


def _require_launcher() -> None:
    if torch.cuda.device_count() > 1 and "RANK" not in os.environ:
        raise BadInput(
            f"cannot train in one process: {torch.cuda.device_count()} GPUs are visible; start it "
            "with torchrun, as in recipes/, or show one with CUDA_VISIBLE_DEVICES=0"
        )


def _meet_after_restart() -> None:
    """Joins the processes that torchrun started again, before the Trainer would.

    torchrun keeps its store for every life of the workers, with the addresses that dead ones left
    (torch 2.13): a worker that reads those connects to nobody, or waits for half an hour. So each
    life but the first meets under names of its own.
    """
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if life == "0" or torch.distributed.is_initialized():
        return
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    torch.distributed.init_process_group(
        store=torch.distributed.PrefixStore(f"life/{life}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )


def _commit() -> str:
    """The commit this code runs at, or nothing outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
