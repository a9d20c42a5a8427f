"""Fine-tuning the generator: LoRA with trained reflection rows, checkpoints, held-out loss, curve.

Uses the Hugging Face Trainer for the loop (checkpoints, resume, schedule, many GPUs) and PEFT for
the adapter. Batches hold trees of about equal length; the language-model head is applied only
where there is a loss.
"""

import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from selfrag.engine.tokenizer import FileTokenizer
from selfrag.errors import BadInput
from selfrag.prompt import PromptFormat
from selfrag.record import GeneratorRecord
from selfrag.reflection import REFLECTION_TOKENS
from selfrag.train.examples import LossWeights, Tree, build_trees, visible
from selfrag.train.export import start_from
from selfrag.train.vocab import add_reflection_tokens

logger = logging.getLogger(__name__)

LORA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run. Lengths in tokens; `learning_rate` is the peak; steps are optimizer's.

    `start`: a shipped adapter to go on from; empty starts anew.
    """

    base: str
    out: str
    start: str = ""
    tokens_per_batch: int = 2000
    max_tokens: int = 512
    max_steps: int | None = None
    learning_rate: float = 1e-3
    warmup_share: float = 0.03
    lora_rank: int = 32
    lora_alpha: int = 64
    save_steps: int = 100
    held_out_trees: int = 120
    eval_batches: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens_per_batch < self.max_tokens:
            raise BadInput(
                f"cannot train: tokens_per_batch is {self.tokens_per_batch}, less than max_tokens "
                f"({self.max_tokens}), so the longest example fits no batch; raise it"
            )


Batch = dict[str, torch.Tensor]


def collate(trees: Sequence[Tree]) -> Batch:
    """One batch, padded on the right to its longest tree T.

    `input_ids`, `position_ids`: (B, T). `attention_mask`: (B, 1, T, T) bool. `sources`, `targets`,
    `weights`: (M,), `sources` counting through the flattened (B * T) positions.
    """
    length = max(len(tree.ids) for tree in trees)
    shape = (len(trees), length)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    mask = np.zeros((len(trees), 1, length, length), bool)
    mask[:, 0] = np.eye(length, dtype=bool)  # padding sees itself, so no row is empty
    for row, tree in enumerate(trees):
        n = len(tree.ids)
        ids[row, :n], positions[row, :n] = tree.ids, tree.positions
        mask[row, 0, :n, :n] = visible(tree.branches)
    sources = np.concatenate([tree.sources + row * length for row, tree in enumerate(trees)])
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "attention_mask": torch.from_numpy(mask),
        "sources": torch.from_numpy(sources),
        "targets": torch.from_numpy(np.concatenate([tree.targets for tree in trees])),
        "weights": torch.from_numpy(np.concatenate([tree.weights for tree in trees])),
    }


def make_batches(
    trees: Sequence[Tree], tokens_per_batch: int, rng: np.random.Generator
) -> list[list[Tree]]:
    """Trees of about equal length together, at most `tokens_per_batch` padded ids each, shuffled.

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


class _Batches(torch.utils.data.Dataset[list[Tree]]):
    """Ready-made batches, seen by the Trainer as items of batch size one."""

    def __init__(self, batches: list[list[Tree]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Tree]:
        return self.batches[index]


def token_losses(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of every target, shape (M,), nats; the head sees only positions with a loss."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
    ).last_hidden_state
    chosen = hidden.reshape(-1, hidden.shape[-1])[batch["sources"]]
    logits = inner.lm_head(chosen)
    return functional.cross_entropy(logits.float(), batch["targets"], reduction="none")


class GeneratorTrainer(Trainer):
    """The Trainer with our loss: weighted by what an id is, averaged over the weights."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Weighted mean cross-entropy in nats."""
        losses = token_losses(model, inputs)
        loss = (losses * inputs["weights"]).sum() / inputs["weights"].sum()
        return (loss, {"losses": losses}) if return_outputs else loss


class _HeldOut(TrainerCallback):
    """Writes a line of progress at every save: tokens seen and held-out loss by kind of token."""

    def __init__(self, batches: list[Batch], token_ids: list[int], path: Path) -> None:
        self.batches, self.path = batches, path
        self.kinds = {
            i: type(token).__name__ for i, token in zip(token_ids, REFLECTION_TOKENS, strict=True)
        }

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        row = {"step": state.global_step, **held_out(kwargs["model"], self.batches, self.kinds)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        logger.info("held out: %s", row)


def held_out(
    model: torch.nn.Module, batches: Sequence[Batch], kinds: Mapping[int, str]
) -> dict[str, float]:
    """Mean loss in nats by kind of token, on unseen trees."""
    was_training = model.training
    model.eval()
    losses: dict[str, list[float]] = {}
    with torch.no_grad():
        for batch in batches:
            for target, loss in zip(
                batch["targets"].tolist(), token_losses(model, batch).tolist(), strict=True
            ):
                losses.setdefault(kinds.get(target, "text"), []).append(loss)
    model.train(was_training)
    return {kind: round(float(np.mean(values)), 4) for kind, values in sorted(losses.items())}


def _commit() -> str:
    """The commit this code runs at, or nothing outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def load_base(path: str) -> tuple[PreTrainedModel, Any, list[int]]:
    """The base model in fp32 with the reflection vocabulary added, its tokenizer, the 15 ids."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    return model, tokenizer, add_reflection_tokens(model, tokenizer)


def attach_lora(model: PreTrainedModel, token_ids: list[int], config: TrainConfig) -> Any:
    """LoRA on every linear layer, and the 15 new rows trained whole (tied to the head).

    Seeds torch: LoRA draws its first factor at random, before the Trainer sets its own seed.
    """
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=LORA_MODULES,
        trainable_token_indices={"embed_tokens": token_ids},
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def train_from_records(
    records: Sequence[GeneratorRecord], config: TrainConfig, weights: LossWeights
) -> Path:
    """Trains on all but the first `config.held_out_trees` trees of `records`."""
    model, tokenizer, token_ids = load_base(config.base)
    out = Path(config.out)
    tokenizer.save_pretrained(str(out / "tokenizer"))
    file = out / "tokenizer" / "tokenizer.json"
    fmt = PromptFormat.of(FileTokenizer(file, end_of_sequence=tokenizer.eos_token))
    trees = build_trees(records, fmt, weights, config.max_tokens)
    if len(trees) <= config.held_out_trees:
        raise BadInput(
            f"cannot train: the records make {len(trees)} trees, of which "
            f"{config.held_out_trees} are held out; give more records or lower held_out_trees"
        )
    checks, rest = trees[: config.held_out_trees], trees[config.held_out_trees :]
    model = attach_lora(model, token_ids, config)
    if config.start:
        start_from(model, Path(config.start))
    return train_generator(rest, checks, config, model, token_ids)


def train_generator(
    trees: Sequence[Tree],
    held_out_trees: Sequence[Tree],
    config: TrainConfig,
    model: Any,
    token_ids: list[int],
) -> Path:
    """Trains, resuming from the last checkpoint in `config.out`; the adapter's folder."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed)
    batches = make_batches(trees, config.tokens_per_batch, rng)[: config.max_steps]
    checks = make_batches(held_out_trees, config.tokens_per_batch, rng)[: config.eval_batches]
    on_cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, int(len(batches) * config.warmup_share)),
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=not on_cpu,
        use_cpu=on_cpu,
        logging_steps=10,
        save_steps=config.save_steps,
        save_total_limit=2,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        seed=config.seed,
        disable_tqdm=True,
    )
    n_tokens = sum(len(tree.ids) for batch in batches for tree in batch)
    logger.info("training on %d tokens in %d steps", n_tokens, len(batches))
    facts = {**asdict(config), "tokens": n_tokens, "torch": torch.__version__, "commit": _commit()}
    (out / "run.json").write_text(json.dumps(facts, indent=1))
    trainer = GeneratorTrainer(
        model=model,
        args=arguments,
        train_dataset=_Batches(batches),
        data_collator=lambda items: collate(items[0]),
        callbacks=[
            _HeldOut([collate(batch) for batch in checks], token_ids, out / "held_out.jsonl")
        ],
    )
    checkpoints = out / "checkpoints"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(str(out / "adapter"))
    (out / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return out / "adapter"
