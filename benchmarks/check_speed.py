"""Sentences checked a second against 5 passages each: one call for all, against one pair at a time.

    python benchmarks/check_speed.py --data DIR --sentences 8 --json

The default weights on the OpenVINO engine with one thread; seconds are CPU time of this process,
and the ways take turns, so that what else the machine does falls on all. `pair`: a call for IsRel
and IsSup of one passage, which share what they have in common. `request`: a call for each of the
two, as of a model that is asked one prompt at a time. Nothing is kept between calls. With a
question all sentences have the same instruction, so that a passage is read once for all of them.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from corpus import Bm25
from selfrag.decode.check import check_texts, pair_requests
from selfrag.decode.config import SearchConfig
from selfrag.decode.search import Model
from selfrag.engine.base import Engine, Precision
from selfrag.engine.paged import PagedEngine
from selfrag.open.engines import DEFAULT, model_folder
from selfrag.passage import Passage
from selfrag.retrieval.base import FixedRetriever
from selfrag.text import split_sentences

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "default_weights"))
from sets import read_set

N_PASSAGES, N_CORPUS = 5, 4000


def sentences_of(passages: Sequence[Passage], n: int) -> list[str]:
    """The first sentences of `n` passages, of 8 to 30 words."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(passages))
    firsts = (split_sentences(passages[int(i)].text)[0] for i in order)
    return [first for first in firsts if 8 <= len(first.split()) <= 30][:n]


def ways(
    engine: Engine, sentences: Sequence[str], corpus: Bm25, question: str
) -> dict[str, Callable[[], None]]:
    """What is timed, by name; all of them read the same prompts."""
    model, config = Model.of(engine), SearchConfig(top_k=N_PASSAGES)
    hits = corpus.search(sentences, N_PASSAGES)
    passages = [[hit.passage for hit in ranked] for ranked in hits]
    if question:  # the same for all sentences
        passages = [passages[0]] * len(sentences)
        hits = [hits[0]] * len(sentences)
    found = FixedRetriever(dict(zip(sentences, hits, strict=True)))
    text = "\n\n".join(sentences)
    pairs = [
        both
        for sentence, own in zip(sentences, passages, strict=True)
        for _, both in pair_requests(model, sentence, question, own, config)
    ]

    def one_call() -> None:
        check_texts([text], engine=engine, retriever=found, question=question, config=config)

    def pair_by_pair() -> None:
        for both in pairs:
            engine.generate(both)

    def request_by_request() -> None:
        for both in pairs:
            for request in both:
                engine.generate([request])

    return {"call": one_call, "pair": pair_by_pair, "request": request_by_request}


def main() -> None:
    """Prints sentences a second, and how many times as fast one call is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--sentences", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    rows = read_set(options.data, "squad/passages")[:N_CORPUS]
    passages = [Passage(id=row["pid"], title=row["title"], text=row["text"]) for row in rows]
    corpus = Bm25({each.id: each for each in passages})
    sentences = sentences_of(passages, options.sentences)
    engine = PagedEngine(
        model_folder(DEFAULT),
        name=DEFAULT,
        precision=Precision.MIXED,
        n_threads=1,
        max_batch=32,
        cache_bytes=0,
    )
    result: dict[str, dict[str, float]] = {}
    for name, question in (("claims", ""), ("question", "What is told here?")):
        seconds: dict[str, float] = {}
        for _ in range(options.rounds):
            for way, run in ways(engine, sentences, corpus, question).items():
                started = time.process_time()
                run()
                seconds[way] = seconds.get(way, 0.0) + time.process_time() - started
        n_done = len(sentences) * options.rounds
        result[name] = {
            "sentences_per_s": round(n_done / seconds["call"], 2),
            "times_pair": round(seconds["pair"] / seconds["call"], 2),
            "times_request": round(seconds["request"] / seconds["call"], 2),
        }
    if options.json:
        print(json.dumps(result))
        return
    for name, row in result.items():
        print(name, row)


if __name__ == "__main__":
    main()
