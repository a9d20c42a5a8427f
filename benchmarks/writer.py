"""A chat model as the writer with our critic, against the same model's plain RAG on the same hits.

`nice -n 19 python benchmarks/writer.py --data DIR --writer URL --limit 40 --top-k 3 --out F.jsonl`
answers fixed dev questions (see `corpus`) from the best BM25 hits. `match`: a gold string occurs in
the answer. `supported`: our critic finds one of the hits to support the text fully, the same rule
for both; it is the judge that chose our answers. `grounded`: the answer matches, and so does the
passage that it cites, which no model judges; plain RAG may have it in any of its hits.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines import RAG_PROMPTS
from corpus import Bm25, Question, dev_questions, dev_rows
from selfrag.cli.console import Reporter
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.passages import as_read
from selfrag.decode.score import FULL, support_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Engine, Request
from selfrag.engine.chat import Prompt
from selfrag.engine.written import WrittenEngine
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.open.served import served_writer
from selfrag.passage import Hit
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Retrieve, Support
from selfrag.statistics import compare, estimate
from selfrag.text import holds_gold
from sets import wiki_passages


def support(engine: Engine, question: str, text: str, hits: Sequence[Hit]) -> float:
    """The support of a text by the passage that supports it most, 0 for none."""
    fmt = PromptFormat.of(engine.tokenizer)
    if not text or not hits:
        return 0.0
    requests = [
        Request(
            prefix_ids=(*fmt.instruction(question), fmt.ids[Retrieve.YES]),
            suffix_ids=(
                *fmt.passage(hit.passage, 512),
                fmt.ids[Relevance.RELEVANT],
                *fmt.join([text], continues=True),
            ),
            max_new_tokens=1,
            watch_ids=fmt.ids.all,
        )
        for hit in hits
    ]
    return max(support_score(d.watched[0, COLUMNS[Support]]) for d in engine.generate(requests))


def measured(engine: Engine, question: Question, text: str, hits: Sequence[Hit]) -> dict[str, Any]:
    """One answer with its marks; `hits` are those that it may rest on."""
    is_match = holds_gold(text, question.answers)
    in_hits = any(holds_gold(hit.passage.text, question.answers) for hit in hits)
    is_supported = support(engine, question.text, text, hits) >= FULL
    return {
        "text": text,
        "match": is_match,
        "supported": is_supported,
        "grounded": is_match and in_hits,
    }


def answer_both(
    question: Question, hits: Sequence[Hit], critic: Engine, engine: WrittenEngine, writer: Any
) -> dict[str, Any]:
    """Ours and plain RAG on one question."""
    config = SearchConfig(mode=RetrievalMode.ALWAYS, top_k=len(hits), max_segments=1)
    # Both read as much of a passage; some are longer than what small models can read at once.
    fmt = PromptFormat.of(critic.tokenizer)
    hits = [as_read(hit, fmt, config.max_passage_tokens) for hit in hits]
    (answer,) = answer_questions(
        [question.text],
        engine=engine,
        retriever=Fixed(hits),
        config=config,
    )
    cited = [answer.passages[number - 1] for number in answer.citations]
    listed = "\n\n".join(
        f"[{n}] {hit.passage.title}\n{hit.passage.text}" for n, hit in enumerate(hits, start=1)
    )
    prompt = RAG_PROMPTS[0][0].format(passages=listed, question=question.text)
    (plain,) = writer.complete([Prompt(text=prompt, chat=True)], config.max_new_tokens)
    return {
        "question": question.text,
        "answers": question.answers,
        "verdict": answer.verdict,
        "conflict": [side.text for side in getattr(answer, "conflict", ())],
        "ours": measured(critic, question, answer.text, cited),
        "rag": measured(critic, question, plain.text, hits),
    }


class Fixed:
    """Finds the same hits whatever is asked."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = list(hits)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The hits, for every query."""
        return [self._hits[:top_k] for _ in queries]


def report(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares with 95% intervals, and the difference between the two."""
    told: dict[str, Any] = {"n": len(rows)}
    for name in ("match", "supported", "grounded"):
        ours, rag = (
            {row["question"]: float(row[of][name]) for row in rows} for of in ("ours", "rag")
        )
        for of, values in (("ours", ours), ("rag", rag)):
            found = estimate(list(values.values()))
            told[f"{of}_{name}"] = [round(v, 3) for v in (found.mean, found.low, found.high)]
        gap = compare(rag, ours)
        told[f"gap_{name}"] = [round(v, 3) for v in (gap.difference, gap.low, gap.high)]
    return told


def main() -> None:
    """Parses the arguments, goes on after what --out holds, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--writer", required=True, help="URL, or URL#MODEL")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--skip", type=int, default=0, help="dev questions to leave out")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="JSONL of answers")
    options = parser.parse_args()
    questions = dev_questions(dev_rows(options.data), options.skip + options.limit)[options.skip :]
    corpus = Bm25(wiki_passages(options.data))
    found = corpus.search([question.text for question in questions], options.top_k)
    critic = open_engine(ModelOptions(threads=1), Reporter())
    writer = served_writer(options.writer, key_name="")
    engine = WrittenEngine(critic, writer)
    done = options.out.read_text().splitlines() if options.out.exists() else []
    with options.out.open("a") as out:
        for question, hits in list(zip(questions, found, strict=True))[len(done) :]:
            row = answer_both(question, hits, critic, engine, writer)
            out.write(json.dumps(row) + "\n")
            out.flush()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    print(json.dumps(report(rows)))


if __name__ == "__main__":
    main()
