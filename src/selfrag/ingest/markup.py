"""A tree of HTML elements to text, as Markdown has headings, lists and tables.

All text is kept but that of scripts, form fields and navigation. Knows nothing of files, nor of
which part of a page matters.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from selfrag.ingest.formulas import mathml

Node = Any  # of lxml, which has no types

_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog dir div dl dt "
    "fieldset figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html "
    "legend li main menu noframes ol p pre section summary table tbody td text tfoot th thead tr "
    "ul".split()
)
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_PARAGRAPHS = {"article", "blockquote", "dl", "figure", "hr", "p", "section", *HEADINGS}
_CELLS, _SECTIONS = {"td", "th"}, {"thead", "tbody", "tfoot"}
_LISTS = {"ul", "ol", "menu", "dir"}
_VERBATIM = {"pre", "listing", "xmp", "plaintext", "textarea"}
_LEFT_OUT = frozenset(
    "audio canvas datalist head iframe img input map nav noscript script select style template "
    "video".split()
)
_ROLES_LEFT_OUT = {"alertdialog", "dialog", "menu", "menubar", "navigation", "search"}
_PERMALINKS = {"", "#", "\u00a7", "\u00b6", "\U0001f517", "\uf0c1"}

_BLANKS = re.compile(r"[ \t\n\r\f\xa0]+")
_TEX = re.compile(r"\s*\$.+\$\s*", re.DOTALL)
# What is one word with the number or name before it though it stands higher: 1st, Mme, 3ª.
_SUFFIX = re.compile(
    r"(?:st|nd|rd|th|e|er|re|[èe]me|[èe]re|nde?|[oaº]s?|l?les?|m?mes?|[ts]m|mc|[™®©])\.?", re.I
)
_SLASHES = ("/", "\u2044")
_MAX_DEPTH = 200  # what lies deeper, within tags that were never closed, is read as plain text
_MAX_SPAN, _MAX_REPEATED = 50, 200  # columns, and characters of a cell that spans several


def to_markdown(
    tree: Node, *, left_out: frozenset[Node] = frozenset(), infers_header: bool = False
) -> str:
    """The text of a tree, without the elements `left_out`.

    A cell that spans rows or columns stands in each of them. `infers_header`: the first row of
    every table is its header, else one of `<th>` alone.
    """
    return _Writer(left_out, infers_header).read(tree)


def one_line(node: Node) -> str:
    """The text of a heading or title."""
    return " ".join(_Writer().read(node).split())


def is_left_out(node: Node) -> bool:
    """Whether an element is none of the text: not shown, a form's field, or navigation."""
    tag = node.tag
    if tag == "template" and node.get("shadowrootmode"):  # is shown
        return False
    if tag in _LEFT_OUT or (node.get("role") or "").strip().lower() in _ROLES_LEFT_OUT:
        return True
    if tag == "a":  # a mark to copy the address of a heading
        is_local = (node.get("href") or "").startswith("#")
        return is_local and node.text_content().strip() in _PERMALINKS
    if tag == "button":  # of a folding heading it is the text
        return len(node.text_content().split()) < 3 and node.getparent().tag not in HEADINGS
    if node.get("aria-hidden") == "true":  # an icon, or a formula a second time
        return "katex" in (node.get("class") or "") or len(node.text_content().split()) < 2
    return tag == "dialog" and node.get("open") is None


@dataclass(slots=True)
class _Writer:
    """Text in the making: lines that are done, and the pieces of the one that is not."""

    left_out: frozenset[Node] = frozenset()
    infers_header: bool = False
    _lines: list[str] = field(default_factory=list)
    _pieces: list[str] = field(default_factory=list)
    _marker: str = ""  # of a list item whose first line is still to come
    _n_lists: int = 0  # around what is read
    _depth: int = 0

    def read(self, node: Node) -> str:
        self._content(node)
        self._end_line()
        return re.sub(r"\n{3,}", "\n\n", "\n".join(self._lines)).strip()

    def _content(self, node: Node) -> None:
        self._add(node.text)
        for child in node:
            self._element(child)
            self._add(child.tail)

    def _add(self, text: str | None) -> None:
        if text:
            self._pieces.append(text)

    def _element(self, node: Node) -> None:
        tag = node.tag
        if not isinstance(tag, str):  # a comment
            return
        if self._depth > _MAX_DEPTH:
            self._add(" ".join(_strings(node)))
            return
        self._depth += 1
        if node in self.left_out or is_left_out(node):
            self._add(_stand_in(node))
            if tag in _BLOCKS:
                self._end_line()
        elif tag in _BLOCKS or tag in _VERBATIM:
            self._block(node)
        elif tag == "br":
            self._end_line()
        else:
            self._inline(node)
        self._depth -= 1

    def _inline(self, node: Node) -> None:
        if node.tag == "math":
            self._add(f" {mathml(node)} ")
        elif node.tag in {"sup", "sub"}:
            self._add(_script(node, "".join(self._pieces[-2:])))
        elif node.tag == "ruby":
            self._add(_ruby(node))
        else:
            mark = "~~" if node.tag in {"del", "s", "strike"} else ""
            self._add(mark)
            self._content(node)
            self._add(mark)

    def _block(self, node: Node) -> None:
        tag = node.tag
        is_paragraph = tag in _PARAGRAPHS and not self._n_lists
        self._end_line(is_paragraph)
        if tag in _VERBATIM:
            text = "".join(_strings(node)).strip("\n")
            self._lines += ["", *text.split("\n"), ""]
        elif tag == "table":
            self._table(node)
        elif tag in _LISTS:
            self._list(node)
        else:
            is_marked = tag in HEADINGS and not self._n_lists
            if is_marked:
                self._marker = "#" * int(tag[1]) + " "
            self._content(node)
            if is_marked and not self._pieces:
                self._marker = ""  # of a heading without text
        self._end_line(is_paragraph)

    def _end_line(self, is_paragraph: bool = False) -> None:
        line = _BLANKS.sub(" ", "".join(self._pieces)).strip()
        self._pieces.clear()
        if line:
            self._lines.append(self._marker + line)
            self._marker = ""
        if is_paragraph:
            self._lines.append("")

    def _list(self, node: Node) -> None:
        indent = "  " * self._n_lists
        self._lines += [] if self._n_lists else [""]
        self._n_lists += 1
        number = _number(node.get("start"), 1)
        for child in node:
            self._end_line()
            if child.tag == "li":
                number = _number(child.get("value"), number)
                self._marker = indent + (f"{number}. " if node.tag == "ol" else "- ")
                number += 1
            self._element(child)
            self._marker = ""
            self._add(child.tail)
        self._n_lists -= 1
        self._end_line(is_paragraph=not self._n_lists)

    def _table(self, node: Node) -> None:
        rows = [row for row in node.iter("tr") if next(row.iterancestors("table")) is node]
        cells = [found for row in rows if (found := [c for c in row if c.tag in _CELLS])]
        if _is_layout(node, cells):
            self._content(node)
            return
        for child in node:
            if child.tag == "caption":
                self._element(child)
        self._lines.append("")
        for number, row in enumerate(_grid([list(map(self._cell, row)) for row in cells])):
            self._lines.append("| " + " | ".join(row) + " |")
            if not number and (self.infers_header or all(each.tag == "th" for each in cells[0])):
                self._lines.append("|" + " --- |" * len(row))
        self._lines.append("")

    def _cell(self, node: Node) -> "_Cell":
        text = _Writer(self.left_out, _depth=self._depth).read(node)
        return _Cell(
            text=" ".join(text.split()),
            n_rows=min(max(_number(node.get("rowspan"), 1), 1), 1 << 16),
            n_columns=min(max(_number(node.get("colspan"), 1), 1), _MAX_SPAN),
        )


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    n_rows: int
    n_columns: int


def _grid(rows: list[list[_Cell]]) -> list[list[str]]:
    """The rows with a text for every column: a cell that spans several is repeated."""
    filled: dict[tuple[int, int], str] = {}
    for row, cells in enumerate(rows):
        column = 0
        for cell in cells:
            while (row, column) in filled:
                column += 1
            filled[row, column] = cell.text
            repeated = cell.text if len(cell.text) <= _MAX_REPEATED else ""
            # A row of one cell is a heading within the table.
            n_columns = cell.n_columns if len(cells) > 1 else 1
            for down in range(min(cell.n_rows, len(rows) - row)):
                for right in range(n_columns):
                    filled.setdefault((row + down, column + right), repeated)
    lines: list[list[str]] = [[] for _ in rows]
    for row, column in sorted(filled):
        lines[row] += [""] * (column - len(lines[row]))
        lines[row].append(filled[row, column])
    return lines


def _is_layout(table: Node, rows: list[list[Node]]) -> bool:
    """Whether a table arranges a page: of one column, of blocks, or with text outside its cells."""
    parts = [table, *(each for each in table if each.tag in _SECTIONS)]
    parts += {row[0].getparent() for row in rows}
    known = _CELLS | _SECTIONS | {"tr", "caption", "colgroup", "col"}
    return (
        max(map(len, rows), default=0) < 2
        or any(table.find(f".//{tag}") is not None for tag in ("table", "pre", *HEADINGS))
        or any((part.text or "").strip() for part in parts)
        or any(child.tag not in known or (child.tail or "").strip() for p in parts for child in p)
    )


def _stand_in(node: Node) -> str:
    """The text that an element stands for without having any: a formula, a check box."""
    if node.tag == "script" and (node.get("type") or "").startswith("math/tex"):
        return f" {node.text or ''} "
    if node.tag == "img" and _TEX.fullmatch(node.get("alt") or ""):
        return str(node.get("alt"))
    # Of a list of tasks, not of a form or of a menu that folds.
    if node.get("type") == "checkbox" and node.getparent().tag in {"li", "p", "td", "th"}:
        return "[x] " if node.get("checked") is not None else "[ ] "
    return ""


def _script(node: Node, before: str) -> str:
    """A superscript or subscript that stays one: `10^11` is another number than `1011`."""
    text = " ".join("".join(_strings(node)).split())
    if not text:
        return ""
    if node.find(".//a") is not None or text[0] in "[(":  # of a note
        return text if not text.isalnum() else f"[{text}]"
    if not before[-1:].strip():
        return text
    after = (node.tail or "").strip()
    if node.tag == "sub":
        is_part = before[-1:].isalpha() and text.isalnum() and not after[:1].isdigit()
        if is_part or before[-1] in _SLASHES:  # H2O, 1/2
            return text
    elif _SUFFIX.fullmatch(text):
        return text
    elif after in _SLASHES and after:  # 5 1/2
        return f" {text}" if before[-1].isdigit() else text
    return ("^" if node.tag == "sup" else "_") + (
        text if re.fullmatch(r"[-+\u2212]?\w+|\W", text) else f"({text})"
    )


def _ruby(node: Node) -> str:
    """The base text, and in brackets how it is read."""
    pieces, has_brackets = [], node.find(".//rp") is not None
    for each in node.iter():
        text = (each.text or "").strip() if each is not node else each.text or ""
        if each.tag in {"rt", "rtc"} and text and not has_brackets:
            text = f"({text})"
        pieces.append(text)
        pieces.append((each.tail or "").strip() if each is not node else "")
    return "".join(pieces)


def _strings(node: Node) -> Iterator[str]:
    """All text of a node as it is written, with a line break for every `<br>`."""
    yield node.text or ""
    # Not a recursion: a node may be of any depth. What follows an element comes after its inside.
    left: list[Node | str] = list(reversed(node))
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
            continue
        left.append(each.tail or "")
        if isinstance(each.tag, str) and not is_left_out(each):
            yield "\n" if each.tag == "br" else each.text or ""
            left += reversed(each)


def _number(value: str | None, default: int) -> int:
    found = re.match(r"\s*(-?\d{1,9})", value or "")
    return int(found[1]) if found else default
