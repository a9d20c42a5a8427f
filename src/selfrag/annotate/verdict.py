"""From what a model wrote to a label: the verdict in its text, the labels' share of its tokens.

Knows nothing of where the text came from. All functions are pure.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from selfrag.annotate.judgement import LABELS, Group, Label
from selfrag.annotate.rubric import RUBRICS
from selfrag.engine.failure import Reason

_LEAD = re.compile(r"^[\W_]*(?:(?:label|answer|verdict|rating|score|decision)\b[\W_]*)?", re.I)
_EXPLANATION = re.compile(r"^(?:\s*/\s*5)?[\W_]*(?:explanation|reason|because)?\s*[:\-]*\s*", re.I)
_REFUSAL = re.compile(
    r"\b(?:i(?:'| a)?m sorry|i apologi[sz]e|as an ai|as a language model"
    r"|i (?:cannot|can't|can not|won't|am unable|am not able))\b",
    re.I,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A label with its explanation, or `problem`: why the text holds none."""

    label: Label | None = None
    explanation: str = ""
    problem: Reason | None = None


def parse_verdict(group: Group, text: str) -> Verdict:
    """The label that `text` begins with, by its word in the rubric or by its reflection token.

    Heading words (`Label:`), brackets, stars and letter case are looked over; a JSON object with
    `label` and `explanation` is read too. Text that begins with something else has no label, even
    where a label's word comes later: it may have been weighed and rejected there.
    """
    stated, explanation = _from_json(text)
    body = text if stated is None else stated
    start = _LEAD.match(body)
    rest = body[start.end() :] if start else body
    for alias, label in _aliases(group):
        found = re.match(rf"{re.escape(alias)}(?!\w|[.,]\d|\s*[-\u2013]\s*\d)", rest, re.I)
        if found:
            why = explanation or rest[found.end() :]
            return Verdict(label=label, explanation=_explanation(why))
    refused = _REFUSAL.search(body.replace("\u2019", "'")[:200]) is not None
    return Verdict(problem=Reason.REFUSAL if refused else Reason.MALFORMED)


def _from_json(text: str) -> tuple[str | None, str]:
    if not text.lstrip().startswith("{"):
        return None, ""
    try:
        data = json.loads(text)
    except ValueError:
        return None, ""
    if not isinstance(data, dict) or "label" not in data:
        return None, ""
    return str(data["label"]), str(data.get("explanation", ""))


def _aliases(group: Group) -> list[tuple[str, Label]]:
    """What may stand for each label, longest first: `no retrieval` before `no`."""
    words = [(option.word, option.label) for option in RUBRICS[group].options]
    tokens = [(str(label).strip("[]"), label) for label in LABELS[group]]
    return sorted([*words, *tokens], key=lambda pair: -len(pair[0]))


def _explanation(rest: str) -> str:
    return _EXPLANATION.sub("", rest, count=1).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One token as written, and the log-probabilities (nats) of it and of others at its place."""

    token: str
    logprobs: Mapping[str, float]


def spelling_probs(steps: Iterable[Step], spellings: Sequence[str]) -> dict[str, float]:
    """How the model's probability falls on `spellings`, sum 1; empty where it wrote none of them.

    At every place where they part, what falls on tokens that begin one of the spellings that are
    still open is shared out, and the rest is left aside: as if the model could write nothing else.
    A token that fits several counts for each alike. White space and signs before the beginning
    are passed over where no spelling begins with them. Letter case is ignored.
    """
    open_ones = list(spellings)
    probs = dict.fromkeys(spellings, 0.0)
    reach, spelt = 1.0, ""
    for step in steps:
        if not spelt and not _fits(step.token.lstrip(), open_ones):
            if re.search(r"\w", step.token):
                return {}
            continue
        going_on = _fits(_join(spelt, step.token), open_ones)
        shares = _shares(spelt, step, open_ones)
        if not going_on or tuple(going_on) not in shares:
            return {}
        for fitting, share in shares.items():
            for spelling in fitting if fitting != tuple(going_on) else ():
                probs[spelling] += reach * share / len(fitting)
        reach *= shares[tuple(going_on)]
        spelt, open_ones = _join(spelt, step.token), going_on
        if len(open_ones) == 1:
            probs[open_ones[0]] += reach
            return probs
    return {}


def _join(spelt: str, token: str) -> str:
    return spelt + token if spelt else token.lstrip()


def _fits(text: str, spellings: Sequence[str]) -> list[str]:
    """The spellings that `text` is a beginning of, or that `text` goes on from."""
    low = text.lower()
    return [
        spelling
        for spelling in spellings
        if low and (spelling.lower().startswith(low) or _goes_on(low, spelling.lower()))
    ]


def _goes_on(text: str, spelling: str) -> bool:
    return text.startswith(spelling) and not text[len(spelling) :][:1].isalnum()


def _shares(spelt: str, step: Step, open_ones: Sequence[str]) -> dict[tuple[str, ...], float]:
    """The share of each set of spellings that one token leaves open, sum 1."""
    masses: dict[tuple[str, ...], float] = defaultdict(float)
    for token, logprob in step.logprobs.items():
        fitting = tuple(_fits(_join(spelt, token), open_ones))
        masses[fitting] += math.exp(logprob) if fitting else 0.0
    total = sum(masses.values())
    return {fitting: mass / total for fitting, mass in masses.items() if mass > 0}
