"""An OpenAI-compatible server on 127.0.0.1 that says what a test has written for it."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class ChatServer:
    """`answer` gets the request's body and gives a reply; `bodies` holds all that came."""

    url: str = ""
    bodies: list[dict] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


@contextmanager
def chat_server(
    answer: Callable[[dict], Reply],
    *,
    port: int = 0,
    models: Sequence[str] = ("scripted",),
    listing: bytes = b"",
) -> Iterator[ChatServer]:
    record = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            record.bodies.append(body)
            record.keys.add(self.headers["Authorization"])
            self._send(answer(body))

        def do_GET(self):
            record.keys.add(self.headers["Authorization"])
            listed = [{"id": n, "object": "model", "created": 0, "owned_by": "x"} for n in models]
            found = 200, {}, listing or json.dumps({"object": "list", "data": listed}).encode()
            self._send(found if self.path.endswith("/models") else error_reply(404, "not found"))

        def _send(self, reply):
            status, headers, content = reply
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            with suppress(ConnectionError):  # of a client that was killed
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    record.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield record
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def chat_reply(
    text: str | None, logprobs: dict[str, float] | None = None, *, finish: str = "stop"
) -> Reply:
    """A chat completion; `logprobs` are those of its only token, nats."""
    tokens = None
    if logprobs is not None:
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in logprobs.items()]
        tokens = {"content": [{**top[0], "top_logprobs": top}]}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text},
                "logprobs": tokens,
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102},
    }
    return 200, {}, json.dumps(body).encode()


def error_reply(status: int, message: str) -> Reply:
    """An error as such servers word it; whoever waits as told waits 1 ms."""
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    return status, {"retry-after-ms": "1"}, body
