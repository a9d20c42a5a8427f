"""HTML, PDF and docx files to text, by the libraries that know them.

To be run in a process of its own (see `sandbox`): these formats are programs for their readers.
"""

import re
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.ingest.encodings import decode, valid
from selfrag.ingest.formats import Format, ReadOptions, format_of, name_of, open_bytes

_PDF_PASSWORD = 4  # FPDF_ERR_PASSWORD
_PAGE_BREAK = "\n\n"
_HYPHEN = "\ufffe"  # what pdfium puts for a hyphen and line break within a word
_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
# Office files hold XML, which packs 10 to 30 times; Word refuses little that is beyond 100.
_MAX_RATIO = 200
_RATIO_FROM_BYTES = 10 << 20
_CORE = "docProps/core.xml"
_DC_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_TITLE_STYLE = "p[style-name='Title'] => h1:fresh"
_HTML_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_HEADING = re.compile(r"^# +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The text of one file; `doubts` say what of it is missing or may be wrong."""

    title: str
    text: str
    page_starts: tuple[int, ...] = ()
    doubts: tuple[str, ...] = ()


def parse(path: Path, options: ReadOptions) -> Parsed:
    """The text of an HTML, PDF or docx file, and its title, else the file's name.

    Raises `BadInput`, giving the reason alone, for what the format does not allow; the libraries
    raise what they like for broken files.
    """
    file_format = format_of(path)
    if file_format is Format.PDF:
        return _pdf(path, options.max_pages)
    if file_format is Format.DOCX:
        return _docx(path, options.max_bytes)
    return _html(path, options)


def _pdf(path: Path, max_pages: int) -> Parsed:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == _PDF_PASSWORD:
            raise BadInput("encrypted: it opens with a password only; take it off") from error
        raise BadInput(f"broken, or no PDF: {error}") from error
    with closing(pdf):
        n_pages = len(pdf)
        pages, broken = [], []
        for number in range(1, min(n_pages, max_pages) + 1):
            try:
                pages.append(_page_text(pdf, number - 1))
            except pypdfium2.PdfiumError:
                pages.append("")
                broken.append(number)
        title = (pdf.get_metadata_value("Title") or "").strip()
    if not any(pages):
        raise BadInput(f"no text on its {n_pages} pages: scanned? then run OCR over it first")
    doubts = [f"page {number} is broken and left out" for number in broken[:5]]
    if len(broken) > len(doubts):
        doubts.append(f"{len(broken) - len(doubts)} more pages are broken and left out")
    if n_pages > max_pages:
        doubts.append(f"only {max_pages} of {n_pages} pages are read, the limit")
    return Parsed(
        title=title or name_of(path),
        text=_PAGE_BREAK.join(pages),
        page_starts=_starts(pages),
        doubts=tuple(doubts),
    )


def _page_text(pdf: Any, index: int) -> str:
    with closing(pdf[index]) as page, closing(page.get_textpage()) as textpage:
        text: str = textpage.get_text_range()
    text = text.replace("\r\n", "\n").replace(_HYPHEN, "").replace("\0", "")
    return valid(text.strip())


def _starts(pages: list[str]) -> tuple[int, ...]:
    starts, start = [], 0
    for page in pages:
        starts.append(start)
        start += len(page) + len(_PAGE_BREAK)
    return tuple(starts)


def _html(path: Path, options: ReadOptions) -> Parsed:
    import trafilatura

    with open_bytes(path) as stream:
        data = stream.read(options.max_bytes + 1)
    if len(data) > options.max_bytes:
        raise BadInput(f"unpacked larger than the limit of {options.max_mb} MB")
    declared = _HTML_CHARSET.search(data[:4096])
    charset = declared[1].decode("ascii") if declared else ""
    html, doubt = decode(data, declared=options.encoding or charset)
    found = trafilatura.bare_extraction(html, include_comments=False, with_metadata=True)
    if found is not None and (found.text or "").strip():
        title, text = found.title or "", found.text
    else:
        title, text = _stripped(html)
    doubts = (doubt,) if doubt else ()
    return Parsed(title=title or name_of(path), text=valid(text), doubts=doubts)


def _stripped(html: str) -> tuple[str, str]:
    """The title and all the text of a page in which trafilatura finds no main text."""
    import lxml.html
    import trafilatura

    try:
        tree = lxml.html.document_fromstring(html)
    except (lxml.etree.ParserError, ValueError) as error:
        raise BadInput(f"no HTML in it: {error}") from error
    return " ".join((tree.findtext(".//title") or "").split()), trafilatura.html2txt(tree)


def _docx(path: Path, max_bytes: int) -> Parsed:
    with path.open("rb") as stream:
        if stream.read(len(_OLE_MAGIC)) == _OLE_MAGIC:
            raise BadInput("encrypted, or in the older .doc format; save it as plain .docx")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_ratio(archive, max_bytes)
            title = _core_title(archive)
    except zipfile.BadZipFile as error:
        raise BadInput(f"broken, or no docx file: {error}") from error
    text = valid(_docx_text(path))
    heading = _HEADING.search(text)
    return Parsed(title=title or (heading[1] if heading else name_of(path)), text=text)


def _check_ratio(archive: zipfile.ZipFile, max_bytes: int) -> None:
    entries = archive.infolist()
    n_bytes = sum(entry.file_size for entry in entries)
    n_packed = sum(entry.compress_size for entry in entries)
    if n_bytes > max_bytes:
        raise BadInput(
            f"unpacks to {n_bytes >> 20} MB, more than the limit of {max_bytes >> 20} MB"
        )
    if n_bytes > max(_RATIO_FROM_BYTES, _MAX_RATIO * n_packed):
        raise BadInput(f"unpacks to {n_bytes // max(n_packed, 1)} times its size: a zip bomb?")


def _core_title(archive: zipfile.ZipFile) -> str:
    from xml.etree import ElementTree

    if _CORE not in archive.namelist():
        return ""
    try:
        core = ElementTree.fromstring(archive.read(_CORE))
    except ElementTree.ParseError:
        return ""
    return (core.findtext(_DC_TITLE) or "").strip()


def _docx_text(path: Path) -> str:
    import mammoth
    from markdownify import markdownify

    without_images = mammoth.images.img_element(lambda _: {})
    with path.open("rb") as stream:
        html = mammoth.convert_to_html(
            stream, style_map=_TITLE_STYLE, convert_image=without_images
        ).value
    markdown: str = markdownify(
        html,
        heading_style="ATX",
        bullets="-",
        table_infer_header=True,
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    return markdown.strip()
