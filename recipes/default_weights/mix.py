"""The training mix of the default weights: which labelled sets, how many, in which order.

    python recipes/default_weights/mix.py MIX.toml --data DATA --out records.jsonl

Reads the folder of zstd-compressed JSONL sets that recipes name as `data`; mines hard negatives
with BM25. Held-out instructions are chosen by a hash of their text, so that the benchmark and the
mix agree without sharing a list.
"""

import argparse
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer

from labelled import (
    LabelledQuestion,
    QuestionMix,
    answer_kind,
    no_retrieval_record,
    question_records,
    retrieval_record,
    topic_records,
)
from longform import (
    LongMix,
    ambiguous_record,
    biography_records,
    two_part_record,
)
from selfrag.errors import SelfRAGError
from selfrag.files import read_errors
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL
from selfrag.released import GeneratorRecord, save_records
from selfrag.text import holds_gold
from selfrag.train.config import load_recipe, settings
from sets import read_set, untokenise, wiki_passages


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """How many of each; `seed` fixes every draw. `untitled_share` of the groups lose all titles."""

    n_squad: int = 9000
    n_qed: int = 3500
    n_retrieval: int = 1500
    n_no_retrieval: int = 1500
    n_topics: int = 500
    n_ambiguous: int = 0
    n_two_part: int = 0
    n_biographies: int = 0
    untitled_share: float = 0.0
    seed: int = 0


def is_held_out(instruction: str) -> bool:
    """Whether an instruction is kept for measuring the gate: half of them, by hash."""
    return zlib.crc32(" ".join(instruction.lower().split()).encode()) % 2 == 0


# Instructions that start so ask for writing, rewriting, sorting or ideas, not for facts.
CREATIVE = re.compile(
    r"^(please )?(write|rewrite|rephrase|paraphrase|summari[sz]e|compose|create|generate|suggest|"
    r"classify|categori[sz]e|identify which|tell me (which|whether)|brainstorm|imagine|pretend|"
    r"edit|correct|fix|convert|translate|turn|make|come up|think of|draft|reply|respond|extract|"
    r"sort|order|rank|separate|group|split|given (a|the|this|these)|based on|using|from the|"
    r"read|in this task|choose|pick|select|find the|fill|complete|continue|leave|add|remove|"
    r"design|plan|help|give me (some|a list of (ideas|ways|tips|hobbies))|"
    r"i |my |we |you |let's|hello|hi|hey|thanks|thank you|how (do|can|should|would) (i|you|we))",
    re.IGNORECASE,
)


def creative_instructions(data: Path) -> list[tuple[str, str]]:
    """(instruction, output) pairs that need no retrieval, held-out ones included."""
    pairs = []
    for row in read_set(data, "instructions/dolly_hhrlhf_1000"):
        instruction = row["prompt"].split(INSTRUCTION_HEAD)[1].split(INSTRUCTION_TAIL)[0]
        pairs.append((instruction.strip(), row["response"].strip()))
    for row in read_set(data, "instructions/self_instruct_seeds"):
        first = row["instances"][0]
        instruction = "\n\n".join(part for part in (row["instruction"], first["input"]) if part)
        pairs.append((instruction.strip(), first["output"].strip()))
    return [(i, o) for i, o in pairs if CREATIVE.match(i) and len(i) < 700 and o]


FACTUAL_SETS = (
    ("nq_open/train_part_8757", "question"),
    ("webquestions/train", "question"),
    ("entity_questions/train", "question"),
    ("triviaqa/dev_8837", "question"),
    ("strategyqa/train", "question"),
    ("boolq/train_questions_no_passage", "question"),
    ("fever/paper_dev_claims_no_evidence_text", "claim"),
)
CLAIM_TEMPLATES = (
    "Is the following statement correct or not? Say true if it's correct; otherwise say false."
    "\n\n## Input:\n\n{}",
    "Is it true that {}",
    "Check this claim: {}",
    "{} True or false?",
)
T0_TEMPLATES = re.compile("common_gen|generate_question|title_generation|build_story|paws|cosmos")


def build_mix(data: Path, recipe_dir: Path, config: MixConfig) -> list[GeneratorRecord]:
    """All records of the mix, groups kept together and otherwise shuffled."""
    rng = np.random.default_rng(config.seed)
    passages = wiki_passages(data)
    questions = _Questions(data, passages)
    groups = list(_question_groups(questions, config, rng))
    groups += [[record] for record in _retrieval(data, config, rng)]
    groups += [[record] for record in _no_retrieval(data, recipe_dir, config, rng)]
    groups += [[record] for record in topic_records(passages, config.n_topics, rng)]
    if config.n_ambiguous or config.n_two_part or config.n_biographies:
        groups += [[record] for record in _long(data, questions, config, rng)]
    groups = [groups[int(index)] for index in rng.permutation(len(groups))]
    if config.untitled_share:
        drawn = rng.random(len(groups)) < config.untitled_share
        groups = [
            [untitled(record) for record in group] if without else group
            for group, without in zip(groups, drawn, strict=True)
        ]
    return [record for group in groups for record in group]


def untitled(record: GeneratorRecord) -> GeneratorRecord:
    """The record with passages that have no title, as many documents have none."""
    segments = tuple(
        segment
        if segment.passage is None
        else replace(segment, passage=replace(segment.passage, title=""))
        for segment in record.segments
    )
    return replace(record, segments=segments)


class _Questions:
    """The labelled questions of the retrieval benchmark, with what BM25 finds for them."""

    def __init__(self, data: Path, passages: dict[str, Passage]) -> None:
        self.rows = read_set(data, "wiki_retrieval/qrels_train")
        self.passages = passages
        self._pools: dict[str, list[str]] = {}
        self._asked: dict[str, list[str]] = {}
        for row in self.rows:
            answer = row["answers"][0]
            self._asked.setdefault(row["gold_pids"][0], []).append(answer)
            for name in (passages[row["gold_pids"][0]].title, answer_kind(answer)):
                self._pools.setdefault(name, []).append(answer)

    def of(self, dataset: str, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """`n` rows of one set."""
        return _draw([row for row in self.rows if row["dataset"] == dataset], n, rng)

    def item(self, row: dict[str, Any], negatives: tuple[Passage, ...]) -> LabelledQuestion:
        """A row as a question; the rows of one passage know of each other's answers."""
        gold = self.passages[row["gold_pids"][0]]
        return LabelledQuestion(
            id=row["qid"],
            dataset=row["dataset"],
            question=row["question"].strip(),
            answers=tuple(untokenise(answer) for answer in row["answers"]),
            gold=gold,
            negatives=negatives,
            elsewhere=tuple(a for a in self._asked[gold.id] if a not in row["answers"]),
        )

    def pairs(
        self, n: int, rng: np.random.Generator
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """`n` times two SQuAD rows about different passages of one title."""
        by_title: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            if row["dataset"] == "squad":
                by_title.setdefault(self.passages[row["gold_pids"][0]].title, []).append(row)
        titles = [rows for rows in by_title.values() if len({r["gold_pids"][0] for r in rows}) > 1]
        firsts, seconds = [], []
        for _ in range(n):
            rows = titles[int(rng.integers(len(titles)))]
            first = rows[int(rng.integers(len(rows)))]
            others = [row for row in rows if row["gold_pids"][0] != first["gold_pids"][0]]
            firsts.append(first)
            seconds.append(others[int(rng.integers(len(others)))])
        return firsts, seconds

    def pool(self, item: LabelledQuestion, rng: np.random.Generator) -> list[str]:
        """Answers to other questions: of the same title, or of the same kind where it has few."""
        pool = self._pools[item.gold.title]
        if len(pool) >= 10:
            return pool
        same_kind = self._pools[answer_kind(item.answers[0])]
        return [same_kind[int(i)] for i in rng.integers(len(same_kind), size=10)]


def _question_groups(
    questions: _Questions, config: MixConfig, rng: np.random.Generator
) -> Iterator[list[GeneratorRecord]]:
    chosen = [
        *questions.of("squad", config.n_squad, rng),
        *questions.of("qed", config.n_qed, rng),
    ]
    for row, found in zip(chosen, mine(questions.passages, chosen), strict=True):
        item = questions.item(row, found.negatives)
        if records := question_records(item, questions.pool(item, rng), QuestionMix(), rng):
            yield records


def _long(
    data: Path, questions: _Questions, config: MixConfig, rng: np.random.Generator
) -> Iterator[GeneratorRecord]:
    """Answers of several segments: ambiguous questions, questions of two parts, biographies."""
    mix = LongMix()
    n_qed = config.n_ambiguous // 2
    asked = questions.of("qed", n_qed, rng)
    asked += questions.of("squad", config.n_ambiguous - n_qed, rng)
    firsts, seconds = questions.pairs(config.n_two_part, rng)
    mined = mine(questions.passages, [*asked, *firsts])
    for row, found in zip(asked, mined, strict=False):
        item = questions.item(row, found.negatives)
        if record := ambiguous_record(item, found.related, mix, rng):
            yield record
    for row, other, found in zip(firsts, seconds, mined[len(asked) :], strict=True):
        pair = questions.item(row, found.negatives), questions.item(other, ())
        if record := two_part_record(*pair, mix, rng):
            yield record
    if config.n_biographies:
        # The first hundred are kept for the evaluation.
        topics = read_set(data, "factscore_bio/bio_part")[100:]
        yield from biography_records(_draw(topics, config.n_biographies, rng), mix, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """What BM25 finds for a question beside its gold passages, best first.

    `negatives`: at most six without an answer string; `related`: at most four with one.
    """

    negatives: tuple[Passage, ...]
    related: tuple[Passage, ...]


def mine(
    passages: dict[str, Passage], rows: Sequence[dict[str, Any]], depth: int = 20
) -> list[Mined]:
    """For every row what the BM25 top `depth` gives."""
    if not rows:
        return []
    corpus = list(passages.values())
    stemmer = Stemmer.Stemmer("english")
    texts = [f"{passage.title} {passage.text}" for passage in corpus]
    index = bm25s.BM25()
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index.index(tokens, show_progress=False)
    queries = bm25s.tokenize(
        [row["question"] for row in rows], stopwords="en", stemmer=stemmer, show_progress=False
    )
    found, _ = index.retrieve(queries, k=min(depth, len(corpus)), show_progress=False)
    mined = []
    for row, hits in zip(rows, found, strict=True):
        answers = [untokenise(answer) for answer in row["answers"]]
        others = [corpus[int(hit)] for hit in hits]
        others = [passage for passage in others if passage.id not in row["gold_pids"]]
        holds = [holds_gold(f"{passage.title} {passage.text}", answers) for passage in others]
        clean = [passage for passage, does in zip(others, holds, strict=True) if not does]
        related = [passage for passage, does in zip(others, holds, strict=True) if does]
        mined.append(Mined(negatives=tuple(clean[:6]), related=tuple(related[:4])))
    return mined


def _draw(rows: Sequence[Any], n: int, rng: np.random.Generator) -> list[Any]:
    return [rows[int(index)] for index in rng.permutation(len(rows))[:n]]


def _retrieval(data: Path, config: MixConfig, rng: np.random.Generator) -> list[GeneratorRecord]:
    records: list[GeneratorRecord] = []
    for name, field in FACTUAL_SETS:
        for row in _draw(read_set(data, name), config.n_retrieval // len(FACTUAL_SETS), rng):
            text = row[field]
            if field == "claim":
                text = CLAIM_TEMPLATES[int(rng.integers(len(CLAIM_TEMPLATES)))].format(text)
            elif rng.random() < 0.5:
                text = text[:1].upper() + text[1:].rstrip("?") + "?"
            records.append(retrieval_record(f"gate-{len(records)}", name, text))
    return records


def _no_retrieval(
    data: Path, recipe_dir: Path, config: MixConfig, rng: np.random.Generator
) -> list[GeneratorRecord]:
    pairs = [pair for pair in creative_instructions(data) if not is_held_out(pair[0])]
    t0 = read_set(data, "instructions/t0_mix_permissive")
    t0_pairs = [
        (row["prompt"].strip(), row["completion"].strip())
        for row in t0
        if T0_TEMPLATES.search(row["template"]) and len(row["prompt"]) < 500
    ]
    path = recipe_dir / "no_retrieval_seeds.txt"
    with read_errors("instructions without retrieval", path), path.open(encoding="utf-8") as file:
        seeds = file.read().splitlines()
    asked = [(seed, "") for seed in seeds if seed.strip()]
    rest = max(0, config.n_no_retrieval - len(pairs) - len(asked))
    pairs += asked + _draw(t0_pairs, rest, rng)
    records = []
    for number, (instruction, output) in enumerate(pairs):
        short = " ".join(output.split(" ")[:90]) if len(output.split()) <= 120 else ""
        records.append(no_retrieval_record(f"none-{number}", "instructions", instruction, short))
    return records


def main() -> None:
    """Turns labelled question-answering sets into generator records."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("recipe", type=Path, help="TOML file with a table [mix]")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    options = parser.parse_args()
    try:
        config = settings(MixConfig, "mix", load_recipe(options.recipe, tables=("mix",)))
        records = build_mix(options.data, options.recipe.parent, config)
        save_records(records, options.out)
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"wrote {len(records)} records to {options.out}\n")


if __name__ == "__main__":
    main()
