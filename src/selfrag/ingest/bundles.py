"""EPUB books, e-mails, notebooks and XML to text: documents within a structure of their own.

To be run in a process of its own, as all parsers are. Knows nothing of passages.
"""

import email
import json
import posixpath
import re
import zipfile
from collections.abc import Iterator, Mapping
from email import policy
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from selfrag.errors import BadInput
from selfrag.ingest.docx import check_ratio, xml_parser
from selfrag.ingest.encodings import declared_encoding, decode, visible, web_encoding
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.formulas import local_name
from selfrag.ingest.html import page_text, page_titles, parse_html
from selfrag.ingest.markup import Node
from selfrag.ingest.parsed import Parsed

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_MAX_OUTPUT = 10_000  # characters of one output of a cell: more is a log or data


def read_epub(path: Path, options: ReadOptions) -> Parsed:
    """The chapters of a book, in reading order."""
    from lxml import etree

    try:
        with zipfile.ZipFile(path) as archive:
            check_ratio(archive, options.max_bytes)
            container = etree.fromstring(archive.read("META-INF/container.xml"), xml_parser())
            place = next(node.get("full-path") for node in container.iter("{*}rootfile"))
            package = etree.fromstring(archive.read(place), xml_parser())
            names = set(archive.namelist())
            chapters = [name for name in _chapters(package, place) if name in names]
            if _is_locked(archive, chapters):
                raise BadInput("protected by DRM; expected a book without it")
            texts = [_chapter(archive.read(name)) for name in chapters]
    except (zipfile.BadZipFile, KeyError, StopIteration, etree.XMLSyntaxError) as error:
        raise BadInput(f"broken, or no EPUB book: {error!r}") from error
    title = next((node.text or "" for node in package.iter("{*}title")), "")
    return Parsed(title=title, text="\n\n".join(text for text in texts if text))


def _chapters(package: Node, place: str) -> Iterator[str]:
    """The names of the documents of the spine; of all, where there is none."""
    items = {
        node.get("id"): node
        for node in package.iter("{*}item")
        if (node.get("media-type") or "").endswith(("html+xml", "text/html"))
    }
    spine = [node.get("idref") for node in package.iter("{*}itemref")]
    for name in spine or items:
        if name in items:
            href = unquote(items[name].get("href", "").partition("#")[0])
            yield posixpath.normpath(posixpath.join(posixpath.dirname(place), href))


def _is_locked(archive: zipfile.ZipFile, chapters: list[str]) -> bool:
    """Whether chapters are encrypted; fonts often are, and do not matter."""
    name = "META-INF/encryption.xml"
    listed = archive.read(name).decode("utf-8", "replace") if name in archive.namelist() else ""
    return any(f'"{unquote(chapter)}"' in unquote(listed) for chapter in chapters)


def _chapter(data: bytes) -> str:
    text, _ = decode(data, declared=declared_encoding(data))
    return visible(page_text(parse_html(text))) if text.strip() else ""


def read_email(path: Path, options: ReadOptions) -> Parsed:
    """The heads that people read and the text of an e-mail, and of those attached to it."""
    message = email.message_from_bytes(path.read_bytes(), policy=policy.default)
    if not any(name in message for name in _HEADERS):
        raise BadInput("no e-mail: it has none of the heads From, To, Date and Subject")
    unread: list[str] = []
    text = "\n\n".join(_message_texts(message, unread))
    names = ", ".join(unread[:5])
    doubts = (f"{len(unread)} attachments are not read: {names}",) if unread else ()
    return Parsed(title=str(message.get("Subject", "")), text=visible(text), doubts=doubts)


def _message_texts(message: EmailMessage, unread: list[str]) -> Iterator[str]:
    yield "\n".join(f"{name}: {message[name]}" for name in _HEADERS if message[name])
    body = message.get_body(("plain", "html"))
    if body is not None:
        yield _part_text(body)
    for part in message.walk() if body is None else message.iter_attachments():
        if part is body or (part.is_multipart() and part.get_content_type() != "message/rfc822"):
            continue
        if part.get_content_type() == "message/rfc822":
            yield from _message_texts(part.get_content(), unread)
        elif part.get_content_maintype() == "text":
            yield _part_text(part)
        else:
            unread.append(part.get_filename() or part.get_content_type())


def _part_text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    text, _ = decode(data, declared=web_encoding(part.get_content_charset() or ""))
    if part.get_content_type() == "text/html":
        return page_text(parse_html(text)) if text.strip() else ""
    return text.replace("\r\n", "\n").strip()


def read_notebook(path: Path, options: ReadOptions) -> Parsed:
    """The cells of a Jupyter notebook with their outputs in words; code is fenced."""
    text, doubt = decode(path.read_bytes())
    try:
        notebook = json.loads(text)
        sheets = notebook.get("worksheets", [notebook])  # format 3
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        language = notebook.get("metadata", {}).get("language_info", {}).get("name", "")
        texts = [part for cell in cells for part in _cell_texts(cell, language)]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"broken, or no notebook: {error!r}") from error
    headings = (re.match(r"# +(.+)", each) for each in texts)
    title = next((heading[1] for heading in headings if heading), "")
    return Parsed(
        title=title,
        text=visible("\n\n".join(texts)),
        doubts=(doubt,) if doubt else (),
    )


def _cell_texts(cell: Mapping[str, Any], language: str) -> Iterator[str]:
    source = _joined(cell.get("source", cell.get("input", "")))
    is_code = cell.get("cell_type") == "code"
    if source.strip():
        yield f"```{language}\n{source.rstrip()}\n```" if is_code else source.strip()
    for output in cell.get("outputs", []) if is_code else []:
        data = output.get("data", output)
        said = _TERMINAL.sub("", _joined(data.get("text/plain", data.get("text", ""))))
        if said.strip():
            yield said[:_MAX_OUTPUT].strip()


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else "".join(map(str, value or ()))


def read_xml(path: Path, options: ReadOptions) -> Parsed:
    """The text of XML, an element a paragraph; of XHTML as of HTML.

    Fields that belong together, elements of text alone under one and each with its own name, are
    lines `name: text`. An element without text shows its attributes.
    """
    from lxml import etree

    data = path.read_bytes()
    try:
        tree = etree.fromstring(data, xml_parser())
    except etree.XMLSyntaxError as error:
        raise BadInput(f"broken, or no XML: {error}") from error
    if local_name(tree) == "html":
        text, _ = decode(data, declared=declared_encoding(data))
        page = parse_html(text)
        return Parsed(title=next(iter(page_titles(page)), ""), text=visible(page_text(page)))
    titles = (" ".join("".join(node.itertext()).split()) for node in tree.iter("{*}title"))
    return Parsed(title=next(filter(None, titles), ""), text=visible("\n\n".join(_xml_texts(tree))))


def _xml_texts(node: Node) -> Iterator[str]:
    children = [child for child in node if isinstance(child.tag, str)]
    is_mixed = any((child.tail or "").strip() for child in node) or (node.text or "").strip()
    if is_mixed or not children:
        text = " ".join("".join(_said(node)).split())
        if text or node.attrib:
            shown = ", ".join(f"{_bare(key)} {value}" for key, value in node.attrib.items())
            yield text or f"{local_name(node)}: {shown}"
        return
    names = [local_name(child) for child in children]
    is_record = len(names) > 1 and len(set(names)) == len(names)
    if is_record and not any(len(child) for child in children):
        lines = zip(names, (next(_xml_texts(child), "") for child in children), strict=True)
        yield "\n".join(f"{name}: {text}" for name, text in lines if text)
        return
    for child in children:
        yield from _xml_texts(child)


def _said(node: Node) -> Iterator[str]:
    """The text of an element; comments and instructions are none."""
    yield node.text or ""
    for child in node:
        if isinstance(child.tag, str):
            yield from _said(child)
        yield child.tail or ""


def _bare(name: str) -> str:
    return name.rpartition("}")[2]
