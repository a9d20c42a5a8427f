"""A scripted model over four passages; run as a program, it serves them as MCP tools."""

import sys

from selfrag.api import SelfRAG
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import EngineError
from selfrag.passage import Hit, Passage

PASSAGES = {
    "harbour": Passage(
        id="h1",
        title="Harbour",
        text="The harbour of Zürich is old. It was built in 1821.",
        source="Archive: https://example.org/harbour",
        page=3,
    ),
    "lighthouse": Passage(
        id="l1", title="Lighthouse", text="The lighthouse is red.", source="notes.txt"
    ),
    "oak": Passage(id="o1", title="Oak", text="Oaks grow slowly.", source="trees.txt"),
    "elm": Passage(id="e1", title="Elm", text="Elms are tall.", source="trees.txt"),
}
FIRST, SECOND = "Zürich's was built in 1821.", "The lighthouse is red."
END = "</s>"
RELEVANT = {"[Relevant]": 0.9, "[Irrelevant]": 0.1}
FULL = {"[Fully supported]": 0.8, "[Partially supported]": 0.2}


class AllPassages:
    """Finds every passage for every query, in order."""

    def search(self, queries, top_k):
        found = [
            Hit(passage=each, score=1 / rank, rank=rank)
            for rank, each in enumerate(PASSAGES.values(), start=1)
        ]
        return [found[:top_k] for _ in queries]


def scripted_rag() -> SelfRAG:
    """Says FIRST from the harbour and then SECOND from the lighthouse; other passages do not help.

    "Hello" is answered without passages, and "Break" with an error of the engine.
    """
    tokenizer = ScriptedTokenizer()

    def script(ids):
        surface = tokenizer.surface(ids)
        if "Break" in surface:
            raise EngineError("cannot complete: the engine is gone; expected one; start it again")
        if surface.endswith("1821.</paragraph>"):
            return say(RELEVANT, FIRST, FULL, "[Retrieval]")
        if surface.endswith("red.</paragraph>") and FIRST in surface:
            return say(RELEVANT, SECOND, FULL, END)
        if surface.endswith("</paragraph>"):
            return say({"[Irrelevant]": 0.9, "[Relevant]": 0.1}, "Beside.", "[Utility:1]", END)
        if surface.endswith("[No Retrieval]"):
            return say("Good day.", "[Utility:5]", END)
        question = surface.rpartition("### Instruction:\n")[2]
        yes = 0.1 if "Hello" in question else 0.9
        return say({"[Retrieval]": yes, "[No Retrieval]": 1 - yes})

    return SelfRAG(ScriptedEngine(tokenizer, script), AllPassages())


if __name__ == "__main__":
    from selfrag.integrations.mcp import mcp_server, run_server

    port = int(sys.argv[1]) if len(sys.argv) > 1 else None
    run_server(mcp_server(scripted_rag), port=port)
