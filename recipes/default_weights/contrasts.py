"""Records that teach what support and relevance mean: pairs of people, and contrasts made by rule.

A text that a passage supports stands beside one that looks like it and is wrong: another short
answer before the right sentence, a fact changed, a statement with another answer in it. Rewritten
sentences stand on both sides, so that being copied tells nothing. Of these texts only the critique
is learned. Knows nothing of files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelled import (
    LabelledQuestion,
    answer_kind,
    answer_lead,
    answer_record,
    answer_sentence,
    answer_text,
    crop,
    refusal_record,
    relevance_record,
    swap_answer,
)
from pairs import Pair
from rephrase import NAME, NUMBER, falsified, rewritten, statement
from selfrag.passage import Passage
from selfrag.prompt import check_instruction
from selfrag.reflection import Relevance, Retrieve, Support, Utility
from selfrag.released import GeneratorRecord, SegmentRecord
from selfrag.text import find_gold, holds_gold, split_sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastMix:
    """How often a question shows each text; probabilities, but for `crop_words` and `more_wrong`.

    `more_wrong`: so many wrong short answers more, each before the sentence that answers.
    `refused`: how often the question is also asked of a found passage that does not answer it.
    """

    crop_share: float = 0.6
    crop_words: int = 60
    wrong_answer: float = 0.75
    swapped: float = 0.3
    rewritten: float = 0.5
    statement: float = 0.6
    alone: float = 0.2
    changed: float = 0.6
    aside: float = 0.35
    mixed: float = 0.3
    more_wrong: int = 0
    refused: float = 0.0


@dataclass(frozen=True, slots=True)
class Text:
    """One text to judge: the name of its kind, and what is right to say of it."""

    kind: str
    text: str
    support: Support
    utility: Utility | None


def judged(
    identity: str,
    dataset: str,
    instruction: str,
    passage: Passage,
    text: Text,
    *,
    group: str = "",
    relevance: Relevance = Relevance.RELEVANT,
    learn_relevance: bool = True,
) -> GeneratorRecord:
    """A record of which only the critique of `text` is learned."""
    segment = SegmentRecord(
        retrieve=Retrieve.YES,
        passage=passage,
        relevance=relevance,
        text=text.text,
        support=text.support,
        learn_text=False,
        learn_relevance=learn_relevance,
    )
    return GeneratorRecord(
        id=f"{identity}/{text.kind}",
        dataset=dataset,
        group=group,
        instruction=instruction,
        segments=(segment,),
        utility=text.utility,
    )


def pair_records(pair: Pair, identity: str, max_words: int) -> list[GeneratorRecord]:
    """A pair that people have labelled; none where its passage is longer than `max_words`.

    A claim without a question stands under the instruction to check it.
    """
    if len(pair.passage.text.split()) > max_words:
        return []
    if pair.support is None:
        return _relevance_records(pair, identity)
    instruction = pair.question or check_instruction(pair.claim)
    kind = "quoted" if pair.claim.rstrip(".") in pair.passage.text else "pair"
    support = pair.support
    if pair.dataset.startswith("begin/"):
        support = _attribution(pair)
    utility = None if pair.question else _UTILITY[support]
    text = Text(kind, pair.claim, support, utility)
    relevant = pair.relevance is Relevance.RELEVANT
    record = judged(
        identity,
        pair.dataset,
        instruction,
        pair.passage,
        text,
        group=identity,
        learn_relevance=relevant,
    )
    if relevant:
        return [record]
    honest = refusal_record(
        f"{identity}/beside", pair.dataset, instruction, pair.passage, group=identity
    )
    return [honest, record]


_UTILITY = {Support.FULL: Utility.U5, Support.PARTIAL: Utility.U3, Support.NONE: Utility.U1}


def _attribution(pair: Pair) -> Support:
    """BEGIN has "not fully attributable" alone: partial where most words are the passage's."""
    if pair.support is Support.FULL:
        return Support.FULL
    words = re.findall(r"\w+", pair.claim.lower())
    known = set(re.findall(r"\w+", pair.passage.text.lower()))
    return Support.PARTIAL if sum(w in known for w in words) > 0.6 * len(words) else Support.NONE


def _relevance_records(pair: Pair, identity: str) -> list[GeneratorRecord]:
    if pair.relevance is Relevance.IRRELEVANT:
        name = f"{identity}/unanswerable"
        return [refusal_record(name, pair.dataset, pair.question, pair.passage)]
    name = f"{identity}/answerable"
    return [relevance_record(name, pair.dataset, pair.question, pair.passage, Relevance.RELEVANT)]


def contrast_records(
    item: LabelledQuestion, pool: Sequence[str], mix: ContrastMix, rng: np.random.Generator
) -> list[GeneratorRecord]:
    """One question on its gold passage: the right answer to write, and texts beside it to judge.

    `pool`: answers to other questions. Empty when no sentence of the passage fits.
    """
    target = answer_sentence(item.question, item.answers, item.gold.text)
    if target is None:
        return []
    cropped = rng.random() < mix.crop_share
    passage = crop(item.gold, target, mix.crop_words, rng) if cropped else item.gold
    answer = next(a for a in item.answers if find_gold(a, target))
    lead = answer_lead(answer, target)
    text = answer_text(answer, target)
    right = answer_record(
        item, passage, "right", text, Support.FULL, utility=Utility.U5, answer=lead
    )
    records = [right]
    texts = _texts(item, passage, target, answer, pool, mix, rng)
    others = {wrong_answer(item, passage, lead, pool, rng) for _ in range(mix.more_wrong)}
    texts += [
        Text(f"wrong-answer-{n}", f"{capital(wrong)}. {target}", Support.NONE, Utility.U1)
        for n, wrong in enumerate(sorted(filter(None, others)), 2)
    ]
    records += [
        judged(item.id, item.dataset, item.question, passage, text, group=item.id) for text in texts
    ]
    if mix.refused and item.negatives and rng.random() < mix.refused:
        found = item.negatives[int(rng.integers(min(3, len(item.negatives))))]
        name = f"{item.id}/not-here"
        records.append(refusal_record(name, item.dataset, item.question, found, group=item.id))
    return records


def _texts(
    item: LabelledQuestion,
    passage: Passage,
    target: str,
    answer: str,
    pool: Sequence[str],
    mix: ContrastMix,
    rng: np.random.Generator,
) -> list[Text]:
    """What may be judged beside the right answer, each text with its share of luck."""
    full, none, partial = Support.FULL, Support.NONE, Support.PARTIAL
    lead = answer_lead(answer, target)
    wrong = wrong_answer(item, passage, lead, pool, rng)
    other_words = rewritten(target, passage.title, rng)
    shown = other_words if other_words and rng.random() < 0.5 else target
    first = f"{lead}. " if rng.random() < 0.5 else ""
    said = statement(item.question, answer) if rng.random() < mix.statement else None
    is_alone = rng.random() < mix.alone
    swapped = swap_answer(answer_text(answer, target), item.answers, pool, rng)
    changed = falsified(shown, [*item.elsewhere, *pool], rng)
    beside = _beside(item, passage, rng)
    foreign = _any_sentence(item.negatives[0], rng) if item.negatives else None
    lies = statement(item.question, wrong) if said and wrong else None
    lone_lie = f"{capital(wrong)}." if wrong and is_alone else None
    copied = f"{capital(wrong)}. {shown}" if wrong else None
    mixed = f"{shown} {foreign}" if foreign else None
    offered = (
        (mix.wrong_answer, "wrong-answer", copied, none, Utility.U1),
        (mix.swapped, "swapped", swapped, none, Utility.U1),
        (mix.rewritten, "rewritten", other_words and f"{first}{other_words}", full, Utility.U5),
        (1.0, "statement", said, full, Utility.U5),
        (1.0, "false-statement", lies, none, Utility.U1),
        (1.0, "alone", f"{lead}." if is_alone else None, full, Utility.U5),
        (1.0, "wrong-alone", lone_lie, none, Utility.U1),
        (mix.changed, "changed", changed, none, Utility.U1),
        (mix.aside, "aside", beside, full, Utility.U2),
        (mix.mixed, "mixed", mixed, partial, Utility.U3),
    )
    return [
        Text(kind, text, support, utility)
        for share, kind, text, support, utility in offered
        if text and rng.random() < share
    ]


def _beside(item: LabelledQuestion, passage: Passage, rng: np.random.Generator) -> str | None:
    """A sentence of the passage that does not answer, in its own words or in others."""
    sentences = [s for s in split_sentences(passage.text) if not holds_gold(s, item.answers)]
    if not sentences:
        return None
    beside = str(rng.choice(sentences))
    again = rewritten(beside, passage.title, rng)
    return again if again and rng.random() < 0.4 else beside


def _any_sentence(passage: Passage, rng: np.random.Generator) -> str:
    return str(rng.choice(split_sentences(passage.text)))


def capital(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def _spans(text: str) -> list[str]:
    """The names and numbers inside the sentences of a text."""
    return [*NAME.findall(text), *NUMBER.findall(text)]


def wrong_answer(
    item: LabelledQuestion,
    passage: Passage,
    lead: str,
    pool: Sequence[str],
    rng: np.random.Generator,
) -> str | None:
    """A short answer of the same kind that is wrong, from the passage itself where it has one."""
    kind, taken = answer_kind(lead), [answer.lower() for answer in item.answers]

    def fits(other: str) -> bool:
        low = other.lower()
        return (
            answer_kind(other) == kind
            and not any(low in answer or answer in low for answer in taken)
            and low not in item.question.lower()
        )

    inside = [o for o in (*item.elsewhere, *_spans(passage.text)) if fits(o)]
    outside = [o for o in pool if fits(o)]
    if inside and (rng.random() < 0.7 or not outside):
        return str(rng.choice(inside))
    return str(rng.choice(outside)) if outside else None


def claim_records(
    item: LabelledQuestion, pool: Sequence[str], mix: ContrastMix, rng: np.random.Generator
) -> list[GeneratorRecord]:
    """A claim about the gold passage under the instruction to check it, true or false by turns."""
    target = answer_sentence(item.question, item.answers, item.gold.text)
    if target is None:
        return []
    passage = crop(item.gold, target, mix.crop_words, rng)
    answer = next(a for a in item.answers if find_gold(a, target))
    text = statement(item.question, answer)
    is_true = rng.random() < 0.5
    if text and not is_true:
        wrong = wrong_answer(item, passage, answer_lead(answer, target), pool, rng)
        text = statement(item.question, wrong) if wrong else None
    elif not text:
        text = rewritten(target, passage.title, rng)
        if text and not is_true:
            text = falsified(text, [*item.elsewhere, *pool], rng)
    if text is None:
        return []
    support = Support.FULL if is_true else Support.NONE
    made = Text("claim" if is_true else "false-claim", text, support, _UTILITY[support])
    return [judged(item.id, item.dataset, check_instruction(text), passage, made)]


def unanswerable_records(
    item: LabelledQuestion, pool: Sequence[str], mix: ContrastMix, rng: np.random.Generator
) -> list[GeneratorRecord]:
    """The question about something else of the same kind, which its passage does not answer.

    A name or number that question and passage share is exchanged for one that the passage lacks.
    """
    spans = [s for s in _spans(item.question) if holds_gold(item.gold.text, [s])]
    if not spans:
        return []
    span = str(rng.choice(spans))
    others = [
        other
        for other in pool
        if answer_kind(other) == answer_kind(span) and not holds_gold(item.gold.text, [other])
    ]
    if not others:
        return []
    question = item.question.replace(span, str(rng.choice(others)))
    target = answer_sentence(item.question, item.answers, item.gold.text)
    cropped = target is not None and rng.random() < mix.crop_share
    passage = crop(item.gold, target or "", mix.crop_words, rng) if cropped else item.gold
    return [refusal_record(f"{item.id}/other-question", item.dataset, question, passage)]
