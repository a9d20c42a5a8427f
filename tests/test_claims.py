"""A text split into sentences to check: places, marks, blocks kept apart. Worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.decode.claims import BlockKind, is_mostly_english, numbers_in, split_claims


def said(text):
    return [each.text for each in split_claims(text).sentences]


def places(text):
    return [text[each.start : each.end] for each in split_claims(text).sentences]


def test_marks_are_taken_out_and_remembered_with_their_places():
    text = "Titan orbits Saturn [1]. It is big.[2, 3] Both are old 【4†source】."
    first, second, third = split_claims(text).sentences
    assert [each.text for each in (first, second, third)] == [
        "Titan orbits Saturn.",
        "It is big.",
        "Both are old.",
    ]
    assert (first.numbers, second.numbers, third.numbers) == ((1,), (2, 3), (4,))
    assert text[first.start : first.end] == "Titan orbits Saturn [1]."
    assert text[second.start : second.end] == "It is big.[2, 3]"
    assert [text[mark.start : mark.end] for mark in second.marks] == ["[2, 3]"]
    assert (second.before, third.before) == ("Titan orbits Saturn.", "It is big.")


@pytest.mark.parametrize(
    ("mark", "numbers"),
    [
        ("[2]", (2,)),
        ("[^2]", (2,)),
        ("[1, 3;2]", (1, 3, 2)),
        ("[2-4]", (2, 3, 4)),
        ("[2\u20134]", (2, 3, 4)),
        ("[4-2]", (4, 2)),
        ("[1-900]", (1, 900)),
        ("[1](https://example.org)", (1,)),
        ("\u30102\u2020source\u3011", (2,)),
        ("[1, 1]", (1,)),
    ],
)
def test_a_mark_says_which_numbers(mark, numbers):
    assert numbers_in(mark) == numbers


def test_markup_is_no_part_of_what_is_said():
    text = "**Titan** is a *large* [moon](https://e.org/m) of `Saturn` by 5*3 in x_1."
    assert said(text) == ["Titan is a large moon of Saturn by 5*3 in x_1."]
    assert places(text) == [text[2:]]  # from its first character on


def test_an_index_in_code_is_no_citation():
    (sentence,) = split_claims("The call `a[1]` gives the first of them.").sentences
    assert sentence.text == "The call a[1] gives the first of them."
    assert sentence.marks == ()


def test_blocks_are_kept_apart():
    text = (
        "# Titan is a heading\n"
        "Titan orbits\nSaturn. It is cold\n"
        "\n"
        "- One item is here\n  and goes on.\n"
        "- [x] Another item is here.\n"
        "1. A third item is here.\n"
        "\n"
        "> A quote is here\n> and goes on.\n"
        "\n"
        "```py\nprint('Titan is red.')\n```\n"
        "\n"
        "    indented = 'Titan is blue.'\n"
        "\n"
        "| moon | planet |\n|---|---|\n| Titan | Saturn is here. |\n"
        "After the table it goes on.\n"
        "\n"
        "Underlined heading\n==================\n"
        "---\n"
        "The last sentence is here."
    )
    assert said(text) == [
        "Titan orbits Saturn.",
        "It is cold",
        "One item is here and goes on.",
        "Another item is here.",
        "A third item is here.",
        "A quote is here and goes on.",
        "After the table it goes on.",
        "The last sentence is here.",
    ]
    assert split_claims(text).apart == {
        BlockKind.HEADING: 2,
        BlockKind.CODE: 2,
        BlockKind.TABLE: 1,
    }


def test_code_that_is_never_closed_goes_on_to_the_end():
    assert said("It is so.\n```\nThis is code.\n\nAnd this is code.") == ["It is so."]


def test_a_list_of_sources_under_the_text_is_kept_apart():
    text = (
        "Titan orbits Saturn [1].\n\n"
        "[1] Titan (moon)  https://e.org/titan\nTitan is the largest moon.\n"
        "[2] Saturn\n\nThis is said after it."
    )
    claims = split_claims(text)
    assert [each.text for each in claims.sentences] == [
        "Titan orbits Saturn.",
        "This is said after it.",
    ]
    first = claims.listed[0]
    assert (first.number, first.head) == (1, "Titan (moon)  https://e.org/titan")
    assert first.body == "Titan is the largest moon."
    # Nothing cites [2], but it follows an entry of the list.
    assert [(each.number, each.head) for each in claims.listed[1:]] == [(2, "Saturn")]


def test_numbered_lines_under_a_heading_of_sources_are_sources():
    claims = split_claims("It is so.\n\n## References\n1. Smith, A book\n2. Jones, Another\n")
    assert [(each.number, each.head) for each in claims.listed] == [
        (1, "Smith, A book"),
        (2, "Jones, Another"),
    ]
    assert len(claims.sentences) == 1


def test_a_paragraph_that_begins_with_a_number_nobody_cited_is_text():
    (sentence,) = split_claims("[1] says that Titan is red.").sentences
    assert sentence.text == "says that Titan is red."
    assert sentence.numbers == (1,)


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("Is Titan red?", "a question"),
        ("Here is what it says:", "leads in to what follows"),
        ("Sure, I can do that.", "addressed to the reader"),
        ("I hope this helps you!", "addressed to the reader"),
        ("Yes.", "too short to say anything"),
        ("- Saturn and its rings", "too short to say anything"),
        ("- Titan is red.", ""),
        ("Titan is red.", ""),
        ("In 1655 Huygens found it.", ""),
    ],
)
def test_what_is_no_claim_says_why(sentence, why):
    (found,) = split_claims(sentence).sentences
    assert found.why_not == why


GERMAN = (
    "Titan ist der größte Mond des Planeten Saturn und der zweitgrößte Mond im Sonnensystem. "
    "Er wurde im Jahr 1655 von dem Astronomen Christiaan Huygens entdeckt."
)
ENGLISH = (
    "Titan is the largest moon of Saturn and the second largest in the Solar System. "
    "It was discovered in 1655 by the Dutch astronomer Christiaan Huygens."
)


def test_another_language_is_told_by_its_words():
    assert [each.is_english for each in split_claims(GERMAN).sentences] == [False, False]
    assert [each.is_english for each in split_claims(ENGLISH).sentences] == [True, True]


def test_a_list_of_names_is_of_no_language():
    moons = "Mimas, Enceladus, Tethys, Dione, Rhea, Titan, Hyperion, Iapetus, Phoebe, Janus, Pan"
    people = "Ann Smith, Bob Jones, Carl Brown"
    told = split_claims(f"{moons}, {people} and Dora Green were named.\n").sentences
    assert [each.is_english for each in told] == [True]


def test_a_paragraph_in_another_language_is_told_in_an_english_text():
    mixed = f"{ENGLISH}\n\n{GERMAN}\n\nTitan orbits Saturn."
    told = [each.is_english for each in split_claims(mixed).sentences]
    assert told == [True, True, False, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "泰坦是土星最大的卫星。",
        "Титан — крупнейший спутник Сатурна.",
        "Titan est la plus grande lune de Saturne et la deuxième plus grande du Système solaire.",
        "Titán es el mayor de los satélites de Saturno y el segundo más grande del sistema solar.",
        "Titan is de grootste maan van Saturnus en de op één na grootste maan van het stelsel.",
    ],
)
def test_other_languages_are_not_english(text):
    assert not is_mostly_english(text)


def test_too_few_words_tell_no_language():
    assert is_mostly_english("Titan orbits Saturn every 15 days.")


PIECES = st.sampled_from(
    [
        *("Titan is red. ", "[1]", "[", "]", "`", "```\n", "\n", "\n\n", "- ", "> ", "# ", "*"),
        *("**", "[2](u)", "| a | b |\n|---|---|\n", "    x\n", "\r\n", "\xe9", "[1] S\n", "\ufeff"),
        *("\x0c", "$$\n"),
    ]
)


@given(st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join))
def test_sentences_lie_in_order_within_any_text(text):
    at = 0
    for each in split_claims(text).sentences:
        assert at <= each.start < each.end <= len(text)
        at = each.end
        assert all(each.start <= mark.start < mark.end <= each.end for mark in each.marks)
        assert each.text == " ".join(each.text.split())


@pytest.mark.parametrize(
    "piece",
    (
        *(
            " ",
            "`",
            "` ",
            "[",
            "![",
            "[1",
            "[1](a",
            "*",
            "- ",
            "> ",
            "    - a\n",
            "    a\n",
            "|-\n",
        ),
        *("```\n", "[1] ", "Titan is red [1]. ", "\u30101", "_", "-", "#", "a "),
    ),
)
def test_long_runs_of_anything_are_split_in_time(piece):
    text = "Titan is a " + piece * (60_000 // len(piece))
    assert all(each.end <= len(text) for each in split_claims(text).sentences)
