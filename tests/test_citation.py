"""Which part of a passage a segment rests on, and where its source is on the web."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.decode.citation import cited_span, url_of

FIRST = "Titan was found in 1655."
SECOND = "Titan is the largest moon of Saturn and the second largest in the Solar System."
THIRD = "It is the only moon that is known to have a dense atmosphere."
TITAN = f"{FIRST} {SECOND} {THIRD}"


def cited(segment, passage):
    span = cited_span(segment, passage)
    return None if span is None else passage[slice(*span)]


def test_a_copied_sentence_is_found_whatever_comes_before_it():
    assert cited(f"Saturn. {SECOND}", TITAN) == SECOND


def test_a_run_of_words_brings_the_whole_sentences_that_it_touches():
    assert cited("in 1655. TITAN is the", TITAN) == f"{FIRST} {SECOND}"


def test_line_breaks_and_case_do_not_hide_a_sentence():
    assert cited("the old DOG slept", "It rained. The\nold\n  dog slept. Ann left.") == (
        "The\nold\n  dog slept."
    )


def test_without_a_run_the_sentence_with_most_of_the_words_counts():
    assert cited("Its atmosphere, said to be dense", TITAN) == THIRD
    assert cited("Cats sleep often", TITAN) is None
    assert cited("", TITAN) is None
    assert cited("a", "") is None


def test_an_answer_of_one_word_is_found():
    assert cited("Saturn", TITAN) == SECOND


def test_scripts_without_spaces_are_matched_by_character():
    text = "土卫六是一颗卫星。土卫六围绕土星运行。它很大。"
    assert cited("土卫六围绕土星", text) == "土卫六围绕土星运行。"


@given(st.text(max_size=60), st.text(max_size=200))
def test_a_span_lies_in_the_passage(segment, passage):
    span = cited_span(segment, passage)
    assert span is None or 0 <= span[0] < span[1] <= len(passage)


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("Wikipedia, CC BY-SA 4.0: https://en.wikipedia.org/wiki/Titan_(moon)", None),
        ("https://example.org/a?b=c#d", None),
        ("see (http://example.org/x).", "http://example.org/x"),
        ("HTTPS://EXAMPLE.org/ü, and more", "HTTPS://EXAMPLE.org/ü"),
        ("notes/old.md", ""),
        ("javascript:alert(1)", ""),
        ("https://", ""),
        ('https://a.b/"onclick=x', "https://a.b/"),
        ("", ""),
    ],
)
def test_the_address_in_a_source(source, url):
    expected = source[source.find("http") :] if url is None else url or None
    assert url_of(source) == expected
