"""A corpus as vectors on disk: shards encoded apart, each of which goes on where it was stopped.

A shard is a contiguous range of the corpus and one LanceDB table with the columns of an index. It
grows by commits of a fixed number of passages, so its number of rows says where to go on. Knows
nothing of files or of search.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput, ConfigError, EngineError, StorageError
from selfrag.passage import Passage
from selfrag.retrieval.encoder.base import Encoder, encode_passages
from selfrag.retrieval.spec import EncoderSpec, shown
from selfrag.retrieval.table import NO_FILE, brief, connect, passages_schema, record_batch

logger = logging.getLogger(__name__)

PLAN_NAME = "embed.json"
FORMAT_VERSION = 1
# What a kill can cost: 5 minutes of MiniLM on one core. At 768 dims a commit is a file of 30 MB.
COMMIT_ROWS = 8192
SHARD_ROWS = 65_536
_AT_ONCE = 512  # passages an encoder gets, to sort by length as it likes

Vectors = NDArray[np.float32]
Progress = Callable[[int], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """How many passages a corpus has, and the SHA-256 of their ids, titles and texts in order."""

    n_passages: int
    sha256: str


def survey(passages: Iterable[Passage], *, on_progress: Progress | None = None) -> Corpus:
    """The corpus that a stream of passages makes; `on_progress` hears how many were read."""
    digest = hashlib.sha256()
    n_passages = 0
    for n_passages, passage in enumerate(passages, start=1):
        text = f"{passage.id}\x1f{passage.title}\x1f{passage.text}\x1e"
        digest.update(text.encode("utf-8", "surrogatepass"))
        if on_progress is not None and n_passages % 10_000 == 0:
            on_progress(n_passages)
    return Corpus(n_passages=n_passages, sha256=digest.hexdigest())


def default_shards(n_passages: int, *, at_least: int = 1) -> int:
    """A number of shards that keeps each at `SHARD_ROWS`, and gives `at_least` workers some."""
    return max(1, min(n_passages, max(at_least, -(-n_passages // SHARD_ROWS))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a folder of shards holds, as its `embed.json` says: all that a resumed run must share.

    Raises `ConfigError` unless every shard gets a passage and every commit too.
    """

    encoder: EncoderSpec
    corpus: Corpus
    n_shards: int
    commit_rows: int = COMMIT_ROWS

    def __post_init__(self) -> None:
        if not 1 <= self.n_shards <= self.corpus.n_passages or self.commit_rows < 1:
            raise ConfigError(
                f"cannot embed {self.corpus.n_passages} passages in {self.n_shards} shards with "
                f"{self.commit_rows} a commit: expected at least one of each and a passage for "
                "every shard; name passages, or fewer shards"
            )

    def rows(self, shard: int) -> range:
        """Corpus positions of a shard, from 0.

        As generate_passage_embeddings.py of Contriever and Self-RAG cuts: all shards have the same
        size, rounded down, and the last takes the rest. Raises `ConfigError` for no such shard.
        """
        if not 0 <= shard < self.n_shards:
            raise ConfigError(
                f"cannot embed shard {shard} of {self.n_shards}: expected 0 to "
                f"{self.n_shards - 1}, so name one of these"
            )
        size = self.corpus.n_passages // self.n_shards
        is_last = shard == self.n_shards - 1
        return range(shard * size, self.corpus.n_passages if is_last else (shard + 1) * size)

    def table_name(self, shard: int) -> str:
        """The LanceDB table of a shard."""
        return f"shard-{shard:05d}-of-{self.n_shards:05d}"

    def claim(self, folder: Path) -> None:
        """Makes `folder` the place of this plan; `BadInput` when it holds something else."""
        folder = folder.resolve()
        if not (folder / PLAN_NAME).is_file():
            self._write(folder)
        found = Plan.load(folder)
        if differences := self._differences(found):
            raise BadInput(
                f"cannot embed into {folder}: found shards of another run there, with "
                f"{'; '.join(differences)}; run with the same passages, encoder and number of "
                "shards to go on, or name another folder"
            )

    @classmethod
    def load(cls, folder: Path) -> "Plan":
        """The plan of a folder of shards; `BadInput` for none, a damaged one or a later format."""
        path = folder / PLAN_NAME
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
            if written["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format {written['format_version']}, not {FORMAT_VERSION}")
            return cls(
                encoder=EncoderSpec.from_json(written["encoder"]),
                corpus=Corpus(**written["corpus"]),
                n_shards=int(written["n_shards"]),
                commit_rows=int(written["commit_rows"]),
            )
        except (OSError, KeyError, RecursionError, TypeError, ValueError, ConfigError) as error:
            raise BadInput(
                f"cannot use the embeddings in {folder}: found no sound {PLAN_NAME} ({error}), "
                "expected a folder that `selfrag embed` has written; name one, or embed anew"
            ) from error

    def _write(self, folder: Path) -> None:
        with _storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if any(path.suffix == ".lance" for path in folder.iterdir()):
                raise BadInput(
                    f"cannot embed into {folder}: found tables without {PLAN_NAME} there, "
                    "expected an empty folder or shards of this run; name another folder"
                )
            new = folder / f".{PLAN_NAME}.{os.getpid()}.new"
            text = json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2)
            new.write_text(text + "\n", encoding="utf-8")
            new.replace(folder / PLAN_NAME)

    def _differences(self, found: "Plan") -> list[str]:
        mine, other = (
            {**asdict(p.encoder), **asdict(p.corpus), **asdict(p)} for p in (self, found)
        )
        nested = ("encoder", "corpus")
        names = [name for name in mine if mine[name] != other[name] and name not in nested]
        return [f"{name} {shown(other[name])} against {shown(mine[name])}" for name in names]


def embed_corpus(
    passages: Iterable[Passage],
    encoder: Encoder,
    folder: Path,
    plan: Plan,
    *,
    shards: Sequence[int] | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Embeds `shards` of a corpus, or all, into `folder` in one pass over all its `passages`.

    What is committed already is kept, so the same call goes on after any kind of end. `on_progress`
    hears after every batch how many passages of these shards are done. Raises `BadInput` when
    `folder` holds another plan or another process writes the shard, `StorageError` when the disk
    refuses.
    """
    plan.claim(folder)
    todo, stream, position, n_before = unfinished_shards(folder, plan), iter(passages), 0, 0
    for shard in sorted(range(plan.n_shards) if shards is None else set(shards)):
        rows = plan.rows(shard)
        if shard in todo:
            own = islice(stream, rows.start - position, rows.stop - position)
            tell = _shifted(on_progress, n_before)
            embed_shard(own, encoder, folder, plan, shard, on_progress=tell)
            deque(own, maxlen=0)  # read what another process has embedded meanwhile
            position = rows.stop
        n_before += len(rows)
    if on_progress is not None:
        on_progress(n_before)


def embed_shard(
    passages: Iterable[Passage],
    encoder: Encoder,
    folder: Path,
    plan: Plan,
    shard: int,
    *,
    wait_s: float = 0.0,
    on_progress: Progress | None = None,
) -> None:
    """Embeds one shard from `passages`, which are its own only, in order.

    Waits `wait_s` seconds for another process that writes it, then raises `BadInput`. Raises
    `EngineError` for vectors of a wrong shape and for infinite ones, which float16 overflow gives.
    """

    def encode(batch: list[Passage], n_before: int) -> tuple[list[Passage], Vectors]:
        vectors = np.empty((len(batch), plan.encoder.dim), dtype=np.float32)
        for first in range(0, len(batch), _AT_ONCE):
            some = batch[first : first + _AT_ONCE]
            vectors[first : first + len(some)] = _checked(
                encode_passages(encoder, some), some, plan
            )
            if on_progress is not None:
                on_progress(n_before + first + len(some))
        return batch, vectors

    fill_shard(passages, encode, folder, plan, shard, wait_s=wait_s)


def fill_shard(
    items: Iterable[T],
    to_vectors: Callable[[list[T], int], tuple[Sequence[Passage], Vectors]],
    folder: Path,
    plan: Plan,
    shard: int,
    *,
    wait_s: float = 0.0,
) -> None:
    """Commits one shard, an item a row, from where it stands; for whoever makes the vectors.

    `to_vectors` gets the items of a commit, and how many rows of the shard come before them.
    """
    rows, started = plan.rows(shard), time.monotonic()
    name = plan.table_name(shard)
    with _locked(folder, name, wait_s):
        with _storage(folder):
            schema = passages_schema(plan.encoder.dim)
            table = connect(folder).create_table(name, schema=schema, exist_ok=True)
        n_done = n_before = _sound_count(folder, plan, shard, table)
        stream = islice(items, n_done, None)
        while n_done < len(rows):
            wanted = min(plan.commit_rows, len(rows) - n_done)
            batch = list(islice(stream, wanted))
            if len(batch) < wanted:
                raise BadInput(
                    f"cannot embed shard {shard} of {plan.n_shards}: the passages ended after "
                    f"{rows.start + n_done + len(batch)}, expected {plan.corpus.n_passages} as "
                    "were counted before; run again when the files no longer change"
                )
            passages, vectors = to_vectors(batch, n_done)
            first_row, files = rows.start + n_done, [NO_FILE] * wanted
            with _storage(folder):
                table.add(record_batch(passages, vectors, first_row=first_row, files=files))
            n_done += wanted
    if n_done > n_before:
        seconds = time.monotonic() - started
        logger.info("embedded %s passages of shard %s in %.1f s", n_done - n_before, shard, seconds)


def committed_rows(folder: Path, plan: Plan, shards: Sequence[int]) -> list[int]:
    """How many rows of each of `shards` are safe on disk."""
    database, counts = connect(folder), []
    for name in map(plan.table_name, shards):
        try:
            counts.append(int(database.open_table(name).count_rows()))
        except ValueError:  # no such table, or one killed before its first version
            counts.append(0)
    return counts


def unfinished_shards(folder: Path, plan: Plan) -> list[int]:
    """The shards of a folder that lack rows, in order."""
    counts = committed_rows(folder, plan, range(plan.n_shards))
    return [shard for shard, n_done in enumerate(counts) if n_done < len(plan.rows(shard))]


def _checked(vectors: Vectors, passages: Sequence[Passage], plan: Plan) -> Vectors:
    if vectors.shape != (len(passages), plan.encoder.dim) or not np.isfinite(vectors).all():
        raise EngineError(
            f"cannot embed passage {passages[0].id!r} and {len(passages) - 1} others: found "
            f"vectors of shape {vectors.shape}, or infinite ones, from encoder "
            f"{plan.encoder.name!r}; expected finite ones of {plan.encoder.dim} dims, so use "
            "float32 or another encoder"
        )
    return vectors


def _shifted(on_progress: Progress | None, n_before: int) -> Progress | None:
    return None if on_progress is None else lambda n_done: on_progress(n_before + n_done)


def _sound_count(folder: Path, plan: Plan, shard: int, table: Any) -> int:
    """Rows of a shard; raises `BadInput` when commits of this plan cannot have left so many."""
    rows, n_done = plan.rows(shard), int(table.count_rows())
    is_sound = n_done == len(rows) or (n_done < len(rows) and n_done % plan.commit_rows == 0)
    if not is_sound:
        raise damaged(folder, plan, shard, f"{n_done} of {len(rows)} rows")
    return n_done


def damaged(folder: Path, plan: Plan, shard: int, found: str) -> BadInput:
    """The one sentence for a shard that cannot be used."""
    return BadInput(
        f"cannot use shard {shard} of the embeddings in {folder}: found {found}, expected the "
        f"rows in order, each once; delete {plan.table_name(shard)}.lance and embed shard "
        f"{shard}/{plan.n_shards} again"
    )


@contextmanager
def _locked(folder: Path, name: str, wait_s: float) -> Iterator[None]:
    """Keeps other processes from a shard; the system lets go when this one ends, however."""
    with _storage(folder):
        (folder / ".locks").mkdir(exist_ok=True)
        handle = (folder / ".locks" / name).open("a")
    give_up = time.monotonic() + wait_s
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise BadInput(
                        f"cannot embed {name} into {folder}: another process is writing it, "
                        "expected one at a time; wait for that one, or name another shard"
                    ) from None
                time.sleep(0.2)
            except OSError as error:  # some network file systems have no locks
                logger.warning("cannot lock %s in %s (%s): run it once only", name, folder, error)
                break
        yield


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses, to Python or to LanceDB, into one sentence of ours."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"cannot write embeddings into {folder}: found {brief(error)!r}, expected a folder "
            "with enough free space; make room, or name another folder, and run again to go on"
        ) from error
