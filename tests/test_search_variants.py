"""Variants, limits and guarantees of the search: exhaustive oracle, budgets, abstention, turns."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrag.decode.answer import answer_questions, answer_to_json
from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.drive import drive
from selfrag.decode.events import (
    CandidateEvent,
    FinishEvent,
    GateEvent,
    PruneEvent,
    RetrievalEvent,
    SkipEvent,
)
from selfrag.decode.gate import GateKind, RetrievalMode
from selfrag.decode.node import PathScore, path_score
from selfrag.decode.search import Model, steps
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import ConfigError
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import Marker, Retrieve
from selfrag.retrieval.base import GivenPassages

END = "</s>"
PASSAGES = [Passage(id=f"p{n}", title=f"T{n}", text=f"text {n}") for n in range(4)]
NEXT = (END, "[Retrieval]", "[No Retrieval]", "[Continue to Use Evidence]")


@dataclass(frozen=True)
class Drawn:
    """What the random model writes to one prompt; probabilities of the tokens it emits."""

    relevance: float | None
    support: float | None
    utility: float
    word: str
    word_prob: float
    next: str

    @property
    def total(self) -> float:
        """By the formulas of the paper: weights 1, 1, 0.5 and the geometric mean of all tokens."""
        judged = [self.relevance, self.support]
        probs = [p for p in judged if p is not None] + [self.utility, self.word_prob, 1.0]
        sequence = float(np.prod(probs)) ** (1 / len(probs))
        utility = self.utility - (1 - self.utility)  # [Utility:5] is worth 1, [Utility:1] -1
        return sum(p for p in judged if p is not None) + 0.5 * utility + sequence

    def say(self):
        steps = []
        if self.relevance is not None:
            steps.append({"[Relevant]": self.relevance, "[Irrelevant]": 1 - self.relevance})
        steps.append({self.word: self.word_prob})
        if self.support is not None:
            steps.append(
                {
                    "[Fully supported]": self.support,
                    "[No support / Contradictory]": 1 - self.support,
                }
            )
        steps.append({"[Utility:5]": self.utility, "[Utility:1]": 1 - self.utility})
        return say(*steps, self.next)


class RandomModel:
    """A language model whose every completion is drawn from a generator seeded by the prompt."""

    def __init__(self, seed, endless=False):
        self.seed, self.endless = seed, endless
        self.tokenizer = ScriptedTokenizer()
        self.fmt = PromptFormat.of(self.tokenizer)
        self.engine = ScriptedEngine(self.tokenizer, self._script)
        for word in ("alpha", "beta", "gamma"):  # ids do not depend on the order of questions
            self.tokenizer.encode(word)

    def draw(self, prompt_ids):
        rng = np.random.default_rng([self.seed, *prompt_ids])
        high = lambda: float(rng.uniform(0.51, 0.99))  # noqa: E731 - the emitted token is likelier
        reads = prompt_ids[-1] == self.fmt.ids[Marker.PARAGRAPH_END]
        ends = ("[Retrieval]",) if self.endless else NEXT
        return Drawn(
            relevance=high() if reads else None,
            support=high() if reads else None,
            utility=high(),
            word=str(rng.choice(["alpha", "beta", "gamma"])),
            word_prob=high(),
            next=str(rng.choice(ends)),
        )

    def _script(self, prompt_ids):
        last = prompt_ids[-1]
        if last == self.fmt.ids[Marker.PARAGRAPH_END] or last in self.fmt.ids.retrieve:
            return self.draw(prompt_ids).say()
        return say({"[Retrieval]": 0.7, "[No Retrieval]": 0.3})

    def best_total(self, question, passages, max_segments, repeat):
        """The best sum of totals over every path there is, found by trying them all."""
        fmt = self.fmt
        reads = [(fmt.ids[Retrieve.YES], *fmt.passage(p)) for p in passages]

        def best(ids, leads, depth, has_passage, unread, said):
            results = []
            for lead in leads:
                prompt = (*ids, *lead)
                drawn = self.draw(prompt)
                if drawn.word in said and not repeat:
                    continue
                reading = len(lead) > 1
                holds = has_passage if lead[0] == fmt.ids[Retrieve.CONTINUE] else reading
                left = unread if repeat else [read for read in unread if read != lead]
                nothing_new = drawn.next == "[Retrieval]" and not left
                if drawn.next == END or depth == max_segments or nothing_new:
                    results.append(drawn.total)
                    continue
                written = self.written(drawn)
                if drawn.next == "[Retrieval]":
                    following = left
                elif drawn.next == "[Continue to Use Evidence]" and holds:
                    following = [(fmt.ids[Retrieve.CONTINUE],)]
                else:
                    following = [(fmt.ids[Retrieve.NO],)]
                so_far = {*said, drawn.word}
                rest = best((*prompt, *written), following, depth + 1, holds, left, so_far)
                results.append(drawn.total + rest)
            return max(results, default=0)  # all has been said: the path ends as it is

        return best(tuple(fmt.instruction(question)), reads, 1, False, reads, set())

    def written(self, drawn):
        surfaces = [] if drawn.relevance is None else ["[Relevant]"]
        surfaces.append(drawn.word)
        surfaces += [] if drawn.support is None else ["[Fully supported]"]
        ids = [i for surface in [*surfaces, "[Utility:5]"] for i in self.tokenizer.read(surface)]
        return tuple(ids)


def run(model, questions=("Q",), passages=PASSAGES[:2], histories=(), **options):
    events = []
    answers = answer_questions(
        list(questions),
        engine=model.engine,
        retriever=GivenPassages(passages),
        config=SearchConfig(**{"join_relevance": 0.0, **options}),
        histories=histories,
        on_event=events.append,
    )
    return answers, events


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_passages=st.integers(1, 3),
    max_segments=st.integers(1, 3),
    repeat=st.booleans(),
)
def test_a_wide_beam_finds_what_exhaustive_search_finds(seed, n_passages, max_segments, repeat):
    model = RandomModel(seed)
    passages = PASSAGES[:n_passages]
    (answer,), _ = run(
        model,
        passages=passages,
        beam_width=100,
        max_segments=max_segments,
        threshold=None,  # the emitted token decides, as in the oracle
        repeat=repeat,
    )
    expected = model.best_total("Q", passages, max_segments, repeat)
    assert answer.score == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    beam_width=st.integers(1, 3),
    max_segments=st.integers(1, 5),
    max_tokens=st.none() | st.integers(1, 60),
    max_passages=st.none() | st.integers(1, 9),
    prune_relevance=st.none() | st.floats(0, 1),
)
def test_a_model_that_never_ends_stops_within_every_limit(
    seed, beam_width, max_segments, max_tokens, max_passages, prune_relevance
):
    model = RandomModel(seed, endless=True)
    (answer,), events = run(
        model,
        beam_width=beam_width,
        max_segments=max_segments,
        max_tokens=max_tokens,
        max_passages=max_passages,
        prune_relevance=prune_relevance,
    )
    calls_a_level = 1 if prune_relevance is None else 2
    # One for the gate, and one at the end where answers exclude one another.
    assert len(model.engine.calls) <= 2 + calls_a_level * max_segments
    assert len(answer.segments) <= max_segments
    assert max_tokens is None or answer.usage.n_tokens <= max_tokens
    assert max_passages is None or answer.usage.n_passages <= max_passages
    assert len(of(FinishEvent, events)) == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), order=st.permutations(["Q one", "Q two", "Q three"]))
def test_neither_order_nor_batch_changes_an_answer(seed, order):
    # Ids come from the order in which text is first seen, so every run reads all text beforehand.
    def fresh():
        model = RandomModel(seed)
        for text in ["Q one two three", *(f"{p.title} {p.text}" for p in PASSAGES)]:
            model.fmt.instruction(text)
        return model

    together, _ = run(fresh(), order, max_segments=3)
    assert len(together) == 3
    alone = {question: run(fresh(), [question], max_segments=3)[0][0] for question in order}
    for question, answer in zip(order, together, strict=True):
        assert answer_to_json(answer) == answer_to_json(alone[question])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(PathScore.SUM, 3.5), (PathScore.MEAN, 1.75), (PathScore.PRODUCT, 3.0)],
)
def test_path_scores_of_two_segments(rule, expected):
    assert path_score([1.5, 2.0], rule) == expected


def test_the_mean_does_not_favour_longer_paths():
    model = RandomModel(7, endless=True)
    (answer,), _ = run(model, path_score=PathScore.MEAN, max_segments=3, beam_width=50)
    totals = [s.scores.total for s in answer.segments]
    assert answer.score == pytest.approx(sum(totals) / len(totals))


def test_the_query_policy_decides_what_later_segments_search():
    for policy, second in (
        (QueryPolicy.QUESTION, "Q"),
        (QueryPolicy.QUESTION_AND_SEGMENT, "Q alpha"),
    ):
        model = RandomModel(1, endless=True)
        model.draw = lambda ids: Drawn(0.9, 0.9, 0.9, "alpha", 0.9, "[Retrieval]")
        _, events = run(model, max_segments=2, query=policy)
        assert [e.query for e in of(RetrievalEvent, events)][:2] == ["Q", second]


def scripted(steps):
    """A model that writes by what it reads last: a passage's text, `no`, or the instruction."""
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)

    def script(ids):
        surface = tokenizer.surface(ids)
        for ending, completion in steps.items():
            if surface.endswith(ending):
                return completion
        return say({"[Retrieval]": 0.7, "[No Retrieval]": 0.3})

    model = RandomModel(0)
    model.tokenizer, model.fmt = tokenizer, fmt
    model.engine = ScriptedEngine(tokenizer, script)
    return model


def judged(word, relevance=0.9, support=0.9, ending=END):
    relevant = {"[Relevant]": relevance, "[Irrelevant]": 1 - relevance}
    full = {"[Fully supported]": support, "[No support / Contradictory]": 1 - support}
    return say(relevant, word, full, "[Utility:5]", ending)


def test_a_segment_without_a_passage_competes_when_asked_to():
    steps = {
        "text 0</paragraph>": say(
            {"[Irrelevant]": 0.99, "[Relevant]": 0.01}, "Bad", "[Utility:1]", END
        ),
        "[No Retrieval]": say("Good", "[Utility:5]", END),
    }
    (without,), _ = run(scripted(steps), passages=PASSAGES[:1])
    (answer,), _ = run(scripted(steps), passages=PASSAGES[:1], with_no_retrieval=True)
    assert (without.text, answer.text) == ("Bad", "Good")
    assert not answer.retrieved


@pytest.mark.parametrize(
    ("relevances", "bound", "said"),
    [
        ((0.9, 0.85), 0.86, "First"),  # the second is not joined
        ((0.9, 0.87), 0.86, "First Second"),
        ((0.9, 0.85), 0.0, "First Second"),  # as in the paper
        ((0.85, 0.99), 0.86, "Second"),  # not after the first, and alone it is the better one
        ((0.6, 0.01), 0.86, "First"),  # an answer of one segment needs no relevance
    ],
)
def test_an_answer_joins_no_passage_of_low_relevance(relevances, bound, said):
    first, second = relevances
    steps = {
        "text 0</paragraph>": judged("First", first, ending="[Retrieval]"),
        "text 1</paragraph>": judged("Second", second),
    }
    (answer,), events = run(
        scripted(steps), passages=PASSAGES[:2], max_segments=2, join_relevance=bound
    )
    assert answer.text == said
    lost = [e.reason for e in of(PruneEvent, events) if "joins" in e.reason]
    expected = f"joins passages of which one has relevance {min(relevances):.2f}, less than 0.86"
    assert set(lost) == ({expected} if bound and min(relevances) < bound else set())


def test_unsupported_segments_leave_the_search_when_dropped():
    steps = {
        "text 0</paragraph>": judged("Wrong", relevance=0.99, support=0.45),
        "text 1</paragraph>": judged("Right", relevance=0.6, support=0.7),
    }
    (kept,), _ = run(scripted(steps))
    (answer,), events = run(scripted(steps), drop_unsupported=True)
    assert kept.text == "Wrong"  # 0.99 + 0.45 is more than 0.6 + 0.7
    assert answer.text == "Right"
    (lost,) = of(PruneEvent, events)
    assert lost.rank == 0 and "without support" in lost.reason


def test_when_all_segments_are_dropped_nothing_is_said():
    steps = {"</paragraph>": judged("Wrong", support=0.1)}
    (answer,), _ = run(scripted(steps), drop_unsupported=True)
    assert answer.abstained and answer.text == ""
    assert answer.verdict.startswith("no answer")


def test_a_hypothesis_whose_continuations_are_all_dropped_ends_as_it_is():
    # After "Good" every second segment is unsupported; "Poor" ends by itself and ranks lower.
    steps = {
        "Good[Fully supported][Utility:5][Retrieval]<paragraph>T0\ntext 0</paragraph>": judged(
            "Bad", support=0.1
        ),
        "Good[Fully supported][Utility:5][Retrieval]<paragraph>T1\ntext 1</paragraph>": judged(
            "Worse", support=0.1
        ),
        "text 0</paragraph>": judged("Good", relevance=0.99, support=0.99, ending="[Retrieval]"),
        "text 1</paragraph>": judged("Poor", relevance=0.55, support=0.55),
    }
    (answer,), events = run(scripted(steps), drop_unsupported=True)
    assert answer.text == "Good"
    assert not answer.abstained
    finish = of(FinishEvent, events)[0]
    assert [node.text for node in finish.beam] == ["Good", "Poor"]
    assert finish.best.finished


@pytest.mark.parametrize("more", ["Know", "Known again", "known"])
def test_what_is_not_said_in_whole_words_is_new(more):
    steps = {
        "text 0</paragraph>": judged("Known", relevance=0.9, ending="[Retrieval]"),
        "text 1</paragraph>": judged(more, relevance=0.6),
    }
    (answer,), _ = run(scripted(steps), beam_width=1)
    assert answer.text == f"Known {more}"


def test_a_path_says_nothing_twice():
    steps = {
        "text 0</paragraph>": judged("Known", relevance=0.9, ending="[Retrieval]"),
        "text 1</paragraph>": judged("Known", relevance=0.6, ending="[Retrieval]"),
    }
    (answer,), events = run(scripted(steps), beam_width=1)
    (again,), _ = run(scripted(steps), beam_width=1, repeat=True, max_segments=2)
    assert answer.text == "Known"
    assert again.text == "Known Known"
    assert [e.reason for e in of(PruneEvent, events) if not e.rank] == [
        "says what its answer has said before"
    ]
    assert answer.passages[0].passage.title == "T0"


def test_an_unsupported_answer_is_withheld_when_a_budget_ends_the_search_too():
    steps = {"</paragraph>": judged("Doubtful", support=0.6, ending="[Retrieval]")}
    (answer,), _ = run(scripted(steps), min_support=0.9, max_passages=2)
    assert answer.stopped_by == "max_passages"
    assert answer.abstained and answer.text == ""
    assert [hit.passage.id for hit in answer.passages] == ["p0"]


def test_a_withheld_answer_names_no_choice():
    steps = {"</paragraph>": judged("true", support=0.6)}
    (answer,), _ = run(scripted(steps), min_support=0.9, choices=("true", "false"), max_segments=1)
    assert answer.abstained
    assert answer.text == "" and answer.choices == {}


def test_abstention_shows_the_best_evidence_instead_of_the_sentence():
    steps = {"</paragraph>": judged("Doubtful", support=0.6)}
    (said,), _ = run(scripted(steps), min_support=0.59)
    (answer,), _ = run(scripted(steps), min_support=0.7)
    assert said.text == "Doubtful"
    assert answer.abstained and answer.text == ""
    assert [hit.passage.id for hit in answer.passages] == ["p0"]


def test_abstention_prefers_a_supported_hypothesis_of_the_beam():
    steps = {
        "text 0</paragraph>": judged("Doubtful", relevance=0.99, support=0.6),
        "text 1</paragraph>": judged("Sure", relevance=0.55, support=0.8),
    }
    (answer,), _ = run(scripted(steps), min_support=0.7)
    assert answer.text == "Sure" and not answer.abstained


def test_an_answer_without_retrieval_is_never_withheld():
    steps = {"[No Retrieval]": say("Hello!", END)}
    (answer,), _ = run(scripted(steps), mode=RetrievalMode.NEVER, min_support=0.9)
    assert answer.text == "Hello!"


def test_passages_under_the_bound_are_skipped_after_one_token():
    steps = {
        "text 0</paragraph>": judged("Much", relevance=0.9),
        "text 1</paragraph>": say({"[Irrelevant]": 0.8, "[Relevant]": 0.2}, "x", END),
    }
    model = scripted(steps)
    (answer,), events = run(model, prune_relevance=0.5)
    (skipped,) = of(SkipEvent, events)
    assert skipped.hit.passage.id == "p1"
    assert skipped.relevance == pytest.approx(0.2)
    assert answer.text == "Much"
    # The gate, one token for each of two passages, then one passage read on.
    assert [[r.max_new_tokens for r in call] for call in model.engine.calls] == [[1], [1, 1], [96]]


def test_the_most_relevant_passage_is_never_skipped():
    steps = {
        "text 0</paragraph>": say({"[Irrelevant]": 0.9, "[Relevant]": 0.1}, "a", END),
        "text 1</paragraph>": say({"[Irrelevant]": 0.8, "[Relevant]": 0.2}, "b", END),
    }
    (answer,), _ = run(scripted(steps), prune_relevance=0.5)
    assert answer.text == "b"


def test_several_passages_can_be_read_for_one_segment():
    steps = {
        "text 0</paragraph><paragraph>T1\ntext 1</paragraph>": judged("Both", relevance=0.99),
        "</paragraph>": judged("One", relevance=0.6),
    }
    (answer,), events = run(scripted(steps), n_evidence=2)
    assert len(of(CandidateEvent, events)) == 3
    assert answer.cited_text == "Both [1][2]"


def test_closed_sets_add_the_scores_of_equal_answers():
    steps = {
        "text 0</paragraph>": judged("True.", relevance=0.9),
        "text 1</paragraph>": judged("false", relevance=0.6),
        "text 2</paragraph>": judged("False", relevance=0.6),
    }
    (answer,), _ = run(
        scripted(steps), passages=PASSAGES[:3], max_segments=1, choices=("true", "false")
    )
    # The best candidate says true, but two others together say false: the better of them is told.
    assert answer.text == "false"
    assert answer.cited_text == "false [1]"
    assert [hit.passage.id for hit in answer.passages] == ["p1"]
    assert list(answer.choices) == ["false", "true"]
    first = sum(answer.choices.values())
    assert first == pytest.approx(sum(answer.choices[c] for c in ("true", "false")))


def test_the_released_prefix_leaves_earlier_passages_out():
    model = RandomModel(3, endless=True)
    run(model, max_segments=2, inline_passages=False, beam_width=1, repeat=True)
    markers = [
        r.prompt_ids.count(model.fmt.ids[Marker.PARAGRAPH_END]) for r in model.engine.calls[2]
    ]
    assert markers == [1, 1]
    inline = RandomModel(3, endless=True)
    run(inline, max_segments=2, beam_width=1, repeat=True)
    markers = [
        r.prompt_ids.count(inline.fmt.ids[Marker.PARAGRAPH_END]) for r in inline.engine.calls[2]
    ]
    assert markers == [2, 2]


def test_a_budget_of_seconds_ends_before_the_next_level():
    model = RandomModel(5, endless=True)
    ticks = iter([0.0, 1.0, 2.5, 9.0, 9.0])
    asked = steps(
        "Q",
        model=Model.of(model.engine),
        config=SearchConfig(max_seconds=2.0),
        clock=lambda: next(ticks),
    )
    events = list(drive([asked], model.engine, GivenPassages(PASSAGES[:2])))
    finish = events[-1]
    assert finish.stopped_by == "max_seconds"
    assert finish.best.depth == 1  # one level began at 1.0 s, the next would have at 2.5 s
    assert not finish.abstained


def test_a_budget_of_passages_is_marked_and_answers_from_what_was_read():
    model = RandomModel(5, endless=True)
    (answer,), _ = run(model, max_passages=2, max_segments=4)
    assert answer.stopped_by == "max_passages"
    assert answer.usage.n_passages == 2
    assert len(answer.segments) == 1


def test_earlier_turns_are_read_and_searched():
    model = RandomModel(2)
    turns = [Turn(question="Who painted it?", answer="Leonardo.[Relevant]</s>")]
    _, events = run(model, ["When?"], histories=[turns], max_segments=1)
    assert (
        of(RetrievalEvent, events)[0].query == "When? Who painted it? Leonardo.[Relevant]</s> When?"
    )
    asked = model.tokenizer.surface(model.engine.calls[0][0].prompt_ids)
    assert asked.startswith("### Instruction:\nWho painted it?\n\n### Response:\nLeonardo.")
    assert asked.endswith("### Instruction:\nWhen?\n\n### Response:\n")
    control = set(model.fmt.ids.all) | {model.fmt.ids.end_of_sequence}
    assert not control & set(model.engine.calls[0][0].prompt_ids)


def test_earlier_turns_are_left_out_where_a_question_stands_alone():
    model = RandomModel(2)
    turns = [Turn(question="Who painted it?", answer="Leonardo.")]
    _, events = run(model, ["Who wrote Dune?"], histories=[turns], max_segments=1)
    assert of(RetrievalEvent, events)[0].query == "Who wrote Dune?"
    asked = model.tokenizer.surface(model.engine.calls[0][0].prompt_ids)
    assert asked == "### Instruction:\nWho wrote Dune?\n\n### Response:\n"


def test_the_oldest_turns_go_when_the_context_is_full():
    model = RandomModel(2)
    model.engine = ScriptedEngine(model.tokenizer, model._script, max_context=760)
    turns = [Turn(question="old " * 100, answer="x"), Turn(question="new", answer="y")]
    run(model, ["When?"], histories=[turns], max_segments=1)
    asked = model.tokenizer.surface(model.engine.calls[0][0].prompt_ids)
    assert "old" not in asked and "new" in asked


def test_the_rule_in_force_decides_and_the_others_are_told():
    model = RandomModel(2)  # the gate sees p(yes) 0.7 and p(no) 0.3
    # ln 0.7 / (ln 0.7 + ln 0.3) = 0.3567 / 1.5606 = 0.2285: the released ratio is inverted
    _, events = run(model, gate=GateKind.REFERENCE, threshold=0.3, max_segments=1)
    gate = of(GateEvent, events)[0].gate
    assert gate.reference == pytest.approx(0.2285, abs=1e-4)
    assert not gate.retrieve
    assert gate.would[GateKind.PAPER] and gate.would[GateKind.ARGMAX]


@pytest.mark.parametrize(
    "options",
    [
        {"max_seconds": 0.0},
        {"max_tokens": 0},
        {"max_passages": 0},
        {"n_evidence": 0},
        {"min_support": 1.5},
        {"prune_relevance": -0.1},
        {"choices": ("yes", "yes")},
        {"choices": ("yes", " ")},
    ],
)
def test_variants_out_of_range_name_their_key(options):
    with pytest.raises(ConfigError, match=f"decode.{next(iter(options))}"):
        SearchConfig(**options)
