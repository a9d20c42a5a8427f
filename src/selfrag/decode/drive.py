"""Many searches answered together: look-ups first, then one engine call a round.

`Batch` drives any generators that ask for something and are sent the reply; `drive` is the one for
questions with an engine and a retriever. Knows nothing of why something is asked.
"""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from selfrag.decode.calibration import Calibration
from selfrag.decode.config import MAX_PASSAGES, SearchConfig
from selfrag.decode.events import Event
from selfrag.decode.passages import given_hits
from selfrag.decode.search import Generate, Lookup, Model, Steps, steps
from selfrag.engine.base import Completion, Engine
from selfrag.errors import BadInput
from selfrag.passage import Hit, Passage
from selfrag.prompt import Turn
from selfrag.retrieval.base import Retriever

# Replies to asks of one kind, all that are waiting, in order.
Server = Callable[[Sequence[Any]], Sequence[Any]]


class Batch:
    """Step generators in flight, each waiting for the reply to its latest ask.

    `servers` names the kinds of ask and who replies; the first kind that anybody waits for is
    served first, for all that wait for it. Whatever else a generator yields is told to the caller.
    A generator may join at any time; one that is closed is asked for nothing more.
    """

    def __init__(self, servers: Mapping[type, Server]) -> None:
        self._servers = servers
        self._waiting: dict[Generator[Any, Any, None], Any] = {}  # in the order of joining

    def __len__(self) -> int:
        """How many are in flight."""
        return len(self._waiting)

    def join(self, steps: Generator[Any, Any, None]) -> Iterator[Any]:
        """Takes in a generator that has not begun, and tells what it yields before it asks."""
        yield from self._advance(steps, None)

    def round(self) -> Iterator[Any]:
        """Serves one kind of ask and tells what follows from the replies."""
        for each in [e for e in self._waiting if inspect.getgeneratorstate(e) == "GEN_CLOSED"]:
            del self._waiting[each]
        for kind, serve in self._servers.items():
            asks = {each: ask for each, ask in self._waiting.items() if isinstance(ask, kind)}
            if asks:
                for each, reply in zip(asks, serve(list(asks.values())), strict=True):
                    yield from self._advance(each, reply)
                return

    def close(self) -> None:
        """Cancels all that are in flight."""
        for each in self._waiting:
            each.close()
        self._waiting.clear()

    def _advance(self, steps: Generator[Any, Any, None], reply: Any) -> Iterator[Any]:
        try:
            told = steps.send(reply)
            while type(told) not in self._servers:
                yield told
                told = next(steps)
            self._waiting[steps] = told
        except StopIteration:
            self._waiting.pop(steps, None)


def run(
    steps: Iterable[Generator[Any, Any, None]],
    servers: Mapping[type, Server],
    *,
    at_once: int | None = None,
) -> Iterator[Any]:
    """All that the generators yield besides asks, each in its order, until all have ended.

    `at_once` bounds how many are in flight; the next joins when one has ended. Closing this
    generator cancels them all.
    """
    coming = iter(steps)
    batch = Batch(servers)
    try:
        while True:
            free = None if at_once is None else at_once - len(batch)
            for each in islice(coming, free):
                yield from batch.join(each)
            if not batch:
                return
            yield from batch.round()
    finally:
        batch.close()


def drive(
    searches: Iterable[Steps],
    engine: Engine,
    retriever: Retriever,
    *,
    at_once: int | None = None,
) -> Iterator[Event]:
    """The events of many searches as they happen; those of one search in its order.

    Every question is asked what it would be asked alone: look-ups share a call where they want the
    same number of hits.
    """
    return run(searches, servers_of(engine, retriever), at_once=at_once)


def servers_of(engine: Engine, retriever: Retriever) -> dict[type, Server]:
    """Who replies to what a search asks for."""
    return {Lookup: partial(look_up, retriever), Generate: partial(generate, engine)}


def look_up(retriever: Retriever, asks: Sequence[Lookup]) -> list[list[list[Hit]]]:
    """The hits of every query of every ask; one call for all that want the same number of hits."""
    found: dict[int, Iterator[list[Hit]]] = {}
    for top_k in dict.fromkeys(ask.top_k for ask in asks):
        queries = [query for ask in asks if ask.top_k == top_k for query in ask.queries]
        found[top_k] = iter(retriever.search(queries, top_k))
    return [list(islice(found[ask.top_k], len(ask.queries))) for ask in asks]


def generate(engine: Engine, asks: Sequence[Generate]) -> list[list[Completion]]:
    """The completions of every request of every ask, in one call."""
    done = iter(engine.generate([request for ask in asks for request in ask.requests]))
    return [list(islice(done, len(ask.requests))) for ask in asks]


def search(
    questions: Sequence[str],
    *,
    engine: Engine,
    retriever: Retriever,
    config: SearchConfig,
    histories: Sequence[Sequence[Turn]] = (),
    passages: Sequence[Sequence[Passage] | None] = (),
    calibration: Calibration | None = None,
) -> Iterator[Event]:
    """The events of all questions under one configuration, numbered from 0 in their order.

    `histories` holds the earlier turns of every question, oldest first; empty: there are none.
    `passages` holds what each question is to be answered from, read whole whatever `top_k` is, or
    None for what is found for it; empty: None for all. `calibration` is that of the engine's model.
    Raises `BadInput` for a question that is empty or longer than the context allows, before the
    engine is asked anything.
    """
    model = Model.of(engine, calibration)
    turns = histories or [()] * len(questions)
    given = passages or [None] * len(questions)
    searches = [
        search_one(question, model=model, config=config, history=turn, passages=own, number=number)
        for number, (question, turn, own) in enumerate(zip(questions, turns, given, strict=True))
    ]
    yield from drive(searches, engine, retriever)


def search_one(
    question: str,
    *,
    model: Model,
    config: SearchConfig,
    history: Sequence[Turn] = (),
    passages: Sequence[Passage] | None = None,
    number: int = 0,
) -> Steps:
    """The search for one question of `search`; raises `BadInput` at once for what it cannot ask."""
    hits = None
    if passages is not None:
        hits = given_hits(passages, model.fmt, config.max_passage_tokens)
        if len(hits) > MAX_PASSAGES:
            raise BadInput(
                f"cannot answer from {len(hits)} passages: all that are given are read, expected "
                f"at most {MAX_PASSAGES}; give fewer, or make an index of them"
            )
        config = replace(config, top_k=max(1, len(hits)))
    return steps(
        question, model=model, config=config, passages=hits, history=history, number=number
    )
