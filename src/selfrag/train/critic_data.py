"""Critic data to trees: rows, their labels, and what of a row is cut when it is too long.

Reads the schema of the released critic data (docs/formats.md, "Critic data"). The prompt is that of
`annotate/critic_prompt.py`, which critics in use read too. Knows nothing of models.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from selfrag.annotate.critic import TASKS, critic_prompt_ids, label_ids
from selfrag.annotate.judgement import LABELS, Group, Label, label_of
from selfrag.errors import BadInput
from selfrag.prompt import Tokenizer
from selfrag.rows import Reject, id_of, read_rows, text_field
from selfrag.train.examples import Encoded

_GROUP_OF_TASK = {task: group for group, task in TASKS.items()}


class LabelForm(StrEnum):
    """How a critic writes its label: as text, like the released critic, or as one token."""

    TEXT = "text"
    TOKEN = "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticRow:
    """One question to a critic with its label; `fields` is the `input` that it sees."""

    id: str
    group: Group
    instruction: str
    fields: str
    label: Label


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticRows:
    """The rows of a file that can be used, in order, and those that cannot."""

    rows: tuple[CriticRow, ...]
    rejects: tuple[Reject, ...]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by group and label, labels that never occur with 0."""
        found = Counter((row.group, row.label) for row in self.rows)
        groups = sorted({row.group for row in self.rows})
        return {group: {label: found[group, label] for label in LABELS[group]} for group in groups}


def load_critic_rows(path: Path) -> CriticRows:
    """Every row of `path`; raises `BadInput` where none can be used."""
    rows: list[CriticRow] = []
    rejects: list[Reject] = []
    for _, row in read_rows(path, _critic_row, what="training rows"):
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            rows.append(row)
    if not rows:
        found = str(rejects[0]) if rejects else "it has no rows"
        raise BadInput(
            f"cannot train a critic on {path}: {found}; expected rows with instruction, input, "
            "output and task (docs/formats.md), so mend the file"
        )
    return CriticRows(rows=tuple(rows), rejects=tuple(rejects))


def _critic_row(line: int, data: dict[str, Any]) -> CriticRow:
    task = data.get("group") or data["task"]
    group = _GROUP_OF_TASK.get(task) or Group(task)
    return CriticRow(
        id=id_of(data, "id", otherwise=str(line)),
        group=group,
        instruction=text_field(data, "instruction", required=True),
        fields=text_field(data, "input", required=True),
        label=label_of(group, text_field(data, "output", required=True)),
    )


def encode_critic_row(
    row: CriticRow, tokenizer: Tokenizer, max_tokens: int, label: Label | None = None
) -> Encoded:
    """Prompt and label (that of the row, or another); only the label and the end are learned.

    Of a prompt too long the middle of the input goes, never the label (the released trainer cut
    from the right, and with long evidence the label was lost). Raises `BadInput` where not even
    the question fits.
    """
    answer = [*label_ids(tokenizer, label or row.label), tokenizer.end_of_sequence_id]
    room = max_tokens - _longest_answer(row.group, tokenizer)
    prompt = critic_prompt_ids(tokenizer, row.instruction, row.fields, max_tokens=room)
    if len(prompt) > room:
        raise BadInput(
            f"cannot train a critic: max_tokens is {max_tokens}, less than the question and the "
            f"label of group {row.group} take ({len(prompt) + max_tokens - room}); raise it"
        )
    weights = (*(0.0 for _ in prompt), *(1.0 for _ in answer))
    return Encoded((*prompt, *answer), weights)


def _longest_answer(group: Group, tokenizer: Tokenizer) -> int:
    """Ids of the longest label and the end: all labels of a group cut their prompt alike."""
    return max(len(label_ids(tokenizer, label)) for label in LABELS[group]) + 1


def split_rows(
    rows: Sequence[CriticRow], n_held_out: int
) -> tuple[list[CriticRow], list[CriticRow]]:
    """Rows to train on and to measure on, of every group the same share, at most a tenth."""
    training: list[CriticRow] = []
    measured: list[CriticRow] = []
    for group in sorted({row.group for row in rows}):
        own = [row for row in rows if row.group is group]
        most = max(1, len(own) // 10) if len(own) > 1 else 0
        n_kept = min(most, -(-n_held_out * len(own) // len(rows)))
        chosen = {len(own) * i // n_kept for i in range(n_kept)}
        measured += [row for i, row in enumerate(own) if i in chosen]
        training += [row for i, row in enumerate(own) if i not in chosen]
    return training, measured
