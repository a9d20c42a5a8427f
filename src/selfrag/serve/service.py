"""What the routes work with: model and index, opened behind a server that already answers.

Knows nothing of routes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from selfrag.decode.answer import Answer, collect_answers
from selfrag.decode.calibration import Calibration
from selfrag.decode.check import check_steps
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import search_one
from selfrag.decode.events import Event
from selfrag.decode.grounding import Grounding
from selfrag.engine.base import Engine
from selfrag.errors import BadInput, SelfRAGError
from selfrag.passage import Passage
from selfrag.prompt import Turn
from selfrag.serve.batcher import Batcher, Job
from selfrag.serve.index import ServedIndex
from selfrag.serve.limits import MAX_GIVEN, Limits
from selfrag.serve.schema import bounded_history
from selfrag.text import counted, sentence_spans

logger = logging.getLogger(__name__)

_SHORT = 2000  # characters that are tokenised at once; longer texts in a thread
_GRACE_S = 30.0  # for the level in progress when the time of a question is over

Opener = Callable[["Loading"], tuple[ServedIndex, Engine]]


class NotReady(SelfRAGError):
    """Model or index are still being opened, or could not be."""


class Loading:
    """How far the opening is; a `Progress`."""

    def __init__(self) -> None:
        self.told = "starting"

    def say(self, message: str) -> None:
        """One line."""
        logger.info("%s", message)
        self.told = message

    def progress(self, label: str, done: int, total: int) -> None:
        """`done` of `total`."""
        self.told = f"{label}: {done} of {total}" if total else label

    def close(self) -> None:
        """The work under way has ended."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its settings, and the search that answers it."""

    text: str
    config: SearchConfig
    job: Job

    def answer(self, events: list[Event]) -> Answer:
        """What the events of the whole search come to."""
        return collect_answers([self.text], events, configs=[self.config])[0]


@dataclass(slots=True)
class Service:
    """One model over one index. `opener` is called in a thread of its own.

    `weights` is what traces call the weights.
    """

    opener: Opener
    limits: Limits
    config: SearchConfig = field(default_factory=SearchConfig)
    calibration: Calibration | None = None
    grounding: Grounding = field(default_factory=Grounding)
    weights: str | None = None
    on_failure: Callable[[BaseException], None] = lambda error: None
    loading: Loading = field(default_factory=Loading)
    n_streams: int = 0
    # Changes of the index, one after the other: waiting for their turn they would hold up all else.
    changing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))
    started: float = field(default_factory=time.time)
    failure: BaseException | None = None
    _open: tuple[ServedIndex, Engine, Batcher] | None = None
    _task: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Begins to open model and index."""
        self._task = asyncio.create_task(self._load())

    async def wind_down(self) -> None:
        """Answers nothing new, and ends what runs, at once where it has come to its time."""
        if self._open is not None:
            await self.batcher.stop(grace_s=self.limits.stop_seconds)

    async def stop(self) -> None:
        """Ends what runs, and lets go of the model."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        if self._open is not None:
            await self.batcher.stop()
            self.engine.close()
        self.changing.shutdown(wait=False, cancel_futures=True)

    @property
    def is_ready(self) -> bool:
        """Whether questions are answered."""
        return self._open is not None

    @property
    def index(self) -> ServedIndex:
        """The index; raises `NotReady` before it is open."""
        return self._opened()[0]

    @property
    def engine(self) -> Engine:
        """The model; raises `NotReady` before it is open."""
        return self._opened()[1]

    @property
    def batcher(self) -> Batcher:
        """What runs searches; raises `NotReady` before model and index are open."""
        return self._opened()[2]

    async def ask(
        self, text: str, *, history: list[Turn], config: SearchConfig, is_streamed: bool
    ) -> Question:
        """A question in the queue; raises `BadInput` for what cannot be asked, `Busy`."""
        n_chars = self.limits.question_chars
        _require_short(text, "question", n_chars)
        config = self.limits.check(config)
        self.batcher.require_room()
        turns = bounded_history(history, n_chars)
        model = self.batcher.model

        def begin() -> Question:
            steps = search_one(text, model=model, config=config, history=turns)
            return Question(text.strip(), config, Job(steps, is_streamed=is_streamed))

        n_read = len(text) + sum(len(turn.question) + len(turn.answer) for turn in turns)
        question = begin() if n_read <= _SHORT else await asyncio.to_thread(begin)
        self.batcher.submit(question.job)
        return question

    async def check(
        self, text: str, question: str, passages: list[Passage] | None, config: SearchConfig
    ) -> Job:
        """The check of a text in the queue; raises `BadInput` for what cannot be checked, `Busy`.

        Sentences for which the time of a request does not suffice are told as not checked.
        """
        _require_short(text, "text", self.limits.question_chars)
        _require_short(question, "question", self.limits.question_chars)
        _require_few(passages or (), 10 * self.limits.question_chars)
        config = self.limits.check(config)
        self.batcher.require_room()
        model, grounding = self.batcher.model, self.grounding

        def begin() -> Job:
            steps = check_steps(
                text,
                model=model,
                question=question,
                passages=passages,
                grounding=grounding,
                config=config,
            )
            return Job(steps, is_streamed=False)

        job = await asyncio.to_thread(begin)
        self.batcher.submit(job)
        return job

    @property
    def patience_s(self) -> float:
        """When a question is given up that has told nothing of its end."""
        return self.limits.seconds + _GRACE_S

    async def _load(self) -> None:
        try:
            served, engine = await asyncio.to_thread(self.opener, self.loading)
            # The splitter takes seconds to import: now, not at the first answer, on the event loop.
            await asyncio.to_thread(sentence_spans, "")
            at_once, queue = self.limits.batch, self.limits.queue
            batcher = Batcher(
                engine, served, at_once=at_once, queue=queue, calibration=self.calibration
            )
        except Exception as error:
            self.failure = error
            logger.error("model or index could not be opened: %s", error)
            self.on_failure(error)
            return
        self._open = served, engine, batcher
        logger.info("ready: %s, %s", engine.name, counted(served.n_passages, "passage"))

    def _opened(self) -> tuple[ServedIndex, Engine, Batcher]:
        if self._open is None:
            why = f"failed ({self.failure})" if self.failure else f"not done: {self.loading.told}"
            raise NotReady(
                f"cannot answer yet: opening model and index is {why}; expected both open, so "
                "ask again when /ready says so"
            )
        return self._open


def _require_few(passages: Sequence[Passage], n_chars: int) -> None:
    n = sum(len(each.text) for each in passages)
    if n > n_chars or len(passages) > MAX_GIVEN:
        raise BadInput(
            f"cannot check: found {len(passages)} passages of {n} characters together; expected at "
            f"most {MAX_GIVEN} of {n_chars}, so send fewer, or serve an index of them"
        )


def _require_short(text: str, what: str, n_chars: int) -> None:
    if len(text) > n_chars:
        raise BadInput(
            f"cannot answer: the {what} has {len(text)} characters; expected at most {n_chars}, "
            "so shorten it"
        )
