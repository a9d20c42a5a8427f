"""What a set of labels looks like: counts, agreement with gold, examples, rejects, cost.

Everything in it follows from the rows and their answers, not from this run: a run that was killed
and resumed reports the same. Knows nothing of how it is shown.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfrag.annotate.judgement import LABELS, Case, Group, Judgement, Label

_EXAMPLE_CHARACTERS = 300


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
    counts: dict[Group, Counter[str]] = field(default_factory=dict)
    # group -> gold label -> label given -> how often
    confusion: dict[Group, dict[str, Counter[str]]] = field(default_factory=dict)
    examples: dict[Group, dict[str, dict[str, Any]]] = field(default_factory=dict)
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, judgement: Judgement, gold: Label | None = None) -> None:
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
            by_gold = self.confusion.setdefault(group, {})
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
                group: _agreement(group, self.confusion[group])
                for group in Group
                if group in self.confusion
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


def _agreement(group: Group, confusion: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """Share of equal labels, Cohen's kappa (null where chance alone agrees), and the table."""
    total = sum(sum(row.values()) for row in confusion.values())
    same = sum(row[gold] for gold, row in confusion.items())
    given: Counter[str] = Counter()
    for row in confusion.values():
        given.update(row)
    chance = sum(sum(row.values()) * given[gold] for gold, row in confusion.items()) / total**2
    kappa = (same / total - chance) / (1 - chance) if chance < 1 else None
    return {
        "n": total,
        "same": same,
        "share": round(same / total, 4),
        "kappa": None if kappa is None else round(kappa, 4),
        "gold_to_label": {
            gold: {label: confusion[gold][label] for label in LABELS[group]}
            for gold in LABELS[group]
            if gold in confusion
        },
    }


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
