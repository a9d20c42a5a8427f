"""The training mix of the default weights: which labelled sets, how many, in which order.

Reads the folder of zstd-compressed JSONL sets that recipes name as `data`; mines hard negatives
with BM25. Held-out instructions are chosen by a hash of their text, so that the benchmark and the
mix agree without sharing a list.
"""

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
import zstandard

from selfrag.errors import BadInput
from selfrag.gold import holds_gold
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL
from selfrag.record import GeneratorRecord, open_text
from selfrag.train.labelled import (
    LabelledQuestion,
    QuestionMix,
    answer_kind,
    no_retrieval_record,
    question_records,
    retrieval_record,
    topic_records,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """How many of each; `seed` fixes every draw."""

    n_squad: int = 9000
    n_qed: int = 3500
    n_retrieval: int = 1500
    n_no_retrieval: int = 1500
    n_topics: int = 500
    seed: int = 0


def read_set(data: Path, name: str) -> list[dict[str, Any]]:
    """All rows of `<data>/<name>.jsonl.zst`; raises `BadInput` when it is not there."""
    path = data / f"{name}.jsonl.zst"
    if not path.is_file():
        raise BadInput(
            f"cannot read the set {name!r}: no file {path}; expected the labelled sets as "
            "<folder>/<set>.jsonl.zst, so name their folder with --data"
        )
    text = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().decode()
    return [json.loads(line) for line in text.split("\n") if line]


def wiki_passages(data: Path) -> dict[str, Passage]:
    """The passages of the retrieval benchmark, by id, in corpus order."""
    rows = read_set(data, "wiki_retrieval/passages")
    return {
        row["pid"]: Passage(
            id=row["pid"], title=row["title"], text=untokenise(row["text"]), source="Wikipedia"
        )
        for row in rows
    }


def untokenise(text: str) -> str:
    """Undoes the spacing of Natural Questions' tokenised text; other text is left as it is."""
    if " ." not in text and " ," not in text and "`` " not in text:
        return text
    text = text.replace("`` ", '"').replace(" ''", '"').replace("-- ", "\u2013 ")
    text = re.sub(r" ([,.;:?!%)\]])", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    return re.sub(r" ('s|'re|'ve|'ll|'d|n't|')(?!\w)", r"\1", text)


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
    groups = list(_question_groups(data, passages, config, rng))
    groups += [[record] for record in _retrieval(data, config, rng)]
    groups += [[record] for record in _no_retrieval(data, recipe_dir, config, rng)]
    groups += [[record] for record in topic_records(passages, config.n_topics, rng)]
    order = rng.permutation(len(groups))
    return [record for index in order for record in groups[int(index)]]


def _question_groups(
    data: Path, passages: dict[str, Passage], config: MixConfig, rng: np.random.Generator
) -> Iterator[list[GeneratorRecord]]:
    rows = read_set(data, "wiki_retrieval/qrels_train")
    chosen = [
        *_draw([r for r in rows if r["dataset"] == "squad"], config.n_squad, rng),
        *_draw([r for r in rows if r["dataset"] == "qed"], config.n_qed, rng),
    ]
    pools: dict[str, list[str]] = {}
    asked: dict[str, list[str]] = {}
    for row in rows:
        asked.setdefault(row["gold_pids"][0], []).append(row["answers"][0])
        title = passages[row["gold_pids"][0]].title
        pools.setdefault(title, []).append(row["answers"][0])
        pools.setdefault(answer_kind(row["answers"][0]), []).append(row["answers"][0])
    negatives = mine_negatives(passages, chosen)
    for row, hard in zip(chosen, negatives, strict=True):
        gold = passages[row["gold_pids"][0]]
        item = LabelledQuestion(
            id=row["qid"],
            dataset=row["dataset"],
            question=row["question"].strip(),
            answers=tuple(untokenise(answer) for answer in row["answers"]),
            gold=gold,
            negatives=hard,
            elsewhere=tuple(a for a in asked[gold.id] if a not in row["answers"]),
        )
        pool = pools[gold.title]
        if len(pool) < 10:
            same_kind = pools[answer_kind(row["answers"][0])]
            pool = [same_kind[int(i)] for i in rng.integers(len(same_kind), size=10)]
        if records := question_records(item, pool, QuestionMix(), rng):
            yield records


def mine_negatives(
    passages: dict[str, Passage], rows: Sequence[dict[str, Any]], depth: int = 20
) -> list[tuple[Passage, ...]]:
    """For every row the BM25 top `depth` without an answer string or gold passage, at most six."""
    if not rows:
        return []
    corpus = list(passages.values())
    stemmer = Stemmer.Stemmer("english")
    texts = [f"{passage.title} {passage.text}" for passage in corpus]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False))
    queries = bm25s.tokenize(
        [row["question"] for row in rows], stopwords="en", stemmer=stemmer, show_progress=False
    )
    found, _ = index.retrieve(queries, k=depth, show_progress=False)
    mined = []
    for row, hits in zip(rows, found, strict=True):
        answers = [untokenise(answer) for answer in row["answers"]]
        fitting = (corpus[int(hit)] for hit in hits)
        clean = [
            p
            for p in fitting
            if p.id not in row["gold_pids"] and not holds_gold(f"{p.title} {p.text}", answers)
        ]
        mined.append(tuple(clean[:6]))
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
    with open_text(recipe_dir / "no_retrieval_seeds.txt", "instructions without retrieval") as file:
        seeds = file.read().splitlines()
    asked = [(seed, "") for seed in seeds if seed.strip()]
    rest = max(0, config.n_no_retrieval - len(pairs) - len(asked))
    pairs += asked + _draw(t0_pairs, rest, rng)
    records = []
    for number, (instruction, output) in enumerate(pairs):
        short = " ".join(output.split(" ")[:90]) if len(output.split()) <= 120 else ""
        records.append(no_retrieval_record(f"none-{number}", "instructions", instruction, short))
    return records
