"""Baselines: a language model alone, or with the best passages before the question.

Greedy, and with the same passages that Self-RAG reads; a model that cites as `[1]` is taken at its
word. Prompts are in `templates`.
"""

import re
from collections.abc import Sequence
from typing import Any

from selfrag.errors import BadInput
from selfrag.evaluate.metrics import without_citations
from selfrag.evaluate.model import Prompt, Reply, TextModel
from selfrag.evaluate.record import Call, Output, Question, Sentence
from selfrag.evaluate.systems import find_hits
from selfrag.evaluate.templates import Template
from selfrag.passage import Hit
from selfrag.retrieval.base import Retriever
from selfrag.text import split_sentences

_CITATION = re.compile(r"\[(\d+)\]")


class VanillaSystem:
    """A language model from memory."""

    def __init__(self, model: TextModel, template: Template, *, max_new_tokens: int) -> None:
        self._model = model
        self._template = template
        self._max_new_tokens = max_new_tokens

    @property
    def name(self) -> str:
        """For tables."""
        return "vanilla"

    def describe(self) -> dict[str, Any]:
        """Model and prompt."""
        return _describe(self._model, self._template, self._max_new_tokens)

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """One reply a question."""
        prompts = [
            _fitting(self._model, self._template, question, [], self._max_new_tokens)[0]
            for question in questions
        ]
        replies = self._model.complete(prompts, self._max_new_tokens)
        return [
            reply_output(prompt, reply, []) for prompt, reply in zip(prompts, replies, strict=True)
        ]


class RagSystem:
    """A language model that reads the `top_n` best passages first, as many as it has room for.

    `retriever` None: every question is answered from the passages that come with it.
    """

    def __init__(
        self,
        model: TextModel,
        template: Template,
        retriever: Retriever | None,
        *,
        top_n: int,
        max_new_tokens: int,
    ) -> None:
        if top_n < 1:
            raise BadInput(f"cannot evaluate: --top-k is {top_n}; expected at least 1 passage")
        self._model = model
        self._template = template
        self._retriever = retriever
        self._top_n = top_n
        self._max_new_tokens = max_new_tokens

    @property
    def name(self) -> str:
        """The number of passages is part of the name."""
        return f"rag-top{self._top_n}"

    def describe(self) -> dict[str, Any]:
        """Model, prompt and number of passages."""
        described = _describe(self._model, self._template, self._max_new_tokens)
        return {**described, "top_n": self._top_n}

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """One reply a question, each with the passages that were read."""
        prompts: list[Prompt] = []
        read: list[list[Hit]] = []
        found = find_hits(questions, self._retriever, self._top_n)
        for question, hits in zip(questions, found, strict=True):
            prompt, kept = _fitting(
                self._model, self._template, question, hits, self._max_new_tokens
            )
            prompts.append(prompt)
            read.append(kept)
        replies = self._model.complete(prompts, self._max_new_tokens)
        return [
            reply_output(prompt, reply, hits)
            for prompt, reply, hits in zip(prompts, replies, read, strict=True)
        ]


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


def _fitting(
    model: TextModel,
    template: Template,
    question: Question,
    hits: Sequence[Hit],
    max_new_tokens: int,
) -> tuple[Prompt, list[Hit]]:
    """The prompt with as many of the best passages as the model has room for."""
    for n_kept in range(len(hits), -1, -1):
        passages = [hit.passage for hit in hits[:n_kept]]
        prompt = Prompt(text=template.render(question.instruction, passages), chat=template.chat)
        if model.fits(prompt, max_new_tokens):
            return prompt, list(hits[:n_kept])
    raise BadInput(
        f"cannot answer question {question.id!r}: it and {max_new_tokens} new tokens are longer "
        f"than the context of {model.name}; expected a shorter question, so leave it out"
    )


def _describe(model: TextModel, template: Template, max_new_tokens: int) -> dict[str, Any]:
    return {**model.describe(), "prompt": template.name, "max_new_tokens": max_new_tokens}
