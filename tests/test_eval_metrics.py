"""Metrics of one answer, worked out by hand, and against libraries on random text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_parts import cited, hit, output, question, record
from selfrag.errors import BadInput
from selfrag.evaluate import metrics
from selfrag.evaluate.record import Output, Record
from selfrag.evaluate.summary import measure


@pytest.mark.parametrize(
    ("text", "answers", "released", "words", "normalised", "exact", "f1"),
    [
        # Of 4 words 1 is right (precision 1/4), and it is all of the gold (recall 1): F1 0.4.
        ("It was in Paris.", ["Paris"], 1, 1, 1, 0, 0.4),
        ("paris", ["Paris"], 0, 1, 1, 1, 1.0),
        ("Apple", ["A"], 1, 0, 0, 0, 0.0),
        # "U.S." loses its points, and the article goes: "in us" holds "us"; 1 of 2 words, 2/3.
        ("in the U.S.", ["US"], 0, 0, 1, 0, 2 / 3),
        ("The Beatles", ["beatles"], 0, 1, 1, 1, 1.0),
        ("no", ["Ann", "No!"], 0, 0, 1, 1, 1.0),
        ("", ["Ann"], 0, 0, 0, 0, 0.0),
        # 2 of 3 words common; recall 2 of 4: F1 = 2 * 2/3 * 1/2 / (7/6) = 4/7.
        ("red big dog", ["big red cat house"], 0, 0, 0, 0, 4 / 7),
    ],
)
def test_measures_of_a_short_answer(text, answers, released, words, normalised, exact, f1):
    asked, said = question(answers=tuple(answers)), output(text)
    assert metrics.match_released(asked, said) == released
    assert metrics.match_words(asked, said) == words
    assert metrics.match_normalised(asked, said) == normalised
    assert metrics.exact_match(asked, said) == exact
    assert metrics.token_f1(asked, said) == pytest.approx(f1)


def test_measures_that_do_not_apply_are_left_out_and_failures_have_none():
    failed = Record(n=1, question=question(id="q1", answers=("Ann",)), error="broken")
    values = measure([record(0, "Ann"), failed], metrics.METRICS)
    assert values["exact_match"] == {"q0": 1.0}
    assert not {"label_accuracy", "str_em", "rouge_lsum"} & values.keys()


@pytest.mark.parametrize(
    ("text", "choice", "given", "right"),
    [
        ("anything", "B", 1, 1),  # the vote counts
        ("B", None, 1, 1),
        ("B: two birds", None, 1, 1),
        ("A. one", None, 1, 0),
        ("I think it is two birds", None, 1, 1),  # the text of one option only
        ("one two birds", None, 0, 0),
        ("no idea", None, 0, 0),
        ("", None, 0, 0),
    ],
)
def test_a_label_is_right_only_where_it_is_given(text, choice, given, right):
    asked = question(answers=("B",), labels=("A", "B"), options=("one", "two birds"))
    said = output(text, choice=choice)
    assert metrics.label_given(asked, said) == given
    assert metrics.label_accuracy(asked, said) == right


def test_half_of_two_readings_are_answered():
    asked = question(facets=(("1990", "nineteen ninety"), ("2001",)))
    assert metrics.str_em(asked, output("It was in 1990 [1].")) == 0.5
    # A mark is no answer: [2001] is taken out before.
    assert metrics.str_em(asked, output("Nineteen ninety [2001].")) == 0.5
    assert metrics.str_em(question(), output("x")) is None


def test_rouge_takes_the_nearest_reference():
    pytest.importorskip("rouge_score")
    asked = question(references=("cat dog", "the bird sings"))
    # Against the first: longest common subsequence "cat", 1 of 2 words on both sides: F 1/2.
    assert metrics.rouge_lsum(asked, output("cat [1] fish")) == pytest.approx(0.5)


WORDS = st.lists(st.sampled_from("one two three four. five six! Seven".split()), max_size=12)


@given(WORDS, WORDS)
def test_rouge_is_that_of_the_library_on_lines_of_sentences(said, gold):
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    from selfrag.text import split_sentences

    text, reference = " ".join(said), " ".join(gold)
    found = metrics.rouge_lsum(question(references=(reference,)), output(text))
    scorer = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=True)
    lines = ["\n".join(split_sentences(each)) for each in (reference, text)]
    assert found == scorer.score(*lines)["rougeLsum"].fmeasure


@given(WORDS, WORDS)
def test_f1_is_1_for_equal_bags_and_symmetric(said, gold):
    text, reference = " ".join(said), " ".join(gold)
    there = metrics.token_f1(question(answers=(reference,)), output(text))
    back = metrics.token_f1(question(answers=(text,)), output(reference))
    assert there == pytest.approx(back)
    shuffled = " ".join(np.random.default_rng(0).permutation(said or ["a"]))
    assert metrics.token_f1(question(answers=(" ".join(said or ["a"]),)), output(shuffled)) == 1.0


def test_rates_and_costs_are_read_off_the_output():
    said = Output(
        text="Ann did it.",
        sentences=cited(("Ann did it.", [1])),
        passages=(hit("Ann was here."),),
        retrieved=True,
        n_tokens=12,
        n_passages=3,
    )
    asked = question(answers=("Ann",))
    names = ("answer_in_passages", "retrieved", "abstained", "passages_read", "tokens", "words")
    assert [metrics.METRICS[name](asked, said) for name in names] == [1, 1, 0, 3, 12, 3]


def test_an_unknown_metric_is_named():
    with pytest.raises(BadInput, match="there is no metric 'f2'; expected some of match_released"):
        metrics.metrics_named(["token_f1", "f2"])
    assert list(metrics.metrics_named(["token_f1"])) == ["token_f1"]
