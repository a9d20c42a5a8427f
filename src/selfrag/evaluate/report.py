"""Runs side by side: tables, paired tests, curves, single questions; and published numbers.

All of it comes from records; no model is opened. Knows nothing of HTML.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfrag.errors import BadInput
from selfrag.evaluate.metrics import METRICS, is_share
from selfrag.evaluate.record import RECORDS, Record
from selfrag.evaluate.summary import Run
from selfrag.statistics import (
    Difference,
    Estimate,
    Reliability,
    RiskCoverage,
    compare,
    estimate,
    reliability,
    risk_coverage,
)
from selfrag.text import holds_gold
from selfrag.trace.rescore import Grid, RescoreTable, load_traces, rescore

MAX_SHOWN = 200  # questions a task in the browser
MAX_TEXT = 700  # characters of a passage there
# task: metric of ours: share. ARC and PubHealth were counted by containment too.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "selfrag-7b": {
        "popqa": {"match_released": 0.549},
        "triviaqa": {"match_released": 0.664},
        "pubhealth": {"match_released": 0.724},
        "arc_challenge": {"match_released": 0.673},
        "asqa": {"str_em": 0.300, "rouge_lsum": 0.357},
    },
    "selfrag-13b": {
        "popqa": {"match_released": 0.558},
        "triviaqa": {"match_released": 0.693},
        "pubhealth": {"match_released": 0.745},
        "arc_challenge": {"match_released": 0.731},
        "asqa": {"str_em": 0.317, "rouge_lsum": 0.370},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two systems on the headline of a task, and whether their difference is noise."""

    first: str
    second: str
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Controls:
    """What other settings would have given, from the traces of one system's runs."""

    title: str
    threshold: RescoreTable
    support: RescoreTable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskReport:
    """One task: its runs by name, and what their records tell.

    `estimates` by metric, then run. `differing` holds the questions on which two systems differ,
    as JSON for a browser.
    """

    task: str
    headline: str
    runs: Mapping[str, Run]
    estimates: Mapping[str, Mapping[str, Estimate]]
    comparisons: tuple[Comparison, ...]
    relevance: Mapping[str, Reliability]
    support: Mapping[str, Reliability]
    abstention: Mapping[str, RiskCoverage]
    controls: tuple[Controls, ...]
    differing: tuple[dict[str, Any], ...]
    n_differing: int


def build_report(runs: Sequence[Run]) -> list[TaskReport]:
    """One part a task, in the order in which tasks first come; raises `BadInput` without runs."""
    if not runs:
        raise BadInput("cannot report: no run is named; expected folders of `selfrag eval`")
    tasks = dict.fromkeys(run.task for run in runs)
    return [_task_report(task, [run for run in runs if run.task == task]) for task in tasks]


def _task_report(task: str, runs: Sequence[Run]) -> TaskReport:
    named = named_runs(runs)
    headline = _headline(runs)
    names = [name for name in _metric_order(runs) if any(run.values.get(name) for run in runs)]
    differing = _differing(named, headline)
    return TaskReport(
        task=task,
        headline=headline,
        runs=named,
        estimates={
            name: {
                label: estimate(list(run.values.get(name, {}).values()), is_share=is_share(name))
                for label, run in named.items()
            }
            for name in names
        },
        comparisons=tuple(_comparisons(headline, named)),
        relevance=_reliabilities(named, "relevance"),
        support=_reliabilities(named, "support"),
        abstention=_abstentions(named, headline),
        controls=tuple(_controls(named)),
        differing=tuple(differing[:MAX_SHOWN]),
        n_differing=len(differing),
    )


def _headline(runs: Sequence[Run]) -> str:
    """The task's measure, or the first that its records do have: str_em needs ASQA's readings."""
    wanted = runs[0].headline
    found = (name for name in (wanted, *METRICS) if any(run.values.get(name) for run in runs))
    return next(found, wanted)


def named_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by their system's name; runs that share one are told apart by their folders."""
    labels = [run.system for run in runs]
    return {
        label if labels.count(label) == 1 else f"{label} ({run.folder})": run
        for label, run in zip(labels, runs, strict=True)
    }


def _metric_order(runs: Sequence[Run]) -> list[str]:
    found = dict.fromkeys(name for run in runs for name in run.values)
    known = [name for name in METRICS if name in found]
    return known + [name for name in found if name not in METRICS]


def _comparisons(metric: str, named: Mapping[str, Run]) -> Iterator[Comparison]:
    for first, second in itertools.combinations(named, 2):
        values = [named[name].values.get(metric, {}) for name in (first, second)]
        yield Comparison(first=first, second=second, difference=compare(*values))


def _reliabilities(named: Mapping[str, Run], group: str) -> dict[str, Reliability]:
    found = {name: judged_candidates(run.records, group) for name, run in named.items()}
    return {name: reliability(*judged) for name, judged in found.items() if judged[0]}


def judged_candidates(records: Iterable[Record], group: str) -> tuple[list[float], list[bool]]:
    """Scores of `group`, relevance or support, of every segment read from one passage, and labels.

    A gold string in the passage makes it relevant; one in the segment makes it supported: proxies,
    told as such.
    """
    scores: list[float] = []
    labels: list[bool] = []
    for record in records:
        golds = record.question.answers
        if record.output is None or not golds or record.question.labels:
            continue
        for node in _read_nodes(record.output.trace):
            score = node["segment"]["scores"][group]
            if score is None:
                continue
            text = node["hits"][0]["text"] if group == "relevance" else node["segment"]["text"]
            scores.append(float(score))
            labels.append(holds_gold(text, golds))
    return scores, labels


def _read_nodes(trace: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    nodes = [row for row in trace if row["type"] == "node" and row["segment"] is not None]
    return [node for node in nodes if len(node["hits"]) == 1]


def _abstentions(named: Mapping[str, Run], metric: str) -> dict[str, RiskCoverage]:
    """Systems that judged at least one answer; an answer that was not judged comes last."""
    curves = {}
    for name, run in named.items():
        correct = run.values.get(metric, {})
        outputs = {r.question.id: r.output for r in run.records if r.output is not None}
        answered = [question_id for question_id in outputs if question_id in correct]
        found = [outputs[question_id].support for question_id in answered]
        is_share = all(0.0 <= value <= 1.0 for value in correct.values())
        if is_share and any(each is not None for each in found):
            support = [-1.0 if each is None else each for each in found]
            values = [correct[question_id] for question_id in answered]
            curves[name] = risk_coverage(support, values)
    return curves


def _controls(named: Mapping[str, Run]) -> list[Controls]:
    """Curves for every model that searched; its runs with and without passages become one."""
    by_model: dict[str, dict[str, Run]] = {}
    for name, run in named.items():
        system = run.config["system"]
        if "search" in system and any(r.output and r.output.trace for r in run.records):
            by_model.setdefault(str(system["model"]), {})[name] = run
    found = []
    for group in by_model.values():
        for names in _branches(group):
            traces = load_traces(*(group[name].folder / RECORDS for name in names))
            if not traces.has_gold.any():
                continue
            thresholds = tuple(round(0.05 * step, 2) for step in range(21))
            weights = tuple(round(0.25 * step, 2) for step in range(9))
            found.append(
                Controls(
                    title=" and ".join(names),
                    threshold=rescore(traces, Grid(threshold=thresholds)),
                    support=rescore(traces, Grid(w_sup=weights)),
                )
            )
    return found


def _branches(group: Mapping[str, Run]) -> list[list[str]]:
    """One run that always retrieves and one that never does belong together; others stand alone."""
    by_mode: dict[str, list[str]] = {}
    for name, run in group.items():
        by_mode.setdefault(str(run.config["system"]["search"]["mode"]), []).append(name)
    pairs = [
        [always, never]
        for always, never in zip(by_mode.get("always", []), by_mode.get("never", []), strict=False)
    ]
    paired = {name for pair in pairs for name in pair}
    return pairs + [[name] for name in group if name not in paired]


def _differing(named: Mapping[str, Run], metric: str) -> list[dict[str, Any]]:
    """The questions to which not all systems have the same value, in the order of the first run."""
    by_id: dict[str, dict[str, Record]] = {}
    for name, run in named.items():
        for record in run.records:
            by_id.setdefault(record.question.id, {})[name] = record
    rows = []
    for question_id, records in by_id.items():
        values = {name: named[name].values.get(metric, {}).get(question_id) for name in records}
        if len(set(values.values())) > 1:
            rows.append(_question_row(records, values))
    return rows


def _question_row(
    records: Mapping[str, Record], values: Mapping[str, float | None]
) -> dict[str, Any]:
    question = next(iter(records.values())).question
    return {
        "id": question.id,
        "question": question.text,
        "golds": list(question.answers),
        "systems": {
            name: {"value": values[name], "error": record.error, **_said(record)}
            for name, record in records.items()
        },
    }


def _said(record: Record) -> dict[str, Any]:
    output = record.output
    if output is None:
        return {"text": "", "support": None, "passages": []}
    return {
        "text": output.text,
        "support": output.support,
        "passages": [
            {"title": hit.passage.title, "text": hit.passage.text[:MAX_TEXT]}
            for hit in output.passages
        ],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One published number beside the measured one.

    `tolerance`: 1.96 standard errors of a share over so many questions, and a point for hardware
    and library versions.
    """

    task: str
    metric: str
    expected: float
    measured: float
    tolerance: float
    n: int

    @property
    def agrees(self) -> bool:
        """Whether the measured number is within the tolerance."""
        return abs(self.measured - self.expected) <= self.tolerance


def check_run(run: Run, system: str) -> list[Check]:
    """The published numbers of `system` for the task of `run`, each beside the measured one.

    Raises `BadInput` for a system or task without published numbers.
    """
    if system not in PUBLISHED:
        raise BadInput(
            f"cannot check against {system!r}: expected one of {', '.join(PUBLISHED)}, so name one"
        )
    expected = PUBLISHED[system].get(run.task)
    if expected is None:
        raise BadInput(
            f"cannot check {run.folder}: nothing is published for {run.task}; expected a run of "
            f"{', '.join(PUBLISHED[system])}, so name one"
        )
    checks = []
    for metric, share in expected.items():
        found = estimate(list(run.values.get(metric, {}).values()))
        error = math.sqrt(share * (1 - share) / max(found.n, 1))
        checks.append(
            Check(
                task=run.task,
                metric=metric,
                expected=share,
                measured=found.mean,
                tolerance=1.96 * error + 0.01,
                n=found.n,
            )
        )
    return checks
