"""A real llama.cpp server by its address: text by plain requests, log-probabilities by probes."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("openai")
xllamacpp = pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

from selfrag.engine import llama_server  # noqa: E402
from selfrag.engine.base import FinishReason, Request  # noqa: E402
from selfrag.errors import EngineError  # noqa: E402
from selfrag.open.engines import ModelOptions, open_engine  # noqa: E402
from selfrag.train.gguf_file import GgufType, write_gguf  # noqa: E402
from test_engine_contract import requests  # noqa: E402
from tiny_model import TOKENS, save_tiny_model  # noqa: E402


@contextmanager
def serving(path):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = 1024, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.ui, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return write_gguf(save_tiny_model(folder, TOKENS), folder / "tiny.gguf", GgufType.F32)


@pytest.fixture(scope="module")
def local(file):
    return open_engine(ModelOptions(model=str(file)))


@pytest.fixture(scope="module")
def served(file):
    with serving(file) as url:
        engine = open_engine(ModelOptions(model=url))  # which checks its scores
        yield engine
        engine.close()


# The server keeps keys and values in 16 bits, the engine of a file that is all fp32 in 32.
ATOL = 0.03


def assert_known_equal(found, expected, watch_ids):
    assert found.token_ids == expected.token_ids
    assert found.finish_reason == expected.finish_reason
    assert np.allclose(found.logprobs, expected.logprobs, atol=ATOL)
    last = len(found.token_ids) - 1
    for at, token_id in enumerate(found.token_ids):
        if at in (0, last) or token_id in watch_ids:
            likely = expected.watched[at] > np.log(1e-3)
            assert np.allclose(found.watched[at][likely], expected.watched[at][likely], atol=ATOL)
            assert (found.watched[at] > -60).all()
        else:
            assert (found.watched[at] == llama_server.UNKNOWN).all()


def test_a_server_gives_what_its_file_gives_in_this_process(served, local):
    batch = [replace(r, max_new_tokens=n) for n, r in enumerate(requests(local), start=1)]
    batch += requests(local, [41], max_new_tokens=20)  # more than one plain request
    # Ids that are chosen are watched too, so that likely ones are compared.
    first = local.generate(batch)
    batch = [
        replace(r, watch_ids=tuple(dict.fromkeys((*r.watch_ids, *c.token_ids[::2]))))
        for r, c in zip(batch, first, strict=True)
    ]
    assert len(batch) == 8
    found = served.generate(batch)
    for one, expected, request in zip(found, local.generate(batch), batch, strict=True):
        assert_known_equal(one, expected, request.watch_ids)


def test_a_stop_id_ends_a_completion_and_belongs_to_it(served, local):
    (request,) = requests(local, [41], max_new_tokens=20)
    (free,) = local.generate([request])
    stop_ids = frozenset({free.token_ids[3]})
    (found,) = served.generate([replace(request, stop_ids=stop_ids)])
    (expected,) = local.generate([replace(request, stop_ids=stop_ids)])
    assert found.finish_reason is FinishReason.STOP
    assert_known_equal(found, expected, request.watch_ids)


def test_nothing_watched_costs_no_probe(local):
    bodies = []

    def post(body):
        bodies.append(body)
        steps = [{"id": 5, "logprob": -0.5}]
        return {"tokens": [5], "completion_probabilities": steps, "stop_type": "limit"}

    done = llama_server.complete(post, Request(prefix_ids=(1, 2), max_new_tokens=1))
    assert done.token_ids == (5,) and done.watched.shape == (1, 0) and len(bodies) == 1


def test_a_server_whose_replies_lack_probabilities_is_refused(served, monkeypatch):
    monkeypatch.setattr(llama_server, "_BIAS", 0.0)  # as of a server that ignores the bias
    (request,) = requests(served, [5], max_new_tokens=1)
    with pytest.raises(EngineError, match=r"cannot use what .* answered: .*use vLLM"):
        served.generate([request])
