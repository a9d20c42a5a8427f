"""Scores and gates against values worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import (
    GateKind,
    GateRule,
    RetrievalMode,
    decide,
    paper_gate,
    reference_gate,
)
from selfrag.decode.score import (
    ScoreWeights,
    relevance_score,
    retrieval_score,
    sequence_score,
    support_score,
    utility_score,
    weigh,
)
from selfrag.errors import ConfigError
from selfrag.reflection import Retrieve

LOGPROBS = st.floats(-50, 0)


def test_relevance_is_the_share_of_relevant():
    # p(relevant) 0.6, p(irrelevant) 0.2, the rest elsewhere: 0.6 / 0.8.
    assert np.isclose(relevance_score(np.log([0.2, 0.6])), 0.75)


def test_support_counts_partial_half():
    # (0.4 + 0.5 * 0.2) / (0.4 + 0.2 + 0.2) = 0.5 / 0.8
    assert np.isclose(support_score(np.log([0.4, 0.2, 0.2])), 0.625)


def test_utility_of_a_split_vote():
    # Half on 4 (+0.5), half on 5 (+1): the mean is 0.75.
    assert np.isclose(utility_score(np.log([1e-30, 1e-30, 1e-30, 0.5, 0.5])), 0.75)


def test_sequence_score_is_the_geometric_mean_probability():
    # (0.5 * 0.125) ** (1 / 2) = 0.25
    assert np.isclose(sequence_score(np.log([0.5, 0.125])), 0.25)
    assert sequence_score(np.array([])) == 0.0


@given(arrays(float, 5, elements=LOGPROBS), st.floats(-5, 5))
def test_utility_ignores_mass_outside_its_group(logprobs, shift):
    assert np.isclose(utility_score(logprobs), utility_score(logprobs + shift))


@given(arrays(float, 3, elements=LOGPROBS), arrays(float, 5, elements=LOGPROBS))
def test_scores_stay_in_range(support, utility):
    assert 0.0 <= support_score(support) <= 1.0
    assert -1.0 <= utility_score(utility) <= 1.0


def test_total_is_the_weighted_sum_and_a_missing_group_counts_nothing():
    weights = ScoreWeights()  # 1, 1, 0.5, 1 and, where a retriever ranked, 1
    full = weigh(
        relevance=0.8, support=0.5, utility=1.0, sequence=0.25, weights=weights, missing={}
    )
    assert np.isclose(full.total, 0.8 + 0.5 + 0.5 + 0.25)
    bare = weigh(
        relevance=0.8, support=None, utility=None, sequence=0.25, weights=weights, missing={}
    )
    assert np.isclose(bare.total, 1.05)


def test_the_retriever_counts_as_its_weight_says_and_not_at_all_for_given_passages():
    parts = {"relevance": 0.8, "support": 0.5, "utility": 1.0, "sequence": 0.25, "missing": {}}
    # 0.8 + 0.5 + 0.5 + 0.25 = 2.05, less once or twice 0.4
    assert np.isclose(weigh(**parts, retrieval=-0.4, weights=ScoreWeights()).total, 1.65)
    twice = weigh(**parts, retrieval=-0.4, weights=ScoreWeights(retrieval=2))
    assert np.isclose(twice.total, 1.25)
    assert weigh(**parts, retrieval=None, weights=ScoreWeights(retrieval=2)).total == 2.05


@pytest.mark.parametrize(
    ("score", "best", "lacking"),
    [
        (6.0, 24.0, -0.75),  # BM25
        (24.0, 24.0, 0.0),
        (-0.1, 0.8, -1.0),  # a cosine below 0 is no share of anything
        (-3.0, -1.0, np.exp(-2) - 1),  # log-odds of a reranker: odds are e**-3 and e**-1
        (0.0, 0.0, None),  # passages that were given
        (1.0, float("inf"), None),
    ],
)
def test_a_retrieval_score_is_what_is_lacking_to_the_best(score, best, lacking):
    assert retrieval_score(score, best) == lacking


@given(st.lists(st.floats(1e-3, 1e3), min_size=2), st.floats(1e-3, 1e3))
def test_a_retrieval_score_has_no_unit_and_keeps_the_order(scores, unit):
    lacking = [retrieval_score(score, max(scores)) for score in scores]
    scaled = [retrieval_score(score * unit, max(scores) * unit) for score in scores]
    assert np.allclose(lacking, scaled)
    assert max(lacking) == 0.0 and min(lacking) >= -1.0
    assert np.array_equal(np.argsort(lacking, kind="stable"), np.argsort(scores, kind="stable"))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_finite_positive_number_is_refused(value):
    with pytest.raises(ConfigError, match=r"decode\.weights\.support"):
        ScoreWeights(support=value)


@pytest.mark.parametrize(
    ("yes", "no", "paper", "reference"),
    [  # the four pairs of the released script: its ratio of logs is inverted
        (0.9, 0.05, 0.9473684, 0.0339753),
        (0.05, 0.9, 0.0526316, 0.9660247),
        (1e-3, 1e-4, 0.9090909, 0.4285714),
        (0.5, 0.5, 0.5, 0.5),
    ],
)
def test_both_gates_on_hand_worked_pairs(yes, no, paper, reference):
    assert np.isclose(paper_gate(np.log(yes), np.log(no)), paper)
    assert np.isclose(reference_gate(np.log(yes), np.log(no)), reference)


@given(LOGPROBS, LOGPROBS)
def test_the_paper_gate_is_symmetric(yes, no):
    assert np.isclose(paper_gate(yes, no) + paper_gate(no, yes), 1.0)


@pytest.mark.parametrize(
    ("rule", "retrieve"),
    [
        (GateRule(), True),
        (GateRule(threshold=0.31), False),
        (GateRule(threshold=1.0), False),
        (GateRule(threshold=0.0), True),
        (GateRule(threshold=None), False),  # the emitted token is [No Retrieval]
        (GateRule(kind=GateKind.ARGMAX), False),
        (GateRule(kind=GateKind.REFERENCE, threshold=0.7), True),
        (GateRule(kind=GateKind.REFERENCE, threshold=0.8), False),
        (GateRule(mode=RetrievalMode.ALWAYS, threshold=1.0), True),
        (GateRule(mode=RetrievalMode.NEVER, threshold=0.0), False),
    ],
)
def test_modes_rules_and_thresholds_decide(rule, retrieve):
    # p(no) 0.7, p(yes) 0.3, p(continue) elsewhere: the paper's gate is 0.3, the reference's
    # ln 0.3 / (ln 0.3 + ln 0.7) = 1.2040 / 1.5606 = 0.7715.
    gate = decide(np.log([0.7, 0.3, 1e-9]), Retrieve.NO, rule)
    assert gate.retrieve is retrieve
    assert np.isclose(gate.paper, 0.3)
    assert np.isclose(gate.reference, 0.7715, atol=1e-4)


@pytest.mark.parametrize("rule", [GateRule(threshold=None), GateRule(kind=GateKind.ARGMAX)])
def test_the_emitted_token_decides_whatever_its_probability(rule):
    assert decide(np.log([0.7, 0.3, 1e-9]), Retrieve.YES, rule).retrieve
    assert not decide(np.log([0.3, 0.7, 1e-9]), None, rule).retrieve


def test_every_gate_reports_what_each_rule_would_have_decided():
    gate = decide(np.log([0.7, 0.3, 1e-9]), Retrieve.NO, GateRule(threshold=0.5))
    assert gate.would == {
        GateKind.PAPER: False,
        GateKind.REFERENCE: True,
        GateKind.ARGMAX: False,
    }


@given(LOGPROBS, LOGPROBS, st.sampled_from(list(GateKind)))
def test_threshold_0_always_retrieves_and_1_never_does(yes, no, kind):
    if kind is GateKind.ARGMAX:
        return
    watched = np.array([no, yes, -5.0])
    assert decide(watched, None, GateRule(kind=kind, threshold=0.0)).retrieve
    assert not decide(watched, None, GateRule(kind=kind, threshold=1.0)).retrieve


@given(LOGPROBS, LOGPROBS, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_retrieves_more(yes, no, one, other):
    watched = np.array([no, yes, -5.0])
    low, high = sorted((one, other))
    at_low = decide(watched, None, GateRule(threshold=low)).retrieve
    at_high = decide(watched, None, GateRule(threshold=high)).retrieve
    assert at_low or not at_high


def test_gates_at_the_ends_of_what_numbers_hold():
    # exp(800) is more than a float holds, which would warn; both certain is no ratio.
    assert paper_gate(-800.0, 0.0) == pytest.approx(0.0, abs=1e-300)
    assert paper_gate(0.0, -800.0) == 1.0
    assert reference_gate(0.0, 0.0) == 0.5


@pytest.mark.parametrize(
    ("released", "mode"),
    [
        ("adaptive_retrieval", RetrievalMode.ADAPTIVE),
        ("default", RetrievalMode.ADAPTIVE),
        ("always_retrieve", RetrievalMode.ALWAYS),
        ("no_retrieval", RetrievalMode.NEVER),
    ],
)
def test_modes_are_known_by_their_released_names(released, mode):
    assert RetrievalMode(released) is mode
    with pytest.raises(ValueError, match="sometimes"):
        RetrievalMode("sometimes")


def test_a_search_setting_that_is_refused_says_what_could_not_be_done():
    with pytest.raises(ConfigError, match=r"^cannot search: decode\.top_k is 0"):
        SearchConfig(top_k=0)


def test_two_choices_are_a_closed_set_and_none_is_an_open_question():
    assert SearchConfig(choices=("yes", "no")).choices == ("yes", "no")
    assert SearchConfig().choices == ()


@pytest.mark.parametrize("choices", [("yes",), ("yes", "yes"), ("yes", " ")])
def test_choices_that_are_no_closed_set_are_refused(choices):
    with pytest.raises(ConfigError) as refused:
        SearchConfig(choices=choices)
    assert str(refused.value) == (
        f"cannot search: decode.choices is {list(choices)}, expected two or more different answers "
        "that are not empty; name them all"
    )


def test_choices_that_read_alike_are_named():
    with pytest.raises(ConfigError) as refused:
        SearchConfig(choices=("Yes.", "no", "yes"))
    assert str(refused.value) == (
        "cannot search: decode.choices has 'Yes.' and 'yes', which read alike, because case and "
        "outer punctuation do not count; expected answers that a text can tell apart, so reword one"
    )
