"""What every request passes before any route: names, tokens, sizes; and what every reply gets.

Plain ASGI around the application, so that streams are not held up. Knows nothing of the routes.
"""

import asyncio
import base64
import binascii
import hmac
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from hashlib import sha256
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from selfrag.serve.limits import Access, Limits

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# Names are looked up without a token: whether the server lives is asked by machines that have none.
OPEN_PATHS = frozenset({"/health"})
UPLOAD_PATH = "/v1/documents"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SAFE_HEADERS: Headers = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# A browser that opens a page asks for a name and a token, and sends them with whatever that page
# asks for. What a page fetches is not asked so: the page has a field for a token of its own.
_ASK_FOR_TOKEN: Headers = [(b"www-authenticate", b'Bearer realm="selfrag"')]
_ASK_IN_BROWSER: Headers = [
    *_ASK_FOR_TOKEN,
    (b"www-authenticate", b'Basic realm="selfrag: any name, and a token"'),
]
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


_DISCARD_S = 10.0  # for the rest of a body that is refused


class TooLarge(Exception):
    """A body is longer than its limit."""


def error_object(
    status: int, message: str, request_id: str, code: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's clients read it, with the id under which the log has it."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    return {"error": {**error, "request_id": request_id}}


class Guard:
    """The application behind its checks. `on_reply` gets route, method, status and seconds."""

    def __init__(
        self,
        app: App,
        *,
        limits: Limits,
        access: Access,
        on_reply: Callable[[str, str, int, float], None],
    ) -> None:
        self.app = app
        self._limits = limits
        self._hosts = {name.strip("[]").lower() for name in access.hosts}
        self._tokens = [_digest(token.encode()) for token in access.tokens]
        self._on_reply = on_reply
        self._first_id, self._ids = os.urandom(4).hex(), count()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request, or hands the lifespan on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._reply(scope, receive, send)

    async def _reply(self, scope: Message, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        # Counted: the system's random bytes would cost a turn of the interpreter's lock each time.
        request_id = f"{self._first_id}{next(self._ids):08x}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        n_bytes = 0
        limit = _limit_of(self._limits, scope["path"])

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message.get("headers", ())}
                safe = [each for each in _SAFE_HEADERS if each[0] not in own]
                given = (b"x-request-id", request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), *safe, given]}
            await send(message)

        async def receiving() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > limit:
                await _discard(receive, message, limit)
                raise TooLarge
            return message

        refused = self._refusal(scope, limit)
        try:
            if refused is not None:
                if b"expect" not in dict(scope["headers"]):  # else it has not begun to send
                    await _discard(receive, {"more_body": True}, limit)
                is_opened = _is_opened(scope)
                await _refuse(sending, request_id, *refused, is_opened=is_opened)
            else:
                await self.app(scope, receiving, sending)
        except Exception:
            if not status:  # else it has been told, and logged where that was done
                logger.exception("request %s failed", request_id)
                message = "the server failed; its log has more under this request_id"
                await _refuse(sending, request_id, 500, message, None)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            self._on_reply(route, scope["method"], status, seconds)
            logger.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "client": (scope.get("client") or ("",))[0],
                },
            )

    def _refusal(self, scope: Message, limit: int) -> tuple[int, str, str | None] | None:
        """Why a request is refused before it is read: status, message and code; None: it is not."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = _host_name(headers.get(b"host", b""))
        if self._hosts and host not in self._hosts:
            return 421, "this server is not known under that name; see --allow-host", "unknown_host"
        if self._tokens and scope["path"] not in OPEN_PATHS:
            if not self._is_known(headers.get(b"authorization", b"")):
                message = "expected a token of this server, as in Authorization: Bearer TOKEN"
                return 401, message, "invalid_api_key"
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD"):
            if _authority(origin) != headers.get(b"host", b"").lower():
                return 403, "pages of other sites may not ask this server", "cross_origin"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > limit:
            return 413, _too_large(limit), "request_too_large"
        return None

    def _is_known(self, authorization: bytes) -> bool:
        scheme, _, value = authorization.partition(b" ")
        token = value.strip()
        if scheme.lower() == b"basic":
            try:
                token = base64.b64decode(token, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        digest = _digest(token)
        # All are compared, so that time tells nothing of which one came near.
        return any([hmac.compare_digest(digest, each) for each in self._tokens])


def too_large_message(limits: Limits, path: str) -> str:
    """What is said of a body that turned out too long."""
    return _too_large(_limit_of(limits, path))


def _limit_of(limits: Limits, path: str) -> int:
    is_upload = path.rstrip("/") == UPLOAD_PATH
    return limits.upload_mb << 20 if is_upload else limits.request_kb << 10


def _too_large(limit: int) -> str:
    return f"the request is too large: this server takes at most {limit >> 10} KB; send less"


def _is_opened(scope: Message) -> bool:
    """Whether a browser opens this as a page, or it is no browser that asks."""
    mode = dict(scope["headers"]).get(b"sec-fetch-mode", b"navigate")
    return bool(mode == b"navigate")


async def _discard(receive: Receive, message: Message, limit: int) -> None:
    """Lets a client finish sending, within bounds: one that is cut off reads no reply."""
    n_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            while message.get("more_body") and n_bytes <= limit:
                message = await receive()
                n_bytes += len(message.get("body", b""))


async def _refuse(
    send: Send,
    request_id: str,
    status: int,
    message: str,
    code: str | None,
    *,
    is_opened: bool = True,
) -> None:
    body = json.dumps(error_object(status, message, request_id, code)).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers += _ASK_IN_BROWSER if is_opened else _ASK_FOR_TOKEN
    headers += [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()


def _host_name(host: bytes) -> str:
    """The name in a Host header, without the port."""
    text = host.decode("latin-1").lower()
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]


def _authority(origin: bytes) -> bytes:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower().encode("latin-1")
    except ValueError:
        return b""
