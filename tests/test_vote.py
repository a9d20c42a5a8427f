"""Closed sets: which choice a text gives, and the vote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.decode.closed_set import choice_of, normalise, vote


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The Eiffel Tower!", "eiffel tower"), ("A", "a"), ("  an  apple. ", "apple"), ("", "")],
)
def test_normal_form(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("text", "choices", "given_choice"),
    [
        ("True.", ("true", "false"), "true"),
        ("false", ("true", "false"), "false"),
        ("True, because water is wet; the false one is fire.", ("true", "false"), "true"),
        ("I think it is false", ("true", "false"), "false"),
        ("true or false", ("false", "true"), "true"),
        ("It is true, not false", ("true", "false"), None),  # both stand in it
        ("A", ("A", "B"), "A"),
        ("B. Water", ("A", "B"), "B"),
        ("A. Water", ("A", "B"), "A"),  # an article, were it not the whole first word
        ("The answer is A", ("A", "B"), "A"),
        ("It is a dog", ("A", "B"), None),  # an article, not choice A
        ("the Eiffel Tower", ("Eiffel Tower", "Big Ben"), "Eiffel Tower"),
        ("Apple", ("A", "B"), None),  # the released substring test would say A
        ("New York City", ("New York", "New York City"), "New York City"),
        ("", ("A", "B"), None),
    ],
)
def test_the_choice_that_a_text_gives(text, choices, given_choice):
    assert choice_of(text, choices) == given_choice


def test_scores_of_equal_answers_add_up():
    # true: 1.5 + 0.25, false: 1.6; the text without a choice has no vote.
    sums = vote(["true", "False.", "True!", "maybe"], [1.5, 1.6, 0.25, 9.0], ("true", "false"))
    assert sums == {"true": 1.75, "false": 1.6}
    assert list(sums) == ["true", "false"]


@given(st.lists(st.tuples(st.sampled_from(["A", "b.", "C!", "?"]), st.integers(-5, 5))))
def test_the_order_of_candidates_does_not_matter(votes):
    texts, scores = [t for t, _ in votes], [float(s) for _, s in votes]
    forward = vote(texts, scores, ("A", "B", "C"))
    backward = vote(texts[::-1], scores[::-1], ("A", "B", "C"))
    assert list(forward.items()) == list(backward.items())
