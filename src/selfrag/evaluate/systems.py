"""Who answers: the seam between a run and Self-RAG, a plain language model, or RAG.

A batch of questions in, outputs in order. Knows nothing of files or metrics.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from selfrag.decode.answer import Answer, collect_answers
from selfrag.decode.calibration import Calibration
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import drive
from selfrag.decode.events import Event
from selfrag.decode.search import Model, steps
from selfrag.engine.base import Engine
from selfrag.evaluate.record import Output, Question, Sentence
from selfrag.passage import Hit
from selfrag.retrieval.base import GivenPassages, Retriever
from selfrag.trace.file import TraceEncoder


class System(Protocol):
    """Anything that answers questions of a task."""

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """An output a question, in order. Raises `SelfRAGError`."""
        ...


def given_hits(question: Question) -> tuple[Hit, ...]:
    """The passages that come with a question."""
    return GivenPassages(question.passages).hits


def find_hits(
    questions: Sequence[Question], retriever: Retriever | None, top_k: int
) -> list[list[Hit]]:
    """What each question is answered from: found for its text, or its own passages."""
    if retriever is None:
        return [list(given_hits(question)[:top_k]) for question in questions]
    return retriever.search([question.text for question in questions], top_k)


class SelfRagSystem:
    """Our search, with the settings of the task; closed sets vote among their labels.

    `retriever` None: every question is answered from the passages that come with it. `weights`:
    what a calibration calls them, for the traces.
    """

    def __init__(
        self,
        engine: Engine,
        retriever: Retriever | None,
        config: SearchConfig,
        calibration: Calibration | None = None,
        *,
        weights: str | None = None,
    ) -> None:
        self._engine, self._calibration = engine, calibration
        self._retriever = retriever
        self._config = config
        self._weights = weights

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """One batch of searches, each with the closed set of its question.

        An instruction is read, but only the question in it is searched.
        """
        model = Model.of(self._engine, self._calibration)
        configs = [replace(self._config, choices=question.labels) for question in questions]
        searches = [
            steps(
                question.instruction,
                model=model,
                config=config,
                query=question.text,
                passages=given_hits(question) if self._retriever is None else None,
                number=number,
            )
            for number, (question, config) in enumerate(zip(questions, configs, strict=True))
        ]
        told: list[list[Event]] = [[] for _ in questions]
        answers = collect_answers(
            [question.instruction for question in questions],
            drive(searches, self._engine, self._retriever or GivenPassages(())),
            configs=configs,
            on_event=lambda event: told[event.question].append(event),
        )
        return [
            answer_output(question, answer, heard, config, self._weights)
            for question, answer, heard, config in zip(
                questions, answers, told, configs, strict=True
            )
        ]


def answer_output(
    question: Question,
    answer: Answer,
    events: Sequence[Event],
    config: SearchConfig,
    weights: str | None,
) -> Output:
    """An answer of our search as an output, with its whole trace."""
    encoder = TraceEncoder(
        [question.instruction],
        answers=[question.answers],
        ids=[question.id],
        config=config,
        model=weights,
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
