"""The tables of an index: their columns, how they are opened, and what goes wrong with them.

LanceDB and pyarrow are imported late, here and in the modules that write: together they cost about
2 s. Knows nothing of encoders or of language models.
"""

import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput, MissingPackage, StorageError
from selfrag.passage import Passage
from selfrag.retrieval.manifest import IndexKind, not_usable
from selfrag.retrieval.memory import limit_read_ahead
from selfrag.retrieval.objectstore import (
    TIMEOUT_S,
    Location,
    checked,
    is_remote,
    is_stores_fault,
    lance_options,
    unavailable,
)
from selfrag.retrieval.spec import Metric

# Client for catalogues behind HTTP: lancedb reads its record types, we use none of it.
_REST_CLIENT = "lance_namespace_urllib3_client"

PASSAGES = "passages"
FILES = "files"
# The file and the version of it that a passage was read from.
Origin = tuple[str, str]
NO_FILE: Origin = ("", "")
PASSAGE_COLUMNS = ("id", "title", "text", "source", "start", "end", "page", "last_page", "metadata")
# What is read for a hit. `facts` repeats the other columns as one: to read a row of a column that
# has the same value throughout, as `page` has in any text, Lance unpacks a page of a million rows.
READ_COLUMNS = ("facts", "text", "metadata")
FACTS = tuple(name for name in PASSAGE_COLUMNS if name not in READ_COLUMNS)
_FACTS_AS_JSON = json.JSONEncoder(ensure_ascii=False)

_IN_SOURCE = re.compile(r"[,;:(]?\s*(?:location: )?/?\S*\.rs:\d+(?::\d+)?\)?")
# Thai, Lao, Myanmar, Khmer, Japanese and Chinese. Of LanceDB's tokenizers for them this one alone
# needs no model files; on English it differs from the usual one: "C++" and single digits are lost.
_UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_SEGMENTING = "icu"

# Brute force is exact and takes 199 ms a query over 200,000 x 384 rows; RaBitQ codes take 5-10 ms.
VECTOR_INDEX_ROWS = 20_000
# Lists grow with the rows, so that a list stays at a few thousand of them.
ROWS_A_LIST = 4096
_INDEX_CACHE_BYTES, _METADATA_CACHE_BYTES = 512 << 20, 128 << 20
_FRESH = timedelta(seconds=1)


def connect(location: Location, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The database of an index; a reader sees what a writer committed a second ago."""
    try:
        lancedb = import_lancedb()
    except ImportError as error:
        raise _no_lancedb(f"the index {location}", str(error)) from error
    session = lancedb.Session(
        index_cache_size_bytes=_INDEX_CACHE_BYTES, metadata_cache_size_bytes=_METADATA_CACHE_BYTES
    )
    uri = checked(str(location)) if is_remote(location) else ""
    with reading(location):  # it looks into a bucket at once
        return lancedb.connect(
            uri or Path(location),  # as a string, `notes:v1` would be a scheme
            read_consistency_interval=_FRESH,
            session=session,
            storage_options=lance_options(timeout_s) if uri else None,
        )


def require_lancedb(index: str, doing: str = "use") -> None:
    """Raises `MissingPackage` where LanceDB is missing, before anything is fetched for an index."""
    if not importlib.util.find_spec("lancedb"):
        raise _no_lancedb(index, "none is installed", doing)


def _no_lancedb(index: str, found: str, doing: str = "use") -> MissingPackage:
    # Whichever command it was: others than these two have no such option.
    way_out = ""
    if doing == "use":
        way_out = ", or ask and check with --passages FILE, which reads no index"
    return MissingPackage(
        f"cannot {doing} {index}: found no usable package lancedb ({found}), expected it "
        f'installed; run pip install "selfrag[retrieval]"{way_out}'
    )


def open_tables(location: Location, database: Any, *, to_search: bool = True) -> tuple[Any, Any]:
    """The passages and the files of a sound index; `IndexNotUsable` otherwise.

    One that is not `to_search` may be empty: what was taken out of it leaves room for more.
    """
    with reading(location):
        passages, files = database.open_table(PASSAGES), database.open_table(FILES)
        n_rows = passages.count_rows()
        # Counting reads no data file; taking a row finds one that is missing or cut short.
        passages.search().select(list(READ_COLUMNS)).limit(1).to_list()
        has_words = word_index(passages) is not None
    if to_search and not n_rows:
        raise not_usable(location, "0 passages")
    if to_search and not has_words:
        raise not_usable(location, "no full-text index")
    return passages, files


def passages_schema(dim: int) -> Any:
    """Columns of the passages table.

    `row` counts in the order of adding; `file` and `version` say from which state of which file;
    `facts` is what `written_facts` makes of the columns that are not read for a hit.
    """
    import pyarrow as pa

    texts = ("id", "title", "text", "source", "facts", "search_text", "file", "version")
    numbers = ("row", "start", "end", "page", "last_page")
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            *((name, pa.int64()) for name in numbers),
            ("metadata", pa.list_(pa.string())),
            ("vector", pa.list_(pa.float32(), dim)),
        ]
    )


def files_schema() -> Any:
    """Columns of the files table: which files the index holds whole, and how many passages each."""
    import pyarrow as pa

    texts = ("file", "version")
    numbers = ("n_passages", "n_bytes", "mtime_ns")
    return pa.schema(
        [*((name, pa.string()) for name in texts), *((name, pa.int64()) for name in numbers)]
    )


def record_batch(
    passages: Sequence[Passage],
    vectors: NDArray[np.float32],
    *,
    first_row: int,
    files: Sequence[Origin],
) -> Any:
    """Passages, their vectors (n, dim) and, for each, its (file, version) as an Arrow batch."""
    import pyarrow as pa

    schema = passages_schema(vectors.shape[1])
    columns: dict[str, Any] = {
        name: [getattr(passage, name) for passage in passages]
        for name in PASSAGE_COLUMNS
        if name != "metadata"
    }
    columns["metadata"] = [[f"{key}={value}" for key, value in p.metadata] for p in passages]
    columns["facts"] = [
        written_facts(*values) for values in zip(*(columns[name] for name in FACTS), strict=True)
    ]
    columns["row"] = range(first_row, first_row + len(passages))
    columns["search_text"] = [f"{passage.title} {passage.text}" for passage in passages]
    columns["file"] = [file for file, _ in files]
    columns["version"] = [version for _, version in files]
    columns["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel()), type=schema.field("vector").type
    )
    return pa.record_batch({name: columns[name] for name in schema.names}, schema=schema)


def open_or_make(database: Any, name: str, dim: int) -> Any:
    """The table of passages `name`, with the columns of today."""
    try:
        table = database.open_table(name)
    except ValueError:  # no such table, or one killed before its first version
        return database.create_table(name, schema=passages_schema(dim), exist_ok=True)
    return upgraded(table)


def upgraded(table: Any) -> Any:
    """A table of passages with the columns of today: the one that came later is added."""
    if "last_page" not in table.schema.names:
        table.add_columns({"last_page": "page"})
    return table


def written_facts(
    id: str, title: str, source: str, start: int, end: int, page: int, last_page: int
) -> str:
    """The column `facts` of a passage: a JSON list in this order."""
    return _FACTS_AS_JSON.encode([id, title, source, start, end, page, last_page])


def passage_of(row: dict[str, Any]) -> Passage:
    """The passage that a row of the table holds."""
    pairs = (item.partition("=") for item in row["metadata"] or ())
    facts = dict(zip(FACTS, json.loads(row["facts"]), strict=False))
    facts.setdefault("last_page", facts["page"])  # written before there was one
    return Passage(
        text=row["text"],
        metadata=tuple((name, value) for name, _, value in pairs),
        **facts,
    )


def count_by_origin(table: Any) -> Counter[Origin]:
    """How many passages each version of each file has in the table; `NO_FILE` is left out."""
    counts: Counter[Origin] = Counter()
    for batch in table.search().select(["file", "version"]).to_batches():
        counts.update(zip(batch["file"].to_pylist(), batch["version"].to_pylist(), strict=True))
    counts.pop(NO_FILE, None)
    return counts


def word_search(table: Any, query: str) -> Any:
    """A search by BM25; the quotes and brackets of a query are words and no operators."""
    from lancedb.query import MatchQuery

    return table.search(MatchQuery(query, "search_text"))


def create_word_index(table: Any, *, segmented: bool = False) -> None:
    """BM25 over titles and texts, with English stems.

    `segmented`: words are found by ICU's dictionaries, for languages that do not part them.
    """
    from lancedb.index import FTS

    config = FTS(
        base_tokenizer=_SEGMENTING if segmented else "simple", stem=True, remove_stop_words=True
    )
    table.create_index("search_text", config=config)


def word_index(table: Any) -> Any | None:
    """The index over words, where there is one."""
    return next((each for each in table.list_indices() if "search_text" in each.columns), None)


def is_segmented(index: Any) -> bool:
    """Whether a word index finds words that no spaces part."""
    return bool((index.index_details or {}).get("base_tokenizer") == _SEGMENTING)


def needs_segmenting(texts: Any) -> bool:
    """Whether an Arrow column has a text that is mostly in a script without spaces."""
    import pyarrow.compute as pc

    n_unspaced = pc.count_substring_regex(texts, _UNSPACED)
    is_mostly = pc.greater(pc.multiply(n_unspaced, 2), pc.utf8_length(texts))
    return bool(pc.any(is_mostly).as_py())


def create_vector_index(table: Any, kind: IndexKind, metric: Metric, n_rows: int) -> None:
    """The vector index of `kind` over the rows that are there; none for EXACT."""
    from lancedb.index import HnswSq, IvfPq, IvfRq

    kind = kind_for(kind, n_rows)
    lists = max(1, n_rows // ROWS_A_LIST)
    kinds = {IndexKind.BALANCED: IvfRq, IndexKind.SMALL: IvfPq, IndexKind.HNSW: HnswSq}
    if kind in kinds:
        config = kinds[kind](distance_type=metric.value, num_partitions=lists)
        table.create_index("vector", config=config)


def kind_for(kind: IndexKind, n_rows: int) -> IndexKind:
    """What AUTO means for `n_rows`, and any other kind as it is."""
    if kind is not IndexKind.AUTO:
        return kind
    return IndexKind.EXACT if n_rows < VECTOR_INDEX_ROWS else IndexKind.BALANCED


def vector_index(table: Any) -> Any | None:
    """The index over vectors, where there is one: its name, type and columns."""
    return next((index for index in table.list_indices() if "vector" in index.columns), None)


def check_condition(location: Location, table: Any, where: str, doing: str) -> None:
    """Raises `BadInput` for what is no SQL condition on passages; `doing` is what it is for."""
    try:
        table.search().where(where).select(["id"]).limit(1).to_list()
    except (OSError, RuntimeError, ValueError) as error:
        if is_remote(location) and is_stores_fault(error):
            raise unavailable(location, "read", error) from error
        columns = [name for name in PASSAGE_COLUMNS if name in table.schema.names]
        is_older = "last_page" not in columns and "last_page" in where
        remedy = "run `selfrag index update` first, which adds last_page" if is_older else "fix it"
        raise BadInput(
            f"cannot {doing} where {where!r}: found {brief(error)!r}, expected an SQL condition "
            f'on {", ".join(columns)}, such as "page > 3"; {remedy}'
        ) from error


def quoted(text: str) -> str:
    """A string as SQL spells it."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def storage(location: Location) -> Iterator[None]:
    """Turns what disk or store refuse, to Python or to LanceDB, into one sentence of ours."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if is_remote(location):
            raise unavailable(location, "write", error) from error
        if isinstance(error, ValueError):
            raise
        if _is_denied(error):
            raise StorageError(
                f"cannot write the index {location}: found {brief(error)!r}, expected a folder "
                "that may be written to; change its permissions or name another folder"
            ) from error
        raise StorageError(
            f"cannot write the index {location}: found {brief(error)!r}, expected a folder with "
            "enough free space; make room or name another folder"
        ) from error


@contextmanager
def reading(location: Location) -> Iterator[None]:
    """Turns what LanceDB cannot read into one sentence: damage, or a store that does not answer."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if is_remote(location) and is_stores_fault(error):
            raise unavailable(location, "read", error) from error
        if _is_denied(error):
            raise StorageError(
                f"cannot read the index {location}: found {brief(error)!r}, expected files that "
                "may be read; change their permissions or name another folder"
            ) from error
        raise not_usable(location, f"damaged files ({brief(error)})") from error


def brief(error: BaseException) -> str:
    """The first line of an error, at most 200 characters.

    Without the place in LanceDB's source, which is a path on the machine that it was built on.
    """
    line = str(error).strip().split("\n", 1)[0]
    return _IN_SOURCE.sub("", line).strip(" ,;:")[:200]


def _is_denied(error: BaseException) -> bool:
    text = str(error)
    return "Permission denied" in text or "Read-only file system" in text


def import_lancedb() -> Any:
    """The package itself; raises `ImportError` where it is not installed.

    Of 2.2 CPU-seconds (lancedb 0.40, AVX2 machine) 1.1 go into the `__init__` of its REST client,
    which has pydantic read the signature of every remote call. Here that waits for its first use.
    """
    put_off(_REST_CLIENT)
    limit_read_ahead()
    import lancedb

    return lancedb


def put_off(name: str) -> None:
    """Runs the `__init__` of package `name` when an attribute of it is first read, not on import.

    Its submodules can be imported before. Nothing happens to a package that is imported already or
    not installed. `importlib.util.LazyLoader` would not do: importing a submodule reads `__path__`
    of the package, and that alone makes it run.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def run(attribute: str) -> Any:
        package.__dict__.pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = run
    sys.modules[name] = package
