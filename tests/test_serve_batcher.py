"""Searches that share an engine: when they join, fail, are given up, wait, and end."""

import asyncio
import json
import socket
import threading
from contextlib import asynccontextmanager

import pytest

from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import search_one
from selfrag.decode.events import FinishEvent
from selfrag.errors import EngineError
from selfrag.serve.batcher import Batcher, Busy, Job, Stopped
from selfrag.serve.limits import Limits
from serve_parts import NoLibrary, events_of, scripted_engine, serving


class Gate:
    """Holds the engine at a prompt until it is opened; tells when it is there."""

    def __init__(self, word: str) -> None:
        self.word, self.reached, self.opened = word, threading.Event(), threading.Event()

    def __call__(self, surface: str) -> None:
        if self.word in surface:
            self.reached.set()
            assert self.opened.wait(30)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


@asynccontextmanager
async def batcher(engine, *, at_once=8, queue=8):
    running = Batcher(engine, NoLibrary(), at_once=at_once, queue=queue)
    try:
        yield running
    finally:
        await running.stop()


def job(running, question, *, is_streamed=False):
    steps = search_one(question, model=running.model, config=SearchConfig())
    made = Job(steps, is_streamed=is_streamed)
    running.submit(made)
    return made


async def said(asked):
    events = [event async for events in asked.rounds() for event in events]
    assert isinstance(events[-1], FinishEvent)
    return events[-1].best.text


def test_a_question_joins_the_running_batch_at_the_next_round():
    gate = Gate("hello first")
    engine = scripted_engine(before=gate)

    async def main():
        async with batcher(engine) as running:
            first = job(running, "hello first")
            await gate.wait()  # in its first round
            others = [job(running, f"hello {n}") for n in range(3)]
            gate.opened.set()
            return await asyncio.gather(said(first), *map(said, others))

    assert asyncio.run(main()) == ["Good day to you."] * 4
    # The gate of the first alone; then its segment and the gates of the others in one call.
    assert [len(call) for call in engine.calls] == [1, 4, 3]


def test_no_more_than_so_many_are_searched_at_once():
    engine = scripted_engine()

    async def main():
        async with batcher(engine, at_once=2) as running:
            return await asyncio.gather(*(said(job(running, f"hello {n}")) for n in range(7)))

    assert asyncio.run(main()) == ["Good day to you."] * 7
    assert max(len(call) for call in engine.calls) == 2


def test_what_fails_fails_alone():
    def before(surface):
        if "hello broken" in surface:
            raise EngineError("cannot complete: broken")

    async def main():
        async with batcher(scripted_engine(before=before)) as running:
            questions = ["hello a", "hello broken", "hello b"]
            asked = [said(job(running, question)) for question in questions]
            return await asyncio.gather(*asked, return_exceptions=True)

    one, broken, other = asyncio.run(main())
    assert one == other == "Good day to you."
    assert isinstance(broken, EngineError)


def test_a_search_that_is_given_up_asks_for_nothing_more():
    gate = Gate("hello unwanted")
    engine = scripted_engine(before=gate)

    async def main():
        async with batcher(engine) as running:
            unwanted = job(running, "hello unwanted")
            await gate.wait()
            running.cancel(unwanted)
            gate.opened.set()
            assert await said(job(running, "hello wanted")) == "Good day to you."
            assert (running.n_running, running.n_waiting) == (0, 0)
            return unwanted.steps.gi_frame

    assert asyncio.run(main()) is None  # closed
    prompts = [engine.tokenizer.surface(each.prompt_ids) for call in engine.calls for each in call]
    assert [("unwanted" in prompt) for prompt in prompts] == [True, False, False]


def test_an_engine_learns_that_a_search_was_given_up():
    gate = Gate("hello unwanted")
    engine = scripted_engine(before=gate)
    told = []

    async def main():
        async with batcher(engine) as running:
            unwanted = job(running, "hello unwanted")
            await gate.wait()
            (request,) = next(requests for requests in asked if requests)
            told.append(request.is_wanted())
            running.cancel(unwanted)
            told.append(request.is_wanted())
            gate.opened.set()

    asked = []
    generate = engine.generate
    engine.generate = lambda requests: (asked.append(requests), generate(requests))[1]
    asyncio.run(main())
    assert told == [True, False]


def test_a_search_that_is_given_up_in_the_queue_never_begins():
    gate = Gate("hello first")
    engine = scripted_engine(before=gate)

    async def main():
        async with batcher(engine, at_once=1) as running:
            first = job(running, "hello first")
            await gate.wait()
            waiting = job(running, "hello waiting")
            running.cancel(waiting)
            assert running.n_waiting == 0
            gate.opened.set()
            await said(first)

    asyncio.run(main())
    assert len(engine.calls) == 2


def test_a_full_queue_refuses_and_says_when_to_come_again():
    gate = Gate("hello first")

    async def main():
        async with batcher(scripted_engine(before=gate), at_once=1, queue=2) as running:
            asked = [job(running, "hello first")]
            await gate.wait()
            asked += [job(running, f"hello {n}") for n in range(2)]
            with pytest.raises(Busy) as caught:
                job(running, "hello too many")
            gate.opened.set()
            await asyncio.gather(*map(said, asked))
            return caught.value.retry_s

    assert asyncio.run(main()) >= 1


def test_stopping_ends_what_runs_and_what_waits():
    gate = Gate("hello first")

    async def main():
        async with batcher(scripted_engine(before=gate), at_once=1) as running:
            asked = [job(running, "hello first"), job(running, "hello second")]
            await gate.wait()
            stopping = asyncio.create_task(running.stop())
            while not running._is_stopping:
                await asyncio.sleep(0)
            gate.opened.set()
            await stopping
            ended = await asyncio.gather(*map(said, asked), return_exceptions=True)
            with pytest.raises(Stopped):
                job(running, "hello third")
            return ended

    assert [type(each) for each in asyncio.run(main())] == [Stopped, Stopped]


# Over HTTP


def raw(url, question, *, is_streamed):
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"question": question, "stream": is_streamed}).encode()
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def heard(client, word):
    """What a client receives up to a word."""
    text = b""
    while word not in text:
        piece = client.recv(65536)
        assert piece, text
        text += piece
    return text


def settle(running):
    """Waits until no search is left, which a test of a leak never comes back from."""
    batcher = running.service.batcher
    while running.on_loop(lambda: (batcher.n_running, batcher.n_waiting)) != (0, 0):
        pass


@pytest.mark.parametrize("is_streamed", [True, False])
def test_two_hundred_clients_that_leave_leave_nothing_behind(is_streamed):
    gate = Gate("hello leaving")
    engine = scripted_engine(before=gate)
    with serving(NoLibrary, engine, limits=Limits(batch=16, queue=400)) as running:
        service, batcher = running.service, running.service.batcher
        clients = [
            raw(running.url, f"hello leaving {n}", is_streamed=is_streamed) for n in range(200)
        ]
        try:
            if is_streamed:
                for client in clients:
                    heard(client, b"event: question")
                assert running.on_loop(lambda: service.n_streams) == 200
            while running.on_loop(lambda: batcher.n_running + batcher.n_waiting) < 200:
                pass
            for client in clients:
                client.close()
            while running.on_loop(lambda: batcher.n_waiting):
                pass
        finally:
            gate.opened.set()
        settle(running)
        assert running.on_loop(lambda: service.n_streams) == 0
        # The one round that ran: of 16 at most, and no second one.
        n_asked = sum(map(len, engine.calls))
        assert n_asked <= 16
        assert running.ask("hello again", stream=False).json()["answer"]["answer"]
        assert sum(map(len, engine.calls)) == n_asked + 2


def test_a_full_server_answers_429():
    gate = Gate("hello first")
    limits = Limits(batch=1, queue=1, streams=1)
    with serving(NoLibrary, scripted_engine(before=gate), limits=limits) as running:
        clients = [raw(running.url, "hello first", is_streamed=True)]
        clients[0].recv(100)
        reply = running.ask("hello", stream=True)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        while not running.on_loop(lambda: running.service.batcher.n_running):
            pass
        clients.append(raw(running.url, "hello second", is_streamed=False))
        while not running.on_loop(lambda: running.service.batcher.n_waiting):
            pass
        reply = running.ask("hello", stream=False)
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) >= 1
        gate.opened.set()
        settle(running)
        for client in clients:
            client.close()


def test_a_search_is_bounded_in_time():
    with serving(NoLibrary, limits=Limits(seconds=1e-9)) as running:
        answer = running.ask("hello", stream=False).json()["answer"]
        assert (answer["stopped_by"], answer["answer"]) == ("max_seconds", "")


@pytest.mark.parametrize(("grace_s", "last"), [(30, "answer"), (0, "error")])
def test_a_server_that_stops_lets_searches_end_or_tells_that_it_does_not(grace_s, last):
    gate = Gate("hello first")
    engine = scripted_engine(before=gate)
    with serving(NoLibrary, engine, limits=Limits(stop_seconds=grace_s)) as running:
        client = raw(running.url, "hello first", is_streamed=True)
        text = heard(client, b"event: question")
        assert gate.reached.wait(30)
        running.stop()
        if grace_s == 0:
            while not running.service.batcher._is_stopping:
                pass
        gate.opened.set()
    with client:
        while piece := client.recv(65536):
            text += piece
    name, data = events_of(text.decode().partition("\r\n\r\n")[2].replace("\r\n", "\n"))[-1]
    assert name == last
    assert last == "answer" or data["error"]["code"] == "stopping"
