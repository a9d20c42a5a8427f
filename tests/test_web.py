"""Pages fetched from the web: none from inside a network, none too large, too slow or too odd."""

import functools
import gzip
import shutil
import socket
import ssl
import subprocess
import threading
from ipaddress import ip_address

import pytest
import urllib3

from selfrag.errors import BadInput, StorageError
from selfrag.ingest.web.fetch import WebPage, document_of, fetch_document, fetch_page
from selfrag.ingest.web.urls import FetchPolicy, is_public, open_pool, parse_url

PUBLIC = "93.184.215.14"
HTML = b"""<html><head><title>Ada Lovelace</title></head><body><article><h1>Ada Lovelace</h1>
<p>She wrote the first published program for the Analytical Engine.</p></article></body></html>"""


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return answer(b"", f"Location: {location}", status=status)


class Server:
    """Answers on 127.0.0.1 what `answers` says of a path; `requests` are as they came."""

    def __init__(self, answers: dict[str, bytes], context: ssl.SSLContext | None = None) -> None:
        self.answers = answers
        self.requests: list[str] = []
        self.may_end = threading.Event()
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.may_end.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                try:
                    self._reply(client)
                except OSError:  # a client that hangs up
                    pass

    def _reply(self, client: socket.socket) -> None:
        if self._context is not None:
            client = self._context.wrap_socket(client, server_side=True)
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(65536)
        self.requests.append(request.decode())
        reply = self.answers[request.split(b" ")[1].decode()]
        client.sendall(reply)
        if not reply:
            self.may_end.wait(30)
        client.close()


class Network:
    """A made-up internet: names resolve as `names` says, and every address is one local server."""

    def __init__(self, port: int, names: dict[str, list[list[str]]]) -> None:
        self._port = port
        self._names = {name: list(answers) for name, answers in names.items()}
        self.lookups: list[str] = []
        self.connections: list[str] = []

    @property
    def policy(self) -> FetchPolicy:
        return FetchPolicy(resolve=self.resolve, open_pool=self.open_pool)

    def resolve(self, host, port):
        self.lookups.append(host)
        answers = self._names.get(host, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def open_pool(self, target, address, timeout_s):
        self.connections.append(str(address))
        return urllib3.HTTPConnectionPool("127.0.0.1", self._port, timeout=timeout_s)


@pytest.fixture
def server():
    with Server({"/": answer(HTML, "Content-Type: text/html")}) as running:
        yield running


@pytest.fixture
def network(server):
    return Network(server.port, {"docs.example": [[PUBLIC]], "mirror.example": [["8.8.8.8"]]})


# What may not be reached

NUMBERS = """http://127.0.0.1/ http://127.1/ http://127.0.1/ http://2130706433/ http://0x7f000001/
http://0x7f.0.0.1/ http://0177.0.0.1/ http://017700000001/ http://0x7f.1/ http://127.0.0.1./
http://127.0.0.01/ http://0/ http://0.0.0.0/ http://00.0.0.0/ http://0x0/ http://1.1/
http://134744072/ http://8.8.2056/ http://256.256.256.256/ http://1.2.3.4.5/ http://127.0.0.0x1/
http://10.0.0.1/ http://172.16.5.4/ http://172.31.255.255/ http://192.168.1.1/
http://169.254.169.254/latest/meta-data/ http://169.254.170.2/ http://100.64.0.1/
http://100.127.255.254/ http://192.0.0.8/ http://192.0.2.1/ http://192.88.99.1/
http://198.18.0.1/ http://198.51.100.7/ http://203.0.113.9/ http://224.0.0.1/
http://239.255.255.250/ http://240.0.0.1/ http://255.255.255.255/""".split()
IPV6 = """http://[::1]/ http://[::]/ http://[0:0:0:0:0:0:0:1]/ http://[::ffff:127.0.0.1]/
http://[::ffff:7f00:1]/ http://[::ffff:a9fe:a9fe]/ http://[::127.0.0.1]/ http://[::8.8.8.8]/
http://[64:ff9b::127.0.0.1]/ http://[64:ff9b::a00:1]/ http://[64:ff9b:1::8.8.8.8]/
http://[2002:7f00:1::1]/ http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/ http://[fe80::1]/
http://[fe80::1%25eth0]/ http://[fe80::1%eth0]/ http://[fc00::1]/ http://[fd00:ec2::254]/
http://[fec0::1]/ http://[ff02::1]/ http://[2001:db8::1]/ http://[3fff::1]/ http://[100::1]/
http://[5f00::1]/ http://[4000::1]/ http://[::1]:80:80/ http://[::1/ http://::1/
http://[v1.a]/ http://a[::1]/ http://[::1].docs.example/""".split()
NAMES = """http://localhost/ http://LOCALHOST:8080/ http://localhost./ http://localtest.example/
https://metadata.google.internal/computeMetadata/v1/ http://127.0.0.1.nip.example/
http://mixed.example/ http://mapped.example/ http://nat64.example/ http://linklocal.example/
http://shared.example/ http://intranet/""".split()
ODD = [
    *"""http://docs.example@127.0.0.1/ http://127.0.0.1@docs.example/ http://u:p@docs.example/
    http://docs.example:80@localhost/ http://@docs.example/ http://docs.example%00.evil.example/
    http://docs%2eexample/ http://127%2e0%2e0%2e1/ http://docs.example:0/ http://docs.example:22/
    http://docs.example:6379/ http://docs.example:65536/ http://docs.example:-1/
    http://docs.example:http/ http://docs.example:80:80/ file:///etc/passwd ftp://docs.example/
    gopher://docs.example:70/_x dict://docs.example:11211/ data:text/html,x javascript:alert(1)
    jar:http://docs.example!/ unix:///var/run/docker.sock //docs.example/ docs.example http:/x
    http:docs.example http:// http:/// http://. http://-a.example/ http://a..b/ http://docs.example..
    """.split(),
    "http://docs.example\\@127.0.0.1/",
    "http://127.0.0.1\\.docs.example/",
    "http://docs.example\t/",
    "http://docs.example\n.evil/",
    "http://docs.example/a b",
    " http://docs.example/",
    "http://docs.example/\r\nHost: localhost",
    "http://docs.example/\x00",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://ⓛocalhost/",
    "http://docs.example\u2044@localhost/",
    "http://\ud800.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 130 + "example/",
    "",
]
NASTY = [*NUMBERS, *IPV6, *NAMES, *ODD]
# What a header cannot carry is left out, and what there names a page of the same host.
NASTY_REDIRECTS = [
    url
    for url in NASTY
    if url.isascii()
    and not set(url) & set("\r\n")
    and url not in {"http://", "http:///", "http:/x", "http:docs.example"}
    and url.startswith(("http:", "https:", "file:", "ftp:", "gopher:", "data:", "javascript:"))
]
PRIVATE_NAMES = {
    "mixed.example": [[PUBLIC, "10.0.0.5"]],
    "mapped.example": [["::ffff:192.168.0.1"]],
    "nat64.example": [["64:ff9b::c0a8:1"]],
    "linklocal.example": [["fe80::1%eth0"]],
    "shared.example": [["100.100.100.200"]],
}


def test_the_table_of_nasty_urls_is_long():
    assert len(set(NASTY)) == len(NASTY) >= 60


@pytest.mark.parametrize("url", NASTY, ids=lambda url: ascii(url[:40]))
def test_a_nasty_url_makes_no_connection(url):
    network = Network(0, {"docs.example": [[PUBLIC]], **PRIVATE_NAMES})
    with pytest.raises(BadInput, match=r"cannot fetch .*: found .*, expected a page"):
        fetch_page(url, policy=network.policy)
    assert network.connections == []


@pytest.mark.parametrize("url", NASTY_REDIRECTS, ids=lambda url: ascii(url[:40]))
def test_a_redirect_to_a_nasty_url_makes_no_further_connection(url, server):
    network = Network(server.port, {"docs.example": [[PUBLIC]], **PRIVATE_NAMES})
    server.answers["/moved"] = redirect(url)
    with pytest.raises(BadInput, match=r"cannot fetch .*: found .*, expected a page"):
        fetch_page("http://docs.example/moved", policy=network.policy)
    assert network.connections == [PUBLIC]


def test_a_password_in_a_url_is_not_repeated_in_the_message():
    with pytest.raises(BadInput, match="a user name or password") as refused:
        fetch_page("http://ada:s3cret@docs.example/")
    assert "s3cret" not in str(refused.value)


def test_a_name_that_is_rebound_is_never_followed_inside(server):
    # Public when checked, private when looked up again: the connection goes to what was checked.
    network = Network(server.port, {"rebind.example": [[PUBLIC], ["127.0.0.1"]]})
    assert fetch_page("http://rebind.example/", policy=network.policy).body == HTML
    assert (network.lookups, network.connections) == (["rebind.example"], [PUBLIC])
    # The next hop looks it up anew, and the private address is refused.
    with pytest.raises(BadInput, match="outside the public internet"):
        fetch_page("http://rebind.example/", policy=network.policy)
    assert network.connections == [PUBLIC]


def test_a_redirect_to_a_rebound_name_is_refused(server):
    network = Network(server.port, {"rebind.example": [[PUBLIC], ["169.254.169.254"]]})
    server.answers["/moved"] = redirect("/latest/meta-data/")
    with pytest.raises(BadInput, match="outside the public internet"):
        fetch_page("http://rebind.example/moved", policy=network.policy)
    assert network.connections == [PUBLIC]


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses_are_public(address):
    assert is_public(ip_address(address))


def test_the_connection_goes_to_the_checked_address_and_the_name_into_the_request():
    target = parse_url("https://docs.example/a?b=1#c")
    pool = open_pool(target, ip_address("8.8.8.8"), 1.0)
    assert (pool.host, pool.port) == ("8.8.8.8", 443)
    assert pool.conn_kw["server_hostname"] == "docs.example"
    assert (target.url, target.path) == ("https://docs.example/a?b=1", "/a?b=1")


# What may


def test_a_page_becomes_a_document(network, server):
    document = fetch_document("http://docs.example", policy=network.policy)
    assert document.title == "Ada Lovelace"
    assert "She wrote the first published program for the Analytical Engine." in document.text
    assert "<p>" not in document.text
    assert document.source == "http://docs.example"
    assert document.metadata == (("content_type", "text/html"),)
    (request,) = server.requests
    headers = dict(line.split(": ", 1) for line in request.splitlines()[1:] if line)
    assert headers["Host"] == "docs.example"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_redirects_are_followed_one_by_one_and_each_host_is_checked(network, server):
    server.answers["/a"] = redirect("/b?c=1", "301 Moved Permanently")
    server.answers["/b?c=1"] = redirect("http://mirror.example:8080/", "308 Permanent Redirect")
    page = fetch_page("http://docs.example/a", policy=network.policy)
    assert page.url == "http://mirror.example:8080/"
    assert network.connections == [PUBLIC, PUBLIC, "8.8.8.8"]
    assert "Host: mirror.example:8080" in server.requests[-1]


def test_redirects_have_a_limit(network, server):
    server.answers["/loop"] = redirect("/loop")
    with pytest.raises(BadInput, match="more than 5 redirects"):
        fetch_page("http://docs.example/loop", policy=network.policy)
    assert len(server.requests) == 6  # the page itself and 5 redirects
    with pytest.raises(BadInput, match="more than 0 redirects"):
        fetch_page("http://docs.example/loop", policy=network.policy, max_redirects=0)


def test_a_redirect_from_https_to_http_is_refused(network, server):
    server.answers["/down"] = redirect("http://docs.example/")
    with pytest.raises(BadInput, match="a redirect from https to"):
        fetch_page("https://docs.example/down", policy=network.policy)
    assert len(server.requests) == 1


def test_no_cookie_that_a_page_sets_is_sent_on(network, server):
    server.answers["/in"] = answer(
        b"", "Location: /", "Set-Cookie: id=1; Path=/", status="303 See Other"
    )
    fetch_page("http://docs.example/in", policy=network.policy)
    assert "cookie" not in server.requests[1].lower()


def test_the_environments_proxy_is_not_asked(monkeypatch, network, server):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert fetch_page("http://docs.example/", policy=network.policy).body == HTML


@pytest.mark.parametrize(
    ("content_type", "body", "title", "text"),
    [
        ("text/plain; charset=iso-8859-1", b"caf\xe9", "page.txt", "café"),
        ("text/plain", "naïve".encode(), "page.txt", "naïve"),
        ("text/plain; charset=no-such", b"plain", "page.txt", "plain"),
        # Latin-1 is Windows-1252 on the web; a header that is left over gives way to UTF-8, but
        # comes before what the page says; a wrong one gives way to that.
        ("text/plain; charset=latin1", b"\x805", "page.txt", "\u20ac5"),
        ("text/plain; charset=iso-8859-1", "\u20ac5".encode(), "page.txt", "\u20ac5"),
        ("text/html; charset=koi8-r", b"<meta charset=latin1><p>\xd0", "page.txt", "\u043f"),
        ("text/html; charset=utf-8", b"<meta charset=latin1><p>caf\xe9", "page.txt", "caf\xe9"),
        ("TEXT/Markdown; charset=UTF-8", b"# Engine\n\nIt computes.", "Engine", "# Engine\n\nIt"),
        ("application/json", b'{"a": "b"}', "page.txt", '{"a": "b"}'),
    ],
)
def test_other_text_is_kept_as_it_is(content_type, body, title, text, network, server):
    server.answers["/notes/page.txt"] = answer(body, f"Content-Type: {content_type}")
    document = fetch_document("http://docs.example/notes/page.txt", policy=network.policy)
    assert document.title == title
    assert document.text.startswith(text)


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Type: image/png",),
        ("Content-Type: application/octet-stream",),
        ("Content-Type: application/zip",),
        ("Content-Type: text/htmlx",),
        (),
    ],
)
def test_other_content_is_refused(headers, network, server):
    server.answers["/x"] = answer(HTML, *headers)
    with pytest.raises(BadInput, match="found the content type"):
        fetch_page("http://docs.example/x", policy=network.policy)


@pytest.mark.parametrize("content_type", ["text/html", "text/plain", "application/pdf"])
def test_a_page_without_text_is_refused(content_type):
    page = WebPage(url="http://docs.example/", content_type=content_type, charset="", body=b" ")
    with pytest.raises(
        BadInput, match=r"cannot read http://docs.example/: found .*, expected text"
    ):
        document_of(page)


# Sizes, breaks and time


def test_a_body_may_have_exactly_the_limit(network, server):
    server.answers["/x"] = answer(b"x" * 1000, "Content-Type: text/plain")
    page = fetch_page("http://docs.example/x", policy=network.policy, max_bytes=1000)
    assert page.body == b"x" * 1000
    with pytest.raises(BadInput, match="found 1000 bytes, more than 999"):
        fetch_page("http://docs.example/x", policy=network.policy, max_bytes=999)


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTOLD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("head", [CHUNKED, UNTOLD])
def test_a_body_of_untold_length_is_cut_off_at_the_limit(head, network, server):
    body = b"x" * 100_000
    if head is CHUNKED:
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    server.answers["/x"] = head + body
    assert len(fetch_page("http://docs.example/x", policy=network.policy).body) == 100_000
    with pytest.raises(BadInput, match="more than 99999 bytes"):
        fetch_page("http://docs.example/x", policy=network.policy, max_bytes=99_999)


def gzipped(body: bytes) -> bytes:
    return answer(body, "Content-Type: text/plain", "Content-Encoding: gzip")


def test_a_packed_body_is_unpacked_within_the_limit(network, server):
    server.answers["/x"] = gzipped(gzip.compress(b"x" * 5000))
    assert fetch_page("http://docs.example/x", policy=network.policy).body == b"x" * 5000
    with pytest.raises(BadInput, match="more than 4999 bytes, unpacked"):
        fetch_page("http://docs.example/x", policy=network.policy, max_bytes=4999)


def test_a_bomb_is_refused(network, server):
    server.answers["/x"] = gzipped(gzip.compress(bytes(200 << 20), 1))
    with pytest.raises(BadInput, match="more than 10485760 bytes, unpacked"):
        fetch_page("http://docs.example/x", policy=network.policy)


@pytest.mark.parametrize(
    ("reply", "error", "found"),
    [
        (gzipped(gzip.compress(b"abc" * 99)[:-20]), StorageError, "a gzip body that breaks off"),
        (gzipped(b"no gzip at all"), StorageError, "a damaged gzip body"),
        (
            answer(b"x", "Content-Type: text/plain", "Content-Encoding: br"),
            BadInput,
            "the content coding 'br'",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\nhalf",
            StorageError,
            "broken|IncompleteRead",
        ),
        (CHUNKED + b"50\r\nhalf", StorageError, "broken|IncompleteRead|InvalidChunk"),
        (CHUNKED + b"zz\r\nhalf", StorageError, "broken|IncompleteRead|InvalidChunk"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", StorageError, "onnection"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", StorageError, "headers"),
        (answer(b"", status="404 Not Found"), BadInput, "status 404"),
        (answer(b"", status="401 Unauthorized"), BadInput, "status 401"),
        (answer(b"", status="503 Unavailable"), StorageError, "status 503"),
        (answer(b"", status="302 Found"), BadInput, "a redirect to ''"),
        (redirect("http://[::1"), BadInput, "a redirect to"),
    ],
)
def test_what_is_wrong_with_an_answer_is_one_sentence(reply, error, found, network, server):
    server.answers["/x"] = reply
    with pytest.raises(error, match=f"cannot fetch 'http://docs.example/x': .*({found})"):
        fetch_page("http://docs.example/x", policy=network.policy)


def test_a_server_that_says_nothing_is_given_up(network, server):
    server.answers["/silent"] = b""
    with pytest.raises(StorageError, match=r"no answer within 0.2 s|timed out"):
        fetch_page("http://docs.example/silent", policy=network.policy, timeout_s=0.2)


def test_a_name_look_up_that_hangs_is_given_up():
    may_end = threading.Event()

    def resolve(host, port):
        may_end.wait(30)
        return [PUBLIC]

    network = Network(0, {})
    policy = FetchPolicy(resolve=resolve, open_pool=network.open_pool)
    with pytest.raises(StorageError, match=r"no answer within 0.1 s"):
        fetch_page("http://docs.example/", policy=policy, timeout_s=0.1)
    assert network.connections == []
    may_end.set()


def test_what_the_system_itself_calls_localhost_is_refused():
    with pytest.raises(BadInput, match="an address of localhost outside the public internet"):
        fetch_page("http://localhost:8080/")


def test_an_unknown_name_is_said_to_be():
    def resolve(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(StorageError, match=r"no address of docs.example .*not known"):
        fetch_page("http://docs.example/", policy=FetchPolicy(resolve=resolve))


# On this machine, with a policy that the command line does not have


def local_policy(server: Server, **options: str) -> FetchPolicy:
    return FetchPolicy(
        ports=frozenset({server.port}),
        is_allowed=lambda address: str(address) == "127.0.0.1",
        resolve=lambda host, port: ["127.0.0.1"],
        open_pool=functools.partial(open_pool, **options),
    )


def test_a_real_connection(server):
    url = f"http://docs.example:{server.port}/"
    assert fetch_document(url, policy=local_policy(server)).title == "Ada Lovelace"
    assert f"Host: docs.example:{server.port}" in server.requests[0]
    with pytest.raises(BadInput, match="found port"):
        fetch_document(url)


def test_the_next_address_is_tried_where_one_takes_no_connection(server):
    with socket.create_server(("127.0.0.2", 0)) as other:
        closed = other.getsockname()[1]
    asked: list[str] = []

    def open_at(target, address, timeout_s):
        asked.append(str(address))
        port = closed if str(address) == "127.0.0.2" else server.port
        return urllib3.HTTPConnectionPool(str(address), port, timeout=timeout_s)

    policy = FetchPolicy(
        is_allowed=lambda address: address.is_loopback,
        resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"],
        open_pool=open_at,
    )
    assert fetch_page("http://docs.example/", policy=policy).body == HTML
    assert asked == ["127.0.0.2", "127.0.0.1"]
    refused = FetchPolicy(
        is_allowed=lambda address: address.is_loopback,
        resolve=lambda host, port: ["127.0.0.2"],
        open_pool=open_at,
    )
    with pytest.raises(StorageError, match="refused"):
        fetch_page("http://docs.example/", policy=refused)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-keyout {key} -out {cert} -subj /CN=docs.example -addext subjectAltName=DNS:docs.example"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return key, cert


def test_a_certificate_is_checked_for_the_name_though_the_address_is_connected_to(certificate):
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    seen: list[str | None] = []
    context.sni_callback = lambda _, name, __: seen.append(name)
    with Server({"/": answer(HTML, "Content-Type: text/html")}, context) as server:
        policy = local_policy(server, ca_file=str(cert))
        page = fetch_page(f"https://docs.example:{server.port}/", policy=policy)
        assert page.body == HTML
        assert seen == ["docs.example"]
        with pytest.raises(StorageError, match=r"other\.example"):
            fetch_page(f"https://other.example:{server.port}/", policy=policy)
        with pytest.raises(StorageError, match=r"(?i)certificate verify failed"):
            fetch_page(f"https://docs.example:{server.port}/", policy=local_policy(server))
