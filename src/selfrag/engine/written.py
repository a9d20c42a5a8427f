"""A chat model that writes and a Self-RAG model that judges: together one engine.

A request for a segment goes to the writer in words: question, passages, what has been said. The
critic reads its text as untrusted text after the ids of the request, and says the reflection tokens
around it by its own probabilities: Self-RAG (arXiv 2310.11511), algorithm 1, with another model for
y_t alone. All other requests are the critic's. Knows nothing of searches.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from selfrag.engine.base import (
    Completion,
    Engine,
    FinishReason,
    Request,
    SegmentTask,
)
from selfrag.engine.chat import Prompt, Reply, Writer
from selfrag.engine.failure import Failure
from selfrag.errors import EngineError
from selfrag.prompt import PromptFormat, Tokenizer
from selfrag.reflection import Relevance
from selfrag.text import split_sentences, without_citations

logger = logging.getLogger(__name__)

UNKNOWN = -100.0  # nats, where nobody asked; below what any model gives
# What nobody sees and no tokenizer takes: controls, and halves of surrogate pairs.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CHARACTERS_A_TOKEN = 32  # more than any text has: what is longer cannot fit
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
# What the writer is told to say where it has nothing to say.
_NOTHING = "No answer"
_LEAST = 5  # ids of a segment: relevance, one of text, support, utility, and what comes next


class WrittenEngine:
    """An `Engine` whose segments are the writer's and whose reflection tokens are the critic's.

    The log-probability of a text is the writer's mean for each of its ids; where the writer tells
    none, that of the critic's tokens beside it. Steps within the text report `UNKNOWN`. A writer
    that says nothing has written an empty segment that ends the answer and is worth nothing.
    """

    def __init__(self, critic: Engine, writer: Writer) -> None:
        self._critic = critic
        self._writer = writer
        self._fmt = PromptFormat.of(critic.tokenizer, model=critic.name)

    @property
    def name(self) -> str:
        """Both models."""
        return f"{self._writer.name}, judged by {self._critic.name}"

    @property
    def max_context(self) -> int:
        """The critic's limit; the writer says itself what it cannot read."""
        return self._critic.max_context

    @property
    def tokenizer(self) -> Tokenizer:
        """The critic's."""
        return self._critic.tokenizer

    def close(self) -> None:
        """Closes both."""
        self._critic.close()
        self._writer.close()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request, in order; those with a task by the writer.

        Raises `EngineError` where the writer gives no text for any of them.
        """
        judged = [request for request in requests if request.task is None]
        done = iter(self._critic.generate(judged) if judged else [])
        written = iter(self._written([each for each in requests if each.task is not None]))
        return [next(done) if each.task is None else next(written) for each in requests]

    def _written(self, requests: Sequence[Request]) -> list[Completion]:
        ids = self._fmt.ids
        replies = self._replies(requests)
        drafts = [_Draft(request) for request in requests]
        said = [draft for draft, reply in zip(drafts, replies, strict=True) if reply.text]
        self._choose([draft for draft in said if draft.judges_relevance], ids.relevance)
        irrelevant = ids[Relevance.IRRELEVANT]
        based = [each for each in said if each.has_passages and irrelevant not in each.token_ids]
        for draft, reply in zip(drafts, replies, strict=True):
            if reply.text:
                draft.write(reply, self.tokenizer, n_after=3 if draft in based else 2)
        self._choose(based, ids.support)
        stops = tuple(sorted(ids.segment_stops))
        # An answer is rated at its end, so whether it goes on is decided there.
        self._choose([each for each in said if not each.truncated], (*ids.utility, *stops))
        self._choose([each for each in said if each.truncated], ids.utility)
        self._choose([each for each in said if not each.is_ended(ids.segment_stops)], stops)
        return [draft.completion(ids.end_of_sequence) for draft in drafts]

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        """What the writer says for each request, as it may be shown."""
        replies = [Reply(text="", n_tokens=0)] * len(requests)
        failures: list[Failure] = []
        wanted = [
            n
            for n, request in enumerate(requests)
            if request.max_new_tokens >= _LEAST and request.is_wanted()
        ]
        for limit in dict.fromkeys(requests[n].max_new_tokens for n in wanted):
            asked = [n for n in wanted if requests[n].max_new_tokens == limit]
            prompts = [
                Prompt(text=message(task), chat=True)
                for task in (requests[n].task for n in asked)
                if task is not None
            ]
            for n, found in zip(asked, self._writer.attempt(prompts, limit), strict=True):
                if isinstance(found, Failure):
                    failures.append(found)
                else:
                    replies[n] = _tidy(found, limit)
        if failures and len(failures) == len(wanted):
            raise EngineError(
                f"cannot have {self._writer.name} write: it says {failures[0].detail}; expected a "
                "text, so look whether it runs and whether key and name are right"
            )
        if failures:
            logger.warning(
                "%d of %d segments are missing: %s says %s",
                len(failures),
                len(wanted),
                self._writer.name,
                failures[0].detail,
            )
        return replies

    def _choose(self, drafts: "Sequence[_Draft]", allowed: Sequence[int]) -> None:
        """Adds to each draft the one of `allowed` that the critic finds most probable."""
        end = self._fmt.ids.end_of_sequence
        watched = (*self._fmt.ids.all, end)
        requests = [
            Request(
                prefix_ids=draft.request.prefix_ids,
                suffix_ids=(*draft.request.suffix_ids, *draft.token_ids),
                max_new_tokens=1,
                watch_ids=watched,
            )
            for draft in drafts
        ]
        columns = [watched.index(token_id) for token_id in allowed]
        found = self._critic.generate(requests) if requests else []
        for draft, done in zip(drafts, found, strict=True):
            row = done.watched[0]
            best = int(row[columns].argmax())
            # Nothing else may come here, so only ratios count.
            share = row[columns[best]] - np.logaddexp.reduce(row[columns])
            by_id = dict(zip(watched, row, strict=True))
            draft.add(allowed[best], float(share), [by_id[i] for i in draft.request.watch_ids])


@dataclass(slots=True, eq=False)
class _Draft:
    """One segment in progress."""

    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    watched: list[list[float]] = field(default_factory=list)
    truncated: bool = False

    @property
    def task(self) -> SegmentTask:
        assert self.request.task is not None  # no draft is made without
        return self.request.task

    @property
    def has_passages(self) -> bool:
        return bool(self.task.passages)

    @property
    def judges_relevance(self) -> bool:
        return self.has_passages and self.task.is_fresh

    def is_ended(self, stops: frozenset[int]) -> bool:
        return self.truncated or self.token_ids[-1] in stops

    def add(self, token_id: int, logprob: float | None, watched: list[float]) -> None:
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.watched.append(watched)

    def write(self, reply: Reply, tokenizer: Tokenizer, *, n_after: int) -> None:
        """Adds the text as untrusted text; `n_after` tokens have to fit after it."""
        room = self.request.max_new_tokens - len(self.token_ids) - n_after
        ids, self.truncated = _fitting(reply, tokenizer, room)
        for token_id in ids:
            self.add(token_id, reply.mean_logprob, [UNKNOWN] * len(self.request.watch_ids))

    def completion(self, end: int) -> Completion:
        if not self.token_ids:
            self.truncated = self.request.max_new_tokens < _LEAST
            self.add(end, UNKNOWN, [UNKNOWN] * len(self.request.watch_ids))
        told = [each for each in self.logprobs if each is not None]
        logprobs = [sum(told) / len(told) if each is None else each for each in self.logprobs]
        n_watched = len(self.request.watch_ids)
        return Completion(
            token_ids=tuple(self.token_ids),
            logprobs=np.array(logprobs),
            watched=np.array(self.watched, dtype=float).reshape(len(self.token_ids), n_watched),
            finish_reason=FinishReason.LENGTH if self.truncated else FinishReason.STOP,
        )


def message(task: SegmentTask) -> str:
    """What the writer is told, as a user's message.

    It is not asked to say where a passage does not help: a model of 1.5B parameters then says so of
    most passages that do, and what helps is for the critic to judge.
    """
    parts = [f"Question: {turn.question}\nAnswer: {turn.answer}" for turn in task.turns]
    parts += [
        f"Passage:\n{passage.title or ''}\n{passage.text}".strip() for passage in task.passages
    ]
    source = ", using the passage" if task.passages else ""
    if task.said:
        parts += [
            f"Write the next sentence of the answer to the question{source}. If nothing is left to "
            f"say, write only: {_NOTHING}",
            f"Question: {task.question}\nAnswer so far: {task.said}",
        ]
    else:
        parts += [
            f"Answer the question in one full sentence{source}.",
            f"Question: {task.question}",
        ]
    return "\n\n".join(parts)


def _tidy(reply: Reply, max_new_tokens: int) -> Reply:
    """Without thoughts, controls, line breaks, and marks that count passages of its own."""
    whole = " ".join(_UNSEEN.sub(" ", _THOUGHT.sub(" ", reply.text)).split())
    said = whole[: max_new_tokens * _CHARACTERS_A_TOKEN]
    truncated = reply.truncated or len(said) < len(whole)
    # Once is not enough: without the mark within it, [[1]1] is one.
    while (text := without_citations(said)) != said:
        said = text
    text = " ".join(text.split())
    if text.strip(" .\"'").casefold() == _NOTHING.casefold() or _is_blank(text):
        text = ""
    elif text[-1:].isalnum() and not truncated:
        text += "."  # as every segment ended that the critic was trained on
    return replace(reply, text=text, truncated=truncated)


def _is_blank(text: str) -> bool:
    """Whether nothing of it can be seen, as of a zero-width space."""
    return not any(each.isprintable() and not each.isspace() for each in text)


def _fitting(reply: Reply, tokenizer: Tokenizer, room: int) -> tuple[list[int], bool]:
    """The ids of the sentences that are complete and fit, else of what fits, which is truncated."""
    ids = tokenizer.encode(reply.text, continues=True)
    if not reply.truncated and len(ids) <= room:
        return ids, False
    sentences = split_sentences(reply.text)
    fitting: list[int] = []
    for n_kept in range(1, len(sentences)):
        kept = tokenizer.encode(" ".join(sentences[:n_kept]), continues=True)
        if len(kept) > room:
            break
        fitting = kept
    return (fitting, False) if fitting else (ids[: room + 1], True)  # no stop token follows
