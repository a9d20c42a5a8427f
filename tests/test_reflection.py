"""The vocabulary: strings, order, ids."""

import pytest

from selfrag.reflection import REFLECTION_TOKENS, Relevance, Retrieve, Support, Utility, bind

# Ids of the released 7B generator: the order in which its tokens were added to 32,000 others.
RELEASED = {
    "[No Retrieval]": 32000,
    "[Retrieval]": 32001,
    "[Continue to Use Evidence]": 32002,
    "[Irrelevant]": 32003,
    "[Relevant]": 32004,
    "<paragraph>": 32005,
    "</paragraph>": 32006,
    "[Utility:1]": 32007,
    "[Utility:2]": 32008,
    "[Utility:3]": 32009,
    "[Utility:4]": 32010,
    "[Utility:5]": 32011,
    "[Fully supported]": 32012,
    "[Partially supported]": 32013,
    "[No support / Contradictory]": 32014,
}


def test_tokens_have_the_order_of_the_released_vocabulary():
    assert {str(t): 32000 + i for i, t in enumerate(REFLECTION_TOKENS)} == RELEASED


def test_groups_bind_to_the_released_ids():
    ids = bind(RELEASED.__getitem__, end_of_sequence=2)
    assert ids.retrieve == (32000, 32001, 32002)
    assert ids.relevance == (32003, 32004)
    assert ids.support == (32012, 32013, 32014)
    assert ids.utility == tuple(range(32007, 32012))
    assert ids.segment_stops == {32000, 32001, 32002, 2}
    assert ids.token_of[32012] is Support.FULL
    assert ids[Utility.U5] == 32011


def test_a_token_missing_from_the_vocabulary_is_a_key_error():
    with pytest.raises(KeyError):
        bind({str(Retrieve.NO): 5}.__getitem__, end_of_sequence=2)


def test_two_tokens_with_one_id_are_refused():
    shared = {**RELEASED, str(Relevance.RELEVANT): 32003}
    with pytest.raises(ValueError, match="share one id"):
        bind(shared.__getitem__, end_of_sequence=2)
