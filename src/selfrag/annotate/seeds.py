"""Seed rows: answers of language models to be labelled, checked one by one.

Reads the schema of the released critic data and plain `instruction`/`output` lines, as JSON lines
or as one JSON list. Knows nothing of teachers.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
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
from selfrag.rows import (
    Reject,
    Row,
    RowFault,
    id_of,
    json_kind,
    parse_rows,
    read_values,
    text_field,
)

MAX_CHARACTERS = 20_000

_TEXTS = ("instruction", "output", "sentence", "evidence", "preceding")


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


def read_seeds(path: Path, *, max_characters: int = MAX_CHARACTERS) -> Iterator[Seed | Reject]:
    """Every row of `path` as a seed, or as a reject with the reason."""
    return check_seeds(read_values(path), max_characters=max_characters)


def check_seeds(
    rows: Iterable[tuple[int, Any]], *, max_characters: int = MAX_CHARACTERS
) -> Iterator[Seed | Reject]:
    """Numbered rows as seeds, or as rejects; of two with one id the first is taken."""
    seen: set[str] = set()

    def parse(number: int, row: Row) -> Seed:
        seed = _seed(number, row)
        texts = {name: getattr(seed, name) for name in _TEXTS}
        refuse_repeated(seed.id, seen)
        refuse_long(texts, max_characters)
        seen.add(seed.id)
        return seed

    return (seed for _, seed in parse_rows(rows, parse))


def refuse_repeated(identity: str, seen: Container[str]) -> None:
    """Raises `RowFault` for an id that an earlier row has."""
    if identity in seen:
        raise RowFault("duplicate", f"has the id {identity!r} of an earlier one")


def refuse_long(texts: Mapping[str, str], max_characters: int = MAX_CHARACTERS) -> None:
    """Raises `RowFault` for a text, by its name, of more than `max_characters`."""
    for name, text in texts.items():
        if len(text) > max_characters:
            found = f"has {len(text)} characters in {name!r}, expected at most {max_characters}"
            raise RowFault("too_long", found)


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
            yield Reject(id=seed.id, reason="no_gold", detail=detail)
        if set(seed.gold) & askable:
            yield seed


def _seed(number: int, data: Row) -> Seed:
    instruction = text_field(data, "instruction", required=True)
    groups = _groups(data.get("groups"))
    # A row that is asked about its instruction and passage alone needs no answer.
    needs_output = not groups or not {Group.RETRIEVE, Group.RELEVANCE}.issuperset(groups)
    output = text_field(data, "output", required=needs_output)
    identity = id_of(data, "q_id", "id", otherwise=str(number))
    return Seed(
        id="/".join((identity, *(_place(data, kind) for kind in ("sent", "p")))),
        dataset=text_field(data, "dataset_name"),
        instruction=instruction,
        output=output,
        sentence=text_field(data, "target_output") or output,
        evidence=text_field(data, "evidence"),
        preceding=text_field(data, "preceding_sentences"),
        gold=_gold(data.get("labels")),
        groups=groups,
    )


def _place(row: dict[str, Any], kind: str) -> str:
    value = row.get(f"{kind}_idx", row.get(f"{kind}_id"))
    if value is None:
        return "0"
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowFault("wrong_type", f"has {value!r} as '{kind}_idx', expected a whole number")
    return str(value)


def _groups(names: Any) -> tuple[Group, ...]:
    if names is None:
        return ()
    if not isinstance(names, list) or not set(names) <= set(Group):
        raise RowFault(
            "unknown_group", f"has {names!r} as 'groups', expected a list of {', '.join(Group)}"
        )
    return tuple(Group(name) for name in names)


def _gold(labels: Any) -> dict[Group, Label]:
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise RowFault("wrong_type", f"has {json_kind(labels)} as 'labels', expected an object")
    try:
        return {Group(name): label_of(Group(name), label) for name, label in labels.items()}
    except ValueError as error:
        raise RowFault("unknown_label", str(error)) from error
