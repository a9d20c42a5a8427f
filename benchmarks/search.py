"""Whole searches with the default weights on one thread, against the released scripts' calls.

`python benchmarks/search.py --json` runs long-form searches (beam 2, 5 passages, 4 segments) over
16 questions. The default weights end after one segment, so an end of sequence counts as a call for
more passages. The released pattern makes one call a node, of 300 tokens a passage without stop,
keeps nothing between calls and guesses no ids, so only the first of the questions are asked that
way; `with_lookup` guesses. Then 200 questions in the short form, 16 together against one at a time.
The last line is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

from selfrag import assets
from selfrag.decode.answer import Answer, answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.base import Completion, Engine, FinishReason, Precision, Request
from selfrag.engine.batching import CACHE_BYTES
from selfrag.engine.paged import PagedEngine
from selfrag.ingest.readers import read_wiki_leads
from selfrag.open.engines import DEFAULT, model_folder
from selfrag.open.indexes import open_index
from selfrag.progress import SILENT
from selfrag.prompt import PromptFormat
from selfrag.reflection import Retrieve
from selfrag.retrieval.base import FixedRetriever

RELEASED_TOKENS = 300
BATCH = 16


class Wrapped(PagedEngine):
    """The default weights with one thread; an end of sequence becomes a call for more passages."""

    def __init__(self, precision: Precision, cache_bytes: int = CACHE_BYTES) -> None:
        path = model_folder(DEFAULT)
        super().__init__(
            path, name="default", precision=precision, n_threads=1, cache_bytes=cache_bytes
        )
        ids = PromptFormat.of(self.tokenizer).ids
        self._more, self._end = ids[Retrieve.YES], ids.end_of_sequence

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions that never end the answer."""
        return [self._with_more(done) for done in super().generate(requests)]

    def _with_more(self, done: Completion) -> Completion:
        if done.token_ids[-1] != self._end:
            return done
        return replace(done, token_ids=(*done.token_ids[:-1], self._more))


class CallPerNode(Wrapped):
    """One call for the passages of each node, of 300 tokens whatever the stop ids; keeps nothing.

    Without `guess` no ids are guessed.
    """

    def __init__(self, precision: Precision, *, guess: bool) -> None:
        super().__init__(precision, cache_bytes=0)
        if not guess:
            self._batcher._guesses = None

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """What `Wrapped` gives, at the cost of these calls."""
        return [
            self._with_more(self._until_stop(done, request))
            for _, node in groupby(requests, key=lambda request: request.prefix_ids)
            for done, request in self._call(list(node))
        ]

    def _call(self, node: list[Request]) -> list[tuple[Completion, Request]]:
        asked = node
        if node[0].max_new_tokens > 1:
            asked = [replace(r, stop_ids=frozenset(), max_new_tokens=RELEASED_TOKENS) for r in node]
        return list(zip(PagedEngine.generate(self, asked), node, strict=True))

    @staticmethod
    def _until_stop(done: Completion, request: Request) -> Completion:
        ends = [n for n, i in enumerate(done.token_ids, start=1) if i in request.stop_ids]
        n = min([*ends[:1], request.max_new_tokens, len(done.token_ids)])
        return replace(
            done,
            token_ids=done.token_ids[:n],
            logprobs=done.logprobs[:n],
            watched=done.watched[:n],
            finish_reason=FinishReason.STOP if ends[:1] == [n] else FinishReason.LENGTH,
        )


def is_same(ours: Answer, theirs: Answer) -> bool:
    """Whether two ways of computing agree: the same text, and the score of the path to .003."""
    return ours.text == theirs.text and abs(ours.score - theirs.score) < 0.003


def timed(questions: Sequence[str], **parts: Any) -> tuple[float, list[Answer]]:
    """CPU seconds of this process for all questions together, and the answers."""
    started = time.process_time()
    answers = answer_questions(questions, **parts)
    return time.process_time() - started, answers


def main() -> None:
    """Runs both workloads and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", type=Precision, default=Precision.EXACT)
    parser.add_argument("--questions", type=int, default=16, help="long-form questions")
    parser.add_argument("--released", type=int, default=2, help="of them in the slowest way")
    parser.add_argument("--short", type=int, default=200, help="short-form questions")
    parser.add_argument("--json", action="store_true", help="kept for scripts; always printed")
    args = parser.parse_args()
    corpus = assets.named("corpus")
    leads = read_wiki_leads(assets.fetch(corpus) / corpus.files[0].path)
    n_most = max(args.questions, args.short)
    asked = [f"What is {d.title} known for?" for d in islice(leads, 0, 20 * n_most, 20)]
    hits = open_index(None, SILENT).search(asked, 5)
    retriever = FixedRetriever(dict(zip(asked, hits, strict=True)))

    result: dict[str, Any] = {"precision": args.precision}
    long = SearchConfig(mode=RetrievalMode.ALWAYS, max_segments=4, beam_width=2, top_k=5)

    def long_form(engine: Engine, n: int) -> list[tuple[float, Answer]]:
        done = []
        for question in asked[:n]:
            seconds, (answer,) = timed([question], engine=engine, retriever=retriever, config=long)
            done.append((seconds, answer))
        engine.close()
        return done

    ours = long_form(Wrapped(args.precision), args.questions)
    result["cpu_s_a_question"] = round(sum(s for s, _ in ours) / len(ours), 3)
    print(result, flush=True)
    for name, guess, n in (
        ("released_pattern_with_lookup", True, args.questions),
        ("released_pattern", False, args.released),
    ):
        if not n:
            continue
        theirs = long_form(CallPerNode(args.precision, guess=guess), n)
        ratio = sum(s for s, _ in theirs) / sum(s for s, _ in ours[:n])
        same = [is_same(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=False)]
        result[f"ratio_{name}"], result["same_scores"] = round(ratio, 2), sum(same) / n
        print(result, flush=True)
    short = SearchConfig(max_segments=1)

    def plain() -> Engine:
        path, precision = model_folder(DEFAULT), args.precision
        return PagedEngine(path, name="default", precision=precision, n_threads=1)

    together, alone = (
        sum(
            timed(asked[start : start + n], engine=engine, retriever=retriever, config=short)[0]
            for start in range(0, args.short, n)
        )
        for n, engine in ((BATCH, plain()), (1, plain()))
    )
    result["ratio_batched_short"] = round(alone / together, 3)
    result["cpu_s_a_short_question"] = round(together / max(args.short, 1), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
