"""Records from the default weights' own answers to training questions.

    python recipes/default_weights/own.py --data DATA --questions 1200 --out own.jsonl

Each question is asked over its gold passage and what BM25 finds beside it, one answer a passage.
What the model wrote wrong becomes a text to judge beside the right answer; of a passage that misled
it the relevance is learned; a gold passage that it refused, or read right, gives the right answer.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from contrasts import ContrastMix, Text, contrast_records, judged
from labelled import NOT_IN_PASSAGE, LabelledQuestion, relevance_record
from questions import Questions, mine
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import search
from selfrag.decode.events import CandidateEvent
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.segment import Segment
from selfrag.engine.base import Engine, Precision
from selfrag.errors import SelfRAGError
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.progress import SILENT
from selfrag.reflection import Relevance, Support, Utility
from selfrag.released import GeneratorRecord, save_records
from selfrag.retrieval.base import FixedRetriever
from selfrag.text import holds_gold, split_sentences
from sets import wiki_passages

N_BESIDE, CHUNK = 3, 16
MISLED_SHARE = 0.5  # of the questions with a passage that misled
RIGHT_SHARE = 0.25  # of the questions that were answered right
RIGHT_ALONE = ContrastMix(
    crop_share=0.0, wrong_answer=0, swapped=0, rewritten=0, statement=0, alone=0, changed=0,
    aside=0, mixed=0,
)  # fmt: skip


def answered(
    items: Sequence[LabelledQuestion], engine: Engine
) -> Iterator[tuple[LabelledQuestion, dict[str, Segment]]]:
    """Every question with what was written on each of its passages, by passage id."""
    config = SearchConfig(mode=RetrievalMode.ALWAYS, max_segments=1, top_k=1 + N_BESIDE)
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        said: list[dict[str, Segment]] = [{} for _ in chunk]
        events = search(
            [item.question for item in chunk],
            engine=engine,
            retriever=FixedRetriever({}),
            config=config,
            passages=[[item.gold, *item.negatives[:N_BESIDE]] for item in chunk],
        )
        for event in events:
            if isinstance(event, CandidateEvent) and event.node.hit and event.node.segment:
                said[event.question][event.node.hit.passage.id] = event.node.segment
        yield from zip(chunk, said, strict=True)
        sys.stderr.write(f"{start + len(chunk)} of {len(items)} questions answered\n")


def own_records(
    item: LabelledQuestion, said: dict[str, Segment], rng: np.random.Generator
) -> list[GeneratorRecord]:
    """What one question teaches; empty where the gold passage has no sentence that answers."""
    right = contrast_records(item, (), RIGHT_ALONE, rng)
    if not right or item.gold.id not in said:
        return []
    wrong = mistaken(item, said[item.gold.id].text)
    records: list[GeneratorRecord] = []
    if wrong is not None:
        judge = judged(item.id, item.dataset, item.question, item.gold, wrong, group=item.id)
        records = [*right, judge]
    elif NOT_IN_PASSAGE in said[item.gold.id].text or rng.random() < RIGHT_SHARE:
        records = right
    misled = [
        passage
        for passage in item.negatives[:N_BESIDE]
        if (segment := said.get(passage.id)) and (segment.scores.relevance or 0) > 0.5
    ]
    if misled and rng.random() < MISLED_SHARE:
        # The relevance alone: with the sentence that refuses too, the weights refused too much.
        name = f"{item.id}/misled"
        records.append(
            relevance_record(
                name, item.dataset, item.question, misled[0], Relevance.IRRELEVANT, group=item.id
            )
        )
    return records


def mistaken(item: LabelledQuestion, text: str) -> Text | None:
    """What was written from the gold passage, if its short answer shares no word with a right one.

    Beside the sentence that answers it is unsupported. With another sentence of the passage it is
    supported and does not help, as in the records of `labelled`.
    """
    lead, *rest = split_sentences(text)
    rights = {word for answer in item.answers for word in _words(answer)}
    if NOT_IN_PASSAGE in text or not rest or len(lead.split()) > 12 or rights & _words(lead):
        return None
    if holds_gold(" ".join(rest), item.answers):
        return Text("own-wrong", text, Support.NONE, Utility.U1)
    if all(sentence in item.gold.text for sentence in rest):
        return Text("own-aside", text, Support.FULL, Utility.U2)
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - {"the", "a", "an", "of", "in", "and", "to"}


def main() -> None:
    """Asks the default weights training questions and writes what their answers teach."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--questions", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    try:
        questions = Questions(options.data, wiki_passages(options.data))
        third = options.questions // 3
        rows = questions.of("squad", options.questions - third, rng) + questions.of(
            "qed", third, rng
        )
        found = mine(questions.passages, rows)
        items = [questions.item(row, each.negatives) for row, each in zip(rows, found, strict=True)]
        engine = open_engine(ModelOptions(precision=Precision.MIXED, threads=1), SILENT)
        records = [
            record
            for item, said in answered(items, engine)
            for record in own_records(item, said, rng)
        ]
        save_records(records, options.out)
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
    kinds = Counter(record.id.rpartition("/")[2] for record in records)
    sys.stdout.write(f"wrote {len(records)} records to {options.out}: {dict(kinds)}\n")


if __name__ == "__main__":
    main()
