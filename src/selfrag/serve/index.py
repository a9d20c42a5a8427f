"""The index of a server: searched by many, changed by one upload at a time.

Documents that are uploaded are kept in a folder, from which they can be shown again. Knows nothing
of HTTP.
"""

import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from selfrag import indexing
from selfrag.errors import BadInput
from selfrag.files import replacing
from selfrag.indexing import Changes
from selfrag.ingest.faults import Skipped
from selfrag.open import indexes
from selfrag.passage import Hit, Passage
from selfrag.progress import Progress
from selfrag.retrieval.encoder.base import Encoder
from selfrag.retrieval.manifest import Manifest
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.spec import Precision
from selfrag.retrieval.store import metadata_condition

DEMO = "demo"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index is, and the folder of what is uploaded to it."""

    index: str
    documents: Path

    @classmethod
    def of(cls, index: str | None, documents: Path | None) -> "Place":
        """That of the index at `index`; of the demo index a copy, which uploads may change."""
        demo = indexes.demo_index_dir()
        path = index or str(demo.with_name(f"served-{demo.name}"))
        is_here = "://" not in path
        beside = Path(path).absolute() if is_here else demo.parent / path.rpartition("/")[2]
        return cls(path, documents or beside.with_name(f"{beside.name}.documents"))


class ServedIndex:
    """One index, open. All methods may be called from any thread.

    `encoder` is for what is added; the one that the index was made with is opened where it is None.
    """

    def __init__(
        self, place: Place, store: Any, *, name: str, encoder: Encoder | None = None
    ) -> None:
        self.place, self.name = place, name
        self._store = store
        self._searching = threading.Lock()
        self._changing = threading.Lock()
        self._keeping = threading.Lock()
        self._encoder = encoder

    @classmethod
    def open(cls, index: str | None, documents: Path | None, progress: Progress) -> "ServedIndex":
        """The index at `index`, or a copy of the demo index, made on first use."""
        place = Place.of(index, documents)
        if index is None:
            _copy_demo(Path(place.index), progress)
        return cls(place, indexes.open_index(place.index, progress), name=index or DEMO)

    @property
    def n_passages(self) -> int:
        """Passages that a search may find."""
        return int(self._store.n_passages)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """What every query finds; see `Retriever`."""
        with self._searching:
            found: list[list[Hit]] = self._store.search(queries, top_k)
        return found

    def find(
        self, query: str, top_k: int, *, mode: SearchMode, metadata: Mapping[str, str]
    ) -> list[Hit]:
        """Hits among the passages that have all of `metadata`."""
        with self._searching:
            if indexes.is_postgres(self.place.index):
                options = SearchOptions(mode=mode)
                return list(
                    self._store.search([query], top_k, options=options, metadata=metadata)[0]
                )
            where = metadata_condition(metadata) if metadata else ""
            options = SearchOptions(mode=mode, where=where)
            return list(self._store.search([query], top_k, options=options)[0])

    def passage(self, passage_id: str) -> Passage | None:
        """The passage of this id, None where there is none."""
        self._require_files("show a passage")
        found: Passage | None = self._store.passage(passage_id)
        return found

    def original(self, passage: Passage) -> Path | None:
        """The file that a passage was read from, where the index knows it and it is there."""
        path = Path(passage.source)
        held = indexes.index_facts(self.place.index)["files"]
        return path if indexing.key_of(path) in held and path.is_file() else None

    def facts(self) -> dict[str, Any]:
        """What the index holds and how it was made, with the names of its files."""
        if indexes.is_postgres(self.place.index):
            return {"n_passages": self.n_passages, "n_files": 0, "files": []}
        return indexes.index_facts(self.place.index)

    def keep(self, name: str, content: BinaryIO) -> Path:
        """Stores an upload under its name, durable and whole, in place of an earlier one."""
        self._require_files("add a document")
        path = self.place.documents / _file_name(name)
        self.place.documents.mkdir(parents=True, exist_ok=True)
        with self._keeping, replacing(path, "a document") as part, part.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK_BYTES)
        return path

    def add(self, paths: Sequence[Path], progress: Progress) -> tuple[Changes, list[Skipped]]:
        """Puts files into the index; they are durable and can be found when this returns."""
        skipped: list[Skipped] = []
        with self._changing:
            changes = indexing.add(
                self.place.index,
                paths,
                self._passage_encoder(progress),
                on_skip=skipped.append,
                progress=progress,
            )
            self._store.refresh()
        return changes, skipped

    def update(self, progress: Progress) -> tuple[Changes, list[Skipped]]:
        """Reads again what has changed of the files that the index was made of."""
        self._require_files("update")
        skipped: list[Skipped] = []
        with self._changing:
            changes = indexing.update(
                self.place.index,
                (),
                self._passage_encoder(progress),
                on_skip=skipped.append,
                progress=progress,
            )
            self._store.refresh()
        return changes, skipped

    def delete(self, file: str, progress: Progress) -> int:
        """Takes a file out, and away where it was uploaded; how many passages went."""
        self._require_files("delete")
        if file not in self.facts()["files"]:  # no folders and patterns, as on a command line
            raise BadInput(
                "cannot delete: the index holds no such file; expected the `source` of one that "
                "GET /v1/documents lists, so choose one of these"
            )
        with self._changing:
            encoder = self._passage_encoder(progress)
            n_gone, _ = indexing.delete(self.place.index, encoder, files=[file])
            self._store.refresh()
        path = Path(file)
        if path.parent == self.place.documents.absolute():
            path.unlink(missing_ok=True)
        return n_gone

    def _passage_encoder(self, progress: Progress) -> Encoder:
        if self._encoder is None:
            self._encoder = indexes.passage_encoder_of(Manifest.load(self.place.index), progress)
        return self._encoder

    def _require_files(self, doing: str) -> None:
        if indexes.is_postgres(self.place.index):
            raise BadInput(
                f"cannot {doing}: the index is in PostgreSQL, which is changed from Python alone; "
                "expected one in a folder or on object storage; serve one of these"
            )


def _file_name(name: str) -> str:
    """The last part of an upload's name, where that can be the name of a file here."""
    bare = name.replace("\\", "/").rpartition("/")[2].strip()
    is_odd = not bare or bare.startswith(".") or not bare.isprintable()
    if is_odd or len(bare.encode("utf-8", "replace")) > 200:
        raise BadInput(
            f"cannot add a document named {name!r:.80}: expected the name of a file, of at most "
            "200 bytes and not hidden; rename it"
        )
    return bare


def _copy_demo(path: Path, progress: Progress) -> None:
    """A copy of the demo index at `path`, to which documents of any length can be added."""
    if path.is_dir():
        return
    source = indexes.build_demo_index(progress)
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        shutil.copytree(source, part)
        manifest = Manifest.load(part)
        # Leads are encoded by their first words; documents in passages of 100 words, each whole.
        encoder = replace(manifest.encoder, precision=Precision.INT8, max_tokens=256)
        replace(manifest, encoder=encoder, chunking="words", chunk_words=100).save(part)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
