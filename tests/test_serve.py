"""Our own routes over a real server: questions, traces, the index, state, and what is refused."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfrag.decode.calibration import Calibration, Features, Quality
from selfrag.errors import BadInput, ConfigError
from selfrag.open import indexes
from selfrag.progress import SILENT
from selfrag.retrieval.manifest import Manifest
from selfrag.serve.app import create_app
from selfrag.serve.guard import OPEN_PATHS
from selfrag.serve.index import Place, ServedIndex
from selfrag.serve.limits import TOKEN_VARIABLE, Access, Limits
from selfrag.serve.service import Service
from serve_parts import NoLibrary, events_of, library, open_library, scripted_engine, serving

TITAN = "Which moon has Saturn?"
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    limits = Limits(request_kb=64, upload_mb=1)
    with serving(lambda: library(folder), limits=limits) as running:
        yield running


def names_of(events):
    return [name for name, _ in events]


def trace_in(events):
    return [row for name, row in events if name not in ("segment", "answer", "error")]


# Questions and traces


def test_every_step_of_a_search_is_told_and_then_the_answer(server):
    events = events_of(server.ask(TITAN).text)
    names = names_of(events)
    assert names[:4] == ["question", "gate", "node", "retrieval"]
    assert names[-3:] == ["finish", "segment", "answer"]
    assert names.count("candidate") == 3  # one for each passage
    answer = events[-1][1]
    assert (answer["answer"], answer["low_confidence"]) == ("Titan is a moon of Saturn.", False)
    (evidence,) = answer["segments"][0]["evidence"]
    assert evidence["cited_text"] == "Titan is a moon of Saturn."
    assert answer["passages"][0]["id"] == evidence["passage_id"]


def test_an_answer_that_is_not_streamed_is_the_same(server):
    events = events_of(server.ask(TITAN).text)
    whole = server.ask(TITAN, stream=False).json()
    assert whole["answer"] == events[-1][1]
    assert whole["trace"] == trace_in(events)
    assert whole["trace"][0]["model"] == "made/weights"


def test_a_trace_is_rescored_without_the_model(server):
    trace = server.ask(TITAN, stream=False).json()["trace"]
    n_calls = len(server.service.engine.calls)
    same = server.client.post("/v1/rescore", json={"trace": trace}).json()
    assert same["answer"]["answer"] == "Titan is a moon of Saturn."
    assert same["node"] == next(row["best"] for row in trace if row["type"] == "finish")
    # Without any weight all candidates tie, and the first one written wins.
    weights = dict.fromkeys(("relevance", "support", "utility", "sequence", "retrieval"), 0)
    tied = server.client.post("/v1/rescore", json={"trace": trace, "weights": weights}).json()
    assert {each["score"] for each in tied["candidates"]} == {0.0}
    # Above the gate's number nothing would have been retrieved, and that was not searched.
    never = server.client.post("/v1/rescore", json={"trace": trace, "threshold": 1.0}).json()
    assert (never["answer"], never["retrieve"]) == (None, False)
    assert len(server.service.engine.calls) == n_calls


def test_answers_have_a_probability_where_the_model_has_a_calibration(tmp_path):
    # 1.5 whatever the features are: 1 / (1 + exp(-1.5)) = 0.8176
    none = dict.fromkeys(("relevance", "support", "utility", "sequence", "retrieval", "margin"), 0)
    flat = Calibration(
        model="scripted",
        intercept=1.5,
        coefficients=Features(**none),
        targets=(),
        quality=Quality(n=0, ece_before=0, ece_after=0, accuracy=()),
    )
    with serving(lambda: library(tmp_path), calibration=flat) as running:
        told = running.ask(TITAN, stream=False).json()
        assert told["answer"]["probability"] == pytest.approx(0.8176, abs=1e-4)
        assert told["answer"]["verdict"].startswith("82% likely to be right: ")
        again = running.client.post("/v1/rescore", json={"trace": told["trace"]}).json()
        assert again["answer"]["probability"] == told["answer"]["probability"]
        strict = running.ask(TITAN, stream=False, settings={"min_probability": 0.9}).json()
        assert (strict["answer"]["abstained"], strict["answer"]["low_confidence"]) == (True, True)


def test_a_bound_on_the_probability_without_a_calibration_is_refused(server):
    reply = server.ask(TITAN, stream=False, settings={"min_probability": 0.9})
    assert reply.status_code == 400
    assert "with --calibration" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "trace",
    [
        [],
        [{}],
        [{"type": "question", "question": 0}],
        [{"type": "finish", "question": 0}],
        [{"x": 1}],
    ],
)
def test_what_is_no_trace_is_refused(server, trace):
    reply = server.client.post("/v1/rescore", json={"trace": trace})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_input")


def test_a_trace_of_endless_paths_is_refused(server):
    rows = [{"type": "node", "node": n, "parent": n - 1 if n else None} for n in range(18)]
    reply = server.client.post("/v1/rescore", json={"trace": rows})
    assert "more than 16 segments" in reply.json()["error"]["message"]


def test_settings_and_history_are_used(server):
    never = server.ask(TITAN, stream=False, settings={"mode": "never"}).json()
    assert never["answer"]["retrieved"] is False
    history = [{"question": TITAN, "answer": "Titan."}]
    later = server.ask("And its atmosphere?", stream=False, history=history).json()
    assert later["answer"]["answer"] == "Titan is a moon of Saturn."
    query = next(row["query"] for row in later["trace"] if row["type"] == "retrieval")
    assert "Titan." in query


# The index


def test_passages_are_searched_and_shown_with_their_file(server):
    hits = server.client.post("/v1/search", json={"query": "moon of Saturn"}).json()["hits"]
    assert hits[0]["text"].startswith("Titan is a moon")
    shown = server.client.get(f"/v1/passages/{hits[0]['id']}").json()
    assert shown["source"].endswith("titan.txt")
    file = server.client.get(f"/v1/passages/{hits[0]['id']}/source")
    assert file.text == "Titan is a moon of Saturn. It has a dense atmosphere."
    assert "sandbox" in file.headers["content-security-policy"]
    assert server.client.get("/v1/passages/none").status_code == 404
    none = server.client.post("/v1/search", json={"query": "moon", "filter": {"year": "1999"}})
    assert none.json()["hits"] == []


def test_an_upload_is_found_at_once_shown_and_taken_out_again(tmp_path):
    with serving(lambda: library(tmp_path)) as running:
        upload = {"file": ("pelicans.txt", b"Pelicans carry fishes home. They fly.")}
        events = events_of(running.client.post("/v1/documents", files=upload).text)
        assert names_of(events)[-1] == "done"
        assert (events[-1][1]["added"], events[-1][1]["passages"]) == (1, 4)
        answer = running.ask("What do pelicans carry?", stream=False).json()["answer"]
        assert answer["answer"] == "Pelicans carry fishes home."
        listed = running.client.get("/v1/documents").json()["documents"]
        (source,) = [each["source"] for each in listed if each["name"] == "pelicans.txt"]
        gone = running.client.delete("/v1/documents", params={"source": source}).json()
        assert gone["deleted_passages"] == 1
        assert running.client.get("/v1/index").json()["n_files"] == 3
        assert not (tmp_path / "uploads" / "pelicans.txt").exists()


def test_an_upload_that_cannot_be_read_is_told(server):
    events = events_of(
        server.client.post("/v1/documents", files={"file": ("a.txt", b"\x00\x01\x02")}).text
    )
    assert events[-1][0] == "done"
    assert (events[-1][1]["skipped"], events[-1][1]["faults"][0]["name"]) == (1, "a.txt")


@pytest.mark.parametrize("name", ["..", ".hidden", "x" * 300])
def test_an_upload_of_an_odd_name_is_refused(server, name):
    reply = server.client.post("/v1/documents", files={"file": (name, b"text")})
    assert reply.status_code == 400


def test_an_upload_stays_in_its_folder(tmp_path):
    opened = library(tmp_path)
    for name in ("../../up.txt", "/etc/up.txt", "a\\..\\up.txt"):
        with (tmp_path / "docs" / "titan.txt").open("rb") as content:
            assert opened.keep(name, content) == tmp_path / "uploads" / "up.txt"


def test_the_demo_index_is_served_from_a_copy_that_takes_documents(tmp_path, monkeypatch):
    library(tmp_path)
    demo = (tmp_path / "index").rename(tmp_path / "demo")
    before = Manifest.load(demo)
    monkeypatch.setattr(indexes, "demo_index_dir", lambda: demo)
    monkeypatch.setattr(indexes, "build_demo_index", lambda report: demo)
    monkeypatch.setattr(indexes, "open_index", lambda path, report: path)
    place = ServedIndex.open(None, None, SILENT).place
    assert (Path(place.index).name, place.documents.name) == (
        "served-demo",
        "served-demo.documents",
    )
    copied = Manifest.load(place.index)
    assert (copied.chunking, copied.chunk_words, copied.encoder.max_tokens) == ("words", 100, 256)
    assert Manifest.load(demo) == before
    ServedIndex.open(None, None, SILENT)  # again: the copy is kept
    assert Manifest.load(place.index) == copied


def test_documents_are_kept_beside_an_index_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Place.of(".", None).documents == tmp_path.with_name(f"{tmp_path.name}.documents")
    assert Place.of("s3://bucket/notes", None).documents.name == "notes.documents"
    assert Place.of("s3://bucket/notes", tmp_path).documents == tmp_path


def test_files_that_have_changed_are_read_again(tmp_path):
    with serving(lambda: library(tmp_path)) as running:
        (tmp_path / "docs" / "titan.txt").write_text("Titan has a thick sky. It rains.")
        events = events_of(running.client.post("/v1/index/update").text)
        assert events[-1][1]["replaced"] == 1
        hits = running.client.post("/v1/search", json={"query": "thick sky"}).json()["hits"]
        assert hits[0]["text"].startswith("Titan has a thick sky")


def test_an_index_is_open_again_after_a_restart(tmp_path):
    with serving(lambda: library(tmp_path)) as running:
        running.client.post("/v1/documents", files={"file": ("owl.txt", b"Owls hunt at night.")})
    with serving(lambda: open_library(tmp_path)) as running:
        answer = running.ask("Which animals hunt at night?", stream=False).json()["answer"]
        assert answer["answer"] == "Owls hunt at night."


# State


def test_health_asks_the_engine(server):
    server.service.batcher.last_good = 0.0
    n_rounds = server.service.batcher.n_rounds
    assert server.client.get("/health").json() == {"status": "ok", "ready": True}
    assert server.service.batcher.n_rounds == n_rounds + 1


def test_an_engine_that_fails_is_no_health():
    def fail(_):
        raise ValueError("the weights have melted")

    with serving(NoLibrary, scripted_engine(before=fail)) as running:
        reply = running.client.get("/health")
        assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
        assert "melted" not in reply.text
        answered = running.ask("hello", stream=False)
        assert answered.status_code == 500


def test_before_the_model_is_open_the_page_is_there_and_questions_are_refused():
    gate = threading.Event()

    def slow():
        gate.wait(30)
        return NoLibrary()

    service = Service(lambda _: (slow(), scripted_engine()), Limits())
    from starlette.testclient import TestClient

    with TestClient(create_app(service), base_url="http://localhost") as client:
        assert client.get("/").status_code == 200
        assert client.get("/health").json()["status"] == "loading"
        assert client.get("/ready").status_code == 503
        assert client.get("/metrics").status_code == 200
        reply = client.post("/v1/ask", json={"question": "hello"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "loading")
        gate.set()
        while client.get("/ready").status_code != 200:
            pass
        assert client.post("/v1/ask", json={"question": "hello"}).status_code == 200


def test_metrics_count_replies(server):
    server.ask("hello", stream=False)
    text = server.client.get("/metrics").text
    assert 'selfrag_requests_total{method="POST",route="/v1/ask",status="200"}' in text
    assert "selfrag_ready 1.0" in text


def test_every_route_is_described_and_everything_described_is_a_route(server):
    described = server.client.get("/openapi.json").json()
    told = {
        (path, method.upper()) for path, methods in described["paths"].items() for method in methods
    }
    real = {
        (route.path, method)
        for route in _routes(server.service)
        for method in route.methods - {"HEAD"}
    }
    assert told == real - {("/openapi.json", "GET")}
    assert len(told) > 15
    references = set()

    def walk(value):
        if isinstance(value, dict):
            references.update([value["$ref"]] if "$ref" in value else [])
            value = list(value.values())
        for each in value if isinstance(value, list) else []:
            walk(each)

    walk(described)
    names = {reference.removeprefix("#/components/schemas/") for reference in references}
    assert names and names <= set(described["components"]["schemas"])


def _routes(service):
    return create_app(service).app.routes


# What is refused


def test_every_reply_is_safe_for_a_browser_and_has_an_id(server):
    for path in ("/", "/health", "/nothing"):
        headers = server.client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert len(headers["x-request-id"]) == 16
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/nothing", b"", 404),
        ("GET", "/static/..%2Fapp.py", b"", 404),
        ("GET", "/static/" + "x" * 300, b"", 404),
        ("GET", "/static/%00", b"", 404),
        ("GET", "/v1/passages/%00", b"", 404),
        ("GET", "/v1/passages/" + "x" * 300 + "/source", b"", 404),
        ("POST", "/v1/ask/", b"{}", 404),
        ("PATCH", "/v1/ask", b"", 405),
        ("POST", "/v1/ask", b"", 400),
        ("POST", "/v1/ask", b"{", 400),
        ("POST", "/v1/ask", b"\xff\xfe", 400),
        ("POST", "/v1/ask", b"[" * 60_000, 400),
        ("POST", "/v1/ask", b'{"question": "\\ud800"}', 400),
        ("POST", "/v1/ask", b'{"question": NaN}', 400),
        ("POST", "/v1/ask", b'{"question": "a", "settings": {"top_k": 1e400}}', 400),
        ("POST", "/v1/ask", b'{"question": "a", "settings": {"weights": [1]}}', 400),
        ("POST", "/v1/ask", b'{"question": "a", "settings": {"no": 1}}', 400),
        ("POST", "/v1/ask", b'{"question": "' + b"a" * 30_000 + b'"}', 400),
        ("POST", "/v1/search", b'{"query": "a", "top_k": 1000}', 400),
        ("POST", "/v1/documents", b"", 400),
        ("DELETE", "/v1/documents", b"", 400),
        ("DELETE", "/v1/documents?source=nothing", b"", 400),
        ("DELETE", "/v1/documents?source=~%00" + "x" * 300, b"", 400),
    ],
)
def test_what_is_wrong_is_told_in_the_shape_of_openai(server, method, path, content, status):
    reply = server.client.request(method, path, content=content)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["request_id"] == reply.headers["x-request-id"]
    assert "Traceback" not in reply.text and len(error["message"]) < 1000


def test_a_body_that_is_too_long_is_refused_before_it_is_read(server):
    reply = server.client.post("/v1/ask", content=b"x" * (65 << 10))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    chunks = (b"x" * 1024 for _ in range(65))  # without a length
    assert server.client.post("/v1/ask", content=chunks).status_code == 413
    upload = {"file": ("a.txt", b"x" * (2 << 20))}
    assert server.client.post("/v1/documents", files=upload).status_code == 413


def test_a_name_that_is_not_ours_is_refused(server):
    reply = server.client.get("/health", headers={"host": "rebound.example:8080"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (421, "unknown_host")
    assert server.client.get("/health", headers={"host": "[::1]:8080"}).status_code == 200


def test_pages_of_other_sites_are_refused(server):
    body = json.dumps({"question": "hello"})
    for origin in ("https://evil.example", "null"):
        reply = server.client.post("/v1/ask", content=body, headers={"origin": origin})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "cross_origin")
    own = server.client.post("/v1/ask", content=body, headers={"origin": server.url})
    assert own.status_code == 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with serving(NoLibrary, access=Access(tokens=(TOKEN, "another-token"))) as running:
        yield running


def test_who_is_refused_while_sending_reads_why(guarded):
    wrong = {"authorization": "Bearer wrong"}
    for _ in range(5):
        upload = {"file": ("a.txt", b"x" * (8 << 20))}
        reply = guarded.client.post("/v1/documents", files=upload, headers=wrong)
        assert reply.status_code == 401


def _basic(token):
    return "Basic " + base64.b64encode(f"me:{token}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Token {TOKEN}", "Basic ###"),
        *(_basic("wrong"), "Bearer ünknown".encode("latin-1")),
    ],
)
def test_every_route_wants_a_token_but_health(guarded, authorization):
    headers = {} if authorization is None else {"authorization": authorization}
    del guarded.client.headers["authorization"]
    try:
        for route in _routes(guarded.service):
            for method in route.methods:
                path = route.path.replace("{", "").replace("}", "")
                reply = guarded.client.request(method, path, headers=headers)
                if route.path in OPEN_PATHS:
                    assert reply.status_code in (200, 405)
                else:
                    assert reply.status_code == 401, (method, path)
                    assert TOKEN not in reply.text
        assert guarded.client.get("/nothing", headers=headers).status_code == 401
    finally:
        guarded.client.headers["authorization"] = f"Bearer {TOKEN}"


def test_any_token_opens_as_a_bearer_or_as_a_password(guarded):
    for value in (f"Bearer {TOKEN}", "bearer another-token", _basic(TOKEN)):
        reply = guarded.client.get("/ready", headers={"authorization": value})
        assert reply.status_code == 200


def test_a_token_is_in_no_log(guarded, caplog):
    caplog.set_level("DEBUG")
    guarded.client.get("/ready")
    guarded.client.get("/ready", headers={"authorization": "Bearer canary-0123456789"})
    told = "".join(str(vars(record)) for record in caplog.records)
    assert "request_id" in told
    assert TOKEN not in told and "canary" not in told


def test_others_are_served_with_a_token_only():
    with pytest.raises(BadInput, match="no token is set"):
        Access.of(host="0.0.0.0", token_file=None, environ={})
    assert Access.of(host="0.0.0.0", token_file=None, environ={}, is_open=True).tokens == ()
    found = Access.of(
        host="::", token_file=None, environ={"SELFRAG_SERVE_TOKENS": f"{TOKEN} b2345678"}
    )
    assert (found.tokens, found.hosts) == ((TOKEN, "b2345678"), ())
    named = Access.of(host="::", token_file=None, environ={}, names=("rag.example",), is_open=True)
    assert "rag.example" in named.hosts


def test_tokens_are_read_from_a_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{TOKEN}\n\n")
    assert Access.of(host="127.0.0.1", token_file=path, environ={}).tokens == (TOKEN,)
    for content in ("", "short\n", "with späce-and-more\n"):
        path.write_text(content)
        with pytest.raises(BadInput, match="token"):
            Access.of(host="127.0.0.1", token_file=path, environ={})
    with pytest.raises(BadInput, match="cannot read tokens"):
        Access.of(host="127.0.0.1", token_file=tmp_path / "none", environ={})


def test_tokens_of_the_environment_are_no_limit():
    environ = {TOKEN_VARIABLE: f"{TOKEN} b2345678"}
    assert Limits().with_environment(environ, {}) == Limits()


def test_limits_come_from_the_environment_but_for_what_is_given():
    environ = {"SELFRAG_SERVE_QUEUE": "3", "SELFRAG_SERVE_BATCH": "4", "SELFRAG_SERVE_SECONDS": "9"}
    limits = Limits(batch=2).with_environment(environ, {"batch": "--batch"})
    assert (limits.queue, limits.batch, limits.seconds) == (3, 2, 9.0)
    with pytest.raises(ConfigError, match="SELFRAG_SERVE_QUEUE"):
        Limits().with_environment({"SELFRAG_SERVE_QUEUE": "many"}, {})


def test_bytes_that_are_no_http_are_no_end(server):
    host, port = server.url.removeprefix("http://").split(":")
    for sent in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000, b"\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1024)
    assert server.client.get("/health").status_code == 200


# The command


def serve_command(tmp_path, *arguments, **environ):
    """How `selfrag serve` ends where no asset is here and none can be fetched."""
    nothing = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}
    return subprocess.run(
        [sys.executable, "-m", "selfrag", "serve", "--port", "0", *arguments],
        env={**os.environ, **nothing, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--host", "0.0.0.0"], "others can reach it and no token is set"),
        (["--token-file", "none"], "cannot read tokens from none"),
        (["--index", "nothing"], "cannot open the index nothing"),
        (["--beam-width", "99"], "this server allows at most 8"),
        (["--seconds", "0"], "limits.seconds is 0.0; expected a number above 0"),
    ],
)
def test_a_server_that_cannot_be_as_asked_does_not_start(tmp_path, arguments, found):
    ended = serve_command(tmp_path, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert found in ended.stderr


def test_a_server_whose_model_cannot_be_opened_ends_and_says_why(tmp_path):
    ended = serve_command(tmp_path)
    assert ended.returncode == 1
    first, *_, last = ended.stderr.splitlines()
    assert first.startswith("selfrag: serving http://127.0.0.1:")
    assert last.startswith("selfrag: cannot fetch")


# Checking


def test_a_text_is_checked_against_the_index(server):
    text = "Titan is a moon of Saturn. Is it?"
    reply = server.client.post("/v1/check", json={"text": text, "top_k": 2})
    assert reply.status_code == 200
    told = reply.json()
    first, second = told["sentences"]
    assert (first["text"], second["verdict"]) == ("Titan is a moon of Saturn.", "not a claim")
    assert 0 <= first["probability"] <= 1
    assert first["is_quote"] and first["best"]["text"] == first["text"]
    assert [each["title"] for each in told["passages"]] == ["titan"]
    assert told["model"]


def test_a_text_is_checked_against_passages_that_are_sent(server):
    passages = ["Bread is brown.", {"text": "Titan is a moon.", "title": "Titan"}]
    asked = {"text": "Titan is a moon [2].", "question": "What is it?", "passages": passages}
    told = server.client.post("/v1/check", json=asked).json()
    assert told["question"] == "What is it?"
    assert told["sentences"][0]["citations"][0]["number"] == 2
    assert {"number": 2, "text": "Titan is a moon."}.items() <= told["passages"][-1].items()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"text": " "}, "the text is empty"),
        ({"text": "a" * 20_001}, "the text has 20001 characters"),
        ({"text": "Titan is a moon.", "passages": []}, "found no passages"),
        ({"text": "Titan is a moon.", "passages": [" "]}, "found 1 passage without text"),
        ({"text": "Titan is a moon.", "top_k": 21}, "top_k 21: this server allows at most 20"),
        ({"question": "Who?"}, "missing required field `text`"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_sentence(server, asked, found):
    reply = server.client.post("/v1/check", json=asked)
    assert reply.status_code == 400
    assert found in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"text": null}',
        b'{"text": ["Titan."]}',
        b'{"text": "\xff"}',
        b'{"text": "Titan \\ud800 is."}',
        b'{"text": "Titan is a moon.", "question": null}',
        b'{"text": "Titan is a moon.", "passages": "Titan."}',
        b'{"text": "Titan is a moon.", "passages": [null]}',
        b'{"text": "Titan is a moon.", "passages": [{"title": "Titan"}]}',
        b'{"text": "Titan is a moon.", "passages": ["\\ud800"]}',
        b'{"text": "Titan is a moon.", "top_k": 0}',
        b'{"text": "Titan is a moon.", "top_k": "3"}',
        b'{"text": ' + b"[" * 50_000,
        json.dumps({"text": "Titan is a moon.", "passages": ["a"] * 1001}).encode(),
    ],
)
def test_a_body_that_is_no_check_is_refused_in_the_usual_shape(server, body):
    reply = server.client.post("/v1/check", content=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "bad_input")
    assert error["message"].startswith(("cannot read the request: ", "cannot check: "))
    assert server.client.post("/v1/check", json={"text": "Titan is a moon."}).status_code == 200


def test_passages_that_are_long_together_are_refused(tmp_path):
    with serving(lambda: library(tmp_path), limits=Limits(question_chars=100)) as running:
        asked = {"text": "Titan is a moon.", "passages": ["a" * 501, "b" * 500]}
        reply = running.client.post("/v1/check", json=asked)
        assert "2 passages of 1001 characters together" in reply.json()["error"]["message"]


def test_what_cannot_be_seen_is_no_claim(server):
    for text in ("\u0000", "\u200b", "\U0001f989"):
        (only,) = server.client.post("/v1/check", json={"text": text}).json()["sentences"]
        assert only["verdict"] == "not a claim"


def test_checks_and_questions_at_the_same_time_give_what_they_give_alone(server):
    texts = [f"Titan is moon {n} of Saturn." for n in range(4)]
    alone = [server.client.post("/v1/check", json={"text": text}).json() for text in texts]
    asked = server.ask(TITAN, stream=False).json()
    with ThreadPoolExecutor(8) as pool:
        checks = [pool.submit(server.client.post, "/v1/check", json={"text": t}) for t in texts]
        answers = [pool.submit(server.ask, TITAN, stream=False) for _ in texts]
        assert [each.result().json() for each in checks] == alone
        assert [each.result().json() for each in answers] == [asked] * len(texts)


def test_a_check_needs_a_token_as_all_else_does(tmp_path):
    with serving(lambda: library(tmp_path), access=Access(tokens=(TOKEN,))) as running:
        asked = {"text": "Titan is a moon."}
        headers = {"authorization": "Bearer wrong-wrong"}
        refused = running.client.post("/v1/check", json=asked, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert running.client.post("/v1/check", json=asked).status_code == 200


def test_a_check_ends_with_its_client(tmp_path):
    reading, go = threading.Event(), threading.Event()

    def before(surface):
        if "Titan" in surface:
            reading.set()
            assert go.wait(30)

    with serving(lambda: library(tmp_path), scripted_engine(before)) as running:
        body = json.dumps({"text": "Titan is a moon."}).encode()
        head = f"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        address = running.client.base_url
        with socket.create_connection((address.host, address.port)) as client:
            client.sendall(head.encode() + body)
            assert reading.wait(30)
        go.set()
        while running.on_loop(lambda: running.service.batcher.n_running):
            pass
        assert running.client.get("/health").status_code == 200
