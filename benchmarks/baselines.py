"""Baselines with the base model in its own chat format, closed-book or with passages."""

from collections.abc import Callable, Sequence

from corpus import Question
from selfrag.engine.base import Engine, Request
from selfrag.passage import Passage

# (with passages, without): the best on the first 16 questions is used for all.
RAG_PROMPTS = (
    ("Answer the question using the passages.\n\n{passages}\n\nQuestion: {question}", "{question}"),
    ("{passages}\n\nUsing the text above, answer in one sentence: {question}", "{question}"),
)
MAX_NEW_TOKENS = 64


class PlainModel:
    """An instruction model asked plainly."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def answer(
        self,
        questions: Sequence[str],
        passages: Sequence[Sequence[Passage]],
        prompt: tuple[str, str],
    ) -> list[str]:
        """Greedy answers of at most 64 tokens."""
        requests = [
            self._request(question, read, prompt)
            for question, read in zip(questions, passages, strict=True)
        ]
        decode = self._engine.tokenizer.decode
        return [decode(done.token_ids).strip() for done in self._engine.generate(requests)]

    def best_prompt(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        match: Callable[[str, Question], bool],
    ) -> int:
        """The index of the prompt with most matches on these questions; ties to the first."""
        counts = []
        for prompt in RAG_PROMPTS:
            said = self.answer([q.text for q in questions], passages, prompt)
            counts.append(sum(match(t, q) for t, q in zip(said, questions, strict=True)))
        return counts.index(max(counts))

    def _request(
        self, question: str, passages: Sequence[Passage], prompt: tuple[str, str]
    ) -> Request:
        tokenizer = self._engine.tokenizer
        body = "\n\n".join(f"[{i}] {p.title}\n{p.text}" for i, p in enumerate(passages, start=1))
        user = prompt[0 if passages else 1].format(passages=body, question=question)
        start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
        newline = tokenizer.encode("\n")
        ids = [start, *tokenizer.encode("user\n"), *tokenizer.encode(user), end, *newline]
        ids += [start, *tokenizer.encode("assistant\n")]
        return Request(
            prefix_ids=tuple(ids), max_new_tokens=MAX_NEW_TOKENS, stop_ids=frozenset({end})
        )
