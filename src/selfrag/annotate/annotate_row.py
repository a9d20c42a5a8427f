"""One answer annotated, step by step: what is asked and searched, and what is made of it.

A row is a generator that yields what it needs next, cases to judge or queries to search, and is
sent the results: so many rows share a batch, and each reads like the ten steps of the released
pipeline. Knows nothing of teachers, retrievers or files.
"""

import zlib
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from selfrag.annotate.assemble import (
    NEGATIVE_SETS,
    AssemblyConfig,
    Bug,
    Choice,
    Read,
    Rules,
    choose,
)
from selfrag.annotate.judgement import (
    Case,
    Judgement,
    Label,
    relevance_case,
    retrieve_case,
    sentence_case,
    support_case,
    utility_case,
)
from selfrag.annotate.sources import SourceRow
from selfrag.decode.search import Lookup
from selfrag.passage import Hit, Passage
from selfrag.reflection import (
    ReflectionToken,
    Relevance,
    Retrieve,
    Utility,
)
from selfrag.released import passage_text, without_control
from selfrag.text import sentence_spans

Need = list[Case] | Lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of the output: plain text, or a token with who gave it and how sure they were."""

    text: str
    token: ReflectionToken | None = None
    by: str = ""
    prob: float | None = None
    passage: str | None = None
    rank: int | None = None


@dataclass(slots=True)
class Annotated:
    """What became of one row: its pieces, or `left_out` with the rule that dropped it.

    `judgements` are all that were made for it, in order.
    """

    row: SourceRow
    pieces: list[Piece] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    left_out: str = ""
    unfinished: Judgement | None = None  # without it the row could not be annotated

    @property
    def output(self) -> str:
        """The pieces, with nothing between."""
        return "".join(piece.text for piece in self.pieces)

    def to_json(self) -> dict[str, Any]:
        """One line of generator data, as documented in `docs/formats.md`."""
        provenance, at = [], 0
        for piece in self.pieces:
            if piece.token is not None:
                provenance.append(
                    {
                        "token": piece.token,
                        "at": at,
                        "by": piece.by,
                        "prob": piece.prob,
                        "passage": piece.passage,
                        "rank": piece.rank,
                    }
                )
            at += len(piece.text)
        return {
            "instruction": self.row.instruction,
            "output": self.output,
            "input": "",
            "id": self.row.id,
            "dataset_name": self.row.dataset,
            "provenance": provenance,
        }


def coins_of(row: SourceRow, seed: int) -> np.random.Generator:
    """The row's own coins: neither the order of rows nor their batch changes a row."""
    return np.random.default_rng([seed, zlib.crc32(row.id.encode())])


class _CannotJudge(Exception):
    """A judgement without which there is no row."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__()
        self.judgement = judgement


Steps = Generator[Need, Any, Annotated]


def annotate_row(row: SourceRow, config: AssemblyConfig) -> Steps:
    """The steps of one row; it returns what became of it.

    Steps: need for retrieval and utility of the whole; if needed, a first search; for each
    sentence whether to retrieve, its search, relevance and support of every hit, and the choice.
    """
    rng = coins_of(row, config.seed)
    done = Annotated(row)
    try:
        yield from _annotate(done, config, rng)
    except _CannotJudge as stop:
        done.unfinished = stop.judgement
    return done


def _annotate(
    done: Annotated, config: AssemblyConfig, rng: np.random.Generator
) -> Generator[Need, Any, None]:
    row, output = done.row, _clean(done.row.output, config)
    need, utility = yield from _judged(
        done, [retrieve_case(row.instruction), utility_case(row.instruction, row.output)]
    )
    for judgement in (need, utility):
        if judgement.label is None:
            raise _CannotJudge(judgement)
    if need.label is Retrieve.NO:
        done.pieces = [_piece(need), Piece(text=output)]
        if config.rules is Rules.REFERENCE and rng.random() <= 0.6:
            done.left_out = "no_retrieval_share"
    else:
        yield from _annotate_sentences(done, output, need, config, rng)
    if config.rules is Rules.REFERENCE:
        retrieves = need.label is Retrieve.YES
        done.left_out = done.left_out or _left_out(done, config, rng, retrieves=retrieves)
    done.pieces.append(_utility_piece(utility, output))


def _clean(output: str, config: AssemblyConfig) -> str:
    if config.rules is Rules.REFERENCE:
        output = output.replace("REFUTES", "false").replace("SUPPORTS", "true")
    return without_control(output)


def _annotate_sentences(
    done: Annotated,
    output: str,
    need: Judgement,
    config: AssemblyConfig,
    rng: np.random.Generator,
) -> Generator[Need, Any, None]:
    row = done.row
    is_paper = config.rules is Rules.PAPER
    parts = split_answer(output, merge_short=is_paper)
    if all(part.is_bare for part in parts):
        done.left_out = "only_short_sentences"
    ((*first_hits,),) = yield Lookup([f"{row.question} {row.output}"], config.top_k)
    evidence = evidence_text(first_hits[0].passage) if first_hits else ""
    is_shown = False  # whether the evidence stands in the output
    for n, part in enumerate(parts):
        preceding = " ".join(part.text for part in parts[:n])
        if part.is_bare:
            done.pieces.append(Piece(text=part.text))
            continue
        decision = need
        if n > 0:
            case = sentence_case(row.question, preceding, evidence, part.text)
            (decision,) = yield from _judged(done, [case])
        token = _retrieve_piece(decision, config, can_continue=is_shown or not is_paper)
        if token.token is not Retrieve.YES:
            done.pieces += [token, Piece(text=part.text)]
            continue
        choice = yield from _choose(done, part.text, preceding, config, rng)
        if choice is not None:
            done.pieces += _read_pieces(token, choice, part.text)
            # The released code shows the first hit of the whole answer to the end.
            if is_paper and choice.is_relevant:
                evidence, is_shown = evidence_text(choice.read.hit.passage), True
        elif is_paper or Bug.DROP_SENTENCE not in config.bugs:
            done.pieces += [_rule_piece(Retrieve.NO, "no_passage"), Piece(text=part.text)]


def _choose(
    done: Annotated,
    sentence: str,
    preceding: str,
    config: AssemblyConfig,
    rng: np.random.Generator,
) -> Generator[Need, Any, Choice | None]:
    """Searches for one sentence, has every hit judged, and takes one."""
    row = done.row
    hits: list[Hit]
    (hits,) = yield Lookup([f"{row.question} {sentence}"], config.top_k)
    texts = [evidence_text(hit.passage) for hit in hits]
    relevance = yield from _judged(done, [relevance_case(row.instruction, t) for t in texts])
    # Support is asked of what is relevant: elsewhere no rule reads it.
    relevant = [n for n, each in enumerate(relevance) if each.label is Relevance.RELEVANT]
    cases = [support_case(row.instruction, preceding, texts[n], sentence) for n in relevant]
    support = dict(zip(relevant, (yield from _judged(done, cases)), strict=True))
    reads = [
        Read(hit=hit, relevance=judged, support=support.get(n))
        for n, (hit, judged) in enumerate(zip(hits, relevance, strict=True))
    ]
    return choose(reads, row.dataset, config, rng)


def _judged(done: Annotated, cases: list[Case]) -> Generator[Need, Any, list[Judgement]]:
    """The judgements of `cases`; one that was never answered ends the row, to be asked again."""
    if not cases:
        return []
    judgements: list[Judgement] = yield cases
    done.judgements += judgements
    for judgement in judgements:
        if not judgement.is_answered:
            raise _CannotJudge(judgement)
    return judgements


def evidence_text(passage: Passage) -> str:
    """Title and text on two lines, as a teacher and the generator read them."""
    return f"{passage.title}\n{passage.text}"


def _piece(judgement: Judgement, *, hit: Hit | None = None) -> Piece:
    label = judgement.label
    assert label is not None  # whoever calls has looked
    return _token_piece(label, judgement.by, judgement.prob, hit)


def _token_piece(label: Label, by: str, prob: float | None, hit: Hit | None = None) -> Piece:
    return Piece(
        text=label,
        token=label,
        by=by,
        prob=prob,
        passage=hit.passage.id if hit else None,
        rank=hit.rank if hit else None,
    )


def _rule_piece(label: Label, rule: str, hit: Hit | None = None) -> Piece:
    return _token_piece(label, f"rule:{rule}", None, hit)


def _retrieve_piece(decision: Judgement, config: AssemblyConfig, *, can_continue: bool) -> Piece:
    """The decision as a token; without evidence in the output there is none to go on with."""
    if decision.label is None:  # as released: what is no label is no retrieval
        return _rule_piece(Retrieve.NO, "unknown_label")
    if decision.label is Retrieve.CONTINUE:
        if config.rules is Rules.REFERENCE and Bug.NO_CONTINUE in config.bugs:
            return _rule_piece(Retrieve.NO, "no_continue")
        if not can_continue:
            return _rule_piece(Retrieve.YES, "nothing_to_continue")
    return _piece(decision)


def _read_pieces(retrieve: Piece, choice: Choice, sentence: str) -> list[Piece]:
    """The decision, the passage, its relevance, the sentence, and its support where relevant."""
    hit, read = choice.read.hit, choice.read
    title, text = (without_control(part) for part in (hit.passage.title, hit.passage.text))
    body = passage_text(replace(hit.passage, title=title, text=text))
    pieces = [_token_piece(Retrieve.YES, retrieve.by, retrieve.prob, hit), Piece(text=body)]
    if not choice.is_relevant:
        called = (
            _rule_piece(Relevance.IRRELEVANT, "no_support_is_irrelevant", hit)
            if choice.relabelled
            else _piece(read.relevance, hit=hit)
        )
        return [*pieces, called, Piece(text=sentence)]
    assert read.support is not None  # a relevant choice has one
    return [
        *pieces,
        _piece(read.relevance, hit=hit),
        Piece(text=sentence),
        _piece(read.support, hit=hit),
    ]


def _utility_piece(utility: Judgement, output: str) -> Piece:
    if output in ("true", "false") and utility.label is Utility.U1:
        return _rule_piece(Utility.U5, "true_or_false")
    return _piece(utility)


def _left_out(
    done: Annotated, config: AssemblyConfig, rng: np.random.Generator, *, retrieves: bool
) -> str:
    """The released rule that drops this row, or nothing."""
    tokens = {piece.token for piece in done.pieces}
    if not done.output.strip():
        return "empty"
    if config.negative_samples and done.row.dataset not in NEGATIVE_SETS:
        return "not_a_negative_set"
    lacks_negative = Relevance.IRRELEVANT not in tokens or Retrieve.NO in tokens
    if config.negative_samples and retrieves and lacks_negative:
        return "no_negative_sample"
    no_in_nq = done.row.dataset == "nq" and retrieves and Retrieve.NO in tokens
    if no_in_nq and rng.random() > 0.5:
        return "nq_no_retrieval_share"
    if done.pieces[0].token is Retrieve.CONTINUE:
        return "begins_with_continue"
    return ""


SHORT_CHARACTERS = 30  # in answers of more than two sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPart:
    """A piece of an answer; `is_bare`: too short to be judged, and copied as it is."""

    text: str
    is_bare: bool = False


def split_answer(output: str, *, merge_short: bool) -> list[AnswerPart]:
    """The sentences of `output` without the space between them, in order; none is lost.

    In answers of more than two sentences, one of fewer than 30 characters stays bare, as in the
    released code, or with `merge_short` goes with the sentence before it (the first with the next).
    """
    spans = sentence_spans(output) or [(0, len(output))]
    many = len(spans) > 2
    short = [many and end - start < SHORT_CHARACTERS for start, end in spans]
    if not merge_short:
        return [
            AnswerPart(text=output[start:end], is_bare=is_short)
            for (start, end), is_short in zip(spans, short, strict=True)
        ]
    merged: list[tuple[int, int]] = []
    open_start: int | None = None  # of short sentences that have none before them
    for (start, end), is_short in zip(spans, short, strict=True):
        if is_short and merged:
            merged[-1] = (merged[-1][0], end)
        elif is_short:
            open_start = start if open_start is None else open_start
        else:
            merged.append((start if open_start is None else open_start, end))
            open_start = None
    if open_start is not None:  # all of them are short
        merged.append((open_start, spans[-1][1]))
    return [AnswerPart(text=output[start:end]) for start, end in merged]
