"""Who judges whether a passage entails a sentence; every verdict is kept beside the records.

A judge gives probabilities. Its name is part of the measures that rest on it, since another judge
gives other numbers.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from selfrag.decode.score import support_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Engine, Request
from selfrag.evaluate.attribution import ENTAILED, Claim, claims_of, score_citations
from selfrag.evaluate.files import append_rows, file_name, whole_lines
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

FACTS_PROMPT = (
    "Break the sentence into its facts. Write every fact as a short sentence of its own, on a line "
    'that begins with "- ". Name whom a pronoun stands for. Add nothing that the sentence does not '
    "say.\n\n"
    "Topic: Marie Curie\n"
    "Sentence: She was born in Warsaw in 1867 and won two Nobel Prizes, the first with her husband "
    "Pierre.\n"
    "Facts:\n"
    "- Marie Curie was born in Warsaw.\n"
    "- Marie Curie was born in 1867.\n"
    "- Marie Curie won two Nobel Prizes.\n"
    "- Marie Curie won her first Nobel Prize with Pierre Curie.\n"
    "- Pierre Curie was the husband of Marie Curie.\n\n"
)
FACT_TOKENS = 200  # that the facts of one sentence may take


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
                text=ENTAILMENT_PROMPT.format(premise=claim.premise, hypothesis=claim.hypothesis),
                chat=self._chat,
            )
            for claim in claims
        ]
        return [yes for yes, _ in self._model.rate(prompts, ("Yes", "No"))]

    def list_facts(self, topic: str, sentences: Sequence[str]) -> list[str]:
        """The model's lists of facts, a reply a sentence."""
        prompts = [
            Prompt(
                text=f"{FACTS_PROMPT}Topic: {topic}\nSentence: {sentence}\nFacts:\n",
                chat=self._chat,
            )
            for sentence in sentences
        ]
        return [reply.text for reply in self._model.complete(prompts, FACT_TOKENS)]


class Verdicts:
    """Probabilities that a judge gave, by claim, in a file that grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = map(json.loads, whole_lines(path))
        self._known = {row["claim"]: float(row["probability"]) for row in rows}

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
            kept = dict(zip(part, found, strict=True))
            append_rows(self._path, [{"claim": k, "probability": p} for k, p in kept.items()])
            self._known |= kept
            on_progress(min(start + BATCH, len(names)), len(names))
        return len(names)


def judge_file(folder: Path, kind: str, judge: Judge) -> Path:
    """Where what `judge` said of a run is kept."""
    return folder / f"{kind}-{file_name(judge.name)}.jsonl"


def judge_citations(
    folder: Path,
    records: Sequence[Record],
    judge: Judge,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:
    """Citation measures of a run, named after the judge, and kept in its folder.

    Verdicts that are there already are not asked for again.
    """
    verdicts = Verdicts(judge_file(folder, "verdicts", judge))
    claims = [
        claim
        for record in records
        if record.output is not None
        for claim in claims_of(record.question.text, record.output)
    ]
    verdicts.ask(claims, judge, on_progress)
    found = score_citations(records, verdicts.entails)
    values = {f"{metric}@{judge.name}": scores for metric, scores in found.items()}
    keep_judged(folder, file_name(judge.name), values)
    return values


def _digest(claim: Claim) -> str:
    text = "\0".join((claim.question, claim.premise, claim.hypothesis))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
