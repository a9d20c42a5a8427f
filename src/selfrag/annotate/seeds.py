"""Seed rows: answers of language models to be labelled, checked one by one.

Reads the schema of the released critic data and plain `instruction`/`output` lines, as JSON lines
or as one JSON list. Knows nothing of teachers.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfrag.annotate.judgement import (
    Case,
    Group,
    Label,
    label_of,
    relevance_case,
    retrieve_case,
    sentence_case,
    support_case,
    utility_case,
)
from selfrag.annotate.rejects import Reject, Stage
from selfrag.errors import BadInput

MAX_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One answer, or one sentence of it with one passage. `gold` are labels known beforehand."""

    id: str
    dataset: str
    instruction: str
    output: str
    sentence: str
    evidence: str = ""
    preceding: str = ""
    gold: dict[Group, Label] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()

    def cases(self) -> list[Case]:
        """Those of the five questions that it has the fields for; of `groups`, where it has any."""
        found = [retrieve_case(self.instruction), utility_case(self.instruction, self.output)]
        if self.evidence:
            context = (self.instruction, self.preceding, self.evidence, self.sentence)
            found += [
                sentence_case(*context),
                relevance_case(self.instruction, self.evidence),
                support_case(*context),
            ]
        return [case for case in found if not self.groups or case.group in self.groups]


class RowError(Exception):
    """A row that cannot be used: `reason` in one word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def reject(self, number: int, row: Any) -> Reject:
        """Row `number` as a reject; without the row where that is no JSON."""
        return Reject(
            id=f"row {number}",
            stage=Stage.READ,
            reason=self.reason,
            detail=str(self),
            row=None if isinstance(row, ValueError) else row,
        )


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of every JSON line, or of every item of one JSON list, from 1.

    A line that is no JSON comes as the `ValueError` that says so. Raises `BadInput` where the file
    cannot be read at all.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            # A list may be spread over lines; JSON lines never begin with a bracket.
            start = file.read(1)
            while start.isspace():
                start = file.read(1)
            file.seek(0)
            if start == "[":
                yield from enumerate(_read_list(path, file.read()), start=1)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse(line)
    except OSError as error:
        raise BadInput(
            f"cannot read rows from {path}: {error.strerror or error}; expected a JSON lines file, "
            "so name another"
        ) from error


def _read_list(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise BadInput(
            f"cannot read rows from {path}: it begins like a JSON list and is none ({error}); "
            "expected one whole list, or one object a line"
        ) from error
    assert isinstance(rows, list)  # it begins with a bracket
    return rows


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("it is nested too deeply")


def read_seeds(path: Path, *, max_characters: int = MAX_CHARACTERS) -> Iterator[Seed | Reject]:
    """Every row of `path` as a seed, or as a reject with the reason."""
    return check_seeds(read_rows(path), max_characters=max_characters)


def check_seeds(
    rows: Iterable[tuple[int, Any]], *, max_characters: int = MAX_CHARACTERS
) -> Iterator[Seed | Reject]:
    """Numbered rows as seeds, or as rejects; of two with one id the first is taken."""
    seen: set[str] = set()
    for number, row in rows:
        try:
            seed = _seed(number, row, max_characters)
            if seed.id in seen:
                raise RowError(
                    "duplicate", f"row {number} has the id {seed.id!r} of an earlier one"
                )
        except RowError as error:
            yield error.reject(number, row)
            continue
        seen.add(seed.id)
        yield seed


def only_gold(seeds: Iterable[Seed | Reject]) -> Iterator[Seed | Reject]:
    """The seeds that bring labels; those without, or without the fields to ask, as rejects."""
    for seed in seeds:
        if isinstance(seed, Reject):
            yield seed
            continue
        askable = {case.group for case in seed.cases()}
        missing = sorted(set(seed.gold) - askable)
        if missing or not seed.gold:
            found = f"labels for {missing}, which need an evidence" if missing else "no labels"
            detail = f"expected gold labels for what the row shows, found {found}"
            yield Reject(id=seed.id, stage=Stage.READ, reason="no_gold", detail=detail)
        if set(seed.gold) & askable:
            yield seed


def text_field(row: dict[str, Any], name: str, *, required: bool = False) -> str:
    """The string `name` of a row, empty where it is missing or null; raises `RowError`."""
    value = row.get(name)
    if value is None and not required:
        return ""
    if value is None:
        raise RowError("missing_field", f"expected a field {name!r}")
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{name!r} is {type(value).__name__}, expected a string")
    if required and not value.strip():
        raise RowError("empty_field", f"{name!r} is empty")
    return _as_text(value)


def row_object(row: Any) -> dict[str, Any]:
    """The row, where it is an object; raises `RowError`."""
    if isinstance(row, ValueError):
        raise RowError("not_json", str(row))
    if not isinstance(row, dict):
        raise RowError("wrong_type", f"the row is {type(row).__name__}, expected an object")
    return row


def _as_text(value: str) -> str:
    # Bytes that are no UTF-8, and lone surrogates, would break every writer behind us.
    return value.encode("utf-8", "replace").decode("utf-8")


def _seed(number: int, row: Any, max_characters: int) -> Seed:
    data = row_object(row)
    instruction = text_field(data, "instruction", required=True)
    groups = _groups(data.get("groups"))
    # A row that is asked about its instruction and passage alone needs no answer.
    needs_output = not groups or not {Group.RETRIEVE, Group.RELEVANCE}.issuperset(groups)
    output = text_field(data, "output", required=needs_output)
    seed = Seed(
        id="/".join((_identity(data, number), *(_place(data, kind) for kind in ("sent", "p")))),
        dataset=text_field(data, "dataset_name"),
        instruction=instruction,
        output=output,
        sentence=text_field(data, "target_output") or output,
        evidence=text_field(data, "evidence"),
        preceding=text_field(data, "preceding_sentences"),
        gold=_gold(data.get("labels")),
        groups=groups,
    )
    for name in ("instruction", "output", "sentence", "evidence", "preceding"):
        if len(getattr(seed, name)) > max_characters:
            raise RowError(
                "too_long",
                f"{name!r} has {len(getattr(seed, name))} characters, expected at most "
                f"{max_characters}",
            )
    return seed


def _identity(row: dict[str, Any], number: int) -> str:
    value = row.get("q_id", row.get("id"))
    if value is None:
        return str(number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError("wrong_type", f"the id is {type(value).__name__}, expected a string")
    return _as_text(str(value))


def _place(row: dict[str, Any], kind: str) -> str:
    value = row.get(f"{kind}_idx", row.get(f"{kind}_id"))
    if value is None:
        return "0"
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError("wrong_type", f"'{kind}_idx' is {value!r}, expected a whole number")
    return str(value)


def _groups(names: Any) -> tuple[Group, ...]:
    if names is None:
        return ()
    if not isinstance(names, list) or not set(names) <= set(Group):
        raise RowError(
            "unknown_group", f"'groups' is {names!r}, expected a list of {', '.join(Group)}"
        )
    return tuple(Group(name) for name in names)


def _gold(labels: Any) -> dict[Group, Label]:
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise RowError("wrong_type", f"'labels' is {type(labels).__name__}, expected an object")
    try:
        return {Group(name): label_of(Group(name), label) for name, label in labels.items()}
    except ValueError as error:
        raise RowError("unknown_label", str(error)) from error
