"""Passages in a real PostgreSQL with pgvector: made, filled, searched, and after a crash."""

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from selfrag.errors import BadInput, IndexMismatch, IndexNotUsable, SelfRAGError, StorageError
from selfrag.passage import Passage
from selfrag.retrieval.spec import EncoderSpec, Metric
from words import WordEncoder

psycopg = pytest.importorskip("psycopg")

from selfrag.retrieval.options import SearchMode, SearchOptions  # noqa: E402
from selfrag.retrieval.postgres.store import PgVectorStore  # noqa: E402
from selfrag.retrieval.postgres.table import (  # noqa: E402
    Database,
    any_of,
    storable,
    table_name,
    written_vector,
)

DENSE, WORDS, HYBRID = SearchMode.DENSE, SearchMode.WORDS, SearchMode.HYBRID
TEXTS = {
    "Ada Lovelace": "She wrote the first published program for the Analytical Engine.",
    "Charles Babbage": "He designed the Analytical Engine and the Difference Engine.",
    "Potato": "The potato is a starchy root vegetable native to the Americas.",
    "Tomato": "The tomato is a berry that is eaten as a vegetable.",
    "Rain": "Rain is water that falls from clouds.",
}
PASSAGES = [
    Passage(id=f"p{number}", title=title, text=text, metadata=(("lang", "en"),))
    for number, (title, text) in enumerate(TEXTS.items())
]


class Table:
    """Vectors looked up by text, so that their order is known by hand."""

    def __init__(self, vectors, metric=Metric.DOT):
        self._vectors = vectors
        dim = len(next(iter(vectors.values())))
        self.spec = EncoderSpec(name="table", dim=dim, normalised=False, metric=metric)

    def encode(self, texts):
        return np.array([self._vectors[text] for text in texts], dtype=np.float32)


@pytest.fixture
def dsn(pg_server):
    """An empty database of its own."""
    return pg_server.database("test")


@pytest.fixture
def store(dsn):
    with PgVectorStore.create(dsn, WordEncoder()) as made:
        yield made


def ids(hits):
    return [hit.passage.id for hit in hits]


# Made and opened


def test_a_table_is_opened_with_the_encoder_that_it_was_made_for(dsn):
    with PgVectorStore.create(dsn, WordEncoder()) as made:
        made.add(PASSAGES)
    with PgVectorStore.open(dsn, WordEncoder()) as store:
        assert store.n_passages == 5
        assert store.search(["rain clouds"], 1)[0][0].passage == PASSAGES[4]


@pytest.mark.parametrize(
    ("encoder", "difference"),
    [
        (WordEncoder(name="other"), "name 'words' against 'other'"),
        (WordEncoder(dim=32), "dim 64 against 32"),
    ],
)
def test_another_encoder_is_refused(store, dsn, encoder, difference):
    with pytest.raises(IndexMismatch, match=rf"selfrag_passages .*{difference}.* make another"):
        PgVectorStore.open(dsn, encoder)


def test_a_table_is_never_made_over_another(store, dsn):
    store.add(PASSAGES)
    with pytest.raises(BadInput, match="found one of that name"):
        PgVectorStore.create(dsn, WordEncoder())
    assert store.n_passages == 5


def test_a_table_that_is_not_there_or_not_ours_is_not_usable(store, dsn):
    with pytest.raises(
        IndexNotUsable, match=r"cannot open the table other .*: found no such table"
    ):
        PgVectorStore.open(dsn, WordEncoder(), table="other")
    with psycopg.connect(dsn) as connection:
        connection.execute("""UPDATE selfrag_passages_meta SET encoder = '{"name": 1}'""")
    with pytest.raises(IndexNotUsable, match="a damaged record of its encoder"):
        PgVectorStore.open(dsn, WordEncoder())
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE selfrag_passages_meta SET format_version = 99")
    with pytest.raises(IndexNotUsable, match="index format 99, not 1"):
        PgVectorStore.open(dsn, WordEncoder())
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM selfrag_passages_meta")
    with pytest.raises(IndexNotUsable, match="0 records of how it was made"):
        PgVectorStore.open(dsn, WordEncoder())
    with psycopg.connect(dsn) as connection:
        connection.execute("DROP TABLE selfrag_passages")
    with pytest.raises(IndexNotUsable, match="found no such table"):
        PgVectorStore.open(dsn, WordEncoder())
    with pytest.raises(IndexNotUsable, match="cannot search selfrag_passages"):
        store.search(["rain"], 1)


def test_tables_live_side_by_side_and_in_schemas(dsn):
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE SCHEMA corpora")
    with (
        PgVectorStore.create(dsn, WordEncoder(), table="corpora.wiki") as one,
        PgVectorStore.create(dsn, WordEncoder(dim=8), table="wiki") as two,
    ):
        one.add(PASSAGES[:2])
        two.add(PASSAGES)
        assert (one.n_passages, two.n_passages) == (2, 5)


@pytest.mark.parametrize(
    "name", ["", "a b", 'a"; DROP TABLE x; --', "a.b.c", "1a", "x" * 52, "tä", "a."]
)
def test_a_table_name_that_needs_quoting_is_refused(name):
    with pytest.raises(BadInput, match="cannot use the table"):
        table_name(name)


def test_a_reserved_word_may_name_a_table(dsn):
    with PgVectorStore.create(dsn, WordEncoder(), table="Select") as store:
        assert store.add(PASSAGES) == 5


def test_a_failed_making_leaves_nothing(dsn):
    with pytest.raises(BadInput, match="no text search configuration 'klingon'"):
        PgVectorStore.create(dsn, WordEncoder(), language="klingon")
    with PgVectorStore.create(dsn, WordEncoder(), language="german") as store:
        store.add([Passage(id="a", title="", text="Die Häuser stehen am Fluss.")])
        assert ids(store.search(["Haus"], 1, options=SearchOptions(mode=WORDS))[0]) == [
            "a"
        ]  # a German stem


def test_too_many_components_are_refused_before_anything_is_made():
    with pytest.raises(BadInput, match="4001 components, and pgvector indexes at most 4000"):
        PgVectorStore.create("host=nowhere", WordEncoder(dim=4001))


# Added, replaced, deleted


def test_passages_are_kept_in_batches_and_in_order(store):
    passages = [Passage(id=f"p{n:04}", title="", text="the same words") for n in range(1100)]
    safe: list[int] = []
    assert store.add(iter(passages), on_progress=safe.append) == 1100
    assert safe == [512, 1024, 1100]
    assert store.n_passages == 1100
    for mode in (DENSE, WORDS):
        # All are equal; at most 20 are proposed, and those come in corpus order.
        found = ids(store.search(["same words"], 5, options=SearchOptions(mode=mode))[0])
        assert found == sorted(found)


def test_a_passage_with_a_known_id_replaces_it(store):
    store.add(PASSAGES)
    changed = replace(PASSAGES[0], text="She wrote letters about flying.", metadata=())
    assert store.add([changed]) == 1
    assert store.n_passages == 5
    (hits,) = store.search(["letters flying"], 1)
    assert hits[0].passage == changed
    assert ids(store.search(["published program"], 5, options=SearchOptions(mode=WORDS))[0]) == []


def test_of_several_passages_with_one_id_the_last_counts(store):
    store.add([PASSAGES[0], replace(PASSAGES[0], text="Another text altogether.")])
    assert store.n_passages == 1
    assert store.search(["another text"], 1)[0][0].passage.text == "Another text altogether."


def test_deleted_passages_are_not_found(store):
    store.add(PASSAGES)
    assert store.delete(["p4", "p4", "no such"]) == 1
    assert store.delete([]) == 0
    for mode in SearchMode:
        assert "p4" not in ids(
            store.search(["rain clouds water"], 5, options=SearchOptions(mode=mode))[0]
        )
    assert store.n_passages == 4


def test_every_field_comes_back(store):
    passage = Passage(
        id='it\'s \\ "odd" %s {x}',
        title="T\tab\nline",
        text="\\N \\. 'quoted' 👟 {\"a\": 1}",
        source="file:///ü?x=1&y=2",
        start=2**40,
        end=2**40 + 5,
        page=7,
        metadata=(("b", "2"), ("a", "1"), ("a", "0"), ("", ""), ("k\\'\"", "v\n%")),
    )
    store.add([passage])
    assert store.search(["quoted"], 1)[0][0].passage == passage


def test_what_postgresql_cannot_hold_is_replaced_in_place(store):
    store.add([Passage(id="n\0", title="a\0b", text="rain\0clouds \ud800.", source="\udfff")])
    (hit,) = store.search(["rain\0clouds"], 1)[0]
    assert hit.passage.text == "rain\ufffdclouds ?."
    assert (hit.passage.id, hit.passage.title, hit.passage.source) == ("n\ufffd", "a\ufffdb", "?")
    assert store.delete(["n\0"]) == 1
    assert storable("plain") == "plain"


def test_ids_that_become_one_are_one(store):
    store.add([Passage(id=each, title="", text=f"rain {each!r}") for each in ("a\0", "a\ufffd")])
    assert store.n_passages == 1


def test_no_passages_are_no_work(store):
    assert store.add([]) == 0
    for mode in SearchMode:
        assert store.search(["rain"], 3, options=SearchOptions(mode=mode)) == [[]]


def test_a_failure_half_way_keeps_the_batches_before_it(store):
    def passages():
        yield from (Passage(id=f"p{n}", title="", text="word") for n in range(600))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.add(passages())
    assert store.n_passages == 512


# Searched


def test_dense_scores_are_inner_products(dsn):
    encoder = Table({"a": [1, 2], "b": [3, -1], "c": [0, 0], "q": [2, 1]})
    with PgVectorStore.create(dsn, encoder, options=SearchOptions(mode=DENSE)) as store:
        store.add([Passage(id=text, title="", text=text) for text in "abc"])
        # a: 2 + 2 = 4; b: 6 - 1 = 5; c: 0.
        hits = store.search(["q"], 3)[0]
    assert [(hit.passage.id, hit.score) for hit in hits] == [("b", 5), ("a", 4), ("c", 0)]


def test_dense_scores_of_a_cosine_encoder_are_cosines(dsn):
    vectors = {"a": [30, 40], "b": [-1, 0], "c": [0, 0], "d": [1, 0], "q": [2, 0], "": [0, 0]}
    with PgVectorStore.create(
        dsn, Table(vectors, Metric.COSINE), options=SearchOptions(mode=DENSE)
    ) as store:
        store.add([Passage(id=text, title="", text=text) for text in "abcd"])
        found, nowhere = store.search(["q", ""], 4)
    # a: 60 / (50 * 2); c and the empty query have no direction, so no cosine.
    assert ids(found) == ["d", "a", "b"]
    assert np.allclose([hit.score for hit in found], [1, 0.6, -1])
    assert nowhere == []


def test_dense_search_by_the_index_agrees_with_exact_search(dsn):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 16)).astype(np.float32)
    names = {f"t{n}": row for n, row in enumerate(vectors)}
    encoder = Table(names)
    with PgVectorStore.create(dsn, encoder, options=SearchOptions(mode=DENSE)) as store:
        store.add([Passage(id=name, title="", text=name) for name in names])
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("ALTER DATABASE test SET enable_seqscan = off")
            connection.execute("ANALYZE selfrag_passages")
            connection.execute("SET enable_seqscan = off")
            plan = connection.execute(
                "EXPLAIN SELECT id FROM selfrag_passages ORDER BY embedding::halfvec(16)"
                " <#> %s::halfvec(16) LIMIT 40",
                [written_vector(vectors[0])],
            ).fetchall()
        assert any("hnsw" in line or "embedding_idx" in line for (line,) in plan)
        store.close()  # the next connection has the setting
        queries = [f"t{n}" for n in range(50)]
        found = store.search(queries, 10)
    n_right = 0
    for query, hits in zip(queries, found, strict=True):
        scores = vectors @ names[query]
        n_right += len(set(ids(hits)) & {f"t{row}" for row in np.argsort(-scores)[:10]})
        for hit in hits:
            assert np.isclose(hit.score, scores[int(hit.passage.id[1:])], rtol=1e-5, atol=1e-5)
    assert n_right / 500 > 0.95


def test_words_match_any_of_a_querys_words_and_more_of_them_rank_higher(store):
    store.add(PASSAGES)
    found = store.search(
        ["Who designed vegetables and engines?", "the of and", "zebra"],
        5,
        options=SearchOptions(mode=WORDS),
    )
    assert ids(found[0])[0] == "p1"  # two of the three stems, the other passages have one
    assert set(ids(found[0])) == {"p0", "p1", "p2", "p3"}
    assert found[1:] == [[], []]


def test_any_of_quotes_every_lexeme():
    assert any_of([]) == ""
    assert any_of(["a", "it's", "b\\", "& | !"]) == "'a' | 'it''s' | 'b\\\\' | '& | !'"


def test_hybrid_scores_are_reciprocal_rank_fusion(store):
    store.add(PASSAGES)
    (hits,) = store.search(["rain clouds"], 5)
    assert ids(hits)[0] == "p4"
    assert np.isclose(hits[0].score, 2 / 61)  # first by meaning and first by words


def test_where_keeps_passages_that_have_all_of_it(store):
    twins = [
        Passage(id="en", title="", text="rain", metadata=(("lang", "en"), ("year", "2024"))),
        Passage(id="de", title="", text="rain", metadata=(("lang", "de"), ("year", "2024"))),
        Passage(id="both", title="", text="rain", metadata=(("lang", "en"), ("lang", "de"))),
        Passage(id="none", title="", text="rain"),
        Passage(id="turned", title="", text="rain", metadata=(("en", "lang"),)),
    ]
    store.add(twins)
    assert len(SearchMode) == 3
    for mode in SearchMode:

        def found(where, mode=mode):
            return set(
                ids(store.search(["rain"], 9, options=SearchOptions(mode=mode), metadata=where)[0])
            )

        assert found({"lang": "en"}) == {"en", "both"}
        assert found({"lang": "en", "year": "2024"}) == {"en"}
        assert found({"lang": "en'] OR true --"}) == set()
        assert found({}) == found(None) == {"en", "de", "both", "none", "turned"}


@pytest.mark.parametrize("mode", SearchMode)
def test_the_first_hits_are_the_same_however_many_are_asked_for(store, mode):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["apple", "boat", "cloud", "dune"], size=3)) for _ in range(150)]
    store.add([Passage(id=f"p{number}", title="", text=text) for number, text in enumerate(texts)])
    options, queries = SearchOptions(mode=mode), ["apple boat", "dune", "nothing"]
    most = store.search(queries, 90, options=options)
    assert len(most[0]) == 90
    for top_k in (1, 5, 6, 19, 21, 80, 81):
        expected = [hits[:top_k] for hits in most]
        assert store.search(queries, top_k, options=options) == expected
        assert [store.search([each], top_k, options=options)[0] for each in queries] == expected
    assert len(store.search(["apple"], 10**30, options=options)[0]) <= 150


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_rare_filter_finds_all_that_it_keeps(dsn, monkeypatch, goes_on):
    if not goes_on:  # The index proposes its first 40 and no more, as where its graph ends early.
        monkeypatch.setattr("selfrag.retrieval.postgres.store._prepare", lambda *_: None)
    passages = [
        Passage(id=f"p{n}", title="", text=f"rain {n}", metadata=(("rare", str(n % 200 == 0)),))
        for n in range(1000)
    ]
    with PgVectorStore.create(dsn, WordEncoder()) as store:
        store.add(passages)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("ALTER DATABASE test SET enable_seqscan = off")
            connection.execute("ALTER DATABASE test SET enable_bitmapscan = off")
        store.close()
        found = store.search(
            ["rain"], 5, options=SearchOptions(mode=DENSE), metadata={"rare": "True"}
        )[0]
    assert set(ids(found)) == {"p0", "p200", "p400", "p600", "p800"}


def test_a_mode_of_other_stores_is_refused(store):
    with pytest.raises(BadInput, match="by 'bm25': expected one of hybrid, dense, words"):
        store.search(["rain"], 1, options=SearchOptions(mode="bm25"))


def test_a_negative_top_k_is_refused_and_none_asks_nobody(store):
    with pytest.raises(BadInput, match="top_k is -1"):
        store.search(["rain"], -1)
    assert store.search(["rain", "x"], 0) == [[], []]


# The server away


def test_a_server_out_of_reach_is_one_sentence_without_the_password():
    with pytest.raises(
        StorageError, match=r"cannot open the table .* 'd' at 127\.0\.0\.1: "
    ) as raised:
        PgVectorStore.open("postgresql://u:s3cret@127.0.0.1:1/d", WordEncoder())
    assert "s3cret" not in str(raised.value)


def test_a_password_is_not_taken_from_a_url(monkeypatch):
    from selfrag.open.indexes import is_postgres

    for url in ("postgresql://u@host/db", "postgres:///db", "postgresql://[::1]:5432/db?user=u"):
        assert is_postgres(url)
    for other in ("s3://bucket/index", "folder", "postgresql"):
        assert not is_postgres(other)
    for url in ("postgresql://u:s3cret@host/db", "postgres:///db?user=u&password=s3cret"):
        with pytest.raises(BadInput, match=r"write it to ~/\.pgpass") as raised:
            is_postgres(url)
        assert "s3cret" not in str(raised.value)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SelfRAGError, match=r'package psycopg .*pip install "selfrag\[postgres\]"'):
        PgVectorStore.open("host=nowhere", WordEncoder())


def test_a_malformed_dsn_is_refused_without_repeating_it():
    with pytest.raises(BadInput, match="a connection string that it does not understand") as raised:
        Database("s3cret nonsense")
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_connection_that_the_server_ends_is_opened_anew(store, pg_server):
    store.add(PASSAGES)
    with psycopg.connect(pg_server.dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'selfrag'"
        )
    assert ids(store.search(["rain clouds"], 1)[0]) == ["p4"]


def test_a_database_that_refuses_writes_is_one_sentence(store, dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER DATABASE test SET default_transaction_read_only = on")
    store.close()
    with pytest.raises(StorageError, match=r"cannot add passages to selfrag_passages .*read-only"):
        store.add(PASSAGES)
    assert store.search(["rain"], 1) == [[]]


def test_threads_may_share_a_store(store):
    store.add(PASSAGES)
    expected = store.search(["rain clouds"], 3)
    found = []

    def search():
        found.extend(store.search(["rain clouds"], 3) for _ in range(10))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    store.add(PASSAGES)
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(hits == expected for hits in found)


def test_writers_of_the_same_passages_take_turns(dsn):
    PgVectorStore.create(dsn, WordEncoder()).close()
    passages = [Passage(id=f"p{n}", title="", text="word") for n in range(600)]
    failed: list[SelfRAGError] = []

    def write(order):
        try:
            with PgVectorStore.open(dsn, WordEncoder()) as store:
                store.add(order)
        except SelfRAGError as error:
            failed.append(error)

    threads = [
        threading.Thread(target=write, args=(passages[:: 1 if n % 2 else -1],)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with PgVectorStore.open(dsn, WordEncoder()) as store:
        assert store.n_passages == 600


def test_what_was_said_to_be_safe_survives_the_servers_death(store, pg_server):
    safe: list[int] = []
    is_under_way = threading.Event()

    def progress(n_safe):
        safe.append(n_safe)
        if len(safe) == 3:
            is_under_way.set()

    def passages():
        for number in range(1_000_000):
            yield Passage(id=f"p{number}", title="", text=f"word {number}")

    def write():
        with pytest.raises(StorageError, match="cannot add passages"):
            store.add(passages(), on_progress=progress)
        is_under_way.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert is_under_way.wait(60)
    pg_server.kill()
    try:
        writer.join()
        with pytest.raises(StorageError, match="expected a server that runs"):
            store.search(["word"], 1)
    finally:
        pg_server.start()
    n_found = store.n_passages
    # The last batch may be in although nobody was told; none is there by halves.
    assert n_found in (safe[-1], safe[-1] + 512)
    assert store.search(["7"], 1, options=SearchOptions(mode=WORDS))[0][0].passage.id == "p7"
    assert store.add([PASSAGES[0]]) == 1


def test_a_table_from_before_there_was_a_last_page_is_read_and_written(dsn):
    with PgVectorStore.create(dsn, WordEncoder()) as made:
        made.add([Passage(id="old", title="", text="rain", page=3, last_page=3)])
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE selfrag_passages DROP COLUMN last_page")
    with PgVectorStore.open(dsn, WordEncoder()) as store:
        store.add([Passage(id="new", title="", text="snow", page=3, last_page=4)])
        found = {hits[0].passage.id: hits[0].passage for hits in store.search(["rain", "snow"], 1)}
    assert {name: each.last_page for name, each in found.items()} == {"old": 3, "new": 4}
