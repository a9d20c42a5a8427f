"""File formats by suffix, the packages that read them, and the limits they are read within.

Knows nothing of how any of them is parsed.
"""

import codecs
import gzip
import importlib.util
import mimetypes
import re
import zlib
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
    SHEETS = "sheets"
    SLIDES = "slides"
    OPEN_DOCUMENT = "odt"
    RTF = "rtf"
    EPUB = "epub"
    EMAIL = "email"
    NOTEBOOK = "notebook"
    XML = "xml"
    RST = "rst"
    TABLE = "table"
    JSON_LINES = "jsonl"
    JSON = "json"
    UNKNOWN = "unknown"


# Source code and settings, which are read as they are.
_CODE = (
    "adoc asm awk bash bat bib c cc cfg clj cls cmake cmd coffee conf cpp cs css cxx d dart diff "
    "dockerfile el env erl ex exs f f90 fish fs go gradle graphql groovy h hh hpp hs htaccess hxx "
    "ini java jl js jsx kt kts less lisp log lua m m4 mjs mk ml mm nix nim pas patch php pl pm po "
    "pod properties proto ps1 psm1 pxd py pyi pyx r rake rb rs rst rules s sass scala scm scss sh "
    "sql srt ss sty styl svelte swift tcl tex textile tf toml ts tsx v vb vhd vim vtt vue wiki "
    "yaml yml zig zsh"
).split()
_SUFFIXES = {f".{name}": Format.TEXT for name in ("txt", "text", "org", *_CODE)} | {
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".mdx": Format.MARKDOWN,
    ".rst": Format.RST,
    ".rest": Format.RST,
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".xhtml": Format.HTML,
    ".xht": Format.HTML,
    ".pdf": Format.PDF,
    ".docx": Format.DOCX,
    ".xlsx": Format.SHEETS,
    ".xlsm": Format.SHEETS,
    ".xlsb": Format.SHEETS,
    ".xls": Format.SHEETS,
    ".ods": Format.SHEETS,
    ".pptx": Format.SLIDES,
    ".odt": Format.OPEN_DOCUMENT,
    ".odp": Format.OPEN_DOCUMENT,
    ".rtf": Format.RTF,
    ".epub": Format.EPUB,
    ".eml": Format.EMAIL,
    ".ipynb": Format.NOTEBOOK,
    ".xml": Format.XML,
    ".csv": Format.TABLE,
    ".tsv": Format.TABLE,
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
    ".json": Format.JSON,
}
EXPECTED = (
    "text, source code, Markdown, reStructuredText, HTML, XML, PDF, docx, odt, rtf, pptx, xlsx, "
    "ods, epub, eml, ipynb, csv, tsv, json or jsonl"
)
_SNIFFED_BYTES = 4096  # of a file without a suffix, to see whether it is text
_NO_TEXT = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")  # no such signs are in text
# What is said of files that are not read, by the first part of their type.
_KINDS = {"image": "an image", "audio": "audio", "video": "video", "font": "a font"}
_ARCHIVES = {".zip", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".jar", ".whl"}
_PACKAGES = {
    Format.HTML: ("lxml",),
    Format.PDF: ("pypdfium2",),
    Format.DOCX: ("mammoth", "lxml"),
    Format.SHEETS: ("python_calamine",),
    Format.SLIDES: ("pptx",),
    Format.OPEN_DOCUMENT: ("lxml",),
    Format.RTF: ("striprtf",),
    Format.EPUB: ("lxml",),
    Format.EMAIL: ("lxml",),
    Format.XML: ("lxml",),
}
_TEXT_HELP = "Column with the text of a row; again for another."
_IGNORE_HELP = "Leave out what matches, as in a .gitignore; again for another."
_TITLE_HELP = "Column that titles a row; again for another."
_GZIPPED = {Format.TEXT, Format.MARKDOWN, Format.RST, Format.HTML, Format.TABLE}
_GZIPPED |= {Format.JSON_LINES, Format.JSON}


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
    ignore: tuple[str, ...] = setting((), _IGNORE_HELP, is_repeated=True)

    def __post_init__(self) -> None:
        for name in ("max_mb", "max_pages", "timeout_s", "memory_mb"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"cannot read documents: {name} is {getattr(self, name)}, expected more than 0"
                )
        # Lists, of JSON and of the command line.
        for name in ("text_column", "title_column", "ignore"):
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
    """The format by the suffix, in any case; `.gz` after it is looked through where it may be.

    A file without a suffix is text where its first bytes are.
    """
    suffix = Path(path.stem).suffix if is_gzipped(path) else path.suffix
    if not suffix:
        return Format.TEXT if _begins_as_text(path) else Format.UNKNOWN
    found = _SUFFIXES.get(suffix.lower(), Format.UNKNOWN)
    return Format.UNKNOWN if is_gzipped(path) and found not in _GZIPPED else found


def _begins_as_text(path: Path) -> bool:
    try:
        if not path.is_file():  # a pipe would wait
            return False
        with open_bytes(path) as stream:
            sample = stream.read(_SNIFFED_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    return not _NO_TEXT.search(sample) and not sample.startswith(b"%PDF")


def not_read(path: Path) -> str:
    """What a file of no format of ours is, and that it is not read."""
    if path.suffix.lower() in _ARCHIVES:
        return "an archive, which is not read: unpack it"
    kind, _ = mimetypes.guess_type(path.name)
    what = _KINDS.get((kind or "").partition("/")[0], "")
    if not what:
        what = f"a {path.suffix.lower()} file" if path.suffix else "no text"
    return f"{what}, which is not read"


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
