"""Searches told as they happen: server-sent events, and what ends them when nobody listens."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from selfrag.decode.events import Event, KeepEvent
from selfrag.decode.node import Node
from selfrag.errors import EngineError
from selfrag.serve.batcher import Busy, Job
from selfrag.serve.service import Service

PAUSE_S = 15.0  # a comment after so long without an event keeps proxies from closing
KEEP_ALIVE = b": still working\n\n"


def sse(data: Any, event: str = "") -> bytes:
    """One server-sent event; JSON in one line."""
    head = f"event: {event}\n".encode() if event else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"


class Stream(StreamingResponse):
    """A stream of server-sent events of one search, which ends with the connection."""

    def __init__(self, service: Service, job: Job, content: AsyncIterator[bytes]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._service, self._job = service, job
        service.n_streams += 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends; whatever ends it frees the place and ends the search."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._service.n_streams -= 1
            self._service.batcher.cancel(self._job)


def require_stream(service: Service) -> None:
    """Raises `Busy` where as many streams are open as there may be."""
    if service.n_streams >= service.limits.streams:
        raise Busy(service.n_streams, 1)


async def told(service: Service, job: Job) -> AsyncIterator[list[Event]]:
    """The events of each round; an empty list now and then; raises what ended the search."""
    until = time.monotonic() + service.patience_s
    async for events in job.rounds(pause_s=PAUSE_S):
        if not events and time.monotonic() > until:
            raise too_slow(service)
        yield events


async def finished(request: Request, service: Service, job: Job) -> list[Event]:
    """All events, once the search has ended; it ends with the connection.

    Raises what ended the search, `EngineError` where it takes too long, `ClientDisconnect`.
    """
    collecting = asyncio.ensure_future(_collected(job))
    leaving = asyncio.ensure_future(_disconnected(request))
    waits = {collecting, leaving}
    try:
        await asyncio.wait(waits, timeout=service.patience_s, return_when=asyncio.FIRST_COMPLETED)
        if collecting.done():
            return collecting.result()
        if leaving.done():
            raise ClientDisconnect
        raise too_slow(service)
    finally:
        for each in waits:
            each.cancel()
        if not collecting.done():
            service.batcher.cancel(job)


def too_slow(service: Service) -> EngineError:
    """That a search took longer than anybody waits."""
    return EngineError(
        f"cannot answer: the engine has not come to an end in {service.patience_s:g} s; expected "
        "less; ask for less, or look at /health"
    )


def best_kept(events: Sequence[Event]) -> Node | None:
    """The path that the latest level of `events` ranks first; None where none has ended."""
    firsts = [each.node for each in events if isinstance(each, KeepEvent) and each.rank == 1]
    return firsts[-1] if firsts else None


def surely_kept(events: Sequence[Event]) -> list[Node]:
    """The segments that all paths kept by the latest level of `events` have in common."""
    kept: list[Node] = []
    for each in events:
        if isinstance(each, KeepEvent):
            kept = [each.node] if each.rank == 1 else [*kept, each.node]
    return list(_common([node.path for node in kept]))


def _common(paths: Sequence[tuple[Node, ...]]) -> Iterator[Node]:
    for nodes in zip(*paths, strict=False):
        # A path that ended as it was has a new last node with the segment of the old one.
        if any(node.segment is not nodes[0].segment for node in nodes):
            return
        yield nodes[0]


async def _collected(job: Job) -> list[Event]:
    return [event async for events in job.rounds() for event in events]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
