"""How good retrieval is by words, by meaning and by both, on judged questions. Needs labelled sets.

`python benchmarks/retrieval_quality.py --data DIR --json` searches the 59,077 passages of
`wiki_retrieval` with the dev questions of SQuAD and NQ (R@5; one known gold passage each), and the
abstracts of SciFact with its validation claims (nDCG@10; relevant are the abstracts that a claim
cites, as in BEIR), through `PassageStore`; the packaged reranker reads those of SciFact, or of all
sets. Building the indexes takes an hour on one core; `--index-cache` keeps them. `--tune` reads
train questions of SQuAD and QED instead and prints R@5 of fusions; all-MiniLM-L6-v2 has seen pairs
of SQuAD and NQ, from which QED is drawn, so they flatter search by meaning. The last line is one
JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag import assets
from selfrag.evaluate.retrieval import per_query, ranked_scores
from selfrag.open.indexes import ENCODER_NAME
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import Retriever
from selfrag.retrieval.encoder.base import MeanPoolingEncoder, SentenceTransformerEncoder
from selfrag.retrieval.fusion import Fusion, FusionKind
from selfrag.retrieval.options import PACKAGED_WEIGHT, SearchMode, SearchOptions
from selfrag.retrieval.rerank import CrossEncoder, OnnxCrossEncoder, Reranker
from selfrag.retrieval.store import PassageStore
from selfrag.statistics import bootstrap_intervals

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "default_weights"))
from sets import read_set, wiki_passages

SETS = ["squad", "nq_open", "scifact"]
BATCH = 32
DEPTH = 20  # passages of each search that are fused; the store takes so many for its first 5
FUSIONS = [
    *(
        Fusion(kind=FusionKind.SCORES, dense_weight=w)
        for w in (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
    ),
    *(
        Fusion(kind=FusionKind.RANKS, constant=constant, dense_weight=weight)
        for constant, weight in product((60, 10, 5, 3), (0.4, 0.5, 0.6))
    ),
]

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A question and its relevant passages."""

    question: str
    relevant: tuple[str, ...]


class Searched:
    """One mode of a store as a retriever."""

    def __init__(self, store: PassageStore, mode: SearchMode) -> None:
        self._store, self._mode = store, mode

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """As the store, in this mode."""
        return self._store.search(queries, top_k, options=SearchOptions(mode=self._mode))


class Remembered:
    """A cross-encoder that scores a pair once."""

    def __init__(self, encoder: CrossEncoder) -> None:
        self._encoder = encoder
        self._known: dict[tuple[str, str], float] = {}

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> NDArray[np.float32]:
        """As the encoder, for passages with different ids."""
        new = [(query, p) for query, p in pairs if (query, p.id) not in self._known]
        for (query, passage), score in zip(new, self._encoder.score(new), strict=True):
            self._known[query, passage.id] = float(score)
        return np.array([self._known[query, p.id] for query, p in pairs], dtype=np.float32)


def say(message: str) -> None:
    """Progress goes to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def scifact_passages(data: Path) -> list[Passage]:
    """The abstracts of SciFact."""
    return [
        Passage(
            id=str(row["doc_id"]),
            title=row["title"].strip(),
            text=" ".join(row["abstract"]).strip(),
        )
        for row in read_set(data, "scifact/corpus")
    ]


def scifact_claims(data: Path, limit: int) -> dict[str, Judged]:
    """The validation claims, by id; a claim with several pieces of evidence has several rows."""
    claims: dict[str, Judged] = {}
    for row in read_set(data, "scifact/claims_validation_part"):
        relevant = tuple(map(str, row["cited_doc_ids"]))
        claims[str(row["id"])] = Judged(question=row["claim"], relevant=relevant)
    return dict(list(claims.items())[:limit])


def wiki_questions(data: Path, name: str, *, split: str, limit: int) -> dict[str, Judged]:
    """At most `limit` questions of one set, in an order that is drawn once."""
    rows = [r for r in read_set(data, f"wiki_retrieval/qrels_{split}") if r["dataset"] == name]
    order = np.random.default_rng(0).permutation(len(rows))[:limit].tolist()
    return {
        f"{name}-{number}": Judged(
            question=rows[number]["question"].strip(), relevant=tuple(rows[number]["gold_pids"])
        )
        for number in order  # NQ has no ids
    }


def open_store(name: str, passages: Sequence[Passage], cache: Path) -> PassageStore:
    """The index of these passages, built when it is not in the cache."""
    folder = assets.fetch(assets.named("encoder"))
    path = cache / name
    if not path.is_dir():
        say(f"encoding {len(passages)} passages of {name}")
        PassageStore.build(passages, SentenceTransformerEncoder(folder, name=ENCODER_NAME), path)
        say("done")
    return PassageStore.open(path, MeanPoolingEncoder(folder, name=ENCODER_NAME))


def run_of(retriever: Retriever, judged: Mapping[str, Judged], top_k: int) -> list[list[Hit]]:
    """The hits of every query, in order."""
    questions = [each.question for each in judged.values()]
    return [
        hits
        for first in range(0, len(questions), BATCH)
        for hits in retriever.search(questions[first : first + BATCH], top_k)
    ]


def measured(
    judged: Mapping[str, Judged], run: Sequence[Sequence[str]], measure: str
) -> NDArray[np.float64]:
    """One measure of every query for passage ids in order, shape (n_queries, 1)."""
    qrels = {qid: dict.fromkeys(each.relevant, 1) for qid, each in judged.items()}
    scores = {qid: ranked_scores(ids) for qid, ids in zip(judged, run, strict=True)}
    return per_query(qrels, scores, [measure])


def estimate(values: NDArray[np.float64]) -> Figures:
    """Mean, and the ends of its 95 % bootstrap interval."""
    (low,), (high,) = bootstrap_intervals(values)
    return {
        "mean": round(float(values.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def compare(
    name: str, judged: Mapping[str, Judged], retrievers: Mapping[str, Retriever], measure: str
) -> Figures:
    """The mean of every retriever, and of the gains of hybrid, question by question."""
    figures: Figures = {"measure": measure, "n": len(judged)}
    values = {}
    for label, retriever in retrievers.items():
        started = time.monotonic()
        found = run_of(retriever, judged, int(measure.partition("@")[2]))
        run = [[hit.passage.id for hit in hits] for hits in found]
        ms = round(1000 * (time.monotonic() - started) / len(judged), 1)
        values[label] = measured(judged, run, measure)
        figures[label] = {**estimate(values[label]), "ms": ms}
        say(f"{name} {measure} {label}: {figures[label]}")
    for other in retrievers:
        if other != "hybrid":
            figures[f"hybrid - {other}"] = estimate(values["hybrid"] - values[other])
            say(f"{name} {measure} hybrid - {other}: {figures[f'hybrid - {other}']}")
    return figures


def tune(store: PassageStore, judged: Mapping[str, Judged]) -> Figures:
    """R@5 of both kinds of search and of every fusion of them."""
    dense, words = (
        run_of(Searched(store, mode), judged, DEPTH)
        for mode in (SearchMode.DENSE, SearchMode.WORDS)
    )
    means = {
        name: float(measured(judged, [[h.passage.id for h in hits] for hits in run], "R@5").mean())
        for name, run in (("dense", dense), ("words", words))
    }
    for fusion in FUSIONS:
        run = [fused(fusion, *pair) for pair in zip(dense, words, strict=True)]
        name = f"{fusion.kind} {fusion.dense_weight}"
        name += f" constant {fusion.constant}" if fusion.kind is FusionKind.RANKS else ""
        means[name] = float(measured(judged, run, "R@5").mean())
    return {name: round(mean, 4) for name, mean in means.items()}


def fused(fusion: Fusion, dense: Sequence[Hit], words: Sequence[Hit]) -> list[str]:
    """The ids of the first five, fused as the store does it."""
    floors = (dense[-1].score, words[-1].score if len(words) == DEPTH else 0.0)
    first, second = ({hit.passage.id: hit.score for hit in hits} for hits in (dense, words))
    return [passage_id for passage_id, _ in fusion.fuse(first, second, floors=floors)[:5]]


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index-cache", type=Path, default=assets.cache_dir() / "benchmarks")
    parser.add_argument("--limit", type=int, default=100_000, help="questions a set")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--rerank", nargs="*", choices=SETS, default=["scifact"], help="sets")
    parser.add_argument("--tune", action="store_true", help="only compare fusions, on train sets")
    parser.add_argument("--json", action="store_true", help="the JSON object comes in any case")
    given = parser.parse_args()
    given.index_cache.mkdir(parents=True, exist_ok=True)

    wiki = open_store("wiki", list(wiki_passages(given.data).values()), given.index_cache)
    if given.tune:
        limit = min(given.limit, 1500)
        sets = {
            n: wiki_questions(given.data, n, split="train", limit=limit) for n in ("squad", "qed")
        }
        print(json.dumps({name: tune(wiki, judged) for name, judged in sets.items()}))
        return
    figures = {}
    for name in given.sets:
        if name == "scifact":
            store = open_store(name, scifact_passages(given.data), given.index_cache)
            judged, measure = scifact_claims(given.data, given.limit), "nDCG@10"
        else:
            store, measure = wiki, "R@5"
            judged = wiki_questions(given.data, name, split="dev", limit=given.limit)
        retrievers = retrievers_of(store, rerank=name in given.rerank)
        figures[name] = compare(name, judged, retrievers, measure)
    print(json.dumps(figures))


def retrievers_of(store: PassageStore, *, rerank: bool) -> dict[str, Retriever]:
    """What is compared, by name."""
    found: dict[str, Retriever] = {mode.value: Searched(store, mode) for mode in SearchMode}
    if rerank:
        model = Remembered(OnnxCrossEncoder(assets.fetch(assets.named("reranker"))))
        found["reranked"] = Reranker(found["hybrid"], model, weight=PACKAGED_WEIGHT)
        found["reranked alone"] = Reranker(found["hybrid"], model)
    return found


if __name__ == "__main__":
    main()
