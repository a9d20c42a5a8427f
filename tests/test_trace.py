"""Traces: what a search told is told again from a file, and damaged files are refused by line."""

import dataclasses
import io
import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from random_model import PASSAGES, RandomModel, RandomRetriever
from selfrag.cli.render import show_tree
from selfrag.decode.answer import answer_to_json, collect_answers
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.events import (
    CandidateEvent,
    FinishEvent,
    GateEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
    SkipEvent,
)
from selfrag.decode.gate import GateKind, RetrievalMode
from selfrag.decode.node import Node, PathScore
from selfrag.decode.score import ScoreWeights, SegmentScores
from selfrag.decode.segment import GroupLogprobs, Segment
from selfrag.errors import BadInput, StorageError
from selfrag.passage import Hit
from selfrag.trace.file import TraceWriter, load_trace, save_trace

QUESTIONS = ["Q one", "Q two", "\u00bfQu\u00e9 tal\u2028?"]
SETTINGS = {
    "plain": {},
    "skips": {"prune_relevance": 0.6, "threshold": 0.0},
    "drops": {"drop_unsupported": True, "beam_width": 1, "threshold": 0.0},
    "starves": {"max_passages": 3, "threshold": 0.0, "max_segments": 4},
    "abstains": {"min_support": 0.97, "n_evidence": 2, "threshold": None},
    "competes": {"with_no_retrieval": True, "beam_width": 9, "max_tokens": 60},
}


def plain(value, serials):
    """Any value of an event as plain data; nodes by number, told in full where first met."""
    if isinstance(value, Node):
        if id(value) in serials:
            return serials[id(value)]
        parent = plain(value.parent, serials)
        serials[id(value)] = len(serials)
        names = [field.name for field in dataclasses.fields(value) if field.name != "id"]
        fields = {name: getattr(value, name) for name in names}
        fields["parent"] = parent
        return [serials[id(value)], {k: plain(v, serials) for k, v in fields.items()}]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [
            type(value).__name__,
            {name: plain(getattr(value, name), serials) for name in names},
        ]
    if isinstance(value, np.ndarray):
        return ["array", value.tolist()]
    if isinstance(value, tuple | list):
        return [type(value).__name__, [plain(each, serials) for each in value]]
    return [type(value).__name__, value]


def facts(events):
    serials = {}
    return [plain(event, serials) for event in events]


def tree(question, events):
    console = Console(file=io.StringIO(), width=200)
    show_tree(console, question, events)
    return console.file.getvalue()


def write(path, options=None, questions=QUESTIONS, seed=5):
    answers, events = RandomModel(seed).answer(questions, **(options or {}))
    save_trace(path, questions, events)
    return answers, events


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_a_replay_tells_what_the_search_told(tmp_path_factory, name, seed):
    path = tmp_path_factory.mktemp("traces") / "t.jsonl"
    answers, events = write(path, SETTINGS[name], seed=seed)
    trace = load_trace(path)
    assert trace.texts == QUESTIONS
    assert facts(trace.events) == facts(events)
    again = collect_answers(trace.texts, trace.events)
    assert [answer_to_json(a) for a in again] == [answer_to_json(a) for a in answers]
    for number, question in enumerate(QUESTIONS):
        live = [event for event in events if event.question == number]
        replay = [event for event in trace.events if event.question == number]
        assert tree(question, replay) == tree(question, live)


def test_every_kind_of_event_is_among_those_replayed(tmp_path):
    kinds = set()
    for options in SETTINGS.values():
        for seed in range(5):
            path = tmp_path / "t.jsonl"
            write(path, options, seed=seed)
            kinds |= {type(event) for event in load_trace(path).events}
    assert kinds == {
        GateEvent,
        RetrievalEvent,
        SkipEvent,
        CandidateEvent,
        KeepEvent,
        PruneEvent,
        FinishEvent,
    }


def test_a_closed_set_of_choices_votes_alike_from_a_replay(tmp_path):
    choices = ("alpha", "beta", "gamma", "delta")
    answers, events = RandomModel(3).answer(["Q"], choices=choices, threshold=0.0)
    save_trace(tmp_path / "t", ["Q"], events, config=SearchConfig(choices=choices))
    trace = load_trace(tmp_path / "t")
    (again,) = collect_answers(trace.texts, trace.events, configs=trace.configs)
    assert answer_to_json(again) == answer_to_json(answers[0])


def test_nodes_told_of_twice_are_one_object_and_linked_to_their_parents(tmp_path):
    write(
        tmp_path / "t", {"threshold": 0.0, "beam_width": 9, "repeat": True, "join_relevance": 0.0}
    )
    events = load_trace(tmp_path / "t").events
    nodes = {id(e.node): e.node for e in events if isinstance(e, CandidateEvent)}
    kept = [e.node for e in events if isinstance(e, KeepEvent)]
    assert kept and all(id(node) in nodes for node in kept)
    for node in nodes.values():
        assert node.depth == len(node.path)
        assert node.parent.depth == node.depth - 1
        assert node.depth == 1 or id(node.parent) in nodes


def test_what_was_known_beforehand_comes_back(tmp_path):
    config = SearchConfig(
        mode=RetrievalMode.ALWAYS,
        gate=GateKind.REFERENCE,
        threshold=None,
        weights=ScoreWeights(support=0.25),
        path_score=PathScore.MEAN,
        query=QueryPolicy.QUESTION,
        choices=("yes", "no"),
        max_seconds=1.5,
    )
    golds = [["Rome", "Roma"], []]
    save_trace(tmp_path / "t", ["a", "b"], [], answers=golds, ids=["x1", "x2"], config=config)
    first, second = load_trace(tmp_path / "t").questions
    assert (first.text, first.id, first.answers, first.config) == (
        "a",
        "x1",
        ("Rome", "Roma"),
        config,
    )
    assert (second.id, second.answers) == ("x2", ())


def test_answers_that_do_not_fit_the_questions_are_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        save_trace(tmp_path / "t", ["a", "b"], [], answers=[["x"]])


def test_numbers_that_json_lacks_survive(tmp_path):
    bottom = float("-inf")
    segment = Segment(
        text="lone \udc80 surrogate",
        body_ids=(1, 2),
        critique=(),
        scores=SegmentScores(
            relevance=None, support=None, utility=None, sequence=0.0, total=0.0, missing={"a": "b"}
        ),
        finished=True,
        truncated=False,
        ends_on=None,
        next_retrieve=None,
        logprobs=GroupLogprobs(
            relevance=np.array([bottom, 0.1 + 0.2]), support=None, utility=None, mean=bottom
        ),
        n_tokens=2,
    )
    hit = Hit(passage=PASSAGES[0], score=float("inf"), rank=1)
    node = Node.root((7,)).child(1, segment, lead_ids=(8,), hits=(hit,))
    events = [CandidateEvent(question=0, node=node)]
    save_trace(tmp_path / "t", ["Q"], events)
    assert "Infinity" not in (tmp_path / "t").read_text(encoding="utf-8")
    assert facts(load_trace(tmp_path / "t").events) == facts(events)


def test_traces_of_earlier_versions_get_the_scores_of_their_hits(tmp_path):
    # What these lack is a share of scores that they hold.
    for seed in range(20):
        path = tmp_path / f"t{seed}"
        _, events = RandomModel(seed).answer(
            ["Q one", "Q two"], retriever=RandomRetriever(), threshold=0.0, n_evidence=2
        )
        save_trace(path, ["Q one", "Q two"], events)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        shares = [
            row["segment"]["scores"].pop("retrieval")
            for row in rows
            if row["type"] == "node" and row["segment"]
        ]
        assert any(share not in (None, 1.0) for share in shares)
        old = tmp_path / f"old{seed}"
        old.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        assert facts(load_trace(old).events) == facts(events)


def test_runs_one_after_the_other_and_several_files_get_numbers_of_their_own(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    _, one = write(first, questions=["a", "b"], seed=1)
    _, two = write(first, questions=["c"], seed=2)
    _, three = write(second, questions=["d", "e"], seed=3)
    joined = tmp_path / "joined"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    expected = facts([*one, *two, *three])
    for trace in (load_trace(first, second), load_trace(joined)):
        assert trace.texts == ["a", "b", "c", "d", "e"]
        shifts = [0] * len(one) + [2] * len(two) + [3] * len(three)
        moved = [
            dataclasses.replace(event, question=event.question - shift)
            for event, shift in zip(trace.events, shifts, strict=True)
        ]
        assert facts(moved) == expected
        again = collect_answers(trace.texts, trace.events)
        assert [answer.question for answer in again] == trace.texts


def test_a_writer_adds_event_by_event(tmp_path):
    _, events = RandomModel(1).answer(["Q"], threshold=0.0)
    assert len(events) > 3
    with TraceWriter(tmp_path / "t", ["Q"]) as writer:
        for n, event in enumerate(events, start=1):
            writer.write(event)
            assert len(load_trace(tmp_path / "t").events) == n


@settings(max_examples=40)
@given(cut=st.integers(1, 4000))
def test_a_trace_cut_anywhere_tells_its_beginning(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("traces") / "t"
    _, events = write(path, questions=["Q"])
    content = path.read_bytes()
    path.write_bytes(content[: max(content.index(b"\n") + 1, len(content) - cut)])
    told = load_trace(path).events
    assert facts(told) == facts(events)[: len(told)]


def test_a_line_cut_short_by_a_crash_is_told_and_left_out(tmp_path, caplog):
    path = tmp_path / "t"
    _, events = write(path)
    n_lines = path.read_bytes().count(b"\n")
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING, logger="selfrag.trace.file"):
        assert facts(load_trace(path).events) == facts(events[:-1])
    assert f"line {n_lines} of {path} was cut short" in caplog.text


def test_a_run_added_behind_a_line_cut_short_is_read(tmp_path, caplog):
    path = tmp_path / "t"
    write(path, questions=["a"])
    torn = path.read_bytes()[:-9]
    path.unlink()
    write(path, questions=["b"])
    path.write_bytes(torn + b"\n" + path.read_bytes())  # as writers before this one left it
    trace = load_trace(path)
    assert trace.texts == ["a", "b"]
    assert [e.question for e in trace.events if isinstance(e, FinishEvent)] == [1]
    assert "cut short" in caplog.text


def test_a_run_takes_the_place_of_a_line_cut_short(tmp_path, caplog):
    path = tmp_path / "t"
    write(path, questions=["a"])
    path.write_bytes(path.read_bytes()[:-9])
    write(path, questions=["b"])
    trace = load_trace(path)
    assert trace.texts == ["a", "b"]
    assert [e.question for e in trace.events if isinstance(e, FinishEvent)] == [1]
    assert not caplog.records


def test_a_run_added_behind_a_missing_line_end_is_read(tmp_path, caplog):
    path = tmp_path / "t"
    write(path, questions=["a"])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write(path, questions=["b"])
    trace = load_trace(path)
    assert [e.question for e in trace.events if isinstance(e, FinishEvent)] == [0, 1]
    assert not caplog.records


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def save_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


FIELDS = [
    ("question", "text"),
    ("question", "answers"),
    ("gate", "gate"),
    ("retrieval", "hits"),
    ("node", "segment"),
    ("node", "parent"),
    ("candidate", "node"),
    ("keep", "rank"),
    ("finish", "beam"),
    ("finish", "usage"),
    ("gate", "question"),
    ("gate", "type"),
]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_row_that_lacks_a_field_is_named_with_file_and_line(tmp_path, kind, field):
    path = tmp_path / "t"
    write(path, {"threshold": 0.0})
    rows = rows_of(path)
    index = next(n for n, row in enumerate(rows) if row["type"] == kind)
    del rows[index][field]
    save_rows(path, rows)
    with pytest.raises(BadInput, match=rf"{path}: line {index + 1} lacks the field '{field}'"):
        load_trace(path)


@pytest.mark.parametrize(
    ("kind", "change", "found"),
    [
        ("gate", {"type": "guess"}, "unknown type 'guess'"),
        ("gate", {"question": 99}, "no question has the number 99"),
        ("gate", {"question": True}, "question is True, expected int"),
        ("gate", {"gate": None}, "is no row of a trace"),
        ("candidate", {"node": 99}, "no node of question 0 has the number 99"),
        ("candidate", {"node": []}, "is no row of a trace"),
        ("node", {"lead_ids": ["a"]}, "token ids are"),
        ("node", {"wants": "perhaps"}, "'perhaps' is not a valid Retrieve"),
        ("node", {"path_score": "high"}, "could not convert"),
        ("question", {"answers": [{}]}, "expected strings"),
        ("question", {"config": {"beam_width": 0}}, "decode.beam_width is 0"),
        ("question", {"config": {"speed": 3}}, "there is no such setting"),
    ],
)
def test_a_row_that_holds_nonsense_is_named_with_file_and_line(tmp_path, kind, change, found):
    path = tmp_path / "t"
    write(path, {"threshold": 0.0})
    rows = rows_of(path)
    index = next(n for n, row in enumerate(rows) if row["type"] == kind)
    rows[index] |= change
    save_rows(path, rows)
    with pytest.raises(BadInput, match=rf"line {index + 1} .*{found}"):
        load_trace(path)


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("critique", ["[Nice]"], "no reflection token"),
        ("next_retrieve", [0.0], "1 log-probabilities, expected 3"),
        ("text", 5, "text is 5, expected str"),
    ],
)
def test_a_segment_that_holds_nonsense_is_named_too(tmp_path, field, value, found):
    path = tmp_path / "t"
    write(path, {"threshold": 0.0})
    rows = rows_of(path)
    index = next(n for n, row in enumerate(rows) if row.get("segment"))
    rows[index]["segment"][field] = value
    save_rows(path, rows)
    with pytest.raises(BadInput, match=rf"line {index + 1} .*{found}"):
        load_trace(path)


@pytest.mark.parametrize("line", [b"not json", b"[1, 2]", b"3", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("place", [0, 3, -1])
def test_a_line_that_is_no_json_object_is_named_with_file_and_line(tmp_path, place, line):
    path = tmp_path / "t"
    write(path)
    lines = path.read_bytes().splitlines()
    place %= len(lines) + 1
    lines.insert(place, line)
    path.write_bytes(b"".join(each + b"\n" for each in lines))
    with pytest.raises(BadInput, match=rf"{path}: line {place + 1} is no JSON object"):
        load_trace(path)


def test_a_text_file_of_one_line_is_no_trace(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(BadInput, match="line 1 is no JSON object"):
        load_trace(path)


def test_a_file_that_is_not_there_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read a trace from .*No such file"):
        load_trace(tmp_path / "none")


def test_a_folder_that_is_not_there_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write a trace to .*No such file"):
        save_trace(tmp_path / "none" / "t", ["Q"], [])


def test_an_empty_file_holds_nothing(tmp_path):
    (tmp_path / "t").touch()
    assert load_trace(tmp_path / "t").questions == ()


def test_gold_strings_and_ids_of_any_spelling_are_kept_as_strings(tmp_path):
    golds = ["a comet", [42, "x"], [], 7]
    ids = [0, "a", "", 3]
    save_trace(tmp_path / "t", list("abcd"), [], answers=golds, ids=ids)
    found = load_trace(tmp_path / "t").questions
    assert [each.answers for each in found] == [("a comet",), ("42", "x"), (), ("7",)]
    assert [each.id for each in found] == ["0", "a", "", "3"]
