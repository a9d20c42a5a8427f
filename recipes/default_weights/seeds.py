"""Seed rows with gold labels, from sets that people have labelled: no teacher, or a check of one.

    python recipes/default_weights/seeds.py DATA --out seeds.jsonl --per-label 100 --sets wice,selqa

`selfrag annotate critic seeds.jsonl` then labels them, or with `--teacher gold` takes the labels.
Reads a folder of zstd-compressed JSON lines; which sets and fields stand in `SETS`. Knows nothing
of teachers or of training.
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.annotate.critic_data import groups_from
from selfrag.annotate.judgement import Group, Label
from selfrag.annotate.seeds import Seed
from selfrag.errors import BadInput, SelfRAGError
from selfrag.reflection import Relevance, Retrieve, Support, Utility

CLAIM = "Write a sentence about {} that is true."

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """One set: its file, the group it labels, and its rows as (label, texts of a seed).

    `passages` names a file whose rows are put into those of the set, as `passage`, by `pid`.
    """

    name: str
    group: Group
    read: Callable[[Row], list[tuple[Label | None, dict[str, str]]]]
    passages: str = ""


def read_labelled_sets(
    data: Path,
    *,
    per_label: int,
    groups: Sequence[Group] = (),
    sets: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[Seed]:
    """Of every set at most `per_label` seeds a label, drawn by `seed`, in the order of the sets.

    `groups` and `sets` (what names begin with) leave others out. Every seed asks the one group it
    has a label for. Raises `BadInput` where a set is not there.
    """
    names = [labelled_set.name for labelled_set in SETS]
    for start in sets:
        if not any(name.startswith(start) for name in names):
            raise BadInput(
                f"cannot read the labelled set {start!r}: there is none of that name; expected the "
                f"beginning of one of {', '.join(names)}, so name one of them"
            )
    for labelled_set in SETS:
        if groups and labelled_set.group not in groups:
            continue
        if sets and not labelled_set.name.startswith(tuple(sets)):
            continue
        # Its own generator: leaving a set out changes no draw of another.
        rng = np.random.default_rng([seed, SETS.index(labelled_set)])
        yield from _draw(data, labelled_set, per_label, rng)


def _draw(
    data: Path, labelled_set: LabelledSet, per_label: int, rng: np.random.Generator
) -> Iterator[Seed]:
    by_label: dict[Label, list[dict[str, str]]] = {}
    joined = labelled_set.passages
    passages = {row["pid"]: row for row in _rows(data, joined)} if joined else {}
    for number, row in enumerate(_rows(data, labelled_set.name), start=1):
        try:
            if joined:
                row["passage"] = passages[row["pid"]]
            read = labelled_set.read(row)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"cannot read the labelled set {labelled_set.name}: line {number} lacks a field "
                f"({error!r}); expected the set as listed in seeds.py"
            ) from error
        for label, texts in read:
            if label is not None:
                by_label.setdefault(label, []).append(texts)
    for label in sorted(by_label):
        pool = by_label[label]
        for index in rng.permutation(len(pool))[:per_label]:
            texts = pool[int(index)]
            yield Seed(
                id=f"{labelled_set.name}/{label.strip('[]')}/{index}",
                dataset=labelled_set.name,
                instruction=texts["instruction"],
                output=texts.get("output", ""),
                sentence=texts.get("output", ""),
                evidence=texts.get("evidence", ""),
                gold={labelled_set.group: label},
                groups=(labelled_set.group,),
            )


def _rows(data: Path, name: str) -> Iterator[Row]:
    try:
        import zstandard
    except ImportError as error:
        raise BadInput(
            f"cannot read the labelled sets: {error}; they are zstd-compressed, "
            'so run `pip install "selfrag[train]"`'
        ) from error
    path = data / f"{name}.jsonl.zst"
    try:
        with path.open("rb") as packed:
            stream = zstandard.ZstdDecompressor().stream_reader(packed)
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                yield json.loads(line)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise BadInput(
            f"cannot read the labelled set {path}: {error}; expected zstd-compressed JSON lines, "
            "so name the folder that holds the sets"
        ) from error


def _question(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    question = row["question"].strip()
    asked = question[:1].upper() + question[1:].rstrip("?") + "?"
    return [(Retrieve.YES, {"instruction": asked})]


# Of the T0 prompts these bring all that is needed with them.
_SELF_CONTAINED = re.compile("common_gen|paws_.*Rewrite|generate_question|dbpedia_14_pick")


def _prompt(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    fits = _SELF_CONTAINED.search(row["template"]) and len(row["prompt"]) < 600
    return [(Retrieve.NO, {"instruction": row["prompt"].strip()})] if fits else []


def _selqa(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    """Which sentences of a section answer a question: of each row the first of both kinds."""
    kinds: dict[Label | None, str] = {}
    for n, text in enumerate(row["candidates"]):
        label = Relevance.RELEVANT if n in row["answers"] else Relevance.IRRELEVANT
        kinds.setdefault(label, f"{row['article']}\n{text}")
    return [
        (label, {"instruction": row["question"], "evidence": evidence})
        for label, evidence in kinds.items()
    ]


def _squad(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    """Which passages answer a question that was written for them, or only seems to be."""
    label = Relevance.IRRELEVANT if row["no_answer"] else Relevance.RELEVANT
    evidence = f"{row['passage']['title']}\n{row['passage']['text']}"
    return [(label, {"instruction": row["question"].strip(), "evidence": evidence})]


_WICE = {
    "supported": Support.FULL,
    "partially_supported": Support.PARTIAL,
    "not_supported": Support.NONE,
}
_STANCES = {
    "completely-support": Support.FULL,
    "partially-support": Support.PARTIAL,
    "refute": Support.NONE,
}
# What is not fully attributable may have nothing in the evidence: two labels of ours in one.
_ATTRIBUTIONS = {
    "Fully attributable": Support.FULL,
    "Not fully attributable": Support.PARTIAL,
}
_VERDICTS = {"SUPPORTS": Support.FULL, "REFUTES": Support.NONE}


def _claim(
    label: Label | None, subject: str, claim: str, evidence: str
) -> list[tuple[Label | None, dict[str, str]]]:
    texts = {"instruction": CLAIM.format(subject), "output": claim, "evidence": evidence}
    return [(label, texts)] if evidence.strip() and claim.strip() else []


def _wice(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    title = row["meta"]["claim_title"]
    return _claim(_WICE.get(row["label"]), title, row["claim"], " ".join(row["evidence"]))


def _factcheck(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    return _claim(_STANCES.get(row["stance"]), "the world", row["claim"], row["evidence"])


def _fool_me_twice(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    evidence = " ".join(part["text"] for part in row["gold_evidence"])
    page = row["wikipedia_page"]
    return _claim(_VERDICTS.get(row["label"]), page, row["text"], f"{page}\n{evidence}")


def _symmetric(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    return _claim(_VERDICTS.get(row["label"]), "the world", row["claim"], row["evidence"])


def _begin(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    label = _ATTRIBUTIONS.get(row["begin_label"])
    texts = {"output": row["response"].strip(), "evidence": row["knowledge"].strip()}
    return (
        [(label, {"instruction": row["message"].strip(), **texts})] if all(texts.values()) else []
    )


def _alce(row: Row) -> list[tuple[Label | None, dict[str, str]]]:
    score = row["utility_score"]
    label = list(Utility)[score - 1] if score in range(1, 6) and row["output"].strip() else None
    return [(label, {"instruction": row["question"], "output": row["output"]})]


SETS: tuple[LabelledSet, ...] = (
    LabelledSet(name="nq_open/train_part_8757", group=Group.RETRIEVE, read=_question),
    LabelledSet(name="entity_questions/train", group=Group.RETRIEVE, read=_question),
    LabelledSet(name="instructions/t0_mix_permissive", group=Group.RETRIEVE, read=_prompt),
    LabelledSet(name="selqa/dev", group=Group.RELEVANCE, read=_selqa),
    LabelledSet(name="wice/claim_dev_oracle_chunks", group=Group.SUPPORT, read=_wice),
    LabelledSet(name="factcheck_bench/claim_evidence_stance", group=Group.SUPPORT, read=_factcheck),
    LabelledSet(name="fool_me_twice/dev", group=Group.SUPPORT, read=_fool_me_twice),
    LabelledSet(name="fever/symmetric_dev", group=Group.SUPPORT, read=_symmetric),
    LabelledSet(name="asqa/alce_human_utility", group=Group.UTILITY, read=_alce),
    LabelledSet(
        name="squad/dev_v2.0", group=Group.RELEVANCE, read=_squad, passages="squad/passages"
    ),
    LabelledSet(name="begin/wow_test_part", group=Group.SUPPORT, read=_begin),
)


def seed_row(seed: Seed) -> dict[str, Any]:
    """A seed as `annotate critic` reads it."""
    return {
        "id": seed.id,
        "dataset_name": seed.dataset,
        "instruction": seed.instruction,
        "output": seed.output,
        "evidence": seed.evidence,
        "labels": dict(seed.gold),
        "groups": list(seed.groups),
    }


def main() -> None:
    """Draws seed rows with gold labels from labelled sets."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path, help="folder of labelled sets")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--per-label", type=int, default=100, help="of each set")
    parser.add_argument("--sets", default="", help="beginnings of names, as in wice,selqa")
    parser.add_argument("--groups", default="", help="which labels, as in retrieve,support")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    try:
        seeds = list(
            read_labelled_sets(
                options.data,
                per_label=options.per_label,
                groups=groups_from(_names(options.groups)) if options.groups else (),
                sets=_names(options.sets),
                seed=options.seed,
            )
        )
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
    lines = [json.dumps(seed_row(seed), ensure_ascii=False) + "\n" for seed in seeds]
    options.out.write_text("".join(lines), "utf-8")
    sys.stdout.write(f"wrote {len(seeds)} seed rows to {options.out}\n")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main()
