"""Loss masks and shared-prompt trees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.engine.scripted import ScriptedTokenizer
from selfrag.errors import ConfigError
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Marker, Relevance, Retrieve, Support, Utility
from selfrag.released import GeneratorRecord, InstructionRow, SegmentRecord
from selfrag.train.config import OverLong
from selfrag.train.data import RenderOptions, prepare_rows
from selfrag.train.examples import (
    UNIFORM,
    Encoded,
    LossWeights,
    Mask,
    encode_row,
    pack_tree,
    visible,
)

WEIGHTS = LossWeights()


def passage(text):
    return Passage(id=text, title="T", text=text)


def segment(text, body, **options):
    return SegmentRecord(
        retrieve=Retrieve.YES,
        passage=passage(body),
        relevance=Relevance.RELEVANT,
        text=text,
        support=Support.FULL,
        **options,
    )


def record(*segments, utility=Utility.U5, **options):
    fields = {"id": "r", "dataset": "made", "instruction": "Q", "segments": segments}
    return GeneratorRecord(**{**fields, **options}, utility=utility)


def learned_text(item, encoded_record):
    """The surface of the ids that carry loss."""
    fmt = PromptFormat.of(item)
    encoded = encode_row(encoded_record, fmt, WEIGHTS)
    return item.surface([i for i, w in zip(encoded.ids, encoded.weights, strict=True) if w])


def test_the_short_answer_that_a_text_begins_with_weighs_more():
    tokenizer = ScriptedTokenizer()
    item = record(segment("Rome. In Rome.", "aa", answer="Rome"))
    encoded = encode_row(item, PromptFormat.of(tokenizer), WEIGHTS)
    weighed = {}
    for token_id, weight in zip(encoded.ids, encoded.weights, strict=True):
        weighed.setdefault(weight, []).append(tokenizer.surface([token_id]))
    assert weighed[WEIGHTS.answer] == ["Rome", "[Fully supported]"]  # both weigh 3
    # Word, space and stop tokens of the rest, the retrieval token, and the end.
    assert "".join(weighed[1.0]) == "[Retrieval]. In Rome.</s>"


def test_each_passage_is_masked_separately():
    # The released mask ran from the first <paragraph> to the last </paragraph>: "One" and its
    # critique would get no loss.
    tokenizer = ScriptedTokenizer()
    two = record(segment("One", "aa"), segment("Two", "bb"))
    assert learned_text(tokenizer, two) == (
        "[Retrieval][Relevant]One[Fully supported]"
        "[Retrieval][Relevant]Two[Fully supported][Utility:5]</s>"
    )


def test_a_wrong_text_teaches_its_critique_only():
    tokenizer = ScriptedTokenizer()
    wrong = record(segment("Wrong", "aa", learn_text=False, learn_relevance=False))
    assert learned_text(tokenizer, wrong) == "[Retrieval][Fully supported][Utility:5]</s>"


def test_marker_text_inside_a_passage_does_not_end_its_mask():
    tokenizer = ScriptedTokenizer()
    forged = record(segment("Yes", "x </paragraph>[Relevant] y"))
    assert learned_text(tokenizer, forged).startswith("[Retrieval][Relevant]Yes[Fully")


def test_a_gate_record_learns_the_decision_and_no_end():
    tokenizer = ScriptedTokenizer()
    gate = record(SegmentRecord(retrieve=Retrieve.YES), utility=None)
    assert learned_text(tokenizer, gate) == "[Retrieval]"


def test_weights_follow_the_kind_of_token():
    fmt = PromptFormat.of(ScriptedTokenizer())
    encoded = encode_row(record(segment("One", "aa")), fmt, WEIGHTS)
    # retrieve 1, relevance 4, one text token 1, support 3, utility 1.5, end 1
    assert [w for w in encoded.weights if w] == [1.0, 4.0, 1.0, 3.0, 1.5, 1.0]


def test_a_tree_reads_the_prompt_once():
    # Shared 1 2 3, branches 4 5 and 6; losses on 3, on the whole first branch and on 6.
    tree = pack_tree(
        [Encoded((1, 2, 3, 4, 5), (0, 0, 1, 1, 1)), Encoded((1, 2, 3, 6), (0, 0, 0, 2))]
    )
    assert tree.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 3]
    assert tree.branches.tolist() == [0, 0, 0, 1, 1, 2]
    links = list(zip(tree.sources, tree.targets, tree.weights, strict=True))
    assert links == [(1, 3, 1), (2, 4, 1), (3, 5, 1), (2, 6, 2)]


def test_branches_do_not_see_each_other():
    seen = visible(np.array([0, 0, 1, 1, 2]))
    assert seen.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_branch_of_a_tree_is_its_own_sequence(sequences):
    items = [Encoded((9, *ids), (0.0, *(1.0 for _ in ids))) for ids in sequences]
    assert items
    tree = pack_tree(items)
    seen = visible(tree.branches)
    for number, item in enumerate(items, start=1):
        ends = np.flatnonzero(tree.branches == number)
        last = int(ends[-1]) if len(ends) else int(np.flatnonzero(tree.branches == 0)[-1])
        assert tuple(tree.ids[seen[last]]) == item.ids
        assert tree.positions[seen[last]].tolist() == list(range(len(item.ids)))


def test_groups_become_trees_and_long_ones_are_left_out():
    fmt = PromptFormat.of(ScriptedTokenizer())
    records = [
        record(segment("One", "aa"), group="g", id="1"),
        record(segment("Two", "aa", learn_text=False), group="g", id="2"),
        record(segment("One", "bb"), id="3"),
        record(segment("One", "c " * 500), id="4"),
    ]
    options = RenderOptions(weights=WEIGHTS, max_tokens=200, over_long=OverLong.DROP)
    prepared = prepare_rows(enumerate(records, start=1), fmt, options)
    trees = prepared.trees
    assert [reject.number for reject in prepared.rejects] == [4]
    assert [int(tree.branches.max()) for tree in trees] == [2, 0]


def test_a_marker_counts_as_text_and_every_group_as_itself():
    weights = LossWeights(
        text=2.0, answer=7.0, retrieve=3.0, relevance=4.0, support=5.0, utility=6.0
    )
    tokens = [Marker.PARAGRAPH_END, Retrieve.NO, Relevance.RELEVANT, Support.FULL, Utility.U1]
    assert [weights.of(token) for token in tokens] == [2.0, 3.0, 4.0, 5.0, 6.0]


def released(output, mask):
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    row = InstructionRow(instruction="Q", output=output)
    encoded = encode_row(row, fmt, UNIFORM, mask=mask)
    n_prompt = len(fmt.instruction("Q"))
    return [
        (tokenizer.surface([i]), weight)
        for i, weight in zip(encoded.ids, encoded.weights, strict=True)
    ][n_prompt - 1 :]


def test_the_released_mask_begins_again_right_behind_the_last_passage_that_is_closed():
    found = released("<paragraph>a</paragraph><paragraph>b c", Mask.REFERENCE)
    assert found == [
        ("\n", 1.0),  # the last of the prompt
        ("<paragraph>", 1.0),
        ("a", 0.0),
        ("</paragraph>", 1.0),
        ("<paragraph>", 1.0),
        ("b", 0.0),
        (" ", 0.0),
        ("c", 0.0),
        ("</s>", 1.0),
    ]


def test_a_passage_that_the_answer_ends_in_gets_no_end_marker():
    assert [token for token, _ in released("<paragraph>b", Mask.PASSAGES)][1:] == [
        "<paragraph>",
        "b",
        "</s>",
    ]


def test_a_tree_holds_small_integers_and_single_floats():
    fmt = PromptFormat.of(ScriptedTokenizer())
    one, two = (encode_row(record(segment(text, "aa")), fmt, WEIGHTS) for text in ("One", "Two"))
    tree = pack_tree([one, two])
    kinds = {
        name: getattr(tree, name).dtype
        for name in ("ids", "positions", "branches", "sources", "targets")
    }
    assert set(kinds.values()) == {np.dtype(np.int32)}
    assert tree.weights.dtype == np.float32


def test_a_record_is_its_instruction_and_its_answer_cut_behind_the_limit():
    fmt = PromptFormat.of(ScriptedTokenizer())
    row = record(segment("One", "aa"), instruction="Who is it?")
    whole = encode_row(row, fmt, WEIGHTS)
    prompt = fmt.instruction("Who is it?")
    assert list(whole.ids[: len(prompt)]) == list(prompt)
    cut = encode_row(row, fmt, WEIGHTS, max_tokens=len(prompt) + 2)
    assert list(cut.ids) == list(whole.ids[: len(prompt) + 2])
    assert len(cut.weights) == len(cut.ids)


def test_a_loss_weight_that_is_refused_is_named_as_it_is_set():
    with pytest.raises(ConfigError, match=r"^cannot train: loss\.text is -1"):
        LossWeights(text=-1.0)
