"""Intervals and paired tests: by hand, and against textbook formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from selfrag.statistics import compare, estimate


def test_the_interval_of_a_share_is_near_the_normal_one():
    # 40 of 100: standard error sqrt(.4 * .6 / 100) = .049, so .4 +- .096.
    found = estimate([1.0] * 40 + [0.0] * 60)
    assert found.mean == 0.4 and found.n == 100
    assert found.low == pytest.approx(0.304, abs=0.02)
    assert found.high == pytest.approx(0.496, abs=0.02)


def test_no_success_in_five_does_not_mean_none_ever():
    # Clopper-Pearson: the upper end p solves (1 - p)^5 = 0.025, so p = 1 - 0.025 ** (1 / 5).
    found = estimate([0.0] * 5)
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025**0.2)


def test_no_values_have_no_mean():
    found = estimate([])
    assert math.isnan(found.mean) and found.n == 0


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_interval_holds_the_mean_and_stays_in_range(values):
    found = estimate(values)
    assert (
        min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9 or len(set(values)) == 1
    )
    assert found == estimate(values)  # the same seed, the same interval


def values(*numbers):
    return {f"q{n}": float(value) for n, value in enumerate(numbers)}


def test_six_wins_and_no_loss_are_no_noise_but_five_are():
    # McNemar, exact: p = 2 * (1/2)^6 = 0.03125 and 2 * (1/2)^5 = 0.0625.
    six = compare(values(*[0] * 6, 1, 1), values(*[1] * 6, 1, 1))
    assert six.p == pytest.approx(0.03125)
    assert (six.n_first, six.n_second, six.n) == (0, 6, 8)
    assert six.difference == 0.75 and not six.is_noise
    assert six.note == "not noise: p = 0.031 on 8 questions"
    five = compare(values(*[0] * 5), values(*[1] * 5))
    assert five.p == pytest.approx(0.0625)
    assert five.note == "noise: chance gives as much with p = 0.06 on 5 questions"


def test_only_questions_of_both_count():
    found = compare({"a": 1.0, "b": 0.0}, {"b": 1.0, "c": 1.0})
    assert (found.n, found.difference) == (1, 1.0)
    assert compare({"a": 1.0}, {"b": 1.0}).note == "no question in common"


def test_equal_systems_differ_by_noise():
    found = compare(values(0.2, 0.7), values(0.2, 0.7))
    assert (found.difference, found.p, found.low, found.high) == (0.0, 1.0, 0.0, 0.0)


def test_fractions_are_tested_by_flipping_signs():
    # All 16 sign flips of four gaps of 0.1: only +-+++ itself and its mirror reach the mean: 2/16.
    found = compare(values(0.1, 0.2, 0.3, 0.4), values(0.2, 0.3, 0.4, 0.5))
    assert found.p == pytest.approx(2 / 16)


def test_chance_finds_a_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    trials = [
        compare(values(*rng.random(12)), values(*rng.random(12)), seed=n).is_noise
        for n in range(40)
    ]
    assert sum(trials) >= 34  # 38 expected; fewer than 34 has a chance below 2%
