"""Whether a gold string stands in a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.text import find_gold, holds_gold


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


def test_letter_case_counts_where_it_is_asked_for():
    found = find_gold("A", "a dog, then A", as_spelt=True)
    assert found is not None and found.start() == 12
    assert find_gold("A", "a dog", as_spelt=True) is None


WORDS = st.lists(st.text("abc", min_size=1, max_size=3), max_size=6)


@given(WORDS, st.text("abc", min_size=1, max_size=3))
def test_a_word_is_held_where_it_is_among_the_words(words, answer):
    assert holds_gold(" ".join(words).upper(), [f" {answer} "]) == (answer in words)
