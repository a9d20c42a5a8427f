"""What a folder of embedding shards holds: which corpus, which encoder, which rows where.

Knows nothing of how vectors come about.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import BadInput, ConfigError, StorageError
from selfrag.files import locked, write_json
from selfrag.passage import Passage
from selfrag.retrieval.spec import EncoderSpec, shown
from selfrag.retrieval.table import brief
from selfrag.serial import from_builtins
from selfrag.text import counted

PLAN_NAME = "embed.json"
FORMAT_VERSION = 1
# What a kill can cost: 5 minutes of MiniLM on one core. At 768 dims a commit is a file of 30 MB.
COMMIT_ROWS = 8192
SHARD_ROWS = 65_536
_CLAIM_WAIT_S = 60.0

Vectors = NDArray[np.float32]
Progress = Callable[[int], None]


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
                f"cannot embed {counted(self.corpus.n_passages, 'passage')} in "
                f"{counted(self.n_shards, 'shard')} with {self.commit_rows} a commit: expected at "
                "least one of each and a passage for every shard; name passages, or fewer shards"
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
            if (version := written.pop("format_version")) != FORMAT_VERSION:
                newer = ": upgrade selfrag" if version > FORMAT_VERSION else ""
                raise ValueError(f"format {version}, not {FORMAT_VERSION}{newer}")
            return from_builtins(cls, written, closed=True)
        except (
            AttributeError,
            OSError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
            ConfigError,
        ) as error:
            raise BadInput(
                f"cannot use the embeddings in {folder}: found no sound {PLAN_NAME} ({error}), "
                "expected a folder that `selfrag embed` has written; name one, or embed anew"
            ) from error

    def _write(self, folder: Path) -> None:
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if any(path.suffix == ".lance" for path in folder.iterdir()):
                raise BadInput(
                    f"cannot embed into {folder}: found tables without {PLAN_NAME} there, "
                    "expected an empty folder or shards of this run; name another folder"
                )
        # Workers that are started together all find no plan.
        with locked(folder / PLAN_NAME, wait_s=_CLAIM_WAIT_S):
            if not (folder / PLAN_NAME).is_file():
                written = {"format_version": FORMAT_VERSION, **asdict(self)}
                write_json(folder / PLAN_NAME, written, indent=2)

    def _differences(self, found: "Plan") -> list[str]:
        mine, other = (
            {**asdict(p.encoder), **asdict(p.corpus), **asdict(p)} for p in (self, found)
        )
        nested = ("encoder", "corpus")
        names = [name for name in mine if mine[name] != other[name] and name not in nested]
        return [f"{name} {shown(other[name])} against {shown(mine[name])}" for name in names]


def planned(
    folder: Path, spec: EncoderSpec, corpus: Corpus, *, n_shards: int = 0, at_least: int = 1
) -> Plan:
    """As many shards as asked for; else as in the folder, if it is begun, or as usual."""
    there = Plan.load(folder) if (folder / PLAN_NAME).is_file() else None
    usual = there.n_shards if there else default_shards(corpus.n_passages, at_least=at_least)
    return Plan(
        encoder=spec,
        corpus=corpus,
        n_shards=n_shards or usual,
        commit_rows=there.commit_rows if there else COMMIT_ROWS,
    )


def damaged(folder: Path, plan: Plan, shard: int, found: str) -> BadInput:
    """The one sentence for a shard that cannot be used."""
    return BadInput(
        f"cannot use shard {shard} of the embeddings in {folder}: found {found}, expected the "
        f"rows in order, each once; delete {plan.table_name(shard)}.lance and embed shard "
        f"{shard}/{plan.n_shards} again"
    )


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses, to Python or to LanceDB, into one sentence of ours."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"cannot write embeddings into {folder}: found {brief(error)!r}, expected a folder "
            "with enough free space; make room, or name another folder, and run again to go on"
        ) from error
