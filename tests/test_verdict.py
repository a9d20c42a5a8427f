"""From a model's text and token probabilities to a label."""

import math

import pytest

from selfrag.annotate.judgement import LABELS, Group
from selfrag.annotate.rubric import RUBRICS, messages
from selfrag.annotate.verdict import Step, parse_verdict, spelling_probs
from selfrag.engine.failure import Reason
from selfrag.reflection import Relevance, Retrieve, Support, Utility


@pytest.mark.parametrize(
    ("group", "text", "label", "explanation"),
    [
        (Group.RETRIEVE, "fact", Retrieve.YES, ""),
        (Group.RETRIEVE, "Work.\nExplanation: It is a poem.", Retrieve.NO, "It is a poem."),
        (Group.RETRIEVE, "[No Retrieval]", Retrieve.NO, ""),
        (Group.RETRIEVE, "[Retrieval]\nbecause facts", Retrieve.YES, "facts"),
        (Group.RETRIEVE_SENTENCE, "**covered**", Retrieve.CONTINUE, ""),
        (Group.RELEVANCE, "Label: Irrelevant - off topic", Relevance.IRRELEVANT, "off topic"),
        (Group.SUPPORT, "[No support / Contradictory]", Support.NONE, ""),
        (Group.SUPPORT, "partially supported: half", Support.PARTIAL, "half"),
        (Group.SUPPORT, '{"label": "full", "explanation": "same"}', Support.FULL, "same"),
        (Group.UTILITY, "Rating: 4\nExplanation: small gaps", Utility.U4, "small gaps"),
        (Group.UTILITY, "[Utility:2]", Utility.U2, ""),
        (Group.UTILITY, "5/5", Utility.U5, ""),
    ],
)
def test_a_verdict_is_the_label_at_the_beginning(group, text, label, explanation):
    verdict = parse_verdict(group, text)
    assert (verdict.label, verdict.explanation, verdict.problem) == (label, explanation, None)


@pytest.mark.parametrize(
    ("group", "text", "problem"),
    [
        (Group.RETRIEVE, "", Reason.MALFORMED),
        (Group.RETRIEVE, "Yesterday I ate", Reason.MALFORMED),
        (Group.RETRIEVE, "It could be yes or no", Reason.MALFORMED),
        (Group.UTILITY, "3.5", Reason.MALFORMED),
        (Group.UTILITY, "3-4", Reason.MALFORMED),
        (Group.UTILITY, "12", Reason.MALFORMED),
        (Group.UTILITY, "6", Reason.MALFORMED),
        (Group.UTILITY, '{"note": 5}', Reason.MALFORMED),
        (Group.RELEVANCE, "I'm sorry, but I cannot judge this.", Reason.REFUSAL),
        (Group.RELEVANCE, "As an AI I have no opinion.", Reason.REFUSAL),
    ],
)
def test_text_without_a_label_at_its_beginning_has_none(group, text, problem):
    assert parse_verdict(group, text).problem is problem


def test_the_words_of_a_rubric_are_read_back_and_part_at_their_first_letter():
    assert set(RUBRICS) == set(Group)
    for group, rubric in RUBRICS.items():
        assert rubric.options
        assert tuple(option.label for option in rubric.options) == LABELS[group]
        assert len({option.word[0] for option in rubric.options}) == len(rubric.options)
        for option in rubric.options:
            assert parse_verdict(group, option.word).label is option.label
        shown = {example.word for example in rubric.examples}
        assert shown <= {option.word for option in rubric.options} and len(shown) > 1


def test_every_example_of_a_rubric_is_shown_with_its_answer_before_the_case():
    assert set(RUBRICS) == set(Group)
    for rubric in RUBRICS.values():
        case = rubric.examples[0].case
        chat = messages(case, explain=True)
        assert [role for role, _ in chat] == [
            "system",
            *["user", "assistant"] * len(rubric.examples),
            "user",
        ]
        assert chat[2][1].startswith(f"{rubric.examples[0].word}\nExplanation: ")
        assert messages(case, explain=False)[2][1] == rubric.examples[0].word


def step(token, **probs):
    return Step(token=token, logprobs={t: math.log(p) for t, p in probs.items()})


def test_probabilities_are_shared_among_the_words_and_the_rest_is_left_aside():
    # yes: .6 + .1 (both cases), no: .1; "Sure" is no label. .7 / .8 and .1 / .8.
    steps = [step("yes", yes=0.6, Yes=0.1, no=0.1, Sure=0.2)]
    assert spelling_probs(steps, ["no", "yes"]) == pytest.approx({"yes": 0.875, "no": 0.125})


def test_labels_that_share_a_beginning_are_told_apart_where_they_part():
    # "[" is common to both; then Rel .75 against Ir .25.
    steps = [
        Step(token="[", logprobs={"[": -0.1, "Rel": -3.0}),
        step("Rel", Rel=0.6, Ir=0.2, Foo=0.2),
    ]
    probs = spelling_probs(steps, list(Relevance))
    assert probs == pytest.approx({Relevance.RELEVANT: 0.75, Relevance.IRRELEVANT: 0.25})


def test_three_labels_part_at_two_places():
    steps = [step("f", f=0.5, p=0.3, n=0.2)]
    probs = spelling_probs(steps, ["full", "partial", "none"])
    assert probs == pytest.approx({"full": 0.5, "partial": 0.3, "none": 0.2})
    # "no" .8 leaves no and none open; after it "ne" .6 against "!" .2, so .8 is cut 3 to 1.
    steps = [step("no", no=0.8, yes=0.2), step("ne", ne=0.6, **{"!": 0.2})]
    probs = spelling_probs(steps, ["no", "none", "yes"])
    assert probs == pytest.approx({"yes": 0.2, "none": 0.6, "no": 0.2})


@pytest.mark.parametrize("steps", [[], [step("Maybe", Maybe=0.9, yes=0.1)], [step(" ", yes=0.5)]])
def test_where_no_label_was_written_there_are_no_probabilities(steps):
    assert spelling_probs(steps, ["yes", "no"]) == {}


def test_signs_before_the_word_are_passed_over():
    steps = [Step(token="**", logprobs={"**": -0.1}), step("no", no=0.9, yes=0.1)]
    assert spelling_probs(steps, ["yes", "no"]) == pytest.approx({"no": 0.9, "yes": 0.1})
