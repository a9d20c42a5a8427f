"""The Python entry: ask, batch, stream, given passages, raw use; on a scripted model."""

import asyncio
import re

import pytest

import selfrag
from selfrag import Passage, SearchConfig, SelfRAG, SelfRAGError
from selfrag.decode.events import FinishEvent, GateEvent
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, ConfigError
from selfrag.prompt import PromptFormat
from selfrag.retrieval.base import FixedRetriever, GivenPassages, as_passages

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


def test_the_package_offers_what_a_call_needs_and_no_more():
    names = "Answer EngineKind GateKind Passage PathScore QueryPolicy RetrievalMode ScoreWeights"
    names += " SearchConfig SelfRAG SelfRAGError Turn"
    assert selfrag.__all__ == names.split()
    assert all(getattr(selfrag, name).__name__ == name for name in selfrag.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Selfrag'"):
        selfrag.Selfrag  # noqa: B018 - the access itself is the test


def test_words_are_as_good_as_enums():
    config = SearchConfig(mode="always", gate="reference", path_score="mean", query="question")
    assert config.mode is RetrievalMode.ALWAYS and config.gate is selfrag.GateKind.REFERENCE
    assert config.path_score is selfrag.PathScore.MEAN
    assert config.query is selfrag.QueryPolicy.QUESTION


def test_a_mode_in_words_retrieves(rag):
    answer = rag.with_config(SearchConfig(mode="never")).ask("Who?", passages=["Ann did it."])
    assert answer.text == "Nobody."
    assert rag.with_config(SearchConfig(mode="always")).ask("Who?", passages=["Ann did it."]).text


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"mode": "sometimes"}, "decode.mode is 'sometimes'; expected one of adaptive, always"),
        ({"top_k": 2.5}, "decode.top_k is 2.5; expected a whole number from 1 to 1000"),
        ({"top_k": True}, "decode.top_k is True"),
        ({"top_k": 10**14}, "decode.top_k is 100000000000000; expected a whole number"),
        ({"top_k": "5"}, "decode.top_k is '5'"),
        ({"threshold": "none"}, "decode.threshold is 'none'"),
        ({"threshold": float("nan")}, "decode.threshold is nan"),
        ({"weights": {}}, "decode.weights is {}; expected a ScoreWeights"),
        ({"choices": "yes,no"}, "decode.choices is 'yes,no'; expected a list of strings"),
        ({"drop_unsupported": "false"}, "decode.drop_unsupported is 'false'; expected true or"),
        ({"with_no_retrieval": 1}, "decode.with_no_retrieval is 1"),
        ({"max_seconds": 0}, "decode.max_seconds is 0; expected a number above 0 or none"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(settings, found):
    with pytest.raises(ConfigError, match=re.escape(f"cannot search: {found}")):
        SearchConfig(**settings)


@pytest.mark.parametrize("weights", [{"support": "1"}, {"utility": -1.0}, {"relevance": True}])
def test_a_weight_of_another_type_is_refused_by_name(weights):
    (name,) = weights
    with pytest.raises(ConfigError, match=rf"decode\.weights\.{name} is"):
        selfrag.ScoreWeights(**weights)


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda rag: rag.batch("Who?"), "cannot answer 'Who?': expected a list of questions"),
        (lambda rag: rag.batch(["Who?", None]), "cannot answer None: expected a question"),
        (lambda rag: rag.ask(["Who?"]), "cannot answer ['Who?']: expected a question"),
        (lambda rag: rag.ask(b"Who?"), "cannot answer b'Who?'"),
        (lambda rag: rag.stream(7), "cannot answer 7"),
        (lambda rag: rag.generate(None), "cannot answer None"),
        (lambda rag: rag.ask(" "), "the question is empty"),
        (lambda rag: rag.ask("Who?", passages="Ann did it."), "put it into a list"),
        (lambda rag: rag.ask("Who?", passages=Passage(text="Ann")), "put it into a list"),
        (lambda rag: rag.ask("Who?", passages={"text": "Ann"}), "put it into a list"),
        (lambda rag: rag.ask("Who?", passages=[{"text": "Ann"}]), "cannot read passage 1: found {"),
        (lambda rag: rag.ask("Who?", passages=["a", None]), "cannot read passage 2: found None"),
        (lambda rag: rag.ask("Who?", passages=[Passage(text=None)]), "cannot read passage 1"),
        (lambda rag: rag.generate("Who?", 7), "cannot read passage 1: found 7"),
        (lambda rag: rag.ask("Who?", history="I asked"), "expected for each of 1 question "),
        (lambda rag: rag.ask("Who?", history=[("a", "b")]), "selfrag.Turn(question="),
        (lambda rag: rag.batch(["Who?"], histories=[[], []]), "expected for each of 1 question "),
        (lambda rag: rag.with_config({"top_k": 3}), "expected selfrag.SearchConfig"),
        (
            lambda rag: SelfRAG.from_pretrained(engine="gpu"),
            "engine is 'gpu'; expected one of auto",
        ),
        (lambda rag: SelfRAG.from_pretrained(config={"top_k": 3}), "expected selfrag.SearchConfig"),
        (lambda rag: SelfRAG("default", rag.retriever), "engine is 'default', which has no"),
        (lambda rag: SelfRAG(rag.engine, None), "retriever is None, which has no `search`"),
        (lambda rag: SelfRAG(rag.engine, ["Ann"]), "call SelfRAG.from_pretrained"),
        (lambda rag: rag.generate("Who?", max_new_tokens=0), "max_new_tokens is 0"),
        (lambda rag: rag.generate("Who?", max_new_tokens="9"), "max_new_tokens is '9'"),
        (lambda rag: SelfRAG.from_pretrained(7), "model is 7; expected a string"),
        (lambda rag: SelfRAG.from_pretrained("no where"), "no folder here and no id on the hub"),
        (
            lambda rag: SelfRAG.from_pretrained(index="i", passages=["a"]),
            "both an index and passages",
        ),
        (lambda rag: SelfRAG.from_pretrained(passages="one string"), "put it into a list"),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused_by_name(rag, call, found):
    with pytest.raises(SelfRAGError, match=re.escape(found)):
        call(rag)


def reader_of(passages, n_tokens=None):
    """A model that writes the text of every passage it reads, and those it was given."""
    table = {PROMPT: say({"[Retrieval]": 0.9, "[No Retrieval]": 0.1})}
    for number, passage in enumerate(passages):
        read = f"{PROMPT}[Retrieval]<paragraph>\n{passage}</paragraph>"
        support = "[Fully supported]" if number == len(passages) - 1 else "[Partially supported]"
        table[read] = say("[Relevant]", f"{passage}", support, "[Utility:5]", "</s>")
    return SelfRAG(ScriptedEngine(ScriptedTokenizer(), table), FixedRetriever({}))


def test_more_passages_than_anybody_waits_for_are_refused():
    rag = reader_of(["a passage"])
    with pytest.raises(BadInput, match=r"from 1001 passages.*at most 1000.*make an index"):
        rag.ask("Who?", passages=["a passage"] * 1001)


def test_all_passages_given_are_read_whatever_top_k_says():
    seven = [f"Suspect {n} did it." for n in range(7)]
    rag = reader_of(seven).with_config(SearchConfig(top_k=2, max_segments=1))
    answer = rag.ask("Who?", passages=seven)
    assert answer.usage.n_passages == 7
    assert answer.text == "Suspect 6 did it."  # the last one alone is fully supported
    given = SelfRAG(rag.engine, GivenPassages(seven), config=rag.config)
    assert given.ask("Who?").text == "Suspect 6 did it."


def test_a_long_passage_is_read_whole_in_pieces_that_are_shown_as_read():
    pieces = ["Ann slept.", "Bob ate.", "Eve did it."]
    rag = reader_of(pieces)
    fmt = PromptFormat.of(rag.engine.tokenizer)
    limit = max(len(fmt.passage(Passage(text=piece))) for piece in pieces) - 2
    rag = rag.with_config(SearchConfig(max_passage_tokens=limit, max_segments=1))
    answer = rag.ask("Who?", passages=[Passage(id="log", text=" ".join(pieces), start=100)])
    (hit,) = answer.passages
    assert (answer.text, hit.passage.text) == ("Eve did it.", "Eve did it.")
    assert (hit.passage.start, hit.passage.end) == (120, 131)
    assert answer.usage.n_passages >= 2 and hit.passage.id.startswith("log#")


def test_passages_without_ids_or_with_the_same_are_told_apart():
    rag = reader_of(["Ann did it.", "Bob did it."]).with_config(SearchConfig(max_segments=1))
    twice = [Passage(id="x", text="Ann did it."), Passage(id="x", text="Bob did it.")]
    answer = rag.ask("Who?", passages=twice)
    assert answer.usage.n_passages == 2
    assert answer.passages[0].passage == Passage(id="given-2", text="Bob did it.")
    assert [each.id for each in as_passages([*twice, "x", Passage(id="y", text="y")])] == [
        "x",
        "given-2",
        "given-3",
        "y",
    ]


def test_a_title_that_is_none_is_no_title(rag):
    answer = rag.ask("Who?", passages=[Passage(id="a", title=None, text="Ann did it.")])
    assert (answer.text, answer.passages[0].passage.title) == ("Ann.", "")


def test_what_is_empty_gives_nothing_and_generators_are_lists(rag):
    assert rag.batch([]) == []
    assert rag.ask("Who?", passages=[]).passages == ()
    asked = rag.batch((q for q in ("Who?", "Who?")), passages=(p for p in ["Ann did it."]))
    assert [answer.text for answer in asked] == ["Ann.", "Ann."]


def test_hits_are_passages_too(rag):
    hits = GivenPassages(["Ann did it."]).hits
    assert rag.ask("Who?", passages=hits).text == "Ann."


def test_a_model_is_let_go_at_the_end_of_the_block(rag):
    with rag as opened:
        assert opened.ask("Who?").text == "Nobody."
    with pytest.raises(SelfRAGError):
        rag.ask("Who?")
