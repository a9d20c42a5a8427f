"""File formats by suffix, the packages that read them, and the limits they are read within.

Knows nothing of how any of them is parsed.
"""

import codecs
import gzip
import importlib.util
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from selfrag.errors import ConfigError
from selfrag.serial import setting


class Format(StrEnum):
    """How a file is read."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"
    TABLE = "table"
    JSON_LINES = "jsonl"
    UNKNOWN = "unknown"


_SUFFIXES = {
    ".txt": Format.TEXT,
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".pdf": Format.PDF,
    ".docx": Format.DOCX,
    ".csv": Format.TABLE,
    ".tsv": Format.TABLE,
    ".jsonl": Format.JSON_LINES,
}
EXPECTED = ", ".join(_SUFFIXES)
_PACKAGES = {
    Format.HTML: ("lxml",),
    Format.PDF: ("pypdfium2",),
    Format.DOCX: ("mammoth", "lxml"),
}
_TEXT_HELP = "Column with the text of a row; again for another."
_TITLE_HELP = "Column that titles a row; again for another."
_NEVER_GZIPPED = {Format.PDF, Format.DOCX, Format.UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Limits of reading, and how it is done."""

    max_mb: int = setting(512, "Larger files are skipped; rows have no limit.")  # one document
    max_pages: int = 20_000  # of a PDF; what follows is left out
    timeout_s: float = 300.0  # for one HTML, PDF or docx file
    memory_mb: int = 4096  # for the process that parses those, where the system can limit it
    encoding: str = setting("", "Of text, HTML and tables; found out if not given.")
    cut_rows: bool = setting(False, "Cut rows that have an id, too.")
    text_column: tuple[str, ...] = setting((), _TEXT_HELP, is_repeated=True)
    title_column: tuple[str, ...] = setting((), _TITLE_HELP, is_repeated=True)

    def __post_init__(self) -> None:
        for name in ("max_mb", "max_pages", "timeout_s", "memory_mb"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"cannot read documents: {name} is {getattr(self, name)}, expected more than 0"
                )
        for name in ("text_column", "title_column"):  # lists, of JSON and of the command line
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.encoding:
            self._check_encoding()

    @property
    def max_bytes(self) -> int:
        """`max_mb` in bytes."""
        return self.max_mb << 20

    def _check_encoding(self) -> None:
        try:
            is_text = codecs.lookup(self.encoding)._is_text_encoding
        except (LookupError, ValueError):
            is_text = False
        if not is_text:
            raise ConfigError(
                f"cannot read documents: found the encoding {self.encoding!r}, expected a name "
                "that Python knows, such as cp1252 or utf-16"
            )


def format_of(path: Path) -> Format:
    """The format by the suffix, in any case; `.gz` after it is looked through where it may be."""
    suffix = Path(path.stem).suffix if is_gzipped(path) else path.suffix
    found = _SUFFIXES.get(suffix.lower(), Format.UNKNOWN)
    return Format.UNKNOWN if is_gzipped(path) and found in _NEVER_GZIPPED else found


def is_gzipped(path: Path) -> bool:
    """Whether the name says so."""
    return path.suffix.lower() == ".gz"


def is_one_document(file_format: Format) -> bool:
    """Whether a file of the format is read whole, as one document."""
    return file_format not in {Format.TABLE, Format.JSON_LINES}


def name_of(path: Path) -> str:
    """The file's name without its suffixes, which titles what has no title."""
    return Path(path.stem).stem if is_gzipped(path) else path.stem


def missing_package(file_format: Format) -> str:
    """The first package that reading the format takes and that is not installed, or ''."""
    packages = _PACKAGES.get(file_format, ())
    return next((name for name in packages if importlib.util.find_spec(name) is None), "")


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked."""
    return gzip.open(path, "rb") if is_gzipped(path) else path.open("rb")  # type: ignore[return-value]
