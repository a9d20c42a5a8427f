"""One thread that runs all searches: a question joins the batch at the next round.

Knows nothing of HTTP. A job lives in two threads: the event loop makes, awaits and cancels it, the
engine's thread does all else; what it tells is handed over once a round.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from selfrag.decode.calibration import Calibration
from selfrag.decode.drive import Batch, Server, generate, look_up
from selfrag.decode.events import Event
from selfrag.decode.search import Generate, Lookup, Model, Steps
from selfrag.engine.base import Engine, Request
from selfrag.errors import EngineError, SelfRAGError
from selfrag.retrieval.base import Retriever

logger = logging.getLogger(__name__)

Told = list[Event] | BaseException | None  # events of a round; why it failed; None: it has ended


class Busy(SelfRAGError):
    """All places in the queue are taken; `retry_s` is when to come again."""

    def __init__(self, n_waiting: int, retry_s: int) -> None:
        super().__init__(
            f"cannot take another question: {n_waiting} are waiting, which is as many as this "
            f"server lets wait; try again in {retry_s} s"
        )
        self.retry_s = retry_s


class Stopped(SelfRAGError):
    """The server is stopping."""

    def __init__(self) -> None:
        super().__init__(
            "cannot answer: the server is stopping; expected one that runs, so ask it again when "
            "it is back"
        )


class Job:
    """One search that has not begun, asked for in an event loop and run elsewhere."""

    def __init__(self, steps: Steps, *, is_streamed: bool) -> None:
        self.steps = steps
        self.is_streamed = is_streamed
        self.is_cancelled = False
        self.since = time.monotonic()
        self.untold: list[Event] = []
        self.running: Generator[Any, Any, None] | None = None
        self._told: asyncio.Queue[Told] = asyncio.Queue()

    def put(self, told: Told) -> None:
        """Hands over; called in the event loop."""
        self._told.put_nowait(told)

    async def rounds(self, *, pause_s: float | None = None) -> AsyncIterator[list[Event]]:
        """The events of each round, or all at once at the end; raises what ended the search.

        None of them after every `pause_s` without any.
        """
        while True:
            try:
                async with asyncio.timeout(pause_s):
                    told = await self._told.get()
            except TimeoutError:
                told = []
            if told is None:
                return
            if isinstance(told, BaseException):
                raise told
            yield told


class Batcher:
    """Runs jobs on an engine. Used from one event loop."""

    def __init__(
        self,
        engine: Engine,
        retriever: Retriever,
        *,
        at_once: int,
        queue: int,
        calibration: Calibration | None = None,
    ) -> None:
        self.model = Model.of(engine, calibration)
        self._engine = engine
        self._at_once, self._queue = at_once, queue
        self._loop = asyncio.get_running_loop()
        servers: dict[type, Server] = {
            Lookup: _each_alone(partial(look_up, retriever)),
            Generate: _each_alone(self._generate),
        }
        self._generates = partial(generate, engine)
        self._batch = Batch(servers)
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._outbox: list[tuple[Job, Told]] = []
        self._changed = threading.Condition()
        self._is_closing = self._is_stopping = False
        self.n_rounds = 0
        self.seconds_each = 1.0  # a moving mean
        self.last_good = 0.0  # when the engine last answered
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Jobs in the batch."""
        return len(self._running)

    def submit(self, job: Job) -> None:
        """Puts a job into the queue; raises as `require_room` does."""
        with self._changed:
            self.require_room()
            self._waiting.append(job)
            self._changed.notify()

    def require_room(self) -> None:
        """Raises `Busy` when the queue is full and `Stopped` after `stop`."""
        if self._is_closing:
            raise Stopped
        free = max(0, self._at_once - len(self._running))
        if len(self._waiting) >= self._queue + free:
            rounds = 1 + len(self._waiting) / self._at_once
            raise Busy(len(self._waiting), max(1, round(rounds * self.seconds_each)))

    def cancel(self, job: Job) -> None:
        """Ends a job at the next round; one that has ended stays as it is."""
        with self._changed:
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
            self._changed.notify()

    async def probe(self, timeout_s: float, *, fresh_s: float = 5.0) -> None:
        """Returns when the engine answers, or has just done so; `EngineError` where it does not."""
        if time.monotonic() - self.last_good < fresh_s:
            return
        job = Job(_one_token(self.model), is_streamed=False)
        with self._changed:
            self._waiting.appendleft(job)
            self._changed.notify()
        try:
            async with asyncio.timeout(timeout_s):
                async for _ in job.rounds():
                    pass
        except SelfRAGError:
            raise
        except Exception as error:  # a fault of ours in the engine, or no answer in time
            self.cancel(job)
            raise EngineError(
                f"the engine has not given one token within {timeout_s:g} s; expected one; see the "
                "log and start the server again"
            ) from error

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """Takes no more jobs, lets those there are go on for a while, and ends what is left.

        These are told `Stopped`. Returns when the thread has ended.
        """
        with self._changed:
            self._is_closing = True
        until = time.monotonic() + grace_s
        while (self._running or self._waiting) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._is_stopping):
                    self._changed.wait()
                if self._is_stopping:
                    break
                free = self._at_once - len(self._running)
                joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
                self._running.update(joining)
            for job in [job for job in self._running if job.is_cancelled]:
                if job.running is not None:
                    job.running.close()
                self._leave(job)
            for job in joining:
                if not job.is_cancelled:
                    job.running = self._guarded(job)
                    _exhaust(self._batch.join(job.running))
            if self._batch:
                _exhaust(self._batch.round())
                self.n_rounds += 1
            self._hand_over()
        for job in [*self._running, *self._waiting]:
            self._outbox.append((job, Stopped()))
        self._batch.close()
        self._waiting.clear()
        self._running.clear()
        self._hand_over()

    def _guarded(self, job: Job) -> Generator[Any, Any, None]:
        """The steps of a job; its events are kept, and its failure is its own alone."""
        told: Told = None
        reply: Any = None
        try:
            while True:
                each = job.steps.send(reply)
                reply = None
                if isinstance(each, Generate | Lookup):
                    reply = yield _while_wanted(each, job) if isinstance(each, Generate) else each
                    if job.is_cancelled:
                        break
                    if isinstance(reply, Exception):
                        raise reply
                else:
                    job.untold.append(each)
        except StopIteration:
            pass
        except Exception as error:  # a fault of one question must not end the others
            if not isinstance(error, SelfRAGError):
                logger.exception("a search failed")
            told = error
        finally:
            job.steps.close()
        self._leave(job, told)

    def _leave(self, job: Job, told: Told = None) -> None:
        self._running.discard(job)
        if told is None and job.untold:
            self._outbox.append((job, job.untold))
            job.untold = []
        self._outbox.append((job, told))
        spent = time.monotonic() - job.since
        self.seconds_each += 0.1 * (spent - self.seconds_each)

    def _hand_over(self) -> None:
        for job in self._running:
            if job.is_streamed and job.untold:
                self._outbox.append((job, job.untold))
                job.untold = []
        if self._outbox:
            told, self._outbox = self._outbox, []
            self._loop.call_soon_threadsafe(_deliver, told)

    def _generate(self, asks: Sequence[Any]) -> Sequence[Any]:
        done = self._generates(asks)
        self.last_good = time.monotonic()
        return done


def _deliver(told: list[tuple[Job, Told]]) -> None:
    for job, each in told:
        job.put(each)


def _exhaust(told: Any) -> None:
    for _ in told:
        pass


def _each_alone(serve: Server) -> Server:
    """`serve`, which replies with an exception to what alone makes it fail."""

    def served(asks: Sequence[Any]) -> Sequence[Any]:
        try:
            return serve(asks)
        except Exception as error:
            if not isinstance(error, SelfRAGError):
                logger.exception("a call of %d asks failed", len(asks))
            if len(asks) == 1:
                return [error]
        return [reply for ask in asks for reply in served([ask])]

    return served


def _while_wanted(asked: Generate, job: Job) -> Generate:
    """The same, given up by the engine once the job is cancelled."""
    wanted = partial(_is_wanted, job)
    return Generate([replace(request, is_wanted=wanted) for request in asked.requests])


def _is_wanted(job: Job) -> bool:
    return not job.is_cancelled


def _one_token(model: Model) -> Steps:
    ids = tuple(model.fmt.instruction("Are you there?"))
    yield Generate([Request(prefix_ids=ids, max_new_tokens=1, watch_ids=model.fmt.ids.all)])
