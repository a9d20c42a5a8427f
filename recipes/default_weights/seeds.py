"""Seed rows with gold labels, from sets that people have labelled: no teacher, or a check of one.

    python recipes/default_weights/seeds.py DATA --out seeds.jsonl --per-label 100 --sets wice,selqa

`selfrag annotate critic seeds.jsonl` then labels them, or with `--teacher gold` takes the labels.
Reads a folder of zstd-compressed JSON lines; which sets and fields stand in `SETS`. Knows nothing
of teachers or of training.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairs import Pair, Part, read_pairs
from selfrag.annotate.critic_data import groups_from
from selfrag.annotate.judgement import Group, Label
from selfrag.annotate.seeds import Seed
from selfrag.errors import BadInput, SelfRAGError
from selfrag.reflection import Relevance, Retrieve, Utility
from sets import read_set

CLAIM = "Write a sentence about {} that is true."

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """One set: its file, the group it labels, and how a row gives a label and the texts of a seed.

    Without `read` it is a set of pairs, of which the part for training is taken.
    """

    name: str
    group: Group
    read: Callable[[Row], tuple[Label | None, dict[str, str]]] | None = None


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
    for label, texts in _labelled(data, labelled_set):
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


def _labelled(
    data: Path, labelled_set: LabelledSet
) -> Iterator[tuple[Label | None, dict[str, str]]]:
    if labelled_set.read is None:
        yield from map(_pair, read_pairs(data, labelled_set.name, Part.TRAIN))
        return
    for number, row in enumerate(read_set(data, labelled_set.name), start=1):
        try:
            yield labelled_set.read(row)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"cannot read the labelled set {labelled_set.name}: row {number} lacks a field "
                f"({error!r}); expected the set as listed in seeds.py"
            ) from error


def _question(row: Row) -> tuple[Label | None, dict[str, str]]:
    question = row["question"].strip()
    asked = question[:1].upper() + question[1:].rstrip("?") + "?"
    return Retrieve.YES, {"instruction": asked}


# Of the T0 prompts these bring all that is needed with them.
_SELF_CONTAINED = re.compile("common_gen|paws_.*Rewrite|generate_question|dbpedia_14_pick")


def _prompt(row: Row) -> tuple[Label | None, dict[str, str]]:
    fits = _SELF_CONTAINED.search(row["template"]) and len(row["prompt"]) < 600
    return Retrieve.NO if fits else None, {"instruction": row["prompt"].strip()}


def _pair(pair: Pair) -> tuple[Label | None, dict[str, str]]:
    """A labelled pair as the texts of a seed; a claim without a question has one made for it.

    Evidence that is not about the claim says nothing about the labels of support.
    """
    passage = pair.passage
    texts = {"evidence": f"{passage.title}\n{passage.text}".strip()}
    if pair.support is None:
        return pair.relevance, {"instruction": pair.question, **texts}
    asked = pair.question or CLAIM.format(passage.title or "the world")
    label = pair.support if pair.relevance is Relevance.RELEVANT else None
    return label, {"instruction": asked, "output": pair.claim, **texts}


def _alce(row: Row) -> tuple[Label | None, dict[str, str]]:
    score = row["utility_score"]
    label = list(Utility)[score - 1] if score in range(1, 6) and row["output"].strip() else None
    return label, {"instruction": row["question"], "output": row["output"]}


SETS: tuple[LabelledSet, ...] = (
    LabelledSet(name="nq_open/train_part_8757", group=Group.RETRIEVE, read=_question),
    LabelledSet(name="entity_questions/train", group=Group.RETRIEVE, read=_question),
    LabelledSet(name="instructions/t0_mix_permissive", group=Group.RETRIEVE, read=_prompt),
    LabelledSet(name="selqa/dev", group=Group.RELEVANCE),
    LabelledSet(name="wice/claim_dev_oracle_chunks", group=Group.SUPPORT),
    LabelledSet(name="factcheck_bench/claim_evidence_stance", group=Group.SUPPORT),
    LabelledSet(name="fool_me_twice/dev", group=Group.SUPPORT),
    LabelledSet(name="fever/symmetric_dev", group=Group.SUPPORT),
    LabelledSet(name="asqa/alce_human_utility", group=Group.UTILITY, read=_alce),
    LabelledSet(name="squad/dev_v2.0", group=Group.RELEVANCE),
    LabelledSet(name="begin/wow_dev", group=Group.SUPPORT),
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
