"""A server on 127.0.0.1 that speaks as vLLM or SGLang do, with an engine of ours behind it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from selfrag.engine.base import Engine, FinishReason, Request


@dataclass
class ModelServer:
    """`bodies` holds all that was asked. `fail_after` n calls every further one is answered 500."""

    url: str = ""
    bodies: list[dict] = field(default_factory=list)
    fail_after: int | None = None


@contextmanager
def model_server(
    engine: Engine, *, owner: str = "vllm", root: str = "tiny", change=lambda reply: reply
) -> Iterator[ModelServer]:
    """Serves `engine`; `change` may spoil what would be answered."""
    record = ModelServer()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            model = {"id": "tiny", "owned_by": owner, "root": root}
            model["max_model_len"] = engine.max_context
            self.answer(200, {"object": "list", "data": [model]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                record.bodies.append(body)
                failing = record.fail_after is not None and len(record.bodies) > record.fail_after
                if failing:
                    self.answer(500, {"error": {"message": "out of order"}})
                    return
                speak = sglang_reply if self.path == "/generate" else vllm_reply
                self.answer(200, change(speak(engine, body)))

        def answer(self, status, value):
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    record.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield record
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _completed(engine, prompts, limit, stop_ids, watch_ids):
    return engine.generate(
        [
            Request(
                prefix_ids=tuple(prompt),
                max_new_tokens=limit,
                stop_ids=frozenset(stop_ids),
                watch_ids=tuple(watch_ids),
            )
            for prompt in prompts
        ]
    )


def vllm_reply(engine, body):
    """The fields of vLLM 0.32 that are read, as it names and nests them."""
    watch_ids = body.get("logprob_token_ids", [])
    done = _completed(engine, body["prompt"], body["max_tokens"], body["stop_token_ids"], watch_ids)
    choices = []
    for index, each in enumerate(done):
        steps = [
            {f"token_id:{token}": value for token, value in zip(watch_ids, row, strict=True)}
            | {f"token_id:{chosen}": logprob}
            for chosen, logprob, row in zip(
                each.token_ids, each.logprobs.tolist(), each.watched.tolist(), strict=True
            )
        ]
        choices.append(
            {
                "index": index,
                "text": "",
                "finish_reason": "stop" if each.finish_reason is FinishReason.STOP else "length",
                "token_ids": list(each.token_ids),
                "logprobs": {
                    "token_logprobs": each.logprobs.tolist(),
                    "top_logprobs": steps,
                    "tokens": [f"token_id:{token}" for token in each.token_ids],
                },
            }
        )
    return {"object": "text_completion", "model": "tiny", "choices": choices[::-1]}


def sglang_reply(engine, body):
    """The fields of SGLang 0.5 that are read; chosen ids come back in any order."""
    options = body["sampling_params"]
    watch_ids = body["token_ids_logprob"][0]
    done = _completed(
        engine, body["input_ids"], options["max_new_tokens"], options["stop_token_ids"], watch_ids
    )
    return [
        {
            "text": "",
            "meta_info": {
                "output_token_logprobs": [
                    [value, token, None]
                    for value, token in zip(each.logprobs.tolist(), each.token_ids, strict=True)
                ],
                "output_token_ids_logprobs": [
                    [[value, token, None] for value, token in zip(row, watch_ids, strict=True)][
                        ::-1
                    ]
                    for row in each.watched.tolist()
                ],
            },
        }
        for each in done
    ]
