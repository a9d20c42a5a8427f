"""Titles of documents: of Markdown and reStructuredText, and whether one says anything."""

import re
from collections.abc import Iterator
from pathlib import Path

from selfrag.ingest.formats import name_of

# Titles that programs give, and what they put before a file's name.
_SAYS_NOTHING = re.compile(
    r"|(untitled|unnamed|no title|title|document|dokument|new page|page|index|default|blank page|"
    r"doc|template|presentation|powerpoint presentation|word document|präsentation|slide)"
    r"[-_ ]*(document|page|presentation|\d+)*(\.\w{2,4})?|\W+|\d{1,2}",
    re.IGNORECASE,
)
_NO_TITLE_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")
_PROGRAM = re.compile(r"microsoft (?:office )?(?:word|powerpoint|excel) - ", re.IGNORECASE)

_FRONT_MATTER = re.compile(
    r"\ufeff?(---|\+\+\+)[ \t]*\n(.*?)\n(?:\1|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL
)
_QUOTED = re.compile(r"^([\"'])(.*)\1$")
_FRONT_TITLE = re.compile(
    r"^title[ \t]*[:=][ \t]*(?:[>|][+-]?[ \t]*\n[ \t]+)?(\S.*?)[ \t]*$", re.MULTILINE | re.I
)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}#[ \t]+(.+?)(?:[ \t]+#+)?$")
_SETEXT = re.compile(r" {0,3}[^\s#>|+*=-]")
_UNDERLINE = re.compile(r" {0,3}=+[ \t]*$")
_HTML_HEADING = re.compile(r"<h1\b[^>]*>(.*)", re.DOTALL | re.IGNORECASE)
# A title is looked for in so many characters, and a heading has no more than these.
_BEGINNING, _HEADING = 1 << 16, 300
_MARKS = (
    (re.compile(r"!\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?"), r"\1"),
    (re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])"), r"\1"),
    (re.compile(r"\{[#.:][^}]*\}\s*$"), ""),
    (re.compile(r"<[^>]+>"), ""),
    (re.compile(r"(\*\*|__|\*|`|~~)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
)

# A line of text over one of a single sign, and maybe under such a line too. A line that begins
# with dots is a directive or a comment.
_SECTION = re.compile(
    r"^(?:(?P<over>[^\w\s])(?P=over){2,}[ \t]*\n[ \t]*)?(?P<title>[^\s.][^\n]*?)[ \t]*\n"
    r"(?P<under>(?P<sign>[^\w\s])(?P=sign){2,})[ \t]*$",
    re.MULTILINE,
)
_ROLE = re.compile(r":[\w:]+:`([^`<]*?)(?:\s*<[^>]*>)?`")
_RST_MARKS = re.compile(r"[`*]|\\(?=\W)")


def title_of(path: Path, *candidates: str) -> str:
    """The first that says something, else the file's name."""
    for candidate in candidates:
        title = _PROGRAM.sub("", " ".join(_NO_TITLE_CHARACTER.sub(" ", candidate).split()))
        if not _SAYS_NOTHING.fullmatch(title):
            return title
    return name_of(path)


def markdown_title(text: str) -> str:
    """The `title` of the front matter, else the first heading of the first level, or ''.

    Headings are lines that begin with one `#`, those underlined with `=`, and `<h1>`; none is one
    within a fenced or indented block of code, a comment or the front matter.
    """
    text = text[:_BEGINNING]
    front = _FRONT_MATTER.match(text)
    if front:
        title = _FRONT_TITLE.search(front[2])
        if title and (name := _plain(_QUOTED.sub(r"\2", title[1]))):
            return name
    return next(filter(None, map(_plain, _headings(text[front.end() if front else 0 :]))), "")


def _headings(text: str) -> Iterator[str]:
    """The headings of the first level, outside code and comments."""
    fence, before, is_comment, is_open = "", "", False, False
    for line in text.split("\n"):
        if is_comment or line.lstrip().startswith("<!--"):
            is_comment = "-->" not in line
            before = ""
            continue
        mark = _FENCE.match(line)
        if fence:  # a longer fence of the same sign closes it
            closes = mark and mark[1].startswith(fence) and not line.strip().strip(fence[0])
            fence = "" if closes else fence
            continue
        if mark:
            fence, before = mark[1], ""
            continue
        line = line[: _HEADING + 20].rstrip()
        if is_open:  # of `<h1>`, whose text may follow on lines of its own
            yield line
        elif heading := _ATX.match(line):
            yield heading[1]
        elif _UNDERLINE.match(line) and _SETEXT.match(before):
            yield before
        elif heading := _HTML_HEADING.search(line):
            yield heading[1]
            is_open = True
        is_open = is_open and "</h1>" not in line.lower()
        before = line


def _plain(heading: str) -> str:
    """A heading without the marks of Markdown."""
    heading = heading[:_HEADING]
    for pattern, kept in _MARKS:
        heading = pattern.sub(kept, heading)
    return " ".join(heading.split())


def rst_title(text: str) -> str:
    """The title of the first section, without marks, or ''."""
    for match in _SECTION.finditer(text):
        # Docutils warns of a line that is shorter than its title, and takes some for text.
        if len(match["under"]) >= min(len(match["title"]), 4):
            return _RST_MARKS.sub("", _ROLE.sub(r"\1", match["title"])).strip()
    return ""
