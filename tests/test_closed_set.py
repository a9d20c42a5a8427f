"""Closed sets: which choice a text gives, and the vote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.decode.choices import choice_of, colliding, key_of
from selfrag.decode.closed_set import vote


@pytest.mark.parametrize(
    ("choice", "key"),
    [
        ("Eiffel Tower!", "eiffel tower"),
        ("A", "a"),
        ("(A)", "a"),
        ("  an  apple. ", "an apple"),
        (".NET", ".net"),
        ("C++.", "c++"),
        ("\u22125 %", "-5%"),
        (">= 5", "≥5"),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_what_of_a_choice_has_to_occur(choice, key):
    assert key_of(choice) == key


@pytest.mark.parametrize(
    ("choices", "pair"),
    [
        (("yes", "no"), None),
        (("C", "C#", "C++", "A-", "A", "A+", "<5", ">5", "5"), None),
        (("The Who", "Who"), None),  # "The Who" says the one, "Who" the other
        (("yes", "no", "Yes."), ("yes", "Yes.")),
        (("A", "(a)"), ("A", "(a)")),
        (("don't", "don\u2019t"), ("don't", "don\u2019t")),
        (("New  York", "new york"), ("New  York", "new york")),
        (("?", "!"), None),
    ],
)
def test_choices_that_no_text_tells_apart(choices, pair):
    assert colliding(choices) == pair


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


LETTERS = ("A", "B", "C", "D")
LANGUAGES = ("C", "C#", "C++", "Java", ".NET")
GRADES = ("A+", "A", "A-", "B")
BOUNDS = ("<5", ">5", "5")
YES_NO = ("yes", "no")


@pytest.mark.parametrize(
    ("text", "choices", "given_choice"),
    [
        ("C#", LANGUAGES, "C#"),
        ("C# is what I would use.", LANGUAGES, "C#"),
        ("It is written in C#.", LANGUAGES, "C#"),
        ("It is written in C++, mostly", LANGUAGES, "C++"),
        ("It is written in C.", LANGUAGES, "C"),
        ("C#", ("C", "Java"), None),
        ("JavaScript", LANGUAGES, None),
        (".NET of course", LANGUAGES, ".NET"),
        ("A-", GRADES, "A-"),
        ("The grade is A-.", GRADES, "A-"),
        ("A", GRADES, "A"),
        ("A*", GRADES, None),
        ("A-", ("A", "B"), None),
        ("<5", BOUNDS, "<5"),
        ("< 5 people", BOUNDS, "<5"),
        ("The number is > 5.", BOUNDS, ">5"),
        ("5", BOUNDS, "5"),
        ("5.5", BOUNDS, None),
        ("1,500", ("1", "500"), None),
        ("\u22123", ("3", "-3"), "-3"),
        ("50 %", ("50", "50%"), "50%"),
        ("x = 3", ("3", "4"), "3"),
        ("#2", ("1", "2"), "2"),
        ("N/A", LETTERS, None),
        ("yes/no", YES_NO, None),
        ("No single protagonist carries the story.", YES_NO, None),
        ("There is no doubt about it.", YES_NO, None),
        ("There is no such moon", YES_NO, None),
        ("No one knows", YES_NO, None),
        ("No", YES_NO, "no"),
        ("No.", YES_NO, "no"),
        ("no, it is not", YES_NO, "no"),
        ("No it is not", YES_NO, "no"),
        ("No \u2014 Titan orbits Saturn", YES_NO, "no"),
        ("No\nTitan orbits Saturn", YES_NO, "no"),
        ("The answer is no.", YES_NO, "no"),
        ("**No**", YES_NO, "no"),
        ("Yes\u2014because it does", YES_NO, "yes"),
        ("\u201cYes,\u201d she said", YES_NO, "yes"),
        ("A dog barked", LETTERS, None),
        ("A is right", LETTERS, "A"),
        ("(B) Water", LETTERS, "B"),
        ("B) Water", LETTERS, "B"),
        ("**C.** Water", LETTERS, "C"),
        ("Answer: D", LETTERS, "D"),
        ("D's", LETTERS, None),
        ("I think it is B", ("I", "B"), "B"),
        ("Not true.", ("true", "false"), None),
        ("It is not really true.", ("true", "false"), None),
        ("This isn't supported", ("supported", "refuted"), None),
        ("I live in New York City", ("New York", "New York City"), "New York City"),
        ("not true", ("true", "not true"), "not true"),
        ("The Who", ("Who", "The Who"), "The Who"),
        ("who", ("Who", "The Who"), "Who"),
        ("vitamin b is fine", LETTERS, None),  # a letter within a text counts as spelt only
        ("It must be B, I think", LETTERS, "B"),
        ("it is yes", ("Yes", "no"), "Yes"),
        ("So New York City, not New York", ("New York", "New York City"), None),
        ("So York City is in New York City", ("New", "New York City"), "New York City"),
        ("version 1.5 it is", ("1", "5", "1.5"), "1.5"),
        ("It takes 15:30", ("15", "30"), None),
        ("see item 12, please", ("12", "1"), "12"),
        ("about item.5 hours", ("item", "5"), None),
        ("A big dog", ("the big dog", "cat"), "the big dog"),
        ("the a an apple", ("apple", "pear"), "apple"),
        ("\u201eJa\u201c sagte er", ("ja", "nein"), "ja"),
        ("Water", ("water", "Water."), None),  # options of a question that read alike
    ],
)
def test_a_choice_is_given_by_whole_words_with_their_signs_and_not_by_a_determiner(
    text, choices, given_choice
):
    assert choice_of(text, choices) == given_choice


@given(st.sampled_from([LETTERS, LANGUAGES, GRADES, BOUNDS, YES_NO]), st.data())
def test_every_choice_is_given_by_itself_however_it_is_set(choices, data):
    choice = data.draw(st.sampled_from(choices))
    text = data.draw(st.sampled_from(["{}", " {} ", "{}.", "({})", '"{}"', "**{}**", "{}, I say"]))
    assert choice_of(text.format(choice), choices) == choice


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
