"""Self-RAG by prompts: an untuned chat model retrieves, answers and criticises by rubrics.

The same decisions as the search, in the same events, with the probabilities of words in place of
reflection tokens. Bounded: at most `max_rounds` searches and `top_k` answers each, so every
question ends. Answers are one segment long.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from selfrag.decode.answer import build_answer
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import Server, look_up, run
from selfrag.decode.events import (
    CandidateEvent,
    Event,
    FinishEvent,
    GateEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
    Usage,
)
from selfrag.decode.gate import Gate, decide
from selfrag.decode.node import Node
from selfrag.decode.search import Lookup
from selfrag.decode.segment import GroupLogprobs, Segment, score_groups
from selfrag.engine.base import FloatArray
from selfrag.errors import BadInput
from selfrag.evaluate.model import Prompt, Reply, TextModel
from selfrag.evaluate.record import Call, Output, Question
from selfrag.evaluate.systems import answer_output, given_hits
from selfrag.passage import Hit, Passage
from selfrag.reflection import ReflectionToken, Relevance, Retrieve, Support, Utility
from selfrag.retrieval.base import GivenPassages, Retriever

FLOOR = 1e-9  # of a probability, so that its logarithm is a number
ENOUGH_SUPPORT = 0.5  # an answer with less is searched for again
QUERY_TOKENS = 32  # that another query may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """A text with `{question}`, `{passage}` and `{answer}` where they are used, and its labels."""

    text: str
    labels: tuple[str, ...] = ()
    tokens: tuple[ReflectionToken, ...] = ()

    def render(self, question: str, *, passage: Passage | None = None, answer: str = "") -> str:
        """The prompt; what is put in is never read for names again."""
        parts = {
            "{question}": question,
            "{passage}": "" if passage is None else f"{passage.title}\n{passage.text}".strip(),
            "{answer}": answer,
        }
        out, rest = "", self.text
        while rest:
            found = [(rest.find(name), name) for name in parts if name in rest]
            if not found:
                return out + rest
            place, name = min(found)
            out, rest = out + rest[:place] + parts[name], rest[place + len(name) :]
        return out


RETRIEVE = Rubric(
    text=(
        "Request: {question}\n\nDoes a good answer need facts that should be looked up in an "
        "encyclopedia? Answer Yes or No."
    ),
    labels=("No", "Yes"),
    tokens=(Retrieve.NO, Retrieve.YES),
)
RELEVANCE = Rubric(
    text=(
        "Request: {question}\n\nPassage:\n{passage}\n\nDoes the passage help to answer the "
        "request? Answer Yes or No."
    ),
    labels=("No", "Yes"),
    tokens=(Relevance.IRRELEVANT, Relevance.RELEVANT),
)
SUPPORT = Rubric(
    text=(
        "Passage:\n{passage}\n\nStatement: {answer}\n\nHow much of the statement is backed by the "
        "passage alone? Answer All, Some or None."
    ),
    labels=("All", "Some", "None"),
    tokens=(Support.FULL, Support.PARTIAL, Support.NONE),
)
UTILITY = Rubric(
    text=(
        "Request: {question}\n\nResponse: {answer}\n\nHow useful is the response to the person who "
        "asked? Answer with one digit from 1 (useless) to 5 (complete)."
    ),
    labels=("1", "2", "3", "4", "5"),
    tokens=tuple(Utility),
)
ANSWER = Rubric(text="Passage:\n{passage}\n\nUse the passage to respond, shortly.\n\n{question}")
QUERY = Rubric(
    text=(
        "Request: {question}\n\nA first search found nothing that answers it. Write another "
        "search query for an encyclopedia. Write the query alone."
    )
)


@dataclass(frozen=True, slots=True)
class Rate:
    """Prompts to be answered with a label of `rubric`; log-probabilities come back for each."""

    rubric: Rubric
    prompts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Write:
    """Prompts to be answered in words; a `Reply` comes back for each."""

    prompts: Sequence[str]
    max_new_tokens: int


T = TypeVar("T")
K = TypeVar("K")
# Asks and, at the end, the place of the question with its output; sent the replies.
Steps = Generator[Lookup | Rate | Write | tuple[int, Output], Any, T]


@dataclass(slots=True, eq=False)
class _State:
    """One question in flight."""

    question: Question
    gate: Gate
    root: Node
    events: list[Event] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    n_tokens: int = 0
    n_passages: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether the best answer so far, of equals the first, is supported enough."""
        best = max(self.nodes, key=lambda node: node.path_score, default=None)
        return best is not None and (best.support or 0.0) >= ENOUGH_SUPPORT


class PromptedSystem:
    """An untuned model as its own critic; `retriever` None: the questions bring their passages."""

    def __init__(
        self,
        model: TextModel,
        retriever: Retriever | None,
        config: SearchConfig,
        *,
        max_rounds: int = 2,
    ) -> None:
        if max_rounds < 1:
            raise BadInput(f"cannot evaluate: {max_rounds} rounds of search; expected at least 1")
        self._model = model
        self._retriever = retriever
        self._config = config
        self._max_rounds = max_rounds

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """An answer a question; what several ask at one time is one batch of requests."""
        servers: dict[type, Server] = {
            Lookup: partial(look_up, self._retriever or GivenPassages(())),
            Rate: self._rate,
            Write: self._write,
        }
        steps = [self._steps(question, number) for number, question in enumerate(questions)]
        outputs: dict[int, Output] = dict(run(steps, servers))
        return [outputs[number] for number in range(len(questions))]

    def _steps(self, question: Question, number: int) -> Steps[None]:
        state = yield from self._open(question)
        query = question.text
        for _ in range(self._max_rounds if state.gate.retrieve else 0):
            yield from self._read(state, query)
            if state.is_answered or self._retriever is None:
                break
            # The best answer so far stays; another query may find a better one.
            prompt = QUERY.render(question.text)
            (said,) = yield from _written(state, [prompt], QUERY_TOKENS)
            query = said.split("\n")[0].strip() or question.text
        if not state.nodes:  # nothing was read: an answer from memory
            prompt = question.instruction
            texts = yield from _written(state, [prompt], self._config.max_new_tokens)
            (utility,) = yield from _rated(state, UTILITY, [None], texts)
            self._add(state, None, self._segment(texts[0], None, None, utility))
        yield number, self._finish(state)

    def _open(self, question: Question) -> Steps[_State]:
        prompt = RETRIEVE.render(question.instruction)
        (logprobs,) = yield Rate(RETRIEVE, [prompt])
        emitted = RETRIEVE.tokens[int(logprobs.argmax())]
        watched = np.array([*logprobs, np.log(FLOOR)])
        gate = decide(watched, Retrieve(emitted), self._config.gate_rule)
        root = Node.root(()).decided(Retrieve.YES if gate.retrieve else Retrieve.NO)
        state = _State(question, gate, root, n_tokens=1)
        state.events.append(GateEvent(question=0, gate=gate))
        state.calls.append(_rating(prompt, RETRIEVE, logprobs))
        return state

    def _read(self, state: _State, query: str) -> Steps[None]:
        """One round: search, keep what is relevant, answer from each passage, criticise."""
        if self._retriever is None:
            hits: Sequence[Hit] = given_hits(state.question)[: self._config.top_k]
        else:
            (hits,) = yield Lookup([query], self._config.top_k)
        state.events.append(
            RetrievalEvent(question=0, parent=state.root, query=query, hits=tuple(hits))
        )
        state.n_passages += len(hits)
        rated = yield from _rated(state, RELEVANCE, hits)
        chosen = _worth_reading(rated)
        read = [hits[place] for place in chosen]
        prompts = [ANSWER.render(state.question.instruction, passage=hit.passage) for hit in read]
        texts = yield from _written(state, prompts, self._config.max_new_tokens)
        support = yield from _rated(state, SUPPORT, read, texts)
        utility = yield from _rated(state, UTILITY, read, texts)
        for place, hit, text, sup, use in zip(chosen, read, texts, support, utility, strict=True):
            self._add(state, hit, self._segment(text, rated[place], sup, use))

    def _add(self, state: _State, hit: Hit | None, segment: Segment) -> None:
        hits: tuple[Hit, ...] = () if hit is None else (hit,)
        node = state.root.child(
            len(state.nodes) + 1, segment, lead_ids=(), hits=hits, rule=self._config.path_score
        )
        state.nodes.append(node)
        state.events.append(CandidateEvent(question=0, node=node))

    def _finish(self, state: _State) -> Output:
        ranked = sorted(state.nodes, key=lambda node: -node.path_score)
        for rank, node in enumerate(ranked, start=1):
            if rank == 1:
                state.events.append(KeepEvent(question=0, node=node, rank=rank))
            else:
                reason = f"ranked {rank} of {len(ranked)}"
                state.events.append(PruneEvent(question=0, node=node, rank=rank, reason=reason))
        finish = FinishEvent(
            question=0,
            best=ranked[0],
            gate=state.gate,
            beam=tuple(ranked[:1]),
            usage=Usage(n_tokens=state.n_tokens, n_passages=state.n_passages),
        )
        state.events.append(finish)
        config = replace(self._config, choices=state.question.labels)
        answer = build_answer(state.question.instruction, finish, state.nodes, config)
        output = answer_output(state.question, answer, state.events, config)
        return replace(output, calls=tuple(state.calls))

    def _segment(
        self,
        text: str,
        relevance: FloatArray | None,
        support: FloatArray | None,
        utility: FloatArray,
    ) -> Segment:
        groups = ((RELEVANCE, relevance), (SUPPORT, support))
        missing = "no passage was read" if relevance is None else ""
        logprobs = GroupLogprobs(
            relevance=relevance, support=support, utility=utility, mean=float("-inf")
        )
        critique = [_token(rubric, found) for rubric, found in groups if found is not None]
        return Segment(
            text=text,
            body_ids=(),
            critique=(*critique, _token(UTILITY, utility)),
            scores=score_groups(
                logprobs,
                self._config.weights,
                missing={"relevance": missing, "support": missing} if missing else {},
            ),
            finished=True,
            truncated=False,
            ends_on=None,
            next_retrieve=None,
            logprobs=logprobs,
            n_tokens=0,
        )

    def _rate(self, asks: Sequence[Rate]) -> list[list[FloatArray]]:
        """Log-probabilities of the labels of each rubric, nats, shape (n_labels,) a prompt."""

        def rate(rubric: Rubric, prompts: Sequence[Prompt]) -> list[FloatArray]:
            shares = self._model.rate(prompts, rubric.labels)
            return [np.log(np.maximum(np.array(each, dtype=float), FLOOR)) for each in shares]

        return _together([(ask.rubric, ask.prompts) for ask in asks], rate)

    def _write(self, asks: Sequence[Write]) -> list[list[Reply]]:
        return _together(
            [(ask.max_new_tokens, ask.prompts) for ask in asks],
            lambda limit, prompts: self._model.complete(prompts, limit),
        )


def _together(
    asks: Sequence[tuple[K, Sequence[str]]], serve: Callable[[K, Sequence[Prompt]], Sequence[T]]
) -> list[list[T]]:
    """The replies to the prompts of every ask, by one call for all asks of the same kind."""
    found: dict[K, Iterator[T]] = {}
    for kind in dict.fromkeys(kind for kind, _ in asks):
        texts = [text for each, own in asks if each == kind for text in own]
        found[kind] = iter(serve(kind, [Prompt(text=text, chat=True) for text in texts]))
    return [list(islice(found[kind], len(own))) for kind, own in asks]


def _written(state: _State, prompts: Sequence[str], limit: int) -> Steps[list[str]]:
    replies: list[Reply] = (yield Write(prompts, limit)) if prompts else []
    for prompt, reply in zip(prompts, replies, strict=True):
        state.calls.append(Call(prompt=prompt, completion=reply.text))
        state.n_tokens += reply.n_tokens
    return [reply.text for reply in replies]


def _rated(
    state: _State, rubric: Rubric, hits: Sequence[Hit | None], texts: Sequence[str] = ()
) -> Steps[list[FloatArray]]:
    """What the rubric says of each passage, or of the answer written from it."""
    prompts = [
        rubric.render(
            state.question.text, passage=None if hit is None else hit.passage, answer=text
        )
        for hit, text in zip(hits, texts or [""] * len(hits), strict=True)
    ]
    found: list[FloatArray] = (yield Rate(rubric, prompts)) if prompts else []
    for prompt, logprobs in zip(prompts, found, strict=True):
        state.calls.append(_rating(prompt, rubric, logprobs))
        state.n_tokens += 1
    return found


def _worth_reading(relevance: Sequence[FloatArray]) -> list[int]:
    """The places of the passages judged relevant; where there are none, of the most relevant."""
    yes = RELEVANCE.tokens.index(Relevance.RELEVANT)
    best = max((float(found[yes]) for found in relevance), default=0.0)
    return [
        place
        for place, found in enumerate(relevance)
        if int(found.argmax()) == yes or (best < np.log(0.5) and found[yes] == best)
    ]


def _token(rubric: Rubric, logprobs: FloatArray) -> ReflectionToken:
    return rubric.tokens[int(logprobs.argmax())]


def _rating(prompt: str, rubric: Rubric, logprobs: FloatArray) -> Call:
    shares = ", ".join(
        f"{label} {np.exp(value):.3f}" for label, value in zip(rubric.labels, logprobs, strict=True)
    )
    return Call(prompt=prompt, completion=shares)
