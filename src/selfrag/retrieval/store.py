"""The passage index as its readers see it: found by meaning, by words, or by both fused.

Knows nothing of files or of language models.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput
from selfrag.passage import Hit, Passage
from selfrag.retrieval.build import build_folder, new_manifest, open_manifest
from selfrag.retrieval.encoder.base import Encoder, encode_queries
from selfrag.retrieval.fusion import (
    FIRST_BLOCK,
    Fusion,
    Scored,
    fused,
    hits_of,
    in_order,
    ranked_in_blocks,
)
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.objectstore import TIMEOUT_S, Location
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.table import (
    READ_COLUMNS,
    check_condition,
    connect,
    open_tables,
    passage_of,
    quoted,
    reading,
    word_search,
)

logger = logging.getLogger(__name__)

# RaBitQ codes over 200,000 x 384 rows: recall@10 .98 to .996 with these (STACK 1.2, 1.3).
PROBES, REFINE = 32, 10
# The refine factor is that of so many proposals; of more, about as many vectors are compared whole.
_REFINED, _LEAST_REFINE = 20, 2
# Ranks in the first block where nothing is fused: one search then serves the first ten.
_FIRST_OF_ONE = 10


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What one kind of search found, best first; any other passage scores at most `floor`.

    `is_all`: there is none that it could have found.
    """

    found: list[Scored]
    floor: float
    is_all: bool


class PassageStore:
    """Passages on disk, to be searched while they may change.

    Made with `build`, opened with `open`, changed with `build.open_writer`; a reader sees a commit
    a second after it. LanceDB runs threads of its own: do not fork a process that has opened an
    index (lancedb#1393).
    """

    def __init__(
        self,
        path: Location,
        table: Any,
        manifest: Manifest,
        encoder: Encoder,
        options: SearchOptions,
    ) -> None:
        self._path = path
        self._table = table
        self._encoder = encoder
        self._options = options
        self.manifest = manifest

    @staticmethod
    def build(
        passages: Iterable[Passage],
        encoder: Encoder,
        path: Location,
        *,
        kind: IndexKind = IndexKind.AUTO,
        attribution: str = "",
        on_progress: Callable[[int], None] | None = None,
    ) -> Manifest:
        """Writes an index of `passages` into `path` and returns its manifest.

        `on_progress` is called with the number of passages encoded. Errors as `build_folder`;
        passages alone do not say what they were read from, so in a folder this always begins anew.
        """
        started = time.monotonic()
        manifest = build_folder(
            path,
            encoder,
            new_manifest(encoder.spec, kind=kind, attribution=attribution),
            lambda writer: writer.put(passages),
            on_progress=on_progress,
            resume=False,
        )
        logger.info("indexed %s in %.1f s", path, time.monotonic() - started)
        return manifest

    @classmethod
    def open(
        cls,
        path: Location,
        encoder: Encoder,
        *,
        options: SearchOptions | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> "PassageStore":
        """The index in folder `path`, or at s3://bucket/prefix, to be searched with `encoder`.

        `options` are those of every search that has none of its own.

        Raises `IndexNotUsable` when it is absent, damaged or empty, `IndexMismatch` when it was
        built with another encoder, `StorageError` when an object store has not answered a request
        for `timeout_s`.
        """
        manifest = open_manifest(path, encoder, timeout_s=timeout_s)
        passages, _ = open_tables(path, connect(path, timeout_s=timeout_s))
        return cls(path, passages, manifest, encoder, options or SearchOptions())

    def with_options(self, options: SearchOptions) -> "PassageStore":
        """The same passages, searched as `options` say unless a search has its own.

        Raises `BadInput` when `where` is not understood.
        """
        self._check(options)
        return PassageStore(self._path, self._table, self.manifest, self._encoder, options)

    @property
    def n_passages(self) -> int:
        """Passages that a search may find now."""
        return int(self._table.count_rows())

    def refresh(self) -> None:
        """Sees every commit so far at once, and not within a second."""
        with reading(self._path):
            self._table.checkout_latest()

    def passage(self, passage_id: str) -> Passage | None:
        """The passage of this id, None where there is none."""
        with reading(self._path):
            found = self._table.search().where(f"id = {quoted(passage_id)}")
            rows = found.select(list(READ_COLUMNS)).limit(1).to_list()
        return passage_of(rows[0]) if rows else None

    def search(
        self, queries: Sequence[str], top_k: int, *, options: SearchOptions | None = None
    ) -> list[list[Hit]]:
        """For every query at most `top_k` hits, best first, ranks from 1; ties in corpus order.

        The first hits of a query are the same whatever `top_k` is and whatever is searched with it
        (see `fusion.ranked_in_blocks`): of a HYBRID search each kind proposes 20 for the first 5.
        HYBRID scores are those of `fusion` of both proposals, DENSE scores are inner products or
        cosines, WORDS scores BM25. A query without a content word has no WORDS hits, so in HYBRID
        only dense ones. `where` is what `metadata_condition` helps to write; `rerank` is not looked
        at, see `rerank.Reranker`. Raises `BadInput` when `top_k` is negative or `where` is not
        understood, `IndexNotUsable` when the files turn out to be damaged, `StorageError` when an
        object store does not answer.
        """
        if top_k < 0:
            raise BadInput(f"cannot search: top_k is {top_k}, expected 0 or more; set it higher")
        options = options or self._options
        self._check(options)
        if not top_k:
            return [[] for _ in queries]
        queries = [query.encode("utf-8", "replace").decode() for query in queries]
        is_dense = options.mode is not SearchMode.WORDS
        vectors = encode_queries(self._encoder, queries) if is_dense else [None] * len(queries)
        return [
            hits_of(self._ranked(query, vector, top_k, options))
            for query, vector in zip(queries, vectors, strict=True)
        ]

    def _ranked(
        self,
        query: str,
        vector: NDArray[np.float32] | None,
        top_k: int,
        options: SearchOptions,
    ) -> list[Scored]:
        where = options.where.strip()

        def propose(n_found: int) -> tuple[list[Scored], bool]:
            rankings: list[_Ranking] = []
            if vector is not None:
                rankings.append(self._by_meaning(vector, n_found, where))
            if options.mode is not SearchMode.DENSE:
                rankings.append(self._by_words(query, n_found, where))
            return _one(rankings, options.fusion), all(each.is_all for each in rankings)

        first = FIRST_BLOCK if options.mode is SearchMode.HYBRID else _FIRST_OF_ONE
        return ranked_in_blocks(top_k, propose, first=first)

    def _check(self, options: SearchOptions) -> None:
        if where := options.where.strip():
            check_condition(self._path, self._table, where, "search")

    def _by_meaning(self, vector: NDArray[np.float32], n_found: int, where: str) -> _Ranking:
        with reading(self._path):
            search = self._table.search(vector, vector_column_name="vector")
            search = search.distance_type(self.manifest.encoder.metric.value).nprobes(
                self.manifest.n_probes or PROBES
            )
            refine = self.manifest.refine_factor or REFINE
            refine = max(math.ceil(refine * _REFINED / n_found), min(refine, _LEAST_REFINE))
            search = search.refine_factor(refine)
            if self.manifest.kind is IndexKind.EXACT:
                search = search.bypass_vector_index()
            rows = _rows(search, "_distance", n_found, where)
        # With both metrics Lance's distance is 1 - similarity.
        found = in_order(
            Scored(1.0 - row["_distance"], row["row"], passage_of(row)) for row in rows
        )
        return _Ranking(found, found[-1].score if found else 0.0, len(rows) < n_found)

    def _by_words(self, query: str, n_found: int, where: str) -> _Ranking:
        with reading(self._path):
            rows = _rows(word_search(self._table, query), "_score", n_found, where)
        found = in_order(Scored(row["_score"], row["row"], passage_of(row)) for row in rows)
        # Where there were no more to be found, all others hold no word of the query.
        is_all = len(rows) < n_found
        return _Ranking(found, 0.0 if is_all else found[-1].score, is_all)


def metadata_condition(metadata: Mapping[str, str]) -> str:
    """The SQL condition that a passage's metadata holds all these names with these values."""
    pairs = (quoted(f"{name}={value}") for name, value in metadata.items())
    return " AND ".join(f"array_has(metadata, {pair})" for pair in pairs) or "true"


def _one(rankings: Sequence[_Ranking], fusion: Fusion) -> list[Scored]:
    if len(rankings) == 1:
        return rankings[0].found
    dense, words = rankings
    floors = (dense.floor, words.floor)
    return fused(
        [dense.found, words.found], lambda scores: fusion.fuse(scores[0], scores[1], floors=floors)
    )


def _rows(search: Any, score: str, n_found: int, where: str) -> list[dict[str, Any]]:
    if where:
        search = search.where(where, prefilter=True)
    rows: list[dict[str, Any]] = (
        search.select(["row", *READ_COLUMNS, score]).limit(n_found).to_list()
    )
    return rows
