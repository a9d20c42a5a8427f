"""Retrievers of LangChain and LlamaIndex as ours, and ours as theirs, with the real packages."""

import asyncio
import subprocess
import sys

import pytest

from selfrag.errors import BadInput
from selfrag.integrations.convert import hits_from, metadata_of, passage_from, score_in
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import FixedRetriever, GivenPassages

RAIN = Passage(
    id="rain-1",
    title="Rain",
    text="Rain is water.",
    source="weather.pdf",
    start=30,
    end=44,
    page=3,
    metadata=(("lang", "en"), ("rank", "own")),
)
SNOW = Passage(id="snow-1", title="Snow", text="Snow is ice.", source="weather.pdf")
RETRIEVER = FixedRetriever(
    {
        "rain": [
            Hit(passage=RAIN, score=0.9, rank=1),
            Hit(passage=SNOW, score=0.5, rank=2),
        ]
    }
)
METADATA = {
    "lang": "en",
    "id": "rain-1",
    "title": "Rain",
    "source": "weather.pdf",
    "score": 0.9,
    "rank": 1,
    "page": 3,
    "start": 30,
    "end": 44,
}


def passages(hits):
    return [hit.passage for hit in hits]


# Metadata


def test_a_hit_says_what_it_is():
    assert metadata_of(RETRIEVER.search(["rain"], 1)[0][0]) == METADATA


def test_metadata_without_fields_of_ours_is_kept_as_text():
    passage = passage_from(
        "Text.", "", {"url": "u", "file_name": "f.pdf", "n": 1, "tags": ["ä", None], 5: True}
    )
    assert passage == Passage(
        id=passage.id,
        title="f.pdf",
        text="Text.",
        source="u",
        metadata=(
            ("url", "u"),
            ("file_name", "f.pdf"),
            ("n", "1"),
            ("tags", '["ä", null]'),
            ("5", "true"),
        ),
    )


def test_a_passage_without_a_name_has_one_that_never_changes():
    first = passage_from("Text.", "", {"source": "a"}).id
    assert first == passage_from("Text.", "", {"source": "a", "other": 1}).id
    assert len(first) == 16
    assert (
        len(
            {first, passage_from("Text!", "", {"source": "a"}).id, passage_from("Text.", "", {}).id}
        )
        == 3
    )
    assert passage_from("Text.", "", {"id": "known"}).id == "known"


@pytest.mark.parametrize(
    ("metadata", "page"),
    [
        ({"page": 0, "total_pages": 9}, 1),  # a PDF loader of LangChain
        ({"page": 4, "page_label": "v"}, 5),
        ({"page_label": "12"}, 12),  # LlamaIndex
        ({"page_label": "xii"}, 0),
        ({"page": 3, "rank": 1, "page_label": "3"}, 3),  # ours, come back
        ({"page": 3}, 3),
        ({"page": "3"}, 0),
        ({"page": True}, 0),
        ({}, 0),
    ],
)
def test_pages_count_from_one(metadata, page):
    assert passage_from("Text.", "x", metadata).page == page


def test_scores_are_those_given():
    assert score_in({"score": 1}) == 1.0
    assert score_in({"score": "high", "relevance_score": 0.25}) == 0.25
    assert score_in({"score": True}) == score_in({}) == 0.0


def test_blank_and_repeated_texts_are_left_out_and_chunks_of_one_document_told_apart():
    texts = ["one", " ", "two", "one", "two", "three"]
    hits = hits_from([(passage_from(text, "doc", {}), 0.0) for text in texts], 9)
    assert [(hit.rank, hit.passage.text) for hit in hits] == [(1, "one"), (2, "two"), (3, "three")]
    assert hits[0].passage.id == "doc"
    assert len({hit.passage.id for hit in hits}) == 3


# LangChain


@pytest.fixture
def langchain():
    pytest.importorskip("langchain_core")
    from selfrag.integrations import langchain

    return langchain


def test_ours_is_a_langchain_retriever(langchain):
    from langchain_core.retrievers import BaseRetriever

    theirs = langchain.LangChainRetriever(retriever=RETRIEVER, top_k=1)
    assert isinstance(theirs, BaseRetriever)
    (document,) = theirs.invoke("rain")
    assert (document.id, document.page_content) == ("rain-1", "Rain is water.")
    assert document.metadata == METADATA
    assert asyncio.run(theirs.ainvoke("rain")) == [document]
    assert theirs.batch(["rain", "unknown"]) == [[document], []]
    assert asyncio.run(theirs.abatch(["unknown", "rain"])) == [[], [document]]


def test_ours_works_in_a_langchain_chain(langchain):
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnableLambda, RunnablePassthrough

    theirs = langchain.LangChainRetriever(retriever=RETRIEVER)
    join = RunnableLambda(lambda documents: " ".join(each.page_content for each in documents))
    prompt = ChatPromptTemplate.from_template("{context} {question}")
    chain = {"context": theirs | join, "question": RunnablePassthrough()} | prompt
    assert chain.invoke("rain").to_string() == "Human: Rain is water. Snow is ice. rain"


def test_a_langchain_retriever_of_no_passages_is_refused(langchain):
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        langchain.LangChainRetriever(retriever=RETRIEVER, top_k=0)


def test_a_langchain_retriever_is_ours(langchain):
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class Theirs(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [
                Document(
                    page_content=f"{query} {n}",
                    metadata={"source": "s", "title": "T", "relevance_score": 1 - n / 10},
                )
                for n in range(3)
            ]

    ours = langchain.FromLangChain(Theirs())
    first, second = ours.search(["a", "b"], 2)
    assert [(hit.passage.text, hit.score, hit.rank) for hit in first] == [
        ("a 0", 1.0, 1),
        ("a 1", 0.9, 2),
    ]
    assert (first[0].passage.title, first[0].passage.source) == ("T", "s")
    assert first[0].passage.metadata == (("relevance_score", "1.0"),)
    assert len(second) == 2


def test_errors_of_a_langchain_retriever_are_passed_on(langchain):
    from langchain_core.retrievers import BaseRetriever

    class Theirs(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        langchain.FromLangChain(Theirs()).search(["a"], 1)


def test_a_langchain_vector_store_is_asked_for_as_many_as_are_wanted(langchain):
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(
        [f"text {n}" for n in range(20)], metadatas=[{"source": str(n)} for n in range(20)]
    )
    ours = langchain.FromLangChain(store)
    (hits,) = ours.search(["text 7"], 12)
    assert len(hits) == 12  # as_retriever() alone gives 4
    assert (hits[0].passage.text, hits[0].passage.source) == ("text 7", "7")


def test_passages_go_through_langchain_and_back_whole(langchain):
    ours = langchain.FromLangChain(
        langchain.LangChainRetriever(retriever=GivenPassages([SNOW, RAIN]))
    )
    found = passages(ours.search(["rain"], 5)[0])
    assert found[0] == SNOW
    # A name of metadata that means something else there is lost.
    assert found[1].metadata == (("lang", "en"),)


@pytest.mark.parametrize("other", [None, "retriever", GivenPassages([])])
def test_what_is_not_langchains_is_refused(langchain, other):
    with pytest.raises(BadInput, match="expected a retriever or vector store of LangChain"):
        langchain.FromLangChain(other)


# LlamaIndex


@pytest.fixture
def llamaindex():
    pytest.importorskip("llama_index.core")
    from selfrag.integrations import llamaindex

    return llamaindex


def test_ours_is_a_llamaindex_retriever(llamaindex):
    from llama_index.core.schema import MetadataMode, QueryBundle

    theirs = llamaindex.LlamaIndexRetriever(RETRIEVER, top_k=1)
    (found,) = theirs.retrieve("rain")
    node = found.node
    assert (node.node_id, node.text, found.score) == ("rain-1", "Rain is water.", 0.9)
    assert (node.start_char_idx, node.end_char_idx) == (30, 44)
    assert node.metadata == METADATA
    shown = node.get_content(metadata_mode=MetadataMode.LLM)
    assert "title: Rain" in shown
    assert "score" not in shown
    assert theirs.retrieve(QueryBundle("rain")) == [found]
    assert asyncio.run(theirs.aretrieve("rain")) == [found]
    assert theirs.retrieve("unknown") == []


def test_ours_works_in_a_llamaindex_query_engine(llamaindex):
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine

    theirs = llamaindex.LlamaIndexRetriever(RETRIEVER)
    engine = RetrieverQueryEngine.from_args(theirs, llm=MockLLM())
    answer = engine.query("rain")
    assert [each.node_id for each in answer.source_nodes] == ["rain-1", "snow-1"]
    assert "Rain is water." in str(answer)  # the mock repeats its prompt


def test_a_llamaindex_retriever_of_no_passages_is_refused(llamaindex):
    with pytest.raises(BadInput, match="top_k is 0, expected 1 or more"):
        llamaindex.LlamaIndexRetriever(RETRIEVER, top_k=0)


def test_a_llamaindex_retriever_is_ours(llamaindex):
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore, TextNode

    class Theirs(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [
                NodeWithScore(
                    node=TextNode(
                        id_=f"n{n}",
                        text=f"{query_bundle.query_str} {n}",
                        metadata={"file_name": "f.pdf", "file_path": "/d/f.pdf", "page_label": "2"},
                        start_char_idx=5,
                        end_char_idx=8,
                    ),
                    score=None if n else 0.5,
                )
                for n in range(3)
            ]

    ours = llamaindex.FromLlamaIndex(Theirs())
    first, second = ours.search(["a", "b"], 2)
    assert [(hit.passage.text, hit.score, hit.rank) for hit in first] == [
        ("a 0", 0.5, 1),
        ("a 1", 0.0, 2),
    ]
    passage = first[0].passage
    assert (passage.id, passage.title, passage.source) == ("n0", "f.pdf", "/d/f.pdf")
    assert (passage.page, passage.start, passage.end) == (2, 5, 8)
    assert len(second) == 2
    assert ours.search([""], 2) == [[]]


def test_a_llamaindex_index_is_asked_for_as_many_as_are_wanted(llamaindex):
    from llama_index.core import MockEmbedding, VectorStoreIndex
    from llama_index.core.schema import TextNode

    nodes = [TextNode(id_=f"n{n}", text=f"text {n}") for n in range(20)]
    index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))
    ours = llamaindex.FromLlamaIndex(index)
    (hits,) = ours.search(["text"], 12)
    assert len(hits) == 12  # as_retriever() alone gives 2


def test_passages_go_through_llamaindex_and_back_whole(llamaindex):
    theirs = llamaindex.LlamaIndexRetriever(GivenPassages([SNOW]))
    ours = llamaindex.FromLlamaIndex(theirs)
    assert passages(ours.search(["rain"], 5)[0]) == [SNOW]


@pytest.mark.parametrize("other", [None, "retriever", GivenPassages([])])
def test_what_is_not_llamaindexs_is_refused(llamaindex, other):
    with pytest.raises(BadInput, match="expected a retriever or index of LlamaIndex"):
        llamaindex.FromLlamaIndex(other)


# Not installed


@pytest.mark.parametrize(
    ("module", "hidden", "extra"),
    [
        ("selfrag.integrations.langchain", "langchain_core", "langchain"),
        ("selfrag.integrations.llamaindex", "llama_index", "llamaindex"),
        ("selfrag.integrations.haystack", "haystack", "haystack"),
        ("selfrag.integrations.mcp", "mcp", "mcp"),
    ],
)
def test_a_missing_package_is_one_sentence(module, hidden, extra):
    program = (
        f"import sys; sys.modules[{hidden!r}] = None\n"
        f"from selfrag.errors import SelfRAGError\n"
        f"try:\n    import {module}\nexcept SelfRAGError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert f'run pip install "selfrag[{extra}]"' in done.stdout
