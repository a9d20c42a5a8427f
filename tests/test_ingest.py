"""Documents from files, and passages from documents."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrag.errors import BadInput, ConfigError
from selfrag.ingest.chunking import Chunking, chunk_document, passage_id
from selfrag.ingest.readers import read_documents, read_wiki_leads
from selfrag.passage import Document

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


def test_json_lines_take_text_or_contents_and_any_source(tmp_path):
    rows = [
        {"title": "A", "text": "one"},
        {"contents": '"B"\ntwo\nlines', "url": "http://b"},
        {"title": "C", "contents": "three\nlines", "source": "book"},
        {"contents": "no title"},
    ]
    path = write(tmp_path / "rows.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert list(read_documents([path])) == [
        Document(title="A", text="one", source=f"{path}:1"),
        Document(title="B", text="two\nlines", source="http://b"),
        Document(title="C", text="three\nlines", source="book"),
        Document(title="", text="no title", source=f"{path}:7"),
    ]


@pytest.mark.parametrize(
    "line",
    [b"{", b"[1]", b"3", b'{"title": "x"}', b'{"text": 3}', b'{"text": "\xff"}', b"[" * 100_000],
)
def test_a_broken_json_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(BadInput, match=r"rows.jsonl: line 2 is not a document .* drop the line"):
        list(read_documents([path]))


def test_lone_surrogates_of_json_are_replaced(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"text": "a\\ud800b \\ud83d\\ude42"}')
    assert next(read_documents([path])).text == "a\ufffdb \U0001f642"


def test_a_folder_is_read_deeply_in_order_without_hidden_and_unsupported_files(tmp_path, caplog):
    for name in ["b.txt", "a/z.md", "a/.git/c.txt", ".hidden.txt", "photo.png", "deep/er/X.TXT"]:
        write(tmp_path / name, "text")
    with caplog.at_level(logging.WARNING):
        titles = [found.title for found in read_documents([tmp_path])]
    assert titles == ["z", "b", "X"]
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped 1 of 4 files in {tmp_path}: not .txt, .md, .jsonl"
    ]


def test_empty_files_are_skipped_with_a_warning(tmp_path, caplog):
    empty, full = write(tmp_path / "empty.txt", " \n"), write(tmp_path / "full.txt", "x")
    with caplog.at_level(logging.WARNING):
        assert [found.title for found in read_documents([empty, full])] == ["full"]
    assert "skipped 1 documents without text" in caplog.text


@pytest.mark.parametrize("name", ["missing.txt", "missing"])
def test_a_missing_path_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match=r"no such file or folder; expected \.txt, \.md, \.jsonl"):
        list(read_documents([tmp_path / name]))


def test_a_named_unsupported_file_is_refused_before_anything_is_read(tmp_path):
    fine, photo = write(tmp_path / "a.txt", "x"), write(tmp_path / "photo.png", "x")
    with pytest.raises(BadInput, match=r"found a '\.png' file, expected .*; convert it first"):
        next(read_documents([fine, photo]))


def test_a_folder_with_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(BadInput, match="found 0 files but none to read"):
        list(read_documents([tmp_path]))


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(BadInput, match="byte 3 is not UTF-8, expected UTF-8 text; convert"):
        list(read_documents([path]))


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
    assert chunk_document(document(text), chunking=chunking) == []


def test_a_size_below_one_is_refused():
    with pytest.raises(ConfigError, match="the passage size is 0 words, expected at least 1"):
        chunk_document(document("text"), size=0)


def test_passage_ids_are_stable_and_tell_repeated_blocks_apart():
    first, second = chunk_document(document("same same"), size=1)
    # printf 's\n0\nsame' | sha1sum | cut -c1-16
    assert first.id == passage_id("s", 0, "same") == "05f65ac4424e496b"
    assert second.id != first.id


@settings(deadline=None)  # the first call loads Punkt
@given(TEXTS, st.integers(1, 7), st.sampled_from(Chunking))
def test_offsets_lead_back_to_the_document_and_no_word_is_lost(
    text: str, size: int, chunking: Chunking
) -> None:
    passages = chunk_document(document(text), chunking=chunking, size=size)
    assert [text[found.start : found.end] for found in passages] == [
        found.text for found in passages
    ]
    assert [word for found in passages for word in found.text.split()] == text.split()
    assert all(1 <= len(found.text.split()) <= size for found in passages)
    assert all(found.text == found.text.strip() for found in passages)
