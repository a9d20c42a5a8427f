"""`selfrag eval judge`: the citations and facts of a run, by a judge of your choice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli import eval_options, options
from selfrag.cli.report import Reporter
from selfrag.evaluate.judges import (
    Judge,
    Searched,
    judge_citations,
    judge_facts,
    passages_read,
)
from selfrag.evaluate.record import Record
from selfrag.evaluate.summary import load_run
from selfrag.open import indexes
from selfrag.open.engines import EngineKind
from selfrag.open.systems import AskedModel, JudgeKind, open_judge


def judge(
    run: eval_options.Run,
    kind: Annotated[JudgeKind, typer.Option("--judge", help="Who judges.")] = JudgeKind.ISSUP,
    model: eval_options.Model = None,
    base_url: eval_options.BaseUrl = None,
    engine: options.Engine = EngineKind.AUTO,
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
        asked = AskedModel(model=model, base_url=base_url, engine=engine)
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
