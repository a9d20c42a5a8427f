"""What a run made: its rows, its rejects, and a report of labels; and a look into training data.

Everything in a report follows from the rows and their answers, not from this run: a run that was
killed and resumed reports the same. Knows nothing of how it is shown.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from selfrag import plots
from selfrag.annotate.judge import Prices
from selfrag.annotate.judgement import LABELS, Case, Group, Judgement, Label, LabelShares
from selfrag.errors import BadInput, EngineError, SelfRAGError
from selfrag.files import beside, replacing
from selfrag.reflection import REFLECTION_TOKENS, Marker, ReflectionToken, Support
from selfrag.released import PassageText, split_output
from selfrag.rows import Reject, id_of, read_rows, text_field
from selfrag.serial import json_line
from selfrag.statistics import wilson

_EXAMPLE_CHARACTERS = 300

# gold label -> label given -> how often
Confusion = dict[str, Counter[str]]


class Stage(StrEnum):
    """Where a row could not go on."""

    READ = "read"
    ASK = "ask"  # no answer: a rerun asks again
    PARSE = "parse"  # an answer without a label
    ASSEMBLE = "assemble"  # left out by a rule


@dataclass(slots=True)
class DataFile:
    """Rows and rejects of a run as they are made, and how often each reason came up."""

    data: BinaryIO
    rejects: BinaryIO
    n_rows: int = 0
    n_rejects: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """One row of data."""
        self.data.write(json_line(row))
        self.n_rows += 1

    def reject(self, reject: Reject) -> None:
        """One reject, counted by stage and reason."""
        row = {"id": reject.place, "stage": reject.stage, "reason": reject.reason}
        self.rejects.write(json_line({**row, "detail": reject.detail, "row": reject.row}))
        self.n_rejects += 1
        self.reasons[f"{reject.stage}: {reject.reason}"] += 1


@contextmanager
def data_file(out: Path) -> Iterator[DataFile]:
    """`out` and its rejects; both appear when the block ends well, `out` only with a row in it."""
    with (
        replacing(beside(out, ".rejects.jsonl"), "rejects") as rejects,
        replacing(out, "rows") as data,
    ):
        with data.open("wb") as of_data, rejects.open("wb") as of_rejects:
            file = DataFile(data=of_data, rejects=of_rejects)
            yield file
        if not file.n_rows:
            data.unlink()


def nothing_usable(out: Path, file: DataFile) -> SelfRAGError:
    """The error of a run without a result: whose fault it was goes by the commonest reason."""
    (worst, n_worst), *_ = file.reasons.most_common(1) or [("read: no rows", 0)]
    message = (
        f"cannot write {out}: nothing could be used, and the commonest reason of "
        f"{file.n_rejects} is {worst!r} ({n_worst} times); see {beside(out, '.rejects.jsonl')}, "
        "fix what it says and run again"
    )
    kind = EngineError if worst.startswith(Stage.ASK) else BadInput
    return kind(message)


@dataclass(slots=True)
class LabelReport:
    """Grows with every judgement; `to_json` is `<out>.report.json`."""

    teacher: str
    prices: Prices = field(default_factory=Prices)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of the output: a token, a passage with its markers, or text of the answer."""

    text: str
    token: ReflectionToken | None = None
    is_passage: bool = False


def spans(output: str) -> list[Span]:
    """`output` in runs that joined are `output`."""
    found = []
    for part in split_output(output):
        if isinstance(part, PassageText):
            end = Marker.PARAGRAPH_END if part.closed else ""
            text = f"{Marker.PARAGRAPH_START}{part.text}{end}"
            found.append(Span(text=text, is_passage=True))
        elif isinstance(part, ReflectionToken):
            found.append(Span(text=part, token=part))
        else:
            found.append(Span(text=part))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRow:
    """One row as shown."""

    id: str
    dataset: str
    instruction: str
    spans: list[Span]
    by: Counter[str]  # who gave the tokens, where the row says so


@dataclass(slots=True)
class DataStatistics:
    """Counts over rows; every token of the vocabulary has one."""

    rows: int = 0
    rejects: int = 0
    passages: int = 0
    answer_words: int = 0
    datasets: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)

    def add(self, row: DataRow) -> None:
        """Counts one row."""
        self.rows += 1
        self.datasets[row.dataset] += 1
        self.by.update(row.by)
        self.tokens.update(str(span.token) for span in row.spans if span.token)
        self.passages += sum(span.is_passage for span in row.spans)
        plain = [span.text for span in row.spans if not span.token and not span.is_passage]
        self.answer_words += sum(len(text.split()) for text in plain)
        first = row.spans[0] if row.spans else Span(text="")
        self.starts[str(first.token or "text")] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts by name, commonest first where no order is given by the vocabulary."""
        shown = [token for token in REFLECTION_TOKENS if not isinstance(token, Marker)]
        return {
            "rows": self.rows,
            "rejects": self.rejects,
            "datasets": dict(self.datasets.most_common()),
            "tokens": {str(token): self.tokens[str(token)] for token in shown},
            "starts_with": dict(self.starts.most_common()),
            "given_by": dict(self.by.most_common()),
            "passages": self.passages,
            "answer_words": self.answer_words,
        }


def read_data(path: Path) -> Iterator[DataRow | Reject]:
    """The rows of a file of the released schema as shown, or as rejects."""
    return (row for _, row in read_rows(path, _data_row, what="generator data"))


def _data_row(number: int, data: dict[str, Any]) -> DataRow:
    return DataRow(
        id=id_of(data, "id", otherwise=str(number)),
        dataset=text_field(data, "dataset_name"),
        instruction=text_field(data, "instruction", required=True),
        spans=spans(text_field(data, "output", required=True)),
        by=Counter(_givers(data.get("provenance"))),
    )


def _givers(provenance: Any) -> list[str]:
    if not isinstance(provenance, list):
        return []
    return [str(entry.get("by", "")) for entry in provenance if isinstance(entry, dict)]
