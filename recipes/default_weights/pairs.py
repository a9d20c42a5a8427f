"""Pairs of a text and a passage that people have labelled, split into training and measuring.

The split is fixed: all rows of one source (an article, a claim, a piece of knowledge) fall on one
side, by a hash of the source. Sets that were published to be tested on are only measured. Training
takes `Part.TRAIN` and benchmarks take `Part.MEASURE` from the same function, so neither needs a
list of the other. Knows nothing of records or prompts.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.passage import Passage
from selfrag.reflection import Relevance, Support
from sets import read_set, untokenise

MEASURED_TENTHS = 3  # of the sources of a set, where it has both parts

Row = dict[str, Any]


class Part(StrEnum):
    """What a source is used for."""

    TRAIN = "train"
    MEASURE = "measure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A claim or a question (or both) and a passage, with what people said of them.

    `support` None: only the relevance of the passage to the question was judged. `source`: what
    rows that must stay together have in common.
    """

    dataset: str
    source: str
    passage: Passage
    claim: str = ""
    question: str = ""
    support: Support | None = None
    relevance: Relevance = Relevance.RELEVANT


@dataclass(frozen=True, slots=True)
class PairSet:
    """One file of pairs: how a row is read, and whether the file may only be measured.

    `passages` names a file whose rows are put into those of the set, as `passage`, by `pid`.
    """

    name: str
    read: Callable[[str, Row], list[Pair]]
    measured_only: bool = False
    passages: str = ""


def part_of(source: str) -> Part:
    """The side on which all rows of `source` fall; letter case and spacing do not count."""
    key = " ".join(source.lower().split())
    return Part.MEASURE if zlib.crc32(key.encode()) % 10 < MEASURED_TENTHS else Part.TRAIN


def read_pairs(data: Path, name: str, part: Part) -> list[Pair]:
    """The pairs of one set in file order, each once; raises `BadInput` for a set without pairs."""
    found = next((pair_set for pair_set in PAIR_SETS if pair_set.name == name), None)
    if found is None:
        raise BadInput(
            f"cannot read pairs of {name!r}: there are none of that name; expected one of "
            f"{', '.join(pair_set.name for pair_set in PAIR_SETS)}, so name one of them"
        )
    if found.measured_only and part is Part.TRAIN:
        return []
    pairs = [
        pair for pair in _pairs(data, found) if found.measured_only or part_of(pair.source) is part
    ]
    return list(dict.fromkeys(pairs))


def _pairs(data: Path, pair_set: PairSet) -> Iterator[Pair]:
    joined = {}
    if pair_set.passages:
        joined = {row["pid"]: row for row in read_set(data, pair_set.passages)}
    for number, row in enumerate(read_set(data, pair_set.name), start=1):
        try:
            if joined:
                row["passage"] = joined[row["pid"]]
            yield from pair_set.read(pair_set.name, row)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"cannot read pairs of {pair_set.name}: row {number} lacks a field ({error!r}); "
                "expected the set as listed in pairs.py, so name the folder of that edition"
            ) from error


_WICE = {
    "supported": Support.FULL,
    "partially_supported": Support.PARTIAL,
    "not_supported": Support.NONE,
}
_STANCES = {
    "completely-support": Support.FULL,
    "partially-support": Support.PARTIAL,
    "refute": Support.NONE,
    "irrelevant": Support.NONE,
}
# What is not fully attributable may have nothing in the evidence: two labels of ours in one.
_ATTRIBUTIONS = {
    "Fully attributable": Support.FULL,
    "Not fully attributable": Support.PARTIAL,
}
_VERDICTS = {"SUPPORTS": Support.FULL, "REFUTES": Support.NONE}
_TITLE = "(meta data) TITLE:"


def _wice(name: str, row: Row) -> list[Pair]:
    lines = [line.strip() for line in row["evidence"]]
    title = next((line[len(_TITLE) :].strip() for line in lines if line.startswith(_TITLE)), "")
    passage = Passage(
        title=title, text=" ".join(line for line in lines if not line.startswith("(meta data)"))
    )
    label = _WICE.get(row["label"])
    return _labelled(name, row["meta"]["claim_title"], passage, row["claim"], label)


def _factcheck(name: str, row: Row) -> list[Pair]:
    relevance = Relevance.IRRELEVANT if row["stance"] == "irrelevant" else Relevance.RELEVANT
    passage, label = Passage(text=row["evidence"]), _STANCES.get(row["stance"])
    return _labelled(name, row["claim"], passage, row["claim"], label, relevance=relevance)


def _fool_me_twice(name: str, row: Row) -> list[Pair]:
    page = row["wikipedia_page"]
    evidence = " ".join(part["text"].strip() for part in row["gold_evidence"])
    passage = Passage(title=page, text=evidence)
    return _labelled(name, page, passage, row["text"], _VERDICTS.get(row["label"]))


def _symmetric(name: str, row: Row) -> list[Pair]:
    # Two claims with two pieces of evidence: four rows whose ids begin alike.
    source = re.sub(r"000000\d$", "", row["id"])
    passage = Passage(text=untokenise(row["evidence"]))
    return _labelled(name, source, passage, untokenise(row["claim"]), _VERDICTS.get(row["label"]))


def _begin(name: str, row: Row) -> list[Pair]:
    knowledge, message, response = (
        untokenise(row[field]).strip() for field in ("knowledge", "message", "response")
    )
    label = _ATTRIBUTIONS.get(row["begin_label"])
    passage = Passage(text=knowledge)
    return _labelled(name, knowledge, passage, response, label, question=message)


def _labelled(
    dataset: str,
    source: str,
    passage: Passage,
    claim: str,
    support: Support | None,
    *,
    question: str = "",
    relevance: Relevance = Relevance.RELEVANT,
) -> list[Pair]:
    if support is None or not claim.strip() or not passage.text.strip():
        return []
    pair = Pair(
        dataset=dataset,
        source=source,
        passage=passage,
        claim=claim.strip(),
        question=question,
        support=support,
        relevance=relevance,
    )
    return [pair]


def _selqa(name: str, row: Row) -> list[Pair]:
    """Which sentences of a section answer a question: of each row the first of both kinds."""
    kinds: dict[Relevance, str] = {}
    for number, text in enumerate(row["candidates"]):
        label = Relevance.RELEVANT if number in row["answers"] else Relevance.IRRELEVANT
        kinds.setdefault(label, text)
    return [
        _asked(name, row["article"], text, row["question"], label) for label, text in kinds.items()
    ]


def _squad(name: str, row: Row) -> list[Pair]:
    """Which passages answer a question that was written for them, or only seems to be."""
    passage = row["passage"]
    label = Relevance.IRRELEVANT if row["no_answer"] else Relevance.RELEVANT
    return [_asked(name, passage["title"], passage["text"], row["question"], label)]


def _clapnq(name: str, row: Row) -> list[Pair]:
    passage, question = row["passages"][0], row["input"].strip()
    answered = any(output["answer"] for output in row["output"])
    return [
        _asked(
            name,
            passage["title"],
            untokenise(passage["text"]).strip(),
            question[:1].upper() + question[1:].rstrip("?") + "?",
            Relevance.RELEVANT if answered else Relevance.IRRELEVANT,
        )
    ]


def _asked(dataset: str, title: str, text: str, question: str, relevance: Relevance) -> Pair:
    return Pair(
        dataset=dataset,
        source=title,
        passage=Passage(title=title, text=text),
        question=question.strip(),
        relevance=relevance,
    )


# Not scifact: its licence forbids commercial use of what is made from it.
SUPPORT_SETS: tuple[PairSet, ...] = (
    PairSet("wice/claim_dev_oracle_chunks", _wice),
    PairSet("factcheck_bench/claim_evidence_stance", _factcheck),
    PairSet("fever/symmetric_dev", _symmetric),
    PairSet("fever/symmetric_test_part", _symmetric, measured_only=True),
    PairSet("fool_me_twice/dev", _fool_me_twice),
    PairSet("fool_me_twice/test_part", _fool_me_twice, measured_only=True),
    PairSet("begin/wow_dev", _begin),
    PairSet("begin/cmu_dog_dev", _begin),
    PairSet("begin/topicalchat_dev", _begin),
    PairSet("begin/wow_test_part", _begin, measured_only=True),
)
RELEVANCE_SETS: tuple[PairSet, ...] = (
    PairSet("selqa/dev", _selqa),
    PairSet("squad/dev_v2.0", _squad, passages="squad/passages"),
    PairSet("clapnq/dev_answerable", _clapnq),
    PairSet("clapnq/dev_unanswerable", _clapnq),
)
PAIR_SETS = (*SUPPORT_SETS, *RELEVANCE_SETS)
