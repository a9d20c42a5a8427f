"""Answers to be annotated, read from the sets that the paper used and from plain JSON lines.

Fields and rules of the sets: AkariAsai/self-rag 1fcdc42, `data_creation/process_data`.
A row that cannot be used comes as a reject. Knows nothing of teachers or passages.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from selfrag.annotate.seeds import refuse_long, refuse_repeated
from selfrag.errors import BadInput
from selfrag.rows import (
    Reject,
    Row,
    RowFault,
    answers_of,
    id_of,
    json_kind,
    parse_rows,
    read_values,
    text_field,
)

MAX_WORDS = 500  # of an Open-Instruct turn
TASK_SEPARATOR = "## Input:\n\n"

# Wording as released: a generator trained on it is asked with it.
TASK_SENTENCES: dict[str, str] = {
    "wow": (
        "Given a chat history separated by new lines, generates an informative, knowledgeable and "
        "engaging response. "
    ),
    "fever": (
        "Is the following statement correct or not? Say true if it's correct; otherwise say false."
    ),
    "arc_easy": ("Given four answer candidates, A, B, C and D, choose the best answer choice."),
    "obqa": "Given four answer candidates, A, B, C and D, choose the best answer choice.",
    "asqa": (
        "Answer the following question. The question may be ambiguous and have multiple correct "
        "answers, and in that case, you have to provide a long-form answer including all correct "
        "answers."
    ),
}


class SourceKind(StrEnum):
    """How a source file is read."""

    PLAIN = "plain"  # instruction, output
    OPEN_INSTRUCT = "open_instruct"  # messages
    DPR = "dpr"  # question, answers, positive_ctxs: NQ, FEVER and WoW of KILT
    CHOICES = "choices"  # ARC, OpenBookQA
    ASQA = "asqa"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One answer to annotate. `instruction` holds the task sentence, where the set has one."""

    id: str
    dataset: str
    instruction: str
    output: str

    @property
    def question(self) -> str:
        """The instruction without its task sentence: what is searched for."""
        task = TASK_SENTENCES.get(self.dataset)
        return (
            self.instruction.removeprefix(f"{task}{TASK_SEPARATOR}") if task else self.instruction
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to annotate. `name` is a key of `TASK_SENTENCES`, `nq`, or any name of your own."""

    path: Path
    kind: SourceKind = SourceKind.PLAIN
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "Source":
        """`kind:name:path`, as in `dpr:nq:nq-train.json`, or the path of a plain file alone."""
        kind, first, rest = text.partition(":")
        name, second, path = rest.partition(":")
        if not (first and second and kind in list(SourceKind)):
            return cls(path=Path(text), name=Path(text).stem)
        if not name or not path:
            raise BadInput(
                f"cannot read the source {text!r}: a part of it is empty; expected kind:name:path, "
                "as in dpr:nq:nq-train.json"
            )
        return cls(path=Path(path), kind=SourceKind(kind), name=name)


def read_sources(sources: Iterable[Source]) -> Iterator[SourceRow | Reject]:
    """Every row of the files in order, or a reject with the reason.

    A plain row's own `dataset_name` goes before the name of its file. Of two rows with one id the
    first is taken. Raises `BadInput` where a file cannot be read at all.
    """
    seen: set[str] = set()
    for source in sources:
        is_asqa = source.kind is SourceKind.ASQA
        rows = _asqa_rows(source.path) if is_asqa else read_values(source.path)
        yield from check_source(rows, source.kind, source.name, seen)


def check_source(
    rows: Iterable[tuple[int, Any]], kind: SourceKind, name: str, seen: set[str]
) -> Iterator[SourceRow | Reject]:
    """Numbered rows as rows of the set `name`, or as rejects; ids go to `seen`."""
    read = _READERS[kind]

    def parse(number: int, row: Row) -> SourceRow:
        found = read(row, number, name)
        refuse_repeated(found.id, seen)
        refuse_long({"instruction": found.instruction, "output": found.output})
        seen.add(found.id)
        return found

    return (row for _, row in parse_rows(rows, parse))


def _plain(row: Row, number: int, name: str) -> SourceRow:
    instruction = text_field(row, "instruction", required=True)
    more = text_field(row, "input")
    dataset = text_field(row, "dataset_name") or name
    return SourceRow(
        id=id_of(row, "id", otherwise=f"{dataset}_{number - 1}"),
        dataset=dataset,
        instruction=f"{instruction}\n{more}" if more and more not in instruction else instruction,
        output=text_field(row, "output", required=True),
    )


def _open_instruct(row: Row, number: int, name: str) -> SourceRow:
    """One turn of at most 500 words a side, in English."""
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) != 2:
        raise RowFault("not_one_turn", "has no 'messages' of one question and one answer")
    asked, answered = (text_field(_object(each), "content", required=True) for each in messages)
    instruction = asked.replace("\nOutput:", "").rstrip("\n")
    output = answered.removeprefix("\n")
    for text in (instruction, output):
        if len(text.split(" ")) > MAX_WORDS:
            raise RowFault("too_long", f"has a turn of more than {MAX_WORDS} words")
        if not looks_english(text):
            raise RowFault("not_english", f"is not English: {text[:80]!r}")
    return SourceRow(
        id=id_of(row, "id", otherwise=f"{name}_{number - 1}"),
        dataset=name,
        instruction=instruction,
        output=output,
    )


def _dpr(row: Row, number: int, name: str) -> SourceRow:
    """The first answer; labels of FEVER as words."""
    if not (answers := answers_of(row)):
        raise RowFault("missing_field", "has no 'answers' with at least one string")
    output = answers[0]
    if name == "fever":
        words = {"SUPPORTS": "true", "REFUTES": "false"}
        if output not in words:
            raise RowFault(
                "unknown_label", f"has the label {output!r}, expected SUPPORTS or REFUTES"
            )
        output = words[output]
    question = text_field(row, "question", required=True)
    return _row(row, number, name, question=question, output=output)


def _choices(row: Row, number: int, name: str) -> SourceRow:
    """The question with its four options as lines, and the letter of the right one."""
    stem: Any = row.get("question_stem", row.get("question"))
    options = row.get("choices")
    if isinstance(stem, dict):  # the form in which ARC and OpenBookQA were first published
        stem, options = stem.get("stem"), stem.get("choices")
    texts, labels = _options(options)
    if not isinstance(stem, str) or len(texts) != 4:
        raise RowFault("wrong_choices", f"has no question with four options, found {len(texts)}")
    gold = row.get("gold", row.get("answerKey"))
    if isinstance(gold, str) and gold in labels:
        gold = labels.index(gold)
    if not isinstance(gold, int) or isinstance(gold, bool) or gold not in range(4):
        raise RowFault("unknown_label", f"has the label {gold!r}, expected one of {labels}")
    letters = "ABCD"
    lines = [f"{letter}: {text}" for letter, text in zip(letters, texts, strict=True)]
    return _row(row, number, name, question="\n".join([stem, *lines]), output=letters[gold])


def _options(options: Any) -> tuple[list[str], list[str]]:
    texts: Any
    labels: Any
    if isinstance(options, dict):  # as columns
        texts, labels = options.get("text", []), options.get("label", [])
    elif isinstance(options, list) and all(isinstance(each, dict) for each in options):
        texts = [dict(each).get("text") for each in options]
        labels = [dict(each).get("label") for each in options]
    else:
        texts, labels = options or [], []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RowFault("wrong_type", "has options that are no list of strings")
    letters = [str(label) for label in labels] if isinstance(labels, list) else []
    return texts, letters or list("ABCD")


def _asqa(row: Row, number: int, name: str) -> SourceRow:
    """The ambiguous question, and the long answer of the first who gave one."""
    annotations = row.get("annotations")
    if not isinstance(annotations, list) or not annotations:
        raise RowFault("missing_field", "has no 'annotations' with a long answer")
    output = text_field(_object(annotations[0]), "long_answer", required=True)
    question = text_field(row, "ambiguous_question", required=True)
    return _row(row, number, name, question=question, output=output)


def _asqa_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The questions of the one object that the set is published as."""
    data = next((value for _, value in read_values(path, what="ASQA")), None)
    train = data.get("train", data) if isinstance(data, dict) else None
    if not isinstance(train, dict):
        raise BadInput(
            f"cannot read ASQA from {path}: it is no object with 'train'; expected the file as "
            "published, so name that"
        )
    for number, (identity, row) in enumerate(train.items(), start=1):
        yield number, {"id": identity, **row} if isinstance(row, dict) else row


def _row(row: Row, number: int, name: str, *, question: str, output: str) -> SourceRow:
    task = TASK_SENTENCES.get(name)
    instruction = f"{task}{TASK_SEPARATOR}{question}" if task else question
    identity = f"{name}_{id_of(row, 'id', otherwise=str(number - 1))}"
    return SourceRow(id=identity, dataset=name, instruction=instruction, output=output)


def _object(value: Any) -> Row:
    if not isinstance(value, dict):
        raise RowFault("wrong_type", f"has {json_kind(value)} where an object is expected")
    return value


_READERS: Mapping[SourceKind, Callable[[Row, int, str], SourceRow]] = {
    SourceKind.PLAIN: _plain,
    SourceKind.OPEN_INSTRUCT: _open_instruct,
    SourceKind.DPR: _dpr,
    SourceKind.CHOICES: _choices,
    SourceKind.ASQA: _asqa,
}

_COMMON_ENGLISH = frozenset(
    "the of and to in a is that for it as was with be on by at this are from or an have not you "
    "which but all can will your what how if there their has one do we he she they i".split()
)


def looks_english(text: str) -> bool:
    """Whether `text` may be English: mostly Latin letters, and in 12 words or more a common one.

    The released code asks `langdetect`; this needs no model and errs towards keeping.
    """
    letters = [character for character in text if character.isalpha()]
    latin = sum(character.isascii() for character in letters)
    if letters and latin < 0.9 * len(letters):
        return False
    words = re.findall(r"[a-z']+", text.lower())
    return len(words) < 12 or not _COMMON_ENGLISH.isdisjoint(words)
