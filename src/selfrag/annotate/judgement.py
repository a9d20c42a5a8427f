"""What a teacher is asked and what it says: the five questions, their labels, a case, a judgement.

Knows nothing of prompts, of who the teacher is, or of what the labels are used for.
Groups: Self-RAG (arXiv 2310.11511), table 1, with Retrieve asked in two ways as the released code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from selfrag.engine.failure import Failure
from selfrag.reflection import Relevance, Retrieve, Support, Utility

Label = Retrieve | Relevance | Support | Utility


class Group(StrEnum):
    """One question to a teacher."""

    RETRIEVE = "retrieve"  # on the instruction alone
    RETRIEVE_SENTENCE = "retrieve_sentence"  # on one sentence, with the evidence so far
    RELEVANCE = "relevance"
    SUPPORT = "support"
    UTILITY = "utility"


LABELS: dict[Group, tuple[Label, ...]] = {
    Group.RETRIEVE: (Retrieve.NO, Retrieve.YES),
    Group.RETRIEVE_SENTENCE: tuple(Retrieve),
    Group.RELEVANCE: tuple(Relevance),
    Group.SUPPORT: tuple(Support),
    Group.UTILITY: tuple(Utility),
}

# group -> label -> mean probability over the rows, sum 1
LabelShares = Mapping[Group, Mapping[str, float]]


def label_of(group: Group, text: str) -> Label:
    """The label of `group` spelt `text`; raises `ValueError` for any other text."""
    for label in LABELS[group]:
        if label == text:
            return label
    raise ValueError(f"{text!r} is no label of {group}; expected one of {', '.join(LABELS[group])}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is judged. `output` is one sentence, for utility the whole answer; None: not shown.

    `evidence` is a passage, title and text on two lines. Build it with the functions below, so
    that equal questions are equal cases.
    """

    group: Group
    instruction: str
    output: str | None = None
    evidence: str | None = None
    preceding: str | None = None


def retrieve_case(instruction: str) -> Case:
    """Does the instruction need passages at all?"""
    return Case(group=Group.RETRIEVE, instruction=instruction)


def sentence_case(instruction: str, preceding: str, evidence: str, sentence: str) -> Case:
    """Does this sentence need new passages, or the evidence at hand, or neither?"""
    return Case(
        group=Group.RETRIEVE_SENTENCE,
        instruction=instruction,
        output=sentence,
        evidence=evidence,
        preceding=preceding or None,
    )


def relevance_case(instruction: str, evidence: str) -> Case:
    """Does the evidence help with the instruction?"""
    return Case(group=Group.RELEVANCE, instruction=instruction, evidence=evidence)


def support_case(instruction: str, preceding: str, evidence: str, sentence: str) -> Case:
    """Does the evidence say what the sentence says?"""
    return Case(
        group=Group.SUPPORT,
        instruction=instruction,
        output=sentence,
        evidence=evidence,
        preceding=preceding or None,
    )


def utility_case(instruction: str, output: str) -> Case:
    """How useful is the whole answer?"""
    return Case(group=Group.UTILITY, instruction=instruction, output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a teacher wrote, before it is read. `probs` are by label, sum 1, where it gave them."""

    text: str
    probs: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_json(self) -> str:
        """One line; `from_json` gives the same answer back."""
        return json.dumps(
            {
                "text": self.text,
                "probs": dict(self.probs),
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> "Answer":
        """The answer that `to_json` wrote."""
        data = json.loads(line)
        return cls(
            text=data["text"],
            probs=tuple((label, float(prob)) for label, prob in data["probs"].items()),
            prompt_tokens=data["prompt_tokens"],
            completion_tokens=data["completion_tokens"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A label with who gave it, or `failure` with why there is none (then `label` is None)."""

    case: Case
    by: str
    label: Label | None = None
    probs: tuple[tuple[str, float], ...] = ()
    explanation: str = ""
    failure: Failure | None = None
    answer: Answer | None = None

    @property
    def prob(self) -> float | None:
        """The probability of the label, where the teacher gave one."""
        return dict(self.probs).get(self.label or "")

    @property
    def is_answered(self) -> bool:
        """Whether the teacher answered at all, be it nonsense: asking again changes nothing."""
        return self.answer is not None
