"""The embedding pickles of Contriever and Self-RAG, read without running what they say.

generate_passage_embeddings.py of both writes `passages_00`, `passages_01`, ...: each a pickle of
(ids, float array (n, dim)). A pickle is a program; here every name it asks for is answered by a
stand-in of ours or refused, so nothing is imported or called but what is in this file. A hostile
file can still ask for more memory than there is. Knows nothing of models.
"""

import glob
import logging
import math
import pickle
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput, StorageError
from selfrag.passage import Passage
from selfrag.retrieval.embed.plan import (
    COMMIT_ROWS,
    Corpus,
    Plan,
    Progress,
    Vectors,
    default_shards,
    survey,
)
from selfrag.retrieval.embed.run import fill_shard
from selfrag.retrieval.spec import CONTRIEVER, EncoderSpec

logger = logging.getLogger(__name__)

# What made the embeddings that Self-RAG gives away (retrieval_lm, README).
ORIGINAL_ENCODER = CONTRIEVER.spec("facebook/contriever-msmarco", dim=768, max_tokens=512)

_DTYPE = re.compile(r"f[248]|[iu][1248]")
_N_NAMED = 5  # missing ids that an error names

Pair = tuple[Passage, Vectors]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PickledShard:
    """Ids of passages and, in the same order, their vectors (n, dim) in float16, 32 or 64."""

    ids: tuple[str, ...]
    vectors: NDArray[Any]


def read_pickled_shard(path: Path) -> PickledShard:
    """What one file of embeddings holds; numbers as ids become strings.

    Raises `BadInput` for a pickle that asks for anything but lists, tuples, strings, numbers and
    numeric numpy arrays, and for one that is damaged or holds something else; `StorageError` for
    a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = _Reader(file).load()
    except OSError as error:
        raise StorageError(
            f"cannot read embeddings from {path}: the system says {error.strerror!r}, expected a "
            "readable file; check the path and its permissions"
        ) from error
    except (pickle.UnpicklingError, EOFError, MemoryError, *_PICKLE_FAULTS) as error:
        raise _not_embeddings(path, str(error) or type(error).__name__) from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise _not_embeddings(path, f"a {type(found).__name__}")
    ids, vectors = _finished(found[0]), _finished(found[1])
    if isinstance(ids, np.ndarray) and ids.ndim == 1:
        ids = ids.tolist()
    if not isinstance(ids, list | tuple) or not all(type(each) in (str, int) for each in ids):
        raise _not_embeddings(path, "ids that are no list of strings or numbers")
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise _not_embeddings(path, "vectors that are no float array of shape (n, dim)")
    if len(ids) != len(vectors):
        raise _not_embeddings(path, f"{len(ids)} ids and {len(vectors)} vectors")
    return PickledShard(ids=tuple(map(str, ids)), vectors=vectors)


def pickle_files(patterns: Iterable[str]) -> list[Path]:
    """The files by name, numbers in it by value: `passages_2` before `passages_10`.

    Raises `BadInput` where there are none.
    """

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.findall(r"\d+|\D+", str(path))
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    paths = sorted((Path(name) for each in patterns for name in glob.glob(each)), key=key)
    if not paths:
        raise BadInput(
            f"cannot import embeddings: found no file named {', '.join(patterns)}, expected "
            "those that generate_passage_embeddings.py writes; check the names"
        )
    return paths


def join_pickles(
    paths: Sequence[Path], passages: Iterable[Passage], spec: EncoderSpec
) -> Iterator[Pair]:
    """Every passage that has a vector, with it (dim,) float32, in corpus order.

    One file is in memory at a time. The files follow the order of the corpus, as the original
    writes them; inside a file any order will do. Passages without a vector are left out. Raises
    `BadInput` naming ids that no passage has from there on, for vectors that are not of `spec.dim`
    dims or not finite, and for an id that occurs twice in a file.
    """
    rest = iter(passages)
    for path in paths:
        yield from _join(path, rest, spec)


def import_pickles(
    paths: Sequence[Path],
    passages: Iterable[Passage],
    folder: Path,
    spec: EncoderSpec,
    *,
    n_shards: int | None = None,
    commit_rows: int = COMMIT_ROWS,
    on_progress: Progress | None = None,
) -> Plan:
    """Writes embeddings of the original and their passages as the shards that `embed` writes.

    `passages` are gone through twice, so no generator: first to check that every id has its
    passage, before anything is written. `paths` are taken in the order of the corpus. A run that
    was stopped goes on with the same call. `on_progress` hears how many passages were checked,
    then how many written. Raises `BadInput` as `join_pickles` does, and where `folder` holds
    something else.
    """
    if iter(passages) is iter(passages):
        raise BadInput(
            "cannot import embeddings: the passages can be gone through only once, expected "
            "twice; pass a list, or an object that reads its files anew each time"
        )
    corpus = _survey(paths, passages, spec, on_progress)
    shards = n_shards or default_shards(corpus.n_passages)
    plan = Plan(encoder=spec, corpus=corpus, n_shards=shards, commit_rows=commit_rows)
    plan.claim(folder)
    pairs = join_pickles(paths, passages, spec)
    for shard in range(plan.n_shards):
        own = islice(pairs, len(plan.rows(shard)))
        fill_shard(own, lambda batch, n_before: _columns(batch), folder, plan, shard)
        deque(own, maxlen=0)  # a shard that is whole already was not read
        if on_progress is not None:
            on_progress(plan.rows(shard).stop)
    return plan


def _survey(
    paths: Sequence[Path],
    passages: Iterable[Passage],
    spec: EncoderSpec,
    on_progress: Progress | None,
) -> Corpus:
    n_read = 0

    def counted() -> Iterator[Passage]:
        nonlocal n_read
        for passage in passages:
            n_read += 1
            yield passage

    rest = counted()
    joined = (passage for passage, _ in join_pickles(paths, rest, spec))
    corpus = survey(joined, on_progress=on_progress)
    deque(rest, maxlen=0)
    if n_read > corpus.n_passages:
        n_left = n_read - corpus.n_passages
        logger.warning("left out %s of %s passages: they have no vector", n_left, n_read)
    return corpus


def _join(path: Path, rest: Iterator[Passage], spec: EncoderSpec) -> Iterator[Pair]:
    shard = read_pickled_shard(path)
    if shard.vectors.shape[1] != spec.dim:
        raise BadInput(
            f"cannot import embeddings from {path}: found vectors of {shard.vectors.shape[1]} "
            f"dims, but encoder {spec.name!r} gives {spec.dim}; name the encoder that made them"
        )
    wanted = {passage_id: row for row, passage_id in enumerate(shard.ids)}
    if len(wanted) != len(shard.ids):
        raise _not_embeddings(path, "ids that occur twice")
    while wanted:
        passage = next(rest, None)
        if passage is None:
            raise _missing(path, list(wanted))
        row = wanted.pop(passage.id, None)
        if row is None:
            continue
        with np.errstate(over="ignore"):
            vector = shard.vectors[row].astype(np.float32)  # a copy: it outlives the array
        if not np.isfinite(vector).all():
            raise _not_embeddings(path, f"infinite values in the vector of {passage.id!r}")
        yield passage, vector


def _columns(pairs: list[Pair]) -> tuple[list[Passage], Vectors]:
    return [passage for passage, _ in pairs], np.stack([vector for _, vector in pairs])


def _missing(path: Path, ids: list[str]) -> BadInput:
    names = ", ".join(ids[:_N_NAMED]) + (", ..." if len(ids) > _N_NAMED else "")
    return BadInput(
        f"cannot import embeddings from {path}: found no passage for {len(ids)} of its ids "
        f"({names}), expected the passages it was made from, and the files in their order; "
        "name that passage file, and all earlier shards before this one"
    )


def _not_embeddings(path: Path, found: str) -> BadInput:
    return BadInput(
        f"cannot read embeddings from {path}: found {found}, expected a pickle of a list of ids "
        "and a float array, as generate_passage_embeddings.py writes; name such files only"
    )


# What stand-ins and the unpickler itself raise for streams that make no sense.
_PICKLE_FAULTS = (
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Reader(pickle.Unpickler):
    """Never looks a name up: `find_class` of the base class, which imports, is not called."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global of the file; `UnpicklingError` for any other."""
        stand_in = _STAND_INS.get((_OLD_NUMPY.sub("numpy._core", module), name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"the forbidden global {module}.{name}")
        return _Global(stand_in)

    def persistent_load(self, pid: Any) -> Any:
        """Refused: these files refer to nothing outside themselves."""
        raise pickle.UnpicklingError("a forbidden persistent reference")


_OLD_NUMPY = re.compile(r"^numpy\.core\b")


class _Sealed:
    """No attribute that a pickle could set: its BUILD finds `__setstate__`, which refuses."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a state for {type(self).__name__.lstrip('_').lower()}")


class _Global(_Sealed):
    """A name of the file, callable where what it stands for is."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class _DType(_Sealed):
    """A numeric dtype; its state says only the order of bytes."""

    __slots__ = ("value",)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of dtype {code!r}, not a float or integer one")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
            raise pickle.UnpicklingError("a structured dtype")
        self.value = self.value.newbyteorder(order)


class _Array(_Sealed):
    """An array in the making: `_reconstruct` gives an empty one, its state the content."""

    __slots__ = ("value",)

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        self.value: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        self.value = _array(content, dtype, shape, "F" if is_fortran else "C").value


def _array(content: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    """What both forms come to: the state of an array, and protocol 5's `_frombuffer`."""
    if not isinstance(dtype, _DType) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("an array whose content is no plain numbers")
    sizes = [int(size) for size in shape]
    if min(sizes, default=0) < 0 or math.prod(sizes) * dtype.value.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {sizes} in {len(content)} bytes")
    if order not in ("C", "F"):
        raise pickle.UnpicklingError(f"an array in order {order!r}")
    made = _Array(None, None, None)
    made.value = np.frombuffer(content, dtype.value).reshape(sizes, order=order)
    return made


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(content, dtype, ()).value.item()


def _latin1(text: Any, encoding: Any) -> bytes:
    """How protocols before 3 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("a forbidden use of _codecs.encode")
    return text.encode("latin1")


def _refuse_call(*_: Any) -> Any:
    raise pickle.UnpicklingError("a call of numpy.ndarray")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _array,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _refuse_call,
    ("_codecs", "encode"): _latin1,
}


def _finished(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
