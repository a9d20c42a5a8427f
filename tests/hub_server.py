"""A server on 127.0.0.1 that speaks the few routes of the Hugging Face hub that are needed."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Repositories by their id; `asked` holds every path that was asked for a file's content."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                owner._answer(self, with_body=False)

            def do_GET(self) -> None:
                owner._answer(self, with_body=True)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repository: str, files: Mapping[str, bytes], *, gated: bool = False) -> None:
        self.repositories[repository] = dict(files)
        if gated:
            self.gated.add(repository)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repository, what = "/".join(parts[:2]), parts[2:]
        files = self.repositories.get(repository)
        if files is None:
            _send(request, 404, b"Repository not found", {"X-Error-Code": "RepoNotFound"})
        elif what[0] == "resolve" and repository in self.gated:
            _send(request, 403, b"Access is restricted", {"X-Error-Code": "GatedRepo"})
        elif what[1] not in ("main", COMMIT):
            _send(request, 404, b"Invalid rev id", {"X-Error-Code": "RevisionNotFound"})
        elif what[0] == "resolve":
            self._send_file(request, files, "/".join(what[2:]), with_body=with_body)
        elif what[0] == "tree":
            _send_json(request, [_entry(name, content) for name, content in files.items()])
        else:
            siblings = [{"rfilename": name} for name in files]
            _send_json(request, {"id": repository, "sha": COMMIT, "siblings": siblings})

    def _send_file(
        self,
        request: BaseHTTPRequestHandler,
        files: Mapping[str, bytes],
        name: str,
        *,
        with_body: bool,
    ) -> None:
        if name not in files:
            _send(request, 404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
            return
        if with_body:
            self.asked.append(name)
        headers = {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": COMMIT}
        _send(request, 200, files[name], headers, with_body=with_body)


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _send_json(request: BaseHTTPRequestHandler, value: object) -> None:
    _send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    *,
    with_body: bool = True,
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if with_body and request.command == "GET":
        request.wfile.write(body)
