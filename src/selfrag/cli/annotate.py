"""`selfrag annotate`: critic data from seed rows, generator data from answers, a look at either."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selfrag.annotate.assemble import AssemblyConfig, Bug
from selfrag.cli import options
from selfrag.cli.console import Reporter, print_json, stdout, visible
from selfrag.errors import BadInput
from selfrag.files import beside, check_outputs, is_plain
from selfrag.open import indexes
from selfrag.open.teachers import TeacherOptions, open_teacher
from selfrag.progress import working
from selfrag.reflection import ReflectionToken, Relevance, Retrieve, Support, Utility
from selfrag.text import counted

if TYPE_CHECKING:
    from selfrag.annotate.judge import AnswerStore, Judge, Prices, Tally
    from selfrag.annotate.judgement import Group
    from selfrag.annotate.report import DataRow
    from selfrag.annotate.seeds import Seed
    from selfrag.annotate.sources import SourceRow
    from selfrag.rows import Reject

# A cluster has enough to do only when this many windows of rows go out together.
_CLUSTER_WINDOWS = 16
_TOLD_EVERY = 1_000  # rows that are only counted

_COLOURS: dict[type[ReflectionToken], str] = {
    Retrieve: "bold cyan",
    Relevance: "bold magenta",
    Support: "bold green",
    Utility: "bold yellow",
}

annotate_app = typer.Typer(help="Make training data with a teacher.", no_args_is_help=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where a run writes, what it costs, and how it tells of itself."""

    out: Annotated[Path, typer.Option("--out", help="JSON lines file to write.")]
    price_in: Annotated[float | None, typer.Option(help="Price of a million tokens sent.")] = None
    price_out: Annotated[float | None, typer.Option(help="Price of a million tokens received.")] = (
        None
    )
    answers: Annotated[
        Path | None,
        typer.Option(help="File of stored answers; <out>.answers.sqlite when not given."),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Rows at most.")] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would ask and cost.")
    ] = False
    as_json: options.Json = False

    @property
    def prices(self) -> "Prices":
        """What tokens cost."""
        from selfrag.annotate.judge import Prices

        return Prices(prompt=self.price_in, completion=self.price_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Which labels are asked, and of which rows."""

    groups: Annotated[str, typer.Option(help="Which to ask, as in retrieve,support.")] = ""
    balance: Annotated[
        bool, typer.Option("--balance", help="Label as if each label were equally frequent.")
    ] = False


@annotate_app.command("critic")
@options.command
def critic(
    seeds: Annotated[Path, typer.Argument(help="Seed rows: JSON lines, or one JSON list.")],
    run: Run,
    teacher: Annotated[TeacherOptions, options.Without({"critic", "engine", "workers.n_gpus"})],
    labels: Labels,
) -> None:
    """Label seed rows: data to train a critic on. A run that was stopped goes on where it was."""
    from selfrag.annotate.critic_data import groups_from, write_critic_data
    from selfrag.annotate.seeds import only_gold, read_seeds

    _check(run, [seeds])
    asked = groups_from(_names(labels.groups))
    is_known = teacher.teacher == "gold"

    def rows() -> "Iterator[Seed | Reject]":
        read = read_seeds(seeds)
        return islice(only_gold(read) if is_known else read, run.limit)

    if is_known:
        with working(Reporter(), "writing"):
            summary = write_critic_data(rows(), None, run.out, groups=asked)
        _finish(summary, run.out, as_json=run.as_json)
        return
    _label(rows, teacher, asked, run, balance=labels.balance)


def _label(
    rows: "Callable[[], Iterator[Seed | Reject]]",
    chosen: TeacherOptions,
    groups: "tuple[Group, ...]",
    run: Run,
    *,
    balance: bool,
) -> None:
    from selfrag.annotate.critic_data import (
        WINDOW,
        judged_shares,
        planned_cases,
        write_critic_data,
    )
    from selfrag.annotate.judge import Judge, estimate

    report = Reporter()
    next(rows(), None)  # what cannot be read at all fails before a model is fetched or started
    with (
        _store(run.out, run.answers, dry_run=run.dry_run) as store,
        open_teacher(chosen, report, dry_run=run.dry_run) as teacher,
    ):
        with working(report, "reading the rows"):
            planned = estimate(Judge(teacher, store), planned_cases(rows(), groups=groups))
        report.say(f"{teacher.name}: {planned.sentence(run.prices)}")
        if run.dry_run:
            return
        judge = Judge(teacher, store, on_answer=_bar(report, planned.calls))
        report.progress("asking", 0, planned.calls)
        try:
            window = WINDOW * (_CLUSTER_WINDOWS if chosen.workers.ray else 1)
            shares = judged_shares(rows(), judge, groups=groups, window=window) if balance else None
            summary = write_critic_data(
                rows(),
                judge,
                run.out,
                groups=groups,
                prices=run.prices,
                shares=shares,
                window=window,
            )
        finally:
            report.close()
            report.say(spent(judge, run.prices))
    _finish(summary, run.out, as_json=run.as_json)


@annotate_app.command("generator")
@options.command
def generator(
    *,
    sources: Annotated[
        list[str], typer.Argument(help="Plain JSON lines, or kind:name:path as in dpr:nq:FILE.")
    ],
    run: Run,
    index: options.Index = None,
    teacher: Annotated[TeacherOptions, options.Without({"explain", "workers.n_gpus"})],
    rules: AssemblyConfig,
    bugs: Annotated[
        str, typer.Option(help="Of the reference rules: names with commas, or all.")
    ] = "",
) -> None:
    """Annotate answers sentence by sentence: data to train a generator on. Resumes likewise."""
    from selfrag.annotate.sources import Source, read_sources

    if rules.top_k < 1:
        raise BadInput(
            f"cannot annotate: --top-k is {rules.top_k}; expected at least 1 passage a sentence, "
            "so raise it"
        )
    files = [Source.parse(source) for source in sources]
    _check(run, [file.path for file in files])
    config = replace(rules, bugs=bugs_from(bugs))
    _annotate(lambda: islice(read_sources(files), run.limit), teacher, index, config, run)


def _annotate(
    rows: "Callable[[], Iterator[SourceRow | Reject]]",
    chosen: TeacherOptions,
    index: str | None,
    config: AssemblyConfig,
    run: Run,
) -> None:
    from selfrag.annotate.generator_data import WINDOW, planned_at_most, write_generator_data
    from selfrag.annotate.judge import Judge, estimate

    report = Reporter()
    with working(report, "reading the rows"):
        n_rows = sum(1 for _ in rows())
    with (
        _store(run.out, run.answers, dry_run=run.dry_run) as store,
        open_teacher(chosen, report, dry_run=run.dry_run) as teacher,
    ):
        with working(report, "reading the rows"):
            most = estimate(Judge(teacher, store), planned_at_most(rows(), config.top_k))
        most = replace(most, stored=len(store))  # some of which may be for other rows
        report.say(f"{teacher.name}: {counted(n_rows, 'row')}, at most {most.sentence(run.prices)}")
        if run.dry_run:
            return
        judge = Judge(teacher, store)
        retriever = indexes.open_index(index, report)
        report.progress("annotating", 0, n_rows)
        try:
            summary = write_generator_data(
                rows(),
                judge,
                retriever,
                run.out,
                config,
                prices=run.prices,
                window=WINDOW * (_CLUSTER_WINDOWS if chosen.workers.ray else 1),
                on_progress=lambda done: report.progress("annotating", done, n_rows),
            )
        finally:
            report.close()
            report.say(spent(judge, run.prices))
    _finish(summary, run.out, as_json=run.as_json)


def bugs_from(names: str) -> frozenset[Bug]:
    """Bugs by name, `all` for all of them; raises `BadInput` for a name that is none."""
    given = _names(names)
    unknown = sorted(set(given) - {*Bug, "all"})
    if unknown:
        raise BadInput(
            f"cannot switch on the bug {unknown[0]!r}: there is none of that name; expected some "
            f"of {', '.join(Bug)}, or all"
        )
    return frozenset(Bug) if "all" in given else frozenset(Bug(name) for name in given)


@annotate_app.command("inspect")
@options.command
def inspect(
    *,
    path: Annotated[Path, typer.Argument(help="Generator data, ours or as released.")],
    n_rows: Annotated[int, typer.Option("--rows", min=0, help="Rows to show.")] = 5,
    full: Annotated[bool, typer.Option("--full", help="Whole passages.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show rows of generator data with their tokens in colour, and count what is in the file."""
    from selfrag.annotate.report import DataRow, DataStatistics, read_data

    statistics = DataStatistics()
    report = Reporter()
    for row in read_data(path):
        if not isinstance(row, DataRow):
            statistics.rejects += 1
            continue
        statistics.add(row)
        if statistics.rows <= n_rows and not as_json:
            show_row(row, full=full)
        elif statistics.rows % _TOLD_EVERY == 0:
            report.progress("reading the rows", statistics.rows, 0)
    report.close()
    if not statistics.rows:
        raise BadInput(
            f"cannot inspect {path}: of {counted(statistics.rejects, 'row')} none has an "
            "instruction and an output; expected generator data, so name such a file"
        )
    counts = statistics.to_json()
    if as_json:
        print_json(counts)
        return
    for name, value in counts.items():
        told = value if isinstance(value, int) else ", ".join(f"{k} {n}" for k, n in value.items())
        stdout.print(f"{name}: {told}", markup=False)


def _names(text: str) -> list[str]:
    """What stands between the commas of `text`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _check(run: Run, inputs: Sequence[Path]) -> None:
    """Refuses, before any work, files of a run that cannot be meant."""
    if not is_plain(run.out):
        raise BadInput(
            f"cannot annotate into {run.out}: it is no plain file; expected one, beside which "
            "rejects, report and answers are kept, so name one"
        )
    endings = (".answers.sqlite", ".rejects.jsonl", ".report.json", ".report.png")
    outputs = {f"<out>{ending}": beside(run.out, ending) for ending in endings}
    if run.answers is not None:
        outputs["<out>.answers.sqlite"] = run.answers
    check_outputs({"--out": run.out, **outputs}, {str(path): path for path in inputs})


def _store(out: Path, answers: Path | None, *, dry_run: bool) -> "AnswerStore":
    from selfrag.annotate.judge import AnswerStore

    path = answers or beside(out, ".answers.sqlite")
    return AnswerStore(Path(":memory:") if dry_run and not path.exists() else path)


def _bar(report: Reporter, n_calls: int) -> "Callable[[Tally], None]":
    return lambda tally: report.progress("asking", tally.asked, max(n_calls, tally.asked))


def spent(judge: "Judge", prices: "Prices") -> str:
    """What this run asked and paid, and which calls failed, in words."""
    tally = judge.tally
    cost = prices.cost(tally.prompt_tokens, tally.completion_tokens)
    money = "" if cost is None else f", cost {cost:.4f}"
    failures = ", ".join(f"{n} {reason}" for reason, n in sorted(tally.failures.items()))
    return (
        f"{tally.asked} answered ({tally.prompt_tokens} tokens sent, "
        f"{tally.completion_tokens} received{money}), {tally.reused} known before"
        + (f"; without an answer: {failures}" if failures else "")
    )


def _finish(summary: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    from selfrag.annotate.report import plot_labels

    plot_labels(summary, beside(out, ".report.png"))
    if as_json:
        print_json(dict(summary))
        return
    show_labels(summary)
    if "rows" in summary:
        for token, count in summary["tokens"].items():
            stdout.print(f"{token}: {count} in the data", markup=False)
        stdout.print(f"wrote {counted(summary['rows'], 'row')} to {out}", markup=False)
    else:
        stdout.print(f"wrote {counted(summary['labels'], 'label')} to {out}", markup=False)


def show_row(row: "DataRow", *, full: bool) -> None:
    """One row; of its passages the beginning, or with `full` all."""
    stdout.rule(escape(visible(f"{row.id} ({row.dataset})")), align="left", style="dim")
    shown = Text(visible(row.instruction) + "\n", style="bold")
    for span in row.spans:
        text = visible(span.text)
        if span.token is not None:
            shown.append(text, style=_COLOURS.get(type(span.token), "red"))
        elif span.is_passage:
            shown.append(text if full or len(text) <= 100 else f"{text[:100]}…", style="dim")
        else:
            shown.append(text, style="not bold")
    stdout.print(shown)


def _agreement(agreed: Mapping[str, Any]) -> str:
    low, high = agreed["interval"]
    return (
        f"{agreed['share']:.0%} of {agreed['n']} ({low:.0%} to {high:.0%}), kappa {agreed['kappa']}"
    )


def show_labels(summary: Mapping[str, Any]) -> None:
    """The counts, the agreement and the rejects of a report as tables."""
    table = Table("group", "label", "count", "agreement with gold", title=summary["teacher"])
    for group, counts in summary["counts"].items():
        agreed = summary["agreement"].get(group)
        told = _agreement(agreed) if agreed else ""
        for n, (label, count) in enumerate(counts.items()):
            first = n == 0
            table.add_row(group if first else "", escape(label), str(count), told if first else "")
    stdout.print(table)
    for group, by_set in summary["agreement_by_set"].items():
        for name, agreed in by_set.items() if len(by_set) > 1 else ():
            stdout.print(f"{group}, {name}: {_agreement(agreed)}", markup=False)
    for reason, count in summary["rejects"].items():
        stdout.print(f"rejected, {reason}: {count}", markup=False)
