"""Titles of reStructuredText, which is read as the text that it is."""

import re

# A line of text over one of a single sign, and maybe under such a line too. A line that begins
# with dots is a directive or a comment.
_SECTION = re.compile(
    r"^(?:(?P<over>[^\w\s])(?P=over){2,}[ \t]*\n[ \t]*)?(?P<title>[^\s.][^\n]*?)[ \t]*\n"
    r"(?P<under>(?P<sign>[^\w\s])(?P=sign){2,})[ \t]*$",
    re.MULTILINE,
)
_ROLE = re.compile(r":[\w:]+:`([^`<]*?)(?:\s*<[^>]*>)?`")
_MARKS = re.compile(r"[`*]|\\(?=\W)")


def rst_title(text: str) -> str:
    """The title of the first section, without marks, or ''."""
    for match in _SECTION.finditer(text):
        # Docutils warns of a line that is shorter than its title, and takes some for text.
        if len(match["under"]) >= min(len(match["title"]), 4):
            return _MARKS.sub("", _ROLE.sub(r"\1", match["title"])).strip()
    return ""
