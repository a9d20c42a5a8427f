"""What the asker is told: verdicts, withheld answers, cut answers, closed sets; plain values."""

from dataclasses import replace

import numpy as np
import pytest

from selfrag.decode.answer import answer_questions, answer_to_json
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import drive
from selfrag.decode.events import PruneEvent, RetrievalEvent, SkipEvent
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.node import PathScore, path_score
from selfrag.decode.score import ScoreWeights
from selfrag.decode.search import Model, steps
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import ConfigError
from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Marker
from selfrag.retrieval.base import FixedRetriever, GivenPassages

END, MORE = "</s>", "[Retrieval]"
PASSAGES = [Passage(id=f"p{n}", title=f"T{n}", text=f"text {n}") for n in range(4)]
FULL = "[Fully supported]"
NONE = {"[No support / Contradictory]": 0.9, FULL: 0.1}
IRRELEVANT = {"[Irrelevant]": 0.9, "[Relevant]": 0.1}
GATE = say({"[Retrieval]": 0.7, "[No Retrieval]": 0.3})


def ask(steps, passages=PASSAGES[:1], max_context=4096, on_event=None, **options):
    """The answer to "Q" of a model that writes by what its prompt ends with, and the engine."""
    tokenizer = ScriptedTokenizer()

    def script(ids):
        surface = tokenizer.surface(ids)
        return next((said for end, said in steps.items() if surface.endswith(end)), GATE)

    engine = ScriptedEngine(tokenizer, script, max_context=max_context)
    (answer,) = answer_questions(
        ["Q"],
        engine=engine,
        retriever=GivenPassages(passages),
        config=SearchConfig(**{"join_relevance": 0.0, **options}),
        on_event=on_event,
    )
    return answer, engine


def two(second):
    """A supported first segment, and `second` after the other passage."""
    return {
        "text 0</paragraph>": say("[Relevant]", "Right.", FULL, MORE),
        "text 1</paragraph>": second,
    }


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        (say("[Relevant]", "So.", FULL, END), "fully supported (1.00)"),
        (
            say(IRRELEVANT, "Beside.", END),
            "partially supported (1.00): only 1 of 2 segments were judged",
        ),
        (
            say("[Relevant]", "Unjudged.", END),
            "partially supported (1.00): only 1 of 2 segments were judged",
        ),
        (say("[Relevant]", "Wrong.", NONE, END), "not supported (0.10)"),
        (say("[Relevant]", END), "fully supported (1.00)"),  # nothing more is said
        (
            say("[Relevant]", "So.", FULL, "[Utility:1]", END),
            "fully supported (1.00); judged of little use (1.0 of 5)",
        ),
        (say("[Relevant]", "So.", FULL, "[Utility:5]", END), "fully supported (1.00)"),
    ],
)
def test_what_is_not_judged_is_not_supported_and_what_is_of_no_use_is_told(second, verdict):
    # One passage a level: the second segment can only read the second one.
    answer, _ = ask(two(second), passages=PASSAGES[:2], top_k=1)
    assert answer.verdict == verdict


def test_a_sentence_written_without_retrieval_is_not_supported_by_the_one_before_it():
    steps = {
        "text 0</paragraph>": say("[Relevant]", "Right.", FULL, "[No Retrieval]"),
        "[No Retrieval]": say("And more.", END),
    }
    answer, _ = ask(steps, threshold=None)
    assert answer.text == "Right. And more."
    assert answer.support == 0.0
    assert answer.verdict.startswith("partially supported")
    withheld, _ = ask(steps, threshold=None, min_support=0.5)
    assert withheld.abstained and withheld.text == ""


@pytest.mark.parametrize(
    "second", [say(IRRELEVANT, "Beside.", END), say("[Relevant]", "Unjudged.", END)]
)
def test_min_support_withholds_a_path_with_an_unjudged_segment(second):
    withheld, _ = ask(two(second), passages=PASSAGES[:2], top_k=1, min_support=0.5)
    assert withheld.abstained
    assert [hit.passage.id for hit in withheld.passages] == ["p0", "p1"]


def test_support_at_the_bound_is_enough():
    half = {FULL: 0.4, "[No support / Contradictory]": 0.4}
    steps = {"</paragraph>": say("[Relevant]", "Half.", half, END)}
    free, _ = ask(steps)
    assert free.support == pytest.approx(0.5)
    said, _ = ask(steps, min_support=free.support)
    withheld, _ = ask(steps, min_support=float(np.nextafter(free.support, 1)))
    assert said.text == "Half." and withheld.text == ""


def test_the_bounds_of_the_verdict():
    said, _ = ask({"</paragraph>": say("[Relevant]", "So.", FULL, END)})
    (segment,) = said.segments

    def verdict(*supports):
        scores = [replace(segment.scores, support=support) for support in supports]
        segments = tuple(replace(segment, scores=each) for each in scores)
        return replace(said, segments=segments).verdict

    assert verdict(0.75) == "fully supported (0.75)"
    assert verdict(0.7499) == "partially supported (0.75)"
    assert verdict(0.9, 0.4) == "partially supported (0.40)"
    assert verdict(0.9, 0.3999) == "not supported (0.40)"
    assert verdict(None) == "not supported: no retrieved passage was judged to answer the question"


def test_probing_stops_where_the_budget_has_no_token_for_each_passage():
    steps = {"</paragraph>": say("[Relevant]", "So.", FULL, END)}
    answer, engine = ask(steps, passages=PASSAGES[:3], prune_relevance=0.5, max_tokens=3)
    assert answer.stopped_by == "max_tokens" and answer.usage.n_passages == 0
    assert len(engine.calls) == 1
    enough, engine = ask(steps, passages=PASSAGES[:3], prune_relevance=0.5, max_tokens=4)
    assert [len(call) for call in engine.calls] == [1, 3]
    assert enough.stopped_by == "max_tokens"  # nothing is left to write with


@pytest.mark.parametrize(("n_evidence", "n_read"), [(2, (1, 1, 2)), (3, (1, 1, 2)), (1, (1, 1))])
def test_a_step_of_several_passages_loses_those_that_are_skipped(n_evidence, n_read):
    steps = {
        "text 1</paragraph>": say({"[Relevant]": 0.1, "[Irrelevant]": 0.9}, "Beside.", END),
        "</paragraph>": say("[Relevant]", "So.", FULL, END),
    }
    told = []
    _, engine = ask(
        steps,
        passages=[PASSAGES[0], PASSAGES[2], PASSAGES[1]],
        prune_relevance=0.5,
        n_evidence=n_evidence,
        on_event=told.append,
    )
    start = PromptFormat.of(engine.tokenizer).ids[Marker.PARAGRAPH_START]
    assert tuple(r.prompt_ids.count(start) for r in engine.calls[2]) == n_read
    (skip,) = [event for event in told if isinstance(event, SkipEvent)]
    assert (skip.question, skip.parent.id, skip.hit.passage.id, skip.bound) == (0, 0, "p1", 0.5)


def test_a_step_of_two_passages_goes_where_one_is_skipped():
    steps = {
        "text 1</paragraph>": say({"[Relevant]": 0.1, "[Irrelevant]": 0.9}, "Beside.", END),
        "</paragraph>": say("[Relevant]", "So.", FULL, END),
    }
    _, engine = ask(steps, passages=PASSAGES[:2], prune_relevance=0.5, n_evidence=2)
    assert [len(call) for call in engine.calls] == [1, 2, 1]


def test_a_bound_of_nothing_skips_nothing():
    steps = {"</paragraph>": say({"[Relevant]": 0.1, "[Irrelevant]": 0.9}, "Beside.", END)}
    _, engine = ask(steps, passages=PASSAGES[:3], prune_relevance=0.0)
    assert [len(call) for call in engine.calls] == [1, 3, 3]


def test_a_candidate_without_a_passage_rates_choices_with_weight_one():
    steps = {
        "text 0</paragraph>[Relevant]": say({"no": 0.6, "yes": 0.2}),
        "text 0</paragraph>": say({"[Relevant]": 0.5, "[Irrelevant]": 0.5}, "Beside.", FULL, END),
        "\n\n\n\n### Response:\n[No Retrieval]": say({"yes": 0.3, "no": 0.3}),
    }
    rated = {"yes": 0.8, "no": 0.1, "alpha": 0.85}
    steps["Q\n\n### Response:\n[No Retrieval]"] = say(rated, FULL, END)
    answer, _ = ask(steps, choices=("yes", "no"), with_no_retrieval=True)
    # (0.5 * 1/4 + 1 * 8/9) / 1.5
    assert answer.choices["yes"] == pytest.approx((0.125 + 8 / 9) / 1.5, abs=1e-6)


def test_choices_are_not_rated_where_their_prompts_do_not_fit():
    steps = {
        "text 0</paragraph>[Relevant]": say({"no": 0.6, "yes": 0.1}),
        "text 0</paragraph>": say("[Relevant]", "Beside.", FULL, END),
        "\n\n\n\n### Response:\n[No Retrieval]": say({"yes": 0.3, "no": 0.3}),
    }
    n_head = len(PromptFormat.of(ScriptedTokenizer()).instruction("Q"))
    # A passage of 6 ids with its decision, 4 ids to write: one for the relevance, three of a start.
    options = {"max_passage_tokens": 6, "max_new_tokens": 4, "max_context": n_head + 9 + 4}
    fits, _ = ask(steps, choices=("yes", "no"), **options)
    assert fits.choices_rated
    longer = ("no", "yes and yes and yes")
    answer, engine = ask(steps, choices=longer, **options)
    assert not answer.choices_rated and len(engine.calls) == 2


def test_among_votes_for_the_choice_the_best_that_may_be_said_is_told():
    steps = {
        "text 0</paragraph>": say({"[Relevant]": 0.5, "[Irrelevant]": 0.4}, "Yes.", FULL, END),
        "text 1</paragraph>": say({"[Relevant]": 0.9, "[Irrelevant]": 0.1}, "Yes!", NONE, END),
        "text 2</paragraph>": say({"[Relevant]": 0.9, "[Irrelevant]": 0.1}, "Yes", FULL, END),
    }
    options = {"passages": PASSAGES[:3], "choices": ("yes", "no"), "beam_width": 3}
    answer, _ = ask(steps, **options)
    assert answer.cited_text == "Yes [1]" and answer.passages[0].passage.id == "p2"
    # The beam leads with what says no; of the votes for yes the better one is told.
    steps["text 3</paragraph>"] = say("[Relevant]", "No", FULL, "[Utility:5]", END)
    options |= {"passages": PASSAGES, "beam_width": 1}
    answer, _ = ask(steps, **options)
    assert answer.text == "yes" and answer.passages[0].passage.id == "p2"


def test_a_budget_of_tokens_that_cuts_the_answer_is_named():
    steps = {"</paragraph>": say("[Relevant]", "a b c d e f g h", FULL, END)}
    answer, _ = ask(steps, max_tokens=6)  # one for the gate leaves five
    assert answer.text == "a b"
    assert answer.stopped_by == "max_tokens"
    assert answer.verdict == (
        "not judged: the answer ends before its support was judged; incomplete, ended by max_tokens"
    )
    assert answer_to_json(answer)["stopped_by"] == "max_tokens"


def test_the_length_of_a_segment_is_no_budget_but_told():
    steps = {"</paragraph>": say("[Relevant]", "a b c d e f g h", FULL, END)}
    answer, _ = ask(steps, max_new_tokens=4, max_tokens=50)
    assert answer.stopped_by is None
    assert answer.verdict.endswith("; incomplete, ended by max_new_tokens")


def test_a_search_that_could_say_nothing_says_so():
    answer, _ = ask({}, max_tokens=1)
    assert answer.text == "" and answer.stopped_by == "max_tokens"
    assert answer.verdict == "no answer: max_tokens ended the search before anything was said"
    silent, _ = ask({"[No Retrieval]": say(END)}, mode=RetrievalMode.NEVER)
    assert silent.verdict == "no answer: the model wrote nothing"


def endless():
    return {"</paragraph>": say("[Relevant]", "x y z", FULL, MORE)}


def test_the_end_of_the_context_is_named():
    n_head = len(PromptFormat.of(ScriptedTokenizer()).instruction("Q"))
    # The prompt, one passage of 9 ids with its decision, 7 ids of the segment; no room for more.
    tight = n_head + 40 + 8
    options = {"max_passage_tokens": 6, "max_new_tokens": 31, "repeat": True}
    answer, engine = ask(endless(), max_context=tight, **options)
    assert answer.text == "x y z" and answer.stopped_by == "max_context"
    assert answer.verdict.endswith("; incomplete, ended by max_context")
    assert len(engine.calls) == 2
    long, _ = ask(endless(), max_context=4096, max_segments=2, **options)
    assert len(long.segments) == 2 and long.stopped_by is None


def test_passages_that_are_not_in_the_prompt_take_no_room():
    n_head = len(PromptFormat.of(ScriptedTokenizer()).instruction("Q"))
    steps = {"</paragraph>": say("[Relevant]", "x", FULL, MORE)}
    # Three segments of 3 ids fit beside a passage that is read, but not with one in the path.
    options = {"max_passage_tokens": 6, "max_new_tokens": 31, "max_segments": 3, "repeat": True}
    room = n_head + 9 + 31 + 9
    with_passages, _ = ask(steps, max_context=room, **options)
    without, _ = ask(steps, max_context=room, inline_passages=False, **options)
    assert len(with_passages.segments) == 1 and with_passages.stopped_by == "max_context"
    assert len(without.segments) == 3 and without.stopped_by is None


def test_a_character_that_the_limit_tore_is_left_out():
    steps = {
        "text 0</paragraph>": say("[Relevant]", "caf\ufffd\ufffd", FULL, END),
        "text 1</paragraph>": say("[Relevant]", "\ufffd is a sign \ufffd", END),
    }
    cut, _ = ask(steps, max_new_tokens=4)
    assert cut.text == "caf" and cut.segments[0].truncated
    ended, _ = ask(steps, passages=PASSAGES[1:2])
    assert ended.text == "\ufffd is a sign \ufffd"


@pytest.mark.parametrize(
    ("totals", "product"),
    [
        ([1.5, 2.0], 3.0),
        ([-1.0, -2.0], -3.0),  # not 2
        ([-1.0, 5.0], -1.0),
        ([0.0, 5.0], 0.0),
        ([-0.5], -0.5),
        ([0.5], 0.5),
    ],
)
def test_bad_segments_never_multiply_to_a_good_path(totals, product):
    assert path_score(totals, PathScore.PRODUCT) == product


def test_a_path_of_two_bad_segments_loses_to_one_that_ends():
    bad = {"[Irrelevant]": 0.99, "[Relevant]": 0.01}
    steps = {
        "text 0</paragraph>": say(bad, "Bad", "[Utility:1]", MORE, text_prob=0.01),
        "text 1</paragraph>": say(bad, "Worse", "[Utility:1]", END, text_prob=0.01),
        "text 2</paragraph>": say("[Relevant]", "Good", "[Utility:4]", END, text_prob=0.01),
    }
    weights = ScoreWeights(relevance=0, support=0, utility=4.0, sequence=0)
    answer, _ = ask(
        steps, passages=PASSAGES[:3], path_score=PathScore.PRODUCT, weights=weights, beam_width=9
    )
    # Bad and worse: -4 times -4 would be 16; good alone is 4 times 0.5.
    assert answer.text == "Good" and answer.score == pytest.approx(2.0, abs=1e-3)


def test_passages_read_for_one_token_are_counted():
    steps = {
        "text 0</paragraph>": say("[Relevant]", "Much", FULL, END),
        "</paragraph>": say({"[Irrelevant]": 0.8, "[Relevant]": 0.2}, "x", END),
    }
    answer, _ = ask(steps, passages=PASSAGES[:3], prune_relevance=0.5)
    assert answer.usage.n_passages == 3
    # The gate; a token for each of three passages; four ids after the one that stays.
    assert answer.usage.n_tokens == 1 + 3 + 4
    more, _ = ask(
        {"</paragraph>": say("[Relevant]", "More", FULL, MORE)},
        passages=PASSAGES,
        prune_relevance=0.5,
        max_passages=3,
        top_k=2,
        beam_width=1,
        repeat=True,
    )
    assert more.usage.n_passages == 3 and more.stopped_by == "max_passages"


def test_when_everything_is_dropped_the_best_evidence_is_shown():
    steps = {
        "text 0</paragraph>": say({"[Relevant]": 0.6, "[Irrelevant]": 0.4}, "A", NONE, END),
        "text 1</paragraph>": say({"[Relevant]": 0.9, "[Irrelevant]": 0.1}, "B", NONE, END),
    }
    answer, _ = ask(steps, passages=PASSAGES[:2], drop_unsupported=True)
    assert answer.abstained and answer.text == ""
    assert [hit.passage.id for hit in answer.passages] == ["p1"]


def test_the_segments_of_a_closed_set_say_what_the_vote_says():
    steps = {
        "text 0</paragraph>": say({"[Relevant]": 0.9, "[Irrelevant]": 0.1}, "No.", FULL, END),
        "text 1</paragraph>": say({"[Relevant]": 0.6, "[Irrelevant]": 0.4}, "Yes", NONE, END),
        "text 2</paragraph>": say({"[Relevant]": 0.7, "[Irrelevant]": 0.3}, "Yes!", NONE, END),
    }
    options = {"passages": PASSAGES[:3], "choices": ("yes", "no")}
    answer, _ = ask(steps, **options)
    assert answer.text == "yes" and list(answer.choices) == ["yes", "no"]
    assert answer.cited_text == "Yes! [1]"
    assert [hit.passage.id for hit in answer.passages] == ["p2"]
    assert answer.verdict == "not supported (0.10)" and answer.support == pytest.approx(0.1)
    for bound in ({"drop_unsupported": True}, {"min_support": 0.5}):  # these have no vote
        strict, _ = ask(steps, **options, **bound)
        assert strict.text == "no" and list(strict.choices) == ["no"]
        assert strict.cited_text == "No. [1]" and strict.verdict == "fully supported (1.00)"


def test_the_longer_path_that_begins_with_the_choice_is_told():
    steps = {
        "text 0</paragraph>": say("[Relevant]", "Yes.", FULL, MORE),
        "text 1</paragraph>": say("[Relevant]", "Because.", FULL, END),
    }
    answer, _ = ask(steps, passages=PASSAGES[:2], top_k=1, choices=("yes", "no"))
    assert answer.text == "yes" and answer.cited_text == "Yes. [1] Because. [2]"


def test_choices_that_read_alike_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"decode\.choices has 'Yes' and 'yes\.', which read"):
        SearchConfig(choices=("Yes", "no", "yes."))
    assert SearchConfig(choices=("C", "C#", "<5", ">5")).choices[1] == "C#"


def test_a_choice_by_likelihood_has_no_support_of_its_own():
    steps = {
        "text 0</paragraph>[Relevant]": say({"no": 0.6, "yes": 0.1}),
        "text 0</paragraph>": say("[Relevant]", "Beside.", FULL, END),
        "\n\n\n\n### Response:\n[No Retrieval]": say({"yes": 0.3, "no": 0.3}),
    }
    answer, _ = ask(steps, choices=("yes", "no"))
    assert answer.choices_rated and answer.text == answer.cited_text == "no"
    assert answer.support is None and answer.verdict.startswith("chosen by likelihood")
    assert np.isclose(answer.choices["no"], 6 / 7)


@pytest.mark.parametrize(
    ("said", "reasons"),
    [
        (
            say("[Relevant]", "So.", END),
            {
                "support": "the model judged no support",
                "utility": "the model judged no usefulness in this segment",
            },
        ),
        (
            say("So.", FULL, "[Utility:5]", END),
            {"relevance": "the model judged no relevance"},
        ),
        (
            say("[Irrelevant]", "So.", "[Utility:5]", END),
            {"support": "the passage was judged irrelevant, so no support is judged"},
        ),
        (say("[Irrelevant]", "So.", FULL, "[Utility:5]", END), {}),
        (
            say("[Relevant]", "[Irrelevant]", "So.", "[Utility:5]", END),
            {"support": "the model judged no support"},
        ),
    ],
)
def test_a_missing_group_says_why(said, reasons):
    answer, _ = ask({"</paragraph>": said})
    assert answer.segments[0].scores.missing == reasons


def test_without_a_passage_nothing_was_read_to_be_judged():
    answer, _ = ask({"[No Retrieval]": say("So.", "[Utility:5]", END)}, mode=RetrievalMode.NEVER)
    unread = "no new passage was read"
    assert answer.segments[0].scores.missing == {"relevance": unread, "support": unread}


def told_of(steps, **options):
    told = []
    answer, engine = ask(steps, on_event=told.append, **options)
    return answer, engine, told


def test_a_budget_of_passages_is_shared_by_the_paths_of_a_level():
    steps = {
        "text 0</paragraph>": say("[Relevant]", "One", FULL, MORE),
        "text 1</paragraph>": say("[Relevant]", "Two", FULL, MORE),
        "</paragraph>": say("[Relevant]", "Three", FULL, END),
    }
    answer, engine, told = told_of(steps, passages=PASSAGES, top_k=2, max_passages=5)
    # Two at first, which leaves three: two for the first path, one for the second.
    assert [len(call) for call in engine.calls] == [1, 2, 3]
    read = [len(event.hits) for event in told if isinstance(event, RetrievalEvent)]
    assert read == [2, 2, 1] and answer.usage.n_passages == 5


def test_every_node_has_an_id_of_its_own_and_only_ended_ones_are_finished():
    steps = {
        "text 0</paragraph>": say("[Relevant]", "One", FULL, MORE),
        "text 1</paragraph>": say("[Relevant]", "Two", NONE, END),
        "</paragraph>": say("[Relevant]", "One", FULL, END),  # repeats, so its parent ends
    }
    _, _, told = told_of(steps, passages=PASSAGES[:3], top_k=2)
    nodes = {id(event.node): event.node for event in told if hasattr(event, "node")}
    nodes |= {id(node): node for node in told[-1].beam}
    ids = [node.id for node in nodes.values()]
    assert len(ids) >= 4 and len(set(ids)) == len(ids) and all(isinstance(n, int) for n in ids)
    finished = {n.text: n.segment.finished for n in nodes.values() if n.depth == 1}
    assert finished == {"One": False, "Two": True}
    dropped = [e for e in told if isinstance(e, PruneEvent) and e.rank == 0]
    assert dropped and all(event.node.text == "One" for event in dropped)


def test_what_leaves_the_beam_is_told_how_far_behind_it_was():
    steps = {
        f"text {n}</paragraph>": say({"[Relevant]": p, "[Irrelevant]": 1 - p}, "So.", END)
        for n, p in enumerate((0.9, 0.8, 0.6))
    }
    options = {"weights": ScoreWeights(relevance=1, support=0, utility=0, sequence=0)}
    _, _, told = told_of(steps, passages=PASSAGES[:3], **options)
    (lost,) = [event for event in told if isinstance(event, PruneEvent)]
    assert lost.reason == "ranked 3 of 3, 0.20 behind the last of 2 kept"


def test_time_is_up_when_the_budget_is_reached_and_counts_from_the_beginning():
    model = ScriptedEngine(ScriptedTokenizer(), lambda ids: GATE)
    for now, stopped_by in ((102.0, "max_seconds"), (101.9, None)):
        ticks = iter([100.0, now])
        asked = steps(
            "Q",
            model=Model.of(model),
            config=SearchConfig(max_seconds=2.0, max_segments=1, max_new_tokens=1),
            passages=GivenPassages(PASSAGES[:1]).hits,
            clock=lambda ticks=ticks: next(ticks),
        )
        *_, finish = drive([asked], model, GivenPassages(()))
        assert finish.stopped_by == stopped_by


def test_a_share_of_one_token_is_written():
    answer, _ = ask({"</paragraph>": say("[Relevant]", "So.", FULL, END)}, max_tokens=2)
    assert answer.usage.n_tokens == 2 and len(answer.segments) == 1


def test_passages_are_cut_to_their_bound():
    long = [Passage(id="p", title="T", text="w " * 500)]
    hits = FixedRetriever({"Q": [Hit(passage=long[0], score=1.0, rank=1)]})
    tokenizer = ScriptedTokenizer()
    engine = ScriptedEngine(
        tokenizer, lambda ids: say("[Relevant]", "So.", END) if ids[-1] == 6 else GATE
    )
    assert tokenizer.token_to_id("</paragraph>") == 6
    config = SearchConfig(max_passage_tokens=7)
    answer_questions(["Q"], engine=engine, retriever=hits, config=config)
    (request,) = engine.calls[1]
    assert len(request.suffix_ids) == 1 + 1 + 7 + 1  # decision, markers and seven of the passage
