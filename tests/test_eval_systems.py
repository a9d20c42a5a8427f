"""Systems that are asked in words: templates, baselines, an API, and Self-RAG by prompts."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eval_parts import question
from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, EngineError
from selfrag.evaluate.baselines import PlainSystem
from selfrag.evaluate.model import EngineModel, Prompt, Reply
from selfrag.evaluate.prompted import SUPPORT, PromptedSystem
from selfrag.evaluate.record import Record, record_to_row
from selfrag.passage import Hit, Passage
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
    assert reply == Reply(text="Ann did it.", n_tokens=7)  # three words, two spaces, point, end
    # .6 of .8 and .2 of .8
    ((yes, no),) = model.rate([Prompt(text="So?", chat=False)], ("Yes", "No"))
    assert (yes, no) == (pytest.approx(0.75), pytest.approx(0.25))
    with pytest.raises(BadInput, match="cannot ask scripted as a chat model"):
        model.complete([Prompt(text="Who?", chat=True)], 5)
    with pytest.raises(BadInput, match="begin with the same token"):
        model.rate([Prompt(text="So?", chat=False)], ("Not at all", "Not so"))


def rules(text, labels):
    """Yes to Ann's passage and to what comes from it; the gate looks up everything but sums."""
    if labels == ("No", "Yes") and "encyclopedia" in text:
        return [0.9, 0.1] if "2 + 2" in text else [0.2, 0.8]
    good = "Ann did it." in text
    if labels == ("No", "Yes"):
        return [0.1, 0.9] if good else [0.7, 0.3]
    if labels == SUPPORT.labels:
        return [0.8, 0.1, 0.1] if good else [0.1, 0.1, 0.8]
    return [0.1, 0.1, 0.1, 0.1, 0.6]


def write(text):
    return "Ann did it." if "Ann did it." in text else "Bob" if "Bob" in text else "four"


class Ranked:
    """Finds Bob first; Ann only for another query than the question."""

    def __init__(self):
        self.queries = []

    def search(self, queries, top_k):
        self.queries += queries
        return [
            [Hit(passage=BOB if query == "Who?" else ANN, score=1.0, rank=1)] for query in queries
        ]


def prompted(retriever=None, mode=RetrievalMode.ADAPTIVE, **options):
    model = Answering(write, rules)
    return model, PromptedSystem(model, retriever, SearchConfig(mode=mode, top_k=3), **options)


def test_a_prompted_critic_prefers_what_is_supported():
    _, system = prompted()
    (output,) = system.answer([question(passages=(BOB, ANN))])
    # Bob's passage is not relevant (.3), so nothing is written from it.
    assert (output.text, output.retrieved) == ("Ann did it.", True)
    assert output.sentences[0].citations == (1,) and output.passages[0].passage.id == "a"
    assert output.support == pytest.approx(0.85)  # .8 + .1 / 2
    kinds = [row["type"] for row in output.trace]
    assert [k for k in kinds if k != "node"] == [
        "question", "gate", "retrieval", "candidate", "keep", "finish",
    ]  # fmt: skip


def test_what_needs_no_look_up_is_answered_from_memory():
    model, system = prompted()
    (output,) = system.answer([question(text="2 + 2", instruction="2 + 2", passages=(ANN,))])
    assert (output.text, output.retrieved, output.passages) == ("four", False, ())
    assert not any("Passage" in text for text in model.asked)


@pytest.mark.parametrize(
    ("mode", "retrieves"), [(RetrievalMode.ALWAYS, True), (RetrievalMode.NEVER, False)]
)
def test_the_mode_overrules_the_prompted_gate(mode, retrieves):
    _, system = prompted(mode=mode)
    outputs = system.answer(
        [question(text=t, instruction=t, passages=(ANN,)) for t in ("2 + 2", "W?")]
    )
    assert [output.retrieved for output in outputs] == [retrieves] * 2


def test_an_unsupported_answer_is_searched_for_again_but_not_for_ever():
    found = Ranked()
    _, system = prompted(found)
    (output,) = system.answer([question(text="Who?", instruction="Who?")])
    assert found.queries == ["Who?", "four"]  # the rules' model writes "four" as its query
    assert output.text == "Ann did it." and output.n_passages == 2
    never = Ranked()
    never.search = lambda queries, top_k: (
        never.queries.extend(queries) or [[Hit(passage=BOB, score=1.0, rank=1)] for _ in queries]
    )
    _, system = prompted(never, max_rounds=3)
    (output,) = system.answer([question(text="Who?", instruction="Who?")])
    assert len(never.queries) == 3 and output.text == "Bob"  # the most relevant one was read


def test_a_prompted_search_is_traced_like_ours_and_votes_in_closed_sets(tmp_path):
    from selfrag.trace.file import load_trace

    _, system = prompted()
    asked = question(labels=("Ann", "Bob"), answers=("Ann",), passages=(ANN, BOB))
    (output,) = system.answer([asked])
    assert output.choice == "Ann"
    path = tmp_path / "records.jsonl"
    row = record_to_row(Record(n=0, question=asked, output=output))
    path.write_text(json.dumps(row) + "\n")
    assert len(load_trace(path).questions) == 1
    assert all(call.prompt and call.completion for call in output.calls)


def test_no_passages_at_all_is_answered_from_memory():
    _, system = prompted(mode=RetrievalMode.ALWAYS)
    (output,) = system.answer([question()])
    assert (output.text, output.retrieved) == ("four", False)


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
    from selfrag.evaluate.model import ApiModel, Sampling

    model = ApiModel(base_url=api, model="m")
    replies = model.complete([Prompt(text=t, chat=True) for t in ("a", "b")], 7)
    assert replies == [Reply(text="echo a", n_tokens=5), Reply(text="echo b", n_tokens=5)]
    assert {(b["temperature"], b["top_p"], b["max_tokens"]) for b in Api.asked} == {(0.0, 1.0, 7)}
    ApiModel(base_url=api, model="m", sampling=Sampling.RELEASED).complete(
        [Prompt(text="a", chat=True)], 7
    )
    assert (Api.asked[-1]["temperature"], Api.asked[-1]["top_p"]) == (0.8, 0.95)


def test_an_apis_distribution_is_read_by_label(api):
    from selfrag.evaluate.model import ApiModel

    ((yes, no),) = ApiModel(base_url=api, model="m").rate(
        [Prompt(text="a", chat=True)], ("Yes", "No")
    )
    # e^-.5 against e^-1.5, whatever else is shown: 1 / (1 + e^-1).
    assert yes == pytest.approx(0.7311, abs=1e-4) and yes + no == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "told"), [("break", "Error code: 400"), ("proxy", "expected a completion")]
)
def test_an_api_that_fails_is_an_engine_that_fails(api, text, told):
    from selfrag.evaluate.model import ApiModel

    model = ApiModel(base_url=api, model="m")
    with pytest.raises(EngineError, match=f"cannot ask m at http://127.*{told}"):
        model.complete([Prompt(text=said, chat=True) for said in ("a", text)], 7)
    assert model.complete([Prompt(text="a", chat=True)], 7)  # goes on where one call failed


def test_a_key_is_needed_and_said_so(monkeypatch, api):
    from selfrag.evaluate.model import ApiModel

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="set OPENAI_API_KEY"):
        ApiModel(base_url=api, model="m")
