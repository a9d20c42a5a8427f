"""Critic data: seed rows labelled by a teacher, or with the labels they bring, one row a label.

Knows nothing of who the teacher is or of the command line.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from selfrag.annotate.critic import CRITIC_INSTRUCTIONS, TASKS, critic_input
from selfrag.annotate.judge import Judge, Prices
from selfrag.annotate.judgement import LABELS, Case, Group, Judgement, Label, LabelShares, label_of
from selfrag.annotate.report import DataFile, LabelReport, Stage, data_file, nothing_usable
from selfrag.annotate.seeds import Seed
from selfrag.errors import BadInput
from selfrag.files import beside, write_json
from selfrag.rows import Reject

# Seeds whose cases go to the teacher together.
WINDOW = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One question about one seed."""

    seed: Seed
    case: Case

    @property
    def id(self) -> str:
        return f"{self.seed.id}/{self.case.group}"

    @property
    def gold(self) -> Label | None:
        return self.seed.gold.get(self.case.group)


@dataclass(slots=True)
class _Once:
    """Lets every case through once: seeds of one answer share instruction and answer."""

    repeated: int = 0
    _seen: set[Case] = field(default_factory=set)

    def items(
        self, seed: Seed, groups: Sequence[Group], *, only_gold: bool = False
    ) -> Iterator[_Item]:
        for case in seed.cases():
            if (groups and case.group not in groups) or (only_gold and case.group not in seed.gold):
                continue
            if case in self._seen:
                self.repeated += 1
                continue
            self._seen.add(case)
            yield _Item(seed=seed, case=case)


def write_critic_data(
    seeds: Iterable[Seed | Reject],
    judge: Judge | None,
    out: Path,
    *,
    groups: Sequence[Group] = (),
    prices: Prices | None = None,
    shares: LabelShares | None = None,
    window: int = WINDOW,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Writes `out` with rejects and report beside it; the report.

    `judge` None takes the seeds' own labels. Only `groups` are asked, all when empty. `shares`, of
    `judged_shares`, are divided out of the teacher's probabilities. The bytes depend on the seeds
    and the answers, not on how many seeds, a `window`, are asked together. Raises `BadInput` or
    `EngineError` when not one label could be had; rejects and report are there then too, and an old
    `out` stays.
    """
    teacher = judge.teacher.name if judge else "gold"
    report = LabelReport(teacher, prices or Prices(), shares=shares)
    once = _Once()
    n_read = 0
    with data_file(out) as file:
        for rows in windows(seeds, window):
            own = [
                list(once.items(row, groups, only_gold=judge is None))
                if isinstance(row, Seed)
                else []
                for row in rows
            ]
            judgements = _judgements([item for items in own for item in items], judge)
            judged = iter(rebalance(each, shares or {}) for each in judgements)
            for row, items in zip(rows, own, strict=True):
                if isinstance(row, Reject):
                    file.reject(row)
                for item in items:
                    judgement = next(judged)
                    report.add(judgement, item.gold if judge else None, item.seed.dataset)
                    _write(item, judgement, file)
            n_read += len(rows)
            on_progress(n_read)
    summary = report.to_json(rejects=file.reasons, repeated=once.repeated)
    write_json(beside(out, ".report.json"), summary, "the report")
    if not file.n_rows:
        raise nothing_usable(out, file)
    return summary


def judged_shares(
    seeds: Iterable[Seed | Reject],
    judge: Judge,
    *,
    groups: Sequence[Group] = (),
    window: int = WINDOW,
) -> LabelShares:
    """The mean probability that the teacher gives every label; its answers are stored on the way.

    With them `write_critic_data` labels the same seeds as if each label were equally frequent.
    """
    planned = planned_cases(seeds, groups=groups, window=window)
    return label_shares(judged for cases in planned for judged in judge.judge(cases))


def planned_cases(
    seeds: Iterable[Seed | Reject], *, groups: Sequence[Group] = (), window: int = WINDOW
) -> Iterator[list[Case]]:
    """All that would be asked, a window of seeds at a time."""
    once = _Once()
    usable = (seed for seed in seeds if isinstance(seed, Seed))
    for some in windows(usable, window):
        yield [item.case for seed in some for item in once.items(seed, groups)]


def windows(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """`rows` in order, `size` at a time; the last may be fewer."""
    rest = iter(rows)
    while window := list(islice(rest, size)):
        yield window


def _judgements(items: Sequence[_Item], judge: Judge | None) -> list[Judgement]:
    """One for every item, in order; without a judge the gold labels."""
    if judge is None:
        return [Judgement(case=item.case, by="gold", label=item.gold) for item in items]
    # One group after the other: a server reuses what the prompts of a group begin with.
    order = sorted(range(len(items)), key=lambda n: list(Group).index(items[n].case.group))
    judged = dict(zip(order, judge.judge([items[n].case for n in order]), strict=True))
    return [judged[n] for n in range(len(items))]


def _write(item: _Item, judgement: Judgement, file: DataFile) -> None:
    if judgement.label is not None:
        file.add(row_to_json(item.id, item.seed.dataset, judgement, item.gold))
    if judgement.failure is not None:
        file.reject(reject_from(item.id, judgement))


def reject_from(identity: str, judgement: Judgement) -> Reject:
    """A judgement without a label as a reject: with what was asked, and what was said."""
    failure = judgement.failure
    assert failure is not None  # it has no label
    return Reject(
        id=identity,
        stage=Stage.PARSE if judgement.is_answered else Stage.ASK,
        reason=failure.reason,
        detail=failure.detail,
        row={
            "group": judgement.case.group,
            **_fields(judgement.case),
            "answer": judgement.answer.text if judgement.answer else None,
        },
    )


def row_to_json(
    identity: str, dataset: str, judgement: Judgement, gold: Label | None
) -> dict[str, Any]:
    """One line of critic data, as documented in `docs/formats.md`."""
    case = judgement.case
    return {
        "instruction": CRITIC_INSTRUCTIONS[case.group],
        "input": critic_input(case),
        "output": judgement.label,
        "task": TASKS[case.group],
        "id": identity,
        "group": case.group,
        "dataset_name": dataset,
        "fields": _fields(case),
        "probs": dict(judgement.probs) or None,
        "explanation": judgement.explanation,
        "teacher": judgement.by,
        "gold": gold,
    }


def _fields(case: Case) -> dict[str, str | None]:
    return {
        "instruction": case.instruction,
        "output": case.output,
        "evidence": case.evidence,
        "preceding_sentences": case.preceding,
    }


def groups_from(names: Iterable[str]) -> tuple[Group, ...]:
    """Groups by name; raises `BadInput` for a name that is none."""
    found = []
    for name in names:
        with suppress(ValueError):
            found.append(Group(name))
            continue
        raise BadInput(
            f"cannot ask the group {name!r}: there is none of that name; expected some of "
            f"{', '.join(LABELS)}, so name one of them"
        )
    return tuple(found)


def label_shares(judgements: Iterable[Judgement]) -> dict[Group, dict[str, float]]:
    """The mean probability of every label, of groups that were answered with probabilities."""
    sums: dict[Group, dict[str, float]] = {}
    counts: dict[Group, int] = {}
    for judgement in judgements:
        group = judgement.case.group
        for label, prob in judgement.probs:
            by_label = sums.setdefault(group, {})
            by_label[label] = by_label.get(label, 0.0) + prob
        counts[group] = counts.get(group, 0) + bool(judgement.probs)
    return {
        group: {label: total / counts[group] for label, total in by_label.items()}
        for group, by_label in sums.items()
    }


def rebalance(judgement: Judgement, shares: LabelShares) -> Judgement:
    """The judgement with its probabilities divided by `shares`, sum 1, and the likeliest label."""
    by_label = shares.get(judgement.case.group, {})
    odds = [
        (label, prob / by_label[label]) for label, prob in judgement.probs if by_label.get(label)
    ]
    total = sum(value for _, value in odds)
    if not total:
        return judgement
    probs = tuple((label, round(value / total, 6)) for label, value in odds)
    best = max(probs, key=lambda pair: pair[1])[0]
    return replace(judgement, probs=probs, label=label_of(judgement.case.group, best))
