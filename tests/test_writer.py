"""Changing an index: files put, replaced, resumed and taken out, while readers look on."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from selfrag.errors import BadInput, IndexMismatch
from selfrag.passage import Passage
from selfrag.retrieval import writer as writer_module
from selfrag.retrieval.build import build_folder, new_manifest, open_writer
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.store import PassageStore, metadata_condition
from selfrag.retrieval.table import connect, is_segmented, word_index
from selfrag.retrieval.verify import verify_index
from selfrag.retrieval.writer import FileChange, FileState, IndexWriter
from words import WordEncoder


def state(file: str, version: str = "1") -> FileState:
    return FileState(file=file, version=version, n_bytes=7, mtime_ns=9)


def passages(file: str, n: int, *, version: str = "1") -> list[Passage]:
    return [
        Passage(
            id=f"{file}-{version}-{number}",
            title=file,
            text=f"passage {number} in {file} version v{version}",
            source=file,
            page=number + 1,
            metadata=(("lang", "en" if number % 2 else "de"),),
        )
        for number in range(n)
    ]


def build(path: Path, **files: int) -> Path:
    def fill(writer: IndexWriter) -> None:
        for name, n in files.items():
            writer.put_file(state(name), passages(name, n))

    build_folder(path, WordEncoder(), new_manifest(WordEncoder().spec), fill)
    return path


def held(path: Path) -> list[str]:
    """The ids an index holds, in corpus order: every passage has the word `passage`."""
    store = PassageStore.open(path, WordEncoder())
    return sorted(
        hit.passage.id
        for hit in store.search(["passage"], 1000, options=SearchOptions(mode=SearchMode.WORDS))[0]
    )


def ids(*lists: list[Passage]) -> list[str]:
    return sorted(passage.id for each in lists for passage in each)


@pytest.fixture
def index(tmp_path):
    return build(tmp_path / "index", a=3, b=2)


def test_a_file_that_has_not_changed_is_not_read(index):
    def unread() -> Iterator[Passage]:
        raise AssertionError
        yield

    with open_writer(index, WordEncoder()) as writer:
        assert writer.put_file(state("a"), unread()) is FileChange.UNCHANGED
        assert writer.files == {"a": state("a"), "b": state("b")}


@pytest.mark.parametrize("at_once", [8192, 1])
@pytest.mark.parametrize("n_new", [0, 1, 5])
def test_a_changed_file_takes_the_place_of_its_old_passages(index, monkeypatch, at_once, n_new):
    monkeypatch.setattr(writer_module, "REPLACED_AT_ONCE", at_once)
    new = passages("a", n_new, version="2")
    with open_writer(index, WordEncoder()) as writer:
        assert writer.put_file(state("a", "2"), new) is FileChange.REPLACED
        assert writer.files["a"] == state("a", "2")
    assert held(index) == ids(new, passages("b", 2))
    with open_writer(index, WordEncoder()) as writer:
        assert not writer.unfinished_files()
        assert writer.put_file(state("a", "2"), new) is FileChange.UNCHANGED


def test_a_new_file_is_found_with_the_old_ones(index):
    with open_writer(index, WordEncoder()) as writer:
        assert writer.put_file(state("c"), passages("c", 4)) is FileChange.ADDED
    assert held(index) == ids(passages("a", 3), passages("b", 2), passages("c", 4))


def test_files_and_passages_are_taken_out(index):
    with open_writer(index, WordEncoder()) as writer:
        assert writer.delete_files(["a", "never there"]) == 3
        assert writer.delete("id = 'b-1-0'") == 1
        assert set(writer.files) == {"b"}
    assert held(index) == ["b-1-1"]


def test_a_file_name_with_a_quote_is_no_condition(tmp_path):
    name = "o'b' OR true --"
    path = build(tmp_path / "index", a=1)
    with open_writer(path, WordEncoder()) as writer:
        writer.put_file(state(name), passages(name, 1))
        writer.put_file(state(name, "2"), passages(name, 2, version="2"))
        assert writer.delete_files([name]) == 2
    assert held(path) == ["a-1-0"]


def test_files_whose_rows_carry_the_same_ids_leave_each_other_alone(index):
    def rows(file: str, text: str) -> list[Passage]:
        return [
            Passage(id=str(n), title="", text=f"passage {text} {n}", source=file) for n in (1, 2)
        ]

    with open_writer(index, WordEncoder()) as writer:
        writer.put_file(state("x.csv"), rows("x.csv", "apple"))
        writer.put_file(state("y.csv"), rows("y.csv", "pear"))
        writer.put_file(state("y.csv", "2"), rows("y.csv", "plum"))
    store = PassageStore.open(index, WordEncoder())
    assert len(SearchMode) > 1
    for mode in SearchMode:
        (hits,) = store.search(
            ["passage"], 20, options=SearchOptions(mode=mode, where="file IN ('x.csv', 'y.csv')")
        )
        texts = sorted(hit.passage.text for hit in hits)
        assert texts == ["passage apple 1", "passage apple 2", "passage plum 1", "passage plum 2"]


def test_a_file_whose_reading_failed_goes_on_in_the_same_session(index):
    def failing() -> Iterator[Passage]:
        yield from passages("c", 2)
        raise ZeroDivisionError

    with open_writer(index, WordEncoder()) as writer:
        with pytest.raises(ZeroDivisionError):
            writer.put_file(state("c"), failing())
        assert writer.unfinished_files() == {"c"}
        writer.put_file(state("c"), passages("c", 4))
        assert not writer.unfinished_files()
    assert held(index) == ids(passages("a", 3), passages("b", 2), passages("c", 4))


def test_a_passage_without_a_file_is_replaced_by_its_id(index):
    old, new = Passage(id="x", title="", text="passage old"), Passage(id="x", title="", text="new")
    with open_writer(index, WordEncoder()) as writer:
        assert writer.put([old, old]) == 1
        assert writer.put([new]) == 1
        assert writer.n_passages == 6
    assert "x" not in held(index)


def test_what_a_reader_finds_can_be_filtered(index):
    store = PassageStore.open(index, WordEncoder())
    assert len(SearchMode) > 1
    for mode in SearchMode:
        (found,) = store.search(
            ["passage"], 9, options=SearchOptions(mode=mode, where="page > 1 AND title = 'a'")
        )
        assert sorted(hit.passage.id for hit in found) == ["a-1-1", "a-1-2"]
        (found,) = store.search(
            ["passage"],
            9,
            options=SearchOptions(mode=mode, where=metadata_condition({"lang": "en"})),
        )
        assert {hit.passage.metadata for hit in found} == {(("lang", "en"),)}


def test_an_open_reader_sees_what_is_written_and_never_half_a_file(index, monkeypatch):
    monkeypatch.setattr("selfrag.retrieval.table._FRESH", writer_module.timedelta(0))
    store = PassageStore.open(index, WordEncoder())
    with open_writer(index, WordEncoder()) as writer:
        for version in map(str, range(2, 8)):
            writer.put_file(state("a", version), passages("a", 3, version=version))
            (hits,) = store.search(
                ["passage"], 99, options=SearchOptions(mode=SearchMode.DENSE, where="title = 'a'")
            )
            assert ids(passages("a", 3, version=version)) == sorted(h.passage.id for h in hits)


def test_compaction_keeps_every_passage(index):
    for number in range(3):
        with open_writer(index, WordEncoder()) as writer:
            writer.put_file(state(f"c{number}"), passages(f"c{number}", 2))
    before = held(index)
    n_files = len(list((index / "passages.lance" / "data").iterdir()))
    with open_writer(index, WordEncoder()) as writer:
        writer.compact(keep=writer_module.timedelta(milliseconds=1))
    assert held(index) == before
    assert len(list((index / "passages.lance" / "data").iterdir())) < n_files


def test_only_one_writes_at_a_time_and_a_reader_does_not_mind(index):
    with open_writer(index, WordEncoder()):
        with pytest.raises(BadInput, match="another process is writing it"):
            open_writer(index, WordEncoder()).__enter__()
        assert len(held(index)) == 5
    with open_writer(index, WordEncoder()):
        pass


def test_another_encoder_cannot_write(index):
    with pytest.raises(IndexMismatch, match="name 'words' against 'other'"):
        open_writer(index, WordEncoder(name="other")).__enter__()


class Recording(WordEncoder):
    """Remembers the texts that it was given."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        return super().encode(texts)


@pytest.mark.parametrize("at_once", [8192, 1])
def test_of_a_changed_file_only_new_passages_are_encoded(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(writer_module, "REPLACED_AT_ONCE", at_once)
    monkeypatch.setattr(writer_module, "BATCH_SIZE", 4)
    path = build(tmp_path / "index", a=30, b=2)
    old = passages("a", 30)
    new = replace(old[7], text="another passage")
    encoder = Recording()
    with open_writer(path, encoder) as writer:
        # One row changed, one gone, one new, one moved, and ids that are others.
        rows = [*old[:7], new, *old[9:20], old[3], replace(new, id="x"), *old[20:]]
        rows = [replace(row, id=f"new-{n}") for n, row in enumerate(rows)]
        writer.put_file(state("a", "2"), iter(rows))
        writer.put_file(state("c"), passages("c", 1))
    # The passage that is new twice is new both times.
    assert encoder.texts == ["a. another passage"] * 2 + ["c. passage 0 in c version v1"]
    assert ids(rows, passages("b", 2), passages("c", 1)) == held(path)
    store = PassageStore.open(path, WordEncoder())
    for row in rows:
        (hit,) = store.search(
            [f"a. {row.text}"],
            1,
            options=SearchOptions(mode=SearchMode.DENSE, where=f"id = '{row.id}'"),
        )[0]
        assert hit.score == pytest.approx(1.0)


def test_old_vectors_are_looked_up_in_a_window_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "REPLACED_AT_ONCE", 1)
    monkeypatch.setattr(writer_module, "BATCH_SIZE", 4)
    monkeypatch.setattr(writer_module, "_WINDOW_ROWS", 8)
    path = build(tmp_path / "index", a=60)
    old = passages("a", 60)
    rows = [*old[6:], *old[:6]]  # six of them far from where they were
    encoder = Recording()
    with open_writer(path, encoder) as writer:
        writer.put_file(state("a", "2"), iter(rows))
    assert encoder.texts == [f"a. {passage.text}" for passage in old[:6]]
    assert held(path) == ids(rows)


# Languages that do not part their words

UNSPACED = {
    "zh": "北京是中华人民共和国的首都。",
    "ja": "富士山は日本で一番高い山です。",
    "th": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
}
ASKED = {"zh": "首都是哪里", "ja": "一番高い山は何ですか", "th": "เมืองหลวง"}


def found_by_words(path: Path, query: str) -> list[str]:
    store = PassageStore.open(path, WordEncoder())
    (hits,) = store.search([query], 1, options=SearchOptions(mode=SearchMode.WORDS))
    return [hit.passage.id for hit in hits]


def in_language(name: str) -> Passage:
    return Passage(id=name, title="", text=UNSPACED[name])


@pytest.mark.parametrize("name", UNSPACED)
def test_chinese_japanese_and_thai_are_found_by_words_beside_english(tmp_path, name):
    def fill(writer: IndexWriter) -> None:
        writer.put_file(state("a"), passages("a", 20))
        writer.put_file(state(name), [in_language(name)])

    path = tmp_path / "index"
    build_folder(path, WordEncoder(), new_manifest(WordEncoder().spec), fill)
    assert found_by_words(path, ASKED[name]) == [name]
    assert found_by_words(path, "the versions of passages: 17") == ["a-1-17"]


def test_an_english_index_learns_to_part_words_when_it_has_to(index):
    with open_writer(index, WordEncoder()) as writer:
        # A few characters in another script are no reason.
        mixed = Passage(id="mixed", title="", text="The Wenchuan (汶川) earthquake struck in 2008.")
        writer.put_file(state("mixed"), [mixed])
        writer.index()
        assert not is_segmented(word_index(writer._passages))
        writer.put_file(state("zh"), [in_language("zh")])
    assert found_by_words(index, ASKED["zh"]) == ["zh"]
    with open_writer(index, WordEncoder()) as writer:
        writer.put_file(state("th"), [in_language("th")])
    assert found_by_words(index, ASKED["th"]) == ["th"]
    assert found_by_words(index, "Wenchuan earthquakes") == ["mixed"]


def test_what_a_broken_off_build_had_put_decides_too(tmp_path):
    path = tmp_path / "index"

    def failing(writer: IndexWriter) -> None:
        writer.put_file(state("ja"), [in_language("ja")])
        writer.flush()
        raise ZeroDivisionError

    def rest(writer: IndexWriter) -> None:
        assert writer.put_file(state("ja"), iter(())) is FileChange.UNCHANGED
        writer.put_file(state("a"), passages("a", 2))

    with pytest.raises(ZeroDivisionError):
        build_folder(path, WordEncoder(), new_manifest(WordEncoder().spec), failing)
    build_folder(path, WordEncoder(), new_manifest(WordEncoder().spec), rest)
    assert found_by_words(path, ASKED["ja"]) == ["ja"]


# Pages


def test_the_last_page_of_a_passage_is_kept_and_can_be_asked_for(tmp_path):
    path = build(tmp_path / "index", a=3)
    spread = replace(passages("b", 1)[0], page=4, last_page=6)
    with open_writer(path, WordEncoder()) as writer:
        writer.put_file(state("b"), [spread])
    store = PassageStore.open(path, WordEncoder())
    (hits,) = store.search(["passage"], 9, options=SearchOptions(where="last_page >= 5"))
    assert [hit.passage for hit in hits] == [spread]


def test_an_index_from_before_there_was_a_last_page_is_read_and_written(tmp_path):
    path = build(tmp_path / "index", a=1)
    table = connect(path).open_table("passages")
    table.update(values={"facts": '["a-1-0", "a", "a", 0, 0, 3]', "page": 3})
    table.drop_columns(["last_page"])
    (hit,) = PassageStore.open(path, WordEncoder()).search(["passage"], 1)[0]
    assert (hit.passage.page, hit.passage.last_page) == (3, 3)
    assert all(check.ok for check in verify_index(path))
    with open_writer(path, WordEncoder()) as writer:
        writer.put_file(state("b"), passages("b", 1))
    assert len(held(path)) == 2
    assert all(check.ok for check in verify_index(path))
    options = SearchOptions(where="last_page = 3")
    (hits,) = PassageStore.open(path, WordEncoder()).search(["passage"], 9, options=options)
    assert [hit.passage.id for hit in hits] == ["a-1-0"]


# Broken off


def _build_until_killed(path: Path, n_before_kill: int) -> None:
    writer_module.BATCH_SIZE, writer_module._ROWS_A_COMMIT = 2, 4

    def dying() -> Iterator[Passage]:
        yield from islice(passages("b", 20), n_before_kill)
        os.kill(os.getpid(), signal.SIGKILL)

    def fill(writer: IndexWriter) -> None:
        writer.put_file(state("a"), passages("a", 3))
        writer.put_file(state("b"), dying())

    build_folder(path, WordEncoder(), new_manifest(WordEncoder().spec), fill)


@pytest.mark.parametrize("n_before_kill", [0, 5, 18])
def test_a_killed_build_goes_on_where_it_stopped(tmp_path, n_before_kill):
    path = tmp_path / "index"
    process = multiprocessing.get_context("spawn").Process(
        target=_build_until_killed, args=(path, n_before_kill)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()
    encoder, started_with = WordEncoder(), []

    def fill(writer: IndexWriter) -> None:
        started_with.append(writer.n_passages)
        for name, n in (("a", 3), ("b", 20)):
            writer.put_file(state(name), passages(name, n))

    done: list[int] = []
    build_folder(path, encoder, new_manifest(encoder.spec), fill, on_progress=done.append)
    assert held(path) == ids(passages("a", 3), passages("b", 20))
    # Batches of 2 and commits of 4: at most 5 passages that were put are not yet sure.
    assert started_with[0] >= (3 + n_before_kill) - 5
    assert done[-1] == 23 - started_with[0]
    assert [each.name for each in tmp_path.iterdir()] == ["index"]


def test_a_build_keeps_no_rows_that_merging_replaced(tmp_path):
    def fill(writer: IndexWriter) -> None:
        for number in range(3):
            writer.put_file(state(str(number)), passages(str(number), 2))
            writer.flush()

    encoder = WordEncoder()
    build_folder(tmp_path / "index", encoder, new_manifest(encoder.spec), fill)
    assert len(list((tmp_path / "index" / "passages.lance" / "data").iterdir())) == 1


def test_a_build_with_other_settings_begins_anew(tmp_path):
    path = tmp_path / "index"

    def failing(writer: IndexWriter) -> None:
        writer.put_file(state("a"), passages("a", 3))
        writer.flush()
        raise ZeroDivisionError

    seen = []
    for chunking in ("words", "words", "sentences"):
        manifest = new_manifest(WordEncoder().spec, chunking=chunking)
        with pytest.raises(ZeroDivisionError):
            build_folder(
                path, WordEncoder(), manifest, lambda w: (seen.append(w.n_passages), failing(w))
            )
    assert seen == [0, 3, 0]


def test_a_file_that_changed_after_a_crash_leaves_nothing_of_its_first_half(index):
    with pytest.raises(ZeroDivisionError), open_writer(index, WordEncoder()) as writer:
        writer._push(passages("c", 3), ("c", "1"))
        writer.flush()
        raise ZeroDivisionError
    with open_writer(index, WordEncoder()) as writer:
        assert writer.unfinished_files() == {"c"}
        writer.put_file(state("c", "2"), passages("c", 2, version="2"))
    assert held(index) == ids(passages("a", 3), passages("b", 2), passages("c", 2, version="2"))


def test_an_old_index_put_aside_by_a_crash_comes_back(index):
    index.rename(index.parent / ".index.old")
    with pytest.raises(ZeroDivisionError):
        build_folder(index, WordEncoder(), new_manifest(WordEncoder().spec), lambda writer: 1 / 0)
    assert held(index) == ids(passages("a", 3), passages("b", 2))
    assert [each.name for each in index.parent.iterdir()] == ["index"]
