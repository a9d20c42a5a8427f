"""Reciprocal rank fusion."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.retrieval.fusion import reciprocal_rank_fusion

KEYS = st.sampled_from("abcdefgh")
RANKINGS = st.lists(st.lists(KEYS, unique=True), max_size=5)


def test_two_rankings_fused_by_hand():
    # b: 1/62 + 1/61; a: 1/61 + 1/63; c: 1/63; d: 1/62.
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["b", "d", "a"]])
    assert [key for key, _ in fused] == ["b", "a", "d", "c"]
    assert dict(fused) == pytest.approx(
        {"b": 1 / 62 + 1 / 61, "a": 1 / 61 + 1 / 63, "d": 1 / 62, "c": 1 / 63}
    )


def test_the_constant_weighs_first_places_against_agreement():
    # constant 0: "a" 1 + 1/4 = 1.25 beats "b" 1/2 + 1/2 = 1; constant 60: 1/61 + 1/64 > 2/62 no:
    # 0.016393 + 0.015625 = 0.032018 < 0.032258, so the one that both place second wins.
    rankings = [["a", "b", "x", "y"], ["z", "b", "w", "a"]]
    assert reciprocal_rank_fusion(rankings, constant=0)[0] == ("a", 1.25)
    assert reciprocal_rank_fusion(rankings)[0][0] == "b"


def test_equal_sums_come_in_key_order():
    assert [key for key, _ in reciprocal_rank_fusion([["b", "a"], ["a", "b"]])] == ["a", "b"]
    # As integers, not as text: 9 before 10.
    assert [key for key, _ in reciprocal_rank_fusion([[10], [9]])] == [9, 10]


def test_a_repeated_key_counts_once_where_it_stands_first():
    assert reciprocal_rank_fusion([["a", "b", "a"]]) == [("a", 1 / 61), ("b", 1 / 62)]


def test_nothing_to_fuse_gives_nothing():
    assert reciprocal_rank_fusion([]) == []
    assert reciprocal_rank_fusion([[], []]) == []


@given(RANKINGS, st.randoms())
def test_the_order_of_the_rankings_changes_nothing(
    rankings: list[list[str]], rng: random.Random
) -> None:
    shuffled = rankings[:]
    rng.shuffle(shuffled)
    assert reciprocal_rank_fusion(shuffled) == reciprocal_rank_fusion(rankings)


@given(st.lists(KEYS, unique=True), st.integers(1, 5))
def test_rankings_that_agree_keep_their_order(ranking: list[str], copies: int) -> None:
    assert [key for key, _ in reciprocal_rank_fusion([ranking] * copies)] == ranking


@given(RANKINGS)
def test_every_key_comes_out_once_with_a_falling_score(rankings: list[list[str]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(key for key, _ in fused) == sorted({key for row in rankings for key in row})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)
