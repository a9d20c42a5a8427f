"""Who judges whether a passage entails a sentence; every verdict is kept beside the records.

A judge gives probabilities. Its name is part of the measures that rest on it, since another judge
gives other numbers.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from selfrag.decode.score import support_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Engine, Request
from selfrag.errors import StorageError
from selfrag.evaluate.attribution import ENTAILED, Claim, claims_of, score_citations
from selfrag.evaluate.model import Prompt, TextModel
from selfrag.evaluate.record import Record
from selfrag.evaluate.summary import keep_judged
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Retrieve, Support

BATCH = 16

ENTAILMENT_PROMPT = (
    "Passage:\n{premise}\n\nStatement: {hypothesis}\n\nIs everything that the statement says also "
    "said in the passage? Use no other knowledge. Answer Yes or No."
)


class Judge(Protocol):
    """Anything that tells how probable it is that a premise entails a hypothesis."""

    @property
    def name(self) -> str:
        """What it is called in the names of measures."""
        ...

    def judge(self, claims: Sequence[Claim]) -> list[float]:
        """A probability a claim, in order. Raises `SelfRAGError`."""
        ...


class SupportJudge:
    """The support tokens of a Self-RAG model: the sentence as its own, read from the passage.

    A model that judges its own answers is lenient with itself: a figure to compare settings by.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        """Says that it is the support token, and whose."""
        return f"issup-{self._engine.name}"

    def judge(self, claims: Sequence[Claim]) -> list[float]:
        """p(full) + p(partial) / 2 where the model judges support."""
        fmt = PromptFormat.of(self._engine.tokenizer)
        requests = []
        for claim in claims:
            passage = Passage(id="", title="", text=claim.premise)
            ids = [*fmt.instruction(claim.question), fmt.ids[Retrieve.YES]]
            ids += [*fmt.passage(passage, 512), fmt.ids[Relevance.RELEVANT]]
            ids += fmt.tokenizer.encode(claim.hypothesis)
            requests.append(Request(prefix_ids=tuple(ids), max_new_tokens=1, watch_ids=fmt.ids.all))
        done = self._engine.generate(requests) if requests else []
        return [support_score(each.watched[0, COLUMNS[Support]]) for each in done]


class ModelJudge:
    """Any language model asked in words for yes or no."""

    def __init__(self, model: TextModel, *, chat: bool = True) -> None:
        self._model = model
        self._chat = chat

    @property
    def name(self) -> str:
        """The model's name."""
        return f"asked-{self._model.name}"

    def judge(self, claims: Sequence[Claim]) -> list[float]:
        """The share of Yes against No."""
        prompts = [
            Prompt(
                text=ENTAILMENT_PROMPT.replace("{hypothesis}", claim.hypothesis).replace(
                    "{premise}", claim.premise
                ),
                chat=self._chat,
            )
            for claim in claims
        ]
        return [yes for yes, _ in self._model.rate(prompts, ("Yes", "No"))]


class Verdicts:
    """Probabilities that a judge gave, by claim, in a file that grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        if path.is_file():
            for line in _whole_lines(path):
                row = json.loads(line)
                self._known[row["claim"]] = float(row["probability"])

    def entails(self, claim: Claim) -> bool:
        """Whether the judge said yes; raises `KeyError` for a claim it was not asked."""
        return self._known[_digest(claim)] > ENTAILED

    def ask(
        self,
        claims: Sequence[Claim],
        judge: Judge,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Asks what is not known yet, and keeps it batch by batch; how many that were."""
        new = {_digest(claim): claim for claim in claims if _digest(claim) not in self._known}
        names = list(new)
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            found = judge.judge([new[name] for name in part])
            self._keep(dict(zip(part, found, strict=True)))
            on_progress(min(start + BATCH, len(names)), len(names))
        return len(names)

    def _keep(self, found: dict[str, float]) -> None:
        rows = [json.dumps({"claim": name, "probability": p}) for name, p in found.items()]
        try:
            with self._path.open("a+b") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                torn = b"" if file.read() in (b"", b"\n") else b"\n"
                file.write(torn + "".join(row + "\n" for row in rows).encode())
        except OSError as error:
            raise StorageError(
                f"cannot keep verdicts in {self._path}: {error.strerror}; expected a writable "
                "folder with room, so make room"
            ) from error
        self._known |= found


def judge_citations(
    folder: Path,
    records: Sequence[Record],
    judge: Judge,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:
    """Citation measures of a run, named after the judge, and kept in its folder.

    Verdicts that are there already are not asked for again.
    """
    name = "".join(sign if sign.isalnum() or sign in "-." else "-" for sign in judge.name)
    verdicts = Verdicts(folder / f"verdicts-{name}.jsonl")
    claims = [
        claim
        for record in records
        if record.output is not None
        for claim in claims_of(record.question.text, record.output)
    ]
    verdicts.ask(claims, judge, on_progress)
    found = score_citations(records, verdicts.entails)
    values = {f"{metric}@{judge.name}": scores for metric, scores in found.items()}
    keep_judged(folder, name, values)
    return values


def _digest(claim: Claim) -> str:
    text = "\0".join((claim.question, claim.premise, claim.hypothesis))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _whole_lines(path: Path) -> list[bytes]:
    """The lines that a crash did not cut short: each ends with a brace."""
    return [line for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]
