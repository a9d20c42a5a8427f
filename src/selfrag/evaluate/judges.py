"""Who judges whether a passage entails a sentence, and what citations and facts are worth by that.

A judge gives probabilities; every verdict is kept beside the records, and its name is part of the
measures that rest on it, since another judge gives other numbers. FActScore: Min et al. (arXiv
2305.14251), section 3 and its package `factscore` 0.1.5: the mean over answers, abstentions aside,
with a penalty for answers of few facts. A judge that can write lists the facts of each sentence;
for any other a sentence is one fact, and the measure is named so.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from selfrag.decode.score import support_score
from selfrag.decode.segment import COLUMNS
from selfrag.engine.base import Engine, Request
from selfrag.engine.chat import Prompt, TextModel
from selfrag.errors import BadInput, EngineError
from selfrag.evaluate.attribution import (
    ENTAILED,
    Claim,
    cited_sentences,
    claims_of,
    document,
    join_passages,
    score_citations,
)
from selfrag.evaluate.record import Record
from selfrag.evaluate.summary import Values, keep_judged
from selfrag.files import AppendLog, complete_lines
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Retrieve, Support
from selfrag.retrieval.base import Retriever

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
FEW_FACTS = 10  # gamma of the package: an answer of fewer is penalised
_MARKS = ("- ", "* ", "\u2022 ")


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
        fmt = PromptFormat.of(self._engine.tokenizer, model=self._engine.name)
        requests = []
        for claim in claims:
            passage = Passage(id="", title="", text=claim.premise)
            ids = [*fmt.instruction(claim.question), fmt.ids[Retrieve.YES]]
            ids += [*fmt.passage(passage, 512), fmt.ids[Relevance.RELEVANT]]
            ids += fmt.join([claim.hypothesis], continues=True)
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
        rows = map(json.loads, complete_lines(path))
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
        """Asks what is not known yet, and keeps it batch by batch; how many that were.

        `on_progress` is called before the first batch and after every one.
        """
        new = {_digest(claim): claim for claim in claims if _digest(claim) not in self._known}
        names = list(new)
        if names:
            on_progress(0, len(names))
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            found = judge.judge([new[name] for name in part])
            if not all(map(math.isfinite, found)):
                raise EngineError(
                    f"cannot judge with {judge.name}: it gave no number for one of {len(part)} "
                    "claims; expected probabilities, so look whether its weights are sound or try "
                    "another precision"
                )
            kept = dict(zip(part, found, strict=True))
            with AppendLog(self._path, "verdicts") as file:
                file.append({"claim": name, "probability": p} for name, p in kept.items())
            self._known |= kept
            on_progress(min(start + BATCH, len(names)), len(names))
        return len(names)


def file_name(text: str) -> str:
    """`text` with a hyphen for all that does not belong into the name of a file."""
    return "".join(sign if sign.isalnum() or sign in "-." else "-" for sign in text)


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


# The texts that hold what is known of each fact of an answer; empty where nothing is.
Knowledge = Callable[[Record, Sequence[str]], list[str]]


@runtime_checkable
class FactLister(Protocol):
    """A judge that can write."""

    def list_facts(self, topic: str, sentences: Sequence[str]) -> list[str]:
        """A reply for each sentence about `topic`: its facts, one a line after `- `."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FactScores:
    """What `judge_facts` found; `n_whole` of `n_sentences` could not be cut into facts."""

    values: Values
    n_sentences: int
    n_whole: int


def passages_read(record: Record, facts: Sequence[str]) -> list[str]:
    """What the system itself had before it: all passages of the answer, for every fact."""
    output = record.output
    assert output is not None
    return [join_passages(output, range(1, len(output.passages) + 1)) for _ in facts]


class Searched:
    """What an index holds of the topic and the fact: the best `top_k` passages."""

    def __init__(self, retriever: Retriever, *, top_k: int = 5) -> None:
        self._retriever = retriever
        self._top_k = top_k

    def __call__(self, record: Record, facts: Sequence[str]) -> list[str]:
        """One search for all facts of the answer."""
        queries = [f"{record.question.topic} {fact}" for fact in facts]
        found = self._retriever.search(queries, self._top_k) if queries else []
        return ["\n".join(document(hit.passage) for hit in hits) for hits in found]


def facts_in(reply: str) -> tuple[str, ...]:
    """The facts that a judge listed, each once; none where the reply is no list."""
    lines = (line.strip() for line in reply.splitlines())
    facts = (line[2:].strip() for line in lines if line.startswith(_MARKS))
    return tuple(dict.fromkeys(fact for fact in facts if fact))


def penalty(n_facts: int) -> float:
    """1 for an answer of `FEW_FACTS` or more, else exp(1 - FEW_FACTS / n_facts)."""
    return min(1.0, math.exp(1 - FEW_FACTS / n_facts))


def judge_facts(
    folder: Path,
    records: Sequence[Record],
    judge: Judge,
    knowledge: Knowledge,
    *,
    known_from: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FactScores:
    """`factscore`, `factscore_penalised` and `facts` by question, kept in the folder of the run.

    The measures are named after the judge and `known_from`, the source of knowledge. Answers that
    say nothing have no value. What was asked before is not asked again. Raises `BadInput` where
    the records have no topics, or no knowledge at all.
    """
    if not all(record.question.topic for record in records):
        raise BadInput(
            f"cannot compute FActScore of {folder}: its questions have no topics; expected a run "
            "of the task biographies, so name one"
        )
    said = {
        record.question.id: [text for text, _ in cited_sentences(record.output)]
        for record in records
        if record.output is not None and not record.output.abstained
    }
    facts, n_whole = _facts(folder, records, said, judge)
    claims = {
        record.question.id: _claims(record, facts[record.question.id], knowledge)
        for record in records
        if facts.get(record.question.id)
    }
    if claims and not any(claim.premise for of_one in claims.values() for claim in of_one):
        raise BadInput(
            f"cannot compute FActScore of {folder}: its answers read no passages, so that nothing "
            "is known of any fact; expected a source of knowledge, so give --knowledge INDEX"
        )
    verdicts = Verdicts(judge_file(folder, "verdicts", judge))
    asked = [claim for of_one in claims.values() for claim in of_one if claim.premise]
    verdicts.ask(asked, judge, on_progress)
    name = "factscore" if isinstance(judge, FactLister) else "factscore_sentences"
    values: Values = {name: {}, f"{name}_penalised": {}, "facts": {}}
    for question_id, of_one in claims.items():
        share = sum(bool(c.premise) and verdicts.entails(c) for c in of_one) / len(of_one)
        values[name][question_id] = share
        values[f"{name}_penalised"][question_id] = share * penalty(len(of_one))
        values["facts"][question_id] = float(len(of_one))
    suffix = f"@{judge.name}:{known_from}"
    values = {f"{metric}{suffix}": of_questions for metric, of_questions in values.items()}
    keep_judged(folder, file_name(f"facts-{judge.name}-{known_from}"), values)
    return FactScores(values=values, n_sentences=sum(map(len, said.values())), n_whole=n_whole)


def _claims(record: Record, facts: Sequence[str], knowledge: Knowledge) -> list[Claim]:
    premises = knowledge(record, facts)
    return [
        Claim(question=record.question.text, premise=premise, hypothesis=fact)
        for fact, premise in zip(facts, premises, strict=True)
    ]


def _facts(
    folder: Path, records: Sequence[Record], said: dict[str, list[str]], judge: Judge
) -> tuple[dict[str, list[str]], int]:
    """The facts of every answer by question id, and how many sentences stayed whole."""
    if not isinstance(judge, FactLister):
        return said, 0
    path = judge_file(folder, "facts", judge)
    rows = map(json.loads, complete_lines(path))
    known = {(row["topic"], row["sentence"]): tuple(row["facts"]) for row in rows}
    facts: dict[str, list[str]] = {}
    n_whole = 0
    for record in records:
        topic, sentences = record.question.topic, said.get(record.question.id, [])
        if new := [each for each in dict.fromkeys(sentences) if (topic, each) not in known]:
            found = dict(zip(new, map(facts_in, judge.list_facts(topic, new)), strict=True))
            with AppendLog(path, "facts") as file:
                file.append({"topic": topic, "sentence": k, "facts": v} for k, v in found.items())
            known |= {(topic, sentence): listed for sentence, listed in found.items()}
        lists = [known[topic, sentence] for sentence in sentences]
        n_whole += sum(not listed for listed in lists)
        facts[record.question.id] = [
            fact
            for sentence, listed in zip(sentences, lists, strict=True)
            for fact in listed or (sentence,)  # what cannot be divided is one fact
        ]
    return facts, n_whole
