"""Trees side by side: what a batch holds, its losses, and which models keep trees apart."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from selfrag.train.batches import (  # noqa: E402
    _texts,
    collate,
    make_batches,
    packs_cleanly,
    token_losses,
)
from selfrag.train.examples import Encoded, pack_tree  # noqa: E402

N_IDS = 40


def test_trees_lie_in_one_row_and_see_only_their_own():
    batch = collate([tree([1, 2]), tree([3, 4], [3, 5])])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 1]]
    assert batch["attention_mask"].shape == (1, 1, 5, 5)
    assert batch["attention_mask"][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 0, 1],
    ]
    assert batch["sources"].tolist() == [0, 2, 2]
    assert batch["targets"].tolist() == [2, 4, 5]
    assert batch["weights"].tolist() == [1.0, 1.0, 1.0]
    assert batch["input_ids"].dtype == batch["sources"].dtype == torch.int64


@pytest.mark.parametrize(("trees", "has_mask"), [(1, False), (2, True)])
def test_a_tree_alone_without_branches_needs_no_mask(trees, has_mask):
    assert ("attention_mask" in collate([tree([1, 2, 3])] * trees)) is has_mask


def test_a_tree_alone_with_branches_needs_one():
    assert "attention_mask" in collate([tree([1, 2, 3], [1, 2, 4])])


def test_a_batch_is_filled_as_if_padded_to_its_longest_and_no_further():
    trees = [tree(range(n)) for n in (2, 3, 3, 5)]

    def lengths(size):
        batches = make_batches(trees, size, np.random.default_rng(0))
        return sorted([len(each.ids) for each in batch] for batch in batches)

    # 2 and 3 and 3 take 9, with 5 it would be 20.
    assert lengths(9) == [[2, 3, 3], [5]]
    assert lengths(8) == [[2, 3], [3], [5]]
    assert lengths(20) == [[2, 3, 3, 5]]
    assert lengths(1) == [[2], [3], [3], [5]]


def test_lengths_are_sorted_within_runs_of_512_trees():
    batches = make_batches([tree([1])] * 600, 10_000, np.random.default_rng(0))
    assert sorted(map(len, batches)) == [88, 512]


class Looking(torch.nn.Module):
    """Logits from the ids that are seen; remembers the arguments of its last call."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.given = {}

    def logits(self, ids):
        return torch.nn.functional.one_hot(ids, N_IDS).float() * torch.arange(1, N_IDS + 1)


class WithKeep(Looking):
    def forward(self, input_ids, position_ids=None, use_cache=True, logits_to_keep=None):
        self.given = {"use_cache": use_cache, "keep": logits_to_keep, "at": position_ids}
        return Output(self.logits(input_ids)[:, logits_to_keep])


class WithoutKeep(Looking):
    def forward(self, input_ids, use_cache=True):
        self.given = {"use_cache": use_cache}
        return Output(self.logits(input_ids))


class Output:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(torch.nn.Module):
    """As a launcher wraps a model, and peft inside of it."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Adapted(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def get_base_model(self):
        return self.inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def expected_losses(pairs):
    """Cross-entropy where the logits of id i are i + 1 at i and 0 elsewhere."""
    total = [np.log(np.exp(i + 1) + N_IDS - 1) for i, _ in pairs]
    return [t - (i + 1 if i == j else 0) for t, (i, j) in zip(total, pairs, strict=True)]


@pytest.mark.parametrize("wrap", [lambda m: m, Wrapped, Adapted, lambda m: Wrapped(Adapted(m))])
@pytest.mark.parametrize("kind", [WithKeep, WithoutKeep])
def test_losses_are_those_of_the_targets_after_their_sources(kind, wrap):
    model = kind()
    found = token_losses(wrap(model), collate([tree([3, 3, 1])]))
    assert np.allclose(found.detach(), expected_losses([(3, 3), (3, 1)]), atol=1e-5)
    assert model.given["use_cache"] is False
    if kind is WithKeep:
        assert model.given["keep"].tolist() == [0, 1]
        assert model.given["at"].tolist() == [[0, 1, 2]]


def test_the_texts_of_a_tree_are_its_first_two_branches_each_with_what_is_shared():
    three = tree([1, 2, 3], [1, 2, 4, 5], [1, 2, 6])
    assert [(x.ids, x.weights) for x in _texts(three)] == [
        ((1, 2, 3), (1.0, 1.0, 1.0)),
        ((1, 2, 4, 5), (1.0, 1.0, 1.0, 1.0)),
    ]
    assert [x.ids for x in _texts(tree([7, 8]))] == [(7, 8)]


def test_losses_of_a_model_that_refuses_a_mask_are_not_clean():
    class Strict(Windowed):
        def forward(self, input_ids, attention_mask=None, **fields):
            if attention_mask is not None:
                raise ValueError("no mask of this shape")
            return super().forward(input_ids, **fields)

    assert not packs_cleanly(Strict(100), [tree([1, 2, 3]), tree([4, 5, 6])])


def test_the_model_is_left_in_the_mode_it_was_in():
    model = Windowed(100)
    for mode in (True, False):
        model.train(mode)
        packs_cleanly(model, [tree([1, 2, 3])])
        assert model.training is mode
        assert not model.was_training  # measured without dropout


def test_the_shortest_and_the_longest_are_tried_among_many():
    texts = [tree(range(n)) for n in (4, 5, 30)]
    assert packs_cleanly(Windowed(8), texts[:2])
    assert not packs_cleanly(Windowed(8), texts)
    assert not packs_cleanly(Windowed(8), texts[::-1])


def test_a_tree_with_branches_is_tried_although_a_plain_one_is_longer():
    class OneBranch(Windowed):
        """Ignores what a mask hides, but keeps trees apart by their first position."""

        def forward(self, input_ids, position_ids=None, attention_mask=None, use_cache=False):
            mask = None
            if attention_mask is not None:
                number = (position_ids[0] == 0).cumsum(0)
                own = number[:, None] == number[None, :]
                mask = (own & torch.ones_like(own).tril())[None, None]
            return super().forward(input_ids, attention_mask=mask)

    plain = [tree(range(10, 39)), tree([1, 2, 3])]
    assert packs_cleanly(OneBranch(100), plain)
    assert not packs_cleanly(OneBranch(100), [*plain, tree([1, 2, 3], [1, 2, 4, 5])])


class Windowed(torch.nn.Module):
    """Sees at most `window` ids back in plain text, and whatever a mask allows where one is given.

    The logits of a position are the mean of the one-hot vectors of what it sees, times ten.
    """

    def __init__(self, window):
        super().__init__()
        self.window = window
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, position_ids=None, attention_mask=None, use_cache=False):
        self.was_training = self.training
        n = input_ids.shape[1]
        seen = torch.ones(n, n).tril() if attention_mask is None else attention_mask[0, 0].float()
        if attention_mask is None:
            seen = seen.triu(1 - self.window)
        one_hot = torch.nn.functional.one_hot(input_ids[0], N_IDS).float()
        logits = 10 * (seen / seen.sum(-1, keepdim=True)) @ one_hot
        return Output(logits[None])


def tree(*texts):
    return pack_tree([Encoded(tuple(text), (1.0,) * len(text)) for text in texts])


def test_a_sliding_window_is_noticed_by_the_longest_text():
    short, long = tree([1, 2, 3]), tree([5, *range(10, 39)])
    assert packs_cleanly(Windowed(100), [short, short, long])
    assert not packs_cleanly(Windowed(8), [short, short, long])
    assert packs_cleanly(Windowed(8), [short, short])


def test_a_sliding_window_is_noticed_where_all_texts_branch():
    start = list(range(10, 39))
    grouped = tree([*start, 1, 2], [*start, 3, 4])
    assert packs_cleanly(Windowed(100), [grouped, grouped])
    assert not packs_cleanly(Windowed(8), [grouped])
