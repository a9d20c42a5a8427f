"""A search reads every token about once, by the benchmark that measures it."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "prefix_reads.py"


@pytest.fixture(scope="module")
def prefix_reads():
    spec = importlib.util.spec_from_file_location("prefix_reads", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n_questions", [1, 4])
def test_a_search_reads_at_most_a_twentieth_more_than_the_distinct_tokens(
    prefix_reads, n_questions
):
    found = prefix_reads.measure(n_questions)
    # Four levels of at most ten candidates, each with a passage of 100 tokens and 40 written.
    assert found.distinct > n_questions * 4000
    assert found.distinct <= found.after <= 1.05 * found.distinct
    assert found.before > 2 * found.distinct


def test_distinct_tokens_are_the_nodes_of_a_trie(prefix_reads):
    assert prefix_reads.n_distinct([(1, 2, 3), (1, 2, 4), (1, 2), (5,), (1, 2, 3)]) == 5


def test_the_earlier_rule_shares_a_start_within_one_group_alone(prefix_reads):
    start = tuple(range(40))
    batch = [prefix_reads.Request(prefix_ids=(*start, n), max_new_tokens=1) for n in (1, 2)]
    assert prefix_reads.n_read_by_length(batch, [41, 41]) == 40 + 2
    assert prefix_reads.n_read_by_length(batch, [41, 41], max_batch=1) == 82
    other = prefix_reads.Request(prefix_ids=(9, *start), max_new_tokens=1)
    assert prefix_reads.n_read_by_length([*batch, other], [41] * 3) == 3 * 41
