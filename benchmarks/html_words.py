"""Which share of a page's own words its text keeps, over a folder of HTML pages.

Counted are the words of the body outside links, navigation, scripts and forms, each as often as it
occurs. The folder may hold the pages of documentation packages, as `dpkg-deb -x` unpacks them.

    python benchmarks/html_words.py FOLDER [--worst 20]
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lxml.html

from selfrag.errors import BadInput
from selfrag.ingest.encodings import decode
from selfrag.ingest.formats import Format, ReadOptions, format_of, open_bytes
from selfrag.ingest.parsers import parse

_WORD = re.compile(r"\w+")
_OUTSIDE = {"head", "script", "style", "noscript", "template", "nav", "a", "button", "select"}
# Elements within a word or line: `<b>A</b>nna` is one word. All others part words.
_INLINE = set(
    "abbr b bdi bdo big cite code dfn em font i ins kbd mark s samp small span strong tt u "
    "var".split()
)


def page_words(html: str) -> Counter[str]:
    """The words of a page outside links and navigation."""
    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True)
    tree = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    return words("".join(_texts(tree)))


def words(text: str) -> Counter[str]:
    """Every word with how often it occurs, whatever its case."""
    return Counter(_WORD.findall(text.lower()))


def kept_share(page: Counter[str], text: Counter[str]) -> float:
    """The share of a page's words that a text has, in [0, 1]; 1 of a page without words."""
    return (page & text).total() / page.total() if page else 1.0


def _texts(node: Any) -> Iterator[str]:
    is_outside = node.tag in _OUTSIDE or node.get("role") == "navigation"
    if isinstance(node.tag, str) and not is_outside:
        yield node.text or ""
        for child in node:
            yield "" if child.tag in _INLINE else " "
            yield from _texts(child)
            yield ("" if child.tag in _INLINE else " ") + (child.tail or "")


def main() -> None:
    """Prints the shares' distribution and the pages that lose most."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--worst", type=int, default=20, help="how many pages to name")
    given = arguments.parse_args()
    options = ReadOptions()
    shares: list[tuple[float, int, Path]] = []
    n_failed = 0
    for path in sorted(given.folder.rglob("*")):
        if not path.is_file() or format_of(path) is not Format.HTML:
            continue
        try:
            with open_bytes(path) as stream:
                html, _ = decode(stream.read())
            expected = page_words(html)
            shares.append(
                (kept_share(expected, words(parse(path, options).text)), expected.total(), path)
            )
        except (BadInput, ValueError, lxml.etree.ParserError) as error:
            n_failed += 1
            print(f"not read: {path}: {error}")
    for bound in (1.0, 0.99, 0.95, 0.8, 0.5):
        n = sum(share >= bound for share, _, _ in shares)
        print(
            f"at least {bound:.0%} of the words kept: {n} of {len(shares)} pages "
            f"({n / len(shares):.1%})"
        )
    for share, n_words, path in sorted(shares)[: given.worst]:
        print(f"{share:.3f} of {n_words} words: {path}")
    print(f"{n_failed} pages not read")


if __name__ == "__main__":
    main()
