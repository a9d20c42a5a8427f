"""A chat model writes and a scripted critic judges: real HTTP, every score worked out by hand."""

import json
import logging
import math
import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_server import chat_reply, chat_server, error_reply
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import CandidateEvent
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.base import FinishReason, Request, SegmentTask
from selfrag.engine.chat import ApiModel, Reply
from selfrag.engine.failure import Failure, Reason
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.engine.written import WrittenEngine, message
from selfrag.errors import BadInput, EngineError
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.open.served import served_writer
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat, Turn
from selfrag.reflection import REFLECTION_TOKENS, Relevance, Retrieve, Support, Utility
from selfrag.retrieval.base import GivenPassages
from tiny_model import TOKENS, save_tiny_model

ANN = Passage(id="a", title="Ann", text="Ann did it.")
BOB = Passage(id="b", title="Bob", text="Bob slept.")
END = "</s>"
GATE = {"[Retrieval]": 0.9, "[No Retrieval]": 0.1}


def judged(surface, *, then=END):
    """What the critic says at the place where `surface` ends; it believes Ann's passage."""
    good = "Ann did it.</paragraph>" in surface.rpartition("<paragraph>")[2]
    if surface.endswith("Response:\n"):
        return say(GATE)
    if surface.endswith("</paragraph>"):
        return say({"[Relevant]": 0.6, "[Irrelevant]": 0.2} if good else {"[Irrelevant]": 0.9})
    if surface.endswith("supported]") or surface.endswith("Contradictory]"):
        return say({"[Utility:5]": 0.6, "[Utility:4]": 0.2, END: 0.1})
    if surface.endswith(("[Utility:5]", "[Utility:1]")):
        return say({then: 0.5, "[No Retrieval]": 0.1})
    if not surface.rpartition("</paragraph>")[1] or "[Irrelevant]" in surface:
        return say({"[Utility:1]": 0.9})
    # The model would go on in words: only tokens of the group count.
    none = "[No support / Contradictory]"
    is_ann = "Ann did" in surface.rpartition("[Relevant]")[2]
    return say({"and": 0.5, "[Fully supported]": 0.32, none: 0.08} if is_ann else {none: 0.9})


class Writing:
    """A writer by a function of the message; keeps what it was asked."""

    name = "pen"

    def __init__(self, write):
        self.write, self.asked = write, []

    def attempt(self, prompts, max_new_tokens):
        self.asked += [prompt.text for prompt in prompts]
        found = [self.write(prompt.text) for prompt in prompts]
        return [Reply(text=f, n_tokens=1) if isinstance(f, str) else f for f in found]

    def close(self):
        pass


def by_passage(text):
    return "Ann did it." if "Ann did it." in text else "Bob did it."


def engine_of(write, critic=judged):
    tokenizer = ScriptedTokenizer()
    writer = Writing(write)
    scripted = ScriptedEngine(tokenizer, lambda ids: critic(tokenizer.surface(ids)))
    return WrittenEngine(scripted, writer), writer


def ask(engine, question="Who?", passages=(ANN, BOB), **config):
    told = []
    (answer,) = answer_questions(
        [question],
        engine=engine,
        retriever=GivenPassages(passages),
        config=SearchConfig(**config),
        passages=[passages],
        on_event=told.append,
    )
    return answer, [event.node for event in told if isinstance(event, CandidateEvent)]


def request_of(engine, *, passages=(ANN,), max_new_tokens=40, said=""):
    fmt = PromptFormat.of(engine.tokenizer)
    suffix = [fmt.ids[Retrieve.NO]]
    if passages:
        suffix = [fmt.ids[Retrieve.YES], *fmt.passage(passages[0])]
    task = SegmentTask(
        question="Who?", turns=(), passages=tuple(passages), said=said, is_fresh=bool(passages)
    )
    return Request(
        prefix_ids=tuple(fmt.instruction("Who?")),
        suffix_ids=tuple(suffix),
        max_new_tokens=max_new_tokens,
        stop_ids=fmt.ids.segment_stops,
        watch_ids=fmt.ids.all,
        task=task,
    )


def test_the_writer_writes_and_the_critic_scores():
    engine, writer = engine_of(by_passage)
    answer, nodes = ask(engine)
    assert (answer.cited_text, answer.verdict) == ("Ann did it. [1]", "fully supported (0.80)")
    ann, bob = (node.segment for node in nodes)
    assert ann.critique == (Relevance.RELEVANT, Support.FULL, Utility.U5)
    # .6 of .8; .32 of .4; utility (.6 + .2 / 2) of .8.
    assert (ann.scores.relevance, ann.scores.support) == pytest.approx((0.75, 0.8), abs=1e-4)
    assert ann.scores.utility == pytest.approx(0.875, abs=1e-4)
    # What is not relevant is asked for no support, as the model itself would not say it.
    assert bob.critique == (Relevance.IRRELEVANT, Utility.U1)
    assert [ANN.text in text for text in writer.asked] == [True, False]
    assert all("Question: Who?" in text for text in writer.asked)
    assert engine.name == "pen, judged by scripted"


def test_the_sequence_score_is_of_the_writers_text_and_the_critics_tokens():
    engine, _ = engine_of(lambda text: Reply(text="Ann did it.", n_tokens=4, mean_logprob=-0.5))
    (done,) = engine.generate([request_of(engine)])
    # Six ids of text at -.5; .6 of .8, .32 of .4, .6 of .9, then .5 of .6.
    tokens = [math.log(each) for each in (0.75, 0.8, 0.6 / 0.9, 0.5 / 0.6)]
    assert done.logprobs.sum() == pytest.approx(6 * -0.5 + sum(tokens), abs=1e-4)
    assert len(done.token_ids) == len(done.watched) == 10
    silent, _ = engine_of(lambda text: "Ann did it.")
    (done,) = silent.generate([request_of(silent)])
    assert done.logprobs.mean() == pytest.approx(sum(tokens) / 4, abs=1e-4)


def test_the_writer_answers_from_memory_where_the_gate_says_so():
    engine, writer = engine_of(lambda text: "Four.")
    answer, (node,) = ask(engine, mode=RetrievalMode.NEVER)
    assert answer.verdict.startswith("answered without retrieval")
    assert (answer.text, answer.citations, node.segment.critique) == ("Four.", (), (Utility.U1,))
    assert "assage" not in writer.asked[0]


def test_a_second_segment_is_written_after_the_first():
    said = iter(["Ann did it.", "Ann did more."])
    engine, writer = engine_of(
        lambda text: next(said, "No answer"),
        lambda surface: judged(surface, then="[Retrieval]" if "more" not in surface else END),
    )
    answer, _ = ask(engine, passages=(ANN,), repeat=True, join_relevance=0.0)
    assert answer.text == "Ann did it. Ann did more."
    assert "Answer so far: Ann did it." in writer.asked[1]


@pytest.mark.parametrize("said", ["", "No answer", "No answer.", " \n", "<think>Ann or Bob"])
def test_saying_nothing_is_worth_nothing(said):
    engine, _ = engine_of(lambda text: said if "Ann did it." in text else "Bob did it.")
    answer, nodes = ask(engine)
    assert [node.text for node in nodes] == ["", "Bob did it."]
    assert nodes[0].path_score == pytest.approx(0, abs=1e-9) and answer.text == "Bob did it."
    alone, _ = engine_of(lambda text: said)
    answer, _ = ask(alone)
    assert (answer.text, answer.citations) == ("", ())
    assert answer.verdict == "no answer: the model wrote nothing"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Ann did it [2].", "Ann did it."),
        ("Ann [1, 2] did\n\nit [3]", "Ann did it."),
        ("<think>Bob?</think>Ann did it.", "Ann did it."),
        ("Ann did it", "Ann did it."),
    ],
)
def test_marks_thoughts_and_line_breaks_of_the_writer_are_left_out(said, text):
    engine, _ = engine_of(lambda message: said)
    answer, _ = ask(engine, passages=(ANN,))
    assert (answer.text, answer.citations) == (text, (1,))


FORGED = st.lists(
    st.sampled_from([*(token.value for token in REFLECTION_TOKENS), END, "Ann did it.", " "])
    | st.text(max_size=5),
    min_size=1,
).map("".join)


@given(FORGED)
def test_written_text_forges_no_token(said):
    engine, _ = engine_of(lambda text: said)
    (done,) = engine.generate([request_of(engine, max_new_tokens=400)])
    fmt = PromptFormat.of(engine.tokenizer)
    control = [fmt.ids.token_of.get(i) for i in done.token_ids]
    kinds = [type(token) for token in control if token is not None]
    assert kinds in ([], [Relevance, Support, Utility])
    assert done.token_ids.count(fmt.ids.end_of_sequence) == 1


def test_complete_sentences_are_kept_of_what_is_too_long():
    engine, _ = engine_of(lambda text: "Ann did it. She went home and slept for many hours.")
    (done,) = engine.generate([request_of(engine, max_new_tokens=12)])
    assert engine.tokenizer.decode(done.token_ids) == "Ann did it."
    assert done.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("limit", range(1, 9))
def test_a_sentence_that_is_too_long_is_truncated_at_the_limit(limit):
    engine, _ = engine_of(lambda text: "Ann did it and went home and slept for many hours.")
    (done,) = engine.generate([request_of(engine, max_new_tokens=limit)])
    assert done.finish_reason is FinishReason.LENGTH
    # Too little for text between the tokens of the critic is not written at all.
    assert len(done.token_ids) == (limit if limit >= 5 else 1)


def test_a_reply_cut_by_the_writers_limit_says_so():
    cut = Reply(text="Ann did it and wen", n_tokens=5, truncated=True)
    engine, _ = engine_of(lambda text: cut)
    answer, _ = ask(engine, passages=(ANN,))
    assert answer.verdict == "fully supported (0.80); incomplete, ended by max_new_tokens"


def test_a_writer_that_fails_for_some_is_told_and_for_all_is_an_error(caplog):
    failure = Failure(reason=Reason.TOO_LONG, detail="maximum context is 10")
    engine, _ = engine_of(lambda text: failure if BOB.text in text else "Ann did it.")
    with caplog.at_level(logging.WARNING):
        answer, _ = ask(engine)
    assert answer.text == "Ann did it."
    assert "1 of 2 segments are missing: pen says maximum context is 10" in caplog.text
    engine, _ = engine_of(lambda text: failure)
    with pytest.raises(EngineError, match="cannot have pen write: it says maximum context"):
        ask(engine)


def test_nobody_is_asked_for_what_is_not_wanted():
    engine, writer = engine_of(by_passage)
    request = request_of(engine)
    unwanted = Request(
        prefix_ids=request.prefix_ids,
        max_new_tokens=9,
        watch_ids=request.watch_ids,
        is_wanted=lambda: False,
        task=request.task,
    )
    assert len(engine.generate([unwanted])) == 1 and writer.asked == []


def test_earlier_turns_are_told_to_the_writer():
    turn = Turn(question="Who came?", answer="Ann.")
    task = SegmentTask(question="When?", turns=(turn,), passages=(), said="", is_fresh=False)
    assert message(task) == (
        "Question: Who came?\nAnswer: Ann.\n\nAnswer the question in one full sentence.\n\n"
        "Question: When?"
    )


def test_all_calls_of_a_round_are_one_batch_for_an_api():
    pytest.importorskip("openai")

    def reply(body):
        text = body["messages"][0]["content"]
        return chat_reply(by_passage(text), {"Ann": -0.5})

    with chat_server(reply) as server:
        writer = served_writer(server.url, key_name="")
        engine, _ = engine_of(by_passage)
        engine = WrittenEngine(engine._critic, writer)
        answer, _ = ask(engine)
        engine.close()
    assert answer.cited_text == "Ann did it. [1]" and len(server.bodies) == 2
    assert server.keys == {"Bearer none"}  # OPENAI_API_KEY is for OpenAI alone
    assert server.bodies[0]["max_tokens"] == 96 and server.bodies[0]["temperature"] == 0.0
    assert engine.name == "scripted, judged by scripted"


def test_an_api_without_log_probabilities_or_with_a_refusal_still_writes():
    pytest.importorskip("openai")

    def reply(body):
        if "logprobs" in body:
            return error_reply(400, "logprobs are not supported")
        return chat_reply(None if BOB.text in body["messages"][0]["content"] else "Ann did it.")

    with chat_server(reply) as server:
        writer = served_writer(f"{server.url}/#scripted", key_name="")
        critic, _ = engine_of(by_passage)
        _, nodes = ask(WrittenEngine(critic._critic, writer))
        writer.close()
    assert [node.text for node in nodes] == ["Ann did it.", ""]


def test_a_writer_is_named_or_the_only_one(monkeypatch):
    pytest.importorskip("openai")
    with chat_server(lambda body: chat_reply("x"), models=("m1", "m2")) as server:
        assert served_writer(f"{server.url}#m2", key_name="").name == "m2"
        with pytest.raises(BadInput, match=r"it lists 2 \(m1, m2\); expected one"):
            served_writer(server.url, key_name="")
        monkeypatch.setenv("PEN_KEY", "sk-pen")
        served_writer(f"{server.url}#m1", key_name="PEN_KEY").close()
        assert "Bearer sk-pen" in server.keys
        with pytest.raises(BadInput, match="NO_KEY is not set; set it, or name another"):
            served_writer(f"{server.url}#m1", key_name="NO_KEY")
    with pytest.raises(EngineError, match=r"cannot have http://127\.0\.0\.1:9/v1 write"):
        served_writer("http://127.0.0.1:9/v1#m", key_name="")


def test_a_name_of_no_writer_is_refused_before_anything_is_opened(tmp_path):
    with pytest.raises(BadInput, match="cannot open the model 'nobody'"):
        open_engine(ModelOptions(writer="nobody"))


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_writer_that_is_no_chat_model_is_told_what_would_be_one(form, tmp_path):
    model = save_tiny_model(tmp_path, TOKENS)
    if form == "file":
        pytest.importorskip("xllamacpp")
        from selfrag.train.gguf_file import GgufType, write_gguf

        model = write_gguf(model, tmp_path / "m.gguf", GgufType.F32)
    with pytest.raises(BadInput, match=r"as a chat model: .*ChatML.*give its URL$") as refused:
        open_engine(ModelOptions(model=str(tmp_path), writer=str(model)))
    assert "--prompt" not in str(refused.value)  # an option of `selfrag eval` alone


# What a server may do to us


def completion(**choice):
    """A reply whose only choice says that Ann did it, but for what `choice` puts in its place."""
    said = {"role": "assistant", "content": "Ann did it."}
    whole = {"index": 0, "finish_reason": "stop", "message": said} | choice
    return 200, {}, json.dumps({"choices": [whole]}).encode()


def asked_of(reply, monkeypatch, **options):
    """The answer where every call gets `reply`; waits between tries are a millisecond."""
    client = pytest.importorskip("openai._base_client")
    monkeypatch.setattr(client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(client, "MAX_RETRY_DELAY", 0.001)
    critic, _ = engine_of(by_passage)
    with chat_server(reply if callable(reply) else lambda body: reply) as server:
        writer = ApiModel(base_url=server.url, model="scripted", api_key="none", **options)
        try:
            return ask(WrittenEngine(critic._critic, writer), passages=(ANN,))[0], server
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (error_reply(500, "boom"), "Error code: 500 - boom"),
        (error_reply(404, "no model scripted"), "Error code: 404 - no model scripted"),
        (error_reply(413, "too large"), "Error code: 413 - too large"),
        ((200, {}, b"{no"), "a reply that is no JSON"),
        ((200, {}, b""), "a reply that is no JSON"),
        ((200, {}, b"[" * 100_000), "a reply that is no JSON"),
        ((200, {}, b'{"error": {"message": "overloaded"}}'), "overloaded"),
        ((200, {}, b'{"choices": [null]}'), "expected a completion"),
        ((200, {}, b'{"choices": [3]}'), "expected text from a chat model"),
        (completion(message=None), "expected text from a chat model"),
        (completion(message="Ann did it."), "expected text from a chat model"),
        (completion(message={"content": [{"text": "Ann"}]}), "expected text from a chat model"),
        ((200, {"Content-Encoding": "gzip"}, b"none"), r"Connection error \(.*decompress"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), r"Connection error \(.*refused"),
    ],
)
def test_a_reply_without_a_text_is_told_in_one_sentence(reply, found, monkeypatch):
    with pytest.raises(EngineError, match=f"cannot have scripted write: it says .*{found}") as told:
        asked_of(reply, monkeypatch)
    assert "expected a text, so look whether it runs" in str(told.value)


@pytest.mark.parametrize(
    "choice",
    [
        {"logprobs": [1]},
        {"logprobs": {"content": [{"token": "a", "logprob": None}]}},
        {"logprobs": {"content": [{"token": "a", "logprob": "x"}]}},
        {"logprobs": {"content": [{"token": "a"}, None]}},
        {"logprobs": {"content": [{"token": "a", "logprob": math.nan}]}},
        {"logprobs": {"content": [{"token": "a", "logprob": -math.inf}]}},
        {"finish_reason": None},
        {"message": {"content": " Ann \ud800 did\x00 it.\x07 "}},
        {"message": {"content": "Ann did it [[1]1] [1,\n2]."}},
    ],
)
def test_what_is_wrong_beside_a_text_or_cannot_be_seen_in_it_changes_nothing(choice, monkeypatch):
    answer, _ = asked_of(completion(**choice), monkeypatch)
    assert (answer.cited_text, answer.verdict) == ("Ann did it. [1]", "fully supported (0.80)")
    assert answer.score == pytest.approx(asked_of(completion(), monkeypatch)[0].score)


@pytest.mark.parametrize("said", [None, "", " \n\t\u00a0", "\u200b", "\x00", "[1]"])
def test_a_text_without_anything_to_see_is_no_answer(said, monkeypatch):
    answer, _ = asked_of(chat_reply(said), monkeypatch)
    assert (answer.cited_text, answer.verdict) == ("", "no answer: the model wrote nothing")


@pytest.mark.parametrize("said", ["a" * 50_000, "word " * 10_000, "[1," * 17_000, "." * 50_000])
def test_a_very_long_text_is_truncated_at_the_limit(said, monkeypatch):
    answer, _ = asked_of(chat_reply(said), monkeypatch)
    assert answer.verdict.endswith("incomplete, ended by max_new_tokens")
    assert answer.text and said.startswith(answer.text)


def test_of_very_many_sentences_those_that_fit_are_kept():
    said = "Ann did it. " * 4_000
    engine, _ = engine_of(lambda text: said)
    encoded = []
    encode = engine.tokenizer.encode
    engine.tokenizer.encode = lambda text, **more: encoded.append(len(text)) or encode(text, **more)
    (done,) = engine.generate([request_of(engine)])
    text = engine.tokenizer.decode(done.token_ids)
    # 36 of the 40 are left for it: room for 5 sentences of 6 and the spaces between.
    assert said.startswith(text) and text.endswith("it.") and len(done.token_ids) <= 40
    assert sum(encoded) < 10_000  # not all of the 48,000 characters, again and again


def test_a_server_that_asks_for_patience_is_asked_again(monkeypatch):
    replies = [(429, {"Retry-After": "0.001"}, b"{}"), error_reply(503, "soon"), completion()]
    answer, server = asked_of(lambda body: replies.pop(0), monkeypatch)
    assert answer.text == "Ann did it." and len(server.bodies) == 3


def test_a_connection_that_is_closed_midway_is_tried_again(monkeypatch):
    short = 200, {"Content-Length": "500", "Connection": "close"}, b'{"choices"'
    replies = [short, short, completion()]
    answer, server = asked_of(lambda body: replies.pop(0), monkeypatch)
    assert answer.text == "Ann did it." and len(server.bodies) == 3


def test_a_server_that_hangs_is_asked_once_and_waited_for_no_longer(monkeypatch):
    endpoint = pytest.importorskip("selfrag.engine.endpoint")
    monkeypatch.setattr(endpoint, "PATIENCE_S", 0.01)
    over = threading.Event()
    critic, _ = engine_of(by_passage)

    def hang(body):
        over.wait(60)
        return completion()

    with chat_server(hang) as server:
        writer = ApiModel(base_url=server.url, model="m", api_key="none", timeout_s=0.05)
        try:
            with pytest.raises(EngineError, match="cannot have m write: it says Request timed out"):
                ask(WrittenEngine(critic._critic, writer), passages=(ANN,))
        finally:
            over.set()  # the server waits for its threads
            writer.close()
    assert len(server.bodies) == 1


def test_calls_of_a_server_that_hangs_do_not_hold_up_who_stops_reading():
    module = pytest.importorskip("selfrag.engine.endpoint")
    over = threading.Event()
    config = module.EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", concurrency=2)
    endpoint = module.Endpoint(config)
    asked = []

    def call(client, n):
        asked.append(n)
        assert n == 0 or over.wait(60)
        return n

    answers = endpoint.run([partial(call, n=n) for n in range(4)])
    assert next(answers) == (0, 0)
    answers.close()  # returns although the second call has not
    assert not over.is_set() and set(asked) <= {0, 1}
    over.set()
    endpoint.close()


@pytest.mark.parametrize(
    "url",
    ["http://", "http://:99", "http://[::1/v1", "http://a:b/v1", "http://a:99999", "http://a b/"],
)
def test_an_address_of_no_server_is_refused(url):
    with pytest.raises(BadInput, match="it is no address of a server; expected one as"):
        served_writer(f"{url}#m", key_name="")


@pytest.mark.parametrize(
    "listed",
    [b"[]", b"null", b'"x"', b'{"data": 3}', b"<", b"[" * 99_999],
)
def test_a_server_that_lists_no_models_may_be_told_the_name(listed, monkeypatch):
    pytest.importorskip("openai")
    with chat_server(lambda body: completion(), listing=listed) as server:
        with pytest.raises(EngineError, match=f"cannot have {server.url} write: "):
            served_writer(server.url, key_name="")
        served_writer(f"{server.url}#m", key_name="").close()
