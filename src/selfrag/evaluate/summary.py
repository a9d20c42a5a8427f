"""From the records of a run to its numbers: `metrics.json`, without a model."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.evaluate.metrics import Metric, is_share, metrics_named
from selfrag.evaluate.record import (
    RECORDS,
    Record,
    load_records,
    load_seconds,
    records_digest,
)
from selfrag.files import write_json
from selfrag.statistics import Estimate, estimate

logger = logging.getLogger(__name__)

CONFIG = "config.json"
METRICS_FILE = "metrics.json"
TIMING_FILE = "timing.json"
CORPUS_FILE = "corpus.json"

Values = dict[str, dict[str, float]]  # metric: question id: value


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One folder: what was run, and what came of it.

    `values` by metric and question id; failed questions and measures that do not apply have none.
    `corpus`: measures of all answers together, which have no value a question and no interval.
    """

    folder: Path
    config: Mapping[str, Any]
    records: tuple[Record, ...]
    values: Values
    seconds: Mapping[str, float]
    corpus: Mapping[str, float] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.config["task"]["name"])

    @property
    def system(self) -> str:
        """The system's name in tables."""
        return str(self.config["system"]["label"])

    @property
    def headline(self) -> str:
        """The metric that stands for the task."""
        return str(self.config["task"]["headline"])

    @property
    def failed(self) -> tuple[Record, ...]:
        """The questions without an answer."""
        return tuple(record for record in self.records if record.error is not None)

    @property
    def n_left_out(self) -> int:
        """Rows of the file that were no questions."""
        return int(self.config["data"]["n_faults"])


def load_run(folder: Path, names: Sequence[str] = ()) -> Run:
    """The run in `folder`, measured anew; raises `BadInput` where there is none."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"cannot read the run in {folder}: {error}; expected a folder that `selfrag eval` "
            "wrote, so name one"
        ) from error
    records = tuple(load_records(folder / RECORDS))
    return Run(
        folder=folder,
        config=config,
        records=records,
        values=measure(records, metrics_named(names)) | load_judged(folder),
        seconds=load_seconds(folder),
        corpus=load_corpus(folder),
    )


def measure(records: Sequence[Record], metrics: Mapping[str, Metric]) -> Values:
    """The value of every metric for every question that has one."""
    values: Values = {name: {} for name in metrics}
    for record in records:
        if record.output is None:
            continue
        for name, metric in metrics.items():
            value = metric(record.question, record.output)
            if value is not None:
                values[name][record.question.id] = value
    return {name: of_questions for name, of_questions in values.items() if of_questions}


def load_judged(folder: Path) -> Values:
    """The measures that judges gave to these records, by metric and question id."""
    values: Values = {}
    for path in sorted(folder.glob("judged-*.json")):
        kept = _kept_of(folder, path)
        values |= {name: of_questions for name, of_questions in kept.items() if of_questions}
    return values


def keep_judged(folder: Path, name: str, values: Values) -> None:
    """Keeps the measures of the judge `name` beside the records that it judged."""
    content = {"records_sha256": records_digest(folder), "values": values}
    write_json(folder / f"judged-{name}.json", content)


def load_corpus(folder: Path) -> dict[str, float]:
    """The measures of all answers together that were taken of these records, by name."""
    path = folder / CORPUS_FILE
    return _kept_of(folder, path) if path.is_file() else {}


def keep_corpus(folder: Path, name: str, value: float) -> None:
    """Keeps one measure of all answers together beside the records."""
    if not math.isfinite(value):
        raise BadInput(
            f"cannot keep {name} of {folder}: it is {value}; expected a number, so measure more or "
            "longer answers"
        )
    values = load_corpus(folder) | {name: round(value, 6)}
    content = {"records_sha256": records_digest(folder), "values": values}
    write_json(folder / CORPUS_FILE, content)


def _kept_of(folder: Path, path: Path) -> dict[str, Any]:
    """The values in `path`, none where the records have changed since."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["records_sha256"] != records_digest(folder):
        logger.warning("%s is of other records than those there now, and is left out", path)
        return {}
    values: dict[str, Any] = content["values"]
    return values


def summarise(run: Run) -> dict[str, Any]:
    """What `metrics.json` holds; the same records give the same bytes."""
    config = run.config
    return {
        "task": run.task,
        "system": run.system,
        "headline": run.headline,
        "n_questions": config["data"]["n_chosen"],
        "n_answered": len(run.records) - len(run.failed),
        "n_failed": len(run.failed),
        "failed": [
            {"id": record.question.id, "row": record.question.row, "error": record.error}
            for record in run.failed
        ],
        "n_rows_left_out": run.n_left_out,
        "rows_left_out": config["data"]["faults"],
        "n_without_passages": config["data"]["n_without_passages"],
        "metrics": {
            name: estimate_to_json(estimate(list(values.values()), is_share=is_share(name)))
            for name, values in run.values.items()
        },
        "corpus": dict(run.corpus),
    }


def timing(run: Run) -> dict[str, Any]:
    """What `timing.json` holds: seconds a question, which no two runs share."""
    times = [run.seconds[r.question.id] for r in run.records if r.question.id in run.seconds]
    return {
        "seconds_per_question": estimate_to_json(estimate(times, is_share=False)),
        "seconds": sum(times),
    }


def save_summary(run: Run) -> dict[str, Any]:
    """Writes `metrics.json` and `timing.json` into the folder of the run; the former."""
    summary = summarise(run)
    write_json(run.folder / METRICS_FILE, summary)
    write_json(run.folder / TIMING_FILE, timing(run))
    return summary


def estimate_to_json(found: Estimate) -> dict[str, Any]:
    """Mean, interval and number of questions, rounded; null where there is no number."""
    numbers = {"mean": found.mean, "low": found.low, "high": found.high}
    rounded = {k: None if math.isnan(v) else round(v, 6) for k, v in numbers.items()}
    return {**rounded, "n": found.n}
