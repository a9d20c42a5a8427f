"""From the names of GGUF files to the engine that runs them."""

from pathlib import Path
from typing import TYPE_CHECKING

from selfrag.errors import BadInput
from selfrag.prompt import PromptFormat, Tokenizer

if TYPE_CHECKING:
    from selfrag.engine.base import Engine

SUFFIX = ".gguf"


def is_gguf(model: str) -> bool:
    """Whether a model is named by a GGUF file."""
    return files_of(model)[0].suffix == SUFFIX


def files_of(model: str) -> list[Path]:
    """The files that are named with commas between: a model and LoRA adapters for it."""
    return [Path(name.strip()).expanduser() for name in model.split(",")]


def require_files(model: str) -> None:
    """Raises `BadInput` where one of the files is missing or no GGUF."""
    for path in files_of(model):
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise BadInput(
                f"cannot open the model {path}: {error.strerror}; expected a GGUF file, so correct "
                "the name"
            ) from error
        if magic != b"GGUF":
            raise BadInput(
                f"cannot open the model {path}: it begins with {magic!r}, expected a GGUF file, so "
                "name another"
            )


def open_vocabulary(model: str) -> Tokenizer:
    """The vocabulary of a file, without its weights."""
    require_files(model)
    from selfrag.engine.gguf_vocabulary import GgufTokenizer

    return GgufTokenizer(files_of(model)[0])


def open_gguf(
    model: str,
    *,
    name: str,
    tokenizer: Tokenizer | None,
    n_threads: int,
    on_gpu: bool,
    max_batch: int,
    reflects: bool,
) -> "Engine":
    """The engine of a file, whose vocabulary is checked before its weights are read.

    `tokenizer` None: the file's own. Another one must agree with it on the reflection tokens.
    """
    own = open_vocabulary(model)
    from selfrag.engine.llamacpp import LlamaCppEngine

    path, *adapters = files_of(model)
    read_by = tokenizer or own
    if (
        reflects
        and PromptFormat.of(read_by, model=name).ids != PromptFormat.of(own, model=name).ids
    ):
        raise BadInput(
            f"cannot read {path} with another tokenizer: the two disagree on the ids of reflection "
            "tokens; expected the tokenizer that the file was made with, so leave --tokenizer out"
        )
    return LlamaCppEngine(
        path,
        name=name,
        tokenizer=read_by,
        adapters=adapters,
        n_threads=n_threads,
        on_gpu=on_gpu,
        max_batch=max_batch,
    )
