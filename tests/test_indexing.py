"""Indexing from Python: no terminal, no printing; files and pages in, an index out."""

import subprocess
import sys
from datetime import timedelta

import pytest

from selfrag import indexing
from selfrag.errors import BadInput
from selfrag.indexing import BuildOptions, Outcome
from selfrag.passage import Document
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
