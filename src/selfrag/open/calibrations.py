"""From the options of a model to what its scores mean: the file that is named, or our own.

Knows nothing of how a calibration is fitted.
"""

import logging
from pathlib import Path

from selfrag.decode.calibration import Calibration, load_calibration
from selfrag.errors import BadInput
from selfrag.open.engines import DEFAULT, ModelOptions, adapter_dir, merged_dir

logger = logging.getLogger(__name__)

FILE = "calibration.json"


def weights_name(model: ModelOptions) -> str:
    """What a calibration calls the weights of a model: its name, of ours with their hash.

    A writer is part of it: what the same scores mean depends on who wrote the text.
    """
    name = f"{model.name}/{merged_dir().name}" if model.model == DEFAULT else model.name
    return f"{name}, written by {model.writer}" if model.writer else name


def open_calibration(model: ModelOptions) -> Calibration | None:
    """The calibration that `model` names, else the one beside its weights; None without any.

    Raises `BadInput` for a file that is none, or is one of other weights.
    """
    if model.calibration:
        found = load_calibration(Path(model.calibration))
        if found.model != (name := weights_name(model)):
            raise BadInput(
                f"cannot use the calibration {model.calibration}: it was fitted for "
                f"{found.model}, but the model is {name}; expected one of the same weights, so "
                "make it with `selfrag calibrate`"
            )
        return found
    if model.writer:  # that of the weights is of what they write themselves
        return None
    folder = adapter_dir() if model.model == DEFAULT else Path(model.model).expanduser()
    path = folder / FILE
    if not path.is_file():
        return None
    found = load_calibration(path)
    if found.model != weights_name(model):
        logger.warning("%s was fitted for other weights and is not used", path)
        return None
    return found
