"""Self-RAG by prompts: an untuned chat model retrieves, answers and criticises by rubrics.

The same decisions as the search, in the same events, with the probabilities of words in place of
reflection tokens. Bounded: at most `max_rounds` searches and `top_k` answers each, so every
question ends. Answers are one segment long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from selfrag.decode.answer import build_answer
from selfrag.decode.config import SearchConfig
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
from selfrag.decode.segment import GroupLogprobs, Segment, score_groups
from selfrag.engine.base import FloatArray
from selfrag.errors import BadInput
from selfrag.evaluate import rubrics
from selfrag.evaluate.model import Prompt, TextModel
from selfrag.evaluate.record import Call, Output, Question
from selfrag.evaluate.rubrics import Rubric
from selfrag.evaluate.systems import answer_output, find_hits
from selfrag.passage import Hit, Passage
from selfrag.reflection import ReflectionToken, Relevance, Retrieve
from selfrag.retrieval.base import Retriever
from selfrag.trace.rows import config_to_row

FLOOR = 1e-9  # of a probability, so that its logarithm is a number
ENOUGH_SUPPORT = 0.5  # an answer with less is searched for again


@dataclass(slots=True, eq=False)
class _State:
    """One question in flight."""

    question: Question
    gate: Gate
    root: Node
    query: str
    events: list[Event] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    n_tokens: int = 1
    n_passages: int = 0

    @property
    def best(self) -> Node | None:
        """The best answer so far; of equals the first."""
        return max(self.nodes, key=lambda node: node.path_score, default=None)


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

    @property
    def name(self) -> str:
        """The mode is part of the name."""
        return f"prompted-{self._config.mode}"

    def describe(self) -> dict[str, Any]:
        """Model, settings and bounds."""
        search = config_to_row(self._config)
        return {**self._model.describe(), "search": search, "max_rounds": self._max_rounds}

    def answer(self, questions: Sequence[Question]) -> list[Output]:
        """An answer a question; every stage is one batch of requests for all of them."""
        states = self._open(questions)
        reading = [state for state in states if state.gate.retrieve]
        for _ in range(self._max_rounds):
            self._read(reading)
            reading = [state for state in reading if self._goes_on(state)]
            if not reading or self._retriever is None:
                break
            self._search_anew(reading)
        self._recall([state for state in states if not state.nodes])
        return [self._finish(state) for state in states]

    def _open(self, questions: Sequence[Question]) -> list[_State]:
        asked = [rubrics.RETRIEVE.render(question.instruction) for question in questions]
        found = self._rate(asked, rubrics.RETRIEVE)
        states = []
        for question, prompt, logprobs in zip(questions, asked, found, strict=True):
            watched = np.array([*logprobs, np.log(FLOOR)])
            emitted = rubrics.RETRIEVE.tokens[int(logprobs.argmax())]
            gate = decide(watched, Retrieve(emitted), self._config.gate_rule)
            root = Node.root(()).decided(Retrieve.YES if gate.retrieve else Retrieve.NO)
            state = _State(question, gate, root, question.text)
            state.events.append(GateEvent(question=0, gate=gate))
            state.calls.append(_rated(prompt, rubrics.RETRIEVE, logprobs))
            states.append(state)
        return states

    def _read(self, states: Sequence[_State]) -> None:
        """One round: search, keep what is relevant, answer from each passage, criticise."""
        found = self._hits(states)
        for state, hits in zip(states, found, strict=True):
            event = RetrievalEvent(
                question=0, parent=state.root, query=state.query, hits=tuple(hits)
            )
            state.events.append(event)
            state.n_passages += len(hits)
        pairs = [(s, hit) for s, hits in zip(states, found, strict=True) for hit in hits]
        relevance = self._rate_pairs(rubrics.RELEVANCE, pairs)
        self._write(_worth_reading(pairs, relevance))

    def _hits(self, states: Sequence[_State]) -> list[list[Hit]]:
        if self._retriever is None:
            return find_hits([state.question for state in states], None, self._config.top_k)
        queries = [state.query for state in states]
        return self._retriever.search(queries, self._config.top_k) if queries else []

    def _write(self, chosen: Sequence[tuple[_State, Hit, FloatArray]]) -> None:
        """Answers from passages, each with support and utility."""
        prompts = [
            rubrics.ANSWER.render(state.question.instruction, passage=hit.passage)
            for state, hit, _ in chosen
        ]
        texts = self._complete(prompts, [state for state, _, _ in chosen])
        pairs = [(state, hit) for state, hit, _ in chosen]
        support = self._rate_pairs(rubrics.SUPPORT, pairs, texts)
        utility = self._rate_pairs(rubrics.UTILITY, pairs, texts)
        for (state, hit, relevance), text, sup, use in zip(
            chosen, texts, support, utility, strict=True
        ):
            segment = self._segment(text, relevance=relevance, support=sup, utility=use)
            self._add(state, (hit,), segment)

    def _recall(self, states: Sequence[_State]) -> None:
        """Answers from memory, where nothing was read."""
        prompts = [state.question.instruction for state in states]
        texts = self._complete(prompts, states)
        pairs: list[tuple[_State, Hit | None]] = [(state, None) for state in states]
        for state, text, use in zip(
            states, texts, self._rate_pairs(rubrics.UTILITY, pairs, texts), strict=True
        ):
            self._add(state, (), self._segment(text, relevance=None, support=None, utility=use))

    def _search_anew(self, states: Sequence[_State]) -> None:
        """Another query for each question that is not answered well; the best answer stays."""
        prompts = [rubrics.QUERY.render(state.question.text) for state in states]
        for state, query in zip(states, self._complete(prompts, states, 32), strict=True):
            state.query = query.split("\n")[0].strip() or state.question.text

    def _goes_on(self, state: _State) -> bool:
        best = state.best
        return best is None or (best.support or 0.0) < ENOUGH_SUPPORT

    def _add(self, state: _State, hits: tuple[Hit, ...], segment: Segment) -> None:
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
        answer = build_answer(
            state.question.instruction, finish, state.nodes, state.question.labels
        )
        output = answer_output(state.question, answer, state.events, self._config)
        return _with_calls(output, state.calls)

    def _segment(
        self,
        text: str,
        *,
        relevance: FloatArray | None,
        support: FloatArray | None,
        utility: FloatArray,
    ) -> Segment:
        groups = ((rubrics.RELEVANCE, relevance), (rubrics.SUPPORT, support))
        missing = "no passage was read" if relevance is None else ""
        logprobs = GroupLogprobs(
            relevance=relevance, support=support, utility=utility, mean=float("-inf")
        )
        critique = [_token(rubric, found) for rubric, found in groups if found is not None]
        return Segment(
            text=text,
            body_ids=(),
            critique=(*critique, _token(rubrics.UTILITY, utility)),
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

    def _complete(
        self, prompts: Sequence[str], states: Sequence[_State], limit: int | None = None
    ) -> list[str]:
        asked = [Prompt(text=prompt, chat=True) for prompt in prompts]
        replies = self._model.complete(asked, limit or self._config.max_new_tokens)
        for state, prompt, reply in zip(states, prompts, replies, strict=True):
            state.calls.append(Call(prompt=prompt, completion=reply.text))
            state.n_tokens += reply.n_tokens
        return [reply.text for reply in replies]

    def _rate_pairs(
        self,
        rubric: Rubric,
        pairs: Sequence[tuple[_State, Hit | None]] | Sequence[tuple[_State, Hit]],
        texts: Sequence[str] = (),
    ) -> list[FloatArray]:
        answers = texts or [""] * len(pairs)
        prompts = [
            rubric.render(
                state.question.text,
                passage=_passage(hit),
                answer=answer,
            )
            for (state, hit), answer in zip(pairs, answers, strict=True)
        ]
        found = self._rate(prompts, rubric)
        for (state, _), prompt, logprobs in zip(pairs, prompts, found, strict=True):
            state.calls.append(_rated(prompt, rubric, logprobs))
            state.n_tokens += 1
        return found

    def _rate(self, prompts: Sequence[str], rubric: Rubric) -> list[FloatArray]:
        """Log-probabilities of the labels of a rubric, nats, shape (n_labels,) a prompt."""
        asked = [Prompt(text=prompt, chat=True) for prompt in prompts]
        shares = self._model.rate(asked, rubric.labels)
        return [np.log(np.maximum(np.array(each, dtype=float), FLOOR)) for each in shares]


def _worth_reading(
    pairs: Sequence[tuple[_State, Hit]], relevance: Sequence[FloatArray]
) -> list[tuple[_State, Hit, FloatArray]]:
    """The passages judged relevant; of a question that has none, the most relevant one."""
    place = rubrics.RELEVANCE.tokens.index(Relevance.RELEVANT)
    rated = [(state, hit, found) for (state, hit), found in zip(pairs, relevance, strict=True)]
    best: dict[int, float] = {}
    for state, _, found in rated:
        best[id(state)] = max(best.get(id(state), -np.inf), float(found[place]))
    chosen = []
    for state, hit, found in rated:
        is_relevant = int(found.argmax()) == place
        if is_relevant or (best[id(state)] < np.log(0.5) and found[place] == best[id(state)]):
            chosen.append((state, hit, found))
    return chosen


def _passage(hit: Hit | None) -> Passage | None:
    return None if hit is None else hit.passage


def _token(rubric: Rubric, logprobs: FloatArray) -> ReflectionToken:
    return rubric.tokens[int(logprobs.argmax())]


def _rated(prompt: str, rubric: Rubric, logprobs: FloatArray) -> Call:
    shares = ", ".join(
        f"{label} {np.exp(value):.3f}" for label, value in zip(rubric.labels, logprobs, strict=True)
    )
    return Call(prompt=prompt, completion=shares)


def _with_calls(output: Output, calls: Sequence[Call]) -> Output:
    return replace(output, calls=tuple(calls))
