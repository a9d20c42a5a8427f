"""What an index is made of: the manifest beside its tables.

Knows nothing of the tables, of vectors or of search.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from selfrag.errors import IndexMismatch, IndexNotUsable
from selfrag.files import write_text
from selfrag.retrieval.objectstore import TIMEOUT_S, Location, Objects, is_remote
from selfrag.retrieval.spec import EncoderSpec
from selfrag.serial import from_builtins, json_text

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 3


class IndexKind(StrEnum):
    """What answers a search by meaning.

    EXACT compares with every vector. BALANCED keeps one bit a component and a correction (RaBitQ,
    arXiv 2405.12497) and compares the best with their exact vectors from disk; SMALL does so with
    product quantisation, in less space. HNSW keeps a graph (arXiv 1603.09320) over bytes: quick,
    large and slow to build. AUTO: EXACT for a small index, else BALANCED.
    """

    AUTO = "auto"
    EXACT = "exact"
    BALANCED = "balanced"
    SMALL = "small"
    HNSW = "hnsw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """How an index was made, and when (UTC, ISO 8601); what it holds is in its tables.

    `chunking` and `chunk_words` say how its files are cut, and `cut_rows` whether rows with an id
    are; `encoding` is that of its text files, empty where each has its own; `text_column` and
    `title_column` are what its rows are read by; `ignore` are patterns of what is left out of the
    `roots`, the files and folders that it stands for. `n_probes` and `refine_factor` are those of a
    vector search, 0 for the usual ones. `attribution`: the licence line that the passages ask for.
    """

    format_version: int
    encoder: EncoderSpec
    kind: IndexKind
    chunking: str
    chunk_words: int
    roots: tuple[str, ...]
    created_at: str
    selfrag_version: str
    attribution: str
    n_probes: int = 0
    refine_factor: int = 0
    cut_rows: bool = False
    encoding: str = ""
    text_column: tuple[str, ...] = ()
    title_column: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @classmethod
    def load(cls, location: Location, *, timeout_s: float = TIMEOUT_S) -> "Manifest":
        """The manifest of the index at `location`; `IndexNotUsable` where there is no sound one.

        `StorageError` where an object store does not answer, for which `timeout_s` is.
        """
        try:
            if is_remote(location):
                data, _ = Objects(str(location), timeout_s=timeout_s).get(MANIFEST_NAME)
            else:
                data = (Path(location) / MANIFEST_NAME).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            is_there = is_remote(location) or Path(location).is_dir()
            found = f"a folder without {MANIFEST_NAME}" if is_there else "no such folder"
            raise not_usable(location, found) from error
        except OSError as error:
            found = f"a {MANIFEST_NAME} that cannot be read ({error})"
            raise not_usable(location, found) from error
        return cls.from_json(data, location)

    @classmethod
    def from_json(cls, text: str | bytes, path: Location) -> "Manifest":
        """The manifest that `text` spells; `path` is only named in errors."""
        try:
            written = json.loads(text)
            version = written["format_version"]
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise not_usable(path, f"a {MANIFEST_NAME} that cannot be read ({error!r})") from error
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise IndexNotUsable(
                f"cannot open the index {path}: found index format {version}, not "
                f"{FORMAT_VERSION}: a newer version of selfrag made it, expected one that this "
                "version knows; upgrade selfrag"
            )
        if version != FORMAT_VERSION:
            raise not_usable(path, f"index format {version}, not {FORMAT_VERSION}")
        try:
            # A field that is not known may be one that decides on vectors.
            return from_builtins(cls, written, closed=True)
        except ValueError as error:
            raise not_usable(path, f"a damaged {MANIFEST_NAME} ({error})") from error

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return json_text(self, indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Writes the manifest into the index folder `path`, whole or not at all."""
        write_text(path / MANIFEST_NAME, self.to_json())

    def check_encoder(
        self, spec: EncoderSpec, location: Location, *, for_passages: bool = False
    ) -> None:
        """Raises `IndexMismatch` where the encoder of `spec` cannot query this index.

        Whoever adds `for_passages` has to write and cut them in the same way, too.
        """
        if difference := self.encoder.difference(spec, for_passages=for_passages):
            raise IndexMismatch(
                f"cannot open the index {location}: it was built with another encoder than the one "
                f"that asks ({difference}); rebuild with `selfrag index build` or use the encoder "
                "it was built with"
            )


def not_usable(path: Location, found: str) -> IndexNotUsable:
    """The one sentence for an index that cannot be opened."""
    return IndexNotUsable(
        f"cannot open the index {path}: found {found}, expected a complete selfrag index; "
        "build one with `selfrag index build`, or name the folder of one"
    )
