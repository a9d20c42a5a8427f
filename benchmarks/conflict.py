"""How often an answer says that its sources disagree, where they do and where they do not.

`python benchmarks/conflict.py --data DIR --limit 40 --out F.jsonl`: dev questions (see `corpus`)
with their BM25 top 5, beside right and wrong answers; and constructed conflicts: the gold passage
of a question and a copy in which the answer is exchanged for another of its kind, in both orders.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corpus import Bm25, Question, dev_questions, dev_rows
from labelled import swap_answer
from selfrag.cli.console import Reporter
from selfrag.decode.answer import Answer, answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.disagreement import differ, disagreements
from selfrag.decode.events import CandidateEvent, Event, FinishEvent
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.base import Engine
from selfrag.open.calibrations import open_calibration
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.passage import Passage
from selfrag.retrieval.base import GivenPassages, Retriever
from selfrag.statistics import wilson
from selfrag.text import holds_gold
from sets import wiki_passages


def asked(
    question: Question, engine: Engine, retriever: Retriever, passages: Sequence[Passage] | None
) -> tuple[Answer, dict[str, Any]]:
    """The answer, and how far the rule for conflicts went."""
    told: list[Event] = []
    (answer,) = answer_questions(
        [question.text],
        engine=engine,
        retriever=retriever,
        config=SearchConfig(mode=RetrievalMode.ALWAYS, max_segments=1),
        passages=[passages],
        calibration=open_calibration(ModelOptions()),
        on_event=told.append,
    )
    (finish,) = [event for event in told if isinstance(event, FinishEvent)]
    written = [event.node for event in told if isinstance(event, CandidateEvent)]
    others = [node for node in written if differ(answer.text, node.text)]
    return answer, {
        "question": question.text,
        "right": holds_gold(answer.text, question.answers),
        "texts": [node.text for node in written],
        "differ": bool(others),  # two candidates give different answers at all
        "rivals": bool(disagreements(finish.best, written)),  # and are judged nearly as good
        "conflict": [claim.text for claim in answer.conflict],
    }


def constructed(
    question: Question, gold: Passage, pool: Sequence[str], rng: np.random.Generator
) -> list[Passage] | None:
    """The passage, and its copy with another answer of the same kind."""
    text = swap_answer(gold.text, question.answers, pool, rng)
    if text is None or holds_gold(text, question.answers):
        return None
    return [gold, replace(gold, id=f"{gold.id}-other", text=text)]


def share(rows: Sequence[dict[str, Any]], name: str) -> str:
    """`n of m (share, 95% interval)` of the rows that have it."""
    n_right = sum(bool(row[name]) for row in rows)
    low, high = wilson(n_right, len(rows))
    return f"{n_right} of {len(rows)} ({n_right / max(len(rows), 1):.2f}, {low:.2f} to {high:.2f})"


def main() -> None:
    """Parses the arguments and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="JSONL of every question")
    options = parser.parse_args()
    passages = wiki_passages(options.data)
    corpus = Bm25(passages)
    questions = dev_questions(dev_rows(options.data), options.limit)
    pool = [
        answer
        for question in dev_questions(dev_rows(options.data), 500)
        for answer in question.answers[:1]
    ]
    engine = open_engine(ModelOptions(), Reporter())
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    with options.out.open("w") as out:
        for question in questions:
            found: list[tuple[str, list[Passage] | None]] = [("natural", None)]
            pair = constructed(question, passages[question.gold_ids[0]], pool, rng)
            if pair is not None:
                found += [("gold first", pair), ("gold last", pair[::-1])]
            for kind, given in found:
                retriever = corpus if given is None else GivenPassages(given)
                _, row = asked(question, engine, retriever, given)
                rows.append({"kind": kind, **row})
                out.write(json.dumps(rows[-1]) + "\n")
                out.flush()
    natural = [row for row in rows if row["kind"] == "natural"]
    for is_right in (True, False):
        beside = [row for row in natural if row["right"] is is_right]
        print(f"beside {'right' if is_right else 'wrong'} answers: {share(beside, 'conflict')}")
    for kind in ("gold first", "gold last"):
        of_kind = [row for row in rows if row["kind"] == kind]
        print(
            f"constructed, {kind}: "
            + ", ".join(
                f"{name} {share(of_kind, name)}" for name in ("differ", "rivals", "conflict")
            )
        )


if __name__ == "__main__":
    main()
