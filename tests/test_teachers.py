"""Teachers over HTTP against a scripted server, and the judge that remembers their answers."""

import json
import math

import pytest

from chat_server import chat_reply, chat_server, error_reply
from selfrag.annotate.chat import ChatConfig, ChatTeacher, ServedCritic
from selfrag.annotate.judge import AnswerStore, Judge, request_key
from selfrag.annotate.judgement import (
    Answer,
    relevance_case,
    retrieve_case,
    utility_case,
)
from selfrag.engine.endpoint import Endpoint, EndpointConfig
from selfrag.engine.failure import Reason
from selfrag.errors import StorageError
from selfrag.reflection import Relevance, Retrieve, Utility

CASES = [retrieve_case(f"Question {n}?") for n in range(6)]


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "answers.sqlite") as opened:
        yield opened


def open_endpoint(server, **config):
    values = {"model": "m", "api_key": "sk-secret", "concurrency": 1, "max_retries": 1} | config
    return Endpoint(EndpointConfig(base_url=server.url, **values))


def judge_with(server, store, *, explain=False, structured=False, **config):
    endpoint = open_endpoint(server, **config)
    teacher = ChatTeacher(
        endpoint, ChatConfig(identity="x", explain=explain, structured=structured)
    )
    return endpoint, Judge(teacher, store)


def test_a_label_comes_with_the_probability_of_its_first_token(store):
    # fact .6 and Fact .2 against work .2: .8 of all that are labels.
    logprobs = {"fact": math.log(0.6), "Fact": math.log(0.2), "work": math.log(0.2)}
    with chat_server(lambda body: chat_reply("fact", logprobs)) as server:
        endpoint, judge = judge_with(server, store)
        (judgement,) = judge.judge(CASES[:1])
        endpoint.close()
    assert judgement.label is Retrieve.YES
    assert judgement.prob == pytest.approx(0.8)
    assert server.bodies[0]["temperature"] == 0 and server.bodies[0]["top_logprobs"] == 20
    assert (judge.tally.asked, judge.tally.prompt_tokens) == (1, 100)


def test_a_server_without_probabilities_is_asked_without_them(store):
    def answer(body):
        if "logprobs" in body:
            return error_reply(400, "logprobs are not supported")
        return chat_reply("work\nExplanation: a poem")

    with chat_server(answer) as server:
        endpoint, judge = judge_with(server, store, explain=True)
        judgements = judge.judge(CASES[:2])
        endpoint.close()
    assert [j.label for j in judgements] == [Retrieve.NO, Retrieve.NO]
    assert [(j.prob, j.explanation) for j in judgements] == [(None, "a poem")] * 2
    assert len(server.bodies) == 3  # only the first was asked twice


def test_what_a_server_refuses_by_name_is_left_out_from_then_on(store):
    def answer(body):
        for name in ("max_tokens", "temperature", "logprobs"):
            if name in body:
                return error_reply(400, f"Unsupported parameter: '{name}'")
        assert body["max_completion_tokens"] == 12
        return chat_reply("fact")

    with chat_server(answer) as server:
        endpoint, judge = judge_with(server, store)
        judgements = judge.judge(CASES[:3])
        endpoint.close()
    assert [j.label for j in judgements] == [Retrieve.YES] * 3 and len(server.bodies) == 6


def test_an_empty_answer_was_paid_for_and_is_malformed(store):
    with chat_server(lambda body: chat_reply("")) as server:
        endpoint, judge = judge_with(server, store)
        (judgement,) = judge.judge(CASES[:1])
        endpoint.close()
    assert judgement.failure.reason is Reason.MALFORMED and judgement.is_answered


def test_a_structured_answer_can_only_be_one_of_the_labels(store):
    reply = json.dumps({"label": "4", "explanation": "small gaps"})
    with chat_server(lambda body: chat_reply(reply)) as server:
        endpoint, judge = judge_with(server, store, structured=True)
        (judgement,) = judge.judge([utility_case("Q", "A")])
        endpoint.close()
    assert (judgement.label, judgement.explanation) == (Utility.U4, "small gaps")
    schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == ["1", "2", "3", "4", "5"]


def test_equal_cases_are_asked_once_and_never_again(store):
    with chat_server(lambda body: chat_reply("fact")) as server:
        endpoint, judge = judge_with(server, store)
        first = judge.judge([CASES[0], CASES[1], CASES[0]])
        again = judge.judge([CASES[1], CASES[0]])
        endpoint.close()
    assert len(server.bodies) == 2 and len(store) == 2
    assert [j.case for j in first] == [CASES[0], CASES[1], CASES[0]]
    assert [j.label for j in again] == [Retrieve.YES] * 2
    assert judge.tally.reused == 2


@pytest.mark.parametrize("status", [429, 500])
def test_a_busy_server_is_asked_again(store, status):
    replies = [error_reply(status, "busy"), chat_reply("fact")]
    with chat_server(lambda body: replies.pop(0)) as server:
        endpoint, judge = judge_with(server, store)
        (judgement,) = judge.judge(CASES[:1])
        endpoint.close()
    assert judgement.label is Retrieve.YES and len(server.bodies) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (error_reply(401, "bad key"), Reason.UNAUTHORISED),
        (error_reply(429, "slow down"), Reason.RATE_LIMITED),
        (error_reply(500, "oops"), Reason.SERVER_ERROR),
        (error_reply(404, "no such model"), Reason.SERVER_ERROR),
        (error_reply(400, "maximum context length is 10"), Reason.TOO_LONG),
        (error_reply(400, "no such field"), Reason.BAD_REQUEST),
        ((200, {}, b"{not json"), Reason.NONSENSE),
        ((200, {}, b"[]"), Reason.NONSENSE),
        ((200, {}, b'{"choices": []}'), Reason.NONSENSE),
        ((200, {}, b'{"choices": [{"message": {"content": 7}}]}'), Reason.NONSENSE),
        (chat_reply("fact", {"fact": 0.7}), Reason.NONSENSE),  # a probability, not its logarithm
        (chat_reply("fact", {"fact": "high"}), Reason.NONSENSE),
        ((200, {"Content-Type": "text/html"}, b"<html>"), Reason.NONSENSE),
    ],
)
def test_a_failure_has_a_name_and_is_not_stored(store, reply, reason):
    with chat_server(lambda body: reply) as server:
        endpoint, judge = judge_with(server, store)
        (judgement,) = judge.judge(CASES[:1])
        endpoint.close()
    assert judgement.failure.reason is reason and judgement.label is None
    assert not judgement.is_answered and len(store) == 0
    assert "sk-secret" not in judgement.failure.detail


def test_a_refused_key_is_not_tried_again(store):
    with chat_server(lambda body: error_reply(401, "bad key")) as server:
        endpoint, judge = judge_with(server, store)
        judgements = judge.judge(CASES)
        endpoint.close()
    assert len(server.bodies) == 1 and server.keys == {"Bearer sk-secret"}
    reasons = [judgement.failure.reason for judgement in judgements]
    assert reasons == [Reason.UNAUTHORISED, *[Reason.NOT_ASKED] * 5]
    assert "bad key" in judgements[5].failure.detail


def test_a_server_that_is_down_is_given_up_after_some_failures(store):
    with chat_server(lambda body: chat_reply("fact")) as server:
        pass  # now its port is closed
    endpoint, judge = judge_with(server, store, max_retries=0, max_failures=3)
    judgements = judge.judge(CASES)
    endpoint.close()
    reasons = [judgement.failure.reason for judgement in judgements]
    assert reasons == [Reason.UNREACHABLE] * 3 + [Reason.NOT_ASKED] * 3


def test_an_answer_without_a_label_is_kept_and_not_paid_twice(store):
    replies = iter(["I'm sorry, I can't.", "hm"])
    with chat_server(lambda body: chat_reply(next(replies))) as server:
        endpoint, judge = judge_with(server, store)
        refused, malformed = judge.judge(CASES[:2])
        again = judge.judge(CASES[:2])
        endpoint.close()
    assert (refused.failure.reason, malformed.failure.reason) == (
        Reason.REFUSAL,
        Reason.MALFORMED,
    )
    assert again == [refused, malformed] and len(server.bodies) == 2


def test_answers_come_in_the_order_of_the_cases_whatever_order_they_arrive_in(store):
    def answer(body):
        number = int(body["messages"][-1]["content"].split()[-1].strip("?"))
        return chat_reply("fact" if number % 2 else "work")

    with chat_server(answer) as server:
        endpoint, judge = judge_with(server, store, concurrency=4)
        judgements = judge.judge(CASES)
        endpoint.close()
    expected = [Retrieve.NO, Retrieve.YES] * 3
    assert [judgement.label for judgement in judgements] == expected


def test_a_served_critic_reads_its_own_prompt_and_its_labels_as_text(store):
    def answer(body):
        top = [{" [": -0.1}, {"Rel": math.log(0.6), "Ir": math.log(0.2)}]
        logprobs = {
            "tokens": [" [", "Rel", "evant]"],
            "token_logprobs": [-0.1, math.log(0.6), 0.0],
            "top_logprobs": [*top, {}],
        }
        choice = {"index": 0, "text": " [Relevant]", "finish_reason": "stop", "logprobs": logprobs}
        body = {"id": "c", "object": "text_completion", "created": 0, "model": "m"}
        return 200, {}, json.dumps({**body, "choices": [choice]}).encode()

    with chat_server(answer) as server:
        endpoint = open_endpoint(server)
        judge = Judge(ServedCritic(endpoint, identity="x"), store)
        (judgement,) = judge.judge([relevance_case("Q", "T\ntext")])
        endpoint.close()
    assert judgement.label is Relevance.RELEVANT and judgement.prob == pytest.approx(0.75)
    assert server.bodies[0]["prompt"].startswith("### Instruction:\n")
    assert server.bodies[0]["prompt"].endswith("Evidence: T\ntext\n\n### Response:")


def test_the_key_of_an_answer_depends_on_all_that_the_answer_depends_on(store):
    with chat_server(lambda body: chat_reply("fact")) as server:
        endpoint = open_endpoint(server)
        keys = {
            request_key(ChatTeacher(endpoint, config).request(case))
            for config in (
                ChatConfig(identity="x"),
                ChatConfig(identity="y"),
                ChatConfig(identity="x", explain=True),
                ChatConfig(identity="x", structured=True),
            )
            for case in (CASES[0], CASES[1], utility_case("Question 0?", ""))
        }
        endpoint.close()
    assert len(keys) == 12


def test_an_answer_survives_its_way_into_the_store(tmp_path):
    answer = Answer(text="é\ud800\n", probs=(("[Relevant]", 0.25),), prompt_tokens=3)
    with AnswerStore(tmp_path / "a.sqlite") as store:
        store.put("k", answer)
        store.put("k", Answer(text="another"))
    with AnswerStore(tmp_path / "a.sqlite") as store:
        assert store.get(["k", "l"]) == {"k": answer}


def test_a_store_is_open_in_one_run_at_a_time(tmp_path):
    with (
        AnswerStore(tmp_path / "a.sqlite"),
        pytest.raises(StorageError, match="no other run has open"),
    ):
        AnswerStore(tmp_path / "a.sqlite")
    AnswerStore(tmp_path / "a.sqlite").close()


def test_a_file_that_is_no_store_is_said_to_be_none(tmp_path):
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"not a database, and long enough to look like one" * 10)
    with pytest.raises(StorageError, match="cannot use the answers in"):
        AnswerStore(path)
