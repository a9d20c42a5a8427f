"""`selfrag train`: records from labelled sets, the generator, the adapter, the curve."""

import logging
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from selfrag.errors import BadInput, ConfigError

train_app = typer.Typer(help="Train the default generator.", no_args_is_help=True)

T = TypeVar("T")

RecipeArgument = Annotated[Path, typer.Argument(help="TOML recipe, as in recipes/.")]


def load_recipe(path: Path) -> dict[str, dict[str, Any]]:
    """The tables `mix`, `loss` and `train` of a recipe; an unknown table or key is an error."""
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"cannot read the recipe {path}: {error}; expected a TOML file like those in recipes/, "
            "so name one"
        ) from error
    unknown = sorted(recipe.keys() - {"mix", "loss", "train"})
    if unknown:
        raise ConfigError(
            f"cannot use the recipe {path}: unknown table {unknown[0]!r}; "
            "expected mix, loss or train, so rename or drop it"
        )
    if not all(isinstance(table, dict) for table in recipe.values()):
        raise ConfigError(
            f"cannot use the recipe {path}: a value stands where a table is expected; "
            "write [mix], [loss] and [train] as tables"
        )
    return recipe


def settings(kind: type[T], table: str, recipe: dict[str, dict[str, Any]], **given: Any) -> T:
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


@train_app.command("data")
def data(
    recipe: RecipeArgument,
    data: Annotated[Path, typer.Option("--data", help="Folder of labelled sets.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write.")],
) -> None:
    """Turn labelled question-answering sets into generator records."""
    from selfrag.record import save_records
    from selfrag.train.mix import MixConfig, build_mix

    config = settings(MixConfig, "mix", load_recipe(recipe))
    records = build_mix(data, recipe.parent, config)
    save_records(records, out)
    typer.echo(f"wrote {len(records)} records to {out}")


@train_app.command("generator")
def generator(
    recipe: RecipeArgument,
    records: Annotated[Path, typer.Option("--records", help="JSONL from `train data`.")],
    base: Annotated[str, typer.Option("--base", help="Folder of the base model.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder; an old run resumes there.")],
    start: Annotated[
        Path | None, typer.Option("--start", help="Adapter folder to go on from, as shipped.")
    ] = None,
) -> None:
    """Fine-tune a base model on generator records; resumes from the last checkpoint."""
    from selfrag.record import load_records
    from selfrag.train.examples import LossWeights
    from selfrag.train.plot import plot_run
    from selfrag.train.run import TrainConfig, train_from_records

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    tables = load_recipe(recipe)
    config = settings(TrainConfig, "train", tables, base=base, out=str(out), start=str(start or ""))
    weights = settings(LossWeights, "loss", tables)
    adapter = train_from_records(list(load_records(records)), config, weights)
    typer.echo(f"adapter in {adapter}, curve in {plot_run(out)}")


@train_app.command("gate")
def gate(
    records: Annotated[Path, typer.Option("--records", help="JSONL from `train data`.")],
    adapter: Annotated[Path, typer.Option("--adapter", help="Adapter folder, as shipped.")],
    out: Annotated[Path, typer.Option("--out", help="Adapter folder to write.")],
    ridge: Annotated[float, typer.Option(help="How dear it is to change the row.")] = 0.3,
) -> None:
    """Fit the row of [No Retrieval] alone: the decision to retrieve changes and nothing else."""
    from tempfile import TemporaryDirectory

    from selfrag.cli.build import base_gguf
    from selfrag.cli.report import Reporter
    from selfrag.engine.prepare import prepare_model
    from selfrag.record import load_records
    from selfrag.train.gate import fit_gate

    examples = list(load_records(records))
    with TemporaryDirectory() as folder:
        model = prepare_model(
            gguf=base_gguf(Reporter()), adapter=adapter, out=Path(folder) / "model"
        )
        fit_gate(model, adapter, out, examples, ridge=ridge)
    typer.echo(f"adapter in {out}")


@train_app.command("base")
def base(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the base model to.")],
) -> None:
    """Dequantise the packaged base model into a folder to train from."""
    from selfrag.cli.build import base_gguf
    from selfrag.cli.report import Reporter
    from selfrag.engine.prepare import dequantise_base

    dequantise_base(base_gguf(Reporter()), out)
    typer.echo(f"base model in {out}")


@train_app.command("export")
def export(
    adapter: Annotated[Path, typer.Option("--adapter", help="PEFT folder of a run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to ship.")],
) -> None:
    """Write a trained adapter in the small form that ships with the project."""
    from selfrag import assets
    from selfrag.train.export import export_adapter

    gguf = assets.BASE_MODEL.files[0]
    path = export_adapter(adapter, out, base_name="SmolLM2-135M-Instruct", gguf_sha256=gguf.sha256)
    typer.echo(f"adapter in {path}")
