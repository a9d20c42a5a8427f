"""Labelled questions with their gold passages, and what BM25 finds for them beside these."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer

from labelled import LabelledQuestion, answer_kind
from selfrag.passage import Passage
from selfrag.text import holds_gold
from sets import evaluation_questions, normalised, read_set, untokenise


class Questions:
    """The labelled questions of the retrieval benchmark, with what BM25 finds for them."""

    def __init__(self, data: Path, passages: dict[str, Passage]) -> None:
        evaluated = evaluation_questions(data)
        self.rows = [
            row
            for row in read_set(data, "wiki_retrieval/qrels_train")
            if normalised(row["question"]) not in evaluated
        ]
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
        return draw([row for row in self.rows if row["dataset"] == dataset], n, rng)

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


def draw(rows: Sequence[Any], n: int, rng: np.random.Generator) -> list[Any]:
    """`n` of `rows` in random order, or all."""
    return [rows[int(index)] for index in rng.permutation(len(rows))[:n]]
