"""Records from labelled questions: the right sentence, the right critique."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selfrag.passage import Passage
from selfrag.reflection import Relevance, Support, Utility
from selfrag.train.labelled import (
    LabelledQuestion,
    QuestionMix,
    answer_kind,
    answer_sentence,
    crop,
    holds_answer,
    question_records,
    swap_answer,
    topic_record,
)
from selfrag.train.mix import is_held_out, untokenise

TEXT = (
    "Saturn is a planet with rings. Titan, the largest moon of Saturn, was discovered in 1655. "
    "It has a thick atmosphere made of nitrogen. Huygens landed there in 2005."
)
GOLD = Passage(id="g", title="Titan", text=TEXT)
OTHER = Passage(id="o", title="Mars", text="Mars has two small moons. Both were found in 1877.")


def question(negatives=(OTHER,)):
    return LabelledQuestion(
        id="q",
        dataset="made",
        question="When was Titan discovered?",
        answers=("1655",),
        gold=GOLD,
        negatives=tuple(negatives),
    )


def test_the_answer_is_the_sentence_that_holds_the_gold_string():
    found = answer_sentence("When was Titan discovered?", ["1655"], TEXT)
    assert found == "Titan, the largest moon of Saturn, was discovered in 1655."


def test_of_several_sentences_the_one_closest_to_the_question_is_taken():
    found = answer_sentence("Which planet has the moon Titan?", ["Saturn"], TEXT)
    assert found == "Titan, the largest moon of Saturn, was discovered in 1655."


def test_gold_strings_match_whole_words_only():
    assert holds_answer("He was born in Paris.", ["paris"])
    assert not holds_answer("A comparison", ["paris"])
    assert not holds_answer("anything", [" "])


def test_swapping_keeps_the_kind_of_answer():
    rng = np.random.default_rng(0)
    sentence = "Titan was discovered in 1655."
    swapped = swap_answer(sentence, ["1655"], ["Saturn", "1655", "1877", "nitrogen"], rng)
    assert swapped == "Titan was discovered in 1877."
    assert swap_answer(sentence, ["1655"], ["Saturn"], rng) is None
    assert answer_kind("1655") == "year"
    assert answer_kind("12 km") == "number"
    assert answer_kind("Saturn") == "name"


def test_a_gold_passage_teaches_the_answer_and_a_critique():
    rng = np.random.default_rng(0)
    records = question_records(
        question(), ["1877", "1781"], QuestionMix(negative_share=0.0, crop_share=0.0), rng
    )
    right, wrong = records
    assert right.segments[0].text == "Titan, the largest moon of Saturn, was discovered in 1655."
    assert right.segments[0].support is Support.FULL
    assert right.utility is Utility.U5
    assert wrong.segments[0].learn_text is False
    assert right.group == wrong.group


def test_a_passage_without_the_answer_teaches_honesty_and_no_support():
    rng = np.random.default_rng(0)
    honest, lucky = question_records(question(), [], QuestionMix(negative_share=1.0), rng)
    assert honest.segments[0].relevance is Relevance.IRRELEVANT
    assert honest.segments[0].support is None
    assert honest.utility is Utility.U1
    assert lucky.segments[0].support is Support.NONE
    assert not lucky.segments[0].learn_text
    assert not lucky.segments[0].learn_relevance


def test_a_question_without_a_fitting_sentence_teaches_nothing():
    item = LabelledQuestion(
        id="q", dataset="m", question="?", answers=("absent",), gold=GOLD, negatives=()
    )
    assert question_records(item, [], QuestionMix(), np.random.default_rng(0)) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_crop_keeps_the_sentence_and_stays_a_run_of_the_passage(seed, max_words):
    keep = "It has a thick atmosphere made of nitrogen."
    cropped = crop(GOLD, keep, max_words, np.random.default_rng(seed))
    assert keep in cropped.text
    assert cropped.text in GOLD.text
    assert len(cropped.text.split()) <= max(max_words, len(keep.split()))


def test_a_topic_uses_one_segment_a_passage():
    rng = np.random.default_rng(1)
    made = topic_record("t", "Titan", [GOLD, OTHER], rng)
    assert [s.passage for s in made.segments if s.passage] == [GOLD, OTHER]
    assert "Titan" in made.instruction


def test_spacing_of_tokenised_text_is_undone():
    assert (
        untokenise("He said , `` go '' . It 's ( not ) 5 % .") == 'He said, "go". It\'s (not) 5%.'
    )
    assert untokenise("Plain text. Left alone, ok") == "Plain text. Left alone, ok"


def test_held_out_instructions_do_not_depend_on_spacing_or_case():
    assert is_held_out("Write a  Poem") == is_held_out("write a poem")
