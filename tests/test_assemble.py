"""The rules of assembly, with their coins loaded."""

from collections import Counter

import numpy as np
import pytest

from selfrag.annotate.assemble import (
    AssemblyConfig,
    Bug,
    Read,
    Rules,
    choose_paper,
    choose_reference,
)
from selfrag.annotate.judgement import Judgement, relevance_case, support_case
from selfrag.passage import Hit, Passage
from selfrag.reflection import Relevance, Support

FULL, PARTIAL, NONE, IRRELEVANT, UNKNOWN = "full", "partial", "none", "irrelevant", "unknown"
SUPPORT = {FULL: Support.FULL, PARTIAL: Support.PARTIAL, NONE: Support.NONE}


def reads_of(*kinds):
    reads = []
    for rank, kind in enumerate(kinds, start=1):
        hit = Hit(passage=Passage(id=str(rank), title="", text=""), score=0.0, rank=rank)
        label = {IRRELEVANT: Relevance.IRRELEVANT, UNKNOWN: None}.get(kind, Relevance.RELEVANT)
        relevance = Judgement(case=relevance_case("", ""), by="t", label=label)
        support = None
        if kind in SUPPORT:
            support = Judgement(case=support_case("", "", "", ""), by="t", label=SUPPORT[kind])
        reads.append(Read(hit=hit, relevance=relevance, support=support))
    return reads


class Coins:
    """A generator whose coins come up as told; draws of an index give the last one."""

    def __init__(self, *coins):
        self.coins = list(coins)

    def random(self):
        return self.coins.pop(0)

    def integers(self, n):
        return n - 1


def rank_and_rule(choice):
    return choice and (choice.read.hit.rank, choice.rule)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((PARTIAL, FULL, FULL), (2, "first_full")),
        ((NONE, IRRELEVANT, PARTIAL), (3, "first_partial")),
        ((UNKNOWN, IRRELEVANT, NONE, UNKNOWN), (3, "any")),  # drawn from 2 and 3
        ((UNKNOWN, UNKNOWN), None),
        ((), None),
    ],
)
def test_the_paper_prefers_support_then_rank_and_else_draws(kinds, expected):
    assert rank_and_rule(choose_paper(reads_of(*kinds), Coins())) == expected


@pytest.mark.parametrize(
    ("dataset", "kinds", "coins", "expected"),
    [
        ("x", (NONE, FULL, PARTIAL, FULL), [], (2, "first_full")),
        ("x", (IRRELEVANT, PARTIAL), [0.31], (2, "first_partial")),
        ("x", (PARTIAL, IRRELEVANT, IRRELEVANT), [0.30], (3, "random_irrelevant")),
        ("x", (IRRELEVANT, NONE), [0.76], (2, "first_none")),
        ("x", (IRRELEVANT, NONE), [0.75], (1, "random_irrelevant")),
        # A lost coin on partial support does not toss for no support.
        ("x", (PARTIAL, NONE, IRRELEVANT), [0.1], (3, "random_irrelevant")),
        ("nq", (FULL, IRRELEVANT), [0.1], (2, "always_irrelevant")),
        ("fever", (FULL, IRRELEVANT), [], (2, "always_irrelevant")),
        ("nq", (FULL, PARTIAL), [0.9], (1, "first_full")),  # there is no irrelevant one to take
        # Nothing to take by the rules: the released code drops the sentence.
        ("x", (NONE, PARTIAL), [0.1], (2, "best_left")),
        ("x", (NONE, UNKNOWN), [0.1], (1, "best_left")),
    ],
)
def test_the_reference_takes_by_bucket_and_coin(dataset, kinds, coins, expected):
    config = AssemblyConfig(rules=Rules.REFERENCE)
    choice = choose_reference(reads_of(*kinds), dataset, config, Coins(*coins))
    assert rank_and_rule(choice) == expected


def test_bugs_of_the_reference_are_switched_on_by_name():
    reads = reads_of(FULL, FULL, IRRELEVANT, IRRELEVANT)
    buggy = AssemblyConfig(rules=Rules.REFERENCE, bugs=frozenset({Bug.IRRELEVANT_INDEX}))
    # Of two irrelevant ones the second is drawn: index 1, taken for a rank, is the second passage.
    assert rank_and_rule(choose_reference(reads, "fever", buggy, Coins())) == (
        2,
        "always_irrelevant",
    )
    dropping = AssemblyConfig(rules=Rules.REFERENCE, bugs=frozenset({Bug.DROP_SENTENCE}))
    assert choose_reference(reads_of(PARTIAL), "x", dropping, Coins(0.1)) is None


@pytest.mark.parametrize(("dataset", "relabelled"), [("wow", True), ("nq", True), ("x", False)])
def test_relevant_without_support_is_called_irrelevant_in_three_sets(dataset, relabelled):
    config = AssemblyConfig(rules=Rules.REFERENCE)
    choice = choose_reference(reads_of(NONE), dataset, config, Coins(0.9))
    assert choice.relabelled is relabelled and choice.is_relevant is not relabelled


def test_the_coins_fall_as_often_as_the_released_code_has_them():
    config = AssemblyConfig(rules=Rules.REFERENCE)
    rng = np.random.default_rng(0)
    rules = Counter(
        choose_reference(reads_of(PARTIAL, IRRELEVANT), "x", config, rng).rule for _ in range(4000)
    )
    # 0.7 of 4000, give or take four standard deviations of 29.
    assert abs(rules["first_partial"] - 2800) < 116
