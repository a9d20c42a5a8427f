"""Questions and passages for `results.sh`: draws by a fixed seed, none by how they are answered.

    python recipes/results_data.py DATA OUT --questions 20 --distractors 4000

DATA is a folder of labelled sets. SQuAD, NQ, PopQA and BoolQ: questions whose gold passage is in
the collection of Wikipedia passages. TriviaQA: those with an answer of at least four letters in one
of the five passages that BM25 finds in it. The passages that are searched: all these, ASQA's
documents, and distractors drawn from the collection.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from raw_text import write

from selfrag.errors import SelfRAGError
from sets import read_set

Row = dict[str, Any]


def main() -> None:
    """Writes a file of questions a task, and `passages.jsonl`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--distractors", type=int, default=4000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    data, n_questions = options.data, options.questions
    collection = read_set(data, "wiki_retrieval/passages")
    by_id = {row["pid"]: row for row in collection}
    wanted: dict[str, Row] = {}
    options.out.mkdir(parents=True, exist_ok=True)

    def draw(pool: list[Row]) -> list[Row]:
        return [pool[int(index)] for index in rng.permutation(len(pool))[:n_questions]]

    judged = read_set(data, "wiki_retrieval/qrels_dev")
    boolq = {row["question"]: row for row in read_set(data, "boolq/validation_part")}
    sets = {"squad": "squad_open", "nq_open": "nq_open", "popqa": "popqa", "boolq": "boolq"}
    for name, task in sets.items():
        found = draw([row for row in judged if row["dataset"] == name])
        wanted |= {pid: by_id[pid] for row in found for pid in row["gold_pids"]}
        if name == "boolq":
            asked = [{**boolq[row["question"]], "passage": None} for row in found]
        else:
            keys = {"qid": "id", "question": "question", "answers": "answers"}
            asked = [{keys[key]: row[key] for key in keys} for row in found]
        write(options.out / f"{task}.jsonl", asked)
    for name, task in (("arc_challenge", "arc_challenge"), ("openbookqa", "openbookqa")):
        found = draw(read_set(data, f"arc_obqa/{name}_test_part"))
        write(options.out / f"{task}.jsonl", found)
    answerable, passages = with_passages(
        read_set(data, "triviaqa/dev_8837"), collection, n_questions, rng
    )
    wanted |= {row["pid"]: row for row in passages}
    write(options.out / "triviaqa.jsonl", answerable)
    write(options.out / "asqa.jsonl", draw(read_set(data, "asqa/asqa_part")))
    for row in read_set(data, "asqa/asqa_knowledge_corpus"):
        text = " ".join(filter(None, row["contents"]))
        wanted[row["doc_id"]] = {"pid": row["doc_id"], "title": "", "text": text}
    drawn = rng.permutation(len(collection))[: options.distractors]
    wanted |= {collection[int(n)]["pid"]: collection[int(n)] for n in drawn}
    write(
        options.out / "passages.jsonl",
        [{"id": key, "title": row["title"], "text": row["text"]} for key, row in wanted.items()],
    )


def with_passages(
    questions: list[Row], collection: list[Row], n_questions: int, rng: np.random.Generator
) -> tuple[list[Row], list[Row]]:
    """Questions with an answer in a passage that BM25 finds, and the passages found for them."""
    texts = [f"{row['title']}\n{row['text']}" for row in collection]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    kept: list[Row] = []
    passages: list[Row] = []
    for place in rng.permutation(len(questions)):
        row = questions[int(place)]
        words = bm25s.tokenize(row["question"], stopwords="en", show_progress=False)
        found = index.retrieve(words, k=5, show_progress=False).documents[0]
        golds = [gold for gold in row["answers"] if len(gold) >= 4]
        if any(gold.lower() in texts[int(n)].lower() for n in found for gold in golds):
            kept.append(row)
            passages += [collection[int(n)] for n in found]
        if len(kept) == n_questions:
            break
    return kept, passages


if __name__ == "__main__":
    try:
        main()
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
