"""Which URLs may be fetched: taken apart once, looked up once, and only on the public internet.

Python's `is_global`, URL parsers and resolvers each let something through: see the tables here.
Knows nothing of what is sent.
"""

import logging
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from selfrag.errors import BadInput, StorageError

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool

logger = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address

USUAL_PORTS = {"http": 80, "https": 443}

# URL parsers differ on these, so none of them gets to see one.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f-\xa0\\]|[\ud800-\udfff]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# What inet_aton takes for an address: 127.1, 0x7f000001, 0177.0.0.1, 2130706433.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

# Not public, yet `is_global` in Python 3.11. 6to4 and Teredo carry an IPv4 address to be routed to.
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        *("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "fec0::/10"),
    )
)
_GLOBAL_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL taken apart once: `host` is ASCII, `path` begins with `/` and includes the query."""

    url: str
    scheme: str
    host: str
    port: int
    path: str


def is_public(address: Address) -> bool:
    """Whether the address is a host's on the public internet.

    Not private, loopback, link-local, shared (100.64/10), multicast, reserved, documentation or
    unspecified. An IPv4 address inside an IPv6 one (mapped, NAT64) counts as itself; 6to4, Teredo
    and a NAT64 prefix of one's own never are public.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    if any(address in network for network in _NOT_PUBLIC if network.version == address.version):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of `host` in the system's order, each once; `OSError` where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def open_pool(
    target: Target, address: Address, timeout_s: float, *, ca_file: str = ""
) -> "HTTPConnectionPool":
    """Connections to `address` and nowhere else; certificates are checked for the target's name.

    `ca_file` names the authorities to trust instead of the system's and certifi's.
    """
    import urllib3

    timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
    if target.scheme == "http":
        return urllib3.HTTPConnectionPool(str(address), target.port, timeout=timeout)
    return urllib3.HTTPSConnectionPool(
        str(address),
        target.port,
        timeout=timeout,
        server_hostname=target.host,
        ssl_context=_ssl_context(ca_file),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """Which addresses and ports may be reached, and how; as it stands, the public internet.

    The command line never offers another one: an answer that a URL on the inside gives is a leak.
    """

    ports: frozenset[int] = frozenset({80, 443, 8080, 8443})
    is_allowed: Callable[[Address], bool] = is_public
    resolve: Callable[[str, int], Sequence[str]] = resolve
    open_pool: Callable[[Target, Address, float], "HTTPConnectionPool"] = open_pool


PUBLIC_INTERNET = FetchPolicy()


def parse_url(url: str, policy: FetchPolicy = PUBLIC_INTERNET) -> Target:
    """The URL taken apart; raises `BadInput` for one that is not plain http or https."""
    if _AMBIGUOUS.search(url):
        raise refused(url, "a blank, backslash or control character")
    try:
        parts = urlsplit(url)
        if parts.scheme not in USUAL_PORTS:
            raise ValueError(f"the scheme {parts.scheme!r}")
        port = parts.port
        host = _host_of(parts.netloc, parts.hostname or "")
    except ValueError as error:  # UnicodeError, of a host that is no name, is one
        raise refused(url, str(error)) from error
    port = USUAL_PORTS[parts.scheme] if port is None else port
    if port not in policy.ports:
        allowed = ", ".join(str(each) for each in sorted(policy.ports))
        raise refused(url, f"port {port}, where only {allowed} may be used")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    clean = parts._replace(fragment="").geturl()
    return Target(url=clean, scheme=parts.scheme, host=host, port=port, path=path)


def parse_redirect(target: Target, location: str, policy: FetchPolicy) -> Target:
    """Where a page says it has moved to; `BadInput` as `parse_url`, and for https to http."""
    if not location or _AMBIGUOUS.search(location):
        raise refused(target.url, f"a redirect to {location!r}")
    try:
        url = urljoin(target.url, location)
    except ValueError as error:
        raise refused(target.url, f"a redirect to {location!r}") from error
    following = parse_url(url, policy)
    if (target.scheme, following.scheme) == ("https", "http"):
        raise refused(target.url, f"a redirect from https to {following.url!r}")
    return following


def checked_addresses(target: Target, policy: FetchPolicy) -> list[Address]:
    """All addresses of the host; one that is not allowed is reason enough to refuse them all."""
    try:
        addresses = [ip_address(target.host)]
    except ValueError:
        try:
            addresses = [ip_address(each) for each in policy.resolve(target.host, target.port)]
        except (OSError, UnicodeError) as error:
            raise failed(target.url, f"no address of {target.host} ({error})") from error
        if not addresses:
            raise failed(target.url, f"no address of {target.host}") from None
    for address in addresses:
        if not policy.is_allowed(address):
            logger.info("refused %s: %s is not public", target.host, address)
            raise refused(target.url, f"an address of {target.host} outside the public internet")
    return addresses


def refused(url: str, found: str) -> BadInput:
    """For a page that will never be fetched as asked for."""
    return BadInput(
        f"cannot fetch {_shown(url)!r}: found {found}, expected a page on the public internet over "
        "http or https: HTML, text, Markdown, JSON or PDF; name another one, or save it as a file"
    )


def failed(url: str, found: str) -> StorageError:
    """For a page that may be there another time."""
    return StorageError(
        f"cannot fetch {_shown(url)!r}: found {found}, expected a page; check the address and the "
        "network, and try again later"
    )


def _shown(url: str) -> str:
    """The URL as messages have it: short, and without a password."""
    return re.sub(r"//[^/?#]*@", "//...@", url[:200])


def _host_of(netloc: str, hostname: str) -> str:
    """An ASCII name without a dot at the end, or an address as the standard library writes it."""
    if "@" in netloc:
        raise ValueError("a user name or password")
    if "%" in netloc:
        raise ValueError("a percent sign in the host")
    if netloc.startswith("["):
        return str(IPv6Address(hostname))
    host = hostname.encode("idna").decode().lower().removesuffix(".")
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise ValueError(f"the host {hostname!r}")
    if _NUMERIC_END.fullmatch(host):
        return str(IPv4Address(host))
    return host


def _ssl_context(ca_file: str) -> ssl.SSLContext:
    if ca_file:
        return ssl.create_default_context(cafile=ca_file)
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())  # slim images have no authorities of their own
    return context
