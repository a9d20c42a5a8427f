"""An index in PostgreSQL with pgvector: the connection, the tables, and errors in our words.

The only module that imports psycopg, and late. Knows nothing of encoders' vectors beyond their
number of components, or of how hits are ranked.
"""

import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, LiteralString

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput, IndexNotUsable, MissingPackage, StorageError
from selfrag.passage import Passage
from selfrag.retrieval.spec import EncoderSpec, Metric

if TYPE_CHECKING:
    import psycopg
    from psycopg import Connection, sql

FORMAT_VERSION = 1
_NEEDED = (0, 8)  # of pgvector: iterative scans, without which a filtered search finds too little
_COLUMNS = ("id", "title", "text", "source", "start", "end", "page", "last_page", "metadata")
# Vectors go as bytes: what pgvector sends and receives has no type in psycopg.
_COPY_TYPES = ("int4", *["text"] * 4, *["int8"] * 4, "jsonb", "bytea")
# How an index orders by nearness: the operators give distances.
_OPERATORS: dict[Metric, tuple[LiteralString, LiteralString]] = {
    Metric.DOT: ("<#>", "halfvec_ip_ops"),
    Metric.COSINE: ("<=>", "halfvec_cosine_ops"),
}
_CONNECT_TIMEOUT_S = 10
# 63 bytes is PostgreSQL's limit, and it cuts longer names short without a word.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,50}")
_TABLES: tuple[LiteralString, ...] = (
    "CREATE TABLE {meta} (format_version int4 NOT NULL, encoder jsonb NOT NULL,"
    " language text NOT NULL)",
    # The number says in which order passages came.
    "CREATE TABLE {table} (id text PRIMARY KEY,"
    " number int8 NOT NULL GENERATED ALWAYS AS IDENTITY,"
    " title text NOT NULL, text text NOT NULL, source text NOT NULL,"
    ' start int8 NOT NULL, "end" int8 NOT NULL, page int8 NOT NULL,'
    " last_page int8 NOT NULL, metadata jsonb NOT NULL, embedding vector({dim}) NOT NULL)",
)
_INDEXES: tuple[LiteralString, ...] = (
    "CREATE INDEX ON {table} USING hnsw ((embedding::halfvec({dim})) {operators})",
    "CREATE INDEX ON {table} USING gin (words)",
    "CREATE INDEX ON {table} USING gin (metadata jsonb_path_ops)",
)
_BATCH: LiteralString = (
    "CREATE TEMPORARY TABLE selfrag_batch ON COMMIT DROP AS"
    " SELECT 0 AS place, {columns}, embedding FROM {table} WITH NO DATA"
)
_UPSERT: LiteralString = (
    "INSERT INTO {table} ({columns}, embedding)"
    " SELECT {columns}, embedding FROM selfrag_batch ORDER BY place"
    " ON CONFLICT (id) DO UPDATE SET {updates}, embedding = EXCLUDED.embedding"
)


class Database:
    """One connection, used by one thread at a time; `name` says which database, without secrets."""

    def __init__(self, dsn: str) -> None:
        """Connects at the first transaction; raises `BadInput` for a malformed `dsn`."""
        _check_installed()
        from psycopg import ProgrammingError, conninfo

        try:
            parameters = conninfo.conninfo_to_dict(dsn)
        except ProgrammingError:
            # Without the cause, which would repeat the dsn and its password.
            raise BadInput(
                "cannot connect to PostgreSQL: found a connection string that it does not "
                "understand, expected one such as postgresql://user@host/database; mend it"
            ) from None
        self._parameters: dict[str, Any] = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "selfrag",
            **parameters,
        }
        self._connection: Connection[Any] | None = None
        self._lock = threading.RLock()
        database = parameters.get("dbname") or parameters.get("user") or "default"
        self.name = f"PostgreSQL database {database!r} at {parameters.get('host') or 'localhost'}"

    @contextmanager
    def transaction(self, doing: str) -> "Iterator[Connection[Any]]":
        """A transaction: all of it is committed at the end, or nothing.

        `doing` completes "cannot ..." where it fails. Raises `IndexNotUsable` for a table that is
        not there, `StorageError` for all else that the server says, or when it is out of reach.
        """
        import psycopg

        with self._lock:
            try:
                with self._live() as connection, connection.transaction():
                    yield connection
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
                raise self.not_usable(doing, f"no such table ({_brief(error)})") from error
            except psycopg.Error as error:
                if not _is_the_servers(error):
                    raise
                raise StorageError(
                    f"cannot {doing} in the {self.name}: found {_brief(error)!r}, expected a "
                    "server that runs and may be written to; check it, then try again"
                ) from error

    def close(self) -> None:
        """Ends the connection; another one is opened when there is need."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def not_usable(self, doing: str, found: str) -> IndexNotUsable:
        """The one sentence for tables that are not as we made them."""
        return IndexNotUsable(
            f"cannot {doing} in the {self.name}: found {found}, expected the tables of a selfrag "
            "index; make them with `PgVectorStore.create`, or name the right table"
        )

    @contextmanager
    def _live(self) -> "Iterator[Connection[Any]]":
        import psycopg

        if self._connection is not None:
            try:
                # A server that was started anew is noticed here, before any work is lost.
                self._connection.execute("SELECT 1")
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self.close()
        if self._connection is None:
            # No prepared statements: poolers in front of a server may lose them.
            self._connection = psycopg.connect(
                **self._parameters, autocommit=True, prepare_threshold=None
            )
        yield self._connection


def compose(text: LiteralString, spec: EncoderSpec, table: str) -> "sql.Composed":
    """SQL with {table}, {meta}, {columns}, {updates}, {dim}, {operator} and {operators} put in."""
    from psycopg import sql

    columns = [sql.Identifier(name) for name in _COLUMNS]
    updates = [sql.SQL("{0} = EXCLUDED.{0}").format(name) for name in columns]
    operator, operators = _OPERATORS[spec.metric]
    return sql.SQL(text).format(
        table=table_name(table),
        meta=table_name(table, suffix="_meta"),
        columns=sql.SQL(", ").join(columns),
        updates=sql.SQL(", ").join(updates),
        dim=sql.Literal(spec.dim),
        operator=sql.SQL(operator),
        operators=sql.SQL(operators),
    )


def create_tables(database: Database, spec: EncoderSpec, table: str, language: str) -> None:
    """Makes the table, its indexes and its record of how it was made, all or none."""
    from psycopg import errors, sql
    from psycopg.types.json import Jsonb

    doing = f"make the table {table}"
    with database.transaction(doing) as connection:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            _check_pgvector(database, connection, doing)
            for statement in _TABLES:
                connection.execute(compose(statement, spec, table))
            words = sql.SQL(
                "ALTER TABLE {} ADD words tsvector NOT NULL"
                " GENERATED ALWAYS AS (to_tsvector({}::regconfig, title || ' ' || text)) STORED"
            )
            connection.execute(words.format(table_name(table), sql.Literal(language)))
            for statement in _INDEXES:
                connection.execute(compose(statement, spec, table))
        except errors.DuplicateTable as error:
            raise BadInput(
                f"cannot {doing} in the {database.name}: found one of that name or of its _meta, "
                "expected none; open it with `PgVectorStore.open`, or choose another name"
            ) from error
        except errors.UndefinedObject as error:
            raise BadInput(
                f"cannot {doing} in the {database.name}: found no text search configuration "
                f"{language!r}, expected one that `\\dF` in psql lists, such as english or simple"
            ) from error
        connection.execute(
            compose("INSERT INTO {meta} VALUES (%s, %s, %s)", spec, table),
            [FORMAT_VERSION, Jsonb(asdict(spec)), language],
        )


def read_meta(database: Database, table: str) -> tuple[EncoderSpec, str]:
    """The encoder that the table was made for, and its language; raises `IndexNotUsable`."""
    from psycopg import sql

    doing = f"open the table {table}"
    statement = sql.SQL("SELECT format_version, encoder, language FROM {}")
    with database.transaction(doing) as connection:
        rows = connection.execute(statement.format(table_name(table, suffix="_meta"))).fetchall()
        # The table itself may have been dropped alone; or it is older than the last column.
        found = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(table_name(table)))
        names = [column.name for column in found.description or ()]
        if "number" in names and "last_page" not in names:
            add = "ALTER TABLE {} ADD COLUMN IF NOT EXISTS last_page int8"
            connection.execute(sql.SQL(add).format(table_name(table)))
        _check_pgvector(database, connection, doing)
    if len(rows) != 1:
        raise database.not_usable(doing, f"{len(rows)} records of how it was made")
    version, encoder, language = rows[0]
    if version > FORMAT_VERSION:
        raise IndexNotUsable(
            f"cannot {doing} in the {database.name}: found index format {version}, not "
            f"{FORMAT_VERSION}: a newer version of selfrag made it, expected one that this version "
            "knows; upgrade selfrag"
        )
    if version != FORMAT_VERSION:
        raise database.not_usable(doing, f"index format {version}, not {FORMAT_VERSION}")
    try:
        spec = EncoderSpec(**{**encoder, "metric": Metric(encoder["metric"])})
    except (KeyError, TypeError, ValueError) as error:
        raise database.not_usable(doing, f"a damaged record of its encoder ({error})") from error
    return spec, str(language)


def write_batch(
    connection: "Connection[Any]",
    spec: EncoderSpec,
    table: str,
    passages: Sequence[Passage],
    vectors: NDArray[np.float32],
) -> None:
    """Inserts passages with their vectors (n, dim), or replaces those with the same id."""
    # Writers take turns: two that replace the same passages would wait for each other.
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"selfrag {table}"]
    )
    connection.execute(compose(_BATCH, spec, table))
    last = {storable(passage.id): place for place, passage in enumerate(passages)}
    copy_in = "COPY selfrag_batch (place, {columns}, embedding) FROM STDIN (FORMAT BINARY)"
    with connection.cursor().copy(compose(copy_in, spec, table)) as copy:
        copy.set_types(_COPY_TYPES)
        for place in last.values():
            copy.write_row(_row(place, passages[place], vectors[place]))
    connection.execute(compose(_UPSERT, spec, table))


def passage_of(row: Sequence[Any]) -> Passage:
    """The passage in a row that begins with {columns}."""
    values = dict(zip(_COLUMNS, row, strict=False))
    pairs = tuple(pair for each in values.pop("metadata") for pair in each.items())
    if values["last_page"] is None:  # written before there was one
        values["last_page"] = values["page"]
    return Passage(metadata=pairs, **values)


def written_vector(vector: NDArray[np.float32]) -> str:
    """A vector as SQL spells it; nine digits are enough for single precision."""
    return "[" + ",".join(f"{value:.9g}" for value in vector) + "]"


def pairs(metadata: Mapping[str, str] | Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Metadata as JSON keeps it: one object a pair, so that order and repeated names survive."""
    items = metadata.items() if isinstance(metadata, Mapping) else metadata
    return [{storable(name): storable(value)} for name, value in items]


def any_of(lexemes: Sequence[str]) -> str:
    """The `tsquery` that matches any of the lexemes, whatever characters they have."""
    escaped = (lexeme.replace("\\", "\\\\").replace("'", "''") for lexeme in lexemes)
    return " | ".join(f"'{lexeme}'" for lexeme in escaped)


def storable(text: str) -> str:
    """Of the same length, without what PostgreSQL cannot hold: NUL and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def table_name(name: str, *, suffix: str = "") -> "sql.Identifier":
    """`table` or `schema.table` as an identifier; raises `BadInput` for anything else."""
    _check_installed()
    from psycopg import sql

    parts = name.split(".")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise BadInput(
            f"cannot use the table {name!r}: expected letters, digits and underscores, 51 at most, "
            "and a schema before it if need be; choose another name"
        )
    return sql.Identifier(*parts[:-1], parts[-1] + suffix)


def _row(place: int, passage: Passage, vector: NDArray[np.float32]) -> tuple[Any, ...]:
    from psycopg.types.json import Jsonb

    texts = (passage.id, passage.title, passage.text, passage.source)
    # pgvector's own form: the number of components, an unused number, big-endian components.
    binary = struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()
    return (
        place,
        *map(storable, texts),
        *(passage.start, passage.end, passage.page, passage.last_page),
        Jsonb(pairs(passage.metadata)),
        binary,
    )


def _check_pgvector(database: Database, connection: "Connection[Any]", doing: str) -> None:
    row = connection.execute(
        "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    version = row[0] if row else "none"
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    if numbers < _NEEDED:
        raise database.not_usable(doing, f"pgvector {version}, where 0.8 or later is needed")


def _check_installed() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingPackage(
            f"cannot use PostgreSQL: found no usable package psycopg ({error}), expected it "
            'installed; run pip install "selfrag[postgres]"'
        ) from error


def _is_the_servers(error: "psycopg.Error") -> bool:
    """Not a misuse of the library, which would be our fault: those have no SQLSTATE."""
    import psycopg

    lost = (psycopg.OperationalError, psycopg.InterfaceError)
    return error.sqlstate is not None or isinstance(error, lost)


def _brief(error: Exception) -> str:
    return (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:200]
