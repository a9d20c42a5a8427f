"""Small parts for the tests of `evaluate`: questions, outputs, records, a system to ask."""

import json

from random_model import PASSAGES, RandomModel
from selfrag.decode.config import SearchConfig
from selfrag.evaluate.record import Output, Question, Record, Sentence
from selfrag.evaluate.systems import SelfRagSystem
from selfrag.passage import Hit, Passage

ROWS = [
    {"id": f"q{n}", "question": f"Who is {word}?", "answers": [word, f"the {word}"]}
    for n, word in enumerate(("alpha", "beta", "gamma", "delta", "alpha beta", "nobody", "zeta"))
]


def question(**fields):
    fields = {"id": "q", "row": 1, "text": "Who?", "instruction": "Who?", **fields}
    return Question(**fields)


def output(text, **fields):
    return Output(text=text, **fields)


def hit(text, rank=1, name=None):
    passage = Passage(id=name or f"p{rank}", title="T", text=text)
    return Hit(passage=passage, score=0.5, rank=rank)


def record(n, text, answers=("Ann",), **fields):
    asked = question(id=f"q{n}", row=n + 1, answers=tuple(answers))
    return Record(n=n, question=asked, output=output(text, **fields))


def cited(*sentences):
    """Sentences from (text, citations)."""
    return tuple(Sentence(text=text, citations=tuple(numbers)) for text, numbers in sentences)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions_with_passages():
    return [
        question(
            id=row["id"],
            row=n,
            text=row["question"],
            instruction=row["question"],
            answers=tuple(row["answers"]),
            passages=tuple(PASSAGES[:2]),
        )
        for n, row in enumerate(ROWS, start=1)
    ]


def random_system(questions, **settings):
    """A fresh search over a random model; its ids do not depend on what is asked first."""
    model = RandomModel(5)
    for asked in questions:
        model.fmt.instruction(asked.instruction)
        for passage in asked.passages:
            model.fmt.passage(passage)
    config = SearchConfig(max_segments=2, top_k=2, **settings)
    return SelfRagSystem(model.engine, None, config)
