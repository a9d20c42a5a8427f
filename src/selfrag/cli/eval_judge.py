"""`selfrag eval judge`: the citations and facts of a run, by a judge of your choice."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli import eval_options, options
from selfrag.cli.report import Reporter
from selfrag.errors import BadInput
from selfrag.evaluate.judges import (
    Judge,
    ModelJudge,
    Searched,
    SupportJudge,
    judge_citations,
    judge_facts,
    passages_read,
)
from selfrag.evaluate.record import Record
from selfrag.evaluate.summary import load_run
from selfrag.open import engines, indexes
from selfrag.open.engines import EngineKind
from selfrag.open.systems import text_model


class JudgeKind(StrEnum):
    """Who judges."""

    ISSUP = "issup"  # support tokens of a Self-RAG model, the default weights where none is named
    ASKED = "asked"  # a language model asked for yes or no
    LOCAL = "local"  # the same of the local teacher of `selfrag annotate`
    NLI = "nli"  # a classifier, or a T5 such as TRUE, which ALCE uses


def judge(
    run: eval_options.Run,
    kind: Annotated[JudgeKind, typer.Option("--judge", help="Who judges.")] = JudgeKind.ISSUP,
    model: eval_options.Model = None,
    base_url: eval_options.BaseUrl = None,
    engine: options.Engine = EngineKind.LLAMA,
    knowledge: Annotated[
        str | None,
        typer.Option(help="Index that facts are checked by; else the passages that were read."),
    ] = None,
) -> None:
    """Judge the citations of a run, of biographies their facts too, and measure it anew.

    Verdicts are kept and not asked twice.
    """
    from selfrag.cli.eval_tasks import finish

    records = load_run(run).records
    report = Reporter()
    try:
        with _opened(kind, model, base_url, engine, report) as opened:
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
    finish(run, [], as_json=False)


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


@contextmanager
def _opened(
    kind: JudgeKind,
    model: str | None,
    base_url: str | None,
    engine: EngineKind,
    report: Reporter,
) -> Iterator[Judge]:
    if kind is JudgeKind.LOCAL:
        with _local_teacher(report) as judge:
            yield judge
    elif kind is JudgeKind.NLI:
        from selfrag.evaluate.nli import NliJudge

        if model is None:
            raise BadInput(
                "cannot judge with an NLI model: none is named, and no registry package carries "
                "one; expected a folder, such as that of t5_xxl_true_nli_mixture, so give --model"
            )
        yield NliJudge(model)
    elif kind is JudgeKind.ASKED:
        yield ModelJudge(text_model(report, model=model, base_url=base_url, engine=engine))
    elif model is None:
        yield SupportJudge(engines.load_engine(report, kind=engine))
    else:
        path = Path(model)
        yield SupportJudge(engines.open_engine(path, engine, name=path.name))


@contextmanager
def _local_teacher(report: Reporter) -> Iterator[Judge]:
    """A server of our own, which ends with the block and answers one call at a time."""
    from selfrag.annotate.local import fetch_local_model, serving
    from selfrag.annotate.local_model import MODEL_NAME
    from selfrag.evaluate.model import ApiModel

    model = fetch_local_model(lambda part: engines.fetch_asset(part, report))
    report.say(f"starting {MODEL_NAME} on this machine")
    with serving(model, n_threads=len(os.sched_getaffinity(0))) as url:
        yield ModelJudge(ApiModel(base_url=url, model=MODEL_NAME, n_parallel=1, api_key="ours"))
