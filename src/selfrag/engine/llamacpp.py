"""GGUF models on llama.cpp, in this process: quantised models of any architecture on a laptop.

Keys and values of all rows lie in one memory whose cells belong to one or several sequences, so
branches share their prefix and nothing is copied (`llama_memory_seq_cp`). Knows nothing of
Self-RAG.
"""

import ctypes
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.engine.base import Completion, Request
from selfrag.engine.batching import (
    CACHE_BYTES,
    BatchedEngine,
    Batcher,
    Draft,
    Next,
    Row,
    Step,
    greedy,
    half_of_cores,
)
from selfrag.engine.gguf_vocabulary import GgufTokenizer, load_model
from selfrag.engine.llama_h import F16, F32, NO_FLASH_ATTENTION, Batch, Owned, llama
from selfrag.engine.lookup import Ids
from selfrag.errors import EngineError
from selfrag.prompt import Tokenizer

logger = logging.getLogger(__name__)

# Cells for keys and values: bounds from below what one question needs, from above the time that
# attention takes, as every row attends over all cells and masks those of others.
_CELLS = (4096, 8192)
_N_SEQUENCES = 256  # llama.cpp's own limit
# Sequences that later calls may continue. Each may be cut in two before the next is added.
_KEPT_SEQUENCES = 100
_PIECE = 2048  # ids that one call of llama.cpp reads at most


class LlamaCppEngine(BatchedEngine):
    """A GGUF file as an `Engine`.

    `adapters`: LoRA adapters as GGUF, added to the model. `n_threads` 0: half as many as the
    processors that this process may use, as two threads of a core gain nothing. `on_gpu`: layers go
    to the GPU that llama.cpp was built for. Raises `EngineError` where the file does not hold such
    a model.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        tokenizer: Tokenizer | None = None,
        adapters: Sequence[Path] = (),
        n_threads: int = 0,
        on_gpu: bool = False,
        max_batch: int = 16,
    ) -> None:
        started = time.perf_counter()
        tokenizer = tokenizer or GgufTokenizer(path)
        context = _Context(path, adapters, n_threads or half_of_cores(), on_gpu=on_gpu)
        batcher = Batcher(
            _Cells(context),
            name=name,
            max_context=min(context.n_trained, context.n_cells),
            max_batch=max_batch,
            cache_bytes=context.n_cells // 2,
            share=context.is_plain,
            guess=context.is_plain,
        )
        super().__init__(batcher, tokenizer)
        logger.info("loaded %s in %.1f s", name, time.perf_counter() - started)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request greedily, in order; an empty batch gives an empty list.

        What does not fit into the cells together is completed in parts. Raises `BadInput` for a
        prompt that leaves no room and `EngineError` when llama.cpp fails.
        """
        try:
            return self._batcher.complete(requests)
        except _NoRoomError as error:
            said = str(error)
        # Outside of the handler, as its traceback holds rows and with them cells.
        self._batcher.forget()
        if len(requests) == 1:
            return self._alone(requests, said)
        half = len(requests) // 2
        return self.generate(requests[:half]) + self.generate(requests[half:])

    def _alone(self, requests: Sequence[Request], said: str) -> list[Completion]:
        try:
            return self._batcher.complete(requests)
        except _NoRoomError as error:
            raise EngineError(
                f"cannot run {self.name}: {said}; expected room for one prompt of at most "
                f"{self.max_context} tokens, so shorten it"
            ) from error


class _NoRoomError(Exception):
    """All cells or sequences are in use."""


class _Context:
    """A loaded model with its memory of cells; freed when nothing points to it any more."""

    def __init__(
        self, path: Path, adapters: Sequence[Path], n_threads: int, *, on_gpu: bool
    ) -> None:
        self._llama = llama()
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = -1 if on_gpu else 0
        self._owned = Owned(self)
        self._model = self._owned.take(self._llama.llama_model_free, load_model(path, params))
        if self._llama.llama_model_has_encoder(self._model):
            raise EngineError(
                f"cannot run {path}: it is an encoder or has one, expected a causal language "
                "model, so name another"
            )
        self.n_trained = int(self._llama.llama_model_n_ctx_train(self._model))
        is_recurrent = self._llama.llama_model_is_recurrent(self._model)
        self.is_plain = not (is_recurrent or self._llama.llama_model_is_hybrid(self._model))
        self._handle = self._open(path, n_threads, on_gpu=on_gpu)
        self._add(adapters)
        self._memory = self._llama.llama_get_memory(self._handle)
        self.n_cells = int(self._llama.llama_n_ctx(self._handle))
        self._n_piece = int(self._llama.llama_n_batch(self._handle))
        vocabulary = self._llama.llama_model_get_vocab(self._model)
        self._n_vocabulary = int(self._llama.llama_vocab_n_tokens(vocabulary))
        self._free = list(range(self._llama.llama_n_seq_max(self._handle)))

    def take(self) -> int:
        """The number of a sequence that nobody uses."""
        if not self._free:
            raise _NoRoomError("all sequences are in use")
        return self._free.pop()

    def give_back(self, sequence: int) -> None:
        """Empties a sequence, so that others can use its number and its cells."""
        if self._owned:  # not when the process ends
            self._llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._free.append(sequence)

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        """Positions of one sequence belong to another too."""
        self._llama.llama_memory_seq_cp(self._memory, source, target, start, stop)

    def cut(self, sequence: int, start: int) -> None:
        """Forgets all positions of a sequence from `start` on."""
        self._llama.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def read(self, reads: "Sequence[_Read]") -> NDArray[np.float32]:
        """Logits (N, V) after every id that asks for them, in order."""
        columns = [
            np.concatenate(parts).astype(np.int32)
            for parts in zip(*(read.columns() for read in reads), strict=True)
        ]
        logits = [
            self._decode([column[start : start + self._n_piece] for column in columns])
            for start in range(0, len(columns[0]), self._n_piece)
        ]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _decode(self, columns: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        ids, positions, sequences, asked = columns
        ones = np.ones_like(ids)
        wanted = asked.astype(np.int8)
        # A list of sequences for every id, each of length 1.
        places = sequences.ctypes.data + sequences.itemsize * np.arange(len(ids), dtype=np.uint64)
        batch = Batch(
            n_tokens=len(ids),
            token=ids.ctypes.data,
            pos=positions.ctypes.data,
            n_seq_id=ones.ctypes.data,
            seq_id=places.ctypes.data,
            logits=wanted.ctypes.data,
        )
        status = self._llama.llama_decode(self._handle, batch)
        if status == 1:
            raise _NoRoomError(f"no room for {len(ids)} tokens in {self.n_cells} cells")
        if status:
            raise EngineError(
                f"cannot read {len(ids)} tokens: llama.cpp answers {status} "
                f"({self._llama.complaint()}); if memory is short, lower max_batch or top_k"
            )
        shape = int(wanted.sum()), self._n_vocabulary
        if not shape[0]:
            return np.zeros(shape, np.float32)
        found = self._llama.llama_get_logits(self._handle)
        # A copy, as the next call writes over it.
        return np.ctypeslib.as_array(found, shape).copy()

    def _open(self, path: Path, n_threads: int, *, on_gpu: bool) -> int:
        is_exact = self._llama.llama_model_ftype(self._model) == F32
        params = self._llama.llama_context_default_params()
        params.type_k = params.type_v = F32 if is_exact else F16
        if is_exact:
            # Its products are in 16 bits even where keys and values are not.
            params.flash_attn_type = NO_FLASH_ATTENTION
        params.n_ctx = self._n_cells(4 if is_exact else 2)
        params.n_batch = params.n_outputs_max = params.n_outputs_max_per_seq = _PIECE
        params.n_seq_max = _N_SEQUENCES
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = n_threads
        params.offload_kqv = params.op_offload = on_gpu
        handle = self._llama.llama_init_from_model(self._model, params)
        if not handle:
            raise EngineError(
                f"cannot run {path}: llama.cpp says {self._llama.complaint()}; expected memory "
                f"for the keys and values of {params.n_ctx} tokens, so close other programs"
            )
        return self._owned.take(self._llama.llama_free, int(handle))

    def _n_cells(self, n_bytes: int) -> int:
        """As many cells as the usual cache takes, within bounds."""
        of = self._llama
        n_heads = of.llama_model_n_head(self._model) or 1
        width = (
            of.llama_model_n_embd(self._model) // n_heads * of.llama_model_n_head_kv(self._model)
        )
        n_layers = of.llama_model_n_layer(self._model)
        each = 2 * n_bytes * max(width, 1) * max(n_layers, 1)
        least, most = _CELLS
        return int(min(max(CACHE_BYTES // each, least), most))

    def _add(self, adapters: Sequence[Path]) -> None:
        handles = []
        for path in adapters:
            handle = self._llama.llama_adapter_lora_init(self._model, str(path).encode())
            if not handle:
                raise EngineError(
                    f"cannot add the adapter {path}: llama.cpp says {self._llama.complaint()}; "
                    "expected a LoRA adapter as GGUF that was made for this very model"
                )
            handles.append(handle)
        if handles:
            n = len(handles)
            scales = (ctypes.c_float * n)(*[1.0] * n)
            self._llama.llama_set_adapters_lora(
                self._handle, (ctypes.c_void_p * n)(*handles), n, scales
            )


class _Sequence:
    """Cells of a context by position; given back when nothing points to it any more."""

    __slots__ = ("context", "number")

    def __init__(self, context: _Context) -> None:
        self.number = context.take()
        self.context = context

    def __del__(self) -> None:
        if hasattr(self, "context"):  # not where there was none left
            self.context.give_back(self.number)


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """`n` positions of a sequence from `start` on."""

    sequence: _Sequence
    start: int
    n: int

    def cut(self, start: int, stop: int) -> "_Span":
        """Some of the positions, in the same cells."""
        context = self.sequence.context
        other = _Sequence(context)
        first, last = self.start + start, self.start + stop
        context.share(self.sequence.number, other.number, first, last)
        return _Span(other, first, last - first)


@dataclass(frozen=True, slots=True)
class _Read:
    """Ids that a sequence reads from position `start` on; `n_asked`: the last ask for logits."""

    sequence: int
    start: int
    ids: Ids
    n_asked: int

    def columns(self) -> tuple[NDArray[Any], ...]:
        """Ids, positions, sequences, and 1 where logits are asked for, (T,) each."""
        n = len(self.ids)
        places = np.arange(n)
        return (
            np.array(self.ids),
            self.start + places,
            np.full(n, self.sequence),
            places >= n - self.n_asked,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows in flight: a sequence each with its length, and `logits` (N, V), `n_each` a row."""

    sequences: list[_Sequence]
    n_each: list[int]
    logits: NDArray[np.float32]

    def choose(self, drafts: Sequence[Draft]) -> list[list[Step]]:
        """What comes next in every row."""
        return greedy(self.logits, drafts, self.n_each)

    def span(self, row: int, start: int, stop: int) -> _Span:
        """Some positions of one row, which may go on behind them."""
        return _Span(self.sequences[row], 0, stop).cut(start, stop)


class _Cells:
    """The context as `batching.Model`."""

    def __init__(self, context: _Context) -> None:
        self._context = context

    def read(self, rows: Sequence[Row[_Span]]) -> _Rows:
        """One pass over the new ids of every row. What is only read gives no logits."""
        sequences = []
        for row in rows:
            sequence = _Sequence(self._context)
            for span in row.known.spans:
                self._context.share(
                    span.sequence.number, sequence.number, span.start, span.start + span.n
                )
            sequences.append(sequence)
        reads = [
            _Read(sequence.number, row.known.n, row.ids, min(row.n_more, 1))
            for sequence, row in zip(sequences, rows, strict=True)
        ]
        return _Rows(sequences, [read.n_asked for read in reads], self._context.read(reads))

    def write(self, rows: _Rows, steps: Sequence[Next]) -> _Rows:
        """One decode step; every id read tells what comes next."""
        sequences = [rows.sequences[step.row] for step in steps]
        reads = []
        for sequence, step in zip(sequences, steps, strict=True):
            self._context.cut(sequence.number, step.n_read)  # guesses that did not hold
            reads.append(_Read(sequence.number, step.n_read, step.ids, len(step.ids)))
        return _Rows(sequences, [read.n_asked for read in reads], self._context.read(reads))

    def cut(self, span: _Span, start: int, stop: int) -> _Span:
        """Some positions, in the same cells."""
        return span.cut(start, stop)

    def n_bytes(self, span: _Span) -> int:
        """The cells that a span holds; at least so many that sequences do not run out."""
        return max(span.n, self._context.n_cells // 2 // _KEPT_SEQUENCES)
