"""The weighted mean of two adapters, one of which was trained from the other.

    python recipes/default_weights/average.py ADAPTER ADAPTER --share 0.25 --out ADAPTER

Between the weights before and after a short stage lie weights that keep most of what each knows
(weight averaging, arXiv 2203.05482).
"""

import argparse
import sys
from pathlib import Path

from safetensors.torch import load_file

from selfrag.engine.adapter import ADAPTER_TENSORS, read_description
from selfrag.errors import BadInput, SelfRAGError
from selfrag.train.export import save_adapter


def average(first: Path, second: Path, out: Path, share: float = 0.5) -> None:
    """Writes the mean, `share` of it of the second; raises `BadInput` where they do not fit."""
    description, other = (read_description(folder) for folder in (first, second))
    one, two = (load_file(folder / ADAPTER_TENSORS) for folder in (first, second))
    shapes = [{name: tuple(each.shape) for name, each in some.items()} for some in (one, two)]
    if other != description or shapes[0] != shapes[1]:
        raise BadInput(
            f"cannot average {first} and {second}: they differ in base, modules or shapes; "
            "expected one trained from the other, so name such a pair"
        )
    mean = {
        name: (1 - share) * each.float() + share * two[name].float() for name, each in one.items()
    }
    save_adapter(out, description, {name: mean[name].to(one[name].dtype) for name in mean})


def main() -> None:
    """Averages two adapters."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("adapters", type=Path, nargs=2)
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="adapter folder to write")
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share {options.share} is not from 0 to 1")
    try:
        first, second = options.adapters
        average(first, second, options.out, options.share)
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"adapter in {options.out}\n")


if __name__ == "__main__":
    main()
