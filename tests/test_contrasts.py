"""Records that teach support and relevance: what stands beside the right answer, and its labels."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from contrasts import (
    ContrastMix,
    claim_records,
    contrast_records,
    pair_records,
    unanswerable_records,
    wrong_answer,
)
from labelled import LabelledQuestion
from own import is_right, own_records
from pairs import Pair
from selfrag.passage import Hit, Passage
from selfrag.prompt import check_instruction
from selfrag.reflection import Relevance, Support, Utility

TEXT = (
    "Saturn has rings. Titan, a large moon of Saturn, was discovered in 1655. "
    "It was named by John Herschel. Huygens landed there in 2005."
)
GOLD = Passage(id="g", title="Titan", text=TEXT)
OTHER = Passage(id="o", title="Mars", text="Mars has two small moons. Both were found in 1877.")
ITEM = LabelledQuestion(
    id="q",
    dataset="squad",
    question="When was Titan discovered?",
    answers=("1655",),
    gold=GOLD,
    negatives=(OTHER,),
    elsewhere=("John Herschel", "2005"),
)
ALL = ContrastMix(
    crop_share=0.0,
    wrong_answer=1.0,
    swapped=1.0,
    rewritten=1.0,
    statement=1.0,
    alone=1.0,
    changed=1.0,
    aside=1.0,
    mixed=1.0,
)
LABELS = {
    "right": Support.FULL,
    "wrong-answer": Support.NONE,
    "swapped": Support.NONE,
    "rewritten": Support.FULL,
    "statement": Support.FULL,
    "false-statement": Support.NONE,
    "alone": Support.FULL,
    "wrong-alone": Support.NONE,
    "changed": Support.NONE,
    "aside": Support.FULL,
    "mixed": Support.PARTIAL,
}


def texts(seed=0, mix=ALL, item=ITEM):
    made = contrast_records(item, ["1912", "Ann Lee"], mix, np.random.default_rng(seed))
    return {record.id.split("/")[1]: record for record in made}


@pytest.mark.parametrize("seed", range(8))
def test_every_text_has_its_label_and_only_the_right_one_is_learned_word_by_word(seed):
    made = texts(seed)
    assert set(made) == set(LABELS) - ({"swapped"} - set(made))
    for kind, record in made.items():
        (segment,) = record.segments
        assert (record.instruction, record.group, segment.passage) == (ITEM.question, "q", GOLD)
        assert (segment.relevance, segment.support) == (Relevance.RELEVANT, LABELS[kind])
        assert segment.learn_text == (kind == "right")
    assert made["right"].segments[0].text.startswith("1655. Titan, a large moon")
    assert made["statement"].segments[0].text == "Titan was discovered in 1655."
    assert made["aside"].utility is Utility.U2


@pytest.mark.parametrize("seed", range(8))
def test_a_wrong_answer_stands_before_the_right_sentence(seed):
    made = texts(seed)
    lead, sentence = made["wrong-answer"].segments[0].text.split(". ", 1)
    assert lead in ("2005", "1912")
    assert "1655" in sentence and lead not in sentence
    assert made["false-statement"].segments[0].text == f"Titan was discovered in {lead}."
    assert made["wrong-alone"].segments[0].text == f"{lead}."


def test_a_wrong_answer_is_of_the_same_kind_and_never_right():
    rng = np.random.default_rng(0)
    found = {wrong_answer(ITEM, GOLD, "1655", ["1655", "1999", "Ann"], rng) for _ in range(50)}
    assert found == {"2005", "1999"}
    assert wrong_answer(replace(ITEM, elsewhere=()), OTHER, "Titan Lee", [], rng) is None


@pytest.mark.parametrize("seed", range(8))
def test_more_wrong_answers_stand_before_the_same_sentence(seed):
    made = texts(seed, mix=replace(ALL, more_wrong=20))
    target = made["right"].segments[0].text.split(". ", 1)[1]
    for kind, lead in (("wrong-answer-2", "1912"), ("wrong-answer-3", "2005")):
        (segment,) = made[kind].segments
        assert (segment.text, segment.support) == (f"{lead}. {target}", Support.NONE)


@pytest.mark.parametrize("seed", range(8))
def test_a_question_is_also_asked_of_a_found_passage_without_the_answer(seed):
    record = texts(seed, mix=replace(ALL, refused=1.0))["not-here"]
    (segment,) = record.segments
    assert (segment.passage, segment.relevance) == (OTHER, Relevance.IRRELEVANT)
    assert record.instruction == ITEM.question
    assert "not-here" not in texts(seed, mix=ALL)


def test_nothing_is_made_where_no_sentence_holds_the_answer():
    silent = replace(ITEM, answers=("1701",))
    rng = np.random.default_rng(0)
    assert contrast_records(silent, [], ALL, rng) == claim_records(silent, [], ALL, rng) == []


def test_a_claim_is_checked_without_its_question_and_is_true_or_false():
    seen = set()
    for seed in range(20):
        for record in claim_records(ITEM, ["1912"], ALL, np.random.default_rng(seed)):
            (segment,) = record.segments
            assert record.instruction == check_instruction(segment.text)
            seen.add((segment.text, segment.support))
    assert seen == {
        ("Titan was discovered in 1655.", Support.FULL),
        ("Titan was discovered in 2005.", Support.NONE),
        ("Titan was discovered in 1912.", Support.NONE),
    }


def test_a_question_about_something_else_is_not_answered_by_its_passage():
    item = replace(ITEM, question="When was the moon Titan discovered?")
    (record,) = unanswerable_records(item, ["Rhea", "John Herschel"], ALL, np.random.default_rng(0))
    assert record.instruction == "When was the moon Rhea discovered?"
    assert record.segments[0].relevance is Relevance.IRRELEVANT
    assert unanswerable_records(item, ["Saturn"], ALL, np.random.default_rng(0)) == []


PAIR = Pair(dataset="fever/x", source="s", passage=OTHER, claim="Mars has moons.")


def test_a_labelled_claim_is_judged_and_one_about_something_else_also_refused():
    (record,) = pair_records(replace(PAIR, support=Support.NONE), "p", 50)
    (segment,) = record.segments
    assert record.instruction == check_instruction(PAIR.claim) and not segment.learn_text
    assert (segment.support, record.utility) == (Support.NONE, Utility.U1)
    beside = replace(PAIR, support=Support.NONE, relevance=Relevance.IRRELEVANT)
    honest, judged = pair_records(beside, "p", 50)
    assert honest.segments[0].relevance is Relevance.IRRELEVANT
    assert not judged.segments[0].learn_relevance and honest.group == judged.group == "p"
    assert pair_records(replace(PAIR, support=Support.NONE), "p", 5) == []


def test_what_is_not_fully_attributable_is_partial_where_most_words_are_known():
    begin = replace(PAIR, dataset="begin/x", question="Hi", support=Support.PARTIAL)
    (known,) = pair_records(begin, "p", 50)
    (new,) = pair_records(replace(begin, claim="I love Jane Austen so much."), "p", 50)
    assert known.segments[0].support is Support.PARTIAL  # "mars", "has", "moons" all occur
    assert new.segments[0].support is Support.NONE
    assert known.instruction == "Hi" and known.utility is None


def test_a_question_and_a_passage_teach_relevance_alone():
    asked = replace(PAIR, claim="", question="How many moons?")
    (record,) = pair_records(asked, "p", 50)
    assert (record.segments[0].relevance, record.segments[0].text) == (Relevance.RELEVANT, "")
    (record,) = pair_records(replace(asked, relevance=Relevance.IRRELEVANT), "p", 50)
    assert record.segments[0].relevance is Relevance.IRRELEVANT


def said(passage, text, relevance=Relevance.RELEVANT):
    """What a search has written from a passage, as far as the records ask."""
    hit = Hit(passage=passage, score=1.0, rank=1)
    return SimpleNamespace(hits=(hit,), text=text, segment=SimpleNamespace(critique=(relevance,)))


def test_what_the_model_said_itself_is_labelled_by_the_gold_string():
    nodes = [
        said(GOLD, "2005. Huygens landed there in 2005."),
        said(GOLD, "1655. Titan, a large moon of Saturn, was discovered in 1655."),
        said(GOLD, "In 1655 or so. Titan, a large moon of Saturn, was discovered in 1655."),
        said(OTHER, "1877. Both were found in 1877."),
    ]
    about_gold, (refusal,) = own_records(ITEM, nodes, np.random.default_rng(0))
    assert [(r.id, r.segments[0].support, r.utility) for r in about_gold] == [
        ("q/right", Support.FULL, Utility.U5),  # the first thing said was wrong, so it is learned
        ("q/own-wrong-0", Support.NONE, Utility.U1),
        ("q/own-right-1", Support.FULL, Utility.U5),
        ("q/own-right-2", Support.FULL, Utility.U5),
    ]
    assert [r.segments[0].learn_text for r in about_gold] == [True, False, False, False]
    assert refusal.segments[0].passage == OTHER
    assert refusal.segments[0].relevance is Relevance.IRRELEVANT


def test_what_is_half_right_or_was_refused_is_no_example():
    assert is_right(ITEM, "1655. It was found.") is True and is_right(ITEM, "2005.") is False
    named = replace(ITEM, answers=("John Herschel",))
    assert is_right(named, "Herschel. It was named by John Herschel.") is None
    nodes = [
        said(GOLD, "John Herschel", Relevance.IRRELEVANT),
        said(OTHER, "Mars", Relevance.IRRELEVANT),
    ]
    (group,) = own_records(ITEM, nodes, np.random.default_rng(0))
    assert [record.id for record in group] == ["q/right"]
    assert not list(own_records(replace(ITEM, answers=("1999",)), nodes, np.random.default_rng(0)))
