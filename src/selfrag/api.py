"""Self-RAG from Python: open a model and passages once, then ask.

    from selfrag import SelfRAG

    rag = SelfRAG.from_pretrained()
    print(rag.ask("Which planet has the moon Titan?").cited_text)

Everything here is also reachable one layer down: `decode.search` for events, `engine` and
`retrieval` for the parts.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from selfrag.decode.answer import Answer, answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import search
from selfrag.decode.events import Event
from selfrag.engine.base import Engine, Request
from selfrag.open.engines import DEFAULT, EngineKind, ModelOptions, open_engine
from selfrag.open.indexes import open_index
from selfrag.passage import Passage
from selfrag.progress import SILENT, Progress
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import Retrieve
from selfrag.retrieval.base import GivenPassages, Retriever


class SelfRAG:
    """A generator with reflection tokens, passages to read, and how to search."""

    def __init__(
        self, engine: Engine, retriever: Retriever, *, config: SearchConfig | None = None
    ) -> None:
        self.engine = engine
        self.retriever = retriever
        self.config = config or SearchConfig()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT,
        *,
        index: str | Path | None = None,
        passages: Sequence[Passage | str] | None = None,
        engine: EngineKind | str = EngineKind.AUTO,
        device: str = "cpu",
        config: SearchConfig | None = None,
        progress: Progress = SILENT,
    ) -> "SelfRAG":
        """The default model, a Hugging Face folder, or an id on the hub, with the 15 tokens.

        Reads `passages` where they are given, else the index in the folder or at the
        s3://bucket/prefix `index`, else the demo index; what is missing of all these is fetched
        and built on first use, which `progress` is told of. Raises `SelfRAGError`.
        """
        options = ModelOptions(model=str(model), engine=EngineKind(engine), device=device)
        retriever: Retriever
        if passages is not None:
            retriever = GivenPassages(passages)
        else:
            retriever = open_index(index, progress)
        return cls(open_engine(options, progress), retriever, config=config)

    def close(self) -> None:
        """Lets go of the model; asking is an error after."""
        self.engine.close()

    def __enter__(self) -> "SelfRAG":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self,
        question: str,
        *,
        passages: Sequence[Passage | str] | None = None,
        history: Sequence[Turn] = (),
    ) -> Answer:
        """The answer to one question; `passages` given by hand replace the search."""
        return self.batch([question], passages=passages, histories=[history])[0]

    async def aask(
        self,
        question: str,
        *,
        passages: Sequence[Passage | str] | None = None,
        history: Sequence[Turn] = (),
    ) -> Answer:
        """`ask` in a thread of its own."""
        return await asyncio.to_thread(self.ask, question, passages=passages, history=history)

    def batch(
        self,
        questions: Sequence[str],
        *,
        passages: Sequence[Passage | str] | None = None,
        histories: Sequence[Sequence[Turn]] = (),
    ) -> list[Answer]:
        """The answers in order; each level of all questions is one call to the engine."""
        return answer_questions(
            questions,
            engine=self.engine,
            retriever=self._retriever(passages),
            config=self.config,
            histories=histories,
        )

    def stream(
        self, question: str, *, passages: Sequence[Passage | str] | None = None
    ) -> Iterator[Event]:
        """Every event of the search for one question, as it happens."""
        return search(
            [question],
            engine=self.engine,
            retriever=self._retriever(passages),
            config=self.config,
        )

    def generate(
        self, question: str, passage: Passage | str | None = None, *, max_new_tokens: int = 100
    ) -> str:
        """What the model writes by itself, reflection tokens spelled out, with a passage or none.

        The raw use of the released quick start: no gate, no search, no scores.
        """
        fmt = PromptFormat.of(self.engine.tokenizer, model=self.engine.name)
        prompt = fmt.instruction(question)
        if passage is not None:
            (hit,) = GivenPassages([passage]).hits
            prompt += [fmt.ids[Retrieve.YES], *fmt.passage(hit.passage)]
        request = Request(
            prefix_ids=tuple(prompt),
            max_new_tokens=max_new_tokens,
            stop_ids=frozenset({fmt.ids.end_of_sequence}),
        )
        (done,) = self.engine.generate([request])
        return fmt.surface(done.token_ids)

    def with_config(self, config: SearchConfig) -> "SelfRAG":
        """The same model and passages, searched differently."""
        return SelfRAG(self.engine, self.retriever, config=config)

    def _retriever(self, passages: Sequence[Passage | str] | None) -> Retriever:
        return self.retriever if passages is None else GivenPassages(passages)


__all__ = ["Passage", "SearchConfig", "SelfRAG", "Turn"]
