"""What the HTTP server itself can carry: requests a second, streams at once, memory over time.

    python benchmarks/server_load.py --json --seconds 30
    python benchmarks/server_load.py --json --seconds 60 --model default --clients 8

The model is scripted, so that the server is what is measured; `--model` measures a real one, many
clients against one. Server and client are two processes, which share the cores of the machine.
"""

import argparse
import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfrag.decode.config import SearchConfig
from selfrag.engine.base import Completion, Engine, Request
from selfrag.engine.scripted import ScriptedCompletion, ScriptedEngine, ScriptedTokenizer, say
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.retrieval.base import FixedRetriever

QUESTIONS = (
    "Which planet has the moon Titan?",
    "Who painted the Mona Lisa?",
    "What is the capital of Australia?",
    "Who wrote the novel Dune?",
    "Which element has the symbol Fe?",
    "What does a barometer measure?",
    "Who discovered penicillin?",
    "Which river flows through Cairo?",
)


def main() -> None:
    """Starts the server, loads it, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--json", action="store_true", help="one JSON object and no more")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--streams", type=int, default=1000, help="held at once")
    parser.add_argument("--model", default="", help="a real model in place of the scripted one")
    parser.add_argument("--index", help="what the real model reads; the demo index if not given")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(options)
        return
    said = print if not options.json else lambda *_: None
    with _Server(sys.argv[1:]) as server:
        if options.model:
            found = asyncio.run(_batched(server, options, said))
        else:
            found = asyncio.run(_scripted(server, options, said))
    print(json.dumps(found))


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


class _Server:
    """The server in a process of its own."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, __file__, *arguments, "--serve"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rpartition(":")[2])

    def __enter__(self) -> "_Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def cpu_seconds(self) -> float:
        """Processor time that the server has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Memory that the server holds."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6


def _serve(options: argparse.Namespace) -> None:
    from selfrag.progress import SILENT
    from selfrag.serve.app import JsonLines, serve
    from selfrag.serve.index import ServedIndex
    from selfrag.serve.limits import Access, Limits
    from selfrag.serve.service import Loading, Service

    handler = logging.StreamHandler(open(os.devnull, "w"))
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])  # lines are made all the same

    class Empty(FixedRetriever):
        name, n_passages = "none", 0

    def opened(_: Loading) -> tuple[Any, Engine]:
        if options.model:
            served = ServedIndex.open(options.index, None, SILENT)
            return served, open_engine(ModelOptions(model=options.model))
        return Empty({}), _HoldingEngine(lambda: service.n_streams >= options.streams)

    n_at_once = 16 if options.model else max(64, options.streams)
    limits = Limits(batch=n_at_once, queue=4096, streams=4096, seconds=300)
    service = Service(opened, limits, SearchConfig())

    def tell(url: str) -> None:
        print(url, flush=True)

    serve(service, Access(), host="127.0.0.1", port=0, on_address=tell)


class _HoldingEngine(ScriptedEngine):
    """Says the question again; holds questions that say `hold` until `is_full`."""

    def __init__(self, is_full: Callable[[], bool]) -> None:
        tokenizer = ScriptedTokenizer()
        self._is_full = is_full

        def script(ids: tuple[int, ...]) -> ScriptedCompletion:
            surface = tokenizer.surface(ids)
            question, _, written = surface.partition(":\n")[2].partition("\n\n### Response:\n")
            if not written:
                return say({"[Retrieval]": 0.1, "[No Retrieval]": 0.9})
            return say(question, "[Utility:5]", "</s>")

        super().__init__(tokenizer, script, max_batch=64)

    def generate(self, requests: Any) -> list[Completion]:
        """Completes as scripted."""
        if any(self._holds(request) for request in requests):
            until = time.monotonic() + 60
            while not self._is_full() and time.monotonic() < until:
                time.sleep(0.01)
        self.calls.clear()
        return super().generate(requests)

    def _holds(self, request: Request) -> bool:
        return "hold" in self.tokenizer.decode(request.prefix_ids[:12])


async def _scripted(server: _Server, options: argparse.Namespace, said: Any) -> dict[str, Any]:
    await _ready(server.port)
    load = _Load(server.port, "/v1/chat/completions", lambda n: _chat(f"hello number {n % 997}"))
    await load.run(options.clients, min(3.0, options.seconds / 4))  # warm
    before, spent = server.rss_mb(), server.cpu_seconds()
    found = await load.run(options.clients, options.seconds)
    growth, spent = server.rss_mb() - before, server.cpu_seconds() - spent
    said(f"{found['requests_per_s']:.0f} requests/s, p99 {found['p99_ms']:.1f} ms")
    held = await _held(server.port, options.streams)
    return {
        **found,
        "clients": options.clients,
        "server_cpu_ms": round(spent * 1000 / found["requests"], 3),  # a request
        "streams_held": held,
        "rss_growth_mb": round(growth, 1),
        "rss_mb": round(server.rss_mb(), 1),
    }


async def _batched(server: _Server, options: argparse.Namespace, said: Any) -> dict[str, Any]:
    await _ready(server.port)
    load = _Load(
        server.port, "/v1/chat/completions", lambda n: _chat(QUESTIONS[n % len(QUESTIONS)])
    )
    await load.run(1, 5.0)
    before = server.rss_mb()
    alone = await load.run(1, options.seconds / 2)
    said(f"one at a time: {alone['requests_per_s']:.2f} requests/s")
    found = await load.run(options.clients, options.seconds / 2)
    return {
        **found,
        "clients": options.clients,
        "requests_per_s_alone": alone["requests_per_s"],
        "speed_up": round(found["requests_per_s"] / alone["requests_per_s"], 2),
        "streams_held": 0,
        "rss_growth_mb": round(server.rss_mb() - before, 1),
    }


def _chat(question: str, *, stream: bool = False) -> bytes:
    body = {"model": "selfrag", "messages": [{"role": "user", "content": question}]}
    return json.dumps({**body, "stream": stream}).encode()


def _head(path: str, size: int) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {size}", "", ""]).encode()


class _Client(asyncio.Protocol):
    """Sends one request after another on one connection; as little as a client can be."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._buffer = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        if time.perf_counter() >= self._load.until:
            self._transport.close()
            return
        self._number = self._load.next_number()
        body = self._load.body(self._number)
        self._sent = time.perf_counter()
        self._transport.write(_head(self._load.path, len(body)) + body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(rest) < size:
            return
        self._buffer = rest[size:]
        self._load.took(self._number, int(head[9:12]), rest[:size], self._sent)
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


class _Load:
    """Requests of many clients at once, and what became of them."""

    def __init__(self, port: int, path: str, body: Callable[[int], bytes]) -> None:
        self.port, self.path, self.body = port, path, body
        self.until = 0.0
        self._n = 0

    def next_number(self) -> int:
        """Counts on."""
        self._n += 1
        return self._n

    def took(self, number: int, status: int, body: bytes, sent: float) -> None:
        """Counts one reply; one that is not for this question is a fault."""
        self._ms.append((time.perf_counter() - sent) * 1000)
        self._errors += status >= 500
        self._refused += 400 <= status < 500
        # The answer is the question again: another number is the answer to another one.
        is_own = b"hello" not in self.body(number) or f'number {number % 997}"'.encode() in body
        self._mixed += status == 200 and not is_own

    async def run(self, n_clients: int, seconds: float) -> dict[str, Any]:
        """Loads for so long."""
        self._ms: list[float] = []
        self._errors = self._refused = self._mixed = 0
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        self.until = started + seconds
        clients = [
            (await loop.create_connection(lambda: _Client(self), "127.0.0.1", self.port))[1]
            for _ in range(n_clients)
        ]
        await asyncio.gather(*(client.done for client in clients))
        spent = time.perf_counter() - started
        self._ms.sort()
        return {
            "requests": len(self._ms),
            "requests_per_s": round(len(self._ms) / spent, 2),
            "p50_ms": round(self._ms[len(self._ms) // 2], 1),
            "p99_ms": round(self._ms[int(len(self._ms) * 0.99)], 1),
            "errors_5xx": self._errors,
            "errors_4xx": self._refused,
            "mixed_up": self._mixed,
        }


async def _held(port: int, n_streams: int) -> int:
    """How many streams were open at one time, and came to their end."""
    n_open = most = n_ended = 0

    async def one(number: int) -> None:
        nonlocal n_open, most, n_ended
        body = _chat(f"hold number {number}", stream=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_head("/v1/chat/completions", len(body)) + body)
        await reader.readuntil(b"data: ")
        n_open += 1
        most = max(most, n_open)
        text = await reader.readuntil(b"[DONE]")
        n_ended += f"number {number}".encode() in text
        n_open -= 1
        writer.close()

    await asyncio.gather(*(one(number) for number in range(n_streams)))
    return min(most, n_ended)


async def _ready(port: int) -> None:
    for _ in range(6000):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            head = await reader.readline()
            writer.close()
            if b" 200 " in head:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the server was not ready within ten minutes")


if __name__ == "__main__":
    main()
