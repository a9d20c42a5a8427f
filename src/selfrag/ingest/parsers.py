"""Files of all formats that take a parser to text, by the libraries that know them.

To be run in a process of its own (see `sandbox`): these formats are programs for their readers.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from selfrag.errors import BadInput
from selfrag.ingest.bundles import read_email, read_epub, read_notebook, read_xml
from selfrag.ingest.docx import read_docx
from selfrag.ingest.encodings import declared_encoding, decode, visible
from selfrag.ingest.formats import Format, ReadOptions, format_of, open_bytes
from selfrag.ingest.html import page_text, page_titles, parse_html
from selfrag.ingest.office import read_opendocument, read_rtf, read_sheets, read_slides
from selfrag.ingest.parsed import Parsed, in_pages
from selfrag.ingest.pdf import read_pdf
from selfrag.ingest.titles import title_of

_HEADING = re.compile(r"^# +(.+?) *$", re.MULTILINE)


READERS: Mapping[Format, Callable[[Path, ReadOptions], Parsed]] = {
    Format.SHEETS: read_sheets,
    Format.SLIDES: read_slides,
    Format.OPEN_DOCUMENT: read_opendocument,
    Format.RTF: read_rtf,
    Format.EPUB: read_epub,
    Format.EMAIL: read_email,
    Format.NOTEBOOK: read_notebook,
    Format.XML: read_xml,
}


def parse(path: Path, options: ReadOptions) -> Parsed:
    """The text of a file that takes a parser, and its title, else the file's name.

    Raises `BadInput`, giving the reason alone, for what the format does not allow; the libraries
    raise what they like for broken files.
    """
    file_format = format_of(path)
    if file_format is Format.PDF:
        return _pdf(path, options.max_pages)
    if file_format is Format.DOCX:
        return _docx(path, options.max_bytes)
    if file_format in READERS:
        found = READERS[file_format](path, options)
        return replace(found, title=title_of(path, found.title))
    return _html(path, options)


def _pdf(path: Path, max_pages: int) -> Parsed:
    found = read_pdf(path, max_pages)
    return in_pages(found.pages, title=title_of(path, found.title), doubts=found.doubts)


def _html(path: Path, options: ReadOptions) -> Parsed:
    with open_bytes(path) as stream:
        data = stream.read(options.max_bytes + 1)
    if len(data) > options.max_bytes:
        raise BadInput(f"unpacked larger than the limit of {options.max_mb} MB")
    html, doubt = decode(data, named=options.encoding, declared=declared_encoding(data))
    tree = parse_html(html)
    return Parsed(
        title=title_of(path, *page_titles(tree)),
        text=visible(page_text(tree)),
        doubts=(doubt,) if doubt else (),
    )


def _docx(path: Path, max_bytes: int) -> Parsed:
    found = read_docx(path, max_bytes)
    heading = _HEADING.search(found.text)
    title = title_of(path, found.title, heading[1] if heading else "")
    return Parsed(title=title, text=visible(found.text), doubts=found.doubts)
