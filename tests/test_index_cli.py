"""`selfrag index` on folders of files: what is put, kept, replaced, taken out, and told."""

import json
import sys

import pytest

from selfrag import indexing
from selfrag.cli import app
from selfrag.open import indexes
from selfrag.passage import Document
from selfrag.retrieval.manifest import IndexKind, Manifest
from words import WordEncoder


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["selfrag", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        assert "Traceback" not in err
        return out, err

    encoder = WordEncoder()
    monkeypatch.setattr(indexes, "load_passage_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr(indexes, "encoder_of", lambda *_: encoder)
    return run


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "saturn.md").write_text("# Saturn\n\nTitan is a moon of Saturn.\n")
    (folder / "mona.txt").write_text("The Mona Lisa hangs in the Louvre.\n")
    (folder / "rows.csv").write_text("id,title,text\n1,A,alpha\n2,B,beta\n")
    (folder / "sub" / "heron.txt").write_text("Herons eat fish.\n")
    return folder


@pytest.fixture
def index(docs, run, tmp_path):
    run("index", "build", docs, "--out", tmp_path / "index")
    return tmp_path / "index"


def held(run, index):
    facts = json.loads(run("index", "info", index, "--files", "--json")[0])
    return facts["n_passages"], [name.rpartition("docs/")[2] for name in facts["files"]]


def outcomes(out):
    told = json.loads(out)
    return {name: n for name, n in told.items() if isinstance(n, int) and n and name != "passages"}


def texts(run, query, index):
    found = json.loads(run("search", query, "--index", index, "--top-k", "9", "--json")[0])
    return [hit["text"].strip() for hit in found["hits"]]


def test_a_folder_becomes_an_index_of_its_files_with_their_passages(run, index):
    # Three files of one passage, and two rows that are passages as they are.
    assert held(run, index) == (5, ["mona.txt", "rows.csv", "saturn.md", "sub/heron.txt"])
    assert texts(run, "herons", index)[0] == "Herons eat fish."


def test_an_update_reads_what_changed_and_takes_out_what_is_gone(run, index, docs):
    (docs / "mona.txt").unlink()
    (docs / "new.txt").write_text("Leonardo painted.\n")
    (docs / "saturn.md").write_text("# Saturn\n\nRings.\n")
    out, _ = run("index", "update", index, "--json")
    assert outcomes(out) == {"added": 1, "replaced": 1, "unchanged": 2, "deleted": 1}
    assert held(run, index) == (5, ["new.txt", "rows.csv", "saturn.md", "sub/heron.txt"])
    found = texts(run, "titan moon louvre leonardo rings", index)
    assert "Leonardo painted." in found
    assert not any("Titan" in text or "Louvre" in text for text in found)
    out, _ = run("index", "update", index, "--json")
    assert outcomes(out) == {"unchanged": 4}


def test_a_file_touched_but_not_changed_is_left_alone(run, index, docs):
    text = (docs / "mona.txt").read_text()
    (docs / "mona.txt").write_text(text)
    assert outcomes(run("index", "update", index, "--json")[0]) == {"unchanged": 4}


def test_added_files_are_updated_later_as_those_of_the_build(run, index, tmp_path):
    extra = tmp_path / "extra.txt"
    extra.write_text("Quartz is a mineral.\n")
    assert "1 added" in run("index", "add", index, extra)[0]
    extra.write_text("Basalt is a rock.\n")
    assert outcomes(run("index", "update", index, "--json")[0]) == {"replaced": 1, "unchanged": 4}
    assert texts(run, "quartz basalt", index)[0] == "Basalt is a rock."


def test_a_folder_is_deleted_with_all_its_files_and_does_not_come_back(run, index, docs):
    out, _ = run("index", "delete", index, "--file", docs)
    assert "deleted 5 passages" in out
    _, err = run("index", "update", index, code=2)
    assert "it was not built of files" in err


def test_an_index_that_was_emptied_says_so_and_can_be_filled_again(run, index, docs, tmp_path):
    for path in [*docs.glob("*.*"), *docs.glob("sub/*")]:
        path.unlink()
    out, _ = run("index", "update", index, "--json")
    assert outcomes(out) == {"deleted": 4}
    assert held(run, index) == (0, [])
    _, err = run("search", "herons", "--index", index, code=2)
    assert "0 passages" in err
    (docs / "new.txt").write_text("Quartz is a mineral.")
    assert outcomes(run("index", "update", index, "--json")[0]) == {"added": 1}
    assert texts(run, "quartz", index) == ["Quartz is a mineral."]


def test_a_file_that_is_not_held_is_named(run, index):
    _, err = run("index", "delete", index, "--file", "nope.txt", code=2)
    assert "holds no file" in err
    assert held(run, index)[0] == 5


def test_passages_are_deleted_by_id_and_by_condition(run, index):
    assert "deleted 1 passage from" in run("index", "delete", index, "--id", "2")[0]
    assert "deleted 1 passage from" in run("index", "delete", index, "--where", "title = 'mona'")[0]
    assert held(run, index)[0] == 3


def test_a_root_that_is_gone_keeps_its_passages_and_the_way_to_be_rid_of_them_is_said(
    run, index, docs, tmp_path
):
    docs.rename(tmp_path / "elsewhere")
    _, err = run("index", "update", index)
    assert f"{docs} is gone" in err
    assert f"--file {docs}" in err
    assert held(run, index)[0] == 5


def test_broken_files_are_told_one_line_each_and_the_rest_is_indexed(run, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "good.txt").write_text("Good.")
    (docs / "bad.txt").write_bytes(b"\x00\x01\x02")
    (docs / "empty.txt").touch()
    (docs / "rows.jsonl").write_text('{"text": "a row"}\nnot json\n')
    (docs / "odd.xyz").write_text("?")
    out, err = run("index", "build", docs, "--out", tmp_path / "index")
    assert "holds 2 passages; files: 2 added, 3 skipped" in out
    told = {
        line.split(": ")[0].rpartition("/")[2]: line
        for line in err.splitlines()
        if docs.name in line
    }
    assert sorted(told) == ["bad.txt", "empty.txt", "odd.xyz", "rows.jsonl:2"]
    assert "a .xyz file, which is not read" in told["odd.xyz"]


def test_files_that_share_a_fault_are_summed_unless_all_are_wanted(run, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "good.txt").write_text("Good.")
    (docs / "bad.txt").write_bytes(b"\x00\x01\x02")
    for n in range(9):
        (docs / f"{n}.png").write_bytes(b"\x89PNG")
    command = ["index", "build", docs, "--out", tmp_path / "index"]
    lines = run(*command)[1].splitlines()
    assert f"skipped 9 files, {docs}/0.png first: an image, which is not read" in lines
    assert not any("5.png" in line for line in lines) and any("bad.txt" in line for line in lines)
    assert "--verbose names every file" in lines
    told = run(*command, "--verbose")[1]
    assert all(f"{n}.png: an image" in told for n in range(9))


def test_ignored_files_are_left_out_and_taken_out_when_they_become_so(run, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("good", "draft", "later"):
        (docs / f"{name}.txt").write_text(f"The {name} text.")
    index = tmp_path / "index"
    run("index", "build", docs, "--out", index, "--ignore", "draft*")
    assert held(run, index)[0] == 2
    assert outcomes(run("index", "update", index, "--json")[0]) == {"unchanged": 2}
    (docs / ".gitignore").write_text("later.txt\n")
    assert outcomes(run("index", "update", index, "--json")[0]) == {"unchanged": 1, "deleted": 1}
    assert held(run, index)[0] == 1


def test_documents_without_text_leave_nothing(run, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n")
    _, err = run("index", "build", tmp_path, "--out", tmp_path / "index", code=2)
    assert "no text in it" in err
    assert "found no passages" in err
    assert [path.name for path in tmp_path.iterdir()] == ["blank.txt"]


def test_a_file_that_can_no_longer_be_read_keeps_its_passages(run, index, docs):
    (docs / "mona.txt").write_bytes(b"\x00\x01\x02")
    out, err = run("index", "update", index, "--json")
    assert outcomes(out) == {"unchanged": 3, "skipped": 1}
    assert "mona.txt" in err
    assert "The Mona Lisa hangs in the Louvre." in texts(run, "louvre", index)


def test_how_files_are_cut_and_read_is_remembered(run, docs, tmp_path):
    index = tmp_path / "index"
    run("index", "build", docs, "--out", index, "--size", "2", "--cut-rows", "--kind", "exact")
    manifest = Manifest.load(index)
    assert (manifest.chunk_words, manifest.cut_rows, manifest.kind) == (2, True, IndexKind.EXACT)
    (docs / "mona.txt").write_text("one two three four five")
    (docs / "rows.csv").write_text("id,title,text\n1,A,one two three\n")
    run("index", "update", index)
    found = texts(run, "one two three four five", index)
    assert {"three four", "five"} <= set(found)
    assert found.count("one two") == 2  # of the text and of the row


def test_the_columns_of_rows_are_named_once_for_all_updates(run, tmp_path):
    docs, index = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    (docs / "animals.csv").write_text("name,kind,about\nOkapi,mammal,lives in Congo\n")
    columns = ["--text-column", "about", "--title-column", "name", "--title-column", "kind"]
    run("index", "build", docs, "--out", index, *columns)
    (docs / "animals.csv").write_text("name,kind,about\nDodo,bird,lived on Mauritius\n")
    run("index", "update", index)
    out, _ = run("search", "Mauritius", "--index", index, "--json")
    [hit] = json.loads(out)["hits"]
    assert (hit["title"], hit["text"]) == ("Dodo: bird", "lived on Mauritius")


def test_what_a_broken_off_build_of_other_files_left_is_taken_out(run, docs, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("Left over.")

    def stop(intake, _):
        intake.writer.flush()
        raise RuntimeError("broken off")

    monkeypatch.setattr(indexing, "_drop_others", stop)
    with pytest.raises(RuntimeError, match="broken off"):
        app.app(["index", "build", str(other), "--out", str(tmp_path / "i")], standalone_mode=False)
    assert (tmp_path / ".i.building").is_dir()
    monkeypatch.undo()
    encoder = WordEncoder()
    monkeypatch.setattr(indexes, "load_passage_encoder", lambda *_, **__: encoder)
    app.app(["index", "build", str(docs), "--out", str(tmp_path / "i")], standalone_mode=False)
    facts = indexes.index_facts(tmp_path / "i")
    assert facts["n_passages"] == 5
    assert not any("other" in name for name in facts["files"])


def test_a_page_is_fetched_only_where_that_is_allowed(run, index, monkeypatch):
    def fetch(url):
        return Document(title="Page", text="Pelicans have pouches.", source=url)

    monkeypatch.setattr("selfrag.ingest.web.fetch.fetch_document", fetch)
    _, err = run("index", "add", index, "https://example.org/a", code=2)
    assert "--allow-urls" in err
    run("index", "add", index, "https://example.org/a", "--allow-urls")
    assert texts(run, "pelicans pouches", index)[0] == "Pelicans have pouches."
    assert outcomes(run("index", "update", index, "--json")[0]) == {"unchanged": 4}
    run("index", "delete", index, "--file", "https://example.org/a")
    assert held(run, index)[0] == 5


def test_a_private_address_is_refused_without_any_connection(run, index):
    _, err = run("index", "add", index, "http://127.0.0.1:8080/", "--allow-urls", code=2)
    assert "outside the public internet" in err
    assert held(run, index)[0] == 5


def test_a_build_of_pages_names_the_way(run, tmp_path):
    _, err = run("index", "build", "https://example.org", "--out", tmp_path / "i", code=2)
    assert "index add" in err


def test_verify_finds_nothing_wrong_and_compact_says_both_sizes(run, index):
    out, _ = run("index", "verify", index)
    assert "FAIL" not in out
    out, _ = run("index", "compact", index)
    assert "MB before" in out


def test_tune_shows_every_way_and_writes_the_best_down(run, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    rows = [
        {"id": str(n), "text": f"word{n} word{n + 1} word{n + 2} word{n * n}"} for n in range(300)
    ]
    (docs / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    index = tmp_path / "index"
    run("index", "build", docs, "--out", index)
    plot = tmp_path / "plot.png"
    out, _ = run(
        "index", "tune", index, "--kind", "small", "--queries", "5", "--recall", "0.1",
        "--apply", "--plot", plot,
    )  # fmt: skip
    assert "recall@10" in out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert Manifest.load(index).kind in {IndexKind.SMALL, IndexKind.EXACT}
    assert "word7 word8" in texts(run, "word7 word8 word9", index)[0]


def test_a_condition_that_is_no_sql_is_one_sentence_and_deletes_nothing(run, index):
    _, err = run("index", "delete", index, "--where", "no such", code=2)
    assert "no such" in err
    assert held(run, index)[0] == 5
