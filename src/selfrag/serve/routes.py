"""Our own routes: ask and watch, search, rescore, documents, and how the server is."""

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile

from selfrag.decode.answer import Answer
from selfrag.decode.calibration import Calibration
from selfrag.decode.events import Event
from selfrag.decode.node import Node
from selfrag.errors import BadInput
from selfrag.indexing import Changes, Outcome
from selfrag.ingest.faults import Skipped
from selfrag.progress import Progress
from selfrag.retrieval.base import as_passages
from selfrag.serve.faults import NotThere, told_error
from selfrag.serve.schema import (
    AskRequest,
    CheckRequest,
    RescoreRequest,
    SearchRequest,
    answer_view,
    described,
    hit_view,
    passage_view,
    read,
    search_config,
    segment_view,
)
from selfrag.serve.service import Question, Service
from selfrag.serve.stream import KEEP_ALIVE, Stream, best_kept, finished, require_stream, sse, told
from selfrag.trace.candidates import RecordedQuestion, recorded_questions
from selfrag.trace.file import TraceEncoder, trace_from_rows
from selfrag.trace.rescore import choose_one

T = TypeVar("T")

router = APIRouter()
_STATIC = Path(__file__).parent / "static"
_HEALTH_S = 20.0
# Of what a browser shows by itself, what runs no script. Anything else is saved.
_SHOWN = {"application/pdf", "text/plain", "image/png", "image/jpeg"}


def service_of(request: Request) -> Service:
    """What the routes work with."""
    found: Service = request.app.state.service
    return found


def reply(value: Any, *, status: int = 200) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


@router.get("/", tags=["page"])
async def page() -> Response:
    """The page."""
    return _static("index.html")


@router.get("/static/{name}", tags=["page"])
async def static(name: str) -> Response:
    """A file of the page."""
    return _static(name)


def _static(name: str) -> Response:
    # By what is there, and not by asking for the name: a very long one is an error of the system.
    found = {path.name: path for path in _STATIC.iterdir()}.get(name)
    if found is None or name.startswith("."):
        raise NotThere("cannot show that: the page has no such file; expected one that it names")
    return FileResponse(found, headers={"cache-control": "no-cache"})


@router.get("/health", tags=["state"])
async def health(request: Request) -> Response:
    """200 while the engine answers, or is being opened; 503 when it does not."""
    service = service_of(request)
    if service.failure is not None:
        return reply({"status": "failed", "ready": False}, status=503)
    if not service.is_ready:
        return reply({"status": "loading", "ready": False, "doing": service.loading.told})
    await service.batcher.probe(_HEALTH_S)
    return reply({"status": "ok", "ready": True})


@router.get("/ready", tags=["state"])
async def ready(request: Request) -> Response:
    """200 once model and index are open, 503 before, with what is being done."""
    service = service_of(request)
    if not service.is_ready:
        doing = str(service.failure or service.loading.told)
        return reply({"ready": False, "doing": doing}, status=503)
    return reply(
        {
            "ready": True,
            "model": service.engine.name,
            "index": service.index.name,
            "passages": service.index.n_passages,
        }
    )


@router.post("/v1/ask", tags=["ask"], openapi_extra=described(AskRequest))
async def ask(request: Request) -> Response:
    """Answers a question and tells every step: server-sent events, or one object."""
    service = service_of(request)
    asked = read(AskRequest, await request.body())
    config = search_config(service.config, asked.settings)
    if asked.stream:
        require_stream(service)
    question = await service.ask(
        asked.question, history=asked.history, config=config, is_streamed=asked.stream
    )
    if asked.stream:
        return Stream(service, question.job, _asked(request, service, question))
    events = await finished(request, service, question.job)
    encoder = TraceEncoder([question.text], config=question.config, model=service.weights)
    rows = [*encoder.question_rows, *(row for event in events for row in encoder.rows_of(event))]
    return reply({"answer": _view(service, question.answer(events)), "trace": rows})


async def _asked(request: Request, service: Service, question: Question) -> AsyncIterator[bytes]:
    encoder = TraceEncoder([question.text], config=question.config, model=service.weights)
    events: list[Event] = []
    for row in encoder.question_rows:
        yield sse(row, row["type"])
    try:
        async for new in told(service, question.job):
            events += new
            rows = [row for event in new for row in encoder.rows_of(event)]
            yield b"".join(sse(row, row["type"]) for row in rows) or KEEP_ALIVE
            if (node := best_kept(new)) is not None:
                yield sse(segment_view(node, encoder.serial_of(node)), "segment")
        yield sse(_view(service, question.answer(events)), "answer")
    except Exception as error:
        yield sse(told_error(request, error), "error")


def _view(service: Service, answer: Answer) -> dict[str, Any]:
    return answer_view(answer, model=service.engine.name, index=service.index.name)


@router.post("/v1/check", tags=["ask"], openapi_extra=described(CheckRequest))
async def check(request: Request) -> Response:
    """What supports each sentence of a text, what contradicts it, and where. Nothing is written."""
    service = service_of(request)
    asked = read(CheckRequest, await request.body())
    passages = None if asked.passages is None else as_passages(asked.passages)
    config = replace(service.config, top_k=asked.top_k)
    job = await service.check(asked.text, asked.question, passages, config)
    checked: Any = (await finished(request, service, job))[-1]
    return reply({**checked.to_dict(), "model": service.engine.name})


@router.post("/v1/rescore", tags=["ask"], openapi_extra=described(RescoreRequest))
async def rescore(request: Request) -> Response:
    """The answer of a recorded search under another threshold and weights, without the model."""
    asked = read(RescoreRequest, await request.body())
    return reply(await asyncio.to_thread(_rescored, service_of(request), asked))


def _require_shallow(rows: Sequence[Any], max_segments: int) -> None:
    """Raises `BadInput` for a path longer than any search makes, which would take very long."""
    depths: dict[Any, int] = {None: -1}
    for row in rows:
        parent, node = row.get("parent"), row.get("node")
        if row.get("type") == "node" and isinstance(parent, int | None) and isinstance(node, int):
            depths[node] = depths.get(parent, 0) + 1
            if depths[node] > max_segments:
                raise BadInput(
                    f"cannot rescore: a path of the trace has more than {max_segments} segments; "
                    "expected the trace of a search of this server, so send one"
                )


def _rescored(service: Service, asked: RescoreRequest) -> dict[str, Any]:
    _require_shallow(asked.trace, service.limits.segments)
    trace = trace_from_rows(asked.trace)
    questions = recorded_questions(trace)
    if len(questions) != 1:
        raise BadInput(
            f"cannot rescore: the trace holds {len(questions)} searches that came to their end; "
            "expected one, so send all events of one"
        )
    choice = choose_one(questions[0], threshold=asked.threshold, weights=asked.weights)
    chosen = None if choice.chosen is None else choice.candidates[choice.chosen]
    view = None
    if chosen is not None:
        probability = _probability(service.calibration, questions[0], chosen.leaf)
        answer = replace(chosen.answer, probability=probability)
        view = _view(service, answer)
    return {
        "answer": view,
        "node": None if chosen is None else chosen.leaf.id,
        "retrieve": choice.retrieve,
        "candidates": [
            {
                "node": each.leaf.id,
                "score": score,
                "text": each.answer.text,
                "may_be_chosen": each.reads if choice.retrieve else each.reads_not,
            }
            for each, score in zip(choice.candidates, choice.scores, strict=True)
        ],
    }


def _probability(
    calibration: Calibration | None, recorded: RecordedQuestion, leaf: Node
) -> float | None:
    config = recorded.question.config
    if calibration is None or (config is not None and config.choices):
        return None
    return calibration.probability_of(leaf, recorded.first_level)


@router.post("/v1/search", tags=["index"], openapi_extra=described(SearchRequest))
async def search(request: Request) -> Response:
    """The passages that are found for a query."""
    service = service_of(request)
    asked = read(SearchRequest, await request.body())
    if not asked.query.strip() or asked.top_k > service.limits.passages:
        raise BadInput(
            f"cannot search: expected a query with words and a top_k of at most "
            f"{service.limits.passages}; change it"
        )
    hits = await asyncio.to_thread(
        service.index.find, asked.query, asked.top_k, mode=asked.mode, metadata=asked.filter
    )
    return reply({"query": asked.query, "hits": [hit_view(hit) for hit in hits]})


@router.get("/v1/index", tags=["index"])
async def index(request: Request) -> Response:
    """What the index holds and how it was made."""
    served = service_of(request).index
    facts = await asyncio.to_thread(served.facts)
    del facts["files"]
    return reply({"name": served.name, **facts})


@router.post("/v1/index/update", tags=["index"])
async def update(request: Request) -> Response:
    """Reads again what has changed of the files that the index was made of; tells as it goes."""
    served = service_of(request).index
    return _working(request, lambda progress: _changes_view(*served.update(progress)))


@router.get("/v1/documents", tags=["index"])
async def documents(request: Request) -> Response:
    """The files that the index holds."""
    served = service_of(request).index
    facts = await asyncio.to_thread(served.facts)
    files = [{"name": Path(file).name, "source": file} for file in facts["files"]]
    return reply({"documents": files})


_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        },
    }
}


@router.post("/v1/documents", tags=["index"], openapi_extra=_UPLOAD)
async def add_documents(request: Request) -> Response:
    """Adds files, sent as `file` of a form; what the event `done` tells of is durable."""
    served = service_of(request).index
    kept: list[Path] = []
    async with request.form(max_files=100, max_fields=100) as form:
        for upload in form.getlist("file"):
            if not isinstance(upload, UploadFile):
                continue
            name, file = upload.filename or "", upload.file
            kept.append(await asyncio.to_thread(served.keep, name, file))
    if not kept:
        raise BadInput(
            "cannot add documents: found no file; expected a form with one or more named `file`, "
            "as curl -F file=@notes.pdf sends it"
        )
    return _working(request, lambda progress: _changes_view(*served.add(kept, progress)))


@router.delete("/v1/documents", tags=["index"])
async def delete_document(request: Request, source: str) -> Response:
    """Takes a file out of the index, by its `source`."""
    service = service_of(request)
    loop = asyncio.get_running_loop()
    delete = service.index.delete
    n_gone = await loop.run_in_executor(service.changing, delete, source, service.loading)
    return reply({"source": source, "deleted_passages": n_gone})


@router.get("/v1/passages/{passage_id}", tags=["index"])
async def passage(request: Request, passage_id: str) -> Response:
    """One passage, with its place in its document."""
    found = await asyncio.to_thread(service_of(request).index.passage, passage_id)
    if found is None:
        raise _no_passage()
    return reply(passage_view(found))


@router.get("/v1/passages/{passage_id}/source", tags=["index"])
async def source(request: Request, passage_id: str) -> Response:
    """The file that a passage was read from; a browser opens a PDF at `#page=`."""
    served = service_of(request).index
    found = await asyncio.to_thread(served.passage, passage_id)
    path = None if found is None else await asyncio.to_thread(served.original, found)
    if path is None:
        raise _no_passage()
    kind = mimetypes.guess_type(path.name)[0] or "text/plain"
    kind = "text/plain" if kind.startswith("text/") and kind != "text/html" else kind
    headers = {"content-security-policy": "sandbox; default-src 'none'"}
    if kind == "application/pdf":  # a browser's own viewer of PDF needs to be no sandbox
        headers = {"content-security-policy": "default-src 'none'; object-src 'self'"}
    return FileResponse(
        path,
        media_type=kind,
        headers=headers,
        filename=path.name,
        content_disposition_type="inline" if kind in _SHOWN else "attachment",
    )


def _no_passage() -> NotThere:
    return NotThere(
        "cannot show that: the index holds no passage of this id, or no file of it; expected an id "
        "that a search gave, so search again"
    )


def _changes_view(changes: Changes, skipped: list[Skipped]) -> dict[str, Any]:
    return {
        "passages": changes.n_passages,
        "missing": changes.missing,
        **{outcome.value: changes.outcomes[outcome] for outcome in Outcome},
        "faults": [{"name": each.path.name, "reason": each.reason} for each in skipped],
    }


class _Reporter:
    """A `Progress` of another thread, as events of this one; None is the last."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def say(self, message: str) -> None:
        self.put(sse({"message": message}, "progress"))

    def progress(self, label: str, done: int, total: int) -> None:
        self.put(sse({"message": label, "done": done, "total": total}, "progress"))

    def close(self) -> None:
        pass

    def put(self, event: bytes | None) -> None:
        self._loop.call_soon_threadsafe(self.told.put_nowait, event)


def _working(request: Request, work: Callable[[Progress], dict[str, Any]]) -> Response:
    """A stream of what `work` reports, and of its result as the event `done`, or `error`.

    The work comes to its end whether anybody listens or not.
    """
    reporter = _Reporter()

    def run() -> None:
        try:
            reporter.put(sse(work(reporter), "done"))
        except Exception as error:
            reporter.put(sse(told_error(request, error), "error"))
        reporter.put(None)

    async def events() -> AsyncIterator[bytes]:
        while (event := await reporter.told.get()) is not None:
            yield event

    service_of(request).changing.submit(run)
    return StreamingResponse(events(), media_type="text/event-stream")
