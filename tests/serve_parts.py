"""A server on 127.0.0.1 over a scripted model, whose answers are sentences of its passages."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from selfrag import indexing
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.retrieval.base import FixedRetriever
from selfrag.retrieval.store import PassageStore
from selfrag.serve.app import Server
from selfrag.serve.index import Place, ServedIndex
from selfrag.serve.limits import Access, Limits
from selfrag.serve.service import Service
from words import WordEncoder

DOCUMENTS = {
    "titan.txt": "Titan is a moon of Saturn. It has a dense atmosphere.",
    "cafe.txt": "Das Café „Größe“ öffnet um 8 Uhr. 🦉 Eulen wohnen dort.",
    "louvre.txt": "The Mona Lisa hangs in the Louvre. Leonardo painted it.",
}


def scripted_engine(before=lambda surface: None) -> ScriptedEngine:
    """Retrieves unless it is greeted; says the first sentence of the passage that it reads.

    The passage is judged relevant where it shares a long word with the question. `before` is called
    with every prompt.
    """
    tokenizer = ScriptedTokenizer()

    def script(ids):
        surface = tokenizer.surface(ids)
        before(surface)
        turn = surface.rpartition("### Instruction:\n")[2]
        question, _, written = turn.partition("\n\n### Response:\n")
        if not written:
            greets = "hello" in question.lower()
            yes = 0.05 if greets else 0.9
            return say({"[Retrieval]": yes, "[No Retrieval]": 1 - yes})
        if written.endswith("[No Retrieval]"):
            return say("Good day to you.", "[Utility:5]", "</s>")
        passage = written.rpartition("<paragraph>")[2].removesuffix("</paragraph>")
        _, _, text = passage.partition("\n")
        sentence = text.partition(". ")[0].rstrip(".") + "."
        words = {word for word in question.lower().strip("?").split() if len(word) > 4}
        if words & set(passage.lower().replace(".", " ").split()):
            return say({"[Relevant]": 0.9, "[Irrelevant]": 0.1}, sentence, *_SUPPORTED)
        return say({"[Irrelevant]": 0.9, "[Relevant]": 0.1}, sentence, "[Utility:1]", "</s>")

    return ScriptedEngine(tokenizer, script)


_SUPPORTED = ({"[Fully supported]": 0.8, "[Partially supported]": 0.2}, "[Utility:5]", "</s>")


def library(folder: Path, documents=DOCUMENTS) -> ServedIndex:
    """An index of `documents` under `folder`, open."""
    docs = folder / "docs"
    docs.mkdir(parents=True)
    for name, text in documents.items():
        (docs / name).write_text(text, encoding="utf-8")
    indexing.build([docs], folder / "index", WordEncoder())
    return open_library(folder)


def open_library(folder: Path) -> ServedIndex:
    """The index that is there."""
    place = Place.of(str(folder / "index"), folder / "uploads")
    store = PassageStore.open(folder / "index", WordEncoder())
    return ServedIndex(place, store, name="test", encoder=WordEncoder())


class NoLibrary(FixedRetriever):
    """An index that holds nothing."""

    name, n_passages = "none", 0

    def __init__(self) -> None:
        super().__init__({})


@dataclass
class Serving:
    url: str
    service: Service
    client: httpx.Client

    def ask(self, question, **more):
        return self.client.post("/v1/ask", json={"question": question, **more})

    def stop(self):
        """Asks the server to stop, as a signal does."""
        self.server.should_exit = True

    def on_loop(self, call):
        """What `call` gives in the thread of the server."""
        done = threading.Event()
        found = []
        self.loop.call_soon_threadsafe(lambda: (found.append(call()), done.set()))
        assert done.wait(30)
        return found[0]


@contextmanager
def serving(open_library, engine=None, *, limits=None, access=None, config=None, calibration=None):
    """Serves what `open_library` gives, in a thread of its own, until the block ends."""
    engine = engine or scripted_engine()
    options = {} if config is None else {"config": config}
    service = Service(
        lambda _: (open_library(), engine),
        limits or Limits(stop_seconds=2),
        calibration=calibration,
        weights="made/weights",
        **options,
    )
    server = Server(service, access or Access())
    listening = socket.create_server(("127.0.0.1", 0))
    loops = []

    async def main():
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    tokens = (access or Access()).tokens
    headers = {"authorization": f"Bearer {tokens[0]}"} if tokens else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            while client.get("/ready").status_code != 200:
                pass
            running = Serving(url, service, client)
            running.loop, running.server = loops[0], server
            yield running
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def events_of(text: str) -> list[tuple[str, dict]]:
    """The server-sent events in `text`: name and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields and fields["data"] != "[DONE]":
            found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found
