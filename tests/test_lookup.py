"""Guesses from what stood before, and that guessing changes nothing but the number of passes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selfrag.engine.base import Request
from selfrag.engine.batching import Batcher, Draft, Step, greedy
from selfrag.engine.lookup import MAX_GUESS, Guesses

N_IDS = 6


def test_a_row_goes_on_as_it_did_after_its_last_ids():
    row = Guesses().row((1, 2, 3, 4, 5, 9, 2, 3))
    assert row.next(3) == (4, 5, 9)  # after 2, 3
    row.wrote([4])
    assert row.next(2) == (5, 9)
    row.wrote([7])
    assert row.next(8) == ()  # 7 stood nowhere before


def test_the_longest_n_gram_decides_then_the_latest_place():
    row = Guesses().row((1, 2, 3, 50, 8, 2, 3, 60, 1, 2, 3))
    assert row.next(1) == (50,)  # 1, 2, 3 stood once; 2, 3 later, before 60
    row = Guesses().row((2, 3, 50, 2, 3, 60, 2, 3))
    assert row.next(1) == (60,)


def test_rows_learn_from_what_others_wrote_but_not_from_a_single_id():
    guesses = Guesses()
    first, second = guesses.row((1,)), guesses.row((5,))
    first.wrote([10, 11, 12, 13])
    second.wrote([11])
    assert second.next(4) == ()
    second.wrote([12])
    assert second.next(4) == (13,)


def test_no_more_is_guessed_than_asked_for_or_than_pays():
    row = Guesses().row((*range(40), 0, 1, 2))
    assert row.next(2) == (3, 4)
    assert len(row.next(30)) == MAX_GUESS


class Counted:
    """A model whose next id depends on all ids read; `n_passes` counts its decode steps."""

    def __init__(self, seed):
        self.seed, self.n_passes = seed, 0

    def logits(self, ids):
        # Mostly the id that followed the last one in a fixed cycle, now and then another.
        rng = np.random.default_rng([self.seed, *ids[-2:]])
        row = rng.normal(size=N_IDS)
        row[(ids[-1] + 1) % N_IDS] += 2.5
        return row

    def read(self, rows):
        texts = [[*sum(row.known.spans, ()), *row.ids] for row in rows]
        return InFlight(texts, [[self.logits(text)] for text in texts])

    def write(self, rows, steps):
        self.n_passes += 1
        texts = [rows.texts[step.row][: step.n_read] for step in steps]
        after = []
        for text, step in zip(texts, steps, strict=True):
            after.append([])
            for token_id in step.ids:
                text.append(token_id)
                after[-1].append(self.logits(text))
        return InFlight(texts, after)

    def cut(self, span, start, stop):
        return span[start:stop]

    def n_bytes(self, span):
        return len(span)


class InFlight:
    def __init__(self, texts, after):
        self.texts, self.after = texts, after

    def choose(self, drafts):
        logits = np.concatenate(self.after).astype(np.float32)
        return greedy(logits, drafts, [len(each) for each in self.after])

    def span(self, row, start, stop):
        return tuple(self.texts[row][start:stop])


def complete(seed, requests, *, guess):
    model = Counted(seed)
    batcher = Batcher(model, name="counted", max_context=200, max_batch=4, guess=guess)
    # The second call continues what the first one kept.
    done = batcher.complete(requests)
    longer = [
        Request(
            prefix_ids=request.prompt_ids + each.token_ids,
            max_new_tokens=5,
            watch_ids=request.watch_ids,
        )
        for request, each in zip(requests, done, strict=True)
    ]
    return [*done, *batcher.complete(longer)], model.n_passes


PROMPTS = st.lists(
    st.lists(st.integers(0, N_IDS - 1), min_size=1, max_size=20).map(tuple), min_size=1, max_size=6
)


@given(PROMPTS, st.integers(0, 99), st.integers(1, 30), st.sets(st.integers(0, N_IDS - 1)))
def test_guessing_gives_the_completions_of_one_id_a_pass(prompts, seed, limit, stops):
    requests = [
        Request(
            prefix_ids=prompt, max_new_tokens=limit, stop_ids=frozenset(stops), watch_ids=(0, 3, 1)
        )
        for prompt in prompts
    ]
    guessed, few = complete(seed, requests, guess=True)
    plain, many = complete(seed, requests, guess=False)
    assert len(guessed) == 2 * len(prompts) and few <= many
    for a, b in zip(guessed, plain, strict=True):
        assert a.token_ids == b.token_ids and a.finish_reason is b.finish_reason
        assert np.array_equal(a.logprobs, b.logprobs) and np.array_equal(a.watched, b.watched)


def test_a_copy_of_the_prompt_takes_few_passes():
    class Copies(Counted):
        def logits(self, ids):
            # Says 0 to 5 again and again.
            return np.eye(N_IDS)[(ids[-1] + 1) % N_IDS] * 9

    batch = [Request(prefix_ids=(0, 1, 2, 3, 4, 5, 0, 1), max_new_tokens=28)]
    passes = []
    for guess in (False, True):
        model = Copies(0)
        batcher = Batcher(model, name="copies", max_context=99, max_batch=1, guess=guess)
        (done,) = batcher.complete(batch)
        assert done.token_ids == tuple((2 + n) % 6 for n in range(28))
        passes.append(model.n_passes)
    # 27 ids of their own pass, or up to 1 + 8 a pass; at most 6 follow where the cycle stood last.
    assert passes[0] == 27 and passes[1] <= 6


def test_a_draft_takes_guesses_as_far_as_they_hold():
    def steps(*ids):
        return [Step(i, -1.0, np.zeros(0)) for i in ids]

    draft = Draft(Request(prefix_ids=(1,), max_new_tokens=9, stop_ids=frozenset({7})))
    assert draft.take(steps(4, 5, 6), guess=(4, 9)) == 2  # 4 held, 9 did not: 5 was chosen
    assert draft.token_ids == [4, 5]
    assert draft.take(steps(7, 8), guess=(7,)) == 1  # nothing comes after a stop id
    assert draft.token_ids == [4, 5, 7]
