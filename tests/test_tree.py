"""The tree of a search as it is shown: order, and what became of every candidate."""

from types import SimpleNamespace

from selfrag.decode.events import CandidateEvent, FinishEvent, KeepEvent, PruneEvent, RetrievalEvent
from selfrag.decode.node import Node
from selfrag.decode.tree import tree_of
from selfrag.passage import Hit, Passage
from selfrag.reflection import Retrieve

ROOT = Node.root((1,)).decided(Retrieve.YES)


def node(number, parent, text, score, *, wants=None):
    passage = Passage(id=f"p{number}", title="", text="")
    return Node(
        id=number,
        parent=parent,
        lead_ids=(),
        hits=(Hit(passage=passage, score=1.0, rank=1),),
        segment=SimpleNamespace(text=text),
        wants=wants,
        path_score=score,
    )


def wrote(each):
    return CandidateEvent(question=0, node=each)


def kept(each, rank):
    return KeepEvent(question=0, node=each, rank=rank)


def lost(each, reason):
    return PruneEvent(question=0, node=each, rank=0, reason=reason)


def shown(level):
    """Text, verdict and what follows, depth first."""
    return [(b.node.segment.text, b.verdict, shown(b.below)) for b in level.branches]


def test_the_answer_comes_first_then_the_higher_score_then_the_order_of_writing():
    low, high = node(1, ROOT, "low", 1.0), node(2, ROOT, "high", 3.0)
    won, tied = node(3, ROOT, "won", 2.0), node(4, ROOT, "tied", 1.0)
    events = [
        RetrievalEvent(question=0, parent=ROOT, query="Who?", hits=()),
        *map(wrote, (low, high, won, tied)),
        *(kept(won, 1), kept(high, 2), lost(low, "too low")),
    ]
    level = tree_of(events)
    assert [step.query for step in level.steps] == ["Who?"]
    assert shown(level) == [
        ("won", "in the answer: kept, rank 1, finished", []),
        ("high", "kept, rank 2, finished, but another path was better", []),
        ("low", "lost: too low", []),
        ("tied", "not followed further", []),
    ]


def test_a_path_that_ends_under_another_number_is_the_one_that_was_written():
    first = node(1, ROOT, "first", 2.0, wants=Retrieve.YES)
    other = node(2, ROOT, "other", 1.5, wants=Retrieve.YES)
    bad = node(3, first, "bad", 0.5)
    end = other.ended(4)
    before = [wrote(first), wrote(other), kept(first, 1), kept(other, 2), wrote(bad)]
    after = [lost(bad, "repeats"), lost(first.ended(5), "behind"), kept(end, 1)]
    assert shown(tree_of(before)) == [
        ("first", "in the answer: kept, rank 1, goes on", [("bad", "not followed further", [])]),
        ("other", "kept, rank 2, goes on, but another path was better", []),
    ]
    assert shown(tree_of(before + after)) == [
        ("other", "in the answer: kept, rank 1, finished", []),
        ("first", "lost: behind", [("bad", "lost: repeats", [])]),
    ]


def test_where_no_answer_was_given_no_path_was_better():
    first, second = node(1, ROOT, "first", 2.0), node(2, ROOT, "second", 1.0)
    end = FinishEvent(question=0, best=ROOT, gate=None, beam=(), usage=None, abstained=True)
    events = [wrote(first), wrote(second), kept(first, 1), kept(second, 2), end]
    assert shown(tree_of(events)) == [
        ("first", "kept, rank 1, finished, but no answer was given", []),
        ("second", "kept, rank 2, finished, but no answer was given", []),
    ]


def test_a_search_that_has_told_nothing_has_an_empty_tree():
    assert shown(tree_of([])) == []
