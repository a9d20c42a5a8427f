"""One question of a task: what is asked, what is known to be right, what comes with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfrag.passage import Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a system is asked and judged by; `row` counts the rows of its file, from 1.

    `text`: as asked, and what is searched. `instruction`: what the model reads. `answers`: gold
    strings; of a closed set the one label. `labels` and `options`: the closed set, and what stands
    behind its letters where it has letters. `facets`: for each part of an ambiguous question its
    gold strings (ASQA). `references`: long answers by people. `topic`: whom a biography is of.
    `passages` come with the question, best first.
    """

    id: str
    row: int
    text: str
    instruction: str
    answers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    facets: tuple[tuple[str, ...], ...] = ()
    references: tuple[str, ...] = ()
    topic: str = ""
    passages: tuple[Passage, ...] = ()


def question_to_row(question: Question) -> dict[str, Any]:
    """The question as a JSON object, without its passages."""
    return {
        "id": question.id,
        "row": question.row,
        "text": question.text,
        "instruction": question.instruction,
        "answers": list(question.answers),
        "labels": list(question.labels),
        "options": list(question.options),
        "facets": [list(facet) for facet in question.facets],
        "references": list(question.references),
        "topic": question.topic,
    }


def question_from_row(row: Mapping[str, Any]) -> Question:
    """The question of `question_to_row`; raises `KeyError` or `TypeError` for anything else."""
    return Question(
        id=row["id"],
        row=row["row"],
        text=row["text"],
        instruction=row["instruction"],
        answers=tuple(row["answers"]),
        labels=tuple(row["labels"]),
        options=tuple(row["options"]),
        facets=tuple(tuple(facet) for facet in row["facets"]),
        references=tuple(row["references"]),
        topic=row["topic"],
    )
