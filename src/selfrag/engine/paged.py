"""Llama models on OpenVINO: rows of any length in one pass, and branches that share their past.

Keys and values live in blocks of 32 positions; a row is a list of blocks, so branches share those
of their common prefix and nothing is padded (paged attention, arXiv 2309.06180). Same folder and
interface as `engine/numpy_llama.py`. Knows nothing of Self-RAG.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.engine.base import Precision
from selfrag.engine.batching import (
    CACHE_BYTES,
    BatchedEngine,
    Batcher,
    Draft,
    Next,
    Row,
    Step,
    steps_of,
)
from selfrag.engine.graph import CompiledLlama
from selfrag.engine.lookup import Ids
from selfrag.engine.numpy_llama import LlamaShape
from selfrag.engine.tokenizer import open_tokenizer

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

BLOCK = 32  # positions a block; OpenVINO's CPU plugin knows no other size
_FIRST_BLOCKS = 128  # room for a question with several passages


class PagedEngine(BatchedEngine):
    """A Llama model folder as an `Engine`, run by OpenVINO.

    `n_threads` 0: as many as the processor has cores. `cache_bytes` bounds what is kept for later
    calls. Raises `EngineError` where the folder does not hold such a model.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        precision: Precision = Precision.EXACT,
        n_threads: int = 0,
        max_batch: int = 16,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        started = time.perf_counter()
        tokenizer, shape = open_tokenizer(path), LlamaShape.read(path)
        llama = CompiledLlama(path, shape, precision=precision, n_threads=n_threads)
        batcher = Batcher(
            _Paged(llama),
            name=name,
            max_context=shape.max_context,
            max_batch=max_batch,
            cache_bytes=cache_bytes,
            guess=True,
        )
        super().__init__(batcher, tokenizer)
        logger.info("loaded %s in %.1f s", name, time.perf_counter() - started)


class _Pool:
    """Keys and values of all layers in blocks, which are reused last in, first out.

    Grows when all blocks are in use, so what it takes follows what is read.
    """

    def __init__(self, llama: CompiledLlama) -> None:
        self._llama = llama
        self.caches = llama.make_caches(_FIRST_BLOCKS)
        self.free = list(range(_FIRST_BLOCKS - 1, -1, -1))
        self.block_bytes = sum(int(cache.byte_size) for cache in self.caches) // _FIRST_BLOCKS

    def take(self) -> int:
        """The number of a block that nobody uses."""
        if not self.free:
            n_blocks = int(self.caches[0].shape[0])
            n_more = max(_FIRST_BLOCKS, n_blocks // 4)
            old, self.caches = self.caches, self._llama.make_caches(n_blocks + n_more)
            for after in self.caches:
                after.data[:n_blocks] = old.pop(0).data  # whose memory is free again at once
            self.free.extend(range(n_blocks + n_more - 1, n_blocks - 1, -1))
        return self.free.pop()

    def copy(self, source: int, target: int) -> None:
        """Makes one block hold what another holds."""
        for cache in self.caches:
            cache.data[target] = cache.data[source]


class _Block:
    """One block of a pool, which has it back when nothing points to it any more."""

    __slots__ = ("_free", "number")

    def __init__(self, pool: _Pool) -> None:
        self.number = pool.take()
        self._free = pool.free

    def __del__(self) -> None:
        if hasattr(self, "_free"):  # not where there was no memory for it
            self._free.append(self.number)


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """The blocks that hold `n` positions from `start` on, the first of them perhaps in part."""

    blocks: tuple[_Block, ...]
    start: int
    n: int


@dataclass(slots=True, eq=False)
class _Table:
    """The blocks of one row, of which others hold the first `n_shared` too."""

    blocks: list[_Block]
    n_shared: int

    @classmethod
    def after(cls, known: Sequence[_Span]) -> "_Table":
        """The blocks of consecutive spans. Where two meet in a block, the later has all of it."""
        blocks: list[_Block] = []
        for span in known:
            blocks[span.start // BLOCK :] = span.blocks
        return cls(blocks, len(blocks))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows in flight: a table each, and what was chosen, `n_each` times a row.

    `watched`: (N, n watch_ids), nats.
    """

    tables: list[_Table]
    n_each: list[int]
    chosen: NDArray[np.int32]
    logprobs: Array
    watched: Array
    watch_ids: tuple[int, ...]

    def choose(self, drafts: Sequence[Draft]) -> list[list[Step]]:
        """What comes next in every row."""
        column = {token_id: n for n, token_id in enumerate(self.watch_ids)}
        return steps_of(
            self.chosen,
            self.logprobs,
            lambda rows, ids: self.watched[rows][:, [column[i] for i in ids]],
            drafts,
            self.n_each,
        )

    def span(self, row: int, start: int, stop: int) -> _Span:
        """Some positions of one row. The row may go on writing behind them, in its own blocks."""
        blocks = self.tables[row].blocks[start // BLOCK : _n_blocks(stop)]
        return _Span(tuple(blocks), start, stop - start)


class _Paged:
    """The compiled model and its pool of blocks, as `batching.Model`."""

    def __init__(self, llama: CompiledLlama) -> None:
        self._llama = llama
        self._pool = _Pool(llama)

    def read(self, rows: Sequence[Row[_Span]]) -> _Rows:
        """One pass over the new ids of every row."""
        watch_ids = tuple(dict.fromkeys(i for row in rows for i in row.watch_ids))
        steps = [(_Table.after(row.known.spans), row.known.n, row.ids) for row in rows]
        return self._forward(steps, watch_ids, every=False)

    def write(self, rows: _Rows, steps: Sequence[Next]) -> _Rows:
        """One decode step; every id read tells what comes next."""
        reads = [(rows.tables[step.row], step.n_read, step.ids) for step in steps]
        return self._forward(reads, rows.watch_ids, every=True)

    def cut(self, span: _Span, start: int, stop: int) -> _Span:
        """Some positions, in the same blocks."""
        first = span.start + start
        offset = first // BLOCK - span.start // BLOCK
        n = _n_blocks(span.start + stop) - first // BLOCK
        return _Span(span.blocks[offset : offset + n], first, stop - start)

    def n_bytes(self, span: _Span) -> int:
        """The memory that a span holds; a block in which two spans meet counts for both."""
        return len(span.blocks) * self._pool.block_bytes

    def _forward(
        self, reads: Sequence[tuple[_Table, int, Ids]], watch_ids: tuple[int, ...], *, every: bool
    ) -> _Rows:
        """One pass over rows of any length, packed end to end; fills their blocks."""
        for table, n_past, ids in reads:
            self._make_room(table, n_past, n_past + len(ids))
        lengths = [len(ids) for _, _, ids in reads]
        ends = np.cumsum(lengths)
        tables = [
            [block.number for block in table.blocks[: _n_blocks(n_past + len(ids))]]
            for table, n_past, ids in reads
        ]
        inputs: dict[str, Any] = {
            "input_ids": [token_id for _, _, ids in reads for token_id in ids],
            "position_ids": np.concatenate(
                [np.arange(n_past, n_past + len(ids)) for _, n_past, ids in reads]
            ),
            "last": np.arange(ends[-1]) if every else ends - 1,
            "watch": watch_ids or [0],
            "past_lens": [n_past for _, n_past, _ in reads],
            "subsequence_begins": [0, *ends],
            "block_indices": [number for table in tables for number in table],
            "block_indices_begins": np.cumsum([0, *map(len, tables)]),
            "max_context_len": max(n_past + len(ids) for _, n_past, ids in reads),
        }
        chosen, logprobs, watched = self._llama.infer(inputs)
        return _Rows(
            tables=[table for table, _, _ in reads],
            n_each=lengths if every else [1] * len(reads),
            chosen=chosen,
            logprobs=logprobs,
            watched=watched[:, : len(watch_ids)],
            watch_ids=watch_ids,
        )

    def _make_room(self, table: _Table, start: int, stop: int) -> None:
        """Blocks of the row's own for the positions from `start` to `stop`."""
        place = start // BLOCK
        if place < table.n_shared:
            if start % BLOCK:  # others go on from the positions before: this row gets a copy
                copy = _Block(self._pool)
                self._pool.copy(table.blocks[place].number, copy.number)
                table.blocks[place] = copy
            table.n_shared = place
        while len(table.blocks) < _n_blocks(stop):
            table.blocks.append(_Block(self._pool))


def _n_blocks(n_positions: int) -> int:
    return -(-n_positions // BLOCK)
