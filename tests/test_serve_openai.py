"""OpenAI's routes, asked by the official client and as they stand, over a real server."""

from dataclasses import replace

import openai
import pytest

from selfrag.decode.answer import Answer, AnswerSegment
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import Usage
from selfrag.decode.gate import Gate, GateNumbers, GateRule
from selfrag.decode.score import ScoreWeights, weigh
from selfrag.passage import Hit, Passage
from selfrag.serve.openai import Told
from serve_parts import events_of, library, serving

TITAN = "Which moon has Saturn?"
CAFE = "Wann öffnet das Café „größe“ um 8 Uhr?"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    with serving(lambda: library(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def user(text):
    return {"role": "user", "content": text}


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["scripted"]


def test_an_answer_cites_what_it_says_in_four_ways(client):
    done = client.chat.completions.create(model="selfrag", messages=[user(TITAN)])
    message = done.choices[0].message
    assert message.content == "Titan is a moon of Saturn. [1]"
    (note,) = message.annotations
    cited = note.url_citation
    # The whole text: one segment with its mark.
    assert (cited.start_index, cited.end_index) == (0, len(message.content))
    assert cited.title == "titan"
    (source, *_) = done.sources
    assert source["source"]["url"] == cited.url == source["metadata"][0]["source"]
    assert source["document"] == ["Titan is a moon of Saturn. It has a dense atmosphere."]
    told = done.selfrag
    (segment,) = told["segments"]
    assert segment["citations"][0]["cited_text"] == "Titan is a moon of Saturn."
    assert (segment["citations"][0]["start"], segment["citations"][0]["end"]) == (0, 26)
    assert segment["relevance"] == pytest.approx(0.9)
    assert segment["support"] == pytest.approx(0.9)  # 0.8 and half of 0.2
    assert segment["utility"] == pytest.approx(1.0, abs=1e-6)
    assert (told["abstained"], told["low_confidence"]) == (False, False)
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_offsets_count_characters_and_not_bytes(client):
    done = client.chat.completions.create(model="selfrag", messages=[user(CAFE)])
    message = done.choices[0].message
    assert message.content == "Das Café „Größe“ öffnet um 8 Uhr. [1]"
    cited = message.annotations[0].url_citation
    assert message.content[cited.start_index : cited.end_index] == message.content
    assert cited.end_index == 37
    evidence = done.selfrag["segments"][0]["citations"][0]
    text = done.sources[0]["document"][0]
    assert text[evidence["start"] : evidence["end"]] == "Das Café „Größe“ öffnet um 8 Uhr."


@pytest.mark.parametrize("question", [TITAN, CAFE, "hello"])
def test_a_stream_comes_to_the_same(client, question):
    whole = client.chat.completions.create(model="selfrag", messages=[user(question)])
    chunks = list(
        client.chat.completions.create(
            model="selfrag",
            messages=[user(question)],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    message = whole.choices[0].message
    assert "".join(piece.content or "" for piece in pieces) == message.content
    *_, last, usage = chunks
    notes = [each.to_dict() for each in message.annotations]
    assert last.choices[0].delta.annotations == notes
    assert (last.sources, last.selfrag) == (whole.sources, whole.selfrag)
    assert last.choices[0].finish_reason == "stop"
    assert usage.usage == whole.usage


def test_earlier_turns_are_part_of_what_is_searched(client):
    asked = [user("Which moon has Saturn?"), {"role": "assistant", "content": "Titan. [1]"}]
    done = client.chat.completions.create(
        model="selfrag", messages=[*asked, user("And its atmosphere?")]
    )
    assert done.choices[0].message.content == "Titan is a moon of Saturn. [1]"


def test_instructions_of_the_system_are_told_to_be_ignored(client):
    system = {"role": "system", "content": "Speak like a pirate."}
    done = client.chat.completions.create(model="selfrag", messages=[system, user(TITAN)])
    assert done.selfrag["ignored"] == ["system message"]
    assert done.choices[0].message.content == "Titan is a moon of Saturn. [1]"


TOOL = {"type": "function", "function": {"name": "a", "parameters": {}}}
ROUTES = {
    "chat/completions": {"messages": [user(TITAN)]},
    "completions": {"prompt": TITAN},
    "responses": {"input": TITAN},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [TOOL]),
        ("functions", [TOOL["function"]]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "a"}}),
        ("function_call", {"name": "a"}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a"}}),
        ("text", {"format": {"type": "json_schema", "name": "a", "schema": {}}}),
        ("text", "json"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {}),
        ("echo", True),
        ("suffix", "and so on"),
        ("conversation", "conv_1"),
    ],
)
def test_what_asks_for_another_kind_of_reply_is_refused(server, route, name, value, stream):
    body = {**ROUTES[route], name: value, "stream": stream}
    refused = server.client.post(f"/v1/{route}", json=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "bad_input")
    assert error["message"] == (
        f"cannot answer: {name} asks for another kind of reply; expected a question that a text "
        f"from the passages answers, so leave {name} out"
    )


@pytest.mark.parametrize("route", ROUTES)
def test_fields_that_ask_for_nothing_are_fine_and_others_told_to_be_ignored(server, route):
    idle = {
        "tools": [],
        "functions": None,
        "tool_choice": "auto",
        "function_call": "none",
        "response_format": {"type": "text"},
        "text": {"format": {"type": "text"}},
        "modalities": ["text"],
        "audio": None,
    }
    plain = server.client.post(f"/v1/{route}", json={**ROUTES[route], **idle})
    assert plain.status_code == 200 and plain.json()["selfrag"]["ignored"] == []
    unread = {"temperature": 0.7, "stop": ["."], "text": {"verbosity": "low"}, "x" * 50: 1}
    told = server.client.post(f"/v1/{route}", json={**ROUTES[route], **unread}).json()
    assert told["selfrag"]["ignored"] == ["temperature", "stop", "text", "x" * 40]
    many = {f"field{n}": n for n in range(30)}
    told = server.client.post(f"/v1/{route}", json={**ROUTES[route], **many}).json()
    assert len(told["selfrag"]["ignored"]) == 20


def test_a_prompt_that_the_server_would_have_to_keep_is_refused(server):
    body = {"input": TITAN, "prompt": {"id": "pmpt_1"}}
    refused = server.client.post("/v1/responses", json=body)
    assert refused.status_code == 400 and "prompt asks for" in refused.json()["error"]["message"]


def test_parts_of_text_are_read_and_pictures_refused(client):
    text = {"type": "text", "text": TITAN}
    done = client.chat.completions.create(
        model="selfrag", messages=[{"role": "user", "content": [text]}]
    )
    assert done.choices[0].message.content.startswith("Titan")
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    with pytest.raises(openai.BadRequestError, match="image_url"):
        client.chat.completions.create(
            model="selfrag", messages=[{"role": "user", "content": [text, picture]}]
        )


def test_settings_of_a_request_are_those_of_the_search(client):
    done = client.chat.completions.create(
        model="selfrag", messages=[user(TITAN)], extra_body={"selfrag": {"mode": "never"}}
    )
    assert done.choices[0].message.content == "Good day to you."
    assert done.selfrag["retrieved"] is False
    with pytest.raises(openai.BadRequestError, match="beam_width"):
        client.chat.completions.create(
            model="selfrag", messages=[user(TITAN)], extra_body={"selfrag": {"beam_width": 99}}
        )


def test_an_answer_that_is_not_supported_enough_is_withheld(client):
    done = client.chat.completions.create(
        model="selfrag", messages=[user(TITAN)], extra_body={"selfrag": {"min_support": 0.95}}
    )
    assert done.choices[0].message.content.startswith("No answer: nothing was supported enough")
    assert done.choices[0].message.annotations == []
    assert done.selfrag["abstained"] and done.selfrag["low_confidence"]
    assert done.sources[0]["source"]["name"] == "titan"  # the best evidence


def test_a_limit_of_tokens_is_kept(client):
    done = client.chat.completions.create(model="selfrag", messages=[user(TITAN)], max_tokens=4)
    assert done.choices[0].finish_reason == "length"
    assert done.choices[0].message.content.startswith("Titan")


def test_completions_answer_a_prompt(client):
    whole = client.completions.create(model="selfrag", prompt=TITAN)
    assert whole.choices[0].text == "Titan is a moon of Saturn. [1]"
    stream = client.completions.create(model="selfrag", prompt=TITAN, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    with pytest.raises(openai.BadRequestError, match="2 prompts"):
        client.completions.create(model="selfrag", prompt=[TITAN, TITAN])


def test_responses_answer_a_text_and_a_conversation(client):
    whole = client.responses.create(model="selfrag", input=CAFE)
    assert whole.output_text == "Das Café „Größe“ öffnet um 8 Uhr. [1]"
    (note,) = whole.output[0].content[0].annotations
    assert (note.type, note.start_index, note.end_index) == ("url_citation", 0, 37)
    again = client.responses.create(model="selfrag", input=[user(CAFE)], instructions="Be kind.")
    assert again.output_text == whole.output_text
    assert again.selfrag["ignored"] == ["instructions"]
    with pytest.raises(openai.BadRequestError, match="keeps no responses"):
        client.responses.create(model="selfrag", input=CAFE, previous_response_id="resp_1")


def test_a_stream_of_responses_ends_with_the_whole(client):
    with client.responses.stream(model="selfrag", input=CAFE) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert "response.output_text.annotation.added" in kinds
    assert whole.output_text == "Das Café „Größe“ öffnet um 8 Uhr. [1]"


def test_what_is_asked_wrongly_is_told_in_the_shape_of_openai(server, client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="selfrag", messages=[])
    error = caught.value.body
    assert error["type"] == "invalid_request_error"
    assert error["request_id"] == caught.value.response.headers["x-request-id"]
    with pytest.raises(openai.BadRequestError, match="n is 2"):
        client.chat.completions.create(model="selfrag", messages=[user("a?")], n=2)
    with pytest.raises(openai.BadRequestError, match="is empty"):
        client.chat.completions.create(model="selfrag", messages=[user("  ")])


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "nope", 404), ("PUT", "models", 405)]
)
def test_what_is_at_no_address_is_told_where_addresses_are_listed(server, method, path, status):
    told = server.client.request(method, f"/v1/{path}")
    assert told.status_code == status
    assert told.json()["error"]["message"].endswith("expected one that /openapi.json lists")


def test_the_events_of_a_stream_end_with_done(server):
    body = {"messages": [user(TITAN)], "stream": True}
    text = server.client.post("/v1/chat/completions", json=body).text
    assert text.endswith("data: [DONE]\n\n")
    assert {chunk["id"] for _, chunk in events_of(text)} == {events_of(text)[0][1]["id"]}


def test_settled_segments_are_streamed_before_the_end(tmp_path):
    # One path is kept, so every segment is sure once it is written.
    config = SearchConfig(beam_width=1)
    with serving(lambda: library(tmp_path), config=config) as running:
        body = {"messages": [user(TITAN)], "stream": True}
        text = running.client.post("/v1/chat/completions", json=body).text
    deltas = [chunk["choices"][0]["delta"].get("content") for _, chunk in events_of(text)]
    assert "".join(filter(None, deltas)) == "Titan is a moon of Saturn. [1]"


# Open WebUI


def passages(*pairs):
    found = [
        Passage(id=f"p{n}", title=title, text="Titan is a moon.", source=source)
        for n, (title, source) in enumerate(pairs, start=1)
    ]
    return tuple(Hit(passage=each, score=1.0, rank=n) for n, each in enumerate(found, start=1))


def answer_citing(hits, *citations):
    scores = weigh(
        relevance=1.0, support=1.0, utility=1.0, sequence=1.0, weights=ScoreWeights(), missing={}
    )
    segments = tuple(
        AnswerSegment(text=f"Said {n}.", citations=cited, scores=scores, truncated=False)
        for n, cited in enumerate(citations, start=1)
    )
    numbers = GateNumbers(paper=0.9, reference=0.5)
    gate = Gate(numbers=numbers, rule=GateRule(), retrieve=True)
    return Answer(
        question="Who?",
        segments=segments,
        passages=hits,
        gate=gate,
        score=1.0,
        usage=Usage(),
        choices={},
    )


def as_open_webui_counts(sources):
    """What `[1]`, `[2]`, … name there: sources of one address or name are one."""
    ids = dict.fromkeys(each["metadata"][0]["source"] for each in sources)
    names = dict.fromkeys(each["metadata"][0]["name"] for each in sources)
    return list(ids), list(names)


def test_numbers_are_those_that_open_webui_counts():
    # Three passages of one page, the second of which is cited first, the first one not at all.
    page = ("Titan", "Wikipedia: https://en.wikipedia.org/wiki/Titan")
    told = Told.of(answer_citing(passages(page, page, page), (2,), (3,), (2, 3)))
    assert told.text == "Said 1. [1] Said 2. [2] Said 3. [1][2]"
    assert [each["metadata"][0]["passage_id"] for each in told.sources()] == ["p2", "p3", "p1"]
    ids, names = as_open_webui_counts(told.sources())
    assert (len(ids), len(names)) == (3, 3)
    notes = [each["url_citation"] for each in told.annotations()]
    assert [ids.index(note["url"]) + 1 for note in notes] == [1, 2, 1, 2]
    assert [told.text[note["start_index"] : note["end_index"]] for note in notes] == [
        "Said 1. [1]",
        "Said 2. [2]",
        "Said 3. [1][2]",
        "Said 3. [1][2]",
    ]


def test_a_citation_of_what_was_not_retrieved_is_dropped():
    told = Told.of(answer_citing(passages(("Titan", "")), (7,), (1, 0)))
    assert told.text == "Said 1. Said 2. [1]"
    assert len(told.annotations()) == 1
    assert [len(each["citations"]) for each in told.extension()["segments"]] == [0, 1]


def test_what_a_passage_had_the_model_write_is_no_link_and_no_picture():
    hits = passages(("Titan", ""))
    answer = answer_citing(hits, (1,))
    text = "See [here](https://evil.example/?q=1) ![](https://evil.example/a.png)."
    told = Told.of(replace(answer, segments=(replace(answer.segments[0], text=text),)))
    assert told.text == (
        r"See [here]\(https://evil.example/?q=1) !\[]\(https://evil.example/a.png). [1]"
    )
    (note,) = told.annotations()
    assert note["url_citation"]["end_index"] == len(told.text)


def test_the_request_of_open_webui_is_answered(server):
    """As its back end sends it, the second turn of a conversation."""
    body = {
        "stream": True,
        "model": "scripted",
        "messages": [
            {"role": "user", "content": TITAN},
            {"role": "assistant", "content": "Titan is a moon of Saturn. [1]"},
            {"role": "user", "content": "Which painting hangs in the Louvre?"},
        ],
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "metadata": {"chat_id": "c"},
        "user": {"name": "me", "role": "user"},
    }
    headers = {"Authorization": "Bearer none", "X-OpenWebUI-User-Name": "me"}
    assert server.client.get("/v1/models", headers=headers).json()["data"][0]["id"] == "scripted"
    text, sources, notes = "", [], []
    reply = server.client.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.headers["content-type"].startswith("text/event-stream")
    for _, chunk in events_of(reply.text):
        sources = chunk.get("sources", sources)
        for choice in chunk["choices"]:
            text += choice["delta"].get("content", "")
            notes += choice["delta"].get("annotations", [])
    assert text == "The Mona Lisa hangs in the Louvre. [1]"
    ids, _ = as_open_webui_counts(sources)
    assert [ids.index(note["url_citation"]["url"]) for note in notes] == [0]
    assert sources[0]["document"] == ["The Mona Lisa hangs in the Louvre. Leonardo painted it."]
