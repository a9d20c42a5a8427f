"""Passages in PostgreSQL with pgvector, for those who run one: by meaning, by words, or both fused.

Words are ranked by `ts_rank_cd`, which is not BM25: matches close together count more and long
texts less, but a rare word counts no more than a common one. Knows nothing of files or of language
models.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, LiteralString, Self

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput, IndexMismatch
from selfrag.passage import Hit, Passage
from selfrag.retrieval.encoder.base import Encoder, encode_passages, encode_queries
from selfrag.retrieval.fusion import (
    Fusion,
    Scored,
    fused,
    hits_of,
    in_order,
    ranked_in_blocks,
    reciprocal_rank_fusion,
)
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.postgres.table import (
    Database,
    any_of,
    compose,
    create_tables,
    pairs,
    passage_of,
    read_meta,
    storable,
    write_batch,
    written_vector,
)
from selfrag.retrieval.spec import Metric

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

logger = logging.getLogger(__name__)

DEFAULT_TABLE = "selfrag_passages"
MAX_DIM = 4000  # components of a half-precision vector that HNSW takes
_BATCH = 512  # passages a transaction
_EF_SEARCH, _MAX_EF_SEARCH, _MAX_SCAN_TUPLES = 100, 1000, 200_000
# Word search reads so much of a query: parsing and ranking slow down with the number of words.
_QUERY_CHARS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    n_found: int
    metadata: Mapping[str, str]

    @property
    def condition(self) -> LiteralString:
        # Not containment of nothing: the planner takes it for a rare thing and leaves the index.
        return "metadata @> %(metadata)s" if self.metadata else "true"

    def values(self) -> dict[str, Any]:
        from psycopg.types.json import Jsonb

        return {"n_found": self.n_found, "metadata": Jsonb(pairs(self.metadata))}


class PgVectorStore:
    """Passages in one table of a PostgreSQL database, shared by any number of readers and writers.

    Vectors are stored in single precision; an HNSW index over their half-precision form proposes,
    and the exact vectors rank what it proposed; by cosine it knows no passage whose vector is zero.
    Needs pgvector 0.8 or later. A store has one connection, so threads take turns: open one each
    where they should not.
    """

    def __init__(
        self,
        database: Database,
        encoder: Encoder,
        table: str,
        language: str,
        options: SearchOptions,
    ) -> None:
        self._database = database
        self._encoder = encoder
        self._table = table
        self._language = language
        self._options = _checked(options)

    @classmethod
    def create(
        cls,
        dsn: str,
        encoder: Encoder,
        *,
        table: str = DEFAULT_TABLE,
        language: str = "english",
        options: SearchOptions | None = None,
    ) -> Self:
        r"""Makes the empty `table`, and beside it `table`_meta that says how; then opens it.

        `language` is a text search configuration of the server (`\dF` in psql), which decides on
        stems and stop words. Raises `BadInput` when one of the tables is there already, the server
        does not know `language`, or vectors have more than 4000 components.
        """
        if encoder.spec.dim > MAX_DIM:
            raise BadInput(
                f"cannot make the table {table}: encoder {encoder.spec.name!r} has "
                f"{encoder.spec.dim} components, and pgvector indexes at most {MAX_DIM}; choose "
                "another encoder"
            )
        with _closed_on_failure(Database(dsn)) as database:
            create_tables(database, encoder.spec, table, language)
            return cls(database, encoder, table, language, options or SearchOptions())

    @classmethod
    def open(
        cls,
        dsn: str,
        encoder: Encoder,
        *,
        table: str = DEFAULT_TABLE,
        options: SearchOptions | None = None,
    ) -> Self:
        """The passages in `table`, to be searched and changed with `encoder`.

        Raises `IndexNotUsable` when it is absent, not ours, or pgvector is too old, `IndexMismatch`
        when it was made for another encoder, `StorageError` when the server is out of reach.
        """
        with _closed_on_failure(Database(dsn)) as database:
            spec, language = read_meta(database, table)
            difference = spec.difference(encoder.spec)
            if difference:
                raise IndexMismatch(
                    f"cannot open the table {table} in the {database.name}: its encoder differs "
                    f"({difference}), expected the one that it was made for; name that encoder, or "
                    "make another table"
                )
            return cls(database, encoder, table, language, options or SearchOptions())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._database.close()

    def with_options(self, options: SearchOptions) -> "PgVectorStore":
        """The same passages on the same connection, searched as `options` say."""
        return PgVectorStore(self._database, self._encoder, self._table, self._language, options)

    @property
    def n_passages(self) -> int:
        """Passages that a search may find now."""
        with self._database.transaction(f"count {self._table}") as connection:
            row = connection.execute(self._sql("SELECT count(*) FROM {table}")).fetchone()
        return int(row[0]) if row else 0

    def add(
        self, passages: Iterable[Passage], *, on_progress: Callable[[int], None] | None = None
    ) -> int:
        """Adds passages, replaces those whose id is there already, and returns how many came.

        Committed in batches of 512: `on_progress` is called with the number of passages that are
        safe from then on, so after a failure the same call again completes the work. A replaced
        passage keeps its place in corpus order; of several with one id the last counts. NUL
        characters, which PostgreSQL cannot hold, become U+FFFD.
        """
        n_added, source = 0, iter(passages)
        while batch := list(islice(source, _BATCH)):
            vectors = encode_passages(self._encoder, batch)
            with self._database.transaction(f"add passages to {self._table}") as connection:
                write_batch(connection, self._encoder.spec, self._table, batch, vectors)
            n_added += len(batch)
            if on_progress is not None:
                on_progress(n_added)
        logger.info("added %s passages to %s", n_added, self._table)
        return n_added

    def delete(self, ids: Iterable[str]) -> int:
        """Deletes the passages with these ids; the number of those that were there."""
        statement = self._sql("DELETE FROM {table} WHERE id = ANY(%s)")
        with self._database.transaction(f"delete passages of {self._table}") as connection:
            return connection.execute(statement, [[storable(each) for each in ids]]).rowcount

    def search(
        self,
        queries: Sequence[str],
        top_k: int,
        *,
        options: SearchOptions | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[list[Hit]]:
        """For every query at most `top_k` hits, best first, ranks from 1; ties in corpus order.

        The first hits of a query are the same whatever `top_k` is (see `fusion.ranked_in_blocks`):
        each kind of search proposes 20 passages for the first 5. HYBRID scores are the reciprocal
        rank fusion of both proposals, DENSE scores are inner products or cosines, WORDS scores
        `ts_rank_cd`. Any word of a query may match; one without a content word has no WORDS hits.
        `metadata` keeps passages whose metadata holds all these names with these values. All
        queries see one state of the table. Raises `BadInput` when `top_k` is negative,
        `StorageError` when the server is out of reach, `IndexNotUsable` when the table has gone.
        """
        if top_k < 0:
            raise BadInput(f"cannot search: top_k is {top_k}, expected 0 or more; set it higher")
        if top_k == 0 or not queries:
            return [[] for _ in queries]
        mode = _checked(options or self._options).mode
        queries = [storable(query) for query in queries]
        is_dense = mode is not SearchMode.WORDS
        vectors = encode_queries(self._encoder, queries) if is_dense else [None] * len(queries)
        with self._database.transaction(f"search {self._table}") as connection:
            # One state for the whole transaction.
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            words = self._lexemes(connection, queries)

            def ranked(vector: NDArray[np.float32] | None, lexemes: Sequence[str]) -> list[Scored]:
                def propose(n_found: int) -> tuple[list[Scored], bool]:
                    limits = _Limits(n_found=n_found, metadata=metadata or {})
                    _prepare(connection, n_found)
                    rankings = []
                    if vector is not None:
                        rankings.append(self._by_meaning(connection, vector, limits))
                    if mode is not SearchMode.DENSE:
                        rankings.append(self._by_words(connection, lexemes, limits))
                    return _one(rankings), all(len(each) < n_found for each in rankings)

                return ranked_in_blocks(top_k, propose)

            return [hits_of(found) for found in map(ranked, vectors, words)]

    def _by_meaning(
        self, connection: "Connection[Any]", vector: NDArray[np.float32], limits: _Limits
    ) -> list[Scored]:
        # The inner part is what the index can answer: order and limit, by half precision.
        proposed = self._sql(
            "SELECT * FROM (SELECT {columns}, number, embedding {operator} %(vector)s::vector"
            " AS distance FROM {table} WHERE " + limits.condition + ""
            " ORDER BY embedding::halfvec({dim}) {operator} %(vector)s::halfvec({dim})"
            " LIMIT %(n_found)s) AS found ORDER BY distance, number"
        )
        # The graph of an HNSW index may have passages that no path leads to, most of all among
        # near-duplicates; where it finds too few, all that `where` keeps are compared.
        compared = self._sql(
            "SELECT {columns}, number, embedding {operator} %(vector)s::vector AS distance"
            " FROM {table} WHERE " + limits.condition + ""
            " ORDER BY distance, number LIMIT %(n_found)s"
        )
        values = {"vector": written_vector(vector), **limits.values()}
        rows = connection.execute(proposed, values).fetchall()
        if len(rows) < limits.n_found:
            rows = connection.execute(compared, values).fetchall()
        most = 1.0 if self._encoder.spec.metric is Metric.COSINE else 0.0
        found = [
            Scored(most - distance, row[-1], passage_of(row))
            for *row, distance in rows
            if not math.isnan(distance)  # a cosine where one vector has no direction
        ]
        return in_order(found)

    def _by_words(
        self, connection: "Connection[Any]", lexemes: Sequence[str], limits: _Limits
    ) -> list[Scored]:
        statement = self._sql(
            "SELECT {columns}, number, ts_rank_cd(words, query, 1) AS score"
            " FROM {table}, CAST(%(query)s AS tsquery) AS query"
            " WHERE words @@ query AND " + limits.condition + ""
            " ORDER BY score DESC, number LIMIT %(n_found)s"
        )
        rows = connection.execute(statement, {"query": any_of(lexemes), **limits.values()})
        return [Scored(score, row[-1], passage_of(row)) for *row, score in rows]

    def _lexemes(self, connection: "Connection[Any]", queries: Sequence[str]) -> list[list[str]]:
        """The stems of every query's words, without stop words."""
        rows = connection.execute(
            "SELECT tsvector_to_array(to_tsvector(%s::regconfig, query))"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS given(query, place) ORDER BY place",
            [self._language, [query[:_QUERY_CHARS] for query in queries]],
        )
        return [row[0] for row in rows]

    def _sql(self, text: LiteralString) -> "Composed":
        return compose(text, self._encoder.spec, self._table)


def _one(rankings: Sequence[list[Scored]]) -> list[Scored]:
    """Fused by ranks: `ts_rank_cd` is no score that a share of could be added to a cosine."""
    if len(rankings) == 1:
        return rankings[0]
    return fused(rankings, lambda scores: reciprocal_rank_fusion(list(map(list, scores))))


def _checked(options: SearchOptions) -> SearchOptions:
    if options.where.strip() or options.fusion != Fusion():
        raise BadInput(
            "cannot search PostgreSQL so: found --where or an option of fusion, expected "
            "neither, as it fuses by ranks; leave them out, or search a folder or s3://…"
        )
    return options


@contextmanager
def _closed_on_failure(database: Database) -> Iterator[Database]:
    try:
        yield database
    except BaseException:
        database.close()
        raise


def _prepare(connection: "Connection[Any]", n_found: int) -> None:
    """An index that goes on until it has found enough."""
    settings = {
        "hnsw.ef_search": min(max(n_found, _EF_SEARCH), _MAX_EF_SEARCH),
        "hnsw.iterative_scan": "relaxed_order",  # the exact vectors put it in order afterwards
        "hnsw.max_scan_tuples": _MAX_SCAN_TUPLES,
    }
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, true)", [name, str(value)])
