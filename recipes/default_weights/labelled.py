"""Generator records from labelled question-answering sets, without a teacher model.

The answer to a question is the gold string, then the sentence of its gold passage that holds it, so
that every segment answers at once and can be checked against its citation. What the sets label for
free: gold passages are relevant, BM25 hits without the answer are not, the answer sentence is
supported by its own passage and by no other, with the answer exchanged it is contradicted, and the
answer to another question about the passage is supported but of little use.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfrag.passage import Passage
from selfrag.reflection import Relevance, Retrieve, Support, Utility
from selfrag.released import GeneratorRecord, SegmentRecord
from selfrag.text import find_gold, gold_pattern, holds_gold, split_sentences

NOT_IN_PASSAGE = "This passage does not answer the question."
MAX_SENTENCE_WORDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledQuestion:
    """A question with its gold passage, and passages that look alike but lack the answer.

    `elsewhere`: answers to other questions about the gold passage.
    """

    id: str
    dataset: str
    question: str
    answers: tuple[str, ...]
    gold: Passage
    negatives: tuple[Passage, ...]
    elsewhere: tuple[str, ...] = ()


def answer_sentence(question: str, answers: Sequence[str], text: str) -> str | None:
    """The sentence of `text` that holds a gold string and shares most words with the question.

    Ties go to the earlier sentence. None when no sentence of at most 50 words holds one.
    """
    asked = set(re.findall(r"\w+", question.lower()))
    best, best_shared = None, -1
    for sentence in split_sentences(text):
        words = re.findall(r"\w+", sentence.lower())
        if not 3 <= len(words) <= MAX_SENTENCE_WORDS or not holds_gold(sentence, answers):
            continue
        shared = len(asked & set(words))
        if shared > best_shared:
            best, best_shared = sentence, shared
    return best


def answer_text(answer: str, sentence: str) -> str:
    """`answer` as `sentence` spells it, then the sentence, as in `Saturn. Titan orbits Saturn`.

    Without `answer` it is the sentence alone.
    """
    lead = answer_lead(answer, sentence)
    return f"{lead}{'' if lead.endswith('.') else '.'} {sentence}" if lead else sentence


def answer_lead(answer: str, sentence: str) -> str:
    """`answer` as `sentence` spells it, with a capital; empty when the sentence lacks it."""
    found = find_gold(answer, sentence)
    return found.group()[:1].upper() + found.group()[1:] if found else ""


def answer_kind(answer: str) -> str:
    """A coarse type, so that an exchanged answer stays plausible."""
    if re.fullmatch(r"(1[0-9]|20)\d\d", answer.strip()):
        return "year"
    if any(char.isdigit() for char in answer):
        return "number"
    return "name" if answer[:1].isupper() else f"words{min(len(answer.split()), 3)}"


def swap_answer(
    text: str, answers: Sequence[str], pool: Sequence[str], rng: np.random.Generator
) -> str | None:
    """`text` with its gold string exchanged everywhere for another of its kind, or None."""
    found = next((match for a in answers if (match := find_gold(a, text))), None)
    if found is None:
        return None
    kind, taken = answer_kind(found.group()), {a.lower() for a in answers}
    others = [a for a in pool if answer_kind(a) == kind and a.lower() not in taken]
    others = [a for a in others if a.lower() not in text.lower()]
    if not others:
        return None
    other = str(rng.choice(others))
    return re.sub(gold_pattern(found.group()), lambda _: other, text, flags=re.IGNORECASE)


def crop(passage: Passage, keep: str, max_words: int, rng: np.random.Generator) -> Passage:
    """A run of whole sentences of `passage` of about `max_words`, with the sentence `keep` in it.

    With `keep` empty the run starts anywhere. Shorter contexts teach the same for fewer tokens.
    """
    sentences = split_sentences(passage.text)
    at = sentences.index(keep) if keep in sentences else int(rng.integers(len(sentences)))
    first, last = at, at + 1
    words = len(sentences[at].split())
    while first > 0 or last < len(sentences):
        forward = first == 0 or (last < len(sentences) and rng.random() < 0.5)
        words += len(sentences[last if forward else first - 1].split())
        if words > max_words:
            break
        first, last = (first, last + 1) if forward else (first - 1, last)
    text = " ".join(sentences[first:last])
    return Passage(id=passage.id, title=passage.title, text=text, source=passage.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionMix:
    """How questions are turned into records; shares are probabilities, words a length.

    Of the answered questions, `aside_share` also show a supported text that does not answer,
    `swapped_share` the answer exchanged, `mixed_share` a sentence too many. Of the others,
    `lucky_share` also show the true answer, which their passage does not support.
    """

    negative_share: float = 0.4
    crop_share: float = 0.45
    crop_words: int = 60
    aside_share: float = 0.45
    swapped_share: float = 0.3
    mixed_share: float = 0.1
    lucky_share: float = 0.5


def question_records(
    item: LabelledQuestion, pool: Sequence[str], mix: QuestionMix, rng: np.random.Generator
) -> list[GeneratorRecord]:
    """The records of one question: what to write on one passage, and a wrong text to criticise.

    `pool` holds answers to other questions, for the exchange. Empty when the gold passage has no
    fitting answer sentence.
    """
    target = answer_sentence(item.question, item.answers, item.gold.text)
    if target is None:
        return []
    if item.negatives and rng.random() < mix.negative_share:
        return _negative_records(item, target, mix, rng)
    return _positive_records(item, target, pool, mix, rng)


def _positive_records(
    item: LabelledQuestion,
    target: str,
    pool: Sequence[str],
    mix: QuestionMix,
    rng: np.random.Generator,
) -> list[GeneratorRecord]:
    cropped = rng.random() < mix.crop_share
    passage = crop(item.gold, target, mix.crop_words, rng) if cropped else item.gold
    answer = next(a for a in item.answers if find_gold(a, target))
    right = answer_text(answer, target)
    lead = answer_lead(answer, target)
    records = [
        answer_record(item, passage, "right", right, Support.FULL, utility=Utility.U5, answer=lead)
    ]
    kind = rng.choice(
        ["aside", "swapped", "mixed", "none"],
        p=[
            mix.aside_share,
            mix.swapped_share,
            mix.mixed_share,
            1 - mix.aside_share - mix.swapped_share - mix.mixed_share,
        ],
    )
    if kind == "aside" and (aside := _aside(item, passage, rng)):
        records.append(_critique(item, passage, "aside", aside, Support.FULL, Utility.U2))
    elif kind == "swapped" and (wrong := swap_answer(right, item.answers, pool, rng)):
        records.append(_critique(item, passage, "swapped", wrong, Support.NONE, Utility.U1))
    elif kind == "mixed" and item.negatives:
        foreign = str(rng.choice(split_sentences(str(item.negatives[0].text))))
        both = f"{right} {foreign}"
        records.append(_critique(item, passage, "mixed", both, Support.PARTIAL, Utility.U4))
    return records


# A name or a number in the middle of a sentence: what a wrong short answer looks like.
_SPAN = re.compile(r"(?<= )(?:[A-Z][\w'-]+(?: [A-Z][\w'-]+)*|\d[\d,.]*\d|\d)")


def _aside(item: LabelledQuestion, passage: Passage, rng: np.random.Generator) -> str | None:
    """What the passage says and the question did not ask, in the form of an answer."""
    for other in rng.permutation(np.array(item.elsewhere, dtype=object)):
        sentence = answer_sentence("", (other,), passage.text)
        if sentence is not None and not holds_gold(sentence, item.answers):
            return answer_text(other, sentence)
    others = [s for s in split_sentences(passage.text) if not holds_gold(s, item.answers)]
    if not others:
        return None
    sentence = str(rng.choice(others))
    spans = _SPAN.findall(sentence)
    return answer_text(str(rng.choice(spans)) if spans else "", sentence)


def _negative_records(
    item: LabelledQuestion, target: str, mix: QuestionMix, rng: np.random.Generator
) -> list[GeneratorRecord]:
    passage = item.negatives[int(rng.integers(len(item.negatives)))]
    if rng.random() < mix.crop_share:
        passage = crop(passage, "", mix.crop_words, rng)
    honest = refusal_record(
        f"{item.id}/irrelevant", item.dataset, item.question, passage, group=item.id
    )
    if rng.random() < 1 - mix.lucky_share:
        return [honest]
    # The true answer on a passage that does not hold it: right by luck, supported by nothing.
    answer = next(a for a in item.answers if find_gold(a, target))
    text = answer_text(answer, target)
    return [
        honest,
        _critique(item, passage, "unsupported", text, Support.NONE, None, relevant=False),
    ]


def answer_record(
    item: LabelledQuestion,
    passage: Passage,
    name: str,
    text: str,
    support: Support,
    *,
    utility: Utility | None,
    answer: str = "",
    learn_text: bool = True,
    learn_relevance: bool = True,
) -> GeneratorRecord:
    """A passage that answers a question, and a text on it, which begins with the short `answer`."""
    segment = SegmentRecord(
        retrieve=Retrieve.YES,
        passage=passage,
        relevance=Relevance.RELEVANT,
        text=text,
        answer=answer,
        support=support,
        learn_text=learn_text,
        learn_relevance=learn_relevance,
    )
    return GeneratorRecord(
        id=f"{item.id}/{name}",
        dataset=item.dataset,
        group=item.id,
        instruction=item.question,
        segments=(segment,),
        utility=utility,
    )


def _critique(
    item: LabelledQuestion,
    passage: Passage,
    name: str,
    text: str,
    support: Support,
    utility: Utility | None,
    *,
    relevant: bool = True,
) -> GeneratorRecord:
    return answer_record(
        item,
        passage,
        name,
        text,
        support,
        utility=utility,
        learn_text=False,
        learn_relevance=relevant,
    )


def refusal_record(
    identity: str, dataset: str, question: str, passage: Passage, *, group: str = ""
) -> GeneratorRecord:
    """A passage that does not answer the question, and the sentence that says so."""
    segment = SegmentRecord(
        retrieve=Retrieve.YES,
        passage=passage,
        relevance=Relevance.IRRELEVANT,
        text=NOT_IN_PASSAGE,
    )
    return GeneratorRecord(
        id=identity,
        dataset=dataset,
        group=group,
        instruction=question,
        segments=(segment,),
        utility=Utility.U1,
    )


def relevance_record(
    identity: str,
    dataset: str,
    question: str,
    passage: Passage,
    relevance: Relevance,
    *,
    group: str = "",
) -> GeneratorRecord:
    """A passage of which the relevance alone is learned."""
    segment = SegmentRecord(retrieve=Retrieve.YES, passage=passage, relevance=relevance)
    return GeneratorRecord(
        id=identity, dataset=dataset, group=group, instruction=question, segments=(segment,)
    )


def retrieval_record(identity: str, dataset: str, question: str) -> GeneratorRecord:
    """A question that needs retrieval; only the decision is learned."""
    return GeneratorRecord(
        id=identity,
        dataset=dataset,
        instruction=question,
        segments=(SegmentRecord(retrieve=Retrieve.YES),),
    )


def no_retrieval_record(
    identity: str, dataset: str, instruction: str, output: str
) -> GeneratorRecord:
    """An instruction that needs none; without an `output` only the decision is learned."""
    return GeneratorRecord(
        id=identity,
        dataset=dataset,
        instruction=instruction,
        segments=(SegmentRecord(retrieve=Retrieve.NO, text=output),),
        utility=Utility.U5 if output else None,
    )


TOPIC_TEMPLATES = (
    "Tell me about {}.",
    "Write a short paragraph about {}.",
    "What can you tell me about {}?",
    "Describe {} in a few sentences.",
    "Tell me a bio of {}.",
    "Give me an overview of {}.",
)


def topic_record(
    identity: str, title: str, passages: Sequence[Passage], rng: np.random.Generator
) -> GeneratorRecord | None:
    """A long answer about `title`, a segment a passage; None when no sentences fit.

    Some passages give a second sentence, behind the token that continues their evidence.
    """
    segments: list[SegmentRecord] = []
    for passage in passages:
        fitting = [s for s in split_sentences(passage.text) if 5 <= len(s.split()) <= 32][:2]
        if not fitting:
            return None
        segments.append(
            SegmentRecord(
                retrieve=Retrieve.YES,
                passage=passage,
                relevance=Relevance.RELEVANT,
                text=fitting[0],
                support=Support.FULL,
            )
        )
        if len(fitting) > 1 and rng.random() < 0.5:
            more = SegmentRecord(retrieve=Retrieve.CONTINUE, text=fitting[1], support=Support.FULL)
            segments.append(more)
    template = TOPIC_TEMPLATES[int(rng.integers(len(TOPIC_TEMPLATES)))]
    return GeneratorRecord(
        id=identity,
        dataset="topics",
        instruction=template.format(title),
        segments=tuple(segments),
        utility=Utility.U5,
    )


def by_title(passages: Mapping[str, Passage]) -> dict[str, list[Passage]]:
    """Passages grouped by title, in corpus order."""
    groups: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages.values():
        groups[passage.title].append(passage)
    return groups


def topic_records(
    passages: Mapping[str, Passage], n_records: int, rng: np.random.Generator
) -> Iterator[GeneratorRecord]:
    """Long answers on randomly drawn titles, of one to three passages each."""
    groups = [(title, group) for title, group in by_title(passages).items() if title]
    made = 0
    for index in rng.permutation(len(groups)):
        if made == n_records:
            return
        title, group = groups[int(index)]
        chosen = [crop(p, "", 50, rng) for p in group[: int(rng.integers(1, 4))]]
        record = topic_record(f"topic-{index}", title, chosen, rng)
        if record is not None:
            yield record
            made += 1
