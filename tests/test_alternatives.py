"""Other answers from a passage: which are tried, what they cost, and how they are scored."""

from dataclasses import replace

import pytest

from selfrag.decode.answer import answer_questions
from selfrag.decode.calibration import load_calibration
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import CandidateEvent, FinishEvent
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.open.engines import adapter_dir
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Retrieve
from selfrag.retrieval.base import GivenPassages
from selfrag.trace.calibrate import alternatives_of
from selfrag.trace.candidates import recorded_questions
from selfrag.trace.file import load_trace, save_trace

END, FULL, NONE = "</s>", "[Fully supported]", "[No support / Contradictory]"
TITAN = Passage(id="t", title="Titan", text="Jupiter and Saturn have moons, titan among them.")


def supported(word, support, *, begun=False):
    """A one-word answer; its first step is 0.8 for the relevance, unless it has been begun."""
    first = () if begun else ({"[Relevant]": 0.8, "[Irrelevant]": 0.2}, {word: 0.5})
    return say(*first, ".", {FULL: support, NONE: 1 - support}, "[Utility:5]", END)


def ask(first="Jupiter", likely=None, calibration=None, support=0.6, **options):
    """One question over one passage, of which the model says `first`; `likely` could begin too."""
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    ask = tokenizer.surface(fmt.instruction("Q"))
    read = ask + tokenizer.surface([fmt.ids[Retrieve.YES], *fmt.passage(TITAN)])
    said = ("[Irrelevant]", "No", "[Utility:1]", END) if first is None else ()
    table = {
        ask: say({"[Retrieval]": 0.9, "[No Retrieval]": 0.1}, END),
        read: say(*said) if said else supported(first, support),
        read + "[Relevant]": say({first or "x": 0.5, **(likely or {})}),
    }
    for word in likely or {}:
        table[f"{read}[Relevant]{word}"] = supported(word, 0.9, begun=True)
    engine = ScriptedEngine(tokenizer, table)
    events = []
    (answer,) = answer_questions(
        ["Q"],
        engine=engine,
        retriever=GivenPassages([TITAN]),
        config=SearchConfig(**{"mode": "always", "max_segments": 1, **options}),
        calibration=calibration,
        on_event=events.append,
    )
    return answer, events, engine


def texts(events):
    return [e.node.text for e in events if isinstance(e, CandidateEvent)]


def test_a_better_supported_answer_from_the_same_passage_wins():
    answer, events, _ = ask(likely={"Saturn": 0.3}, alternatives=1)
    assert texts(events) == ["Jupiter.", "Saturn."]
    assert answer.text == "Saturn." and answer.passages[0].passage.id == "t"
    scores = answer.segments[0].scores
    assert (scores.relevance, scores.support) == (pytest.approx(0.8), pytest.approx(0.9))
    # [Relevant] .8, Saturn .3, "." 1, support .9, utility 1, the end 1: as if it had been written.
    assert scores.sequence == pytest.approx((0.8 * 0.3 * 0.9) ** (1 / 6))
    node = next(e for e in events if isinstance(e, FinishEvent)).best
    assert len(node.segment.body_ids) == 5 and node.segment.n_tokens == 6


def test_what_the_model_says_first_stays_where_it_is_better_supported():
    # Saturn has support .9 in every case.
    for support, expected in ((0.95, "Jupiter."), (0.6, "Saturn.")):
        answer, events, _ = ask(likely={"Saturn": 0.06}, support=support, alternatives=1)
        assert texts(events) == ["Jupiter.", "Saturn."] and answer.text == expected


def test_only_likely_words_of_the_passage_are_tried_and_the_likeliest_first():
    likely = {"Saturn": 0.2, "Moons": 0.1, "Titan": 0.04, "Neptune": 0.15}
    for n, expected in ((0, []), (1, ["Saturn."]), (2, ["Saturn.", "Moons."])):
        _, events, _ = ask(likely=likely, alternatives=n)
        assert texts(events)[1:] == expected
    _, events, _ = ask(likely=likely, alternatives=9)
    assert texts(events)[1:] == ["Saturn.", "Moons."]  # Titan is unlikely, Neptune is not there


def test_nothing_more_is_asked_after_an_irrelevant_passage_or_in_a_closed_set():
    for first, options in ((None, {}), ("Jupiter", {"choices": ("Jupiter", "Saturn")})):
        _, events, engine = ask(first, {"Saturn": 0.3}, alternatives=2, **options)
        assert len(texts(events)) == 1 and len(engine.calls) == 2


def test_none_is_tried_without_a_calibration_and_as_many_as_one_was_fitted_with():
    assert len(texts(ask(likely={"Saturn": 0.3})[1])) == 1
    ours = load_calibration(adapter_dir() / "calibration.json")
    for n in (0, 1):
        fitted = replace(ours, alternatives=n)
        answer, events, _ = ask(likely={"Saturn": 0.3}, calibration=fitted)
        assert len(texts(events)) == 1 + n
        assert answer.probability is None  # two answers from one passage are no two passages
    assert len(texts(ask(likely={"Saturn": 0.3}, calibration=fitted, alternatives=0)[1])) == 1


def test_they_are_paid_for_and_written_only_where_there_is_room():
    _, events, engine = ask(likely={"Saturn": 0.3}, alternatives=1)
    n_asked = len(engine.calls[2])
    finish = next(e for e in events if isinstance(e, FinishEvent))
    # The gate, a segment of 6, one token for each request of likely words, and 4 after "Saturn".
    assert finish.usage.n_tokens == 1 + 6 + n_asked + 4 and finish.usage.n_passages == 1
    n_written = []
    for limit in range(1, 24):
        options = {"max_tokens": limit, "max_new_tokens": 8}
        answer, events, _ = ask(likely={"Saturn": 0.3}, alternatives=1, **options)
        without, _, _ = ask(likely={"Saturn": 0.3}, alternatives=0, **options)
        finish = next(e for e in events if isinstance(e, FinishEvent))
        assert finish.usage.n_tokens <= limit and answer.stopped_by == without.stopped_by
        n_written.append(len(texts(events)))
    least = 1 + 6 + n_asked + 8
    assert n_written[1:] == [1] * (least - 2) + [2] * (24 - least)


def test_none_is_begun_that_has_no_room_or_no_time():
    for options in ({"max_new_tokens": 2}, {"max_seconds": 1e-9}):
        _, _, engine = ask(likely={"Saturn": 0.3}, alternatives=1, **options)
        assert len(engine.calls) <= 2


def test_a_share_of_one_token_more_than_the_beginning_is_the_least():
    _, _, engine = ask(likely={"Saturn": 0.3}, alternatives=1, max_new_tokens=6)
    assert [request.max_new_tokens for request in engine.calls[3]] == [4]


def test_a_trace_tells_how_many_were_tried_and_ranks_them(tmp_path):
    for n, expected in ((0, "Jupiter."), (1, "Saturn.")):
        _, events, _ = ask(likely={"Saturn": 0.3}, alternatives=n)
        save_trace(tmp_path / f"{n}", ["Q"], events, answers=[("Saturn",)])
        (recorded,) = recorded_questions(load_trace(tmp_path / f"{n}"))
        assert alternatives_of([recorded]) == n
        best = max(recorded.candidates, key=lambda each: each.leaf.path_score)
        assert best.leaf.text == expected
