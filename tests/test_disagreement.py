"""When the reader is told that other passages support another answer; a scripted model."""

from dataclasses import replace

import pytest

from selfrag.decode.answer import answer_to_json, collect_answers
from selfrag.decode.config import SearchConfig
from selfrag.decode.disagreement import disagreements
from selfrag.decode.drive import search
from selfrag.decode.events import CandidateEvent, FinishEvent
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Passage
from selfrag.retrieval.base import GivenPassages
from selfrag.trace.candidates import recorded_questions
from selfrag.trace.file import load_trace, save_trace

END = "</s>"
FULL = {"[Fully supported]": 0.9, "[Partially supported]": 0.1}
PARTIAL = {"[Partially supported]": 0.9, "[Fully supported]": 0.1}
IRRELEVANT = {"[Irrelevant]": 0.9, "[Relevant]": 0.1}


def supported(text, support=FULL, relevance=0.9):
    return say({"[Relevant]": relevance, "[Irrelevant]": 1 - relevance}, text, support, END)


NONE = {"[No support / Contradictory]": 0.9, "[Fully supported]": 0.1}


def answered(first, *others, crossed=(), **config):
    """The events of a search, and its answer; one passage for each completion.

    `crossed`: the support of a text by the passage of another, for each pair that is asked for.
    """
    tokenizer = ScriptedTokenizer()
    passages = [Passage(id=f"p{n}", text=f"text {n}") for n in range(1 + len(others))]

    support = iter(crossed)

    def script(ids):
        surface = tokenizer.surface(ids)
        for n, completion in enumerate([first, *others]):
            if surface.endswith(f"text {n}</paragraph>"):
                return completion
        if "[Relevant]" in surface:
            return say(next(support, FULL))
        return say({"[Retrieval]": 0.9, "[No Retrieval]": 0.1})

    engine = ScriptedEngine(tokenizer, script)
    events = list(
        search(
            ["Q"],
            engine=engine,
            retriever=GivenPassages(passages),
            config=SearchConfig(**config),
            passages=[passages],
        )
    )
    (answer,) = collect_answers(["Q"], events)
    return events, answer, engine


def told(first, *others):
    """What may disagree with the answer, where `first` wins."""
    events, *_ = answered(first, *others)
    (finish,) = [event for event in events if isinstance(event, FinishEvent)]
    candidates = [event.node for event in events if isinstance(event, CandidateEvent)]
    best = next(node for node in candidates if node.hits[0].passage.id == "p0")
    assert finish.best.path_score >= best.path_score
    return [node.text for node in disagreements(best, candidates)]


def test_a_passage_that_gives_several_answers_is_one_rival():
    ann, bob = supported("Ann. Ann left."), supported("Bob. Bob left.", relevance=0.89)
    events, *_ = answered(ann, bob)
    first, rival = [event.node for event in events if isinstance(event, CandidateEvent)]
    other = replace(rival, id=9, segment=replace(rival.segment, text="Cid. Cid left."))
    assert disagreements(first, [first, other, rival]) == [other]


def test_answers_that_exclude_one_another_are_told_with_both_citations(tmp_path):
    ann, bob = supported("Ann. Ann left."), supported("Bob. Bob left.", relevance=0.89)
    events, answer, engine = answered(ann, bob, crossed=[NONE, NONE])
    first, rival = answer.conflict
    assert (first.answer, first.text, first.citations) == ("Ann.", "Ann. Ann left.", (1,))
    assert (rival.answer, rival.text, rival.citations) == ("Bob.", "Bob. Bob left.", (2,))
    # .9 + .1 / 2 by its own passage, .1 of the other's.
    assert (rival.support, rival.elsewhere) == (pytest.approx(0.95), pytest.approx(0.1))
    assert answer.citations == (1,) and answer.passages[1].passage.id == "p1"
    assert answer.disagreement == "Sources disagree: Ann. [1]; Bob. [2]"
    assert answer.verdict.endswith("; sources disagree")
    assert answer_to_json(answer)["conflict"][1]["citations"] == (2,)
    # The texts are judged in one call, each by the passage of the other and without critique.
    judged = [engine.tokenizer.surface(request.prompt_ids) for request in engine.calls[-1]]
    assert [text.rpartition("<paragraph>")[2] for text in judged] == [
        "\ntext 1</paragraph>[Relevant]Ann. Ann left.",
        "\ntext 0</paragraph>[Relevant]Bob. Bob left.",
    ]
    save_trace(tmp_path / "t.jsonl", ["Q"], events, config=SearchConfig())
    (again,) = collect_answers(["Q"], load_trace(tmp_path / "t.jsonl").events)
    assert again.conflict == answer.conflict
    (recorded,) = recorded_questions(load_trace(tmp_path / "t.jsonl"))
    assert [bool(each.answer.conflict) for each in recorded.candidates] == [True, False]


@pytest.mark.parametrize("crossed", [(FULL, NONE), (NONE, FULL), (PARTIAL, NONE)])
def test_a_text_that_the_other_passage_supports_too_excludes_nothing(crossed):
    _, answer, _ = answered(supported("Ann."), supported("Bob."), crossed=crossed)
    assert answer.conflict == () and len(answer.passages) == 1
    assert "disagree" not in answer.verdict and answer.disagreement == ""


def test_nothing_is_asked_where_there_is_no_rival_or_no_budget():
    _, answer, engine = answered(supported("Ann."), supported("Ann. Ann left."))
    assert answer.conflict == () and len(engine.calls) == 2
    # The gate and two segments of five ids: 11 of 12, and a rival costs two.
    _, answer, engine = answered(
        supported("Ann."), supported("Bob."), crossed=[NONE, NONE], max_tokens=12
    )
    assert answer.conflict == () and len(engine.calls) == 2


def test_two_supported_short_answers_disagree():
    assert told(supported("Ann. Ann left."), supported("Bob. Bob left.")) == ["Bob. Bob left."]


def test_each_other_answer_is_told_once():
    others = [supported("Bob."), supported("Bob. It was he."), supported("Eve.")]
    assert [text.split(".")[0] for text in told(supported("Ann."), *others)] == ["Bob", "Eve"]


@pytest.mark.parametrize(
    "other",
    [
        supported("Ann."),  # the same
        supported("ann left"),  # holds the answer
        supported("Bob.", PARTIAL),
        supported("Bob.", relevance=0.7),  # a total of 2.6 instead of 2.8 is not nearly as good
        say(IRRELEVANT, "Bob.", END),
        say({"[Relevant]": 0.9}, "Bob.", END),  # not judged
        supported("Bob walked for many long hours through the quiet town."),  # another subject
        supported(""),
    ],
)
def test_what_may_agree_or_is_not_supported_is_not_told(other):
    assert told(supported("Ann. Ann left."), other) == []


def test_sentences_alike_with_other_numbers_disagree():
    one = "The old bridge over the river was opened in 1899."
    assert told(supported(one), supported(one.replace("1899", "1903"))) != []
    assert (
        told(supported(one), supported("In 1903 a fire destroyed the mill and two houses.")) == []
    )


def test_an_answer_that_is_not_supported_itself_is_contradicted_by_nothing():
    assert told(supported("Ann.", PARTIAL), supported("Bob.")) == []
