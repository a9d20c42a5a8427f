"""Rankings fused by their ranks and by their scores."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.errors import ConfigError
from selfrag.passage import Passage
from selfrag.retrieval.fusion import (
    Fusion,
    FusionKind,
    Scored,
    block_ends,
    ranked_in_blocks,
    reciprocal_rank_fusion,
    score_fusion,
)

KEYS = st.sampled_from("abcdefgh")
RANKINGS = st.lists(st.lists(KEYS, unique=True), max_size=5)
WEIGHTED = st.lists(
    st.tuples(st.lists(KEYS, unique=True), st.floats(0, 100, allow_subnormal=False)), max_size=5
)


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


def test_weights_by_hand():
    # Weights 2 and 1: a 2/61 + 1/62 = 0.048916, b 2/62 + 1/61 = 0.048651, c 1/63.
    fused = reciprocal_rank_fusion([["a", "b"], ["b", "a", "c"]], weights=[2, 1])
    assert [key for key, _ in fused] == ["a", "b", "c"]
    assert dict(fused) == pytest.approx({"a": 2 / 61 + 1 / 62, "b": 2 / 62 + 1 / 61, "c": 1 / 63})
    # 1 and 2 turn them round.
    turned = reciprocal_rank_fusion([["a", "b"], ["b", "a", "c"]], weights=[1, 2])
    assert [key for key, _ in turned] == ["b", "a", "c"]


def test_weighted_sums_that_are_equal_come_in_key_order():
    # constant 0: 2/2 for "b" and 1/1 for "a".
    fused = reciprocal_rank_fusion([["x", "b"], ["a"]], weights=[2, 1], constant=0)
    assert fused == [("x", 2.0), ("a", 1.0), ("b", 1.0)]


def test_a_ranking_of_weight_zero_is_as_if_it_were_not_there():
    rankings = [["a", "b"], ["c", "a"]]
    assert reciprocal_rank_fusion(rankings, weights=[1, 0]) == reciprocal_rank_fusion(rankings[:1])
    assert reciprocal_rank_fusion(rankings, weights=[0, 0]) == []


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1], [1, -1], [1, float("nan")], [1, 1e999]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ConfigError, match="cannot fuse 2 rankings: found the weights"):
        reciprocal_rank_fusion([["a"], ["b"]], weights=weights)


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


@given(WEIGHTED, st.randoms())
def test_the_order_of_weighted_rankings_changes_nothing(
    weighted: list[tuple[list[str], float]], rng: random.Random
) -> None:
    shuffled = weighted[:]
    rng.shuffle(shuffled)
    first, second = (
        reciprocal_rank_fusion([ranking for ranking, _ in pairs], weights=[w for _, w in pairs])
        for pairs in (weighted, shuffled)
    )
    assert first == second


@given(RANKINGS)
def test_weights_of_one_change_nothing(rankings: list[list[str]]) -> None:
    weighted = reciprocal_rank_fusion(rankings, weights=[1.0] * len(rankings))
    assert weighted == reciprocal_rank_fusion(rankings)


@given(st.lists(KEYS, unique=True), st.integers(1, 5))
def test_rankings_that_agree_keep_their_order(ranking: list[str], copies: int) -> None:
    assert [key for key, _ in reciprocal_rank_fusion([ranking] * copies)] == ranking


@given(RANKINGS)
def test_every_key_comes_out_once_with_a_falling_score(rankings: list[list[str]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(key for key, _ in fused) == sorted({key for row in rankings for key in row})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)


# By scores


def test_scores_fused_by_hand():
    # Shares of the best: a 1, b .5 and b 1, c .25; b's and c's lacks count as their floors.
    fused = score_fusion(
        [{"a": 0.8, "b": 0.4}, {"b": 20.0, "c": 5.0}], weights=(0.6, 0.4), floors=(0.4, 5.0)
    )
    assert [key for key, _ in fused] == ["a", "b", "c"]
    assert dict(fused) == pytest.approx(
        {
            "a": 0.6 * 1 + 0.4 * 0.25,
            "b": 0.6 * 0.5 + 0.4 * 1,
            "c": 0.6 * 0.5 + 0.4 * 0.25,
        }
    )


def test_a_floor_of_0_tells_a_word_that_only_one_passage_holds_from_one_that_all_do():
    dense, words = {"a": 0.5, "b": 0.45}, {"b": 7.0}
    assert score_fusion([dense, words], weights=(0.6, 0.4), floors=(0.45, 0.0))[0][0] == "b"
    assert score_fusion([dense, words], weights=(0.6, 0.4), floors=(0.45, 7.0))[0][0] == "a"


def test_negative_and_zero_scores_keep_their_order():
    for scores in ({"a": -0.1, "b": -0.5}, {"a": 0.0, "b": -2.0}):
        fused = score_fusion([scores], weights=(1.0,), floors=(-9.0,))
        assert [key for key, _ in fused] == ["a", "b"]


def test_an_empty_ranking_or_one_of_weight_0_is_as_if_it_were_not_there():
    dense, words = {"b": 0.9, "a": 0.1}, {"c": 3.0}
    alone = score_fusion([dense], weights=(0.6,), floors=(0.1,))
    assert score_fusion([dense, {}], weights=(0.6, 0.4), floors=(0.1, 0.0)) == alone
    assert score_fusion([dense, words], weights=(0.6, 0), floors=(0.1, 0.0)) == alone
    assert score_fusion([{}, {}], weights=(1, 1), floors=(0, 0)) == []


def test_equal_sums_of_scores_come_in_key_order():
    fused = score_fusion(
        [{"b": 1.0, "a": 0.5}, {"a": 4.0, "b": 2.0}], weights=(1, 1), floors=(0, 0)
    )
    assert [key for key, _ in fused] == ["a", "b"]


@given(
    st.lists(st.dictionaries(KEYS, st.floats(0.01, 100)), min_size=1, max_size=4),
    st.floats(0.01, 100),
)
def test_the_unit_of_a_ranking_does_not_matter(
    rankings: list[dict[str, float]], unit: float
) -> None:
    floors = [min(scores.values(), default=0.0) for scores in rankings]
    weights = [1.0] * len(rankings)
    other = {key: score * unit for key, score in rankings[0].items()}
    fused = dict(score_fusion(rankings, weights=weights, floors=floors))
    again = score_fusion(
        [other, *rankings[1:]], weights=weights, floors=[floors[0] * unit, *floors[1:]]
    )
    assert fused == pytest.approx(dict(again))


# The two searches


def test_both_kinds_of_fusion_give_the_dense_weight_to_the_first():
    dense, words = {"a": 0.9, "b": 0.3}, {"b": 8.0, "a": 2.0}
    for kind in FusionKind:
        for weight, first in ((0.8, "a"), (0.2, "b")):
            fusion = Fusion(kind=kind, dense_weight=weight)
            assert fusion.fuse(dense, words, floors=(0.3, 2.0))[0][0] == first
    by_ranks = Fusion(kind=FusionKind.RANKS, dense_weight=0.75, constant=1)
    fused = dict(by_ranks.fuse(dense, words, floors=(0, 0)))
    assert fused == pytest.approx({"a": 0.75 / 2 + 0.25 / 3, "b": 0.75 / 3 + 0.25 / 2})


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_dense_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(ConfigError, match=r"the dense weight is .*, expected 0 .* to 1"):
        Fusion(dense_weight=weight)


def test_a_negative_rank_constant_is_refused():
    with pytest.raises(ConfigError, match="the rank constant is -1, expected 0 or more"):
        Fusion(constant=-1)


POOLS = st.fixed_dictionaries({n: st.permutations(range(30)) for n in (20, 80, 320, 1280)})


def scored(row: int, score: float = 0.0) -> Scored:
    return Scored(score, row, Passage(id=f"{row:02}", title="", text=""))


@given(POOLS, st.integers(1, 1280))
def test_the_first_ranks_are_the_same_however_many_are_asked_for(pools, n_all):
    """Whatever order each pool has, and from whichever size on it holds all that there is."""

    def propose(n_found: int) -> tuple[list[Scored], bool]:
        pool = pools[n_found][: max(1, n_found // 8)]
        return [scored(row, score=-place) for place, row in enumerate(pool)], n_found >= n_all

    most = ranked_in_blocks(80, propose)
    assert len({each.passage for each in most}) == len(most) > 0
    assert all(one.score >= other.score for one, other in pairwise(most))
    for top_k in range(1, 81):
        assert ranked_in_blocks(top_k, propose) == most[:top_k]


def test_ranks_are_decided_in_blocks_on_proposals_that_the_block_fixes():
    asked = []

    def propose(n_found: int) -> tuple[list[Scored], bool]:
        asked.append(n_found)
        order = range(30) if n_found == 20 else range(29, -1, -1)
        return [scored(row, score=float(30 - place)) for place, row in enumerate(order)], False

    found = ranked_in_blocks(7, propose)
    # The first five of the first 20 proposals; then the first two others of the 80.
    assert [each.row for each in found] == [0, 1, 2, 3, 4, 29, 28]
    assert [each.score for each in found] == [30, 29, 28, 27, 26, 26, 26]
    assert asked == [20, 80]
    assert block_ends(5, first=5) == [5]
    assert block_ends(6, first=5) == block_ends(20, first=5) == [5, 20]
    assert block_ends(21, first=10) == [10, 40]


def test_a_search_that_has_found_all_there_is_is_not_repeated():
    asked = []

    def propose(n_found: int) -> tuple[list[Scored], bool]:
        asked.append(n_found)
        return [scored(row) for row in range(12)], True

    assert [each.row for each in ranked_in_blocks(10**30, propose)] == list(range(12))
    assert asked == [20]


def test_scores_of_which_the_highest_is_0_are_taken_as_they_are():
    # Highest 0: no share of it can be taken, so the unit is 1. a: 0; b: -3 / 1.
    fused = score_fusion([{"a": 0.0, "b": -3.0}], weights=[1.0], floors=[-4.0])
    assert fused == [("a", 0.0), ("b", -3.0)]
