"""`selfrag train` and `selfrag export`: generators and critics, and their weights as models."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfrag.cli import options
from selfrag.cli.console import LogLines, Reporter, stderr, stdout
from selfrag.errors import BadInput, MissingPackage
from selfrag.progress import working
from selfrag.text import counted

if TYPE_CHECKING:
    from selfrag.train.checkpoints import OnStep
    from selfrag.train.config import Recipe, TrainConfig
    from selfrag.train.examples import LossWeights

train_app = typer.Typer(help="Train a generator or a critic.", no_args_is_help=True)


def require_training_packages() -> None:
    """Raises `MissingPackage` where a package of the extra `train` is missing."""
    missing = [name for name in ("torch", "transformers", "peft", "gguf") if not find_spec(name)]
    if missing:
        raise MissingPackage(
            f"cannot train or export: the package {missing[0]} is not installed; it comes with "
            'an extra, so run `pip install "selfrag[train]"`'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What every training needs to know."""

    data: Annotated[Path, typer.Option("--data", "--records", help="JSON lines of the examples.")]
    model: Annotated[str, typer.Option("--model", "--base", help="Folder of the base.")]
    out: Annotated[Path, typer.Option("--out", help="Run folder; an old run resumes there.")]
    recipe: Annotated[
        Path | None, typer.Argument(help="TOML recipe, as in recipes/; not needed.")
    ] = None
    method: Annotated[str | None, typer.Option(help="lora, qlora (CUDA) or full.")] = None
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any key as train.key=value or loss.key=…")
    ] = None

    def config(self, tables: "Recipe", **own: str | None) -> "TrainConfig":
        """The settings of the recipe's `tables`, then of the options, then of `--set`."""
        from selfrag.train.config import TrainConfig, settings

        asked = {"method": self.method, "epochs": self.epochs, **own}
        given = {name: value for name, value in asked.items() if value is not None}
        given |= {"base": self.model, "out": str(self.out)}
        return settings(TrainConfig, "train", tables, given, self.changes or [])


@train_app.command("generator")
@options.command
def generator(
    run: Run,
    start: Annotated[
        str | None, typer.Option(help="Adapter folder to go on from, as shipped.")
    ] = None,
    mask: Annotated[str | None, typer.Option(help="passages, or reference as released.")] = None,
) -> None:
    """Fine-tune a base model on annotated answers; resumes from the last checkpoint."""
    from selfrag.train.config import load_recipe, settings
    from selfrag.train.examples import UNIFORM, LossWeights

    require_training_packages()
    tables = load_recipe(run.recipe) if run.recipe else {"loss": asdict(UNIFORM)}
    config = run.config(tables, start=start, mask=mask)
    _train(run.data, config, settings(LossWeights, "loss", tables, changes=run.changes or []))


def _train(data: Path, config: "TrainConfig", weights: "LossWeights") -> None:
    from selfrag.train.checkpoints import plot_run
    from selfrag.train.config import is_first_process
    from selfrag.train.run import train_from_file

    with _told() as on_step:
        trained = train_from_file(data, config, weights, on_step)
    if not is_first_process():
        return
    account, out = trained.data.account, Path(config.out)
    stdout.print(
        f"used {account.n_used} of {counted(account.n_rows, 'row')} ({account.n_cut} cut at "
        f"{config.max_tokens} tokens, {account.n_plain} without a reflection token)",
        markup=False,
    )
    if trained.data.rejects:
        first = trained.data.rejects[0]
        stderr.print(
            f"{counted(account.n_rejected, 'row')} rejected, all named in {out / 'rejects.jsonl'}; "
            f"the first is line {first.number}, which {first.detail}",
            markup=False,
        )
    stdout.print(f"weights in {trained.folder}, curve in {plot_run(out)}", markup=False)


@contextmanager
def _told() -> "Iterator[OnStep]":
    """What is to be told of every step; the log of the library goes to standard error."""
    handler = LogLines(stderr)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[handler])
    report = Reporter()

    def on_step(step: int, n_steps: int, loss: float | None) -> None:
        said = f"step {step} of {n_steps}" + ("" if loss is None else f", loss {loss:.4f}")
        report.progress("training", step, n_steps, said=said)
        if step == n_steps:
            report.progress("saving and measuring", 0, 0)

    with working(report, "preparing the data"):
        yield on_step


@train_app.command("critic")
@options.command
def critic(
    run: Run,
    labels: Annotated[str, typer.Option(help="text, as released, or token.")] = "text",
) -> None:
    """Fine-tune a critic on labelled rows and measure it on some of them that are held out."""
    from selfrag.train.config import load_recipe

    require_training_packages()
    config = run.config(load_recipe(run.recipe) if run.recipe else {})
    _train_critic(run.data, config, labels)


def _train_critic(data: Path, config: "TrainConfig", labels: str) -> None:
    from selfrag.train.checkpoints import plot_run
    from selfrag.train.config import is_first_process
    from selfrag.train.critic import plot_reliability, train_critic
    from selfrag.train.critic_data import LabelForm

    if labels not in list(LabelForm):
        raise BadInput(f"cannot train a critic: --labels is {labels!r}; expected text or token")
    with _told() as on_step:
        trained = train_critic(data, config, LabelForm(labels), on_step)
    if not is_first_process():
        return
    out = Path(config.out)
    n_rejected = len(trained.rows.rejects)
    stdout.print(
        f"used {counted(len(trained.rows.rows), 'row')}, rejected {n_rejected} (rejects.jsonl)",
        markup=False,
    )
    for group, counts in trained.rows.counts.items():
        shares = ", ".join(f"{label} {n}" for label, n in counts.items())
        stdout.print(f"{group}: {shares}", markup=False)
    for group, found in trained.quality.items():
        stdout.print(
            f"{group}: accuracy {found.accuracy:.3f} (always the same label {found.majority:.3f}), "
            f"macro F1 {found.macro_f1:.3f}, calibration error {found.ece:.3f}, n {found.n}",
            markup=False,
        )
    plot_run(out)
    plot = plot_reliability(trained.quality, out / "reliability.png")
    stdout.print(
        f"weights in {trained.folder}, report in {out / 'critic.json'}, plot in {plot}",
        markup=False,
    )


@train_app.command("base")
def base(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the base model to.")],
) -> None:
    """Dequantise the packaged base model into a folder to train from."""
    from selfrag.engine.prepare import dequantise_base
    from selfrag.open.engines import base_gguf

    report = Reporter()
    packed = base_gguf(report)
    with working(report, "unpacking the model"):
        dequantise_base(packed, out)
    stdout.print(f"base model in {out}", markup=False)


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
    stdout.print(f"adapter in {path}", markup=False)


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
    report = Reporter()
    with working(report, "merging the weights"):
        folder = export_run(run, out, WeightType(dtype))
    stdout.print(f"model in {folder}", markup=False)
    if gguf:
        with working(report, "writing the GGUF"):
            path = write_gguf(folder, folder / f"{folder.name}-{gguf}.gguf", GgufType(gguf))
        stdout.print(f"GGUF in {path}", markup=False)


def _require_one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise BadInput(
            f"cannot export: {option} is {value!r}; expected one of {', '.join(known)}, "
            "so choose one"
        )
