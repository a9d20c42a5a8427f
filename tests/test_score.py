"""Scores and gates against values worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selfrag.decode.gate import RetrievalMode, decide, paper_gate, reference_gate
from selfrag.decode.score import (
    ScoreWeights,
    relevance_score,
    sequence_score,
    support_score,
    utility_score,
    weigh,
)
from selfrag.errors import ConfigError

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
    weights = ScoreWeights()  # 1, 1, 0.5, 1
    full = weigh(
        relevance=0.8, support=0.5, utility=1.0, sequence=0.25, weights=weights, missing={}
    )
    assert np.isclose(full.total, 0.8 + 0.5 + 0.5 + 0.25)
    bare = weigh(
        relevance=0.8, support=None, utility=None, sequence=0.25, weights=weights, missing={}
    )
    assert np.isclose(bare.total, 1.05)


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
    ("mode", "threshold", "retrieve"),
    [
        (RetrievalMode.ADAPTIVE, 0.2, True),
        (RetrievalMode.ADAPTIVE, 0.31, False),
        (RetrievalMode.ADAPTIVE, 1.0, False),
        (RetrievalMode.ADAPTIVE, 0.0, True),
        (RetrievalMode.ALWAYS, 1.0, True),
        (RetrievalMode.NEVER, 0.0, False),
    ],
)
def test_modes_and_thresholds_decide(mode, threshold, retrieve):
    # p(no) 0.7, p(yes) 0.3, p(continue) elsewhere: the paper's gate is 0.3.
    gate = decide(np.log([0.7, 0.3, 1e-9]), mode, threshold)
    assert gate.retrieve is retrieve
    assert np.isclose(gate.paper, 0.3)
