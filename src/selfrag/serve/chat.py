"""OpenAI's routes: chat completions, completions, responses and models."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from selfrag.decode.config import SearchConfig
from selfrag.decode.events import Event, FinishEvent, GateEvent
from selfrag.errors import BadInput
from selfrag.serve.faults import told_error
from selfrag.serve.openai import (
    Asked,
    ChatRequest,
    CompletionRequest,
    Message,
    ResponseRequest,
    StreamOptions,
    Told,
    asked_in,
    bounded,
    partial_answer,
    require_one,
    unread_fields,
)
from selfrag.serve.routes import reply, service_of
from selfrag.serve.schema import described, read, search_config
from selfrag.serve.service import Question, Service
from selfrag.serve.stream import (
    KEEP_ALIVE,
    Stream,
    finished,
    require_stream,
    sse,
    surely_kept,
    told,
)

router = APIRouter(prefix="/v1", tags=["openai"])
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """One request of any of the three routes, and what its replies have in common."""

    request: Request
    service: Service
    asked: Asked
    question: Question
    id: str
    created: int
    model: str

    async def whole(self) -> tuple[Told, dict[str, int]]:
        """The answer and what it has cost, once it is there."""
        return self.of(await finished(self.request, self.service, self.question.job))

    def of(self, events: list[Event]) -> tuple[Told, dict[str, int]]:
        """The answer that all events come to, and what it has cost."""
        end = next(event for event in events if isinstance(event, FinishEvent))
        n_read, n_written = len(end.best.start.lead_ids), end.usage.n_tokens
        usage = {"prompt_tokens": n_read, "completion_tokens": n_written}
        told_answer = Told.of(self.question.answer(events))
        return told_answer, {**usage, "total_tokens": n_read + n_written}

    async def pieces(self) -> AsyncIterator[str | tuple[Told, dict[str, int]] | None]:
        """Text as it becomes sure, None for a pause, and at last the whole answer with its cost."""
        sent = ""
        events: list[Event] = []
        config = self.question.config
        # Where an answer may yet be withheld or chosen otherwise, nothing is sure before the end.
        is_settled = not (config.min_support is not None or config.choices)
        async for new in told(self.service, self.question.job):
            events += new
            if not new:
                yield None
            nodes = surely_kept(new) if is_settled else []
            if nodes:
                gate = next(event.gate for event in events if isinstance(event, GateEvent))
                text = partial_answer(self.question.text, nodes, gate).cited_text
                if text.startswith(sent) and text != sent:
                    yield text[len(sent) :]
                    sent = text
        whole = self.of(events)
        if not whole[0].text.startswith(sent):
            raise RuntimeError("the answer does not begin as it was streamed")
        yield whole[0].text[len(sent) :]
        yield whole


async def _exchange(
    request: Request,
    body: ChatRequest | CompletionRequest | ResponseRequest,
    asked: Asked,
    max_tokens: int | None,
    prefix: str,
) -> _Exchange:
    service = service_of(request)
    unread = unread_fields(type(body), await request.body())
    asked = replace(asked, ignored=(*asked.ignored, *unread))
    config: SearchConfig = bounded(search_config(service.config, body.selfrag), max_tokens)
    if body.stream:
        require_stream(service)
    question = await service.ask(
        asked.question, history=list(asked.history), config=config, is_streamed=bool(body.stream)
    )
    return _Exchange(
        request=request,
        service=service,
        asked=asked,
        question=question,
        id=prefix + request.state.request_id,
        created=int(time.time()),
        model=service.engine.name,
    )


@router.get("/models")
async def models(request: Request) -> Response:
    """The model that answers; requests may call it by any name."""
    service = service_of(request)
    model = {"id": service.engine.name, "object": "model", "created": int(service.started)}
    return reply({"object": "list", "data": [{**model, "owned_by": "selfrag"}]})


@router.post("/chat/completions", openapi_extra=described(ChatRequest))
async def chat_completions(request: Request) -> Response:
    """The answer to the last message, after the ones before."""
    body = read(ChatRequest, await request.body())
    require_one(body.n)
    limit = body.max_completion_tokens or body.max_tokens
    made = await _exchange(request, body, asked_in(body.messages), limit, "chatcmpl-")
    head = {"id": made.id, "created": made.created, "model": made.model}
    if body.stream:
        head = {**head, "object": "chat.completion.chunk"}
        content = _stream(made, head, body.stream_options, _chat_part)
        return Stream(made.service, made.question.job, content)
    answer, usage = await made.whole()
    message = {
        "role": "assistant",
        "content": answer.text,
        "refusal": None,
        "annotations": answer.annotations(),
    }
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return reply(
        {
            **head,
            "object": "chat.completion",
            "choices": [{**choice, "logprobs": None}],
            "usage": usage,
            **_beside(answer, made),
        }
    )


def _beside(answer: Told, made: _Exchange) -> dict[str, Any]:
    return {"sources": answer.sources(), "selfrag": answer.extension(made.asked.ignored)}


def _chat_part(text: str, answer: Told | None) -> dict[str, Any]:
    return {"delta": {"annotations": answer.annotations()} if answer else {"content": text}}


def _text_part(text: str, answer: Told | None) -> dict[str, Any]:
    return {"text": text}


async def _stream(
    made: _Exchange,
    head: dict[str, Any],
    options: StreamOptions | None,
    part_of: Callable[[str, Told | None], dict[str, Any]],
) -> AsyncIterator[bytes]:
    """Chunks of text and the last one with all that is told beside it.

    `part_of` gives what is told of a piece of text, and of the whole answer at the end.
    """

    def chunk(part: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": reason}
        return sse({**head, "choices": [choice], **more})

    if part_of is _chat_part:
        yield chunk({"delta": {"role": "assistant", "content": ""}})
    try:
        async for piece in made.pieces():
            if piece is None:
                yield KEEP_ALIVE
            elif isinstance(piece, str):
                yield chunk(part_of(piece, None)) if piece else b""
            else:
                answer, usage = piece
                yield chunk(part_of("", answer), answer.finish_reason, **_beside(answer, made))
                if options is not None and options.include_usage:
                    yield sse({**head, "choices": [], "usage": usage})
        yield _DONE
    except Exception as error:
        yield sse(told_error(made.request, error))


@router.post("/completions", openapi_extra=described(CompletionRequest))
async def completions(request: Request) -> Response:
    """The answer to a prompt, which is the question."""
    body = read(CompletionRequest, await request.body())
    require_one(body.n)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(prompts) != 1:
        raise BadInput(
            f"cannot answer {len(prompts)} prompts at once: expected one; send each by itself"
        )
    asked = Asked(question=prompts[0])
    made = await _exchange(request, body, asked, body.max_tokens, "cmpl-")
    head = {"id": made.id, "object": "text_completion", "created": made.created}
    head = {**head, "model": made.model}
    if body.stream:
        content = _stream(made, head, body.stream_options, _text_part)
        return Stream(made.service, made.question.job, content)
    answer, usage = await made.whole()
    choice = {"index": 0, "text": answer.text, "finish_reason": answer.finish_reason}
    choices = [{**choice, "logprobs": None}]
    return reply({**head, "choices": choices, "usage": usage, **_beside(answer, made)})


@router.post("/responses", openapi_extra=described(ResponseRequest))
async def responses(request: Request) -> Response:
    """The answer to a text or a conversation, in the shape of the Responses API."""
    body = read(ResponseRequest, await request.body())
    if body.previous_response_id is not None:
        raise BadInput(
            "cannot go on from previous_response_id: this server keeps no responses; expected the "
            "whole conversation as `input`, so send it"
        )
    said = body.input
    asked = asked_in([Message(role="user", content=said)] if isinstance(said, str) else said)
    made = await _exchange(request, body, asked, body.max_output_tokens, "resp_")
    if body.stream:
        return Stream(made.service, made.question.job, _response_stream(made, body))
    answer, usage = await made.whole()
    return reply(_response(made, body, answer, usage))


def _response(
    made: _Exchange,
    body: ResponseRequest,
    answer: Told | None = None,
    usage: dict[str, int] | None = None,
) -> dict[str, Any]:
    """The response object; one without an answer is in progress."""
    shape = {
        "id": made.id,
        "object": "response",
        "created_at": made.created,
        "model": made.model,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "metadata": {},
        "output": [],
        "parallel_tool_calls": False,
        "temperature": 0.0,
        "tool_choice": "none",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }
    if answer is None or usage is None:
        return shape
    is_cut = answer.finish_reason == "length"
    ignored = (*made.asked.ignored, *(["instructions"] if body.instructions else []))
    return {
        **shape,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": [_message(made, answer)],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
        "sources": answer.sources(),
        "selfrag": answer.extension(ignored),
    }


def _message(made: _Exchange, answer: Told | None) -> dict[str, Any]:
    shape = {"id": made.id.replace("resp_", "msg_"), "type": "message", "role": "assistant"}
    if answer is None:
        return {**shape, "status": "in_progress", "content": []}
    return {**shape, "status": "completed", "content": [_part(answer)]}


def _part(answer: Told | None) -> dict[str, Any]:
    if answer is None:
        return {"type": "output_text", "text": "", "annotations": []}
    annotations = answer.annotations(is_flat=True)
    return {"type": "output_text", "text": answer.text, "annotations": annotations}


async def _response_stream(made: _Exchange, body: ResponseRequest) -> AsyncIterator[bytes]:
    number = -1

    def event(kind: str, **values: Any) -> bytes:
        nonlocal number
        number += 1
        return sse({"type": kind, "sequence_number": number, **values}, kind)

    place = {"item_id": _message(made, None)["id"], "output_index": 0, "content_index": 0}
    yield event("response.created", response=_response(made, body))
    yield event("response.in_progress", response=_response(made, body))
    yield event("response.output_item.added", output_index=0, item=_message(made, None))
    yield event("response.content_part.added", **place, part=_part(None))
    try:
        async for piece in made.pieces():
            if piece is None:
                yield KEEP_ALIVE
            elif isinstance(piece, str):
                yield event("response.output_text.delta", **place, delta=piece, logprobs=[])
            else:
                answer, usage = piece
                for index, each in enumerate(answer.annotations(is_flat=True)):
                    kind = "response.output_text.annotation.added"
                    yield event(kind, **place, annotation_index=index, annotation=each)
                yield event("response.output_text.done", **place, text=answer.text, logprobs=[])
                yield event("response.content_part.done", **place, part=_part(answer))
                item = _message(made, answer)
                yield event("response.output_item.done", output_index=0, item=item)
                whole = _response(made, body, answer, usage)
                is_whole = whole["status"] == "completed"
                yield event(f"response.{'completed' if is_whole else 'incomplete'}", response=whole)
    except Exception as error:
        yield event("error", **told_error(made.request, error)["error"])
