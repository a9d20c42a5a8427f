"""The segment-level beam search on a scripted model: paths, ranking, stops, citations."""

import numpy as np
import pytest

from selfrag.decode.answer import answer_questions, answer_to_json
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import search
from selfrag.decode.events import (
    CandidateEvent,
    FinishEvent,
    GateEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
)
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.query import follow_up_query, stands_alone
from selfrag.decode.score import ScoreWeights
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, ConfigError
from selfrag.passage import Hit, Passage
from selfrag.prompt import Turn
from selfrag.retrieval.base import FixedRetriever, GivenPassages

END = "</s>"
YES = {"[Retrieval]": 0.7, "[No Retrieval]": 0.2}
NO = {"[Retrieval]": 0.05, "[No Retrieval]": 0.9}


def head(question):
    return f"### Instruction:\n{question}\n\n### Response:\n"


def read(passage):
    return f"[Retrieval]<paragraph>{passage.title}\n{passage.text}</paragraph>"


def hits(*texts):
    passages = [Passage(id=f"p{i}", title=f"T{i}", text=text) for i, text in enumerate(texts)]
    return [Hit(passage=p, score=1.0 / rank, rank=rank) for rank, p in enumerate(passages, 1)]


def engine(table):
    return ScriptedEngine(ScriptedTokenizer(), table)


def relevant(prob):
    return {"[Relevant]": prob, "[Irrelevant]": 1 - prob} if prob < 1 else "[Relevant]"


FULL = {"[Fully supported]": 0.9, "[No support / Contradictory]": 0.1}
NONE = {"[No support / Contradictory]": 0.9, "[Fully supported]": 0.1}
U5 = {"[Utility:5]": 0.8, "[Utility:1]": 0.2}


def one_question_two_passages():
    found = hits("Paris is big.", "Rome is old.")
    table = {
        head("Q"): say(YES),
        head("Q") + read(found[0].passage): say(relevant(0.6), "Paris", NONE, U5, END),
        head("Q") + read(found[1].passage): say(relevant(0.8), "Rome", FULL, U5, END),
    }
    return engine(table), FixedRetriever({"Q": found})


def run(model, retriever, questions=("Q",), **options):
    events = []
    answers = answer_questions(
        list(questions),
        engine=model,
        retriever=retriever,
        config=SearchConfig(**options),
        on_event=events.append,
    )
    return answers, events


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_the_best_scored_passage_gives_the_answer_and_its_citation():
    (answer,), _ = run(*one_question_two_passages())
    assert answer.cited_text == "Rome [1]"
    assert [hit.passage.id for hit in answer.passages] == ["p1"]
    scores = answer.segments[0].scores
    assert np.isclose(scores.relevance, 0.8)
    assert np.isclose(scores.support, 0.9)
    # 0.8 * (+1) + 0.2 * (-1), the other three levels at the floor
    assert np.isclose(scores.utility, 0.6, atol=1e-6)
    # tokens with probability 0.8, 1 (Rome), 0.9, 0.8 and 1 (end)
    assert np.isclose(scores.sequence, (0.8 * 0.9 * 0.8) ** (1 / 5))
    # the second hit scores half of what the first does
    assert np.isclose(scores.total, 0.8 + 0.9 + 0.5 * 0.6 + scores.sequence - 0.5)
    assert answer.verdict == "fully supported (0.90)"


def test_weights_change_the_winner():
    found = hits("a", "b")
    table = {
        head("Q"): say(YES),
        head("Q") + read(found[0].passage): say(relevant(0.9), "A", NONE, U5, END),
        head("Q") + read(found[1].passage): say(relevant(0.6), "B", FULL, U5, END),
    }
    retriever = FixedRetriever({"Q": found})
    (supported,), _ = run(engine(table), retriever)  # 0.6 + 0.9 - 0.5 against 0.9 + 0.1
    assert supported.text == "A"
    (supported,), _ = run(engine(table), retriever, weights=ScoreWeights(support=2))
    assert supported.text == "B"
    relevance_only = ScoreWeights(relevance=1, support=0, utility=0, sequence=0, retrieval=0)
    (relevant_one,), _ = run(engine(table), retriever, weights=relevance_only)
    assert relevant_one.text == "A"


def test_the_retrievers_own_score_counts_as_much_as_its_weight_says():
    # Paris: 0.6 + 0.1 + 0.3 + (0.6 * 0.9 * 0.8) ** (1 / 5) = 1.843, and the retriever's best hit.
    # Rome: 0.8 + 0.9 + 0.3 + (0.8 * 0.9 * 0.8) ** (1 / 5) = 2.895, less 1/2: rank 2 has half of it.
    # So Paris leads from a weight of 1.053 / (1 / 2) = 2.106 on.
    for weight, best, lacking in ((2.1, "Rome", -0.5), (2.12, "Paris", 0.0)):
        weights = ScoreWeights(retrieval=weight)
        (answer,), _ = run(*one_question_two_passages(), weights=weights)
        assert answer.text == best
        scores = answer.segments[0].scores
        assert scores.retrieval == lacking
        bare = run(*one_question_two_passages(), weights=ScoreWeights(retrieval=0))[0][0]
        assert bare.segments[0].scores.total == pytest.approx(0.8 + 0.9 + 0.3 + 0.8955, abs=1e-3)
        assert answer.score == pytest.approx(scores.total)


def test_passages_that_are_given_have_no_retrieval_score():
    passages = [hit.passage for hit in hits("Paris is big.", "Rome is old.")]
    model, _ = one_question_two_passages()
    (answer,), _ = run(model, GivenPassages(passages), weights=ScoreWeights(retrieval=9.0))
    assert answer.text == "Rome"
    assert answer.segments[0].scores.retrieval is None


def test_a_closed_gate_answers_without_searching():
    table = {
        head("Hi"): say(NO),
        head("Hi") + "[No Retrieval]": say("Hello!", U5, END),
    }
    (answer,), events = run(engine(table), FixedRetriever({}), ["Hi"])
    assert answer.cited_text == "Hello!"
    assert not answer.retrieved
    assert not of(RetrievalEvent, events)
    assert set(answer.segments[0].scores.missing) == {"relevance", "support"}
    assert answer.gate.retrieve is False
    assert answer.verdict.startswith("answered without retrieval")


def test_the_same_token_probabilities_serve_always_and_never():
    model, retriever = one_question_two_passages()
    (always,), _ = run(model, retriever, mode=RetrievalMode.ALWAYS, threshold=1.0)
    assert always.text == "Rome"
    table = {head("Q"): say(YES), head("Q") + "[No Retrieval]": say("Nice.", END)}
    (never,), _ = run(engine(table), retriever, mode=RetrievalMode.NEVER)
    assert never.text == "Nice."
    assert np.isclose(never.gate.paper, 0.7 / 0.9)


def test_nothing_found_falls_back_to_no_retrieval():
    table = {head("Q"): say(YES), head("Q") + "[No Retrieval]": say("Perhaps.", END)}
    (answer,), events = run(engine(table), FixedRetriever({}))
    assert answer.text == "Perhaps."
    assert of(RetrievalEvent, events)[0].hits == ()


def test_an_irrelevant_passage_has_no_support_and_says_why():
    found = hits("x")
    table = {
        head("Q"): say(YES),
        head("Q") + read(found[0].passage): say("[Irrelevant]", "No.", "[Utility:1]", END),
    }
    (answer,), _ = run(engine(table), FixedRetriever({"Q": found}))
    scores = answer.segments[0].scores
    assert scores.support is None
    assert "irrelevant" in scores.missing["support"]
    assert scores.relevance == pytest.approx(0.0, abs=1e-6)
    # relevance 0, support missing counts 0, utility -1 at weight 0.5, every token certain
    assert scores.total == pytest.approx(-0.5 + 1.0, abs=1e-5)
    assert answer.verdict.startswith("not supported")
    assert answer.retrieved
    assert answer.segments[0].citations == ()


def two_segments():
    """Passage 0 opens a second segment, which searches again; passage 1 ends at once."""
    first, second = hits("a", "b"), hits("c")
    second = [Hit(passage=Passage(id="q0", title="S", text="c"), score=1.0, rank=1)]
    start = head("Q")
    one = start + read(first[0].passage)
    said = "[Relevant]One.[Fully supported]"
    table = {
        start: say(YES),
        one: say("[Relevant]", "One.", "[Fully supported]", YES),
        start + read(first[1].passage): say("[Relevant]", "Other.", NONE, U5, END),
        one + said + read(second[0].passage): say("[Relevant]", "Two.", FULL, U5, END),
    }
    return table, FixedRetriever({"Q": first, "Q One.": second})


def test_the_second_segment_reads_its_own_path_and_a_fresh_passage():
    # The table holds only the right prompts: a leaked sibling or a lost passage raises.
    table, retriever = two_segments()
    (answer,), events = run(engine(table), retriever)
    assert answer.cited_text == "One. [1] Two. [2]"
    assert [event.query for event in of(RetrievalEvent, events)] == ["Q", "Q One."]
    assert [hit.passage.id for hit in answer.passages] == ["p0", "q0"]


def test_path_score_is_the_sum_over_segments():
    table, retriever = two_segments()
    (answer,), _ = run(engine(table), retriever)
    assert answer.score == pytest.approx(sum(s.scores.total for s in answer.segments))


def test_a_finished_hypothesis_outlives_a_worse_continuation():
    found = hits("a", "b")
    start = head("Q")
    opened = start + read(found[0].passage)
    said = "[Relevant]One.[Fully supported]"
    bad = [Hit(passage=Passage(id="bad", title="B", text="bad"), score=1.0, rank=1)]
    table = {
        start: say(YES),
        opened: say(relevant(0.51), "One.", FULL, YES),
        start + read(found[1].passage): say("[Relevant]", "Done.", "[Fully supported]", U5, END),
        opened + said + read(bad[0].passage): say(
            {"[Irrelevant]": 0.99, "[Relevant]": 0.01}, "No.", "[Utility:1]", END, text_prob=0.1
        ),
    }
    retriever = FixedRetriever({"Q": found, "Q One.": bad})
    (answer,), events = run(engine(table), retriever)
    assert answer.text == "Done."
    finish = of(FinishEvent, events)[0]
    assert finish.best.finished


def test_continuing_reuses_the_evidence_without_a_search():
    found = hits("a")
    start = head("Q")
    first = start + read(found[0].passage)
    table = {
        start: say(YES),
        first: say("[Relevant]", "One.", "[Fully supported]", "[Continue to Use Evidence]"),
        first + "[Relevant]One.[Fully supported][Continue to Use Evidence]": say(
            "Two.", FULL, U5, END
        ),
    }
    (answer,), events = run(engine(table), FixedRetriever({"Q": found}))
    assert answer.cited_text == "One. [1] Two. [1]"
    assert len(answer.passages) == 1
    assert len(of(RetrievalEvent, events)) == 1
    assert answer.segments[1].scores.relevance is None
    assert answer.segments[1].scores.support == pytest.approx(0.9)


def test_every_level_of_all_questions_is_one_engine_call():
    first, second = hits("a", "b"), hits("c")
    table = {head("Q"): say(YES), head("R"): say(YES)}
    for question, found in (("Q", first), ("R", second)):
        for hit in found:
            table[head(question) + read(hit.passage)] = say("[Relevant]", "X.", FULL, U5, END)
    model = engine(table)
    run(model, FixedRetriever({"Q": first, "R": second}), ["Q", "R"])
    assert [len(call) for call in model.calls] == [2, 3]


def test_answers_do_not_depend_on_the_batch():
    table, retriever = two_segments()
    table.update({head("Hi"): say(NO), head("Hi") + "[No Retrieval]": say("Hello!", U5, END)})
    together, _ = run(engine(table), retriever, ["Hi", "Q", "Hi"])
    alone = [run(engine(table), retriever, [q])[0][0] for q in ("Hi", "Q", "Hi")]
    assert [answer_to_json(a) for a in together] == [answer_to_json(a) for a in alone]


def test_the_beam_keeps_the_best_and_tells_why_others_lost():
    model, retriever = one_question_two_passages()
    _, events = run(model, retriever, beam_width=1)
    assert [event.node.text for event in of(KeepEvent, events)] == ["Rome"]
    pruned = of(PruneEvent, events)[0]
    assert pruned.node.text == "Paris"
    assert "ranked 2 of 2" in pruned.reason


@pytest.mark.parametrize("max_segments", [1, 2, 4])
def test_a_model_that_never_ends_is_stopped(max_segments):
    found = hits("a", "b")

    def always_more(ids):
        return say("[Relevant]", "More.", "[Fully supported]", YES)

    model = ScriptedEngine(ScriptedTokenizer(), lambda ids: say(YES) if not seen(ids) else more)
    more = always_more(None)

    def seen(ids):
        return model.tokenizer.token_to_id("</paragraph>") in ids

    class Same:
        def search(self, queries, top_k):
            return [found for _ in queries]

    (answer,), events = run(model, Same(), max_segments=max_segments, repeat=True)
    assert len(answer.segments) == max_segments
    assert len(model.calls) == 1 + max_segments
    assert len(of(CandidateEvent, events)) == 2 + 4 * (max_segments - 1)


def test_a_path_reads_no_passage_twice_and_ends_where_nothing_new_is_found():
    found = hits("a", "b", "c")  # p0, p1, p2
    asked = []

    class Known:
        def search(self, queries, top_k):
            asked.append(top_k)
            return [found[:top_k] for _ in queries]

    tokenizer = ScriptedTokenizer()

    def script(ids):
        if tokenizer.surface(ids).endswith("</paragraph>"):
            return say("[Relevant]", f"Fact{len(ids)}", "[Fully supported]", YES)
        return say(YES)

    model = ScriptedEngine(tokenizer, script)
    (answer,), events = run(model, Known(), top_k=2, beam_width=1, max_segments=9)
    assert [hit.passage.id for hit in answer.passages] == ["p0", "p1", "p2"]
    assert asked == [2, 3, 4, 5]
    read = [[hit.passage.id for hit in event.hits] for event in of(RetrievalEvent, events)]
    assert read == [["p0", "p1"], ["p1", "p2"], ["p2"]]
    assert answer.stopped_by is None


def test_a_segment_cut_by_the_limit_is_marked_and_final():
    found = hits("a")
    table = {
        head("Q"): say(YES),
        head("Q") + read(found[0].passage): say("[Relevant]", "a b c d e f g h", FULL, END),
    }
    (answer,), _ = run(engine(table), FixedRetriever({"Q": found}), max_new_tokens=4)
    assert answer.segments[0].truncated
    assert answer.text == "a b"


def test_events_come_in_the_order_of_the_search():
    _, events = run(*one_question_two_passages())
    kinds = [type(event) for event in events]
    assert kinds[0] is GateEvent
    assert kinds[1] is RetrievalEvent
    assert kinds[2:4] == [CandidateEvent, CandidateEvent]
    assert kinds[-1] is FinishEvent


def test_the_json_form_holds_what_is_documented():
    (answer,), _ = run(*one_question_two_passages())
    data = answer_to_json(answer)
    assert data["answer"] == "Rome"
    assert data["retrieved"] is True
    assert set(data["gate"]) == {"paper", "reference", "threshold", "rule", "would_retrieve"}
    assert data["segments"][0]["citations"] == [1]
    assert set(data["segments"][0]["scores"]) == {
        "relevance",
        "support",
        "utility",
        "sequence",
        "total",
        "missing",
        "retrieval",
    }
    assert set(data["passages"][0]) == {"id", "title", "text", "source", "score", "rank"}


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(question):
    with pytest.raises(BadInput, match="the question is empty"):
        run(engine({}), FixedRetriever({}), [question])


def test_a_question_over_the_context_window_is_refused_with_both_lengths():
    with pytest.raises(BadInput, match=r"takes \d+ tokens, but scripted has room for \d+"):
        run(engine({}), FixedRetriever({}), ["long " * 5000])


def test_room_counts_a_full_passage_its_three_control_ids_and_a_segment():
    found = hits("w " * 3000)
    script = ScriptedTokenizer()
    needed = len(script.encode(head("Q"))) + 100 + 96 + 3

    def model(max_context):
        return ScriptedEngine(
            ScriptedTokenizer(),
            lambda ids: say(YES) if len(ids) < 60 else say("[Relevant]", "X.", FULL, U5, END),
            max_context=max_context,
        )

    (answer,), _ = run(model(needed), FixedRetriever({"Q": found}), max_passage_tokens=100)
    assert answer.text == "X."
    tight = model(needed - 1)
    with pytest.raises(BadInput, match="the question takes"):
        run(tight, FixedRetriever({"Q": found}), max_passage_tokens=100)
    assert tight.calls == []


def test_a_long_passage_is_cut_not_refused():
    found = hits("w " * 3000)
    model = ScriptedEngine(
        ScriptedTokenizer(),
        lambda ids: say(YES) if len(ids) < 60 else say("[Relevant]", "X.", FULL, U5, END),
    )
    (answer,), _ = run(model, FixedRetriever({"Q": found}), max_passage_tokens=100)
    assert answer.text == "X."
    assert max(len(request.prompt_ids) for request in model.calls[1]) < 150


@pytest.mark.parametrize(
    "options", [{"threshold": 1.5}, {"threshold": -0.1}, {"top_k": 0}, {"beam_width": 0}]
)
def test_settings_out_of_range_name_their_key(options):
    with pytest.raises(ConfigError, match=f"decode.{next(iter(options))}"):
        SearchConfig(**options)


def test_search_yields_as_it_goes():
    model, retriever = one_question_two_passages()
    stream = search(["Q"], engine=model, retriever=retriever, config=SearchConfig())
    assert isinstance(next(stream), GateEvent)
    assert len(model.calls) == 1


def test_a_follow_up_is_searched_with_the_last_two_turns_and_their_answers():
    turns = [
        Turn(question="Who wrote A?", answer="Zed."),
        Turn(question="Who painted B? ", answer="Ann. " + "word " * 50),
        Turn(question="When?", answer="1500."),
    ]
    assert follow_up_query("Where?", []) == "Where?"
    assert follow_up_query("Where?", turns[:1]) == "Where? Who wrote A? Zed. Where?"
    words = " ".join(["word"] * 39)  # 40 words of an answer count
    assert follow_up_query("Where?", turns) == (
        f"Where? Who painted B? Ann. {words} When? 1500. Where?"
    )


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("Who wrote Dune?", True),
        ("What is the capital of France?", True),
        ("How many people lived in Paris in 1900?", True),
        ("Tell me who wrote the Odyssey", True),
        ("What happened in 1066?", True),
        ("When was he born?", False),
        ("Where is the museum located?", False),
        ("And in Germany?", False),
        ("What about France?", False),
        ("Is that true of Mars?", False),
        ("Why?", False),
        ("Which one is in Rome?", False),
        ("Did it reach England?", False),
        ("May I?", False),
        ("Mars?", False),
        ("Wo liegt seine Stadt?", False),
        ("who wrote dune?", False),
        ("", False),
    ],
)
def test_a_question_that_names_what_it_is_about_stands_alone(question, alone):
    assert stands_alone(question) is alone
