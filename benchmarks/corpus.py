"""What the benchmarks share: dev questions, a BM25 retriever, and an engine that remembers."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer

from selfrag.engine.base import Completion, Engine, Request
from selfrag.passage import Hit, Passage
from selfrag.prompt import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "default_weights"))
from sets import read_set


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A dev question with its gold strings and gold passages."""

    id: str
    text: str
    answers: tuple[str, ...]
    gold_ids: tuple[str, ...]


def dev_rows(data: Path) -> list[dict[str, Any]]:
    """All dev judgements of the retrieval benchmark."""
    return read_set(data, "wiki_retrieval/qrels_dev")


def dev_questions(rows: Sequence[Mapping[str, Any]], limit: int) -> list[Question]:
    """`limit` fixed questions, SQuAD and NQ in turn; a smaller limit is a prefix of a larger."""
    rng = np.random.default_rng(0)
    halves = []
    for name in ("squad", "nq_open"):
        of_set = [row for row in rows if row["dataset"] == name]
        halves.append([of_set[int(index)] for index in rng.permutation(len(of_set))])
    mixed = [row for pair in zip(*halves, strict=False) for row in pair][:limit]
    return [
        Question(
            id=row["qid"],
            text=row["question"].strip(),
            answers=tuple(row["answers"]),
            gold_ids=tuple(row["gold_pids"]),
        )
        for row in mixed
    ]


class Bm25:
    """bm25s over passages, as a retriever."""

    def __init__(self, passages: Mapping[str, Passage]) -> None:
        self.passages = dict(passages)
        self._corpus = list(passages.values())
        self._stemmer = Stemmer.Stemmer("english")
        self._index = bm25s.BM25()
        self._index.index(self._tokens([f"{p.title} {p.text}" for p in self._corpus]))

    def _tokens(self, texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=self._stemmer, show_progress=False)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The BM25 top `top_k` of every query."""
        rows, scores = self._index.retrieve(
            self._tokens(list(queries)), k=top_k, show_progress=False
        )
        return [
            [
                Hit(passage=self._corpus[int(row)], score=float(score), rank=rank)
                for rank, (row, score) in enumerate(zip(*ranked, strict=True), start=1)
            ]
            for ranked in zip(rows, scores, strict=True)
        ]


class CachedEngine:
    """An engine that never computes the same request twice, so that modes can share work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._done: dict[Any, Completion] = {}

    @property
    def name(self) -> str:
        """The inner engine's name."""
        return self._engine.name

    @property
    def max_context(self) -> int:
        """The inner engine's limit."""
        return self._engine.max_context

    @property
    def tokenizer(self) -> Tokenizer:
        """The inner engine's tokenizer."""
        return self._engine.tokenizer

    def close(self) -> None:
        """Closes the engine inside."""
        self._engine.close()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions in order; equal requests share one."""
        keys = [(r.prompt_ids, r.max_new_tokens, r.stop_ids, r.watch_ids) for r in requests]
        new = {k: r for k, r in zip(keys, requests, strict=True) if k not in self._done}
        self._done.update(zip(new, self._engine.generate(list(new.values())), strict=True))
        return [self._done[key] for key in keys]
