"""`selfrag export`: the final weights of a run as a model folder, and as GGUF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli.train import require_training_packages
from selfrag.errors import BadInput


def export(
    run: Annotated[Path, typer.Argument(help="Run folder of `selfrag train`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")],
    gguf: Annotated[str | None, typer.Option(help="Write GGUF too: f16, bf16 or q8_0.")] = None,
    dtype: Annotated[str, typer.Option(help="base, float32, bfloat16 or float16.")] = "base",
) -> None:
    """Merge a trained model into a folder that every engine opens, with its model card."""
    require_training_packages()
    from selfrag.train.folder import WeightType, export_run
    from selfrag.train.gguf_file import GgufType, write_gguf

    _require_one_of("--dtype", dtype, list(WeightType))
    _require_one_of("--gguf", gguf or GgufType.F16, list(GgufType))
    folder = export_run(run, out, WeightType(dtype))
    typer.echo(f"model in {folder}")
    if gguf:
        path = write_gguf(folder, folder / f"{folder.name}-{gguf}.gguf", GgufType(gguf))
        typer.echo(f"GGUF in {path}")


def _require_one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise BadInput(
            f"cannot export: {option} is {value!r}; expected one of {', '.join(known)}, "
            "so choose one"
        )
