"""Systems that are asked in words: templates, baselines, and an API."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eval_parts import question
from selfrag.engine.chat import EngineModel, Prompt, Reply
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, EngineError
from selfrag.evaluate.baselines import PlainSystem
from selfrag.passage import Passage
from selfrag.prompt import TEMPLATES, template_named

ANN = Passage(id="a", title="Ann", text="Ann did it.")
BOB = Passage(id="b", title="Bob", text="Bob {instruction} slept.")


class Answering:
    """A text model by rules: a function of the prompt gives the text or the probabilities."""

    name = "rules"

    def __init__(self, complete, rate=None, room=10_000):
        self.complete_one, self.rate_one, self.room = complete, rate, room
        self.asked = []

    def fits(self, prompt, max_new_tokens):
        return len(prompt.text) <= self.room

    def complete(self, prompts, max_new_tokens):
        self.asked += [prompt.text for prompt in prompts]
        return [Reply(text=self.complete_one(prompt.text), n_tokens=3) for prompt in prompts]

    def rate(self, prompts, labels):
        self.asked += [prompt.text for prompt in prompts]
        return [self.rate_one(prompt.text, labels) for prompt in prompts]


def test_released_prompts_read_as_released():
    plain = template_named("prompt_no_input").render("Who?", [])
    assert plain == "### Instruction:\nWho?\n\n### Response:\n"
    reading = template_named("prompt_no_input_retrieval").render("Who?", [ANN])
    assert reading == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Paragraph:\n[1] Ann\nAnn did it.\n\n### Instruction:\nWho?"
        "\n\n### Response:"
    )
    assert template_named("llama_chat_prompt").render("Who?", []) == "[INST]Who?[/INST]"


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_that_is_put_in_is_read_as_a_name(name):
    text = TEMPLATES[name].render("Why {passages}?", [BOB])
    assert text.count("Why {passages}?") == 1
    assert text.count("Bob {instruction} slept.") == 1


def test_an_unknown_prompt_is_named():
    with pytest.raises(BadInput, match="there is no prompt 'best'; expected one of chat"):
        template_named("best")


def test_a_plain_model_answers_from_memory():
    model = Answering(lambda text: f"said to {text}")
    system = PlainSystem(model, TEMPLATES["chat"], max_new_tokens=9)
    (output,) = system.answer([question(instruction="Who?", passages=(ANN,))])
    assert (output.text, output.retrieved, output.n_tokens) == ("said to Who?", False, 3)
    assert output.calls[0].prompt == "Who?"


def test_rag_cites_what_it_says_it_cites():
    model = Answering(lambda text: "Ann did it [1]. Bob slept [2][9]. Nobody knows.")
    system = PlainSystem(model, TEMPLATES["chat"], None, top_n=2, max_new_tokens=9)
    (output,) = system.answer([question(passages=(ANN, BOB, ANN))])
    assert [(s.text, s.citations) for s in output.sentences] == [
        ("Ann did it.", (1,)),
        ("Bob slept.", (2,)),  # there is no ninth passage
        ("Nobody knows.", ()),
    ]
    assert [hit.passage.id for hit in output.passages] == ["a", "b"]


def test_rag_reads_as_many_passages_as_fit():
    long = Passage(id="l", title="L", text="long " * 50)
    model = Answering(lambda text: "x", room=200)
    system = PlainSystem(model, TEMPLATES["chat"], None, top_n=5, max_new_tokens=9)
    (output,) = system.answer([question(passages=(ANN, long))])
    assert [hit.passage.id for hit in output.passages] == ["a"]
    with pytest.raises(BadInput, match="longer than the context"):
        system.answer([question(instruction="why " * 100)])


def test_a_released_baseline_ends_at_a_blank_line():
    model = Answering(lambda text: "Ann.\n\n### Instruction:\nmore")
    system = PlainSystem(model, TEMPLATES["prompt_no_input"], max_new_tokens=9)
    assert system.answer([question()])[0].text == "Ann."


def test_any_engine_is_a_model_that_is_asked_in_words():
    tokenizer = ScriptedTokenizer()
    engine = ScriptedEngine(
        tokenizer, {"Who?": say("Ann did it.", "</s>"), "So?": say({"Yes": 0.6, "No": 0.2})}
    )
    model = EngineModel(engine)
    (reply,) = model.complete([Prompt(text="Who?", chat=False)], 20)
    # Three words, two spaces, point, end, each with probability 1.
    assert reply == Reply(text="Ann did it.", n_tokens=7, mean_logprob=0.0)
    # .6 of .8 and .2 of .8
    ((yes, no),) = model.rate([Prompt(text="So?", chat=False)], ("Yes", "No"))
    assert (yes, no) == (pytest.approx(0.75), pytest.approx(0.25))
    with pytest.raises(BadInput, match="cannot ask scripted as a chat model"):
        model.complete([Prompt(text="Who?", chat=True)], 5)
    with pytest.raises(BadInput, match="begin with the same token"):
        model.rate([Prompt(text="So?", chat=False)], ("Not at all", "Not so"))


class Api(BaseHTTPRequestHandler):
    """A chat API that repeats the question, shows a distribution, or fails."""

    asked: list = []  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Api.asked.append(body)
        text = body["messages"][0]["content"]
        shown = [("Yes", -0.5), (" no", -1.5), ("perhaps", -0.1)] if body.get("logprobs") else None
        logprobs = shown and {
            "content": [
                {"token": "Yes", "logprob": -0.5, "bytes": None,
                 "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in shown]}
            ]
        }  # fmt: skip
        reply = {
            "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": logprobs,
                         "message": {"role": "assistant", "content": f"echo {text} "}}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7},
        }  # fmt: skip
        broken = {"break": b'{"error": "no such model"}', "proxy": b'{"status": "maintenance"}'}
        content = broken.get(text) or json.dumps(reply).encode()
        self.send_response(400 if text == "break" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Api.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_api_is_asked_greedily_unless_the_released_sampling_is_named(api):
    from selfrag.engine.chat import ApiModel, Sampling

    model = ApiModel(base_url=api, model="m")
    replies = model.complete([Prompt(text=t, chat=True) for t in ("a", "b")], 7)
    assert replies == [Reply(text="echo a", n_tokens=5), Reply(text="echo b", n_tokens=5)]
    assert {(b["temperature"], b["top_p"], b["max_tokens"]) for b in Api.asked} == {(0.0, 1.0, 7)}
    ApiModel(base_url=api, model="m", sampling=Sampling.RELEASED).complete(
        [Prompt(text="a", chat=True)], 7
    )
    assert (Api.asked[-1]["temperature"], Api.asked[-1]["top_p"]) == (0.8, 0.95)


def test_an_apis_distribution_is_read_by_label(api):
    from selfrag.engine.chat import ApiModel

    ((yes, no),) = ApiModel(base_url=api, model="m").rate(
        [Prompt(text="a", chat=True)], ("Yes", "No")
    )
    # e^-.5 against e^-1.5, whatever else is shown: 1 / (1 + e^-1).
    assert yes == pytest.approx(0.7311, abs=1e-4) and yes + no == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "told"), [("break", "Error code: 400"), ("proxy", "expected a completion")]
)
def test_an_api_that_fails_is_an_engine_that_fails(api, text, told):
    from selfrag.engine.chat import ApiModel

    model = ApiModel(base_url=api, model="m")
    with pytest.raises(EngineError, match=f"cannot ask m at http://127.*{told}"):
        model.complete([Prompt(text=said, chat=True) for said in ("a", text)], 7)
    assert model.complete([Prompt(text="a", chat=True)], 7)  # goes on where one call failed


def test_a_key_is_needed_and_said_so(monkeypatch, api):
    from selfrag.engine.chat import ApiModel

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="set OPENAI_API_KEY"):
        ApiModel(base_url=api, model="m")
