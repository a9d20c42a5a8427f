"""What a pronoun stands for: names worked by hand, and silence in doubt."""

import pytest

from selfrag.decode.claims import split_claims
from selfrag.decode.subjects import opening_name, with_subject


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("Titan is the largest moon of Saturn.", "Titan"),
        ("The Eiffel Tower was built in 1889.", "The Eiffel Tower"),
        ("Leonardo da Vinci painted it.", "Leonardo da Vinci"),
        ("Titan (moon) orbits Saturn.", "Titan"),
        ("The University of Oxford has colleges.", "The University of Oxford"),
        ("In 1655 Huygens found it.", ""),
        ("Discovered in 1655, it is a moon.", ""),
        ("However, Titan is cold.", ""),
        ("The moon is cold.", ""),
        ("It is cold.", ""),
        ("", ""),
    ],
)
def test_the_name_that_opens_a_sentence(sentence, name):
    assert opening_name(sentence) == name


@pytest.mark.parametrize(
    ("sentence", "claim"),
    [
        ("It is a moon.", "Titan is a moon."),
        ("Its atmosphere is dense.", "Titan\u2019s atmosphere is dense."),
        ("It seems that Rhea is cold.", "It seems that Rhea is cold."),
        ("This is a moon.", "This is a moon."),
        ("Items are sold.", "Items are sold."),
    ],
)
def test_a_pronoun_is_replaced(sentence, claim):
    assert with_subject(sentence, "Titan") == claim
    assert with_subject(sentence, "") == sentence


def claims(text):
    return [each.claim for each in split_claims(text).sentences]


def test_a_claim_names_its_subject_and_the_text_stays():
    text = (
        "Titan is a moon of Saturn. It is cold. It was found in 1655. The moon is old. It is red."
    )
    assert claims(text) == [
        "Titan is a moon of Saturn.",
        "Titan is cold.",
        "Titan was found in 1655.",
        "The moon is old.",
        "It is red.",  # "the moon" is no name
    ]
    assert split_claims(text).sentences[1].text == "It is cold."


def test_a_main_heading_is_the_subject_of_what_follows():
    text = "# About Titan\n\nIt is cold.\n\n## History\n\nIt was found in 1655.\n"
    text += "\n# Rhea\n\nIt is very old.\n"
    assert claims(text) == ["Titan is cold.", "Titan was found in 1655.", "Rhea is very old."]
