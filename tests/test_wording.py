"""How words of a claim meet a passage, and what speaks against it. Worked by hand."""

import numpy as np
import pytest

from selfrag.decode.grounding import Grounding, Verdict, contradiction, features, verdict_of
from selfrag.decode.wording import compare

TITAN = "It was found in 1655 by Christiaan Huygens. Titan is the largest moon of Saturn."


def test_shares_are_of_content_words():
    # Of {titan, largest, moon, jupiter} the second sentence lacks "jupiter"; so does the passage.
    found = compare("Titan is the largest moon of Jupiter.", "", TITAN)
    assert (found.in_passage, found.in_sentence) == (0.75, 0.75)
    assert found.nearest == "Titan is the largest moon of Saturn."
    assert found.new_names == 1.0  # Jupiter; Titan begins the sentence
    assert contradiction(found) == "the passage has Saturn"  # "of" comes before both


def test_a_title_counts_as_said():
    found = compare("Titan was found by Huygens.", "Titan", "It was found by Huygens.")
    assert found.in_sentence == 1.0


def test_another_number_in_the_same_sentence_contradicts():
    found = compare("It was found in 1755 by Christiaan Huygens.", "", TITAN)
    assert found.new_numbers == 1.0
    assert (found.besides_numbers, found.other_numbers) == (1.0, ("1655",))
    assert contradiction(found) == "the passage has 1655"


def test_a_number_that_the_passage_has_elsewhere_contradicts_nothing():
    text = "It was found in 1655 by Huygens. In 1755 a book was printed."
    assert compare("It was found in 1755 by Huygens.", "", text).other_numbers == ()


def test_numbers_in_words_and_digits_are_equal():
    found = compare("It has 3 moons and 1,200 craters.", "", "It has three moons and 1200 craters.")
    assert (found.new_numbers, found.other_numbers) == (0.0, ())


def test_a_negation_on_one_side_contradicts():
    found = compare("Titan is not the largest moon of Saturn.", "", TITAN)
    assert contradiction(found) == "it is negated in one of both"
    assert contradiction(compare("Titan isn't large.", "", "Titan is never large.")) == ""


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ("Titan has 3 moons.", "Titan has 1655 moons."),  # a year is no count
        ("Titan has more than 3 moons.", "Titan has 5 moons."),  # a bound
        ("Titan has 3 moons.", "Titan has over 2 moons."),
        ("Titan has large moons.", "Titan has not only large moons."),
        ("Rhea has 3 large moons.", "Titan has 5 large moons."),  # of another name
        ("Rhea is the largest moon of Jupiter.", TITAN),  # of another subject
        ("The Prado was built by Leon.", "The Louvre was built by Leon."),
        ("Titan is a cold moon seen by Voyager.", TITAN),  # which says something else
    ],
)
def test_what_is_no_contradiction(claim, text):
    assert contradiction(compare(claim, "", text)) == ""


def test_other_words_contradict_nothing():
    found = compare("Titan has no rings of ice in 1755.", "", TITAN)
    assert contradiction(found) == ""


def test_a_claim_or_a_passage_of_no_words_meets_nothing():
    assert compare("", "", TITAN).in_passage == 0.0
    found = compare("Titan is red.", "", "")
    assert (found.in_passage, found.in_sentence, found.nearest) == (0.0, 0.0, "")


RELEVANCE, SUPPORT = np.array([-2.0, -0.5]), np.array([-0.5, -3.0, -20.0])


def test_features_are_ratios_in_nats_and_shares():
    wording = compare("Titan is the largest moon of Jupiter.", "", TITAN)
    found = features(RELEVANCE, SUPPORT, wording)
    # relevant over irrelevant 1.5; full over none 19.5, cut at 8; partial over none 17, cut at 8.
    assert list(found[:3]) == [1.5, 8.0, 8.0]
    assert list(found[3:5]) == [0.75, 0.75]


def test_a_fitted_probability_is_logistic():
    wording = compare("Titan is the largest moon of Jupiter.", "", TITAN)
    grounding = Grounding(weights={"relevance": 2.0, "in_passage": 4.0}, bias=-6.0)
    # -6 + 2 * 1.5 + 4 * 0.75 = 0
    assert grounding.judge(RELEVANCE, SUPPORT, wording).probability == pytest.approx(0.5)
    assert grounding.is_fitted and not Grounding().is_fitted


@pytest.mark.parametrize(
    ("probability", "is_contradicted", "verdict"),
    [
        (0.6, False, Verdict.SUPPORTED),
        (0.6, True, Verdict.SUPPORTED),
        (0.4, False, Verdict.PARTIAL),
        (0.4, True, Verdict.CONTRADICTED),
        (0.1, False, Verdict.UNSUPPORTED),
        (0.1, True, Verdict.CONTRADICTED),
    ],
)
def test_verdicts_follow_the_bounds(probability, is_contradicted, verdict):
    grounding = Grounding(supported=0.5, partial=0.3)
    assert verdict_of(probability, grounding, is_contradicted=is_contradicted) is verdict
