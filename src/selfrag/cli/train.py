"""`selfrag train` and `selfrag export`: generators and critics, and their weights as models."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfrag.errors import BadInput

if TYPE_CHECKING:
    from selfrag.train.config import TrainConfig
    from selfrag.train.examples import LossWeights

train_app = typer.Typer(help="Train a generator or a critic.", no_args_is_help=True)


def require_training_packages() -> None:
    """Raises `BadInput` where a package of the extra `train` is missing."""
    missing = [name for name in ("torch", "transformers", "peft", "gguf") if not find_spec(name)]
    if missing:
        raise BadInput(
            f"cannot train or export: the package {missing[0]} is not installed; it comes with "
            'an extra, so run `pip install "selfrag[train]"`'
        )


@train_app.command("generator")
def generator(
    data: Annotated[
        Path, typer.Option("--data", "--records", help="JSON lines: released schema or records.")
    ],
    model: Annotated[str, typer.Option("--model", "--base", help="Folder of the base.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder; an old run resumes there.")],
    recipe: Annotated[
        Path | None, typer.Argument(help="TOML recipe, as in recipes/; not needed.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Adapter folder to go on from, as shipped.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora (CUDA) or full.")] = None,
    mask: Annotated[str | None, typer.Option(help="passages, or reference as released.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any key as train.key=value or loss.key=…")
    ] = None,
) -> None:
    """Fine-tune a base model on annotated answers; resumes from the last checkpoint."""
    from selfrag.train.config import TrainConfig, load_recipe, settings
    from selfrag.train.examples import UNIFORM, LossWeights

    require_training_packages()
    tables = load_recipe(recipe) if recipe else {"loss": asdict(UNIFORM)}
    given = {"method": method, "mask": mask, "epochs": epochs, "start": str(start or "")}
    chosen = {name: value for name, value in given.items() if value is not None}
    given = {"base": model, "out": str(out), **chosen}
    config = settings(TrainConfig, "train", tables, given, changes or [])
    _train(data, config, settings(LossWeights, "loss", tables, changes=changes or []))


def _train(data: Path, config: "TrainConfig", weights: "LossWeights") -> None:
    from selfrag.train.checkpoints import plot_run
    from selfrag.train.config import is_first_process
    from selfrag.train.run import train_from_file

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    trained = train_from_file(data, config, weights)
    if not is_first_process():
        return
    account, out = trained.data.account, Path(config.out)
    typer.echo(
        f"used {account.n_used} of {account.n_rows} rows ({account.n_cut} cut at "
        f"{config.max_tokens} tokens, {account.n_plain} without a reflection token)"
    )
    if trained.data.rejects:
        first = trained.data.rejects[0]
        typer.echo(
            f"{account.n_rejected} rows rejected, all named in {out / 'rejects.jsonl'}; "
            f"the first is line {first.number}, which {first.detail}",
            err=True,
        )
    typer.echo(f"weights in {trained.folder}, curve in {plot_run(out)}")


@train_app.command("critic")
def critic(
    data: Annotated[Path, typer.Option("--data", help="JSON lines of critic data.")],
    model: Annotated[str, typer.Option("--model", "--base", help="Folder of the base.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder; an old run resumes there.")],
    recipe: Annotated[
        Path | None, typer.Argument(help="TOML recipe, as in recipes/; not needed.")
    ] = None,
    labels: Annotated[str, typer.Option(help="text, as released, or token.")] = "text",
    method: Annotated[str | None, typer.Option(help="lora, qlora (CUDA) or full.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any key as train.key=value.")
    ] = None,
) -> None:
    """Fine-tune a critic on labelled rows and measure it on some of them that are held out."""
    from selfrag.train.config import TrainConfig, load_recipe, settings

    require_training_packages()
    tables = load_recipe(recipe) if recipe else {}
    given = {"method": method, "epochs": epochs}
    chosen = {name: value for name, value in given.items() if value is not None}
    given = {"base": model, "out": str(out), **chosen}
    config = settings(TrainConfig, "train", tables, given, changes or [])
    _train_critic(data, config, labels)


def _train_critic(data: Path, config: "TrainConfig", labels: str) -> None:
    from selfrag.train.checkpoints import plot_run
    from selfrag.train.config import is_first_process
    from selfrag.train.critic import plot_reliability, train_critic
    from selfrag.train.critic_data import LabelForm

    if labels not in list(LabelForm):
        raise BadInput(f"cannot train a critic: --labels is {labels!r}; expected text or token")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    trained = train_critic(data, config, LabelForm(labels))
    if not is_first_process():
        return
    out = Path(config.out)
    n_rejected = len(trained.rows.rejects)
    typer.echo(f"used {len(trained.rows.rows)} rows, rejected {n_rejected} (rejects.jsonl)")
    for group, counts in trained.rows.counts.items():
        shares = ", ".join(f"{label} {n}" for label, n in counts.items())
        typer.echo(f"{group}: {shares}")
    for group, found in trained.quality.items():
        typer.echo(
            f"{group}: accuracy {found.accuracy:.3f} (always the same label {found.majority:.3f}), "
            f"macro F1 {found.macro_f1:.3f}, calibration error {found.ece:.3f}, n {found.n}"
        )
    plot_run(out)
    plot = plot_reliability(trained.quality, out / "reliability.png")
    typer.echo(f"weights in {trained.folder}, report in {out / 'critic.json'}, plot in {plot}")


@train_app.command("base")
def base(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the base model to.")],
) -> None:
    """Dequantise the packaged base model into a folder to train from."""
    from selfrag.cli.console import Reporter
    from selfrag.engine.prepare import dequantise_base
    from selfrag.open.engines import base_gguf

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

    gguf = assets.named("base-model").files[0]
    path = export_adapter(adapter, out, base_name="SmolLM2-135M-Instruct", gguf_sha256=gguf.sha256)
    typer.echo(f"adapter in {path}")


def export_model(
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
