"""Who answers: the seam between a run and Self-RAG, a plain language model, or RAG.

A batch of questions in, outputs in order. Knows nothing of files or metrics.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from selfrag.decode.answer import Answer, collect_answers
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import Event
from selfrag.decode.search import search
from selfrag.engine.base import Engine
from selfrag.evaluate.question import Question
from selfrag.evaluate.record import Output, Sentence
from selfrag.passage import Hit
from selfrag.retrieval.base import Retriever
from selfrag.trace.file import TraceEncoder
from selfrag.trace.rows import config_to_row


class System(Protocol):
    """Anything that answers questions of a task."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that its answers depend on, as JSON."""
        ...

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """An output a question, in order. Raises `SelfRAGError`."""
        ...


class QuestionPassages:
    """Passages for a batch: those that come with each question, or a search for its text.

    A query is an instruction, and what has been written so far; what stands around the question in
    the instruction is not searched.
    """

    def __init__(self, questions: Sequence[Question], retriever: Retriever | None) -> None:
        self._retriever = retriever
        # The longest first: one instruction may begin another.
        self._questions = sorted(questions, key=lambda q: -len(q.instruction.strip()))

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """At most `top_k` hits a query."""
        asked = [self._question(query) for query in queries]
        if self._retriever is None:
            return [given_hits(question, top_k) for question in asked]
        texts = [
            f"{question.text}{query[len(question.instruction.strip()) :]}".strip()
            for question, query in zip(asked, queries, strict=True)
        ]
        return self._retriever.search(texts, top_k)

    def _question(self, query: str) -> Question:
        return next(q for q in self._questions if query.startswith(q.instruction.strip()))


def given_hits(question: Question, top_k: int) -> list[Hit]:
    """The first passages that come with a question."""
    return [
        Hit(passage=passage, score=0.0, rank=rank)
        for rank, passage in enumerate(question.passages[:top_k], start=1)
    ]


def find_hits(
    questions: Sequence[Question], retriever: Retriever | None, top_k: int
) -> list[list[Hit]]:
    """What each question is answered from: found for its text, or its own passages."""
    if retriever is None:
        return [given_hits(question, top_k) for question in questions]
    return retriever.search([question.text for question in questions], top_k)


class SelfRagSystem:
    """Our search, with the settings of the task; closed sets vote among their labels.

    `retriever` None: every question is answered from the passages that come with it.
    """

    def __init__(self, engine: Engine, retriever: Retriever | None, config: SearchConfig) -> None:
        self._engine = engine
        self._retriever = retriever
        self._config = config

    @property
    def name(self) -> str:
        """The mode is part of the name."""
        return f"selfrag-{self._config.mode}"

    def describe(self) -> dict[str, Any]:
        """Model and settings of the search."""
        return {"model": self._engine.name, "search": config_to_row(self._config)}

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """One search for all questions that can share one."""
        outputs: dict[str, Output] = {}
        for group in _groups(questions):
            config = replace(self._config, choices=group[0].labels)
            outputs.update(zip([q.id for q in group], self._search(group, config), strict=True))
        return [outputs[question.id] for question in questions]

    def _search(self, group: Sequence[Question], config: SearchConfig) -> list[Output]:
        texts = [question.instruction for question in group]
        retriever = QuestionPassages(group, self._retriever)
        told: list[list[Event]] = [[] for _ in group]
        events = search(texts, engine=self._engine, retriever=retriever, config=config)
        answers = list(
            collect_answers(
                texts, events, config.choices, lambda event: told[event.question].append(event)
            )
        )
        return [
            answer_output(question, answer, heard, config)
            for question, answer, heard in zip(group, answers, told, strict=True)
        ]


def answer_output(
    question: Question, answer: Answer, events: Sequence[Event], config: SearchConfig
) -> Output:
    """An answer of our search as an output, with its whole trace."""
    encoder = TraceEncoder(
        [question.instruction], answers=[question.answers], ids=[question.id], config=config
    )
    rows = [*encoder.question_rows]
    for event in events:
        rows += encoder.rows_of(replace(event, question=0))
    return Output(
        text=answer.text,
        sentences=tuple(
            Sentence(text=segment.text, citations=segment.citations)
            for segment in answer.segments
            if segment.text
        ),
        passages=answer.passages,
        retrieved=answer.retrieved,
        abstained=answer.abstained,
        choice=next(iter(answer.choices), None),
        support=answer.support,
        n_tokens=answer.usage.n_tokens,
        n_passages=answer.usage.n_passages,
        trace=tuple(rows),
    )


def _groups(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """Parts that one search can answer: one closed set, and no instruction twice."""
    parts: list[list[Question]] = []
    for question in questions:
        for part in parts:
            alike = part[0].labels == question.labels
            if alike and all(q.instruction != question.instruction for q in part):
                part.append(question)
                break
        else:
            parts.append([question])
    yield from parts
