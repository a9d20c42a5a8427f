"""A critic of ours: what it reads and writes, in training and in use, and its labels on any engine.

Wrapper and fields are those of the released critic (AkariAsai/self-rag 1fcdc42,
`data_creation/train_special_tokens.py` and `combine_chat_gpt_reward.py`); the task sentences are
ours. The released code wrapped the prompt otherwise in use than in training; here both call these
functions. Sees models through `engine.base` alone.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from selfrag.annotate.judgement import LABELS, Answer, Case, Group
from selfrag.annotate.verdict import Verdict, parse_verdict
from selfrag.engine.base import Engine, Request
from selfrag.engine.failure import Failure
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL, Tokenizer, following

# The released names of the five questions, "groudness" included.
TASKS: dict[Group, str] = {
    Group.RETRIEVE: "retrieval",
    Group.RETRIEVE_SENTENCE: "multi_retrieval",
    Group.RELEVANCE: "relevance",
    Group.SUPPORT: "groudness",
    Group.UTILITY: "utility",
}

CRITIC_INSTRUCTIONS: dict[Group, str] = {
    Group.RETRIEVE: (
        "Decide whether looking up documents would help to carry out the instruction."
    ),
    Group.RETRIEVE_SENTENCE: (
        "Decide whether the output sentence needs documents to be looked up, or goes on from the "
        "evidence at hand, or needs no evidence."
    ),
    Group.RELEVANCE: "Decide whether the evidence helps to carry out the instruction.",
    Group.SUPPORT: (
        "Decide how far the evidence supports the output sentence, leaving aside whatever else "
        "you know."
    ),
    Group.UTILITY: "Rate from 1 to 5 how useful the output is to whoever gave the instruction.",
}

_INPUT_HEAD = "\n\n### Input:\n"


def critic_input(case: Case) -> str:
    """The fields of `case` as the critic sees them; preceding sentences only where there are some.

    Order as released: utility and support show the output before the evidence, a sentence's
    retrieval after it.
    """
    output = [f"Output: {case.output}"] if case.output is not None else []
    evidence = [f"Evidence: {case.evidence}"] if case.evidence is not None else []
    preceding = [f"Preceding sentences: {case.preceding}"] if case.preceding else []
    in_order = (evidence, output) if case.group is Group.RETRIEVE_SENTENCE else (output, evidence)
    lines = [f"Task instruction: {case.instruction}", *preceding, *in_order[0], *in_order[1]]
    return "\n".join(lines)


def critic_prompt(instruction: str, fields: str) -> str:
    """The whole prompt; the label and the end of sequence come next, nothing between."""
    tail = INSTRUCTION_TAIL.rstrip("\n")  # as released, without the last newline
    return f"{INSTRUCTION_HEAD}{instruction}{_INPUT_HEAD}{fields}{tail}"


def critic_prompt_ids(
    tokenizer: Tokenizer, instruction: str, fields: str, *, max_tokens: int | None = None
) -> list[int]:
    """`critic_prompt` as ids, none of them from text a control id.

    Longer than `max_tokens`, the input loses its middle: the instruction at its beginning and what
    is judged at its end stay, and the place for the label is never cut off.
    """
    encode, start = tokenizer.encode, tokenizer.start_ids
    empty = critic_prompt(instruction, "")
    ids = [*start, *encode(critic_prompt(instruction, fields))]
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    # Cut pieces may tokenise apart.
    n_kept = max(0, max_tokens - len(start) - len(encode(empty)) - 2)
    body = encode(fields)
    head, tail = body[: n_kept - n_kept // 3], body[len(body) - n_kept // 3 :]
    before, after = empty.split(_INPUT_HEAD)
    return [*start, *encode(before + _INPUT_HEAD), *head, *tail, *encode(after)]


def label_ids(tokenizer: Tokenizer, label: str) -> list[int]:
    """What the critic writes for `label`: its token, or its text where the vocabulary lacks it."""
    try:
        return [tokenizer.token_to_id(label)]
    except KeyError:
        return following(tokenizer, INSTRUCTION_TAIL.rstrip("\n"), label)


_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A place where spellings of labels part: what is written so far, and each next id."""

    written: tuple[int, ...]
    nexts: Mapping[int, frozenset[str]]


def forks(spellings: Mapping[str, Sequence[int]]) -> list[Fork]:
    """Every place where the spellings part, in order of length.

    Raises `ValueError` where one spelling is the beginning of another: then no place parts them.
    """
    found = []
    starts = {tuple(ids[:n]) for ids in spellings.values() for n in range(len(ids))}
    for written in sorted(starts, key=lambda start: (len(start), start)):
        nexts: dict[int, set[str]] = {}
        for label, ids in spellings.items():
            if tuple(ids[: len(written)]) == written and len(ids) > len(written):
                nexts.setdefault(ids[len(written)], set()).add(label)
        if any(tuple(ids) == written for ids in spellings.values()):
            raise ValueError(f"one of {dict(spellings)} is the beginning of another")
        if len(nexts) > 1:
            nexts_of = {token_id: frozenset(labels) for token_id, labels in nexts.items()}
            found.append(Fork(written=written, nexts=nexts_of))
    return found


class EngineCritic:
    """A causal LM folder trained by `selfrag train critic`, open on any engine.

    The probability of a label is that of its spelling when the model can write nothing but labels:
    the product over the forks of each next id's share.
    """

    def __init__(self, engine: Engine, *, name: str, identity: str) -> None:
        self._engine = engine
        self._name = name
        self._identity = identity

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self._name

    def request(self, case: Case) -> str:
        """Model and prompt."""
        prompt = critic_prompt(CRITIC_INSTRUCTIONS[case.group], critic_input(case))
        return json.dumps([self._identity, case.group, prompt])

    def size(self, case: Case) -> tuple[int, int]:
        """Tokens as the model counts them."""
        return len(self._prompt_ids(case)), 1

    def ask(self, cases: Sequence[Case]) -> Iterator[tuple[int, Answer | Failure]]:
        """Every case with its answer, in order, a batch after the other. Raises `EngineError`."""
        for first in range(0, len(cases), _BATCH):
            batch = cases[first : first + _BATCH]
            requests, owners = [], []
            for index, case in enumerate(batch):
                prompt = tuple(self._prompt_ids(case))
                for fork in self._forks[case.group]:
                    requests.append(_request(prompt, fork))
                    owners.append((index, fork))
            completions = self._engine.generate(requests)
            shares: list[dict[str, float]] = [dict.fromkeys(LABELS[c.group], 1.0) for c in batch]
            for (index, fork), completion in zip(owners, completions, strict=True):
                _divide(shares[index], fork, [float(p) for p in completion.watched[0]])
            for index, (case, of_case) in enumerate(zip(batch, shares, strict=True)):
                yield first + index, self._answer(case, of_case)

    def read(self, case: Case, answer: Answer) -> Verdict:
        """The likeliest label, which is the answer's text."""
        return parse_verdict(case.group, answer.text)

    def _answer(self, case: Case, shares: Mapping[str, float]) -> Answer:
        # Four places: which cases share a batch changes the last digits of what an engine computes.
        return Answer(
            text=max(shares, key=lambda label: shares[label]),
            probs=tuple((str(label), round(share, 4)) for label, share in shares.items()),
            prompt_tokens=len(self._prompt_ids(case)),
            completion_tokens=1,
        )

    def _prompt_ids(self, case: Case) -> list[int]:
        n_label = max(len(ids) for ids in self._spellings(case.group).values())
        return critic_prompt_ids(
            self._engine.tokenizer,
            CRITIC_INSTRUCTIONS[case.group],
            critic_input(case),
            max_tokens=self._engine.max_context - n_label - 1,
        )

    def _spellings(self, group: Group) -> dict[str, list[int]]:
        tokenizer: Tokenizer = self._engine.tokenizer
        return {str(label): label_ids(tokenizer, label) for label in LABELS[group]}

    @cached_property
    def _forks(self) -> dict[Group, list[Fork]]:
        return {group: forks(self._spellings(group)) for group in Group}


def _request(prompt: tuple[int, ...], fork: Fork) -> Request:
    return Request(
        prefix_ids=prompt,
        suffix_ids=fork.written,
        max_new_tokens=1,
        watch_ids=tuple(fork.nexts),
    )


def _divide(shares: dict[str, float], fork: Fork, logprobs: Sequence[float]) -> None:
    """Multiplies each label that passes through `fork` by the share of its next id."""
    top = max(logprobs)
    masses = [math.exp(logprob - top) for logprob in logprobs]
    for mass, labels in zip(masses, fork.nexts.values(), strict=True):
        for label in labels:
            shares[label] *= mass / sum(masses)
