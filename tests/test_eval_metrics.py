"""Metrics of one answer, worked out by hand, and against libraries on random text."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_parts import cited, hit, output, question, record
from selfrag.errors import BadInput, SelfRAGError
from selfrag.evaluate import metrics
from selfrag.evaluate.record import Output, Record
from selfrag.evaluate.summary import measure


@pytest.mark.parametrize(
    ("text", "answers", "released", "words", "normalised", "exact", "f1"),
    [
        # Of 4 words 1 is right (precision 1/4), and it is all of the gold (recall 1): F1 0.4.
        ("It was in Paris.", ["Paris"], 1, 1, 1, 0, 0.4),
        ("paris", ["Paris"], 0, 1, 1, 1, 1.0),
        # One gold of two is there, and nothing of the other: F1 of 1 word in 2, and of none.
        ("red dog", ["cat", "dog"], 1, 1, 1, 0, 2 / 3),
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


def test_the_short_answer_before_a_sentence_is_measured_alone():
    asked = question(answers=("Mr. Smith Jr", "the big owl"))
    said = output("Mr. Smith. The big owl was seen by him.")
    first = {name: metrics.METRICS[f"first_{name}"](asked, said) for name in (
        "match_words", "exact_match", "token_f1",
    )}  # fmt: skip
    # "Mr. Smith." alone: two words of the three of one gold string, and not the other's.
    assert first == {"match_words": 0, "exact_match": 0, "token_f1": pytest.approx(4 / 5)}
    assert metrics.match_words(asked, said) == 1
    right = output("The big owl. It was seen.")
    assert metrics.METRICS["first_exact_match"](asked, right) == 1
    assert metrics.exact_match(asked, right) == 0


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
        ("no idea", "C", 0, 0),  # a vote for no label of the question
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


def test_rouge_counts_words_by_their_stems():
    pytest.importorskip("rouge_score")
    asked = question(references=("the dogs were running",))
    # dog and run are 2 of 2 words said and 2 of 4 of the reference: F = 2 * 1 * .5 / 1.5.
    assert metrics.rouge_lsum(asked, output("dog runs")) == pytest.approx(2 / 3)
    assert metrics.rouge_lsum(question(), output("dog runs")) is None


@pytest.mark.parametrize(
    ("text", "bare"),
    [("a [1] b[22].", "a b."), ("[1][2] x [y]", " x [y]"), ("a  [3]", "a "), ("[n]", "[n]")],
)
def test_marks_of_citations_are_taken_out_with_one_space(text, bare):
    assert metrics.without_citations(text) == bare


@pytest.mark.parametrize(
    ("text", "plain"),
    [("An apple, the  PEAR", "apple pear"), ("Theatre-a.b", "theatreab"), ("the a an", "")],
)
def test_normalised_text_has_no_case_signs_and_articles(text, plain):
    assert metrics.normalise(text) == plain


def test_what_needs_gold_strings_or_labels_has_no_value_without():
    asked, said = question(), output("Ann", passages=(hit("Ann"),))
    names = [
        "match_released", "match_words", "match_normalised", "exact_match", "token_f1",
        "first_match_words", "first_exact_match", "first_token_f1",
        "label_accuracy", "label_given", "str_em", "rouge_lsum", "answer_in_passages",
    ]  # fmt: skip
    assert [metrics.METRICS[name](asked, said) for name in names] == [None] * len(names)
    closed = question(answers=("A",), labels=("A", "B"))
    assert metrics.answer_in_passages(closed, said) is None


def test_a_gold_string_that_is_nothing_but_an_article_is_in_no_answer():
    asked = question(answers=("The", "whole words"))
    assert metrics.match_normalised(asked, output("")) == 0.0
    assert metrics.match_normalised(asked, output("some wholesome words")) == 0.0
    assert metrics.match_normalised(asked, output("the whole words.")) == 1.0


def test_f1_of_no_words_is_that_of_squad_2():
    # No words agree with no words only; of several gold strings the best counts.
    assert metrics.token_f1(question(answers=("the",)), output("a")) == 1.0
    assert metrics.token_f1(question(answers=("the", "Ann")), output("Ann")) == 1.0
    assert metrics.token_f1(question(answers=("Ann",)), output("the")) == 0.0
    # Three of three words said twice: each counts as often as on both sides.
    assert metrics.token_f1(question(answers=("x x y",)), output("x x x")) == pytest.approx(2 / 3)


def test_an_option_is_named_only_where_no_other_is():
    asked = question(answers=("A",), labels=("A", "B"), options=("tea", "coffee"))
    assert metrics.label_of(asked, output("some tea")) == "A"
    assert metrics.label_of(asked, output("tea or coffee")) is None
    assert metrics.label_of(question(labels=("A", "B")), output("tea")) is None


def test_a_passage_anywhere_holds_the_answer():
    asked = question(answers=("Ann",))
    passages = (hit("Bob"), hit("ann", rank=2))
    assert metrics.answer_in_passages(asked, output("x", passages=passages)) == 1.0
    assert metrics.answer_in_passages(asked, output("x", passages=passages[:1])) == 0.0
    assert metrics.retrieved(asked, output("x")) == 0.0
    assert metrics.abstained(asked, output("x", abstained=True)) == 1.0


def test_every_metric_is_found_by_its_own_name_and_counts_are_told_from_shares():
    assert all(found.__name__ == name for name, found in metrics.METRICS.items())
    assert metrics.metrics_named([]) == metrics.METRICS
    counts = {"passages_read", "tokens", "words", "seconds", "facts"}
    names = {*metrics.METRICS, "seconds", "facts", "factscore"}
    assert {name for name in names if not metrics.is_share(name)} == counts
    assert not metrics.is_share("facts@asked-m:read") and metrics.is_share("factscore@m")


def test_every_facet_counts_once_whichever_of_its_strings_is_said():
    asked = question(facets=(("Ann", "Anna"), ("Bob",), ("Cy",), ("Di",)))
    assert metrics.str_em(asked, output("Anna and the Bob, the di.")) == 0.75


def long_records(n_words, n_records):
    words = " ".join(f"w{n}" for n in range(n_words))
    asked = question(text="Q", references=(words, "other"))
    return [Record(n=n, question=asked, output=output(f"{words} [1]")) for n in range(n_records)]


def test_mauve_reads_a_hundred_words_of_question_and_answer():
    failed = Record(n=1, question=question(references=("x",)), error="broken")
    unjudged = record(2, "no reference")
    human, machine = metrics.mauve_texts([failed, unjudged, *long_records(200, 1)])
    assert human == machine == ["Q " + " ".join(f"w{n}" for n in range(99))]


def test_mauve_is_that_of_its_package_on_ten_texts_at_least(monkeypatch):
    asked = {}

    class Package:
        @staticmethod
        def compute_mauve(**options):
            asked.update(options)
            return type("Found", (), {"mauve": 0.5})

    monkeypatch.setattr(metrics, "_package", lambda: Package)
    with pytest.raises(BadInput, match=r"9 questions with an answer .* expected at least 10"):
        metrics.mauve_score(long_records(2, 9), model="m")
    assert metrics.mauve_score(long_records(2, 10), model="m") == 0.5
    texts = ["Q w0 w1"] * 10
    assert asked == {
        "p_text": texts, "q_text": texts, "featurize_model_name": "m", "max_text_length": 512,
        "seed": 25, "verbose": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("mauve", lambda: metrics.mauve_score(long_records(2, 10), model="m")),
        ("rouge_score.rouge_scorer", lambda: metrics._rouge_scorer.__wrapped__()),
    ],
)
def test_a_package_that_is_missing_is_named(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SelfRAGError, match=r"run `pip install \"selfrag\["):
        call()
