"""Self-RAG from Python: open a model and passages once, then ask.

    from selfrag import SelfRAG

    rag = SelfRAG.from_pretrained()
    print(rag.ask("Which planet has the moon Titan?").cited_text)

Everything here is also reachable one layer down: `decode.drive` for events, `open` for engines and
indexes, `indexing` to make an index.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from selfrag.decode.answer import Answer, answer_questions
from selfrag.decode.calibration import Calibration
from selfrag.decode.check import check_texts
from selfrag.decode.checked import Check
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.drive import search
from selfrag.decode.events import Event
from selfrag.decode.gate import GateKind, RetrievalMode
from selfrag.decode.grounding import Grounding
from selfrag.decode.node import PathScore
from selfrag.decode.score import ScoreWeights
from selfrag.engine.base import Engine, Request
from selfrag.errors import BadInput, ConfigError, SelfRAGError
from selfrag.open.calibrations import open_calibration
from selfrag.open.engines import DEFAULT, EngineKind, ModelOptions, check_name, open_engine
from selfrag.open.grounding import grounding_of
from selfrag.open.indexes import open_index
from selfrag.passage import Hit, Passage
from selfrag.progress import SILENT, Progress
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import Retrieve
from selfrag.retrieval.base import GivenPassages, Retriever, as_passages
from selfrag.text import counted

Given = Iterable[Passage | Hit | str]


class SelfRAG:
    """A generator with reflection tokens, passages to read, and how to search.

    Every method raises `SelfRAGError` where it cannot do what is asked.
    """

    def __init__(
        self,
        engine: Engine,
        retriever: Retriever,
        *,
        config: SearchConfig | None = None,
        grounding: Grounding | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """`calibration` is that of the model: with it answers have a probability."""
        for name, part, method in (
            ("engine", engine, "generate"),
            ("retriever", retriever, "search"),
        ):
            if not callable(getattr(part, method, None)):
                raise BadInput(
                    f"cannot make a SelfRAG: {name} is {part!r:.80}, which has no `{method}`; "
                    "expected an opened one, so call SelfRAG.from_pretrained with names"
                )
        self.engine = engine
        self.retriever = retriever
        self.config = _config(config)
        self.grounding = grounding or Grounding()
        self.calibration = calibration

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | ModelOptions = DEFAULT,
        *,
        index: str | Path | None = None,
        passages: Given | None = None,
        engine: EngineKind | str = EngineKind.AUTO,
        device: str = "cpu",
        writer: str | Path = "",
        config: SearchConfig | None = None,
        progress: Progress = SILENT,
    ) -> "SelfRAG":
        """The default model, a Hugging Face folder, or an id on the hub, with the 15 tokens.

        Every answer is from `passages` where they are given, else from the index in the folder or
        at the s3://bucket/prefix `index`, else from the demo index; what is missing of all these is
        fetched and built on first use, which `progress` is told of. A `writer`, the address of an
        OpenAI-compatible API or a chat model as a GGUF file or folder, writes every segment, and
        `model` judges them; a key for OpenAI is in OPENAI_API_KEY. `ModelOptions` in place of a
        name say more, such as a `calibration`; `engine`, `device` and `writer` are theirs then.
        """
        if isinstance(model, ModelOptions):
            options = model
        else:
            options = ModelOptions(
                model=str(model) if isinstance(model, Path) else model,
                engine=cast(EngineKind, engine),
                device=device,
                writer=str(writer) if isinstance(writer, Path) else writer,
            )
        config = _config(config)
        check_name(options.model)  # before an index is fetched and built
        check_name(options.writer or options.model)
        if passages is not None and index is not None:
            raise BadInput(
                "cannot answer from both an index and passages: found both, expected one of them; "
                "leave one out"
            )
        retriever: Retriever
        if passages is not None:
            retriever = GivenPassages(passages)
        else:
            retriever = open_index(index, progress)
        grounding, means = grounding_of(options), open_calibration(options)
        engine_ = open_engine(options, progress)
        return cls(engine_, retriever, config=config, grounding=grounding, calibration=means)

    def close(self) -> None:
        """Lets go of the model; asking is an error after."""
        self.engine.close()

    def __enter__(self) -> "SelfRAG":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, question: str, *, passages: Given | None = None, history: Sequence[Turn] = ()
    ) -> Answer:
        """The answer to one question; `passages` given by hand replace the search, all are read.

        `history` holds the turns before, oldest first.
        """
        return self.batch([question], passages=passages, histories=[history])[0]

    async def aask(
        self, question: str, *, passages: Given | None = None, history: Sequence[Turn] = ()
    ) -> Answer:
        """`ask` in a thread of its own."""
        return await asyncio.to_thread(self.ask, question, passages=passages, history=history)

    def batch(
        self,
        questions: Sequence[str],
        *,
        passages: Given | None = None,
        histories: Sequence[Sequence[Turn]] = (),
    ) -> list[Answer]:
        """The answers in order; each round of all questions is one call to the engine.

        `passages` are given to every question, `histories` holds the turns before each.
        """
        asked = _questions(questions)
        return answer_questions(
            asked,
            engine=self.engine,
            retriever=self.retriever,
            config=self.config,
            histories=_histories(histories, len(asked)),
            passages=[self._given(passages)] * len(asked),
            calibration=self.calibration,
        )

    def stream(
        self, question: str, *, passages: Given | None = None, history: Sequence[Turn] = ()
    ) -> Iterator[Event]:
        """Every event of the search for one question, as it happens; closing it ends the search."""
        return search(
            _questions([question]),
            engine=self.engine,
            retriever=self.retriever,
            config=self.config,
            histories=_histories([history], 1),
            passages=[self._given(passages)],
            calibration=self.calibration,
        )

    def generate(
        self, question: str, passage: Passage | str | None = None, *, max_new_tokens: int = 100
    ) -> str:
        """What the model writes by itself, reflection tokens spelled out, with a passage or none.

        The raw use of the released quick start: no gate, no search, no scores.
        """
        if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ConfigError(
                f"cannot generate: max_new_tokens is {max_new_tokens!r:.80}; expected a whole "
                "number of at least 1, so change it"
            )
        fmt = PromptFormat.of(self.engine.tokenizer, model=self.engine.name)
        prompt = fmt.instruction(_questions([question])[0])
        if passage is not None:
            (read,) = as_passages([passage])
            prompt += [fmt.ids[Retrieve.YES], *fmt.passage(read)]
        request = Request(
            prefix_ids=tuple(prompt),
            max_new_tokens=max_new_tokens,
            stop_ids=frozenset({fmt.ids.end_of_sequence}),
        )
        (done,) = self.engine.generate([request])
        return fmt.surface(done.token_ids)

    def with_config(self, config: SearchConfig) -> "SelfRAG":
        """The same model and passages, searched differently."""
        return SelfRAG(
            self.engine,
            self.retriever,
            config=config,
            grounding=self.grounding,
            calibration=self.calibration,
        )

    def check(self, text: str, question: str | None = None, passages: Given | None = None) -> Check:
        """What supports each sentence of a text that anyone wrote, what contradicts it, and where.

        `question`: what the text answers. Sentences are compared with `passages` where they are
        given, else with the passages of this object or what its index finds. `SearchConfig` says
        how many, and for how long. Nothing is generated.
        """
        (found,) = check_texts(
            [_text(text, "text")],
            engine=self.engine,
            retriever=self.retriever,
            question="" if question is None else _text(question, "question"),
            passages=self._given(passages),
            grounding=self.grounding,
            config=self.config,
        )
        return found

    def _given(self, passages: Given | None) -> list[Passage] | None:
        if passages is not None:
            return as_passages(passages)
        return self.retriever.passages if isinstance(self.retriever, GivenPassages) else None


def _config(config: SearchConfig | None) -> SearchConfig:
    if config is None:
        return SearchConfig()
    if not isinstance(config, SearchConfig):
        raise ConfigError(
            f"cannot search with config={config!r:.80}: expected selfrag.SearchConfig, as in "
            "SearchConfig(top_k=3); make one"
        )
    return config


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"cannot check {value!r:.80}: expected the {what} as a string; give one")
    return value


def _questions(questions: Any) -> list[str]:
    """The questions, each of which is a string."""
    found = _listed(questions)
    if found is None:
        raise BadInput(
            f"cannot answer {questions!r:.80}: expected a list of questions; put it into a list, "
            "or call `ask`"
        )
    for each in found:
        if not isinstance(each, str):
            raise BadInput(
                f"cannot answer {each!r:.80}: expected a question, which is a string; give one"
            )
    return found


def _histories(histories: Any, n_questions: int) -> list[list[Turn]]:
    """The turns before each question; none at all where there are none for any."""
    found = [_listed(turns) for turns in _listed(histories) or [None]] if histories else []
    turns = [list(each) for each in found if each is not None]
    are_turns = all(isinstance(turn, Turn) for each in turns for turn in each)
    if len(turns) < len(found) or not are_turns or (turns and len(turns) != n_questions):
        raise BadInput(
            f"cannot answer after {histories!r:.80}: expected for each of "
            f"{counted(n_questions, 'question')} "
            'a list of selfrag.Turn(question="…", answer="…"), oldest first; write it so'
        )
    return turns


def _listed(value: Any) -> list[Any] | None:
    """The members of a list; None for a single value."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return None
    return list(value)


__all__ = [
    "Answer",
    "EngineKind",
    "GateKind",
    "ModelOptions",
    "Passage",
    "PathScore",
    "QueryPolicy",
    "RetrievalMode",
    "ScoreWeights",
    "SearchConfig",
    "SelfRAG",
    "SelfRAGError",
    "Turn",
]
