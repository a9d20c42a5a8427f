"""Baselines: a language model alone, or with the best passages before the question.

Greedy, and with the same passages that Self-RAG reads; a model that cites as `[1]` is taken at its
word. Prompts are in `prompt`.
"""

import re
from collections.abc import Sequence

from selfrag.engine.chat import Prompt, Reply, TextModel
from selfrag.errors import BadInput
from selfrag.evaluate.record import Call, Output, Question, Sentence
from selfrag.evaluate.systems import find_hits
from selfrag.passage import Hit
from selfrag.prompt import Template
from selfrag.retrieval.base import Retriever
from selfrag.text import split_sentences, without_citations

_CITATION = re.compile(r"\[(\d+)\]")


class PlainSystem:
    """A language model, from memory or after the `top_n` best passages, as many as it has room for.

    `retriever` None: every question is answered from the passages that come with it.
    """

    def __init__(
        self,
        model: TextModel,
        template: Template,
        retriever: Retriever | None = None,
        *,
        top_n: int = 0,
        max_new_tokens: int,
    ) -> None:
        self._model = model
        self._template = template
        self._retriever = retriever
        self._top_n = top_n
        self._max_new_tokens = max_new_tokens

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """One reply a question, each with the passages that were read."""
        found: Sequence[Sequence[Hit]] = [()] * len(questions)
        if self._top_n:
            found = find_hits(questions, self._retriever, self._top_n)
        fitting = [self._fitting(q, hits) for q, hits in zip(questions, found, strict=True)]
        replies = self._model.complete([prompt for prompt, _ in fitting], self._max_new_tokens)
        return [
            reply_output(prompt, reply, hits)
            for (prompt, hits), reply in zip(fitting, replies, strict=True)
        ]

    def _fitting(self, question: Question, hits: Sequence[Hit]) -> tuple[Prompt, Sequence[Hit]]:
        """The prompt with as many of the best passages as the model has room for."""
        for n_kept in range(len(hits), -1, -1):
            passages = [hit.passage for hit in hits[:n_kept]]
            text = self._template.render(question.instruction, passages)
            prompt = Prompt(text=text, chat=self._template.chat)
            if self._model.fits(prompt, self._max_new_tokens):
                return prompt, hits[:n_kept]
        raise BadInput(
            f"cannot answer question {question.id!r}: it and {self._max_new_tokens} new tokens are "
            f"longer than the context of {self._model.name}; expected a shorter question, so leave "
            "it out"
        )


def reply_output(prompt: Prompt, reply: Reply, hits: Sequence[Hit]) -> Output:
    """A reply as an output; marks `[n]` that count no passage cite nothing."""
    text = reply.text if prompt.chat else reply.text.split("\n\n")[0].strip()
    sentences = tuple(
        Sentence(text=without_citations(each).strip(), citations=_citations(each, len(hits)))
        for each in split_sentences(text)
    )
    return Output(
        text=text,
        sentences=sentences,
        passages=tuple(hits),
        retrieved=bool(hits),
        n_tokens=reply.n_tokens,
        n_passages=len(hits),
        calls=(Call(prompt=prompt.text, completion=reply.text),),
    )


def _citations(text: str, n_passages: int) -> tuple[int, ...]:
    numbers = dict.fromkeys(int(mark) for mark in _CITATION.findall(text))
    return tuple(number for number in numbers if 1 <= number <= n_passages)
