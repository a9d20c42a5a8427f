"""Files of all formats that take a parser to text, by the libraries that know them.

To be run in a process of its own (see `sandbox`): these formats are programs for their readers.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from selfrag.ingest.bundles import read_email, read_epub, read_notebook, read_xml
from selfrag.ingest.docx import read_docx
from selfrag.ingest.formats import Format, ReadOptions, format_of
from selfrag.ingest.html import read_html
from selfrag.ingest.office import read_opendocument, read_rtf, read_sheets, read_slides
from selfrag.ingest.parsed import Parsed
from selfrag.ingest.pdf import read_pdf
from selfrag.ingest.titles import title_of

READERS: Mapping[Format, Callable[[Path, ReadOptions], Parsed]] = {
    Format.HTML: read_html,
    Format.PDF: read_pdf,
    Format.DOCX: read_docx,
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
    found = READERS[format_of(path)](path, options)
    return replace(found, title=title_of(path, found.title))
