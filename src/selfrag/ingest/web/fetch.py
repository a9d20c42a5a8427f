"""One web page as a document, fetched only from the public internet.

Whoever names the URL may be hostile, and so may the server: the host is looked up once for every
hop, each of its addresses has to be public, and the connection goes to the checked address itself.
Knows nothing of passages or indexes.
"""

import importlib.util
import logging
import queue
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from selfrag.errors import BadInput, MissingPackage
from selfrag.ingest.encodings import known_encoding, web_encoding
from selfrag.ingest.faults import Skipped
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.readers import read_file
from selfrag.ingest.web.urls import (
    PUBLIC_INTERNET,
    USUAL_PORTS,
    Address,
    FetchPolicy,
    Target,
    checked_addresses,
    failed,
    parse_redirect,
    parse_url,
    refused,
)
from selfrag.passage import Document

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, HTTPConnectionPool

logger = logging.getLogger(__name__)

MAX_BYTES, TIMEOUT_S, MAX_REDIRECTS = 10 << 20, 20.0, 5
CONTENT_TYPES = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/x-markdown": ".md",
    "application/json": ".txt",
    "application/pdf": ".pdf",
}
_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_ADDRESSES = 3  # of a host, tried in turn
_CHUNK_BYTES = 1 << 16
_READ_TIMEOUT_S, _PARSE_TIMEOUT_S = 10.0, 60.0
_FILE_NAME = "page"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebPage:
    """What a server sent: `body` without its content coding, `charset` as named or empty."""

    url: str
    content_type: str
    charset: str
    body: bytes


def fetch_document(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
    max_redirects: int = MAX_REDIRECTS,
    policy: FetchPolicy = PUBLIC_INTERNET,
) -> Document:
    """The text of the page at `url`; `source` is the URL that it was found at in the end.

    HTML gives its main text and title, PDF its pages; plain text, Markdown and JSON stay as they
    are. Errors as `fetch_page`; `BadInput` too when there is no text.
    """
    page = fetch_page(
        url, max_bytes=max_bytes, timeout_s=timeout_s, max_redirects=max_redirects, policy=policy
    )
    return document_of(page)


def fetch_page(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
    max_redirects: int = MAX_REDIRECTS,
    policy: FetchPolicy = PUBLIC_INTERNET,
) -> WebPage:
    """The page at `url` after at most `max_redirects` redirects, each checked like the first URL.

    `max_bytes` bounds the body as sent and as unpacked, `timeout_s` the whole from name look-up to
    last byte. Proxies of the environment are not used: through one, no address could be checked.
    Raises `BadInput` for a URL, host, port, content type, size or status that is refused, before
    any connection where the URL or host is the reason; `StorageError` when the server cannot be
    reached, breaks off or takes too long.
    """
    _check_installed()
    deadline = time.monotonic() + timeout_s
    target = parse_url(url, policy)

    def work() -> WebPage:
        return _follow(target, max_bytes, deadline, max_redirects, policy)

    # A thread, since a name look-up and a server that drips headers keep to no time-out.
    return _within(timeout_s, work, url)


def document_of(page: WebPage) -> Document:
    """The text of a page as a document; raises `BadInput` when it has none."""
    faults: list[Skipped] = []
    # Before what the page declares, but not before UTF-8: servers have one charset for all pages.
    charset = known_encoding(page.body, declared=page.charset)
    options = ReadOptions(
        encoding=charset if charset != "utf-8" else "", timeout_s=_PARSE_TIMEOUT_S
    )
    with TemporaryDirectory(prefix="selfrag-") as folder:
        file = Path(folder, _FILE_NAME + CONTENT_TYPES[page.content_type])
        file.write_bytes(page.body)
        documents = list(read_file(file, on_skip=faults.append, options=options))
    for fault in faults:
        logger.warning("%s: %s", page.url, fault.reason)
    if not documents:
        reason = faults[0].reason if faults else "nothing"
        raise BadInput(
            f"cannot read {page.url}: found {reason!r} in {len(page.body)} bytes of "
            f"{page.content_type}, expected text; save the page as text and add the file"
        )
    title = documents[0].title
    return replace(
        documents[0],
        title=_name_of(page.url) if title == _FILE_NAME else title,
        source=page.url,
        metadata=(("content_type", page.content_type),),
    )


def _follow(
    target: Target, max_bytes: int, deadline: float, max_redirects: int, policy: FetchPolicy
) -> WebPage:
    for _ in range(max_redirects + 1):
        with _response(target, deadline, policy) as response:
            if response.status not in _REDIRECTS:
                return _page(target, response, max_bytes, deadline)
            location = response.headers.get("Location", "")
        target = parse_redirect(target, location, policy)
    raise refused(target.url, f"more than {max_redirects} redirects")


@contextmanager
def _response(target: Target, deadline: float, policy: FetchPolicy) -> Iterator["BaseHTTPResponse"]:
    """The answer of the first address that takes a connection; what breaks it is one sentence."""
    from urllib3 import exceptions

    addresses = checked_addresses(target, policy)[:_MAX_ADDRESSES]
    try:
        with _connected(target, addresses, deadline, policy) as response:
            yield response
    except exceptions.HTTPError as error:
        raise failed(target.url, str(error)) from error


@contextmanager
def _connected(
    target: Target, addresses: Sequence[Address], deadline: float, policy: FetchPolicy
) -> Iterator["BaseHTTPResponse"]:
    from urllib3.exceptions import ConnectTimeoutError  # NewConnectionError is one

    with ExitStack() as stack:
        for address in addresses:
            timeout_s = max(min(deadline - time.monotonic(), _READ_TIMEOUT_S), 0.001)
            pool = stack.enter_context(policy.open_pool(target, address, timeout_s))
            try:
                response = _get(pool, target)
                break
            except ConnectTimeoutError:
                if address == addresses[-1]:
                    raise
        yield stack.enter_context(response)


def _get(pool: "HTTPConnectionPool", target: Target) -> "BaseHTTPResponse":
    host = f"[{target.host}]" if ":" in target.host else target.host
    is_usual = target.port == USUAL_PORTS[target.scheme]
    return pool.urlopen(
        "GET",
        target.path,
        headers={
            "Host": host if is_usual else f"{host}:{target.port}",
            "User-Agent": "selfrag",
            "Accept": ", ".join(CONTENT_TYPES),
            "Accept-Encoding": "gzip",
        },
        redirect=False,
        retries=False,
        assert_same_host=False,
        preload_content=False,
        decode_content=False,
    )


def _page(target: Target, response: "BaseHTTPResponse", max_bytes: int, deadline: float) -> WebPage:
    if response.status >= 500:
        raise failed(target.url, f"status {response.status}")
    if response.status != 200:
        raise refused(target.url, f"status {response.status}")
    header = response.headers.get("Content-Type", "")
    content_type = header.partition(";")[0].strip().lower()
    if content_type not in CONTENT_TYPES:
        raise refused(target.url, f"the content type {content_type!r}")
    body = _unpacked(target, response, _body(target, response, max_bytes, deadline), max_bytes)
    return WebPage(
        url=target.url,
        content_type=content_type,
        charset=_charset_of(header),
        body=body,
    )


def _body(target: Target, response: "BaseHTTPResponse", max_bytes: int, deadline: float) -> bytes:
    """The body as sent: urllib3, were it to unpack it, would read on until something comes out."""
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise refused(target.url, f"{declared[:20]} bytes, more than {max_bytes}")
    body = bytearray()
    while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
        body += chunk
        if len(body) > max_bytes:
            raise refused(target.url, f"more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise failed(target.url, "a server that takes too long")
    return bytes(body)


def _unpacked(target: Target, response: "BaseHTTPResponse", body: bytes, max_bytes: int) -> bytes:
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding in {"", "identity"}:
        return body
    if coding not in {"gzip", "x-gzip"}:
        raise refused(target.url, f"the content coding {coding!r}")
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = inflate.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise failed(target.url, f"a damaged gzip body ({error})") from error
    if len(unpacked) > max_bytes:
        raise refused(target.url, f"more than {max_bytes} bytes, unpacked")
    if not inflate.eof:
        raise failed(target.url, "a gzip body that breaks off")
    return unpacked


def _charset_of(header: str) -> str:
    """The encoding that a content type names, or ''."""
    found = re.search(r"charset\s*=\s*\"?([^\s\";]+)", header, re.IGNORECASE)
    return web_encoding(found[1]) if found else ""


def _within(timeout_s: float, work: Callable[[], WebPage], url: str) -> WebPage:
    """What `work` returns or raises, waited for at most `timeout_s`; it may go on unheard."""
    done: queue.SimpleQueue[WebPage | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(work())
        except Exception as error:  # raised again by the thread that waits
            done.put(error)

    threading.Thread(target=run, daemon=True, name="selfrag-fetch").start()
    try:
        result = done.get(timeout=timeout_s)
    except queue.Empty:
        raise failed(url, f"no answer within {timeout_s:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _name_of(url: str) -> str:
    """The last part of the path, else the host."""
    parts = urlsplit(url)
    return unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc


def _check_installed() -> None:
    missing = [name for name in ("urllib3", "certifi") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackage(
            f"cannot fetch a web page: found no package {missing[0]}, expected it installed; "
            'run pip install "selfrag[documents]"'
        )
