"""Titles of documents: of Markdown and reStructuredText, and whether one says anything."""

import re
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
# Code and comments first, so that nothing within them is taken for a heading.
_OUTSIDE_CODE = re.compile(
    r"^[ ]{0,3}(?P<fence>`{3,}|~{3,})[^\n]*\n(?s:.*?)(?:^[ ]{0,3}(?P=fence)[`~]*[ \t]*$|\Z)"
    r"|<!--(?s:.*?)(?:-->|\Z)"
    r"|^[ ]{0,3}#[ \t]+(?P<atx>[^\n]+?)(?:[ \t]+#+)?[ \t]*$"
    r"|^[ ]{0,3}(?P<setext>[^\s#>|+*=-][^\n]*)\n[ ]{0,3}=+[ \t]*$"
    r"|<h1\b[^>]*>(?P<html>(?s:.*?))</h1>",
    re.MULTILINE,
)
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
    front = _FRONT_MATTER.match(text)
    if front:
        title = _FRONT_TITLE.search(front[2])
        if title and (name := _plain(_QUOTED.sub(r"\2", title[1]))):
            return name
    for match in _OUTSIDE_CODE.finditer(text, front.end() if front else 0):
        if heading := _plain(match["atx"] or match["setext"] or match["html"] or ""):
            return heading
    return ""


def _plain(heading: str) -> str:
    """A heading without the marks of Markdown."""
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
