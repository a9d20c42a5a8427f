"""Records from the model's own answers, right and wrong: one round of rejection sampling.

    python recipes/default_weights/own.py --data DATA --squad 600 --qed 300 --out own.jsonl

Asks the default weights training questions over the gold passage and what BM25 finds beside it, and
keeps what they say in every beginning that the search tries: what holds the gold string is right,
what shares no word with it is wrong, and what does either half is left out. A passage without the
answer that was read as relevant becomes a refusal.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from contrasts import Text, judged
from labelled import (
    LabelledQuestion,
    answer_lead,
    answer_record,
    answer_sentence,
    answer_text,
    refusal_record,
)
from questions import Questions, mine
from selfrag.cli.console import Reporter
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import CandidateEvent, Event
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.node import Node
from selfrag.engine.base import Precision
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.reflection import Relevance, Support, Utility
from selfrag.released import GeneratorRecord, save_records
from selfrag.retrieval.base import FixedRetriever
from selfrag.text import find_gold, first_sentence, holds_gold
from sets import wiki_passages

CHUNK = 12  # questions searched together


def own_records(
    item: LabelledQuestion, nodes: Sequence[Node], rng: np.random.Generator
) -> Iterator[list[GeneratorRecord]]:
    """Groups of one question: its gold passage with all that was said of it, and a refusal.

    The answer is learned again where the first thing said was not right, else in a third.
    """
    target = answer_sentence(item.question, item.answers, item.gold.text)
    if target is None:
        return
    said = [node for node in nodes if node.hits[0].passage.id == item.gold.id]
    answer = next(a for a in item.answers if find_gold(a, target))
    group: list[GeneratorRecord] = []
    if not said or is_right(item, said[0].text) is not True or rng.random() < 1 / 3:
        text, lead = answer_text(answer, target), answer_lead(answer, target)
        full = answer_record(
            item, item.gold, "right", text, Support.FULL, utility=Utility.U5, answer=lead
        )
        group.append(full)
    for number, node in enumerate(said):
        right = is_right(item, node.text)
        if right is None or not _is_relevant(node):
            continue
        support, utility = (Support.FULL, Utility.U5) if right else (Support.NONE, Utility.U1)
        own = Text(f"own-{'right' if right else 'wrong'}-{number}", node.text, support, utility)
        group.append(judged(item.id, item.dataset, item.question, item.gold, own, group=item.id))
    if group:
        yield group
    for node in nodes:
        passage = node.hits[0].passage
        if passage.id != item.gold.id and _is_relevant(node) and is_right(item, node.text) is False:
            name = f"{item.id}/own-refusal"
            yield [refusal_record(name, item.dataset, item.question, passage)]
            return


def is_right(item: LabelledQuestion, text: str) -> bool | None:
    """Whether the short answer is right; None where it only shares a word with a gold one."""
    short = first_sentence(text)
    if holds_gold(short, item.answers):
        return True
    known = set(re.findall(r"\w+", " ".join(item.answers).lower()))
    return None if known & set(re.findall(r"\w+", short.lower())) else False


def _is_relevant(node: Node) -> bool:
    return node.segment is not None and Relevance.RELEVANT in node.segment.critique[:1]


def main() -> None:
    """Answers training questions and writes what was said of them as generator records."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--squad", type=int, default=600, help="questions of SQuAD")
    parser.add_argument("--qed", type=int, default=300, help="questions of Natural Questions")
    parser.add_argument("--negatives", type=int, default=2, help="passages beside the gold one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", type=Precision, default=Precision.MIXED)
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    passages = wiki_passages(options.data)
    questions = Questions(options.data, passages)
    amounts = {"squad": options.squad, "qed": options.qed}
    rows = [row for name, n in amounts.items() if n for row in questions.of(name, n, rng)]
    items = [
        questions.item(row, found.negatives[: options.negatives])
        for row, found in zip(rows, mine(passages, rows), strict=True)
    ]
    engine = open_engine(ModelOptions(precision=options.precision), Reporter(), max_batch=48)
    config = SearchConfig(mode=RetrievalMode.ALWAYS, max_segments=1, alternatives=3)
    records: list[GeneratorRecord] = []
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        nodes: list[list[Node]] = [[] for _ in chunk]

        def keep(event: Event, nodes: list[list[Node]] = nodes) -> None:
            if isinstance(event, CandidateEvent) and event.node.hits:
                nodes[event.question].append(event.node)

        answer_questions(
            [item.question for item in chunk],
            engine=engine,
            retriever=FixedRetriever({}),
            config=config,
            passages=[[item.gold, *item.negatives] for item in chunk],
            on_event=keep,
        )
        for item, said in zip(chunk, nodes, strict=True):
            records += [record for group in own_records(item, said, rng) for record in group]
        save_records(records, options.out)
        sys.stderr.write(f"{start + len(chunk)} of {len(items)}: {len(records)} records\n")


if __name__ == "__main__":
    main()
