"""What a set of labels looks like: counts, agreement with gold, examples, rejects, cost.

Everything in it follows from the rows and their answers, not from this run: a run that was killed
and resumed reports the same. Knows nothing of how it is shown.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfrag import plots
from selfrag.annotate.balance import LabelShares
from selfrag.annotate.judgement import LABELS, Case, Group, Judgement, Label
from selfrag.reflection import Support
from selfrag.statistics import wilson

_EXAMPLE_CHARACTERS = 300

# gold label -> label given -> how often
Confusion = dict[str, Counter[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money for a million tokens, in whatever currency; None where it is not known."""

    prompt: float | None = None
    completion: float | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The price of so many tokens, or None where no price was given."""
        if self.prompt is None or self.completion is None:
            return None
        total = prompt_tokens * self.prompt + completion_tokens * self.completion
        return round(total / 1e6, 6)


@dataclass(slots=True)
class LabelReport:
    """Grows with every judgement; `to_json` is `<out>.report.json`."""

    teacher: str
    prices: Prices = Prices()
    shares: LabelShares | None = None
    counts: dict[Group, Counter[str]] = field(default_factory=dict)
    # group, set -> gold label -> label given -> how often
    confusion: dict[tuple[Group, str], Confusion] = field(default_factory=dict)
    examples: dict[Group, dict[str, dict[str, Any]]] = field(default_factory=dict)
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, judgement: Judgement, gold: Label | None = None, dataset: str = "") -> None:
        """Counts one judgement, labelled or not, and what its answer cost."""
        if judgement.answer is not None:
            self.answers += 1
            self.prompt_tokens += judgement.answer.prompt_tokens
            self.completion_tokens += judgement.answer.completion_tokens
        if judgement.label is None:
            return
        group, label = judgement.case.group, str(judgement.label)
        self.counts.setdefault(group, Counter())[label] += 1
        if gold is not None:
            by_gold = self.confusion.setdefault((group, dataset), {})
            by_gold.setdefault(str(gold), Counter())[label] += 1
        self.examples.setdefault(group, {}).setdefault(label, _example(judgement))

    def to_json(self, *, rejects: Mapping[str, int], repeated: int = 0) -> dict[str, Any]:
        """As documented in `docs/formats.md`; every label of a group that was asked has a count."""
        return {
            "teacher": self.teacher,
            "labels": sum(sum(counts.values()) for counts in self.counts.values()),
            "counts": {
                group: {label: self.counts[group][label] for label in LABELS[group]}
                for group in Group
                if group in self.counts
            },
            "agreement": {
                group: _agreement(group, _sum(by_set.values()))
                for group in Group
                if (by_set := self._by_set(group))
            },
            "agreement_by_set": {
                group: {name: _agreement(group, table) for name, table in by_set.items()}
                for group in Group
                if (by_set := self._by_set(group))
            },
            "shares": self.shares
            and {
                group: {label: round(share, 6) for label, share in by_label.items()}
                for group, by_label in self.shares.items()
            },
            "repeated": repeated,
            "rejects": dict(sorted(rejects.items())),
            "usage": {
                "answers": self.answers,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "cost": self.prices.cost(self.prompt_tokens, self.completion_tokens),
            },
            "examples": {
                group: {
                    label: self.examples[group][label]
                    for label in LABELS[group]
                    if label in self.examples[group]
                }
                for group in Group
                if group in self.examples
            },
        }

    def _by_set(self, group: Group) -> dict[str, Confusion]:
        return {name: table for (of, name), table in self.confusion.items() if of is group}


def _sum(tables: Iterable[Confusion]) -> Confusion:
    total: Confusion = {}
    for table in tables:
        for gold, row in table.items():
            total.setdefault(gold, Counter()).update(row)
    return total


def _agreement(group: Group, confusion: Confusion) -> dict[str, Any]:
    """Share of equal labels with its interval, Cohen's kappa, and the table.

    Kappa is null where chance alone agrees. Of support also the share that agrees on whether it is
    full: some sets know no more.
    """
    total = sum(sum(row.values()) for row in confusion.values())
    same = sum(row[gold] for gold, row in confusion.items())
    given: Counter[str] = Counter()
    for row in confusion.values():
        given.update(row)
    chance = sum(sum(row.values()) * given[gold] for gold, row in confusion.items()) / total**2
    kappa = (same / total - chance) / (1 - chance) if chance < 1 else None
    full = {}
    if group is Group.SUPPORT:
        same_full = sum(
            count
            for gold, row in confusion.items()
            for label, count in row.items()
            if (gold == Support.FULL) == (label == Support.FULL)
        )
        full = {"share_full_or_not": round(same_full / total, 4)}
    return {
        "n": total,
        "same": same,
        "share": round(same / total, 4),
        "interval": [round(end, 4) for end in wilson(same, total)],
        **full,
        "kappa": None if kappa is None else round(kappa, 4),
        "gold_to_label": {
            gold: {label: confusion[gold][label] for label in LABELS[group]}
            for gold in LABELS[group]
            if gold in confusion
        },
    }


def plot_labels(report: Mapping[str, Any], path: Path) -> bool:
    """Draws the counts of `report`; False where matplotlib is missing or nothing was counted."""
    counts: Mapping[str, Mapping[str, int]] = report["counts"]
    if not counts or find_spec("matplotlib") is None:
        return False
    titles = {}
    for group in counts:
        agreement = report["agreement"].get(group)
        agreed = f"\n{agreement['share']:.0%} of {agreement['n']} as gold" if agreement else ""
        titles[group] = f"{group}{agreed}"
    plots.save(plots.label_figure(counts, titles), path)
    return True


def _example(judgement: Judgement) -> dict[str, Any]:
    case: Case = judgement.case
    texts = {
        "instruction": case.instruction,
        "preceding_sentences": case.preceding,
        "evidence": case.evidence,
        "output": case.output,
        "explanation": judgement.explanation or None,
    }
    shown: dict[str, Any] = {
        name: text[:_EXAMPLE_CHARACTERS] for name, text in texts.items() if text
    }
    return {**shown, "prob": judgement.prob}


def report_text(report: Mapping[str, Any]) -> str:
    """The report as the file has it."""
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
