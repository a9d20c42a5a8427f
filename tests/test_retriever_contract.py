"""What every retriever promises, as one suite: ours, and those of others through `integrations`.

It asks only through `search(queries, top_k)`, over the passages in `CORPUS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrag.errors import BadInput
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import FixedRetriever, GivenPassages, Retriever
from words import WordEncoder

TEXTS = (
    ("Ada Lovelace", "She wrote the first published program for the Analytical Engine."),
    ("Charles Babbage", "He designed the Analytical Engine and the Difference Engine."),
    ("Potato", "The potato is a starchy root vegetable native to the Americas."),
    ("Twin", "Both twins say exactly the same words about juggling."),
    ("Tomato", "The tomato is a berry that is eaten as a vegetable."),
    ("Twin", "Both twins say exactly the same words about juggling."),
    ("Rain", "Rain is water that falls from clouds."),
    ("Übergröße", "Ein Maß für Schuhe, 靴, и обувь 👟, e\u0301 und é."),
    ("Twin", "Both twins say exactly the same words about juggling."),
)
CORPUS = [
    Passage(
        id=f"p{number}",
        title=title,
        text=text,
        source=f"file-{number}.txt",
        start=10 * number,
        end=10 * number + len(text),
        page=number,
        metadata=(("lang", "en"), ("number", str(number))),
    )
    for number, (title, text) in enumerate(TEXTS)
]
# What has one best answer, by meaning and by words alike.
ANSWERS = {
    "starchy potato root": "p2",
    "rain clouds water": "p6",
    "published program": "p0",
    "tomato berry": "p4",
}
TWINS = "twins juggling"
TWIN_IDS = ["p3", "p5", "p8"]
ODD = [
    "",
    " ",
    "\0",
    "rain\0clouds",
    "\ud800 rain",
    "👟 靴 обувь é e\u0301",
    "\u202erain\u202c\u200b",
    "'",
    "''); DROP TABLE selfrag_passages; --",
    '"rain AND clouds" OR (NOT',
    "+rain -clouds ~2 ^3 rain* ?",
    "title:rain text:[a TO z] {x}",
    "rain & | ! <-> :* <1>",
    "rain & ! (clouds | ",
    "\\rain\\ \\' \\\\",
    "%s %(query)s {table} %% $1 :name",
    "the of and",
    "[[rain]] <rain> {{rain}}",
    "C++ a/b/c.txt http://x.example/?a=b&c=d#e x@y.example -1.5e3",
    "rain\r\n\tclouds\u2028",
    "rain " * 3000,
    " ".join(f"word{number}" for number in range(3000)),
    "x" * 20_000,
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A retriever over `CORPUS` and what is to be expected of it.

    `answers`: it ranks by content. `in_order`: equals come in corpus order. `whole`: passages come
    back with every field. `refuses_negative`: a `top_k` below 0 is `BadInput`.
    """

    retriever: Retriever
    answers: bool = True
    in_order: bool = True
    whole: bool = True
    refuses_negative: bool = True

    def ids(self, query: str, top_k: int) -> list[str]:
        return [hit.passage.id for hit in self.retriever.search([query], top_k)[0]]


def exact(query: str) -> list[Hit]:
    """All passages by the inner product of word counts; equals in corpus order."""
    encoder = WordEncoder()
    (vector,) = encoder.encode([query])
    scores = encoder.encode([encoder.spec.passage_text(each) for each in CORPUS]) @ vector
    order = np.lexsort((np.arange(len(CORPUS)), -scores))
    return [
        Hit(passage=CORPUS[row], score=float(scores[row]), rank=rank)
        for rank, row in enumerate(order, start=1)
    ]


def never_zero(texts):
    """For those who divide by the length of a vector."""
    return WordEncoder().encode(texts) + 0.001


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pytest.importorskip("lancedb")
    from selfrag.retrieval.store import PassageStore

    path = tmp_path_factory.mktemp("contract") / "index"
    PassageStore.build(CORPUS, WordEncoder(), path)
    return PassageStore.open(path, WordEncoder())


@pytest.fixture(scope="module")
def dsn(pg_server):
    pytest.importorskip("psycopg")
    from selfrag.retrieval.postgres.store import PgVectorStore

    where = pg_server.database("contract")
    with PgVectorStore.create(where, WordEncoder()) as made:
        made.add(CORPUS)
    return where


def fixed(request):
    queries = [*ANSWERS, TWINS]
    return Case(
        retriever=FixedRetriever({each: exact(each) for each in queries}), refuses_negative=False
    )


def given_passages(request):
    return Case(retriever=GivenPassages(CORPUS), answers=False, refuses_negative=False)


def lance(mode):
    def case(request):
        from selfrag.retrieval.options import SearchMode, SearchOptions
        from selfrag.retrieval.store import PassageStore

        path = request.getfixturevalue("store")._path
        return Case(
            retriever=PassageStore.open(
                path, WordEncoder(), options=SearchOptions(mode=SearchMode(mode))
            )
        )

    return case


def postgres(mode):
    def case(request):
        dsn = request.getfixturevalue("dsn")
        from selfrag.retrieval.options import SearchMode, SearchOptions
        from selfrag.retrieval.postgres.store import PgVectorStore

        store = PgVectorStore.open(dsn, WordEncoder(), options=SearchOptions(mode=SearchMode(mode)))
        request.addfinalizer(store.close)
        return Case(retriever=store)

    return case


def through_langchain(request):
    """A retriever of ours as one of LangChain, taken back as ours."""
    pytest.importorskip("langchain_core")
    from selfrag.integrations.langchain import FromLangChain, LangChainRetriever

    theirs = LangChainRetriever(retriever=request.getfixturevalue("store"), top_k=9)
    return Case(retriever=FromLangChain(theirs))


def langchain_store(request):
    pytest.importorskip("langchain_core")
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    from selfrag.integrations.langchain import FromLangChain

    class Words(Embeddings):
        def embed_documents(self, texts):
            return never_zero(texts).tolist()

        def embed_query(self, text):
            return self.embed_documents([text])[0]

    store = InMemoryVectorStore(Words())
    store.add_documents(
        [Document(id=p.id, page_content=p.text, metadata={"title": p.title}) for p in CORPUS]
    )
    return Case(retriever=FromLangChain(store), in_order=False, whole=False)


def through_llamaindex(request):
    """A retriever of ours as one of LlamaIndex, taken back as ours."""
    pytest.importorskip("llama_index.core")
    from selfrag.integrations.llamaindex import FromLlamaIndex, LlamaIndexRetriever

    theirs = LlamaIndexRetriever(request.getfixturevalue("store"), top_k=9)
    return Case(retriever=FromLlamaIndex(theirs))


def llamaindex_index(request):
    pytest.importorskip("llama_index.core")
    from llama_index.core import VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.schema import TextNode

    from selfrag.integrations.llamaindex import FromLlamaIndex

    class Words(BaseEmbedding):
        def _get_text_embedding(self, text):
            return never_zero([text])[0].tolist()

        def _get_query_embedding(self, query):
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query):
            return self._get_query_embedding(query)

    nodes = [TextNode(id_=p.id, text=p.text, metadata={"title": p.title}) for p in CORPUS]
    index = VectorStoreIndex(nodes, embed_model=Words())
    return Case(retriever=FromLlamaIndex(index), in_order=False, whole=False)


CASES = {
    "fixed": fixed,
    "given": given_passages,
    **{f"lance-{mode}": lance(mode) for mode in ("hybrid", "dense", "words")},
    **{f"pgvector-{mode}": postgres(mode) for mode in ("hybrid", "dense", "words")},
    "through-langchain": through_langchain,
    "langchain-store": langchain_store,
    "through-llamaindex": through_llamaindex,
    "llamaindex-index": llamaindex_index,
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param](request)


@pytest.mark.parametrize("top_k", [1, 2, 5, 9, 100])
def test_hits_are_numbered_from_one_the_best_first_and_each_once(case, top_k):
    found = case.retriever.search([*ANSWERS, TWINS], top_k)
    assert len(found) == len(ANSWERS) + 1
    for hits in found:
        assert 1 <= len(hits) <= min(top_k, len(CORPUS))
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert len({hit.passage.id for hit in hits}) == len(hits)


def test_the_best_answer_comes_first(case):
    if not case.answers:
        pytest.skip("does not look at the query")
    found = case.retriever.search(list(ANSWERS), 1)
    assert [hits[0].passage.id for hits in found] == list(ANSWERS.values())


def test_equals_come_in_corpus_order(case):
    if not case.in_order:
        pytest.skip("orders equals in its own way")
    assert [each for each in case.ids(TWINS, 9) if each in TWIN_IDS] == TWIN_IDS


def test_no_passages_may_be_asked_for(case):
    assert case.retriever.search(["rain", "potato"], 0) == [[], []]


def test_fewer_than_none_are_refused(case):
    if not case.refuses_negative:
        pytest.skip("does not check top_k")
    for queries in (["rain"], []):
        with pytest.raises(BadInput, match="top_k is -1, expected 0 or more"):
            case.retriever.search(queries, -1)


def test_no_queries_give_no_lists(case):
    assert case.retriever.search([], 5) == []


def test_queries_may_be_any_sequence(case):
    queries: Sequence[str] = tuple(ANSWERS)
    assert case.retriever.search(queries, 3) == case.retriever.search(list(queries), 3)


def test_the_same_query_twice_is_answered_twice(case):
    first, other, again = case.retriever.search(
        ["rain clouds water", TWINS, "rain clouds water"], 5
    )
    assert first == again
    assert (first == other) == (not case.answers)


def test_no_query_depends_on_the_others_of_its_batch(case):
    queries = [*ANSWERS, TWINS, "", "nothing of the kind"]
    alone = [case.retriever.search([query], 5)[0] for query in queries]
    assert case.retriever.search(queries, 5) == alone
    assert case.retriever.search(queries[::-1], 5) == alone[::-1]


def test_fewer_hits_are_the_first_of_more(case):
    if not case.in_order:
        pytest.skip("orders equals in its own way")
    for query in [*ANSWERS, TWINS]:
        whole = case.retriever.search([query], 9)[0]
        for top_k in range(9):
            assert case.retriever.search([query], top_k)[0] == whole[:top_k]


def test_a_list_of_hits_is_the_callers_own(case):
    before = case.retriever.search([TWINS], 5)
    case.retriever.search([TWINS], 5)[0].clear()
    assert case.retriever.search([TWINS], 5) == before


def test_passages_come_back_whole(case):
    if not case.whole:
        pytest.skip("keeps some fields only")
    for query in [*ANSWERS, TWINS]:
        (hits,) = case.retriever.search([query], 9)
        assert hits
        for hit in hits:
            assert hit.passage == CORPUS[int(hit.passage.id[1:])]


def test_an_odd_query_is_a_query(case):
    before = case.retriever.search([TWINS], 9)[0]
    *odd, known = case.retriever.search([*ODD, TWINS], 9)
    assert len(odd) == len(ODD)
    for hits in odd:
        assert [hit.rank for hit in hits] == list(range(1, min(len(hits), 9) + 1))
    assert known == before


@settings(max_examples=10)
@given(st.lists(st.text(max_size=20), max_size=3), st.integers(0, 4))
def test_any_queries_give_a_list_each(case, queries, top_k):
    found = case.retriever.search(queries, top_k)
    assert len(found) == len(queries)
    assert all(len(hits) <= top_k for hits in found)
