"""Spreadsheets, slides, OpenDocument text and RTF to text; docx has a file of its own.

To be run in a process of its own, as all parsers are. Knows nothing of passages.
"""

import datetime as dt
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.ingest.docx import check_ratio, xml_parser
from selfrag.ingest.encodings import visible
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.formulas import local_name
from selfrag.ingest.html import parse_html
from selfrag.ingest.markup import Node, to_markdown
from selfrag.ingest.parsed import Parsed, in_pages

ENCRYPTED = "encrypted; save it without a password"
_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
_MAX_REPEATED = 100  # cells of a row that OpenDocument writes as one
_RTF_TITLE = re.compile(r"\{\\title ((?:[^{}\\]|\\.)*)\}")


def read_sheets(path: Path, options: ReadOptions) -> Parsed:
    """A workbook, sheet by sheet: a row is a paragraph of lines `column: value`.

    The columns are named by the first row of several cells, where these are all text; without such
    a row, and in rows of one cell, the values alone are given. A merged cell counts in every row
    and column that it covers. Numbers are shown unrounded, not as the sheet formats them.
    """
    from python_calamine import CalamineWorkbook, PasswordError

    _check(path, options)
    try:
        book = CalamineWorkbook.from_path(str(path))
    except PasswordError as error:
        raise BadInput(ENCRYPTED) from error
    parts = []
    for name in book.sheet_names:
        rows = _filled(book.get_sheet_by_name(name))
        texts = list(_row_texts([[_cell(value) for value in row] for row in rows]))
        if texts:
            parts.append("\n\n".join([f"## {name}", *texts]))
    return Parsed(text=visible("\n\n".join(parts)))


def _filled(sheet: Any) -> list[list[Any]]:
    """The cells, with the value of each merged one in all that it covers."""
    rows: list[list[Any]] = sheet.to_python(skip_empty_area=True)
    top, left = sheet.start or (0, 0)
    for (first_row, first_column), (last_row, last_column) in sheet.merged_cell_ranges or []:
        value = _at(rows, first_row - top, first_column - left)
        for row in rows[max(first_row - top, 0) : last_row - top + 1]:
            for column in range(max(first_column - left, 0), last_column - left + 1):
                if column < len(row) and row[column] == "":
                    row[column] = value
    return rows


def _at(rows: Sequence[Sequence[Any]], row: int, column: int) -> Any:
    is_there = 0 <= row < len(rows) and 0 <= column < len(rows[row])
    return rows[row][column] if is_there else ""


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, dt.datetime):
        is_day = value.time() == dt.time()
        return value.date().isoformat() if is_day else value.isoformat(sep=" ")
    return " ".join(str(value).split())


def _row_texts(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    header: Sequence[str] | None = None
    for place, row in enumerate(rows):
        filled = [value for value in row if value]
        # A merged cell alone in its row is one value.
        if len(set(filled)) < 2:
            yield from filled[:1]
        elif header is None and _is_header(row, rows[place + 1 :]):
            header = row
        else:
            names = header or [""] * len(row)
            yield "\n".join(
                f"{name}: {value}" if name else value
                for name, value in zip(names, row, strict=False)
                if value
            )
            header = header or names


def _is_header(row: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    named = [value for value in row if value]
    is_text = not any(re.fullmatch(r"[-+.,\d\s%]+|\d{4}-\d\d-\d\d.*", value) for value in named)
    return is_text and len(set(named)) == len(named) and any(any(each) for each in below)


def read_slides(path: Path, options: ReadOptions) -> Parsed:
    """The text of every slide, with its tables, charts, diagrams and notes; a slide is a page."""
    from pptx import Presentation
    from pptx.exc import PackageNotFoundError

    _check(path, options)
    try:
        deck = Presentation(str(path))
    except PackageNotFoundError as error:
        raise BadInput(f"broken, or no pptx file: {error}") from error
    pages = []
    for slide in deck.slides:
        texts = [*_shape_texts(slide.shapes), *_diagram_texts(slide)]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            texts.append(slide.notes_slide.notes_text_frame.text)
        pages.append("\n\n".join(text for text in map(_lines, texts) if text))
    titles = [slide.shapes.title.text for slide in deck.slides if slide.shapes.title is not None]
    return in_pages(pages, title=deck.core_properties.title or next(iter(titles), ""))


def _shape_texts(shapes: Any) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _shape_texts(shape.shapes)
        elif shape.has_text_frame:
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            yield "\n".join(
                " | ".join("" if cell.is_spanned else _one_line(cell.text) for cell in row.cells)
                for row in shape.table.rows
            )
        elif getattr(shape, "has_chart", False):
            yield from _chart_texts(shape.chart)


def _chart_texts(chart: Any) -> Iterator[str]:
    if chart.has_title and chart.chart_title.has_text_frame:
        yield chart.chart_title.text_frame.text
    for plot in chart.plots:
        names = [str(each) for each in plot.categories]
        for series in plot.series:
            pairs = zip(names, series.values, strict=False)
            points = ", ".join(f"{name} {value:g}" for name, value in pairs if value is not None)
            yield f"{series.name}: {points}"


def _diagram_texts(slide: Any) -> Iterator[str]:
    """The text of SmartArt, which lies in parts of its own."""
    from lxml import etree

    for relation in slide.part.rels.values():
        if relation.reltype.endswith("/diagramData"):
            tree = etree.fromstring(relation.target_part.blob, xml_parser())
            texts = ("".join(node.itertext()) for node in tree.iter() if local_name(node) == "t")
            yield "\n".join(texts)


def _lines(text: str) -> str:
    lines = (_one_line(line) for line in re.split(r"[\v\n\r]", text))
    return "\n".join(line for line in lines if line)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_opendocument(path: Path, options: ReadOptions) -> Parsed:
    """The text of an .odt or .odp file, without comments and deleted text; a slide is a page."""
    from lxml import etree

    _check(path, options)
    try:
        with zipfile.ZipFile(path) as archive:
            if b"encryption-data" in _member(archive, "META-INF/manifest.xml"):
                raise BadInput(ENCRYPTED)
            content = etree.fromstring(archive.read("content.xml"), xml_parser())
            about = _member(archive, "meta.xml")
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(f"broken, or no OpenDocument file: {error}") from error
    raised = _raised_styles(content)
    slides = [node for node in content.iter() if local_name(node) == "page"]
    bodies = slides or [node for node in content.iter() if local_name(node) == "body"]
    pages = [_markdown("".join(_html(child, raised) for child in body)) for body in bodies]
    titles = etree.fromstring(about, xml_parser()).iter("{*}title") if about else ()
    title = next((node.text or "" for node in titles), "")
    return in_pages(pages, title=title) if slides else Parsed(title=title, text="".join(pages))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    return archive.read(name) if name in archive.namelist() else b""


def _markdown(html: str) -> str:
    return visible(to_markdown(parse_html(html), infers_header=True)) if html.strip() else ""


_BLOCKS = {"p": "p", "list": "ul", "list-item": "li", "table": "table", "table-row": "tr"}
_UNSAID = {
    "tracked-changes", "annotation", "annotation-end", "sequence-decls", "note-citation", "forms",
    "covered-table-cell", "index-title-template", "object", "desc", "title", "settings", "script",
}  # fmt: skip
_SIGNS = {"tab": " ", "line-break": "<br/>"}


def _html(node: Node, raised: dict[str, str]) -> str:
    """An element of OpenDocument as HTML."""
    name = local_name(node)
    if name in _UNSAID:
        return ""
    if name in _SIGNS:
        return _SIGNS[name]
    if name == "s":
        return " " * min(_number(node, "c"), _MAX_REPEATED)
    inner = escape(node.text or "", quote=False) + "".join(
        _html(child, raised) + escape(child.tail or "", quote=False) for child in node
    )
    if name == "h":
        level = min(_number(node, "outline-level"), 6)
        return f"<h{level}>{inner}</h{level}>"
    if name == "table-cell":
        spans = {key: _number(node, f"number-{key}-spanned") for key in ("columns", "rows")}
        html = f'<td colspan="{spans["columns"]}" rowspan="{spans["rows"]}">{inner}</td>'
        is_padding = not inner.strip() and node.getnext() is None
        n_times = 1 if is_padding else min(_number(node, "number-columns-repeated"), _MAX_REPEATED)
        return html * n_times
    if name == "note":
        return f" ({re.sub('<[^>]*>', ' ', inner).strip()})"
    if name == "span" and _attribute(node, "style-name") in raised:
        tag = raised[_attribute(node, "style-name")]
        return f"<{tag}>{inner}</{tag}>"
    tag = _BLOCKS.get(name, "")
    return f"<{tag}>{inner}</{tag}>" if tag else inner


def _raised_styles(content: Node) -> dict[str, str]:
    """Which styles make text an index or an exponent: the tag for each."""
    raised = {}
    for style in (node for node in content.iter() if local_name(node) == "style"):
        for properties in style:
            position = _attribute(properties, "text-position")
            for tag in ("sup", "sub"):
                if position.startswith(tag):
                    raised[_attribute(style, "name")] = tag
    return raised


def _attribute(node: Node, name: str) -> str:
    """The attribute of this name, whatever its namespace."""
    found = (value for key, value in node.attrib.items() if key.rpartition("}")[2] == name)
    return str(next(found, ""))


def _number(node: Node, name: str) -> int:
    text = _attribute(node, name)
    return max(int(text), 1) if text.isdecimal() else 1


def read_rtf(path: Path, options: ReadOptions) -> Parsed:
    """The text of an RTF file, with what is hidden in it."""
    from striprtf.striprtf import rtf_to_text

    data = path.read_bytes().decode("latin-1")
    if not data.lstrip().startswith("{\\rtf"):
        raise BadInput("no RTF file: it does not begin with {\\rtf")
    to_text: Callable[..., str] = rtf_to_text
    title = _RTF_TITLE.search(data)
    name = to_text("{\\rtf1 " + title[1] + "}", errors="replace") if title else ""
    return Parsed(title=name, text=visible(to_text(data, errors="replace")))


def _check(path: Path, options: ReadOptions) -> None:
    """Raises `BadInput` for an encrypted file and for a zip bomb."""
    with path.open("rb") as stream:
        is_ole = stream.read(len(_OLE_MAGIC)) == _OLE_MAGIC
    if is_ole and path.suffix.lower() != ".xls":
        raise BadInput("encrypted, or in an older format of Office; save it as it is called")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_ratio(archive, options.max_bytes)
