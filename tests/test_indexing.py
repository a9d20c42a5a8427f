"""Indexing from Python: no terminal, no printing; files and pages in, an index out."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from selfrag import indexing
from selfrag.errors import BadInput
from selfrag.indexing import BuildOptions, Outcome
from selfrag.ingest.files import find_files
from selfrag.passage import Document
from selfrag.retrieval.manifest import Manifest
from selfrag.retrieval.store import PassageStore
from words import WordEncoder


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "saturn.md").write_text("# Saturn\n\nTitan is a moon of Saturn.\n")
    (folder / "mona.txt").write_text("The Mona Lisa hangs in the Louvre.\n")
    return folder


@pytest.fixture
def index(docs, tmp_path):
    indexing.build([docs], tmp_path / "index", WordEncoder())
    return tmp_path / "index"


def best(index, query):
    return PassageStore.open(index, WordEncoder()).search([query], 1)[0][0].passage.text.strip()


def test_a_folder_is_indexed_searched_updated_and_deleted_from(docs, tmp_path, capsys):
    index = tmp_path / "index"
    built = indexing.build([docs], index, WordEncoder())
    assert (built.outcomes, built.n_passages) == ({Outcome.ADDED: 2}, 2)
    assert best(index, "louvre") == "The Mona Lisa hangs in the Louvre."

    (docs / "mona.txt").write_text("The Night Watch hangs in Amsterdam.\n")
    updated = indexing.update(index, encoder=WordEncoder())
    assert updated.outcomes == {Outcome.REPLACED: 1, Outcome.UNCHANGED: 1}
    assert best(index, "hangs in the louvre") == "The Night Watch hangs in Amsterdam."

    assert indexing.delete(index, WordEncoder(), files=[docs / "mona.txt"]) == (1, 1)
    indexing.compact(index, WordEncoder(), keep=timedelta(0))
    assert len(list((index / "passages.lance" / "_versions").glob("*.manifest"))) == 1
    assert best(index, "night watch") == "# Saturn\n\nTitan is a moon of Saturn."
    assert capsys.readouterr() == ("", "")


def test_a_page_is_added_where_that_is_allowed(index, monkeypatch):
    page = Document(title="Page", text="Pelicans have pouches.", source="https://example.org/a")
    monkeypatch.setattr("selfrag.ingest.web.fetch.fetch_document", lambda url: page)
    with pytest.raises(BadInput, match="not fetched unless you say so"):
        indexing.add(index, [page.source], WordEncoder())
    added = indexing.add(index, [page.source], WordEncoder(), allow_urls=True)
    assert (added.outcomes, added.n_passages) == ({Outcome.ADDED: 1}, 3)
    assert best(index, "pelicans") == "Pelicans have pouches."


def test_what_cannot_be_read_is_told_and_the_rest_is_indexed(docs, tmp_path):
    (docs / "bad.txt").write_bytes(b"\x00\x01")
    faults = []
    built = indexing.build([docs], tmp_path / "index", WordEncoder(), on_skip=faults.append)
    assert built.outcomes == {Outcome.ADDED: 2, Outcome.SKIPPED: 1}
    assert [fault.path.name for fault in faults] == ["bad.txt"]


def test_an_encoder_is_opened_only_once_there_is_something_to_read(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        indexing.build([tmp_path / "nothing"], tmp_path / "index", lambda: pytest.fail("opened"))


def test_options_of_a_build_are_checked():
    with pytest.raises(BadInput, match="--size is 0"):
        BuildOptions(size=0)


def test_neither_typer_nor_rich_nor_torch_is_imported():
    code = (
        "import sys, selfrag.indexing\n"
        "sys.exit(' '.join({'typer', 'rich', 'torch', 'lancedb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# What has changed since


def held(index):
    return sorted(hit.passage.text.strip() for hit in all_hits(index))


def all_hits(index):
    return PassageStore.open(index, WordEncoder()).search(["a"], 99)[0]


def updated(index):
    faults = []
    changes = indexing.update(index, encoder=WordEncoder(), on_skip=faults.append)
    return dict(changes.outcomes), [f"{fault.path.name}: {fault.reason}" for fault in faults]


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_a_file_that_was_emptied_has_no_passages_any_more(docs, index, content):
    (docs / "mona.txt").write_text(content)
    outcomes, _ = updated(index)
    assert outcomes == {Outcome.UNCHANGED: 1, Outcome.DELETED: 1, Outcome.SKIPPED: 1}
    assert held(index) == ["# Saturn\n\nTitan is a moon of Saturn."]
    (docs / "mona.txt").write_text("Back.")
    assert updated(index)[0] == {Outcome.UNCHANGED: 1, Outcome.ADDED: 1}


def test_a_table_whose_rows_are_gone_has_no_passages_any_more(docs, index):
    (docs / "rows.csv").write_text("id,text\n1,alpha\n")
    updated(index)
    assert "alpha" in held(index)
    (docs / "rows.csv").write_text("id,text\n")
    updated(index)
    assert "alpha" not in held(index)


def test_a_file_that_can_no_longer_be_read_keeps_its_passages(docs, index):
    (docs / "mona.txt").write_bytes(b"\x00\x01")
    assert updated(index)[0] == {Outcome.UNCHANGED: 1, Outcome.SKIPPED: 1}
    assert "The Mona Lisa hangs in the Louvre." in held(index)


def test_files_in_a_folder_that_cannot_be_looked_into_keep_their_passages(docs, index, monkeypatch):
    shut = docs / "shut"
    shut.mkdir()
    (shut / "heron.txt").write_text("Herons eat fish.")
    updated(index)
    stat, scandir = Path.stat, os.scandir

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    # As for any user but root, who may run these tests.
    monkeypatch.setattr(
        Path, "stat", lambda p, **k: refused(p) if shut in p.parents else stat(p, **k)
    )
    monkeypatch.setattr(os, "scandir", lambda p: refused(p) if Path(p) == shut else scandir(p))
    outcomes, faults = updated(index)
    assert outcomes == {Outcome.UNCHANGED: 2, Outcome.SKIPPED: 1}
    assert faults == ["shut: cannot be read: Permission denied"]
    assert "Herons eat fish." in held(index)


def test_a_pattern_whose_last_file_went_stops_nothing(tmp_path):
    notes, other = tmp_path / "notes", tmp_path / "other"
    notes.mkdir()
    other.mkdir()
    (notes / "a.md").write_text("alpha")
    (other / "b.md").write_text("beta")
    index = tmp_path / "index"
    indexing.build([notes / "*.md", other / "*.md"], index, WordEncoder())
    (notes / "a.md").unlink()
    (other / "c.md").write_text("gamma")
    assert updated(index)[0] == {Outcome.UNCHANGED: 1, Outcome.ADDED: 1, Outcome.DELETED: 1}
    assert held(index) == ["beta", "gamma"]


def test_a_folder_that_looks_like_a_pattern_is_a_folder(tmp_path, monkeypatch):
    notes = tmp_path / "my [notes]*"
    notes.mkdir()
    (notes / "a.md").write_text("alpha")
    (notes / "b.txt").write_text("beta")
    monkeypatch.chdir(notes)
    indexing.build(["*.md"], tmp_path / "index", WordEncoder())
    indexing.build(["."], tmp_path / "all", WordEncoder())
    monkeypatch.chdir(tmp_path)
    (notes / "c.md").write_text("gamma")
    (notes / "a.md").unlink()
    for index, expected in (("index", ["gamma"]), ("all", ["beta", "gamma"])):
        assert updated(tmp_path / index)[1] == []
        assert held(tmp_path / index) == expected
    notes.rename(tmp_path / "elsewhere")
    changes = indexing.update(tmp_path / "all", encoder=WordEncoder())
    assert changes.missing == [str(notes)]
    assert held(tmp_path / "all") == ["beta", "gamma"]
    indexing.delete(tmp_path / "all", WordEncoder(), files=[notes])
    assert Manifest.load(tmp_path / "all").roots == ()


@pytest.mark.parametrize("root", [".", "**/*", "*"])
def test_an_index_below_its_own_root_does_not_hold_itself(docs, monkeypatch, root):
    monkeypatch.chdir(docs)
    for _ in range(2):  # the second build meets the first index
        built = indexing.build([root], "index", WordEncoder())
        assert built.n_passages == 2
    # Of any format that is read now or later: the manifest is JSON.
    assert [file.path.name for file in find_files([root]).files] == ["mona.txt", "saturn.md"]
    assert [str(fault) for fault in find_files([root]).skipped] == []
    assert updated("index") == ({Outcome.UNCHANGED: 2}, [])


def test_a_name_that_is_not_utf_8_is_told_and_the_rest_is_indexed(docs, tmp_path):
    try:
        Path(os.fsdecode(bytes(docs) + b"/caf\xe9.txt")).write_text("coffee")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    faults = []
    built = indexing.build([docs], tmp_path / "index", WordEncoder(), on_skip=faults.append)
    assert built.outcomes == {Outcome.ADDED: 2, Outcome.SKIPPED: 1}
    assert [fault.reason for fault in faults] == [
        "its name is not UTF-8, as an index wants; rename it"
    ]


class Told:
    """Who is told how far a build is, and keeps it."""

    def __init__(self):
        self.lines, self.shares = [], []

    def say(self, message):
        self.lines.append(message)

    def progress(self, label, done, total):
        self.shares.append((label, done, total))

    def close(self):
        pass


def test_the_reading_of_one_large_file_is_told_within_it(tmp_path):
    (tmp_path / "long.txt").write_text("aa " * 4000)  # 12,000 bytes, 400 passages of 10 words
    told = Told()
    indexing.build(
        [tmp_path / "long.txt"],
        tmp_path / "index",
        WordEncoder(),
        options=BuildOptions(size=10),
        progress=told,
    )
    # Every 100 passages of 30 bytes, less the space behind the last word.
    shares = [("bytes read", done, 12000) for done in (0, 2999, 5999, 8999, 11999)]
    assert [share for share in told.shares if share[2]] == shares
    around = [label for label, _, total in told.shares if not total]
    assert around == ["looking for files", "opening the encoder", "making the search indexes"]
    assert told.lines == []


def test_the_reading_of_rows_is_told_by_their_characters_behind_the_files_before(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    rows = "".join(f'{{"text": "row {n:03}"}}\n' for n in range(250))  # 20 bytes a row, 7 of text
    (tmp_path / "b.jsonl").write_text(rows)
    told = Told()
    indexing.build([tmp_path], tmp_path / "index", WordEncoder(), progress=told)
    shares = [(done, total) for _, done, total in told.shares if total]
    assert shares == [(done, 5 + 5000) for done in (0, 5, 5 + 700, 5 + 1400)]
