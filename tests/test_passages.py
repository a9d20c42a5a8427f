"""What of a passage is read, in tokens of a tokenizer of words and single spaces."""

import pytest

from selfrag.decode.passages import as_read, given_hits
from selfrag.engine.scripted import ScriptedTokenizer
from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat

FMT = PromptFormat.of(ScriptedTokenizer())
# Two tokens of the title "T" and its line end, then five words and four spaces: 11 in all.
FIVE = Passage(id="p", title="T", text="one two three four five", start=100, end=123)


@pytest.mark.parametrize(
    ("max_tokens", "text", "end"),
    [
        (1, "", 100),  # less than the title
        (2, "", 100),
        (3, "one", 103),
        (4, "one", 103),  # a space more is no word more
        (5, "one two", 107),
        (8, "one two three", 113),
        (9, "one two three four", 118),
        (10, "one two three four", 118),
        (11, "one two three four five", 123),
    ],
)
def test_a_found_passage_is_read_in_whole_words_from_its_start(max_tokens, text, end):
    read = as_read(Hit(passage=FIVE, score=0.5, rank=3), FMT, max_tokens)
    assert (read.passage.text, read.passage.start, read.passage.end) == (text, 100, end)
    assert (read.score, read.rank, read.passage.id) == (0.5, 3, "p")


def test_a_text_of_one_long_word_is_read_whole_or_not_at_all():
    # One token here, so no beginning of it is less.
    word = Passage(id="w", title="", text="abcdefgh")
    n_tokens = len(FMT.passage(word)) - 2
    assert as_read(Hit(passage=word, score=0.0, rank=1), FMT, n_tokens).passage.text == "abcdefgh"
    assert as_read(Hit(passage=word, score=0.0, rank=1), FMT, n_tokens - 1).passage.text == ""


def test_given_passages_are_read_whole_in_pieces_cut_between_sentences():
    text = "Aa bb. Cc dd. Ee ff. Gg hh."
    given = Passage(id="g", title="", text=text, start=10, end=37)
    pieces = [hit.passage for hit in given_hits([given], FMT, 7)]
    assert [(p.id, p.text, p.start, p.end) for p in pieces] == [
        ("g#1", "Aa bb.", 10, 16),
        ("g#2", "Cc dd.", 17, 23),
        ("g#3", "Ee ff.", 24, 30),
        ("g#4", "Gg hh.", 31, 37),
    ]


def test_given_passages_are_cut_between_words_where_a_sentence_is_too_long():
    given = Passage(id="g", title="", text="Aa bb. Cc dd.", start=10, end=23)
    hits = given_hits([given, FIVE], FMT, 4)
    assert [(hit.passage.text, hit.rank) for hit in hits[:4]] == [
        ("Aa", 1),
        ("bb.", 2),
        ("Cc", 3),
        ("dd.", 4),
    ]
    assert " ".join(hit.passage.text for hit in hits[4:]) == FIVE.text
    assert [hit.passage.id for hit in hits[4:]] == [f"p#{n}" for n in range(1, len(hits) - 3)]


def test_a_given_passage_that_fits_is_read_as_it_is():
    (hit,) = given_hits([FIVE], FMT, 11)
    assert hit == Hit(passage=FIVE, score=0.0, rank=1)


def texts_of(text, max_tokens):
    hits = given_hits([Passage(id="g", title="", text=text)], FMT, max_tokens)
    return [hit.passage.text for hit in hits]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        # Of three ends of sentences, at 6, 13 and 20 of 27, the one next to the middle.
        ("Aa bb. Cc dd. Ee ff. Gg hh.", ["Aa bb. Cc dd.", "Ee ff. Gg hh."]),
        # The one end, at 2 of 23, is not in the middle half: cut at the space at 11.
        ("A. bb cc dd ee ff gg hh", ["A. bb cc dd", "ee ff gg hh"]),
        # No space at all: cut at the middle, 5 of 11.
        ("aa,bb,cc,dd", ["aa,bb", ",cc,dd"]),
        # Spaces at the very ends are no places to cut.
        (" aa bb ", [" aa", "bb "]),
    ],
)
def test_a_passage_is_halved_near_its_middle(text, pieces):
    n_tokens = max(len(FMT.passage(Passage(id="g", title="", text=part))) - 2 for part in pieces)
    assert texts_of(text, n_tokens) == pieces


def test_a_passage_in_two_pieces_is_numbered_behind_one_that_fits():
    short, two = Passage(id="s", title="", text="aa"), Passage(id="t", title="", text="bb cc")
    hits = given_hits([short, two], FMT, len(FMT.passage(short)) - 2)
    assert [(hit.passage.id, hit.rank) for hit in hits] == [("s", 1), ("t#1", 2), ("t#2", 3)]
