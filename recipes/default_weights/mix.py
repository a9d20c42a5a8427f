"""The training mix of the default weights: which labelled sets, how many, in which order.

    python recipes/default_weights/mix.py MIX.toml --data DATA --out records.jsonl [--beside FILE]

Reads the folder of zstd-compressed JSONL sets that recipes name as `data`; mines hard negatives
with BM25. Held-out instructions are chosen by a hash of their text, so that the benchmark and the
mix agree without sharing a list.
"""

import argparse
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from contrasts import (
    ContrastMix,
    claim_records,
    contrast_records,
    pair_records,
    unanswerable_records,
)
from facts import BARE_FACTS, RELATIONS, short_records, silent_records, twin_records
from labelled import (
    QuestionMix,
    no_retrieval_record,
    question_records,
    retrieval_record,
    topic_records,
)
from longform import (
    LONG_TEMPLATES,
    LongMix,
    ambiguous_record,
    biography_records,
    comparison_records,
    two_part_record,
)
from pairs import PAIR_SETS, Part, read_pairs
from questions import Questions, draw, mine
from rephrase import asked_otherwise
from selfrag.errors import SelfRAGError
from selfrag.files import read_errors
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL
from selfrag.released import GeneratorRecord, load_records, save_records
from selfrag.train.config import load_recipe, settings
from sets import LICENCES, evaluation_questions, normalised, read_set, wiki_passages


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """How many of each; `seed` fixes every draw.

    `negative_share` of the questions of `n_squad` and `n_qed` read a passage without the answer;
    `n_contrasts`: questions with right and wrong texts to judge side by side; `n_claims`: claims to
    check, and `n_unanswerable`: questions that their passage does not answer, made by rule;
    `n_short`: questions about passages of a few words, `n_bare`: about facts that name nothing but
    the answer, `n_twins`: about one of two things whose names look alike, `n_relations`: the same
    in other words than the passage's; `n_silent`: passages of one sentence with claims to check.
    `more_wrong`: so many more wrong short answers beside a contrast. Of the biographies
    `shuffled_share` do not begin with the first passage about the person, and with `stored` all
    read passages as they are. `pair_words`: of every labelled set and label so many words of
    passages, none longer than `longest_pair` words; `relevance_words`: the same of those that say
    whether a passage answers, 0 for as many. `alone_share` of the contrasts also judge the short
    answer alone, `refused_share` are also asked of a passage that does not answer. Of the groups
    `untitled_share` lose all titles; of the questions with a passage `reworded_share` are asked in
    other words, `long_share` as wanting a long answer.
    """

    n_squad: int = 9000
    n_qed: int = 3500
    negative_share: float = 0.4
    n_retrieval: int = 1500
    n_no_retrieval: int = 1500
    n_topics: int = 500
    n_ambiguous: int = 0
    n_two_part: int = 0
    n_biographies: int = 0
    n_comparisons: int = 0
    shuffled_share: float = 0.0
    stored: bool = False
    n_contrasts: int = 0
    n_claims: int = 0
    n_unanswerable: int = 0
    n_twins: int = 0
    n_short: int = 0
    n_bare: int = 0
    n_silent: int = 0
    n_relations: int = 0
    more_wrong: int = 0
    pair_words: int = 0
    relevance_words: int = 0
    longest_pair: int = 260
    alone_share: float = 0.2
    refused_share: float = 0.0
    reworded_share: float = 0.0
    long_share: float = 0.0
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


def build_mix(
    data: Path, recipe_dir: Path, config: MixConfig, beside: Sequence[GeneratorRecord] = ()
) -> list[GeneratorRecord]:
    """All records of the mix and those `beside`, groups kept together and otherwise shuffled."""
    rng = np.random.default_rng(config.seed)
    passages = wiki_passages(data)
    questions = Questions(data, passages)
    groups = list(_question_groups(questions, config, rng))
    groups += [[record] for record in _retrieval(data, config, rng)]
    groups += [[record] for record in _no_retrieval(data, recipe_dir, config, rng)]
    groups += [[record] for record in topic_records(passages, config.n_topics, rng)]
    if config.n_ambiguous or config.n_two_part or config.n_biographies:
        groups += [[record] for record in _long(data, questions, config, rng)]
    if config.n_comparisons:
        leads = list(passages.values())
        compared = comparison_records(leads, config.n_comparisons, LongMix(), rng)
        groups += [[record] for record in compared]
    groups += _contrasts(questions, config, rng)
    groups += short_records(config.n_short, rng)
    groups += twin_records(config.n_twins, rng)
    groups += short_records(config.n_bare, rng, BARE_FACTS, "bare")
    groups += silent_records(config.n_silent, rng)
    groups += twin_records(config.n_relations, rng, RELATIONS, "relation")
    groups += _pairs(data, config, rng)
    groups += [list(same) for _, same in groupby(beside, lambda record: record.group or record.id)]
    groups = [groups[int(index)] for index in rng.permutation(len(groups))]
    if config.reworded_share:
        groups = [_reworded(group, config.reworded_share, rng, asked_otherwise) for group in groups]
    if config.long_share:
        groups = [_reworded(group, config.long_share, rng, asked_at_length) for group in groups]
    if config.untitled_share:
        drawn = rng.random(len(groups)) < config.untitled_share
        groups = [
            [untitled(record) for record in group] if without else group
            for group, without in zip(groups, drawn, strict=True)
        ]
    return [record for group in groups for record in group]


def _contrasts(
    questions: Questions, config: MixConfig, rng: np.random.Generator
) -> Iterator[list[GeneratorRecord]]:
    """Questions with texts to judge, claims to check, and questions without an answer."""
    mix = ContrastMix(
        alone=config.alone_share, more_wrong=config.more_wrong, refused=config.refused_share
    )
    amounts = (config.n_contrasts, config.n_claims, config.n_unanswerable)
    makers = (contrast_records, claim_records, unanswerable_records)
    asked = []
    for n, make in zip(amounts, makers, strict=True):
        # Two thirds of SQuAD, a third of Natural Questions.
        chosen = [*questions.of("squad", n - n // 3, rng), *questions.of("qed", n // 3, rng)]
        asked += [(make, row) for row in chosen]
    found = mine(questions.passages, [row for _, row in asked])
    for (make, row), mined in zip(asked, found, strict=True):
        item = questions.item(row, mined.negatives)
        if records := make(item, questions.pool(item, rng), mix, rng):
            yield records


def _pairs(
    data: Path, config: MixConfig, rng: np.random.Generator
) -> Iterator[list[GeneratorRecord]]:
    """Pairs that people have labelled, those of every set and label up to a number of words.

    What is measured elsewhere in the same words is left out.
    """
    if not config.pair_words:
        return
    measured = {
        text
        for pair_set in PAIR_SETS
        for pair in read_pairs(data, pair_set.name, Part.MEASURE)
        for text in (normalised(pair.claim), normalised(pair.passage.text))
        if text and pair.support is not None
    }
    evaluated = evaluation_questions(data)
    for pair_set in PAIR_SETS:
        words: dict[str, int] = {}
        pairs = read_pairs(data, pair_set.name, Part.TRAIN)
        for number in rng.permutation(len(pairs)):
            pair = pairs[int(number)]
            label = f"{pair.support} {pair.relevance}"
            asked_only = pair.support is None
            most = (asked_only and config.relevance_words) or config.pair_words
            known = {normalised(pair.claim), normalised(pair.passage.text)} & measured
            known |= {normalised(pair.question)} & evaluated
            if known or words.get(label, 0) >= most:
                continue
            if records := pair_records(pair, f"{pair_set.name}-{number}", config.longest_pair):
                words[label] = words.get(label, 0) + len(pair.passage.text.split())
                yield records


def asked_at_length(question: str, rng: np.random.Generator) -> str:
    """The question under an instruction that asks for a long answer."""
    return LONG_TEMPLATES[int(rng.integers(len(LONG_TEMPLATES)))].format(question)


def _reworded(
    group: list[GeneratorRecord],
    share: float,
    rng: np.random.Generator,
    reword: Callable[[str, np.random.Generator], str],
) -> list[GeneratorRecord]:
    """The group with its question in other words, where it is one question about a passage."""
    question = group[0].instruction
    about = group[0].segments[0].passage is not None and len(group[0].segments) == 1
    if not about or not question.endswith("?") or rng.random() >= share:
        return group
    other = reword(question, rng)
    return [replace(record, instruction=other) for record in group]


def untitled(record: GeneratorRecord) -> GeneratorRecord:
    """The record with passages that have no title, as many documents have none."""
    segments = tuple(
        segment
        if segment.passage is None
        else replace(segment, passage=replace(segment.passage, title=""))
        for segment in record.segments
    )
    return replace(record, segments=segments)


def _question_groups(
    questions: Questions, config: MixConfig, rng: np.random.Generator
) -> Iterator[list[GeneratorRecord]]:
    chosen = [
        *questions.of("squad", config.n_squad, rng),
        *questions.of("qed", config.n_qed, rng),
    ]
    mix = QuestionMix(negative_share=config.negative_share)
    for row, found in zip(chosen, mine(questions.passages, chosen), strict=True):
        item = questions.item(row, found.negatives)
        if records := question_records(item, questions.pool(item, rng), mix, rng):
            yield records


def _long(
    data: Path, questions: Questions, config: MixConfig, rng: np.random.Generator
) -> Iterator[GeneratorRecord]:
    """Answers of several segments: ambiguous questions, questions of two parts, biographies."""
    mix = LongMix(shuffled=config.shuffled_share, stored=config.stored)
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
        yield from biography_records(draw(topics, config.n_biographies, rng), mix, rng)


def _retrieval(data: Path, config: MixConfig, rng: np.random.Generator) -> list[GeneratorRecord]:
    records: list[GeneratorRecord] = []
    for name, field in FACTUAL_SETS:
        for row in draw(read_set(data, name), config.n_retrieval // len(FACTUAL_SETS), rng):
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
    pairs += asked + draw(t0_pairs, rest, rng)
    records = []
    for number, (instruction, output) in enumerate(pairs):
        short = " ".join(output.split(" ")[:90]) if len(output.split()) <= 120 else ""
        records.append(no_retrieval_record(f"none-{number}", "instructions", instruction, short))
    return records


def table(records: Sequence[GeneratorRecord]) -> str:
    """How many records of each kind come from which set, under which licence; one line each."""
    counts = Counter((_kind(record), record.dataset) for record in records)
    lines = [
        f"{n:6} {kind:16} {source:40} {LICENCES[source.split('/')[0]]}"
        for (kind, source), n in sorted(counts.items())
    ]
    return "\n".join(lines)


def _kind(record: GeneratorRecord) -> str:
    """What an id ends in, as in `.../wrong-answer`, or begins with, as in `gate-17`."""
    _, slash, name = record.id.rpartition("/")
    return name if slash else name.split("-")[0]


def main() -> None:
    """Turns labelled question-answering sets into generator records."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("recipe", type=Path, help="TOML file with a table [mix]")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--beside", type=Path, help="records of own.py to shuffle in")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    options = parser.parse_args()
    try:
        config = settings(MixConfig, "mix", load_recipe(options.recipe, tables=("mix",)))
        beside = list(load_records(options.beside)) if options.beside else []
        records = build_mix(options.data, options.recipe.parent, config, beside)
        save_records(records, options.out)
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{table(records)}\nwrote {len(records)} records to {options.out}\n")


if __name__ == "__main__":
    main()
