"""Answers with citations through LangChain, LlamaIndex, Haystack and MCP, by their own interfaces.

The standard tests of LangChain run in a process of their own, where langchain-tests is installed.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripted_rag import FIRST, PASSAGES, SECOND, AllPassages, scripted_rag
from selfrag.errors import BadInput
from selfrag.integrations.convert import citations_of, facts_of

QUESTION = "How old is the harbour?"
TEXT = f"{FIRST} {SECOND}"
TESTS = Path(__file__).parent


# Citations


def test_citations_cover_the_text_in_order_and_name_what_they_rest_on():
    answer = scripted_rag().ask(QUESTION)
    first, second = citations_of(answer)
    assert answer.text == TEXT
    assert (TEXT[first.start : first.end], TEXT[second.start : second.end]) == (FIRST, SECOND)
    assert first.cited_text == "It was built in 1821."
    assert second.cited_text == PASSAGES["lighthouse"].text
    assert first.hit.passage is PASSAGES["harbour"]
    assert first.support == pytest.approx(0.9)  # .8 full, .2 partial counts half


def test_an_answer_without_passages_cites_nothing_and_says_so():
    answer = scripted_rag().ask("Hello")
    assert citations_of(answer) == []
    assert facts_of(answer) == {
        "verdict": "answered without retrieval: nothing is cited",
        "probability": None,
        "support": None,
        "abstained": False,
        "retrieved": False,
        "stopped_by": None,
    }


# LangChain


@pytest.fixture
def langchain():
    pytest.importorskip("langchain_core")
    from selfrag.integrations.langchain import LangChainSelfRAG

    return LangChainSelfRAG(scripted_rag())


def test_a_chain_gets_a_message_with_citations(langchain):
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    prompt = ChatPromptTemplate.from_messages([("human", "How old is the {what}?")])
    message = (prompt | langchain).invoke({"what": "harbour"})
    assert message.text == TEXT
    (block,) = message.content_blocks
    first, second = block["annotations"]
    assert first["type"] == "citation"
    assert TEXT[first["start_index"] : first["end_index"]] == FIRST
    assert first["cited_text"] == "It was built in 1821."
    assert (first["title"], first["url"]) == ("Harbour", "https://example.org/harbour")
    assert (first["extras"]["passage_id"], first["extras"]["page"]) == ("h1", 3)
    assert "url" not in second
    assert message.response_metadata["verdict"] == "fully supported (0.90)"
    assert (prompt | langchain | StrOutputParser()).invoke({"what": "harbour"}) == TEXT


def test_a_chain_may_be_asynchronous_and_batched(langchain):
    assert asyncio.run(langchain.ainvoke(QUESTION)).text == TEXT
    both = langchain.batch([QUESTION, "Hello"])
    assert [message.text for message in both] == [TEXT, "Good day."]
    failed = langchain.batch(["Break"], return_exceptions=True)
    assert "the engine is gone" in str(failed[0])


def test_messages_before_the_question_are_its_history(langchain):
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    messages = [
        SystemMessage("Be kind."),
        HumanMessage("Who?"),
        AIMessage("Ann."),
        ("human", "Hello"),
    ]
    assert langchain.invoke(messages).text == "Good day."
    (gate, *_) = langchain._rag.engine.calls[0]
    read = langchain._rag.engine.tokenizer.surface(gate.prompt_ids)
    assert read.index("Who?") < read.index("Ann.") < read.index("Hello")
    assert "Be kind" not in read
    with pytest.raises(BadInput, match="the last message is not the user's"):
        langchain.invoke([HumanMessage("Who?"), AIMessage("Ann.")])


STANDARD = """
import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests
from scripted_rag import AllPassages
from selfrag.integrations.langchain import LangChainRetriever


class TestOurs(RetrieversIntegrationTests):
    retriever_constructor = LangChainRetriever
    retriever_constructor_params = {"retriever": AllPassages()}
    retriever_query_example = "harbour"
    num_results_arg_name = "top_k"
"""


def test_our_retriever_passes_the_standard_tests_of_langchain(tmp_path):
    # A process of its own: langchain-tests brings plug-ins of pytest that change every other test.
    has = [sys.executable, "-c", "import langchain_tests"]
    if subprocess.run(has, capture_output=True).returncode:
        pytest.skip("langchain-tests is not installed")
    (tmp_path / "test_standard.py").write_text(STANDARD)
    settings = ["-c", os.devnull, "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *settings, str(tmp_path / "test_standard.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


# LlamaIndex


def test_a_query_engine_of_llamaindex_answers_with_its_sources():
    pytest.importorskip("llama_index.core")
    from llama_index.core.tools import QueryEngineTool

    from selfrag.integrations.llamaindex import LlamaIndexQueryEngine

    engine = LlamaIndexQueryEngine(scripted_rag())
    response = engine.query(QUESTION)
    assert str(response) == TEXT
    assert [each.node_id for each in response.source_nodes] == ["h1", "l1"]
    assert response.metadata["verdict"] == "fully supported (0.90)"
    first = response.metadata["citations"][0]
    assert (TEXT[first["start"] : first["end"]], first["node_id"]) == (FIRST, "h1")
    assert str(asyncio.run(engine.aquery("Hello"))) == "Good day."
    tool = QueryEngineTool.from_defaults(engine, name="ask", description="Ask.")
    assert tool.call(input=QUESTION).content == TEXT


# Haystack


@pytest.fixture
def haystack(monkeypatch):
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    pytest.importorskip("haystack")
    from selfrag.integrations import haystack

    return haystack


def test_a_pipeline_of_haystack_finds_and_answers(haystack):
    from haystack import Pipeline

    pipeline = Pipeline()
    pipeline.add_component("find", haystack.HaystackRetriever.of(AllPassages(), top_k=2))
    pipeline.add_component("answer", haystack.HaystackSelfRAG.of(scripted_rag()))
    done = pipeline.run({"find": {"query": "x"}, "answer": {"query": QUESTION}})
    documents = done["find"]["documents"]
    assert [each.id for each in documents] == ["h1", "l1"]
    assert (documents[0].content, documents[0].score) == (PASSAGES["harbour"].text, 1.0)
    assert documents[0].meta["page"] == 3
    (answer,) = done["answer"]["answers"]
    assert (answer.data, answer.query) == (TEXT, QUESTION)
    assert [each.id for each in answer.documents] == ["h1", "l1"]
    assert answer.meta["citations"][1]["document_id"] == "l1"
    assert answer.to_dict()["data"] == TEXT


def test_a_pipeline_of_haystack_is_saved_and_read_again(haystack):
    from haystack import Pipeline

    pipeline = Pipeline()
    pipeline.add_component("find", haystack.HaystackRetriever("my-index", top_k=3))
    pipeline.add_component("answer", haystack.HaystackSelfRAG("models/mine", index="my-index"))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["selfrag.*"])
    assert again.get_component("find").top_k == 3
    found = again.get_component("answer")
    assert (found.model, found.index) == ("models/mine", "my-index")


# The Model Context Protocol


@pytest.fixture
def mcp():
    return pytest.importorskip("mcp")


def over_stdio(mcp, arguments):
    from mcp.client.stdio import stdio_client

    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    parameters = mcp.StdioServerParameters(command=sys.executable, args=arguments, env=environment)
    return mcp.Client(stdio_client(parameters))


async def everything(client):
    """What the tools are, and what they give for a question, a query and two faults."""
    async with client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        asked = await client.call_tool("ask", {"question": QUESTION})
        found = await client.call_tool("search", {"query": "trees", "top_k": 3})
        broken = await client.call_tool("ask", {"question": "Break"})
        too_many = await client.call_tool("search", {"query": "trees", "top_k": 1000})
        claim = {"claim": "The lighthouse is red. Is it?"}
        checked = await client.call_tool("check_claim", claim)
        return tools, asked, found, broken, too_many, checked


def check_everything(tools, asked, found, broken, too_many, checked):
    assert set(tools) == {"ask", "search", "check_claim"}
    assert not checked.is_error
    told = checked.structured_content  # p(relevant) 0.9, and all of IsSup equally likely: 0.45
    assert [each["verdict"] for each in told["sentences"]] == ["partially supported", "not a claim"]
    assert told["sentences"][0]["source"] == told["sources"][0]["number"] == 1
    assert checked.content[0].text.startswith("partially supported: The lighthouse is red. [1]\n")
    for tool in tools.values():
        assert tool.annotations.read_only_hint and not tool.annotations.destructive_hint
        assert tool.description and tool.output_schema and tool.title
    assert not asked.is_error
    (said,) = asked.content
    assert said.text.startswith(
        f"{FIRST} [1] {SECOND} [2]\n\nfully supported (0.90)\n\n[1] Harbour"
    )
    assert "Oak" not in said.text  # read, but not cited
    answer = asked.structured_content
    assert (answer["abstained"], answer["support"]) == (False, pytest.approx(0.9))
    assert answer["sources"][0] == {
        "number": 1,
        "id": "h1",
        "title": "Harbour",
        "source": "Archive: https://example.org/harbour",
        "url": "https://example.org/harbour",
        "page": 3,
        "text": PASSAGES["harbour"].text,
    }
    assert [each["id"] for each in found.structured_content["passages"]] == ["h1", "l1", "o1"]
    assert broken.is_error and "the engine is gone" in broken.content[0].text
    assert "Traceback" not in broken.content[0].text
    assert too_many.is_error and "top_k" in too_many.content[0].text


def test_the_sdks_client_asks_and_searches_over_standard_input_and_output(mcp):
    client = over_stdio(mcp, [str(TESTS / "scripted_rag.py")])
    check_everything(*asyncio.run(everything(client)))


def test_the_sdks_client_asks_and_searches_over_http(mcp):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(TESTS / "scripted_rag.py"), str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as running:
        try:
            wait_for(port, running)
            check_everything(*asyncio.run(everything(mcp.Client(f"http://127.0.0.1:{port}/mcp"))))
        finally:
            running.terminate()


def wait_for(port, running):
    while running.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server has ended")


def test_what_cannot_be_opened_is_an_error_of_every_call(mcp):
    from selfrag.integrations.mcp import mcp_server

    def opening():
        raise BadInput("cannot open the index: there is none; expected one; build it")

    async def ask():
        async with mcp.Client(mcp_server(opening)) as client:
            return await client.call_tool("ask", {"question": QUESTION})

    asked = asyncio.run(ask())
    assert asked.is_error and "there is none; expected one; build it" in asked.content[0].text


@pytest.mark.parametrize(
    ("tool", "arguments", "found"),
    [
        (tool, arguments, found)
        for tool, name in (("ask", "question"), ("search", "query"), ("check_claim", "claim"))
        for arguments, found in (
            ({name: ""}, f"{name}: string should have at least 1 character"),
            ({name: "a" * 4001}, f"{name}: string should have at most 4000 characters"),
            ({name: ["a"]}, f"{name}: input should be a valid string"),
            ({}, f"{name}: field required"),
        )
    ]
    + [
        (
            "search",
            {"query": "a", "top-k": 3},
            "'top-k': there is no such argument, only query, top_k",
        ),
        ("ask", {"query": "a"}, "'query': there is no such argument, only question"),
        ("search", {"query": "a", "top_k": 51}, "top_k: input should be less than or equal to 50"),
        ("search", {"query": "a", "top_k": 0}, "top_k: input should be greater than or equal to 1"),
        ("search", {"query": "a", "top_k": "x"}, "top_k: input should be a valid integer"),
    ],
)
def test_arguments_that_do_not_fit_are_told_in_a_sentence_of_ours(mcp, tool, arguments, found):
    from selfrag.integrations.mcp import mcp_server

    async def call():
        async with mcp.Client(mcp_server(scripted_rag)) as client:
            return await client.call_tool(tool, arguments)

    told = asyncio.run(call())
    (said,) = told.content
    assert told.is_error and said.text.startswith(f"cannot use the tool {tool}: {found}")
    assert said.text.endswith("; expected arguments that fit its input schema, so change them")
    assert "pydantic" not in said.text and "\n" not in said.text


def test_schemas_say_that_no_other_argument_is_taken(mcp):
    from selfrag.integrations.mcp import mcp_server

    async def listed():
        async with mcp.Client(mcp_server(scripted_rag)) as client:
            return (await client.list_tools()).tools

    tools = asyncio.run(listed())
    assert {tool.name for tool in tools} == {"ask", "search", "check_claim"}
    assert [tool.input_schema["additionalProperties"] for tool in tools] == [False] * 3


def test_a_port_that_cannot_be_is_refused(mcp):
    from selfrag.integrations.mcp import mcp_server, run_server

    with pytest.raises(BadInput, match="the port is 70000"):
        run_server(mcp_server(scripted_rag), port=70000)


@pytest.mark.real
def test_the_default_model_answers_through_selfrag_mcp(mcp, tmp_path):
    (tmp_path / "titan.txt").write_text("Titan is the largest moon of the planet Saturn.")
    index = str(tmp_path / "index")
    command = [sys.executable, "-m", "selfrag", "index", "build"]
    subprocess.run(
        [*command, str(tmp_path / "titan.txt"), "--out", index], check=True, capture_output=True
    )

    async def ask():
        async with over_stdio(mcp, ["-m", "selfrag", "mcp", "--index", index]) as client:
            return await client.call_tool("ask", {"question": "Which planet has the moon Titan?"})

    asked = asyncio.run(ask())
    assert "Saturn" in asked.structured_content["answer"]
    assert asked.structured_content["sources"][0]["title"] == "titan"
