"""Whether a gold string occurs in a text, and what is a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.errors import BadInput
from selfrag.text import (
    counted,
    find_gold,
    first_sentence,
    holds_gold,
    require_text,
    split_sentences,
)


@pytest.mark.parametrize(
    ("text", "answers", "held"),
    [
        ("He was born in Paris.", ["paris"], True),
        ("He saw ROME.", ["Lima", "Rome"], True),
        ("A comparison", ["paris"], False),
        ("Romeo", ["Rome"], False),
        ("about 3.5 m", ["3.5"], True),
        ("about 345 m", ["3.5"], False),
        ("anything", [" "], False),
        ("anything", [], False),
    ],
)
def test_gold_strings_match_whole_words_only(text, answers, held):
    assert holds_gold(text, answers) is held


def test_a_count_is_in_the_number_of_its_noun():
    assert [counted(n, "passage") for n in (0, 1, 2)] == ["0 passages", "1 passage", "2 passages"]
    assert counted(2, "query", "queries") == "2 queries"


def test_letter_case_counts_where_it_is_asked_for():
    found = find_gold("A", "a dog, then A", as_spelt=True)
    assert found is not None and found.start() == 12
    assert find_gold("A", "a dog", as_spelt=True) is None


WORDS = st.lists(st.text("abc", min_size=1, max_size=3), max_size=6)


@given(WORDS, st.text("abc", min_size=1, max_size=3))
def test_a_word_is_held_where_it_is_among_the_words(words, answer):
    assert holds_gold(" ".join(words).upper(), [f" {answer} "]) == (answer in words)


@pytest.mark.parametrize("text", ["\ud800", "a\udcff", "\udc00\ud800 b", "x" * 50 + "\udfff"])
def test_half_a_surrogate_pair_is_no_text(text):
    with pytest.raises(BadInput, match="bytes that are not UTF-8, or half a surrogate pair"):
        require_text(text)


@given(st.text())
def test_all_other_text_is_text(text):
    assert require_text(text) is text


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Saturn. Titan is its largest moon.", "Saturn."),
        ("Mr. Brown. A film of 1962.", "Mr. Brown."),
        ("J. R. R. Tolkien. He wrote it.", "J. R. R. Tolkien."),
        ("It cost 3.5 million. Much.", "It cost 3.5 million."),
        ('He said "Never." Then he left.', 'He said "Never."'),
        ("Really?! Yes.", "Really?!"),
        ("the U.S. government paid it. All of it.", "the U.S. government paid it."),
        ("in Washington, D.C. It was", "in Washington, D.C. It was"),  # an abbreviation
        ("one sentence without an end ", "one sentence without an end"),
        (". A", "."),
        ("", ""),
    ],
)
def test_the_first_sentence_of_a_text(text, first):
    assert first_sentence(text) == first


@given(st.text('ab.!? \n"A'))
def test_a_first_sentence_begins_the_text(text):
    assert text.strip().startswith(first_sentence(text))
    assert first_sentence(first_sentence(text)) == first_sentence(text)


def test_sentences_without_space_between_end_with_their_mark():
    text = "\u571f\u661f\u3002\u5b83\u5927\uff01\u300d \u5b83\u3002 It is so. Yes"
    assert split_sentences(text) == [
        "\u571f\u661f\u3002",
        "\u5b83\u5927\uff01\u300d",
        "\u5b83\u3002",
        "It is so.",
        "Yes",
    ]
