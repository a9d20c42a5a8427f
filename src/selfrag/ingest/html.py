"""HTML pages to a title and text: all that a reader sees, less the navigation.

Nothing is left out for the words in its `id` or `class` alone.
"""

import re
from pathlib import Path

from selfrag.errors import BadInput
from selfrag.ingest.encodings import declared_encoding, decode, visible
from selfrag.ingest.formats import ReadOptions, open_bytes
from selfrag.ingest.markup import Node, is_left_out, one_line, to_markdown
from selfrag.ingest.parsed import Parsed
from selfrag.ingest.titles import title_of

# Only of blocks that are little but links.
_NAVIGATION_NAME = re.compile(
    r"nav|menu|toc\b|contents|sidebar|breadcrumb|related|pager|paginat|footer|header|social|share",
    re.IGNORECASE,
)
# A block is navigation where at most this share of its words lies outside so many links.
_SHARE_OUTSIDE, _MIN_LINKS = 0.1, 3
_CONTAINERS = ("div", "ul", "ol", "table", "p", "dl", "section", "header", "footer", "aside", "td")
_OFTEN_OPEN = re.compile(r"</?(?!(?:script|style)\b)[a-z][^>]*>", re.IGNORECASE)
_MAIN = "//main | //*[@role='main'] | //article"
_MIN_WORDS = 20  # of a page without its navigation; one with fewer is a page of links


def read_html(path: Path, options: ReadOptions) -> Parsed:
    """The text and title of a page, decoded as browsers do."""
    with open_bytes(path) as stream:
        data = stream.read(options.max_bytes + 1)
    if len(data) > options.max_bytes:
        raise BadInput(f"unpacked larger than the limit of {options.max_mb} MB")
    html, doubt = decode(data, named=options.encoding, declared=declared_encoding(data))
    tree = parse_html(html)
    return Parsed(
        title=title_of(path, *page_titles(tree)),
        text=visible(page_text(tree)),
        doubts=(doubt,) if doubt else (),
    )


def parse_html(html: str) -> Node:
    """The tree of a page, or of a part of one; raises `BadInput`, giving the reason alone."""
    import lxml.html

    # Bytes, as lxml takes no text that declares an encoding. Huge: trees up to 2048 deep.
    parser = lxml.html.HTMLParser(
        encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True
    )
    try:
        tree = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    except (lxml.etree.ParserError, ValueError) as error:
        raise BadInput(f"no HTML in it: {error}") from error
    # What lies deeper is lost to libxml2, and all that follows. Such depth comes of tags that are
    # never closed, which say nothing of the structure.
    if any("depth" in entry.message for entry in parser.error_log):
        flat = _OFTEN_OPEN.sub(" ", html).encode("utf-8", "replace")
        return lxml.html.document_fromstring(flat, parser=parser)
    return tree


def page_titles(tree: Node) -> list[str]:
    """What may title a page, the best first.

    The only first heading comes before `<title>`, which often has the site's name too, unless they
    have nothing in common: then the heading may be the site's own.
    """
    titles = list(filter(None, map(one_line, tree.xpath("//title[not(ancestor::svg)]"))))[:1]
    headings = list(filter(None, map(one_line, tree.iter("h1"))))
    if len(headings) != 1:
        return titles
    is_of_title = not titles or headings[0].lower() in titles[0].lower()
    return [*headings, *titles] if is_of_title else [*titles, *headings]


def page_text(tree: Node) -> str:
    """The text of a page, without blocks that are little but links and outside its main part.

    Of a page without a marked main part, such blocks are left out where their names say that they
    are navigation, too. A page of links alone keeps them.
    """
    text = to_markdown(tree, left_out=_navigation(tree))
    return text if len(text.split()) >= _MIN_WORDS else to_markdown(tree)


def _navigation(tree: Node) -> frozenset[Node]:
    nodes = [node for node in tree.iter() if isinstance(node.tag, str)]
    counts: dict[Node, tuple[int, int, int]] = {}  # words, those in links, links
    for node in reversed(nodes):  # children before their parents
        counts[node] = _count(node, counts)
    main = set(tree.xpath(_MAIN))
    return frozenset(
        node
        for node in nodes
        if node.tag in _CONTAINERS
        and node not in main
        and _is_little_but_links(*counts[node])
        and (_is_named(node) or (main and not main.intersection(node.iterancestors())))
        and not main.intersection(node.iterdescendants())
    )


def _count(node: Node, counts: dict[Node, tuple[int, int, int]]) -> tuple[int, int, int]:
    if is_left_out(node):
        return (0, 0, 0)
    n_words, n_linked, n_links = len((node.text or "").split()), 0, 0
    for child in node:
        of_child = counts.get(child, (0, 0, 0))
        n_words += of_child[0] + len((child.tail or "").split())
        n_linked += of_child[1]
        n_links += of_child[2]
    return (n_words, n_words, 1) if node.tag == "a" else (n_words, n_linked, n_links)


def _is_little_but_links(n_words: int, n_linked: int, n_links: int) -> bool:
    return n_links >= _MIN_LINKS and n_words - n_linked <= _SHARE_OUTSIDE * n_words


def _is_named(node: Node) -> bool:
    around = [node, *node.iterancestors()][:4]
    return any(_NAVIGATION_NAME.search(f"{each.get('class')} {each.get('id')}") for each in around)
