"""The options of `selfrag eval`."""

from pathlib import Path
from typing import Annotated

import typer

from selfrag.open.systems import SystemKind

Name = Annotated[str, typer.Option("--task", help="Which task: popqa, nq_open, asqa, …")]
Who = Annotated[SystemKind, typer.Option("--system", help="Who answers.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run.")]
Data = Annotated[Path | None, typer.Option(help="Question file; else what was fetched.")]
Model = Annotated[str | None, typer.Option(help="Model folder, or a model's name at --base-url.")]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="An OpenAI-compatible API, as http://…/v1.")
]
Device = Annotated[str, typer.Option(help="cpu, or cuda with --engine transformers.")]
TopK = Annotated[int | None, typer.Option("--top-k", "--ndocs", "--top_n", help="Else the task's.")]
PromptName = Annotated[
    str | None,
    typer.Option("--prompt", help="Prompt of rag and vanilla; else the model's chat format."),
]
Sampling = Annotated[str, typer.Option(help="greedy, or released: 0.8 and 0.95, over an API.")]
Limit = Annotated[int | None, typer.Option(help="The first so many questions.")]
Sample = Annotated[int | None, typer.Option(help="So many, drawn by --seed.")]
Seed = Annotated[int, typer.Option(help="Of --sample.")]
BatchSize = Annotated[int, typer.Option(help="Questions answered together.")]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="Only these metrics; may be repeated.")
]
Retry = Annotated[
    bool, typer.Option("--retry-failed", help="Answer again from the first failure on.")
]
Label = Annotated[str | None, typer.Option(help="The system's name in tables.")]
Runs = Annotated[list[Path], typer.Argument(help="Folders that `selfrag eval` wrote.")]
Run = Annotated[Path, typer.Argument(help="Folder that `selfrag eval` wrote.")]
