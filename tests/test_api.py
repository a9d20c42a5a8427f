"""The Python entry: ask, batch, stream, given passages, raw use; on a scripted model."""

import asyncio

import pytest

import selfrag
from selfrag import Passage, SearchConfig, SelfRAG, Turn
from selfrag.decode.events import FinishEvent, GateEvent
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.retrieval.base import FixedRetriever

PROMPT = "### Instruction:\nWho?\n\n### Response:\n"
READ = f"{PROMPT}[Retrieval]<paragraph>\nAnn did it.</paragraph>"
TITLED = f"{PROMPT}[Retrieval]<paragraph>Log\nBob did it.</paragraph>"


@pytest.fixture
def rag():
    table = {
        PROMPT: say({"[Retrieval]": 0.7, "[No Retrieval]": 0.3}),
        READ: say("[Relevant]", "Ann.", "[Fully supported]", "[Utility:5]", "</s>"),
        TITLED: say("[Relevant]", "Bob.", "[Fully supported]", "[Utility:5]", "</s>"),
        f"{PROMPT}[No Retrieval]": say("Nobody.", "</s>"),
    }
    return SelfRAG(ScriptedEngine(ScriptedTokenizer(), table), FixedRetriever({}))


def test_passages_given_by_hand_are_cited(rag):
    answer = rag.ask("Who?", passages=["Ann did it."])
    assert (answer.text, answer.citations) == ("Ann.", (1,))
    assert answer.passages[0].passage.id == "given-1"
    assert answer.scores[0].support == pytest.approx(1.0, abs=1e-6)
    assert answer.to_dict()["answer"] == "Ann."


def test_a_passage_with_a_title_is_read_with_it(rag):
    titled = Passage(id="log", title="Log", text="Bob did it.")
    assert rag.ask("Who?", passages=[titled]).text == "Bob."


def test_the_retriever_of_the_object_is_used_without_passages(rag):
    assert rag.ask("Who?").text == "Nobody."  # it holds nothing


def test_asynchronous_and_batched_answers_are_the_same(rag):
    alone = rag.ask("Who?", passages=["Ann did it."]).to_dict()
    later = asyncio.run(rag.aask("Who?", passages=["Ann did it."])).to_dict()
    both = [a.to_dict() for a in rag.batch(["Who?", "Who?"], passages=["Ann did it."])]
    assert later == alone
    assert both == [alone, alone]


def test_a_stream_begins_with_the_gate_and_ends_with_the_answer(rag):
    events = list(rag.stream("Who?", passages=["Ann did it."]))
    assert isinstance(events[0], GateEvent)
    assert isinstance(events[-1], FinishEvent) and events[-1].best.text == "Ann."


def test_raw_use_spells_the_reflection_tokens(rag):
    assert rag.generate("Who?", "Ann did it.") == "[Relevant]Ann.[Fully supported][Utility:5]"


def test_another_configuration_shares_model_and_passages(rag):
    never = rag.with_config(SearchConfig(mode=RetrievalMode.NEVER))
    assert never.ask("Who?", passages=["Ann did it."]).text == "Nobody."
    assert never.engine is rag.engine


def test_the_package_offers_four_names_and_no_others():
    assert {name: getattr(selfrag, name) for name in selfrag.__all__} == {
        "Passage": Passage,
        "SearchConfig": SearchConfig,
        "SelfRAG": SelfRAG,
        "Turn": Turn,
    }
    with pytest.raises(AttributeError, match="no attribute 'Selfrag'"):
        selfrag.Selfrag  # noqa: B018 - the access itself is the test
