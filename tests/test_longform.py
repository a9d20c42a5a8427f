"""Long answers made from labelled sets: which segments, from which passages, and how they end."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from labelled import NOT_IN_PASSAGE, LabelledQuestion
from longform import (
    LONG_TEMPLATES,
    LongMix,
    ambiguous_record,
    biography_records,
    closed,
    reading,
    two_part_record,
)
from selfrag.engine.scripted import ScriptedTokenizer
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Relevance, Retrieve, Support, Utility
from selfrag.train.examples import LossWeights, encode_row

ORBIT = "Titan is the largest moon that orbits Saturn."
AIR = "Its air is mostly nitrogen and thicker than ours."
GOLD = Passage(id="g", title="Titan", text=f"{ORBIT} {AIR} It was found in 1655.")
FOUND = Passage(id="f", title="Huygens", text="Christiaan Huygens found the moon Titan in 1655.")
RELATED = Passage(id="r", title="Moons", text="The largest moon of the planet Saturn is Titan.")
NEGATIVE = Passage(id="n", title="Mars", text="Mars has two small moons. Neither of them has air.")
WHICH = LabelledQuestion(
    id="q1",
    dataset="squad",
    question="Which planet does the largest moon Titan orbit?",
    answers=("Saturn",),
    gold=GOLD,
    negatives=(NEGATIVE,),
)
WHEN = LabelledQuestion(
    id="q2",
    dataset="squad",
    question="When was Titan found?",
    answers=("1655",),
    gold=FOUND,
    negatives=(),
)
WHOLE = LongMix(continued=0, closed_by_passage=0, refused=0, crop_share=0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def texts(record):
    return [segment.text for segment in record.segments]


def test_a_long_answer_takes_what_related_passages_add(rng):
    record = ambiguous_record(WHICH, [RELATED], WHOLE, rng)
    assert any(record.instruction == t.format(WHICH.question) for t in LONG_TEMPLATES)
    assert texts(record) == [f"Saturn. {ORBIT}", RELATED.text]
    assert record.segments[0].answer == "Saturn"
    assert [segment.passage.id for segment in record.segments] == ["g", "r"]
    assert {segment.support for segment in record.segments} == {Support.FULL}
    assert record.utility is Utility.U5


def test_a_passage_that_shares_little_with_the_question_adds_nothing(rng):
    far = Passage(id="far", title="Rome", text="Saturn was a god of the Romans long ago.")
    same = Passage(id="same", title="Moon", text=f"{ORBIT}")
    record = ambiguous_record(WHICH, [far, same, same], WHOLE, rng)
    assert texts(record) == [f"Saturn. {ORBIT}", ORBIT]


def test_the_next_sentence_is_continued_evidence(rng):
    mix = LongMix(continued=1, closed_by_passage=0, refused=0, crop_share=0)
    record = ambiguous_record(WHICH, [], mix, rng)
    assert texts(record) == [f"Saturn. {ORBIT}", AIR]
    more = record.segments[1]
    assert (more.retrieve, more.passage, more.relevance) == (Retrieve.CONTINUE, None, None)


def test_an_answer_may_end_on_a_passage_that_adds_nothing(rng):
    segments = [reading(GOLD, ORBIT)]
    mix = LongMix(closed_by_passage=1, crop_share=0)
    *before, last = closed(segments, NEGATIVE, mix, rng)
    assert before == segments
    assert (last.passage, last.relevance, last.text) == (NEGATIVE, Relevance.IRRELEVANT, "")
    assert last.support is None
    assert closed(segments, None, mix, rng) == tuple(segments)
    assert closed(segments, NEGATIVE, WHOLE, rng) == tuple(segments)


def test_a_first_passage_that_does_not_answer_is_refused(rng):
    record = ambiguous_record(WHICH, [], LongMix(refused=1, crop_share=0), rng)
    assert texts(record) == [NOT_IN_PASSAGE]
    assert record.segments[0].relevance is Relevance.IRRELEVANT
    assert record.utility is Utility.U1


def test_two_questions_are_answered_each_from_its_own_passage(rng):
    orders, asked = Counter(), set()
    for _ in range(40):
        record = two_part_record(WHICH, WHEN, WHOLE, rng)
        orders[tuple(segment.passage.id for segment in record.segments)] += 1
        asked.add(record.instruction)
        assert {s.text.split(".")[0] for s in record.segments} == {"Saturn", "1655"}
    assert set(orders) == {("g", "f"), ("f", "g")}
    assert orders["g", "f"] > orders["f", "g"]
    assert "Which planet does the largest moon Titan orbit, and when was Titan found?" in asked


def test_a_question_without_an_answer_sentence_gives_no_record(rng):
    lost = replace(WHEN, question="Who?", answers=("Cassini",), gold=GOLD)
    assert ambiguous_record(lost, [], WHOLE, rng) is None
    assert two_part_record(WHICH, lost, WHOLE, rng) is None


BIO = {
    "entity": "Ada Vale",
    "passages": [
        {
            "title": "Ada Vale",
            "text": "Ada Vale Ada Vale was a painter of the north coast. She was born in",
        },
        {
            "title": "Ada Vale (rower)",
            "text": "Ada Vale (rower) Ada Vale rowed for her country twice. She won",
        },
        {
            "title": "Ada Vale",
            "text": "ran home. Her best known pictures hang in the town hall. They were",
        },
    ],
}


def test_a_biography_uses_passages_of_that_name_and_no_half_sentences(rng):
    (record,) = biography_records([BIO], WHOLE, rng)
    assert texts(record) == [
        "Ada Vale was a painter of the north coast.",
        "Her best known pictures hang in the town hall.",
    ]
    assert not record.segments[0].passage.text.startswith("Ada Vale Ada Vale")


def test_a_biography_begins_with_another_passage_where_that_is_asked_for():
    def first(shuffled, seed):
        mix = replace(WHOLE, shuffled=shuffled)
        (record,) = biography_records([BIO], mix, np.random.default_rng(seed))
        return texts(record)[0]

    assert {first(0.0, seed) for seed in range(20)} == {
        "Ada Vale was a painter of the north coast."
    }
    assert len({first(1.0, seed) for seed in range(20)}) == 2


def test_stored_passages_are_read_as_they_are_and_whole_sentences_written():
    wrapped = {
        "title": "Ada Vale",
        "text": "Paris until 1920. She taught there for ten years. Ada Vale Ada Vale was a painter "
        "of the north coast. She was born in",
    }
    row = {**BIO, "passages": [BIO["passages"][0], wrapped, BIO["passages"][2]]}
    mix = replace(WHOLE, stored=True, continued=1)
    for seed in range(20):
        (record,) = biography_records([row], mix, np.random.default_rng(seed))
        assert texts(record) == [
            "Ada Vale was a painter of the north coast.",
            "She taught there for ten years.",
            "Her best known pictures hang in the town hall.",
        ]
        passages = [segment.passage for segment in record.segments]
        assert [each.text for each in passages] == [each["text"] for each in row["passages"]]


def test_a_namesake_is_refused(rng):
    unknown = {**BIO, "entity": "Ada Vale (poet)"}
    (record,) = biography_records([unknown], WHOLE, rng)
    assert texts(record) == [NOT_IN_PASSAGE]
    both = list(biography_records([BIO], LongMix(refused=1, crop_share=0), rng))
    assert [record.id for record in both] == ["bio-0/refused", "bio-0/bio"]
    assert both[0].segments[0].passage.title == "Ada Vale (rower)"


def test_a_closing_passage_is_learned_as_two_decisions_and_no_text(rng):
    fmt = PromptFormat.of(ScriptedTokenizer())
    mix = LongMix(continued=0, closed_by_passage=1, refused=0, crop_share=0)
    record = ambiguous_record(WHICH, [], mix, rng)
    encoded = encode_row(record, fmt, LossWeights())
    learned = [i for i, w in zip(encoded.ids, encoded.weights, strict=True) if w > 0]
    assert learned[-4:] == [
        fmt.ids[Retrieve.YES],
        fmt.ids[Relevance.IRRELEVANT],
        fmt.ids[Utility.U5],
        fmt.ids.end_of_sequence,
    ]
