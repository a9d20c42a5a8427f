"""Records from labelled questions: the right sentence, the right critique."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelled import (
    LabelledQuestion,
    QuestionMix,
    answer_kind,
    answer_lead,
    answer_sentence,
    answer_text,
    crop,
    question_records,
    swap_answer,
    topic_record,
)
from mix import is_held_out
from selfrag.passage import Passage
from selfrag.reflection import Relevance, Support, Utility
from selfrag.text import split_sentences
from sets import untokenise

TEXT = (
    "Saturn is a planet with rings. Titan, the largest moon of Saturn, was discovered in 1655. "
    "It has a thick atmosphere made of nitrogen. Huygens landed there in 2005."
)
GOLD = Passage(id="g", title="Titan", text=TEXT)
OTHER = Passage(id="o", title="Mars", text="Mars has two small moons. Both were found in 1877.")


ONLY = {"negative_share": 0.0, "crop_share": 0.0, "aside_share": 0.0, "swapped_share": 0.0}
ONLY |= {"mixed_share": 0.0}


def question(negatives=(OTHER,), elsewhere=()):
    return LabelledQuestion(
        id="q",
        dataset="made",
        question="When was Titan discovered?",
        answers=("1655",),
        gold=GOLD,
        negatives=tuple(negatives),
        elsewhere=tuple(elsewhere),
    )


def test_the_answer_is_the_sentence_that_holds_the_gold_string():
    found = answer_sentence("When was Titan discovered?", ["1655"], TEXT)
    assert found == "Titan, the largest moon of Saturn, was discovered in 1655."


def test_of_several_sentences_the_one_closest_to_the_question_is_taken():
    found = answer_sentence("Which planet has the moon Titan?", ["Saturn"], TEXT)
    assert found == "Titan, the largest moon of Saturn, was discovered in 1655."


def test_swapping_keeps_the_kind_of_answer():
    rng = np.random.default_rng(0)
    sentence = "Titan was discovered in 1655."
    swapped = swap_answer(sentence, ["1655"], ["Saturn", "1655", "1877", "nitrogen"], rng)
    assert swapped == "Titan was discovered in 1877."
    both = swap_answer(f"1655. {sentence}", ["1655"], ["1877"], rng)
    assert both == "1877. Titan was discovered in 1877."
    assert swap_answer(sentence, ["1655"], ["Saturn"], rng) is None
    assert answer_kind("1655") == "year"
    assert answer_kind("12 km") == "number"
    assert answer_kind("Saturn") == "name"


@pytest.mark.parametrize(
    ("answer", "sentence", "text", "lead"),
    [
        ("saturn", "It orbits Saturn.", "Saturn. It orbits Saturn.", "Saturn"),
        ("its moons", "See its moons.", "Its moons. See its moons.", "Its moons"),
        ("the U.S.", "Born in the U.S. in 1900.", "The U.S. Born in the U.S. in 1900.", "The U.S."),
        ("Mars", "It orbits Saturn.", "It orbits Saturn.", ""),
    ],
)
def test_an_answer_begins_with_the_gold_string_as_the_sentence_spells_it(
    answer, sentence, text, lead
):
    assert answer_text(answer, sentence) == text
    assert answer_lead(answer, sentence) == lead


def test_an_answer_to_another_question_is_supported_but_of_little_use():
    mix = QuestionMix(**{**ONLY, "aside_share": 1.0})
    rng = np.random.default_rng(0)
    _, aside = question_records(question(elsewhere=["nitrogen"]), [], mix, rng)
    assert aside.segments[0].text == "Nitrogen. It has a thick atmosphere made of nitrogen."
    assert aside.segments[0].support is Support.FULL
    assert aside.utility is Utility.U2
    assert not aside.segments[0].learn_text


def test_without_other_questions_a_name_or_number_of_another_sentence_serves():
    mix = QuestionMix(**{**ONLY, "aside_share": 1.0})
    _, aside = question_records(question(), [], mix, np.random.default_rng(3))
    assert "1655" not in aside.segments[0].text
    sentences = split_sentences(TEXT)
    assert any(aside.segments[0].text.endswith(sentence) for sentence in sentences)


def test_a_sentence_of_another_passage_makes_support_partial():
    mix = QuestionMix(**{**ONLY, "mixed_share": 1.0})
    right, mixed = question_records(question(), [], mix, np.random.default_rng(0))
    assert mixed.segments[0].text.startswith(right.segments[0].text)
    assert mixed.segments[0].support is Support.PARTIAL


def test_a_gold_passage_teaches_the_answer_and_a_critique():
    rng = np.random.default_rng(0)
    mix = QuestionMix(**{**ONLY, "swapped_share": 1.0})
    records = question_records(question(), ["1877", "1781"], mix, rng)
    right, wrong = records
    sentence = "Titan, the largest moon of Saturn, was discovered in 1655."
    assert right.segments[0].text == f"1655. {sentence}"
    assert right.segments[0].answer == "1655"
    assert right.segments[0].support is Support.FULL
    assert wrong.segments[0].support is Support.NONE
    assert "1655" not in wrong.segments[0].text
    assert right.utility is Utility.U5
    assert wrong.segments[0].learn_text is False
    assert right.group == wrong.group


def test_a_passage_without_the_answer_teaches_honesty_and_no_support():
    rng = np.random.default_rng(0)
    honest, lucky = question_records(
        question(), [], QuestionMix(negative_share=1.0, lucky_share=1.0), rng
    )
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
