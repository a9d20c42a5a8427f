"""`selfrag eval judge`: citation recall and precision of a run, by a judge of your choice."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli import build, eval_options, options
from selfrag.cli.build import EngineKind
from selfrag.cli.eval_open import text_model
from selfrag.cli.report import Reporter
from selfrag.errors import BadInput
from selfrag.evaluate.factscore import Searched, judge_facts, passages_read
from selfrag.evaluate.judges import Judge, ModelJudge, SupportJudge, judge_citations
from selfrag.evaluate.record import Record
from selfrag.evaluate.summary import load_run


class JudgeKind(StrEnum):
    """Who judges."""

    ISSUP = "issup"  # support tokens of a Self-RAG model, the default weights where none is named
    ASKED = "asked"  # a language model asked for yes or no
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

    loaded = load_run(run)
    report = Reporter()
    opened = _open(kind, model, base_url, engine, report)
    try:
        judge_citations(
            run,
            loaded.records,
            opened,
            lambda done, total: report.progress("judging", done, total),
        )
        if any(record.question.topic for record in loaded.records):
            _judge_facts(run, loaded.records, opened, knowledge, report)
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
        passages_read if knowledge is None else Searched(build.open_index(knowledge, report)),
        known_from="read" if knowledge is None else Path(knowledge).name,
        on_progress=lambda done, total: report.progress("judging facts", done, total),
    )
    if found.n_whole:
        report.say(
            f"{found.n_whole} of {found.n_sentences} sentences could not be cut into facts and "
            "count as one each"
        )


def _open(
    kind: JudgeKind,
    model: str | None,
    base_url: str | None,
    engine: EngineKind,
    report: Reporter,
) -> Judge:
    if kind is JudgeKind.NLI:
        from selfrag.evaluate.nli import NliJudge

        if model is None:
            raise BadInput(
                "cannot judge with an NLI model: none is named, and no registry package carries "
                "one; expected a folder, such as that of t5_xxl_true_nli_mixture, so give --model"
            )
        return NliJudge(model)
    if kind is JudgeKind.ISSUP:
        if model is None:
            return SupportJudge(build.load_engine(report, kind=engine))
        path = Path(model)
        return SupportJudge(build.open_engine(path, engine, name=path.name))
    return ModelJudge(text_model(report, model=model, base_url=base_url, engine=engine))
