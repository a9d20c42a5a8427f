"""From the name of a model to the constants by which it checks: `grounding.json` beside weights."""

import json
import logging
from dataclasses import replace
from pathlib import Path

from selfrag.decode.grounding import FEATURES, Grounding
from selfrag.errors import BadInput
from selfrag.files import read_errors
from selfrag.open.calibrations import weights_name
from selfrag.open.engines import DEFAULT, ModelOptions, adapter_dir
from selfrag.serial import from_builtins

logger = logging.getLogger(__name__)

FILE_NAME = "grounding.json"


def grounding_of(model: ModelOptions) -> Grounding:
    """The constants beside the weights of a model; the plain ones without any, or of others.

    Whoever writes, the text is judged by these weights.
    """
    folder = adapter_dir() if model.model == DEFAULT else Path(model.model).expanduser()
    found = load_grounding(path := folder / FILE_NAME)
    if found.is_fitted and found.model != weights_name(replace(model, writer="")):
        logger.warning("%s was fitted for other weights and is not used", path)
        return Grounding()
    return found


def load_grounding(path: Path) -> Grounding:
    """The constants in a file; the plain ones where there is none.

    Raises `BadInput` for a file that is not in the form that docs/formats.md gives.
    """
    if not path.is_file():
        return Grounding()
    with read_errors("the constants of checking", path):
        text = path.read_text(encoding="utf-8")
    try:
        found = from_builtins(Grounding, json.loads(text), closed=True)
        if unknown := set(found.weights) - set(FEATURES):
            raise ValueError(f"it has a weight for {min(unknown)!r}")
    except ValueError as error:
        raise BadInput(
            f"cannot read the constants of checking from {path}: {error}; expected `weights` of "
            f"{', '.join(FEATURES)}, `bias`, `supported` and `partial`, so make the file again"
        ) from error
    return found
