"""Settings of a training run. Knows nothing of torch."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from selfrag.errors import ConfigError
from selfrag.serial import (
    Count,
    NonNegative,
    Share,
    Whole,
    check_config,
    config_from,
    override,
    read_toml,
)
from selfrag.train.examples import Mask

Recipe = dict[str, dict[str, Any]]
T = TypeVar("T")


class Method(StrEnum):
    """Which weights learn; the rows of the reflection tokens always do."""

    LORA = "lora"
    QLORA = "qlora"
    FULL = "full"


class OverLong(StrEnum):
    """What becomes of an example of more than `max_tokens`."""

    CUT = "cut"
    DROP = "drop"


class Precision(StrEnum):
    """In what the passes compute; `auto` is bf16 on CUDA and fp32 elsewhere."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class HeldOut(StrEnum):
    """Which examples are kept from training: the first, or some from all over the file."""

    SPREAD = "spread"
    FIRST = "first"


# Peaks that fit models of 1 to 13 B parameters; all weights: the paper's (appendix B).
DEFAULT_LEARNING_RATE = {Method.LORA: 2e-4, Method.QLORA: 2e-4, Method.FULL: 2e-5}


def is_first_process() -> bool:
    """True in the process that writes, of those that a launcher has started."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run. Lengths in tokens; `learning_rate` is the peak; steps are optimizer's.

    `start`: a shipped adapter to go on from; empty starts anew. One step takes `accumulation`
    batches of `tokens_per_batch` on each process. `learning_rate` None: as fits `method`.
    `max_steps` ends a run early and is the length of its schedule. At most a tenth of the examples
    is held out. Many processes are the launcher's affair (recipes/fsdp2.yaml, recipes/zero3.yaml).
    """

    base: str
    out: str
    start: str = ""
    method: Method = Method.LORA
    mask: Mask = Mask.PASSAGES
    over_long: OverLong = OverLong.CUT
    tokens_per_batch: Count = 2048
    max_tokens: Count = 2048
    epochs: Count = 1
    accumulation: Count = 1
    max_steps: Count | None = None
    learning_rate: NonNegative | None = None
    warmup_share: Share = 0.03
    weight_decay: NonNegative = 0.0
    lora_rank: Count = 32
    lora_alpha: Count = 64
    precision: Precision = Precision.AUTO
    gradient_checkpointing: bool = False
    pad_vocabulary_to: Count = 1
    log_steps: Count = 10
    save_steps: Count = 100
    held_out_trees: Whole = 120
    held_out_from: HeldOut = HeldOut.SPREAD
    eval_batches: Count = 20
    seed: Whole = 0

    def __post_init__(self) -> None:
        check_config(self, "train", doing="train")
        if self.tokens_per_batch < self.max_tokens:
            raise ConfigError(
                f"cannot train: tokens_per_batch is {self.tokens_per_batch}, less than max_tokens "
                f"({self.max_tokens}), so the longest example fits no batch; raise it"
            )

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or what fits the method."""
        if self.learning_rate is None:
            return DEFAULT_LEARNING_RATE[self.method]
        return self.learning_rate


def load_recipe(path: Path, tables: Sequence[str] = ("loss", "train")) -> Recipe:
    """The `tables` of a TOML recipe; an unknown table is an error."""
    recipe = read_toml(path, "the recipe")
    for name, table in recipe.items():
        if name not in tables or not isinstance(table, dict):
            kind = "unknown table" if name not in tables else "no table"
            raise ConfigError(
                f"cannot use the recipe {path}: {kind} {name!r}; expected "
                f"{' and '.join(f'[{each}]' for each in tables)}, so rename or drop it"
            )
    return recipe


def settings(
    kind: type[T],
    table: str,
    recipe: Recipe,
    given: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> T:
    """One config from its table of the recipe, then `given`, then the `changes` of that table.

    Changes are written `table.key=value`. Raises `ConfigError` for an unknown key.
    """
    for change in changes:
        if not change.strip().startswith(("train.", "loss.")):
            raise ConfigError(
                f"cannot use --set {change!r}: expected train.key=value or loss.key=value, "
                "as in --set train.epochs=3"
            )
    config = config_from(kind, {**recipe.get(table, {}), **(given or {})}, table=table)
    own = [change.strip() for change in changes if change.strip().startswith(f"{table}.")]
    return override(config, own, table=table)
