"""The application: routes, errors and checks around one service, and the process that serves it."""

import json
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response

from selfrag.errors import BadInput
from selfrag.serve import chat, faults, routes
from selfrag.serve.guard import Guard
from selfrag.serve.limits import Access
from selfrag.serve.metrics import CONTENT_TYPE, Metrics
from selfrag.serve.openai import ChatRequest, CompletionRequest, ResponseRequest
from selfrag.serve.schema import AskRequest, CheckRequest, RescoreRequest, SearchRequest, components
from selfrag.serve.service import Service

logger = logging.getLogger(__name__)


_REQUESTS = (
    *(AskRequest, CheckRequest, RescoreRequest, SearchRequest),
    *(ChatRequest, CompletionRequest, ResponseRequest),
)


# Of threads: by the usual 5 ms a search in Python would hold up every read and write of a socket.
_SWITCH_S = 0.0005
_BACKLOG = 2048
_FLUSH_S = 5  # for what was told last to reach its clients


def create_app(service: Service, access: Access | None = None) -> Guard:
    """The ASGI application over `service`, which it opens when it starts."""
    metrics = Metrics(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="selfrag",
        version=version("selfrag"),
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    faults.install(app)
    # Not `include_router`: looking for a route in nested routers takes a tenth of a request.
    app.router.routes.extend([*chat.router.routes, *routes.router.routes])

    @app.get("/metrics", tags=["state"])
    async def told_metrics(_: Request) -> Response:
        """Counts and times in the form of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    access = access or Access()
    return Guard(app, limits=service.limits, access=access, on_reply=metrics.on_reply)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schema.setdefault("components", {}).setdefault("schemas", {}).update(components(_REQUESTS))
        app.openapi_schema = schema
    return app.openapi_schema


class Server(uvicorn.Server):
    """A server that lets searches come to their end before connections are closed."""

    def __init__(self, service: Service, access: Access) -> None:
        config = uvicorn.Config(
            create_app(service, access),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_FLUSH_S,
            lifespan="on",
            ws="none",
        )
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what runs, tells whoever waits for it, and closes."""
        await self._service.wind_down()
        await super().shutdown(sockets)


def serve(
    service: Service,
    access: Access,
    *,
    host: str,
    port: int,
    on_address: Callable[[str], None],
) -> None:
    """Serves until it is told to stop; raises what model or index could not be opened for.

    `on_address` gets the address once it can be asked, before model and index are open.
    """
    listening = _listen(host, port)
    server = Server(service, access)

    def give_up(_: BaseException) -> None:
        server.should_exit = True

    service.on_failure = give_up
    shown = f"[{host}]" if ":" in host else host
    on_address(f"http://{shown}:{listening.getsockname()[1]}")
    sys.setswitchinterval(_SWITCH_S)
    server.run(sockets=[listening])
    if service.failure is not None:
        raise service.failure


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
        listening.listen(_BACKLOG)  # who comes before the loop runs is let in, and waits
    except OSError as error:
        raise BadInput(
            f"cannot serve on {host}:{port}: {error.strerror}; expected a free port of this "
            "machine, so name another with --port"
        ) from error
    return listening


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line; what a request was asked with is in none."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        row = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        row |= {name: getattr(record, name) for name in _TOLD if hasattr(record, name)}
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row)


_TOLD = ("request_id", "method", "route", "status", "ms", "client")
