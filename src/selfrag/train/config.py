"""Settings of a training run. Knows nothing of torch."""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from selfrag.errors import BadInput, ConfigError
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

_CHOICES: dict[str, type[StrEnum]] = {
    "method": Method,
    "mask": Mask,
    "over_long": OverLong,
    "precision": Precision,
    "held_out_from": HeldOut,
}
_AT_LEAST_ONE = (
    "tokens_per_batch",
    "max_tokens",
    "epochs",
    "accumulation",
    "lora_rank",
    "lora_alpha",
    "pad_vocabulary_to",
    "log_steps",
    "save_steps",
    "eval_batches",
)


_AT_LEAST_ZERO = ("learning_rate", "warmup_share", "weight_decay", "held_out_trees", "seed")


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
    tokens_per_batch: int = 2048
    max_tokens: int = 2048
    epochs: int = 1
    accumulation: int = 1
    max_steps: int | None = None
    learning_rate: float | None = None
    warmup_share: float = 0.03
    weight_decay: float = 0.0
    lora_rank: int = 32
    lora_alpha: int = 64
    precision: Precision = Precision.AUTO
    gradient_checkpointing: bool = False
    pad_vocabulary_to: int = 1
    log_steps: int = 10
    save_steps: int = 100
    held_out_trees: int = 120
    held_out_from: HeldOut = HeldOut.SPREAD
    eval_batches: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            object.__setattr__(self, name, _choice(name, kind, getattr(self, name)))
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    f"cannot train: train.{name} is {value!r}; expected a whole number of at "
                    "least 1, so change it"
                )
        for name in _AT_LEAST_ZERO:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or value < 0):
                raise ConfigError(
                    f"cannot train: train.{name} is {value!r}; expected a number of at least 0, "
                    "so change it"
                )
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


def _choice(name: str, kind: type[StrEnum], value: Any) -> StrEnum:
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(
            f"cannot train: train.{name} is {value!r}; expected one of {', '.join(kind)}, "
            "so choose one"
        ) from error


def load_recipe(path: Path, tables: Sequence[str] = ("loss", "train")) -> Recipe:
    """The `tables` of a TOML recipe; an unknown table is an error."""
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"cannot read the recipe {path}: {error}; expected a TOML file like those in recipes/, "
            "so name one"
        ) from error
    unknown = sorted(recipe.keys() - set(tables))
    if unknown:
        raise ConfigError(
            f"cannot use the recipe {path}: unknown table {unknown[0]!r}; "
            f"expected {' or '.join(tables)}, so rename or drop it"
        )
    if not all(isinstance(table, dict) for table in recipe.values()):
        raise ConfigError(
            f"cannot use the recipe {path}: a value stands where a table is expected; "
            f"write {' and '.join(f'[{table}]' for table in tables)} as tables"
        )
    return recipe


def settings(kind: type[T], table: str, recipe: Recipe, **given: Any) -> T:
    """One frozen dataclass from its table of the recipe; an unknown key is an error."""
    values = {**recipe.get(table, {}), **given}
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ConfigError(
            f"cannot use the recipe: unknown key {table}.{unknown[0]}; "
            f"expected one of {', '.join(sorted(known))}, so rename or drop it"
        )
    return kind(**values)


def changed(tables: Recipe, changes: Sequence[str]) -> Recipe:
    """`tables` with every `table.key=value` put in; a value that is no TOML is a string."""
    made = {name: dict(table) for name, table in tables.items()}
    for change in changes:
        name, equals, text = change.partition("=")
        table, dot, key = name.strip().partition(".")
        if not (equals and dot) or table not in ("train", "loss"):
            raise ConfigError(
                f"cannot use --set {change!r}: expected train.key=value or loss.key=value, "
                "as in --set train.epochs=3"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            value = text.strip()
        made.setdefault(table, {})[key] = value
    return made
