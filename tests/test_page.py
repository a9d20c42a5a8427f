"""The page in a real Chromium, over the real server and a scripted model; once over the real one.

`make browser` runs it: the packages of the extra `browser`, and Chromium on the path. The check of
accessibility takes axe-core from the file that AXE names.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("lancedb")
pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from selfrag.decode.drive import search  # noqa: E402
from selfrag.decode.events import KeepEvent  # noqa: E402
from selfrag.decode.tree import tree_of  # noqa: E402
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say  # noqa: E402
from selfrag.errors import EngineError  # noqa: E402
from selfrag.serve.limits import Access  # noqa: E402
from serve_parts import library, serving  # noqa: E402
from test_ingest_parsers import write_pdf  # noqa: E402

expect = playwright.expect
expect.set_options(timeout=20_000)
END, MORE = "</s>", "[Retrieval]"
RELEVANT = {"[Relevant]": 0.9, "[Irrelevant]": 0.1}
FULL = {"[Fully supported]": 0.8, "[Partially supported]": 0.2}
FORGED = """<img src=x onerror="document.title='forged'"><script>document.title='forged'</script>"""
DOCUMENTS = {
    "ann.txt": "It rained. Ann painted the fence in spring. She used green paint.",
    "bob.txt": "Bob painted the fence, says the letter.",
    "harbour.txt": "⚓🦉 The harbour is old. It was built in 1821.",
    "lighthouse.txt": "A lighthouse stands at the harbour. It is red.",
    "pelican.txt": f"Pelicans have {FORGED} pouches.",
    "oak.txt": "Oaks grow slowly, by " + "x" * 300 + " a year.",
}
SAID = {
    # Relevance .86 and support .925 against .95 and .90: weights decide who wins.
    "Ann painted": say(
        {"[Relevant]": 0.86, "[Irrelevant]": 0.14},
        "Ann. Ann painted the fence in spring.",
        {"[Fully supported]": 0.85, "[Partially supported]": 0.15},
        END,
    ),
    "Bob painted": say(
        {"[Relevant]": 0.95, "[Irrelevant]": 0.05}, "Bob. Bob painted the fence.", FULL, END
    ),
    "The harbour is old": say(RELEVANT, "The harbour was built in 1821.", FULL, MORE),
    "A lighthouse": say(RELEVANT, "Its lighthouse is red.", {"[Partially supported]": 0.9}, END),
    "Pelicans": say(RELEVANT, f"They have {FORGED} pouches.", FULL, END),
    "Oaks": say(RELEVANT, "Slowly: " + "y" * 300, {"[No support / Contradictory]": 0.9}, END),
    "Owls": say(RELEVANT, "Owls hunt at night.", FULL, END),
    "Kites": say(RELEVANT, "Kites need wind.", FULL, END),
}
SUBJECTS = {
    "fence": "fence",
    "harbour": "harbour",
    "Pelicans": "Pelican",
    "Oaks": "Oak",
    "Owls": "Owl",
    "Kites": "Kite",
}


class Gate:
    """Holds up the second level of a search until it is opened."""

    def __init__(self):
        self.opened = threading.Event()
        self.opened.set()


def page_engine(gate):
    tokenizer = ScriptedTokenizer()

    def script(ids):
        surface = tokenizer.surface(ids)
        question = surface.rpartition("### Instruction:\n")[2].partition("\n\n###")[0]
        if surface.endswith("</paragraph>"):
            if "built in 1821." in surface.rpartition("<paragraph>")[0]:
                gate.opened.wait(30)
            passage = surface.rpartition("<paragraph>")[2]
            subject = next((s for word, s in SUBJECTS.items() if word in question), "?")
            for mark, completion in SAID.items():
                if mark in passage and subject in passage:
                    return completion
            return say(
                {"[Irrelevant]": 0.9, "[Relevant]": 0.1}, "Beside the point.", "[Utility:1]", END
            )
        _, end, after = surface.rpartition("</paragraph>")
        if end and "fence" in after:  # an answer judged by the passage of the other
            return say({"[No support / Contradictory]": 0.9})
        if surface.endswith("[No Retrieval]"):
            return say("Good day.", "[Utility:5]", END)
        if "Break" in question:
            raise EngineError("cannot complete: the engine is gone; expected one; start it again")
        retrieves = 0.1 if "Hello" in question else 0.9
        return say({"[Retrieval]": retrieves, "[No Retrieval]": 1 - retrieves})

    return ScriptedEngine(tokenizer, script)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def gate():
    return Gate()


@pytest.fixture(scope="module")
def server(tmp_path_factory, gate):
    folder = tmp_path_factory.mktemp("page")
    with serving(lambda: library(folder, DOCUMENTS), page_engine(gate)) as running:
        yield running


@pytest.fixture
def open_page(browser):
    """Opens a page of any width, in a context of its own; it may tell of no fault of its own."""
    contexts, faults = [], []

    def open_page(url, *, width=1280, height=900, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("console", lambda told: faults.append(told.text) if "Policy" in told.text else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def page(open_page, server):
    return open_page(server.url)


def ask(page, question):
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".turn").last.locator(".verdict, .notice.error").first).to_be_visible()


def slide(page, name, value):
    page.get_by_role("slider", name=name).fill(str(value))


def answer_of(page):
    return page.locator(".answer").last


# Asking


def test_an_answer_shows_its_sources_and_how_far_they_support_it(page):
    ask(page, "Who painted the fence?")
    expect(answer_of(page)).to_contain_text("Bob. Bob painted the fence.")
    expect(page.locator(".verdict")).to_contain_text("Fully supported (0.90)")
    cite = page.get_by_role("button", name="Source 1, bob: fully supported")
    expect(cite).to_have_text("1 ●")  # a number and a sign beside the colour
    expect(page.get_by_role("list", name="Sources").get_by_role("listitem")).to_have_count(1)
    expect(page.get_by_role("status")).to_contain_text("Answer: Bob.")


def test_a_question_waits_until_the_server_is_ready(browser, server):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    loading = '{"ready": false, "doing": "starting"}'
    page.route("**/ready", lambda route: route.fulfill(status=503, body=loading))
    page.goto(server.url)
    page.get_by_label("Your question").fill("Who painted the fence?")
    page.keyboard.press("Enter")
    expect(page.locator(".progress")).to_have_text("Opening model and index …")
    assert not [url for url in asked if url.endswith("/v1/ask")]
    page.unroute("**/ready")
    expect(answer_of(page)).to_contain_text("Bob. Bob painted the fence.")
    page.close()


def test_a_citation_opens_its_passage_at_the_words_and_closes_again(page):
    ask(page, "How old is the harbour?")
    page.get_by_role("button", name="Source 1, harbour").click()
    panel = page.get_by_role("complementary")
    expect(panel.get_by_role("heading")).to_have_text("[1] harbour")
    expect(panel).to_be_focused()
    expect(panel.locator("blockquote")).to_have_text(DOCUMENTS["harbour.txt"])
    # "The harbour was built in 1821." shares "built in 1821" with it.
    expect(panel.locator("mark")).to_have_text("It was built in 1821.")
    expect(panel).to_contain_text("Relevance0.90")
    expect(panel).to_contain_text("Search rank")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.get_by_role("button", name="Source 1, harbour")).to_be_focused()


def test_a_click_on_the_sentence_does_the_same(page):
    ask(page, "How old is the harbour?")
    page.get_by_text("Its lighthouse is red.").first.click()
    expect(page.locator("#panel-title")).to_have_text("[2] lighthouse")
    expect(page.locator(".segment.open")).to_have_text("Its lighthouse is red.")


def test_the_original_file_opens_beside(page):
    ask(page, "Who painted the fence?")
    page.get_by_role("button", name="Source 1").click()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the file").click()
    assert opened.value.locator("body").inner_text().strip() == DOCUMENTS["bob.txt"]


def test_segments_arrive_while_the_search_goes_on_and_it_can_be_stopped(page, gate):
    gate.opened.clear()
    try:
        page.get_by_label("Your question").fill("How old is the harbour?")
        page.keyboard.press("Enter")
        expect(page.locator(".answer.draft")).to_have_text("The harbour was built in 1821.")
        expect(page.locator(".progress")).not_to_be_empty()
        gate.opened.set()
        expect(page.locator(".verdict")).to_be_visible()
        expect(answer_of(page)).to_contain_text("Its lighthouse is red.")
        gate.opened.clear()
        page.get_by_role("button", name="New conversation").click()
        page.get_by_label("Your question").fill("Is the harbour old?")
        page.keyboard.press("Enter")
        expect(page.locator(".answer.draft")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".turn").last).to_contain_text("Stopped")
    finally:
        gate.opened.set()
    ask(page, "Who painted the fence?")
    expect(answer_of(page)).to_contain_text("Bob.")


def test_a_conversation_sends_what_was_said_and_can_begin_again(page):
    ask(page, "Who painted the fence?")
    with page.expect_request("**/v1/ask") as sent:
        ask(page, "How old is the harbour?")
    assert sent.value.post_data_json["history"] == [
        {"question": "Who painted the fence?", "answer": "Bob. Bob painted the fence."}
    ]
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    with page.expect_request("**/v1/ask") as sent:
        ask(page, "Who painted the fence?")
    assert sent.value.post_data_json["history"] == []


def test_an_answer_is_copied_as_markdown_with_its_sources(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "How old is the harbour?")
    page.get_by_role("button", name="Copy as Markdown").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    title, said, verdict, sources = page.evaluate("navigator.clipboard.readText()").split("\n\n")
    assert title == "**How old is the harbour?**"
    assert said == "The harbour was built in 1821. [1] Its lighthouse is red. [2]"
    assert verdict.startswith("*partially supported")
    assert re.fullmatch(r"- \[1\] harbour, .*harbour\.txt\n- \[2\] lighthouse, .*\n", sources)


# What is told beside an answer


def test_the_reader_is_told_when_sources_disagree(page):
    ask(page, "Who painted the fence?")
    notice = page.locator(".notice", has_text="Sources disagree")
    expect(notice).to_contain_text("ann: Ann. Ann painted the fence in spring.")
    expect(notice).to_contain_text("bob: Bob. Bob painted the fence.")
    notice.get_by_role("button", name="ann").click()
    expect(page.locator("blockquote")).to_have_text(DOCUMENTS["ann.txt"])


def test_the_reader_is_told_of_answers_that_nothing_supports(page):
    ask(page, "How do Oaks grow?")
    expect(page.locator(".notice")).to_contain_text("Low confidence")
    expect(page.locator(".cite")).to_have_text("1 ✕")
    ask(page, "What is in the parcel?")
    expect(page.locator(".notice").last).to_contain_text("Nothing was supported")
    ask(page, "Hello")
    expect(page.locator(".notice").last).to_contain_text("From the model's memory")


def test_the_tree_shows_every_candidate_and_why_it_lost(page):
    ask(page, "How old is the harbour?")
    page.get_by_text("How this answer was chosen").click()
    tree = page.locator(".tree")
    expect(tree).to_contain_text("Looked for evidence (need of evidence 0.90, threshold 0.20)")
    expect(tree.locator(".won .said")).to_have_text(
        ["The harbour was built in 1821.", "Its lighthouse is red."]
    )
    # The second segment hangs below the first.
    expect(tree.locator("li li .won .said")).to_have_text("Its lighthouse is red.")
    assert tree.locator(".lost").count() >= 4
    for fate in tree.locator(".lost .fate").all_inner_texts():
        assert re.match("✕ (Lost: .+|Kept as number 2, but another path was better)", fate)


# Of the page's tree, depth first, what `branches` gives of the one that `ask --explain` draws.
DRAWN = """() => [...document.querySelectorAll(".tree .branch")].map((branch) => {
  const depth = (list) => list ? 1 + depth(list.parentElement.closest(".tree ol")) : 0;
  const text = (name) => branch.querySelector(name).textContent;
  return [depth(branch.closest("ol")), text(".from"), text(".said"), text(".fate"),
    [...branch.querySelectorAll("dd")].map((each) => each.textContent)];
})"""


def branches(level, depth=1):
    """Depth, titles, text, fate in the page's words, and scores of every candidate, in order."""
    found = []
    for branch in level.branches:
        scores = branch.node.segment.scores
        names = ("relevance", "support", "utility", "sequence", "retrieval")
        values = [*(getattr(scores, name) for name in names), branch.node.path_score]
        titles = ", ".join(hit.passage.title for hit in branch.node.hits)
        rated = ["\u2013" if value is None else f"{value:.2f}" for value in values]
        fate = f"✕ {branch.verdict[0].upper()}{branch.verdict[1:]}"
        if branch.is_in_answer:
            fate = "✓ In the answer"
        elif isinstance(branch.fate, KeepEvent):
            why = branch.verdict.rpartition(", but ")[2]
            fate = f"✕ Kept as number {branch.fate.rank}, but {why}"
        found += [[depth, titles, branch.node.segment.text, fate, rated]]
        found += branches(branch.below, depth + 1)
    return found


@pytest.mark.parametrize(
    ("question", "min_support"),
    [("How old is the harbour?", None), ("Who painted the fence?", None), ("How old?", 0.999)],
)
def test_the_page_and_the_terminal_draw_the_same_tree(
    page, server, question, min_support, monkeypatch
):
    service = server.service
    config = replace(service.config, min_support=min_support)
    monkeypatch.setattr(service, "config", config)
    ask(page, question)
    page.get_by_text("How this answer was chosen").click()
    found = search(
        [question], engine=service.engine, retriever=service.index, config=service.config
    )
    expected = branches(tree_of(list(found)))
    assert len(expected) >= 5
    assert page.evaluate(DRAWN) == expected
    assert ("no answer was given" in str(expected)) is (min_support is not None)


def test_sliders_choose_again_without_the_model(page, server):
    ask(page, "Who painted the fence?")
    page.get_by_text("How this answer was chosen").click()
    n_calls = len(server.service.engine.calls)
    slide(page, "Weight of relevance", 0)
    expect(answer_of(page)).to_contain_text("Ann. Ann painted the fence in spring.")
    expect(page.locator(".won .said")).to_have_text("Ann. Ann painted the fence in spring.")
    expect(page.get_by_role("status")).to_contain_text("Answer now: Ann.")
    page.get_by_role("button", name="Reset").click()
    expect(answer_of(page)).to_contain_text("Bob.")
    assert len(server.service.engine.calls) == n_calls


def test_a_threshold_that_asks_for_what_was_not_searched_can_be_asked_again(page):
    ask(page, "Who painted the fence?")
    page.get_by_text("How this answer was chosen").click()
    slide(page, "Threshold of retrieval", 1)
    expect(page.locator(".notice").first).to_contain_text("Not recorded")
    expect(answer_of(page)).to_contain_text("Bob.")
    page.get_by_role("button", name="Ask again with these settings").click()
    expect(answer_of(page)).to_contain_text("Good day.")


# Documents


def test_an_uploaded_document_is_cited(page, tmp_path):
    (tmp_path / "owls.txt").write_text("Owls hunt at night. They are quiet.")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    page.get_by_role("button", name="Documents").click()
    expect(page.locator("#holdings")).to_contain_text("6 passages from 6 files")
    page.locator("#files").set_input_files([tmp_path / "owls.txt", tmp_path / "broken.pdf"])
    uploads = page.get_by_role("list", name="Added files").get_by_role("listitem")
    expect(uploads.filter(has_text="owls.txt")).to_contain_text("Added.")
    expect(uploads.filter(has_text="broken.pdf").get_by_role("alert")).to_contain_text("Not added")
    expect(page.locator("#holdings")).to_contain_text("7 passages from 7 files")
    ask(page, "When do Owls hunt?")
    page.get_by_role("button", name="Source 1, owls: fully supported").click()
    expect(page.locator("mark")).to_have_text("Owls hunt at night.")


def test_a_citation_of_a_pdf_opens_it_at_its_page(page, tmp_path):
    pages = [["word " * 12] * 10, ["Kites need wind. They also need string."]]
    write_pdf(tmp_path / "kites.pdf", pages)
    page.locator("#files").set_input_files(tmp_path / "kites.pdf")
    expect(page.locator("#uploads")).to_contain_text("Added.")
    ask(page, "What do Kites need?")
    expect(page.locator(".sources .place")).to_contain_text("p. ")
    page.get_by_role("button", name="Source 1").click()
    expect(page.get_by_role("complementary")).to_contain_text(re.compile(r"kites\.pdf, pp?\. \d"))
    link = page.get_by_role("link", name="Open the file").get_attribute("href")
    assert re.fullmatch(r"/v1/passages/[^/]+/source#page=[12]", link)
    response = page.request.get(page.url.rstrip("/") + link)
    assert response.headers["content-type"] == "application/pdf"
    assert response.body() == (tmp_path / "kites.pdf").read_bytes()


def test_files_are_dropped_on_the_page(page):
    dropped = page.evaluate_handle(
        """() => {
          const held = new DataTransfer();
          held.items.add(new File(["Snow is white."], "snow.txt", { type: "text/plain" }));
          return held;
        }"""
    )
    page.dispatch_event("main", "dragover", {"dataTransfer": dropped})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": dropped})
    expect(page.get_by_role("list", name="Added files")).to_contain_text("Added.")


# Faults and attacks


def test_an_error_is_shown_as_one_with_what_to_do(page):
    ask(page, "Break it")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No answer")
    expect(alert).to_contain_text("The engine is gone; expected one; start it again".lower()[4:])
    expect(page.locator(".answer")).to_have_count(0)
    ask(page, "Long " * 5000)
    expect(alert.last).to_contain_text("shorten it")


def test_a_server_that_is_gone_is_told_and_asked_again(page):
    page.route("**/v1/ask", lambda route: route.abort())
    ask(page, "Who painted the fence?")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    page.unroute("**/v1/ask")
    page.get_by_role("button", name="Try again").click()
    expect(answer_of(page)).to_contain_text("Bob.")
    expect(page.locator(".turn")).to_have_count(1)


def test_html_in_a_passage_a_segment_or_a_question_is_text(page):
    ask(page, f"What do Pelicans have? {FORGED}")
    expect(answer_of(page)).to_contain_text(f"They have {FORGED} pouches.")
    page.get_by_role("button", name="Source 1").click()
    expect(page.locator("blockquote")).to_have_text(DOCUMENTS["pelican.txt"])
    page.get_by_text("How this answer was chosen").click()
    assert page.title() == "selfrag"
    assert page.locator("img, script:not([src]), iframe").count() == 0


def test_who_logs_in_to_the_page_is_asked_no_more(open_page, tmp_path, gate):
    login = {"username": "anyone", "password": "sesame"}
    opening = lambda: library(tmp_path, DOCUMENTS)  # noqa: E731
    with serving(opening, page_engine(gate), access=Access(tokens=("sesame",))) as running:
        page = open_page(running.url, http_credentials=login)
        ask(page, "Who painted the fence?")
        expect(answer_of(page)).to_contain_text("Bob.")
        page.get_by_role("button", name="Source 1").click()
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open the file").click()
        assert opened.value.locator("body").inner_text().strip() == DOCUMENTS["bob.txt"]


def test_a_token_that_the_server_asks_for_is_asked_for(open_page, tmp_path, gate):
    def with_token(route):
        route.continue_(headers={**route.request.headers, "authorization": "Bearer sesame"})

    access = Access(tokens=("sesame",))
    opening = lambda: library(tmp_path, DOCUMENTS)  # noqa: E731
    with serving(opening, page_engine(gate), access=access) as running:
        page = open_page("about:blank")
        # As a browser that has logged in for the page alone.
        page.route(re.compile(r"/(static/.*|ready)?$"), with_token)
        page.goto(running.url)
        page.get_by_label("Your question").fill("Who painted the fence?")
        page.keyboard.press("Enter")
        for token in ("wrong", "sesame"):
            dialog = page.get_by_role("dialog")
            expect(dialog).to_be_visible()
            dialog.get_by_label("Token").fill(token)
            dialog.get_by_role("button", name="Use token").click()
        expect(answer_of(page)).to_contain_text("Bob.")
        page.get_by_role("button", name="Source 1").click()
        with page.context.expect_page() as opened:
            page.get_by_role("button", name="Open the file").click()
        assert opened.value.locator("body").inner_text().strip() == DOCUMENTS["bob.txt"]
        page.get_by_role("button", name="Documents").click()
        expect(page.locator("#holdings")).to_contain_text("6 passages")


# For everyone


def test_everything_is_reached_by_keyboard_alone(page):
    page.keyboard.type("Who painted the fence?")  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.locator(".verdict")).to_be_visible()
    focused = (
        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    )

    def go_to(name, key="Shift+Tab"):
        for _ in range(30):
            if re.search(name, page.evaluate(focused)):
                return
            page.keyboard.press(key)
        raise AssertionError(f"{name} is not reached")

    go_to("Source 1, bob")
    page.keyboard.press("Enter")
    expect(page.locator("blockquote")).to_be_visible()
    go_to("Open the file", "Tab")
    page.keyboard.press("Escape")
    go_to("Source 1, bob")
    go_to("How this answer was chosen", "Tab")
    page.keyboard.press("Enter")
    go_to("Weight of relevance", "Tab")
    page.keyboard.press("Home")
    expect(answer_of(page)).to_contain_text("Ann.")
    assert re.search("Weight of relevance", page.evaluate(focused))  # the focus stays
    go_to("Documents")
    page.keyboard.press("Enter")
    go_to("Choose files", "Tab")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(open_page, server, width):
    page = open_page(server.url, width=width, height=760, is_mobile=True, has_touch=True)

    def fits():
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    fits()
    ask(page, "How do Oaks grow? " + "z" * 200)
    fits()
    page.get_by_role("button", name="Source 1").click()
    fits()
    assert page.evaluate("panel.scrollWidth <= panel.clientWidth")
    page.get_by_role("button", name="Close").click()
    page.get_by_text("How this answer was chosen").click()
    fits()
    page.get_by_role("button", name="Documents").click()
    fits()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(open_page, server, scheme):
    axe = os.environ.get("AXE", "")
    if not axe or not Path(axe).is_file():
        pytest.skip("axe-core is not installed: AXE names no axe.min.js")
    page = open_page(server.url, color_scheme=scheme)
    script = Path(axe).read_text()

    def check(state):
        page.evaluate(script)  # the policy of the page forbids a script element
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        told = [(each["id"], each["nodes"][0]["html"]) for each in found]
        assert not told, (state, told)

    check("welcome")
    for question in ("Who painted the fence?", "How do Oaks grow?", "Hello", "Break it"):
        ask(page, question)
    check("answers")
    page.get_by_role("button", name="Source 1, bob").click()
    page.get_by_text("How this answer was chosen").first.click()
    slide(page, "Threshold of retrieval", 1)
    expect(page.locator(".notice").first).to_contain_text("Not recorded")
    check("passage and tree")
    page.get_by_role("button", name="Documents").click()
    check("documents")
    page.evaluate("document.getElementById('token-dialog').showModal()")
    check("token")


@pytest.mark.real
def test_the_default_model_answers_on_the_page(open_page, tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "titan.txt").write_text("Titan is the largest moon of the planet Saturn.")
    (documents / "bakery.txt").write_text("A bakery sells bread. Most bakeries open early.")
    command = [sys.executable, "-m", "selfrag"]
    built = [*command, "index", "build", str(documents), "--out", str(tmp_path / "index")]
    subprocess.run(built, check=True, capture_output=True)
    serve = [*command, "serve", "--index", str(tmp_path / "index"), "--port", "0"]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as running:
        told = threading.Thread(target=lambda: [None for _ in running.stderr])
        try:
            url = re.search(r"http://\S+", running.stderr.readline()).group()
            told.start()
            page = open_page(url)
            expect(page.locator("#about")).to_contain_text("2 passages", timeout=120_000)
            ask(page, "Which planet has the moon Titan?")
            expect(answer_of(page)).to_contain_text("Saturn")
            page.get_by_role("button", name="Source 1, titan: fully supported").click()
            expect(page.locator("mark")).to_have_text(
                "Titan is the largest moon of the planet Saturn."
            )
            upload = {
                "name": "quill.txt",
                "mimeType": "text/plain",
                "buffer": b"The harbour master of Quill is Ada Brandt.",
            }
            page.locator("#files").set_input_files(upload)
            expect(page.locator("#uploads")).to_contain_text("Added", timeout=120_000)
            ask(page, "Who is the harbour master of Quill?")
            expect(answer_of(page)).to_contain_text("Ada Brandt")
            expect(page.get_by_role("button", name="Source 1, quill").last).to_be_visible()
        finally:
            running.terminate()
            running.wait(30)
            told.join()
