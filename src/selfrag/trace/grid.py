"""A grid of settings to rescore under: gate thresholds and score weights.

Knows nothing of traces.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from selfrag.engine.base import FloatArray
from selfrag.errors import ConfigError

MAX_VALUES = 10_001  # of one setting: 0:1:0.0001
MAX_SETTINGS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All combinations of the values given for each setting; defaults are the paper's.

    `threshold` in [0, 1], None decides by the emitted token; weights are at least 0. Settings are
    ordered with `threshold` slowest and `w_seq` fastest, each in the order of its values.
    """

    threshold: tuple[float | None, ...] = (0.2,)
    w_rel: tuple[float, ...] = (1.0,)
    w_sup: tuple[float, ...] = (1.0,)
    w_use: tuple[float, ...] = (0.5,)
    w_seq: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for value in self.threshold:
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(
                    f"cannot rescore: threshold is {value}, but it is a share; "
                    "choose numbers from 0 to 1, or none"
                )
        for name in ("w_rel", "w_sup", "w_use", "w_seq"):
            for value in getattr(self, name):
                if not (math.isfinite(value) and value >= 0.0):
                    raise ConfigError(
                        f"cannot rescore: {name} is {value}, but a weight is a finite number of "
                        "at least 0; set it so"
                    )
        if not 1 <= self.n_settings <= MAX_SETTINGS:
            raise ConfigError(
                f"cannot rescore: the grid has {self.n_settings:,} settings, expected 1 to "
                f"{MAX_SETTINGS:,}; choose other values"
            )

    @classmethod
    def parse(
        cls,
        *,
        threshold: str = "0.2",
        w_rel: str = "1",
        w_sup: str = "1",
        w_use: str = "0.5",
        w_seq: str = "1",
    ) -> "Grid":
        """The grid of texts such as `0.2`, `0,0.5,none` and `0:1:0.05`, the end included.

        A value that comes twice counts once. Raises `ConfigError` for any other text.
        """
        return cls(
            threshold=_values("threshold", threshold),
            w_rel=_numbers("w_rel", w_rel),
            w_sup=_numbers("w_sup", w_sup),
            w_use=_numbers("w_use", w_use),
            w_seq=_numbers("w_seq", w_seq),
        )

    @property
    def n_settings(self) -> int:
        """How many combinations there are."""
        return len(self.threshold) * self.n_weights

    @property
    def n_weights(self) -> int:
        """How many combinations of weights there are, thresholds aside."""
        return len(self.w_rel) * len(self.w_sup) * len(self.w_use) * len(self.w_seq)

    @property
    def weights(self) -> FloatArray:
        """Shape (n_weights, 4): relevance, support, utility, sequence; the last one fastest."""
        combined = itertools.product(self.w_rel, self.w_sup, self.w_use, self.w_seq)
        return np.array(list(combined), dtype=float).reshape(-1, 4)


def _values(name: str, text: str) -> tuple[float | None, ...]:
    """As `_numbers`, with the word `none` among the values."""
    values: dict[float | None, None] = {}
    for part in text.split(","):
        bare = part.strip()
        values.update(dict.fromkeys([None] if bare.lower() == "none" else _part(name, bare)))
    return tuple(values)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    parts = [_part(name, part.strip()) for part in text.split(",")]
    return tuple(dict.fromkeys(itertools.chain.from_iterable(parts)))


def _part(name: str, text: str) -> list[float]:
    """One number, or the numbers of start:stop:step."""
    try:
        numbers = [float(piece) for piece in text.split(":")]
    except ValueError:
        numbers = []
    if not all(map(math.isfinite, numbers)):
        numbers = []
    if len(numbers) == 1:
        return numbers
    if len(numbers) == 3 and numbers[2] > 0 and numbers[0] <= numbers[1]:
        start, stop, step = numbers
        # Values are multiples of the step without the dust of binary fractions: 0.15, not
        # 0.15000000000000002; the end belongs to the range when it is that close to a multiple.
        steps = (stop - start) / step + 1e-9
        if steps < MAX_VALUES:
            return [round(start + index * step, 12) for index in range(math.floor(steps) + 1)]
    raise ConfigError(
        f"cannot rescore: {name} is {text!r}, expected a number, a range start:stop:step such as "
        f"0:1:0.05 with at most {MAX_VALUES:,} values, or several with commas between; write it so"
    )
