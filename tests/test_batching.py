"""Which rows are read together, and what a search reads on the whole."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrag.engine.base import Request
from selfrag.engine.batching import (
    MAX_PADDED_TOKENS,
    MIN_SAVED_TOKENS,
    common_starts,
    groups,
    require_room,
    trie_order,
)
from selfrag.engine.prefix_cache import PrefixCache, common_length
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput

few_ids = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
many_prompts = st.lists(few_ids, min_size=1, max_size=12)


class Strings:
    """A state is the ids themselves, so that every span can be checked."""

    def cut(self, span, start, stop):
        return span[start:stop]

    def n_bytes(self, span):
        return len(span)


def cache_of(max_bytes=1000):
    return PrefixCache(Strings(), max_bytes=max_bytes)


def keep(cache, ids):
    ids = tuple(ids)
    cache.add(ids, lambda start, stop: ids[start:stop])


def held(cache, ids):
    known = cache.find(ids)
    found = tuple(i for span in known.spans for i in span)
    assert found == tuple(ids)[: known.n]
    return known.n


def test_prompts_of_similar_length_lie_together_where_they_share_nothing():
    prompts = [(n, *range(100, 100 + n)) for n in (5, 2, 9, 3)]
    assert groups(prompts, 2) == [[1, 3], [0, 2]]


def test_prompts_that_share_a_beginning_lie_together_whatever_their_length():
    a, b = tuple(range(10)), tuple(range(50, 60))
    prompts = [(*a, 1), (*b, 1), (*a, *[2] * 40), (*b, *[2] * 30)]
    assert groups(prompts, 2) == [[1, 3], [0, 2]]


def test_groups_respect_rows_and_padded_tokens():
    short = [(1,) * n for n in (2, 1, 3, 1, 2)]
    assert [len(group) for group in groups(short, 2)] == [2, 2, 1]
    half = (1,) * (MAX_PADDED_TOKENS // 2)
    assert groups([half] * 5, 16) == [[0, 1], [2, 3], [4]]


@given(many_prompts)
def test_every_beginning_is_a_run_of_the_order(prompts):
    order = trie_order(prompts)
    assert sorted(order) == list(range(len(prompts)))
    for n in range(1, 6):
        starts = [prompts[i][:n] for i in order if len(prompts[i]) > n]
        changes = sum(a != b for a, b in pairwise(starts))
        assert changes == len(set(starts)) - 1 or not starts


def test_a_long_chain_of_prompts_that_begin_one_another_is_ordered():
    prompts = [(1,) * n for n in range(1, 3000)]
    assert trie_order(prompts) == list(range(2999))


def test_a_beginning_is_read_first_where_that_saves_enough():
    start = tuple(range(MIN_SAVED_TOKENS))
    assert common_starts([(*start, 1), (*start, 2)], [0, 0]) == [(0, 1, MIN_SAVED_TOKENS)]
    assert common_starts([(*start, 1), (*start, 2)], [1, 1]) == []
    # Half of it saves as much where three rows share it.
    half = start[: MIN_SAVED_TOKENS // 2]
    assert common_starts([(*half, n) for n in range(3)], [0] * 3) == [(0, 2, len(half))]


def test_beginnings_are_found_behind_one_that_is_too_short_to_count():
    left, right = tuple(range(40)), tuple(range(50, 100))
    prompts = [(0, *left, 1), (0, *left, 2), (0, *right, 1), (0, *right, 2)]
    assert sorted(common_starts(prompts, [0] * 4)) == [(0, 1, 41), (2, 3, 51)]


def test_one_prompt_that_begins_another_keeps_an_id_for_itself():
    start = tuple(range(40))
    assert common_starts([start, (*start, 1)], [0, 0]) == [(0, 1, 39)]


@given(few_ids, few_ids)
def test_common_length_counts_equal_first_ids(a, b):
    n = common_length(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_what_is_kept_is_found_by_its_ids():
    cache = cache_of()
    keep(cache, (1, 2, 3, 4))
    keep(cache, (1, 2, 5))
    assert held(cache, (1, 2, 3, 4, 9)) == 4
    assert held(cache, (1, 2, 5)) == 3
    assert held(cache, (1, 2, 6)) == 2
    assert held(cache, (2,)) == 0
    assert cache.n_bytes == 5  # the beginning is held once


def test_the_least_recently_used_go_first():
    cache = cache_of(max_bytes=9)
    keep(cache, (1, 1, 1))
    keep(cache, (2, 2, 2))
    keep(cache, (3, 3, 3))
    held(cache, (1, 1, 1))
    keep(cache, (4, 4, 4))
    assert [held(cache, (n,) * 3) for n in (1, 2, 3, 4)] == [3, 0, 3, 3]


def test_a_beginning_outlives_what_follows_it():
    cache = cache_of(max_bytes=6)
    keep(cache, (1, 1, 1, 1))
    keep(cache, (1, 1, 2, 2))
    keep(cache, (1, 1, 3, 3))
    assert [held(cache, (1, 1, n, n)) for n in (1, 2, 3)] == [2, 4, 4]


def test_a_state_larger_than_the_bound_is_not_kept():
    cache = cache_of(max_bytes=3)
    keep(cache, (1, 2))
    keep(cache, (3, 4, 5, 6))
    assert held(cache, (3, 4, 5, 6)) == 0
    assert cache.n_bytes <= 3


def test_a_bound_of_zero_copies_nothing():
    cache_of(max_bytes=0).add((1, 2), lambda start, stop: pytest.fail("copied"))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.booleans(), few_ids), max_size=30), st.integers(1, 12))
def test_the_cache_never_exceeds_its_bound_and_never_answers_wrongly(steps, max_bytes):
    cache = cache_of(max_bytes)
    kept = []
    for is_kept, ids in steps:
        if is_kept:
            keep(cache, ids)
            kept.append(ids)
        n = held(cache, ids)
        assert n <= max((common_length(ids, other) for other in kept), default=0)
        assert cache.n_bytes <= max_bytes
        if max_bytes == 12 and sum(map(len, kept)) <= 12:
            assert n == max((common_length(ids, other) for other in kept), default=0)


def counting_engine(**options):
    tokenizer = ScriptedTokenizer()
    for letter in "abcdef":
        tokenizer.encode(letter)  # ids 16 to 21, whatever is asked first

    def script(prompt_ids):
        rng = np.random.default_rng(prompt_ids)
        return say(*(str(word) for word in rng.choice(list("abcdef"), size=10)))

    return ScriptedEngine(tokenizer, script, **options)


def n_distinct(engine, requests, completions):
    """Nodes of the trie over all that is read; the id chosen last is not."""
    read = set()
    for request, done in zip(requests, completions, strict=True):
        ids = (*request.prompt_ids, *done.token_ids[:-1])
        read |= {ids[:n] for n in range(1, len(ids) + 1)}
    return len(read)


def test_tokens_are_read_once_within_a_call_and_across_calls():
    engine = counting_engine()
    start = tuple(range(16, 76))
    first = [Request(prefix_ids=start, suffix_ids=(n,), max_new_tokens=5) for n in range(90, 95)]
    done = engine.generate(first)
    # 60 shared, five of one id each, four decode steps each.
    assert engine.n_tokens_read == 60 + 5 + 5 * 4 == n_distinct(engine, first, done)
    again = [
        Request(prefix_ids=(*r.prompt_ids, *d.token_ids), suffix_ids=(99,), max_new_tokens=1)
        for r, d in zip(first, done, strict=True)
    ]
    engine.generate(again)
    # The id chosen last and the new one.
    assert engine.n_tokens_read == 85 + 5 * 2


def test_without_a_cache_only_the_call_itself_shares():
    engine = counting_engine(cache_tokens=0)
    start = tuple(range(16, 76))
    batch = [Request(prefix_ids=start, suffix_ids=(n,), max_new_tokens=1) for n in range(90, 95)]
    engine.generate(batch)
    engine.generate(batch)
    assert engine.n_tokens_read == 2 * 65


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(16, 18), min_size=1, max_size=120).map(tuple), min_size=1),
    st.integers(1, 4),
    st.sampled_from([0, 50, 1 << 16]),
)
def test_whatever_is_shared_the_completions_are_those_of_single_requests(
    prompts, max_batch, cache_tokens
):
    requests = [
        Request(prefix_ids=prompt, max_new_tokens=1 + len(prompt) % 4) for prompt in prompts
    ]
    engine = counting_engine(max_batch=max_batch, cache_tokens=cache_tokens)
    found = engine.generate(requests)
    for request, completion in zip(requests, found, strict=True):
        (alone,) = counting_engine().generate([request])
        assert completion.token_ids == alone.token_ids


def test_a_completion_as_long_as_the_context_is_not_blamed_on_the_prompt():
    request = Request(prefix_ids=(16,), max_new_tokens=100_000)
    with pytest.raises(BadInput, match=r"holds 64 in all.*lower max_new_tokens$"):
        require_room(request, 64)
