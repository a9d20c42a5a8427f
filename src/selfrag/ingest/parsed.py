"""What a parser makes of one file. Knows nothing of formats."""

from collections.abc import Sequence
from dataclasses import dataclass

from selfrag.ingest.encodings import visible

PAGE_BREAK = "\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The text of one file; `doubts` say what of it is missing or may be wrong.

    `title` as the file gives it, empty where it gives none; `page_starts` are offsets in `text`.
    """

    title: str = ""
    text: str
    page_starts: tuple[int, ...] = ()
    doubts: tuple[str, ...] = ()


def in_pages(pages: Sequence[str], *, title: str = "", doubts: tuple[str, ...] = ()) -> Parsed:
    """A file of several pages, blank ones included."""
    texts = [visible(page) for page in pages]
    starts, start = [], 0
    for text in texts:
        starts.append(start)
        start += len(text) + len(PAGE_BREAK)
    return Parsed(
        title=title, text=PAGE_BREAK.join(texts), page_starts=tuple(starts), doubts=doubts
    )
