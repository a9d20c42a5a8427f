"""From what was raised to what a client is told: a status, one sentence, and an id of the log."""

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from selfrag.errors import (
    AssetError,
    BadInput,
    ConfigError,
    EngineError,
    IndexNotUsable,
    MissingPackage,
    SelfRAGError,
    StorageError,
)
from selfrag.serve.batcher import Busy, Stopped
from selfrag.serve.guard import TooLarge, error_object, too_large_message
from selfrag.serve.limits import Limits
from selfrag.serve.service import NotReady

logger = logging.getLogger(__name__)


class NotThere(SelfRAGError):
    """What was asked for by name does not exist."""


_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (NotThere, 404, "not_found"),
    (BadInput, 400, "bad_input"),
    (ConfigError, 400, "bad_setting"),
    (Busy, 429, "queue_full"),
    (NotReady, 503, "loading"),
    (Stopped, 503, "stopping"),
    (TimeoutError, 503, "too_slow"),
    (IndexNotUsable, 503, "index"),
    (AssetError, 503, "asset"),
    (MissingPackage, 503, "package"),
    (EngineError, 503, "engine"),
    (StorageError, 507, "storage"),
    (TooLarge, 413, "request_too_large"),
    (ClientDisconnect, 499, "disconnected"),  # as nginx counts it; nobody reads it
    (RequestValidationError, 400, "bad_input"),
)
_HTTP = {
    404: "there is nothing at this address; expected one that /openapi.json lists",
    405: "this address does not take that method; expected one that /openapi.json lists",
}
_INTERNAL = "the server failed; its log has more under this request_id"


def told_error(request: Request, error: Exception) -> dict[str, Any]:
    """What a client is told of `error`; the log has more of one that is ours."""
    return _told(request, error)[1]


def _told(request: Request, error: Exception) -> tuple[int, dict[str, Any]]:
    request_id = str(request.state.request_id)
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            if status >= 500:
                logger.error("request %s: %s", request_id, error)
            message = _sentence(request, error)
            return status, error_object(status, message, request_id, code)
    if isinstance(error, HTTPException):
        message = _HTTP.get(error.status_code, str(error.detail)[:300])
        return error.status_code, error_object(error.status_code, message, request_id)
    logger.error("request %s failed", request_id, exc_info=error)
    return 500, error_object(500, _INTERNAL, request_id, "internal")


def _sentence(request: Request, error: Exception) -> str:
    if isinstance(error, TooLarge):
        limits: Limits = request.app.state.service.limits
        return too_large_message(limits, request.url.path)
    if isinstance(error, RequestValidationError):  # which would repeat what it was given
        places = {".".join(map(str, each["loc"]))[:80] for each in error.errors()[:5]}
        names = ", ".join(sorted(places)).encode("ascii", "replace").decode()
        return f"cannot read the request: {names} does not fit; see /openapi.json for what does"
    if isinstance(error, TimeoutError):
        return "cannot answer: the engine has not come to an end in time; ask for less"
    return str(error).encode("utf-8", "replace").decode()


def answer_error(request: Request, error: Exception) -> Response:
    """The response for `error`."""
    status, told = _told(request, error)
    headers = {"retry-after": str(error.retry_s)} if isinstance(error, Busy) else {}
    if isinstance(error, HTTPException):
        headers |= error.headers or {}
    if isinstance(error, TooLarge):
        headers["connection"] = "close"
    body = json.dumps(told).encode()
    return Response(body, status, headers=headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Has every error of `app` told so."""

    async def handle(request: Request, error: Exception) -> Response:
        return answer_error(request, error)

    kinds = (SelfRAGError, HTTPException, RequestValidationError, TooLarge, TimeoutError)
    for kind in (*kinds, ClientDisconnect, Exception):
        app.add_exception_handler(kind, handle)
