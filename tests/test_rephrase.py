"""Other wordings by rules: statements, rewritten and falsified sentences, questions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase import asked_otherwise, falsified, rewritten, statement

SENTENCES = (
    "In 1655, Titan was discovered by Christiaan Huygens.",
    "Titan is the largest moon of Saturn, which has rings.",
    "The band began a tour of nine cities in Norway.",
    "Ann Lee purchased the film in 1999.",
)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("Who wrote Emma?", "Jane Austen", "Jane Austen wrote Emma."),
        ("Which city hosted the games?", "London", "London hosted the games."),
        ("What is the capital of Peru?", "Lima", "The capital of Peru is Lima."),
        ("When was the school founded?", "1842", "The school was founded in 1842."),
        ("When was the school first opened?", "the 1840s", "The school was first opened in"),
        ("When was the law signed?", "May 3, 1901", "The law was signed on May 3, 1901."),
        ("Where was Ann Lee born?", "Bern", "Ann Lee was born in Bern."),
        ("In what year did the war end?", "1945", "The war ended in 1945."),
        ("What did Ann Lee write?", "poems", "Ann Lee wrote poems."),
        ("How many people live in Bern?", "140,000 people", "140,000 people live in Bern."),
        ("When was the treaty signed?", "twice", None),  # no date, and no preposition
        ("What is it used for?", "rain", None),
        ("Why did the war end?", "hunger", None),
        ("", "x", None),
    ],
)
def test_a_question_and_its_answer_become_a_statement_or_nothing(question, answer, told):
    said = statement(question, answer)
    assert said is None if told is None else said is not None and said.startswith(told)


@given(SEEDS, st.sampled_from(SENTENCES))
def test_a_rewritten_sentence_differs_and_keeps_names_and_numbers_apart_from_what_it_drops(
    seed, sentence
):
    other = rewritten(sentence, "Titan", np.random.default_rng(seed))
    assert other is not None and other != sentence
    numbers = [word for word in "1655 1999 nine".split() if word in other.lower()]
    assert numbers == [word for word in "1655 1999 nine".split() if word in sentence.lower()]


def test_each_rule_of_rewriting_says_the_same():
    rng = np.random.default_rng(0)
    made = {rewritten(SENTENCES[0], "", np.random.default_rng(seed)) for seed in range(40)}
    assert "Titan was discovered by Christiaan Huygens in 1655." in made
    assert rewritten("It rains.", "", rng) is None


@given(SEEDS, st.sampled_from(SENTENCES))
def test_a_falsified_sentence_has_one_fact_exchanged(seed, sentence):
    other = falsified(sentence, ["Jane Austen", "Lima"], np.random.default_rng(seed))
    assert other is not None and other != sentence
    assert len(set(other.split()) ^ set(sentence.split())) <= 6


def test_what_has_no_fact_to_exchange_is_not_falsified():
    assert falsified("Rain falls.", [], np.random.default_rng(0)) is None


@given(SEEDS)
def test_a_changed_number_is_another_number_of_as_many_digits(seed):
    rng = np.random.default_rng(seed)
    assert falsified("it costs 7,250.5 francs", [], rng) != "it costs 7,250.5 francs"
    year = falsified("it fell in 1655", [], rng)
    assert year is not None and 1625 <= int(year.split()[-1]) <= 1685 and "1655" not in year


@given(SEEDS)
def test_a_question_keeps_its_names_in_other_words(seed):
    rng = np.random.default_rng(seed)
    for question in ("When was Titan found?", "Who wrote Emma?", "How many moons are there?"):
        other = asked_otherwise(question, rng)
        assert other.strip()
        assert all(name in other for name in ("Titan", "Emma", "moons") if name in question)


def test_known_wordings():
    def made(question):
        return {asked_otherwise(question, np.random.default_rng(seed)) for seed in range(30)}

    assert "In which year was Titan found?" in made("When was Titan found?")
    assert "What planet has the moon Titan?" in made("Which planet has the moon Titan?")
    assert "Who is the author of Emma?" in made("Who wrote Emma?")
