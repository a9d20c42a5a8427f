"""Word documents to Markdown, by mammoth, with the parts that it would leave out put in its terms.

Knows nothing of pages: a docx file has none.
"""

import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.ingest.encodings import visible
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.formulas import local_name, omml
from selfrag.ingest.html import parse_html
from selfrag.ingest.markup import Node, to_markdown
from selfrag.ingest.parsed import Parsed
from selfrag.ingest.titles import title_of

_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
# Office files hold XML, which packs 10 to 30 times; Word refuses little that is beyond 100.
_MAX_RATIO = 200
_RATIO_FROM_BYTES = 10 << 20
_HEADING = re.compile(r"^# +(.+?) *$", re.MULTILINE)
_CORE = "docProps/core.xml"
_DC_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_TITLE_STYLE = "p[style-name='Title'] => h1:fresh"
_TEXT_PARTS = re.compile(r"word/(document|footnotes|endnotes)\d*\.xml")
_VML = "urn:schemas-microsoft-com:vml"
# What mammoth tells of that concerns the look alone.
_OF_LOOK = re.compile(r"Unrecognised .* style|image|table style", re.IGNORECASE)


def read_docx(path: Path, options: ReadOptions) -> Parsed:
    """The text of a docx file; raises `BadInput`, giving the reason alone, for what is none."""
    with path.open("rb") as stream:
        if stream.read(len(_OLE_MAGIC)) == _OLE_MAGIC:
            raise BadInput("encrypted, or in the older .doc format; save it as plain .docx")
    try:
        with zipfile.ZipFile(path) as archive:
            check_ratio(archive, options.max_bytes)
            title = _core_title(archive)
            content = _with_all_text(archive)
    except zipfile.BadZipFile as error:
        raise BadInput(f"broken, or no docx file: {error}") from error
    text, doubts = _markdown(content)
    heading = _HEADING.search(text)
    title = title_of(path, title, heading[1] if heading else "")
    return Parsed(title=title, text=visible(text), doubts=doubts)


def check_ratio(archive: zipfile.ZipFile, max_bytes: int) -> None:
    """Raises `BadInput` for an archive that unpacks to too much."""
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
    from lxml import etree

    if _CORE not in archive.namelist():
        return ""
    try:
        core = etree.fromstring(archive.read(_CORE), xml_parser())
    except etree.XMLSyntaxError:
        return ""
    return (core.findtext(_DC_TITLE) or "").strip()


def _markdown(content: BytesIO) -> tuple[str, tuple[str, ...]]:
    import mammoth

    without_images = mammoth.images.img_element(lambda _: {})
    result = mammoth.convert_to_html(content, style_map=_TITLE_STYLE, convert_image=without_images)
    messages = dict.fromkeys(each.message for each in result.messages)
    doubts = tuple(f"its converter says: {each}" for each in messages if not _OF_LOOK.search(each))
    if not result.value.strip():
        return "", doubts
    return to_markdown(parse_html(result.value), infers_header=True), doubts


def _with_all_text(archive: zipfile.ZipFile) -> BytesIO:
    """The file with formulas, ruby and fields as plain runs, and text boxes as mammoth reads them.

    Without them it would leave their text out.
    """
    from lxml import etree

    content = BytesIO()
    with zipfile.ZipFile(content, "w") as changed:
        for entry in archive.infolist():
            data = archive.read(entry)
            if _TEXT_PARTS.fullmatch(entry.filename):
                tree = etree.fromstring(data, xml_parser())
                _rewrite(tree)
                data = etree.tostring(tree, encoding="utf-8")
            changed.writestr(entry.filename, data)
    content.seek(0)
    return content


def xml_parser() -> Any:
    """A parser of lxml that fetches nothing and expands no entities."""
    from lxml import etree

    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


def _rewrite(tree: Node) -> None:
    namespace = tree.tag.rpartition("}")[0].lstrip("{")
    for node in [each for each in tree.iter() if local_name(each) in _REWRITTEN]:
        if node.getparent() is not None:
            _REWRITTEN[local_name(node)](node, namespace)


def _formula(node: Node, namespace: str) -> None:
    if any(local_name(each) in {"oMath", "oMathPara"} for each in node.iterancestors()):
        return
    _replace(node, [_run(node, namespace, f" {omml(node)} ")])


def _ruby(node: Node, namespace: str) -> None:
    parts = {local_name(child): "".join(_texts(child)) for child in node}
    reading = parts.get("rt", "")
    text = parts.get("rubyBase", "") + (f"({reading})" if reading else "")
    _replace(node, [_text(node, namespace, text)])  # stands in a run


def _unwrap(node: Node, namespace: str) -> None:
    _replace(node, list(node))


def _line_break(node: Node, namespace: str) -> None:
    _replace(node, [node.makeelement(f"{{{namespace}}}br")])


def _tabulator(node: Node, namespace: str) -> None:
    _replace(node, [node.makeelement(f"{{{namespace}}}tab")])


def _alternative(node: Node, namespace: str) -> None:
    """Text boxes of newer Word, where the file has none for older Word, which mammoth reads."""
    fallback = [child for child in node if local_name(child) == "Fallback"]
    if fallback and any(_texts(fallback[0])):
        return
    boxes = [each for each in node.iter() if local_name(each) == "txbxContent"]
    if boxes:
        picture = node.makeelement(f"{{{namespace}}}pict")
        for box in boxes:
            shape = picture.makeelement(f"{{{_VML}}}textbox")
            shape.append(box)
            picture.append(shape)
        _replace(node, [picture])


def _run(node: Node, namespace: str, text: str) -> Node:
    run = node.makeelement(f"{{{namespace}}}r")
    run.append(_text(node, namespace, text))
    return run


def _text(node: Node, namespace: str, text: str) -> Node:
    made = node.makeelement(f"{{{namespace}}}t")
    made.text = text
    made.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    return made


def _texts(node: Node) -> list[str]:
    return [each.text for each in node.iter() if local_name(each) == "t" and each.text]


def _replace(node: Node, children: list[Node]) -> None:
    parent = node.getparent()
    place = parent.index(node)
    parent[place : place + 1] = children


_REWRITTEN: dict[str, Callable[[Node, str], None]] = {
    "oMathPara": _formula,
    "oMath": _formula,
    "ruby": _ruby,
    "fldSimple": _unwrap,
    "bdo": _unwrap,
    "dir": _unwrap,
    "cr": _line_break,
    "ptab": _tabulator,
    "AlternateContent": _alternative,
}
