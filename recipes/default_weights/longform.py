"""Generator records whose answers have several segments, from labelled sets, without a teacher.

What they teach beside the records of `labelled.py`: to go on while something is left to say, from
the passage at hand or from another one, and to stop when a further passage adds nothing. Such an
answer ends in one of two ways: at once, or with one more passage that is judged irrelevant and has
no text. Knows nothing of files.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelled import (
    NOT_IN_PASSAGE,
    LabelledQuestion,
    answer_lead,
    answer_sentence,
    answer_text,
    crop,
)
from selfrag.passage import Passage
from selfrag.reflection import Relevance, Retrieve, Support, Utility
from selfrag.released import GeneratorRecord, SegmentRecord
from selfrag.text import find_gold, split_sentences

# The instruction of ASQA as released (REFERENCE_FACTS 2.1), and other ways to ask for as much.
LONG_TEMPLATES = (
    "Answer the following question. The question may be ambiguous and have multiple correct "
    "answers, and in that case, you have to provide a long-form answer including all correct "
    "answers.## Input:\n\n{}",
    "Answer the following question in a few sentences.\n\n## Input:\n\n{}",
    "Give a long answer with all that the sources say: {}",
    "{} Explain in detail.",
    "{} Answer in a few sentences.",
)
BIOGRAPHY_TEMPLATES = (
    "Question: Tell me a bio of {}.",
    "Tell me a bio of {}.",
    "Write a short biography of {}.",
    "Who is {}? Tell me more.",
)
COMPARISON_TEMPLATES = (
    "What is the difference between {} and {}?",
    "Compare {} and {}.",
    "How do {} and {} differ?",
    "Can you tell me the difference between {} and {}?",
    "{} or {}: what sets them apart?",
)
MAX_SEGMENTS = 4
_WORDS = (5, 36)  # of a sentence that stands as a segment of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class LongMix:
    """Shares of what a long answer may show; probabilities.

    `continued`: a second sentence from the passage at hand. `closed_by_passage`: the end comes
    after one more passage that adds nothing. `refused`: the first passage does not answer.
    `shuffled`: a biography does not begin with the first passage about the person. `stored`: its
    passages stay as they are, cut anywhere and with their title in the text; a flag.
    """

    continued: float = 0.4
    closed_by_passage: float = 0.5
    refused: float = 0.25
    shuffled: float = 0.0
    stored: bool = False
    crop_share: float = 0.6
    crop_words: int = 55


def reading(passage: Passage, text: str, answer: str = "") -> SegmentRecord:
    """A segment that its own passage supports."""
    return SegmentRecord(
        retrieve=Retrieve.YES,
        passage=passage,
        relevance=Relevance.RELEVANT,
        text=text,
        answer=answer,
        support=Support.FULL,
    )


def refusal(passage: Passage, text: str = NOT_IN_PASSAGE) -> SegmentRecord:
    """A passage that says nothing to the point; without `text` it ends what was written before."""
    return SegmentRecord(
        retrieve=Retrieve.YES, passage=passage, relevance=Relevance.IRRELEVANT, text=text
    )


def closed(
    segments: Sequence[SegmentRecord],
    adds_nothing: Passage | None,
    mix: LongMix,
    rng: np.random.Generator,
) -> tuple[SegmentRecord, ...]:
    """`segments` as a whole answer: it ends there, or `adds_nothing` is read and left unused."""
    if adds_nothing is not None and rng.random() < mix.closed_by_passage:
        return (*segments, refusal(_shown(adds_nothing, "", mix, rng), ""))
    return tuple(segments)


def passage_segments(
    passage: Passage,
    target: str,
    mix: LongMix,
    rng: np.random.Generator,
    *,
    answer: str = "",
    also_continue: bool = True,
) -> list[SegmentRecord]:
    """The sentence `target` of a passage, with its short `answer` first where there is one.

    With some luck also the next sentence, as continued evidence.
    """
    shown = _shown(passage, target, mix, rng)
    text = answer_text(answer, target) if answer else target
    segments = [reading(shown, text, answer_lead(answer, target) if answer else "")]
    sentences = split_sentences(shown.text)
    after = sentences[sentences.index(target) + 1 :] if target in sentences else []
    if also_continue and after and _stands_alone(after[0]) and rng.random() < mix.continued:
        segments.append(
            SegmentRecord(retrieve=Retrieve.CONTINUE, text=after[0], support=Support.FULL)
        )
    return segments


def ambiguous_record(
    item: LabelledQuestion,
    related: Sequence[Passage],
    mix: LongMix,
    rng: np.random.Generator,
) -> GeneratorRecord | None:
    """One question asked for a long answer: what its gold passage says, then what `related` add.

    `related`: other passages that hold the answer. None when no sentence of the gold passage fits.
    """
    instruction = _pick(LONG_TEMPLATES, rng).format(item.question)
    if item.negatives and rng.random() < mix.refused:
        shown = _shown(item.negatives[0], "", mix, rng)
        return _record(item.id, "long-refused", instruction, [refusal(shown)])
    target = answer_sentence(item.question, item.answers, item.gold.text)
    if target is None:
        return None
    answer = next(a for a in item.answers if find_gold(a, target))
    segments = passage_segments(item.gold, target, mix, rng, answer=answer)
    asked = _content_words(item.question)
    for passage in related:
        sentence = answer_sentence(item.question, item.answers, passage.text)
        if sentence is None or len(segments) >= MAX_SEGMENTS:
            continue
        near = len(asked & _content_words(f"{passage.title} {sentence}")) >= 2
        if near and sentence not in [segment.text for segment in segments]:
            segments += passage_segments(passage, sentence, mix, rng, also_continue=False)
    ending = closed(segments, next(iter(item.negatives), None), mix, rng)
    return _record(item.id, "long", instruction, ending)


def two_part_record(
    first: LabelledQuestion, second: LabelledQuestion, mix: LongMix, rng: np.random.Generator
) -> GeneratorRecord | None:
    """Two questions in one instruction, each answered from its own passage, in either order."""
    one, other = first.question.rstrip(" ?"), second.question
    joined = (
        f"{one}? {other}",
        f"{one}, and {other[:1].lower()}{other[1:]}",
        f"{one}? Also, {other[:1].lower()}{other[1:]}",
    )
    segments: list[SegmentRecord] = []
    parts = (first, second) if rng.random() < 0.7 else (second, first)
    for item in parts:
        target = answer_sentence(item.question, item.answers, item.gold.text)
        if target is None:
            return None
        answer = next(a for a in item.answers if find_gold(a, target))
        segments += passage_segments(
            item.gold, target, mix, rng, answer=answer, also_continue=False
        )
    ending = closed(segments, next(iter(first.negatives), None), mix, rng)
    return _record(f"{first.id}+{second.id}", "two-part", _pick(joined, rng), ending)


def comparison_records(
    passages: Sequence[Passage], n: int, mix: LongMix, rng: np.random.Generator
) -> Iterator[GeneratorRecord]:
    """At most `n` comparisons of two things of one kind, a sentence from the passage of each.

    Of a kind are the titles whose passages begin "TITLE is a …" or "TITLE was an …" with the same
    word behind it.
    """
    kinds: dict[str, list[tuple[Passage, str]]] = {}
    for passage in passages:
        first = split_sentences(passage.text)[:1]
        opening = rf"(?:The )?{re.escape(passage.title)}\b[^.]{{0,40}} (?:is|was) (?:an?|the) (\w+)"
        if passage.title and first and (found := re.match(opening, first[0])):
            kinds.setdefault(found.group(1).lower(), []).append((passage, first[0]))
    pools = [pool for pool in kinds.values() if len({each.title for each, _ in pool}) > 1]
    for number in range(n if pools else 0):
        pool = pools[int(rng.integers(len(pools)))]
        (one, said), (other, told) = (pool[int(i)] for i in rng.permutation(len(pool))[:2])
        doubled = said.startswith(f"{one.title} {one.title}") or told.startswith(
            f"{other.title} {other.title}"
        )
        if one.title == other.title or doubled or not (_stands_alone(said) and _stands_alone(told)):
            continue
        instruction = _pick(COMPARISON_TEMPLATES, rng).format(one.title, other.title)
        segments = [
            *passage_segments(one, said, mix, rng, also_continue=False),
            *passage_segments(other, told, mix, rng, also_continue=False),
        ]
        yield _record(f"compare-{number}", "comparison", instruction, segments)


def biography_records(
    rows: Sequence[Mapping[str, Any]], mix: LongMix, rng: np.random.Generator
) -> Iterator[GeneratorRecord]:
    """A biography for every row with passages about its `entity`; some refuse a namesake's.

    Rows hold `entity` and `passages`, each with `title` and `text`, as FActScore's topics do.
    """
    for number, row in enumerate(rows):
        entity = row["entity"]
        passages = [
            _stored(p, f"bio-{number}-{n}") if mix.stored else _clean(p, f"bio-{number}-{n}")
            for n, p in enumerate(row["passages"])
        ]
        own = [p for p in passages if p.title.lower() == entity.lower()]
        others = [p for p in passages if p.title.lower() != entity.lower()]
        instruction = _pick(BIOGRAPHY_TEMPLATES, rng).format(entity)
        if others and (not own or rng.random() < mix.refused):
            yield _record(f"bio-{number}", "refused", instruction, [refusal(others[0])])
        if not own:
            continue
        if mix.shuffled and rng.random() < mix.shuffled:  # without, older mixes draw as they did
            own = [own[int(i)] for i in rng.permutation(len(own))]
        segments: list[SegmentRecord] = []
        for passage in own:
            sentences = split_sentences(passage.text)
            if mix.stored:
                said = {segment.text for segment in segments}
                sentences = [s for s in _whole_sentences(passage) if s not in said]
            # The last sentence of such a passage is cut short more often than not.
            fitting = [s for s in sentences[:-1] if _stands_alone(s)]
            if fitting and len(segments) < MAX_SEGMENTS:
                new = passage_segments(passage, fitting[0], mix, rng)
                segments += [s for s in new if s.text in sentences or not mix.stored]
        if segments:
            ending = closed(segments, next(iter(others), None), mix, rng)
            yield _record(f"bio-{number}", "bio", instruction, ending)


def _clean(passage: Mapping[str, Any], identity: str) -> Passage:
    """Without the title that such passages begin with, and without half a sentence before it."""
    title, text = passage["title"], passage["text"].strip()
    if text.startswith(title):
        text = text[len(title) :].strip()
    elif text[:1].islower():
        text = " ".join(split_sentences(text)[1:])
    return Passage(id=identity, title=title, text=text, source="Wikipedia")


def _stored(passage: Mapping[str, Any], identity: str) -> Passage:
    return Passage(id=identity, title=passage["title"], text=passage["text"], source="Wikipedia")


def _whole_sentences(passage: Passage) -> list[str]:
    """The sentences of a stored passage without what was cut before it, and without headings.

    Where an article begins, its title stands before its first sentence.
    """
    title, sentences = passage.title, split_sentences(passage.text.strip())
    if not sentences or not sentences[0].startswith(title):
        sentences = sentences[1:]
    bare = [s.removeprefix(title).lstrip() for s in sentences]
    return [b if b[:1].isupper() else s for s, b in zip(sentences, bare, strict=True)]


def _record(
    identity: str, name: str, instruction: str, segments: Sequence[SegmentRecord]
) -> GeneratorRecord:
    refused = segments[0].relevance is Relevance.IRRELEVANT
    return GeneratorRecord(
        id=f"{identity}/{name}",
        dataset="long",
        instruction=instruction,
        segments=tuple(segments),
        utility=Utility.U1 if refused else Utility.U5,
    )


def _shown(passage: Passage, keep: str, mix: LongMix, rng: np.random.Generator) -> Passage:
    return crop(passage, keep, mix.crop_words, rng) if rng.random() < mix.crop_share else passage


def _stands_alone(sentence: str) -> bool:
    least, most = _WORDS
    return least <= len(sentence.split()) <= most and sentence[:1].isupper()


def _content_words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
