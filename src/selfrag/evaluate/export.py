"""Records in the forms that other scorers read: ALCE, FActScore, lm-evaluation-harness.

ALCE (princeton-nlp/ALCE 246c476, `eval.py`): `[n]` counts into `docs`, whatever was left out.
FActScore (shmsw25/FActScore f28272d): a topic and an output a line. The harness: one JSON object
with `results` by task.
"""

import json
from collections.abc import Sequence
from enum import StrEnum
from itertools import zip_longest
from typing import Any

import numpy as np

from selfrag.errors import BadInput
from selfrag.evaluate.attribution import cited_sentences
from selfrag.evaluate.record import Output, Record
from selfrag.evaluate.summary import Run
from selfrag.serial import finite

_MARKS = ".!?"


class ExportFormat(StrEnum):
    """Whose form."""

    ALCE = "alce"
    FACTSCORE = "factscore"
    LM_EVAL = "lm-eval"


def export(runs: Sequence[Run], form: ExportFormat) -> str:
    """The text of the file; raises `BadInput` where a run cannot have that form."""
    if form is ExportFormat.LM_EVAL:
        return json.dumps(finite(harness_results(runs)), ensure_ascii=False, indent=2) + "\n"
    if len(runs) != 1:
        raise BadInput(
            f"cannot export {len(runs)} runs as {form}: its file holds one; expected one folder, "
            "so name one"
        )
    (run,) = runs
    if form is ExportFormat.ALCE:
        return json.dumps(alce_file(run), ensure_ascii=False, indent=1) + "\n"
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in factscore_rows(run))


def cited_text(output: Output) -> str:
    """The answer with `[n]` after the words of each sentence, before its full stop."""
    return " ".join(_cite(text, numbers) for text, numbers in cited_sentences(output))


def _cite(text: str, numbers: Sequence[int]) -> str:
    if not numbers:
        return text
    end = text[-1] if text[-1] in _MARKS else "."
    body = text[:-1] if text[-1] in _MARKS else text
    return f"{body} {''.join(f'[{number}]' for number in numbers)}{end}"


def alce_file(run: Run) -> dict[str, Any]:
    """What ALCE's `eval.py --citations --qa --mauve` reads; failed questions have no output."""
    return {
        "data": [_alce_row(record) for record in _answered(run)],
        "args": [],
        "total_cost": 0.0,
        "azure_filter_fail": "",
    }


def _alce_row(record: Record) -> dict[str, Any]:
    question, output = record.question, record.output
    assert output is not None
    return {
        "sample_id": question.id,
        "question": question.text,
        "answer": next(iter(question.references), ""),
        "qa_pairs": [
            {"question": asked, "short_answers": list(golds)}
            for asked, golds in zip_longest(question.facet_questions, question.facets, fillvalue="")
        ],
        "annotations": [{"long_answer": text} for text in question.references],
        "output": cited_text(output),
        "docs": [
            {"id": hit.passage.id, "title": hit.passage.title, "text": hit.passage.text}
            for hit in output.passages
        ],
    }


def factscore_rows(run: Run) -> list[dict[str, Any]]:
    """Rows for `factscore --input_path`; raises `BadInput` for a run without topics."""
    records = _answered(run)
    if not all(record.question.topic for record in records):
        raise BadInput(
            f"cannot export {run.folder} for FActScore: its questions have no topics; expected a "
            "run of the task biographies, so name one"
        )
    return [
        {
            "input": record.question.instruction,
            "output": "" if record.output is None else record.output.text,
            "topic": record.question.topic,
            "cat": [],
        }
        for record in records
    ]


def _answered(run: Run) -> list[Record]:
    return [record for record in run.records if record.output is not None]


def harness_results(runs: Sequence[Run]) -> dict[str, Any]:
    """Means and standard errors in the form of lm-evaluation-harness; one run a task."""
    tasks = [run.task for run in runs]
    if len(set(tasks)) < len(tasks):
        raise BadInput(
            "cannot export two runs of one task as lm-eval: its file holds one a task; expected "
            "one folder a task, so name fewer"
        )
    return {
        "results": {run.task: _harness_metrics(run) for run in runs},
        "configs": {run.task: {"task": run.task, **run.config["system"]} for run in runs},
        "versions": {run.task: 1 for run in runs},
        "n-shot": {run.task: 0 for run in runs},
        "n-samples": {
            run.task: {
                "original": run.config["data"]["n_questions"],
                "effective": len(_answered(run)),
            }
            for run in runs
        },
        "git_hash": runs[0].config["environment"]["git_commit"] if runs else None,
    }


def _harness_metrics(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {"alias": run.task}
    for name, values in run.values.items():
        sample = np.array(list(values.values()))
        error = sample.std(ddof=1) / np.sqrt(len(sample)) if len(sample) > 1 else None
        found[f"{name},none"] = float(sample.mean())
        found[f"{name}_stderr,none"] = "N/A" if error is None else float(error)
    return found
