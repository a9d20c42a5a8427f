"""How many tokens an engine reads in a search, against the number of distinct tokens.

`python benchmarks/prefix_reads.py` runs 4-segment searches (beam 2, 5 passages) on the scripted
engine, which groups and caches as every engine does. `before` is computed from the same requests by
the rule that held until prefixes were shared: rows grouped by length across questions, a start
that a whole group has in common read once, nothing kept between calls. Distinct tokens are the
nodes of the trie over all that is read. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.engine.base import Completion, Request
from selfrag.engine.prefix_cache import common_length
from selfrag.engine.scripted import ScriptedCompletion, ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Marker, Relevance, Retrieve, Support, Utility

N_SEGMENTS = 4
N_PASSAGES = 5
BEAM_WIDTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """Tokens read in one run, by either rule, and how many of them differ."""

    questions: int
    before: int
    after: int
    distinct: int

    @property
    def times(self) -> tuple[float, float]:
        """Both rules as a multiple of the distinct tokens."""
        return round(self.before / self.distinct, 3), round(self.after / self.distinct, 3)


class RecordedEngine(ScriptedEngine):
    """Keeps what it completed, to count by other rules."""

    def __init__(self, tokenizer: ScriptedTokenizer, model: "LongAnswers") -> None:
        super().__init__(tokenizer, model.script, max_context=16384)
        self.done: list[list[Completion]] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completes and keeps."""
        done = super().generate(requests)
        self.done.append(done)
        return done


class LongAnswers:
    """A model whose every segment is 20 words and asks for passages again, of any path."""

    def __init__(self, tokenizer: ScriptedTokenizer, n_words: int = 20) -> None:
        self._fmt = PromptFormat.of(tokenizer)
        self._n_words = n_words

    def script(self, prompt_ids: tuple[int, ...]) -> ScriptedCompletion:
        """Retrieval first, then segments with all critique tokens."""
        last, ids = prompt_ids[-1], self._fmt.ids
        reads = last == ids[Marker.PARAGRAPH_END]
        if not reads and last not in ids.retrieve:
            return say({Retrieve.YES: 0.9, Retrieve.NO: 0.1})
        rng = np.random.default_rng(prompt_ids)
        relevant, full, best = rng.uniform(0.5, 0.99, 3)
        words = " ".join(f"w{n}" for n in rng.integers(0, 500, self._n_words))
        return say(
            {Relevance.RELEVANT: relevant, Relevance.IRRELEVANT: 1 - relevant},
            words,
            {Support.FULL: full, Support.NONE: 1 - full},
            {Utility.U5: best, Utility.U1: 1 - best},
            {Retrieve.YES: 0.9, Retrieve.NO: 0.1},
        )


class ManyPassages:
    """Other passages of 100 words for every query and rank."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """Drawn by query."""
        return [[self._hit(query, rank) for rank in range(1, top_k + 1)] for query in queries]

    def _hit(self, query: str, rank: int) -> Hit:
        rng = np.random.default_rng([rank, *query.encode()])
        text = " ".join(f"w{n}" for n in rng.integers(0, 500, 50))
        key = f"{rng.integers(1 << 40)}"
        passage = Passage(id=key, title=f"T{key}", text=text, source=key, start=0, end=len(text))
        return Hit(passage=passage, score=1.0 / rank, rank=rank)


def measure(n_questions: int) -> Reads:
    """Searches all questions together and counts."""
    tokenizer = ScriptedTokenizer()
    engine = RecordedEngine(tokenizer, LongAnswers(tokenizer))
    answer_questions(
        [f"What is known about number {n}, and why does it matter?" for n in range(n_questions)],
        engine=engine,
        retriever=ManyPassages(),
        config=SearchConfig(
            beam_width=BEAM_WIDTH,
            top_k=N_PASSAGES,
            max_segments=N_SEGMENTS,
            max_new_tokens=60,
            join_relevance=0.0,  # every level is full
        ),
    )
    read = [
        [
            (*request.prompt_ids, *done.token_ids[:-1])  # the id chosen last is never read
            for request, done in zip(requests, completed, strict=True)
        ]
        for requests, completed in zip(engine.calls, engine.done, strict=True)
    ]
    return Reads(
        questions=n_questions,
        before=sum(
            n_read_by_length(requests, [len(ids) for ids in rows])
            for requests, rows in zip(engine.calls, read, strict=True)
        ),
        after=engine.n_tokens_read,
        distinct=n_distinct([ids for rows in read for ids in rows]),
    )


def n_distinct(rows: Sequence[tuple[int, ...]]) -> int:
    """Nodes of the trie over all rows."""
    total = 0
    before: tuple[int, ...] = ()
    for row in sorted(rows):
        total += len(row) - common_length(before, row)
        before = row
    return total


def n_read_by_length(
    requests: Sequence[Request], n_read: Sequence[int], *, max_batch: int = 16
) -> int:
    """What one call read by the earlier rule; `n_read`: ids of every row, written ones included."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
    total, group = 0, list[int]()
    for index in order:
        n_padded = len(requests[index].prompt_ids) * (len(group) + 1)
        if group and (len(group) >= max_batch or n_padded > 8192):
            total += _n_group([requests[i].prompt_ids for i in group], [n_read[i] for i in group])
            group = []
        group.append(index)
    return total + _n_group([requests[i].prompt_ids for i in group], [n_read[i] for i in group])


def _n_group(prompts: Sequence[tuple[int, ...]], n_read: Sequence[int]) -> int:
    if len(prompts) < 2:
        return sum(n_read)
    n_shared = 0
    for column in zip(*prompts, strict=False):
        if len(set(column)) > 1:
            break
        n_shared += 1
    n_shared = min(n_shared, min(len(prompt) for prompt in prompts) - 1)
    return sum(n_read) - (len(prompts) - 1) * (n_shared if n_shared >= 32 else 0)


def main() -> None:
    """Prints one line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 8])
    rows = [measure(n) for n in parser.parse_args().questions]
    for row in rows:
        before, after = row.times
        print(
            f"{row.questions} questions: {row.distinct} distinct tokens, {row.before} read before "
            f"({before:.3f} times), {row.after} now ({after:.3f} times)"
        )
    print(json.dumps([{**asdict(row), "times": row.times} for row in rows]))


if __name__ == "__main__":
    main()
