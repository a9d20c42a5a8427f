"""When the reader is told that other passages support another answer; a scripted model."""

import pytest

from selfrag.decode.config import SearchConfig
from selfrag.decode.disagreement import disagreements
from selfrag.decode.drive import search
from selfrag.decode.events import CandidateEvent, FinishEvent
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Passage
from selfrag.retrieval.base import GivenPassages

END = "</s>"
FULL = {"[Fully supported]": 0.9, "[Partially supported]": 0.1}
PARTIAL = {"[Partially supported]": 0.9, "[Fully supported]": 0.1}
IRRELEVANT = {"[Irrelevant]": 0.9, "[Relevant]": 0.1}


def supported(text, support=FULL, relevance=0.9):
    return say({"[Relevant]": relevance, "[Irrelevant]": 1 - relevance}, text, support, END)


def told(first, *others):
    """What is told beside the answer, where `first` wins; one passage for each completion."""
    tokenizer = ScriptedTokenizer()
    passages = [Passage(id=f"p{n}", text=f"text {n}") for n in range(1 + len(others))]

    def script(ids):
        surface = tokenizer.surface(ids)
        for n, completion in enumerate([first, *others]):
            if surface.endswith(f"text {n}</paragraph>"):
                return completion
        return say({"[Retrieval]": 0.9, "[No Retrieval]": 0.1})

    retriever = GivenPassages(passages)
    events = list(
        search(
            ["Q"],
            engine=ScriptedEngine(tokenizer, script),
            retriever=retriever,
            config=SearchConfig(),
            passages=[passages],
        )
    )
    (finish,) = [event for event in events if isinstance(event, FinishEvent)]
    candidates = [event.node for event in events if isinstance(event, CandidateEvent)]
    best = next(node for node in candidates if node.hits[0].passage.id == "p0")
    assert finish.best.path_score >= best.path_score
    return [node.text for node in disagreements(best, candidates)]


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
