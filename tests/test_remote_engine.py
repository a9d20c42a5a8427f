"""Models behind servers of token ids: what is sent, what is read, and what is refused."""

import itertools
import json
import multiprocessing
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("openai")

from model_server import model_server
from selfrag.engine.base import FinishReason, Request
from selfrag.engine.check import check_engine
from selfrag.engine.remote import Dialect, RemoteEngine, Served, ServerConfig, completed, look_up
from selfrag.errors import BadInput, EngineError
from test_engine_contract import WORDS, assert_same, requests, scripted_case

DIALECTS = pytest.mark.parametrize("owner", ["vllm", "sglang"])


def remote(*servers, **options):
    config = ServerConfig(urls=tuple(s.url for s in servers), max_retries=0, **options)
    local = scripted_case()
    return RemoteEngine(config, tokenizer=local.tokenizer, served=look_up(config))


@DIALECTS
def test_a_server_gives_what_the_engine_behind_it_gives(owner):
    local = scripted_case()
    with model_server(local, owner=owner) as server:
        engine = remote(server)
        batch = requests(engine)
        found = engine.generate(batch)
        engine.close()
    assert len(found) == 7
    for each, expected in zip(found, local.generate(batch), strict=True):
        assert_same(each, expected)


@DIALECTS
def test_stop_ids_end_a_completion_and_belong_to_it(owner):
    local = scripted_case()
    (request,) = requests(local, [5], max_new_tokens=8)
    third = local.generate([request])[0].token_ids[2]
    stopping = Request(prefix_ids=request.prefix_ids, max_new_tokens=8, stop_ids=frozenset({third}))
    with model_server(local, owner=owner) as server:
        engine = remote(server)
        (found,) = engine.generate([stopping])
        engine.close()
    assert found.token_ids[-1] == third and found.finish_reason is FinishReason.STOP
    assert found.watched.shape == (len(found.token_ids), 0)


def test_what_is_asked_for_travels_with_every_call_to_vllm():
    with model_server(scripted_case()) as server:
        engine = remote(server)
        batch = requests(engine, max_new_tokens=3)
        engine.generate(batch)
        engine.close()
    (body,) = server.bodies
    assert body["prompt"] == [list(request.prompt_ids) for request in batch]
    assert body["logprob_token_ids"] == list(batch[0].watch_ids)
    assert body["logprobs"] == 15 and body["temperature"] == 0 and body["max_tokens"] == 3
    assert body["add_special_tokens"] is False and body["return_token_ids"] is True


def test_requests_with_other_limits_are_calls_of_their_own_and_keep_their_order():
    local = scripted_case()
    batch = requests(local, max_new_tokens=2) + requests(local, max_new_tokens=5)
    with model_server(local) as server:
        engine = remote(server)
        found = engine.generate(batch[::2] + batch[1::2])
        engine.close()
    assert sorted(body["max_tokens"] for body in server.bodies) == [2, 5]
    expected = local.generate(batch[::2] + batch[1::2])
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]


def test_a_server_that_stops_answering_is_passed_over_and_nothing_is_lost():
    local = scripted_case()
    batch = [r for n in range(1, 9) for r in requests(local, max_new_tokens=n)]
    with model_server(local) as first, model_server(local) as second:
        engine = remote(first, second)
        first.fail_after = 2
        found = engine.generate(batch)
        later = engine.generate(batch)
        engine.close()
    expected = [each.token_ids for each in local.generate(batch)]
    assert [each.token_ids for each in found] == expected
    assert [each.token_ids for each in later] == expected
    # A call that a server failed was made again by the other; later calls try that one first.
    assert len(first.bodies) >= 3 and len(second.bodies) >= 13


def knowing_case():
    """A scripted engine whose words have the same ids in every process."""
    local = scripted_case()
    requests(local)
    local.tokenizer.encode(WORDS)
    for letter in WORDS:
        local.tokenizer.encode(letter)
    return local


def serve_and_die(urls):
    """In a process of its own: a server that is killed while it answers its third call."""
    n_calls = itertools.count(1)

    def change(reply):
        if next(n_calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    with model_server(knowing_case(), change=change) as server:
        urls.put(server.url)
        threading.Event().wait()


def test_a_server_that_is_killed_while_it_answers_loses_nothing():
    local = knowing_case()
    batch = [r for n in range(1, 9) for r in requests(local, max_new_tokens=n)]
    context = multiprocessing.get_context("spawn")
    urls = context.Queue()
    process = context.Process(target=serve_and_die, args=(urls,))
    process.start()
    with model_server(local) as other:
        engine = remote(SimpleNamespace(url=urls.get()), other)
        found = engine.generate(batch)
        engine.close()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [each.token_ids for each in found] == [each.token_ids for each in local.generate(batch)]


def test_no_server_left_is_said_with_what_each_answered():
    with model_server(scripted_case()) as server:
        engine = remote(server)
        server.fail_after = 0
        with pytest.raises(EngineError, match=r"no server is left .*500.*start it again"):
            engine.generate(requests(engine))
        engine.close()


def test_a_prompt_without_room_is_refused_before_any_call():
    with model_server(scripted_case()) as server:
        engine = remote(server)
        with pytest.raises(BadInput, match="of which 250 are kept"):
            engine.generate([Request(prefix_ids=(1,) * 20, max_new_tokens=250)])
        engine.close()
    assert not server.bodies


def test_a_closed_engine_says_so():
    with model_server(scripted_case()) as server:
        engine = remote(server)
        engine.close()
        with pytest.raises(EngineError, match="was closed"):
            engine.generate(requests(engine, [5]))


def drop(field):
    def change(reply):
        for choice in reply["choices"]:
            choice["logprobs"][field] = None
        return reply

    return change


def fill(value):
    def change(reply):
        for choice in reply["choices"]:
            for step in choice["logprobs"]["top_logprobs"]:
                step[next(iter(step))] = value
        return reply

    return change


def other_ids(reply):
    for choice in reply["choices"]:
        choice["logprobs"]["top_logprobs"] = [
            {f"token_id:{10**6 + n}": -1.0 for n in range(15)} for _ in choice["token_ids"]
        ]
    return reply


@pytest.mark.parametrize(
    "change",
    [drop("top_logprobs"), drop("token_logprobs"), fill(-9999.0), fill(float("-inf")), other_ids],
    ids=["dropped", "no logprobs", "-9999", "-inf", "neighbour's ids"],
)
def test_a_server_that_does_not_give_the_log_probabilities_is_refused(change):
    with model_server(scripted_case(), change=change) as server:
        engine = remote(server)
        with pytest.raises(EngineError, match=r"cannot use what .* answered.*vLLM 0\.26"):
            engine.generate(requests(engine, [5]))
        engine.close()


class MixesUp:
    """An engine that answers the first of several requests with the ids of another order."""

    def __init__(self):
        self._engine = scripted_case()
        self.name, self.tokenizer = "mixed up", self._engine.tokenizer
        self.max_context = self._engine.max_context

    def generate(self, batch):
        done = self._engine.generate(batch)
        if len(done) > 1:
            done[0] = replace(done[0], watched=done[0].watched[:, ::-1] - 1.0)
        return done


def test_the_check_passes_what_can_be_trusted_and_refuses_what_a_batch_mixes_up():
    with model_server(scripted_case()) as server:
        engine = remote(server)
        # Two prompts, alone and in one batch, with 15 ids at 4 steps each, at most.
        assert 62 <= check_engine(engine) <= 248
        engine.close()
    with pytest.raises(EngineError, match="cannot trust the scores of mixed up"):
        check_engine(MixesUp())


def test_a_server_of_another_kind_is_refused_with_what_works():
    with (
        model_server(scripted_case(), owner="nobody") as server,
        pytest.raises(
            EngineError, match=r"calls itself 'nobody'; only vLLM, SGLang and llama\.cpp"
        ),
    ):
        look_up(ServerConfig(urls=(server.url,), max_retries=0))


def test_an_address_without_a_server_is_named():
    with pytest.raises(EngineError, match=r"cannot reach a model server: http://127.0.0.1:9/v1"):
        look_up(ServerConfig(urls=("http://127.0.0.1:9/v1",), max_retries=0))


def test_what_a_server_says_of_its_model():
    with model_server(scripted_case(), owner="sglang") as server:
        served = look_up(ServerConfig(urls=(server.url,)))
    assert (served.name, served.root, served.max_context) == ("tiny", "tiny", 256)
    assert served.dialect is Dialect.SGLANG
    with (
        model_server(scripted_case()) as server,
        pytest.raises(EngineError, match=r"serves \['tiny'\], not 'big'"),
    ):
        look_up(ServerConfig(urls=(server.url,), model="big"))


def test_log_probabilities_are_matched_by_id_not_by_place():
    local = scripted_case()
    (request,) = requests(local, [9], max_new_tokens=4)
    turned = Request(
        prefix_ids=request.prefix_ids, max_new_tokens=4, watch_ids=request.watch_ids[::-1]
    )
    with model_server(local, owner="sglang") as server:
        engine = remote(server)
        found = engine.generate([request, turned])
        engine.close()
    assert np.allclose(found[0].watched, found[1].watched[:, ::-1])


def test_what_a_real_vllm_answered_is_read():
    # Recorded from vLLM 0.32 with the default weights: a gate, and a segment after a passage.
    recorded = json.loads((Path(__file__).parent / "vllm_replies.json").read_text())
    served = Served("selfrag", "selfrag", 4096, Dialect.VLLM)
    assert len(recorded) == 2
    for each in recorded:
        body = each["body"]
        requests_sent = [
            Request(
                prefix_ids=tuple(prompt),
                max_new_tokens=body["max_tokens"],
                stop_ids=frozenset(body["stop_token_ids"]),
                watch_ids=tuple(body["logprob_token_ids"]),
            )
            for prompt in body["prompt"]
        ]

        class Recorded:
            url = "recorded"

            @staticmethod
            def post(path, sent, each=each):
                # Exactly what was sent then, but for the order of the stop ids.
                expected = {**each["body"], "model": "selfrag"}
                assert (path, sent) == (each["path"], expected)
                return each["reply"]

        (found,) = completed(served, Recorded(), requests_sent)
        (choice,) = each["reply"]["choices"]
        assert list(found.token_ids) == choice["token_ids"]
        assert found.logprobs.tolist() == choice["logprobs"]["token_logprobs"]
        for step, row in zip(choice["logprobs"]["top_logprobs"], found.watched, strict=True):
            ids = requests_sent[0].watch_ids
            assert [step[f"token_id:{i}"] for i in ids] == row.tolist()
    # The gate of a question retrieves, and the segment ends on a stop id.
    assert found.finish_reason is FinishReason.STOP
