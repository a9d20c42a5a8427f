"""Documents from files, and passages from documents."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrag.errors import BadInput, ConfigError
from selfrag.ingest.chunking import Chunking, TokenLimit, chunk_document, paragraphs, passage_id
from selfrag.ingest.readers import read_documents, read_wiki_leads
from selfrag.ingest.titles import markdown_title
from selfrag.passage import Document, Passage

TEXTS = st.text(alphabet=st.sampled_from(list("ab.!? \n\t\u00e9\u65e5\U0001f642")), max_size=200)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def document(text: str) -> Document:
    return Document(title="T", text=text, source="s")


def texts_of(text: str, size: int, chunking: Chunking = Chunking.WORDS) -> list[str]:
    passages = chunk_document(document(text), chunking=chunking, size=size)
    return [passage.text for passage in passages]


# Readers


def test_a_text_file_is_titled_by_its_stem(tmp_path):
    path = write(tmp_path / "Ada Lovelace.txt", "She wrote.\n")
    assert list(read_documents([path])) == [
        Document(title="Ada Lovelace", text="She wrote.\n", source=str(path))
    ]


def test_markdown_is_titled_by_its_first_top_heading_else_by_its_stem(tmp_path):
    headed = write(tmp_path / "a.md", "intro\n## Not this\n# The Title #\n# Second\n")
    plain = write(tmp_path / "b.md", "no heading, #hash\n")
    assert [found.title for found in read_documents([headed, plain])] == ["The Title", "b"]


def test_line_ends_of_any_system_are_one_character(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n")
    assert next(read_documents([path])).text == "one\ntwo\nthree\n"


def test_faults_go_to_the_log_unless_somebody_asks(tmp_path, caplog):
    for name in ["b.txt", "a/z.md", "a/.git/c.txt", ".hidden.txt", "photo.png", "deep/er/X.TXT"]:
        write(tmp_path / name, "text")
    write(tmp_path / "blank.txt", " \n")
    with caplog.at_level(logging.WARNING):
        titles = [found.title for found in read_documents([tmp_path])]
    assert titles == ["z", "b", "X"]
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped {tmp_path}/photo.png: an image, which is not read",
        f"skipped {tmp_path}/blank.txt: no text in it",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One.\nTwo.", [("t", "One."), ("t", "Two.")]),  # a line each
        ("One\ntwo.", [("t", "One\ntwo.")]),
        ("One.\ntwo.\n\nThree.", [("t", "One.\ntwo."), ("t", "Three.")]),
        (
            "# A\nOne.\n\n### B\nTwo.\n\n# C\nThree.",
            [("A", "One."), ("A: B", "Two."), ("C", "Three.")],
        ),
        (
            "```\n# no heading\n\n# nor this\n```",
            [("t", "```\n# no heading"), ("t", "# nor this\n```")],
        ),
        (
            "Oaks grow old. Elms grow tall.",
            [("t", "Oaks grow old."), ("t", "Elms grow tall.")],
        ),  # of at most 4 words
        (" \n\n# A\n", []),
    ],
)
def test_a_document_in_paragraphs(text, found):
    passages = list(paragraphs(Document(title="t", text=text, source="s"), size=4))
    assert [(each.title, each.text) for each in passages] == found
    assert all(text[each.start : each.end] == each.text for each in passages)


def test_wiki_leads_carry_their_licence_and_address(tmp_path):
    lead = {"title": "Ada Lovelace", "extract": "She wrote.", "topic": "People"}
    path = write(tmp_path / "leads.json", json.dumps({"Ada Lovelace": lead}))
    assert list(read_wiki_leads(path)) == [
        Document(
            title="Ada Lovelace",
            text="She wrote.",
            source="Wikipedia, CC BY-SA 4.0: https://en.wikipedia.org/wiki/Ada_Lovelace",
        )
    ]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": {"title": "a"}}'])
def test_wiki_leads_of_another_shape_are_refused(tmp_path, content):
    path = write(tmp_path / "leads.json", content)
    with pytest.raises(BadInput, match=r"cannot read Wikipedia leads from .*; fetch the file"):
        list(read_wiki_leads(path))


# Chunking


def test_word_blocks_are_disjoint_and_the_last_is_shorter():
    # 230 words: 100 + 100 + 30, the DPR cut.
    words = [f"w{index}" for index in range(230)]
    assert texts_of(" ".join(words), 100) == [
        " ".join(words[:100]),
        " ".join(words[100:200]),
        " ".join(words[200:]),
    ]


def test_exactly_one_block_of_words_is_one_passage():
    assert len(texts_of("word " * 100, 100)) == 1
    assert len(texts_of("word " * 101, 100)) == 2


def test_sentence_windows_never_cut_a_sentence_that_fits():
    # 3 + 2 words fill a window of 5; the next sentence (4 words) opens another.
    text = "Dr. Smith came.  He sat.\nThen the rain began. It stopped."
    assert texts_of(text, 5, Chunking.SENTENCES) == [
        "Dr. Smith came.  He sat.",
        "Then the rain began.",
        "It stopped.",
    ]


def test_a_sentence_longer_than_the_window_is_cut_into_blocks_of_words():
    assert texts_of("a b c d e f g. Short one.", 3, Chunking.SENTENCES) == [
        "a b c",
        "d e f",
        "g. Short one.",
    ]


def test_a_sentence_end_within_a_word_cuts_nothing():
    assert texts_of("Why ??", 1, Chunking.SENTENCES) == ["Why", "??"]


@pytest.mark.parametrize("chunking", Chunking)
@pytest.mark.parametrize("text", ["", " \n\t "])
def test_white_space_gives_no_passage(chunking, text):
    assert list(chunk_document(document(text), chunking=chunking)) == []


def test_a_size_below_one_is_refused():
    with pytest.raises(ConfigError, match="the passage size is 0 words, expected at least 1"):
        chunk_document(document("text"), size=0)


def test_passage_ids_are_stable_and_tell_repeated_blocks_apart():
    first, second = chunk_document(document("same same"), size=1)
    # printf 's\n0\nsame' | sha1sum | cut -c1-16
    assert first.id == passage_id("s", 0, "same") == "05f65ac4424e496b"
    assert second.id != first.id


@pytest.mark.parametrize(
    ("size", "pages"),
    [
        (1, [(1, 1), (1, 1), (3, 3), (3, 3)]),
        (2, [(1, 1), (3, 3)]),
        (3, [(1, 3), (3, 3)]),
        (4, [(1, 3)]),
    ],
)
def test_a_passage_has_the_pages_on_which_it_begins_and_ends(size, pages):
    # Page 2 is blank; "c" stands at offset 6, where page 3 begins.
    paged = Document(title="T", text="a b \n\nc d", source="s", page_starts=(0, 5, 6))
    found = chunk_document(paged, size=size)
    assert [(passage.page, passage.last_page) for passage in found] == pages


def test_a_document_with_an_id_is_one_passage_whatever_the_size():
    row = Document(title="T", text=" a b c\n", source="s", id="7", metadata=(("year", "1843"),))
    assert list(chunk_document(row, size=1)) == [
        Passage(
            id="7",
            title="T",
            text=" a b c\n",
            source="s",
            start=0,
            end=7,
            metadata=(("year", "1843"),),
        )
    ]
    assert list(chunk_document(Document(title="T", text=" ", source="s", id="8"))) == []


def test_metadata_goes_with_every_passage():
    known = Document(title="T", text="a b", source="s", metadata=(("lang", "en"),))
    passages = chunk_document(known, size=1)
    assert [found.metadata for found in passages] == [(("lang", "en"),)] * 2


# Runs without spaces, and bounds in tokens


def test_chinese_is_cut_though_it_has_no_spaces():
    # Two characters count as a word, so six words are twelve characters.
    text = "\u65e5" * 50
    assert [len(found) for found in texts_of(text, 6)] == [12, 12, 12, 12, 2]
    assert texts_of("\u65e5" * 40, 6) == ["\u65e5" * 40]  # no longer than a word may be


def test_sentences_of_chinese_end_where_their_punctuation_does():
    first, second = "\u6c34" * 30 + "\u3002", "\u706b" * 30 + "\uff1f\u300d"
    assert texts_of(first + second + first, 20, Chunking.SENTENCES) == [first, second, first]


def test_thai_marks_stay_with_their_letters():
    text = "\u0e01\u0e34" * 60
    found = texts_of(text, 3)
    assert "".join(found) == text
    assert len(found) == 7  # three words of six characters a passage, of 120
    assert all(passage[0] == "\u0e01" for passage in found)


def test_a_run_without_spaces_is_no_single_word():
    text = "before " + "x" * 6000 + " after"
    found = texts_of(text, 100)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    assert max(map(len, found)) <= 606  # `before ` is a word, too


def letters(text: str) -> list[tuple[int, int]]:
    """A tokenizer that makes a token of every character that is no space."""
    return [(n, n + 1) for n, character in enumerate(text) if not character.isspace()]


def bounded(text: str, limit: int, title: str = "") -> list[str]:
    given = Document(title=title, text=text, source="s")
    return [found.text for found in chunk_document(given, tokens=TokenLimit(letters, limit))]


def test_passages_are_bounded_in_tokens_with_their_title():
    assert bounded("aaaa bbbb cccc", 12) == ["aaaa bbbb cccc"]
    # 12 tokens and a budget of 11 in two parts of six, cut at the space before.
    assert bounded("aaaa bbbb cccc", 12, title="T") == ["aaaa", "bbbb cccc"]
    assert bounded("a" * 30, 12) == ["a" * 10] * 3
    # Of a title that is longer than half of the limit the encoder reads no more than that half.
    assert bounded("aaaa bbbb", 8, title="T" * 99) == ["aaaa", "bbbb"]


@given(TEXTS, st.integers(1, 9), st.sampled_from(Chunking))
def test_no_passage_has_more_tokens_than_the_limit_and_no_character_is_lost(
    text: str, limit: int, chunking: Chunking
) -> None:
    tokens = TokenLimit(letters, limit)
    passages = list(chunk_document(document(text), chunking=chunking, tokens=tokens))
    # The title "T" takes one.
    assert all(len(letters(found.text)) <= max(limit - min(1, limit // 2), 1) for found in passages)
    assert "".join("".join(found.text.split()) for found in passages) == "".join(text.split())
    assert [text[found.start : found.end] for found in passages] == [
        found.text for found in passages
    ]


def test_long_text_is_cut_as_short_text_is():
    sentences = ["Dr. Smith came in at once.", "He sat down and said nothing!"]
    text = "  ".join(sentences) + "\n\n"
    # 116 KB; a window is full with one sentence of six words.
    assert texts_of(text * 2000, 6, Chunking.SENTENCES) == sentences * 2000
    assert (
        " ".join(texts_of("word " * 20_000, 100, Chunking.SENTENCES)) == ("word " * 20_000).strip()
    )


@settings(deadline=None)  # the first call loads Punkt
@given(TEXTS, st.integers(1, 7), st.sampled_from(Chunking))
def test_offsets_lead_back_to_the_document_and_no_word_is_lost(
    text: str, size: int, chunking: Chunking
) -> None:
    passages = list(chunk_document(document(text), chunking=chunking, size=size))
    assert [text[found.start : found.end] for found in passages] == [
        found.text for found in passages
    ]
    # Only runs of more than 40 characters are parted.
    assert "".join("".join(found.text.split()) for found in passages) == "".join(text.split())
    parted = [word for found in passages for word in found.text.split()]
    assert parted == text.split() or max(map(len, text.split())) > 40
    assert all(1 <= len(found.text.split()) <= size for found in passages)
    assert all(found.text == found.text.strip() for found in passages)


# Markdown


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Installation\n============\n\n```bash\n# install it first\n```\n", "Installation"),
        ("```\n# in a fence\n```\n# The Title\n", "The Title"),
        ("~~~~\n# in a fence\n~~~\n# still in it\n~~~~\n# The Title\n", "The Title"),
        ("````md\n```\n# inner\n```\n````\n# The Title", "The Title"),
        ("```\n# a fence that is never closed\n", ""),
        ("    # indented code\n\n# The Title\n", "The Title"),
        ("<!--\n# no title\n-->\n# The Title\n", "The Title"),
        ("---\ntitle: Leave rules\ntags: [a]\n---\n# Other\n", "Leave rules"),
        ("---\ntags: [a]\ntitle: \"Leave: 'rules'\"\n---\ntext\n", "Leave: 'rules'"),
        ("---\nTitle: >-\n  Leave rules\n---\n", "Leave rules"),
        ('+++\ntitle = "Leave rules"\n+++\n', "Leave rules"),
        ("---\n# a comment\nlang: en\n---\n# The Title\n", "The Title"),
        ("# **Bold** `code` [link](http://x) {#anchor}\n", "Bold code link"),
        ("# snake_case and 2 * 3 * 4\n", "snake_case and 2 * 3 * 4"),
        ("# C#\n", "C#"),
        ("# Done ##\n", "Done"),
        ('<h1 align="center"><img src="x"> The Title</h1>\n', "The Title"),
        ('<h1 align="center">\n  <img src="x">\n  The Title\n</h1>\n', "The Title"),
        ("## Second level\n#hash\n#\n", ""),
        ("| a |\n|===|\n", ""),
        ("text\n\n====\n", ""),
        ("First line\nSecond line\n=====\n", "Second line"),
    ],
)
def test_a_title_of_markdown_is_none_of_its_code(text, title):
    assert markdown_title(text) == title


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["`", "```\n", "<h1>", "<!--", "*a ", "[", " ", "---\n", "word\n"]
)
def test_no_text_makes_the_search_for_a_title_slow(piece):
    assert len(markdown_title("# " + piece * 60_000)) <= 300
    assert markdown_title(piece * 60_000 + "# late") == ""


def test_pictures_within_text_are_left_out(tmp_path):
    picture = "data:image/png;base64," + "iVBORw0KGgo" * 400
    text = (
        f"# Report\n\nThe budget is 5 million.\n\n![chart]({picture})\n\n"
        f'<img src="{picture}" alt="x">\n\n[1]: {picture}\n\nThe data: see above, all of it.\n'
    )
    path = write(tmp_path / "a.md", text)
    [read] = read_documents([path])
    assert read.text == (
        "# Report\n\nThe budget is 5 million.\n\n![chart]\n\n"
        '<img src="" alt="x">\n\n[1]: \n\nThe data: see above, all of it.\n'
    )
