"""Which files are found under a name, in which order, and which are not."""

import hashlib
import os
from pathlib import Path

import pytest

from selfrag.errors import BadInput, ConfigError, StorageError
from selfrag.ingest import formats
from selfrag.ingest.files import find_files
from selfrag.ingest.formats import Format, ReadOptions, format_of


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """docs/ in the current folder: nine files, five of them to read."""
    for name in [
        "b.txt",
        "a/z.md",
        "a/deep/X.TXT",
        "a/deep/er/x.csv",
        "rows.jsonl.gz",
        "photo.png",
        "a/.git/c.txt",
        ".hidden.txt",
        "a/~$z.docx",
    ]:
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    monkeypatch.chdir(tmp_path)
    return Path("docs")


def found(*paths: str | Path, options: ReadOptions | None = None) -> list[str]:
    return [file.path.as_posix() for file in find_files(paths, options=options).files]


def reasons(*paths: str | Path, options: ReadOptions | None = None) -> dict[str, str]:
    skipped = find_files(paths, options=options).skipped
    return {each.path.as_posix(): each.reason for each in skipped}


ALL = [
    "docs/a/deep/X.TXT",
    "docs/a/deep/er/x.csv",
    "docs/a/z.md",
    "docs/b.txt",
    "docs/rows.jsonl.gz",
]


def test_a_folder_is_walked_sorted_without_what_is_hidden_or_locked(docs):
    assert found(docs) == ALL
    assert reasons(docs) == {"docs/photo.png": "an image, which is not read"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("docs/*.txt", ["docs/b.txt"]),
        ("docs/**/*.txt", ["docs/b.txt"]),
        ("docs/**/*.[Tt][Xx][Tt]", ["docs/a/deep/X.TXT", "docs/b.txt"]),
        ("docs/a/**/*.csv", ["docs/a/deep/er/x.csv"]),
        ("docs/a/?.md", ["docs/a/z.md"]),
        ("do*/*/deep", ["docs/a/deep/X.TXT", "docs/a/deep/er/x.csv"]),
        ("docs/**", ALL),
        ("docs/.h*", ["docs/.hidden.txt"]),
    ],
)
def test_patterns(docs, pattern, expected):
    assert sorted(found(pattern)) == expected


def test_absolute_patterns(docs, tmp_path):
    assert found(f"{tmp_path}/docs/*.txt") == [f"{tmp_path}/docs/b.txt"]


def test_the_order_is_that_of_the_names_and_nothing_comes_twice(docs):
    assert found("docs/b.txt", docs, "docs/../docs/b.txt", "docs/*.txt") == [
        "docs/b.txt",
        *[name for name in ALL if name != "docs/b.txt"],
    ]


def test_a_name_with_a_bracket_is_that_file_before_it_is_a_pattern(docs):
    (docs / "[b].txt").write_text("text")
    assert found("docs/[b].txt") == ["docs/[b].txt"]


def test_home_is_meant_by_a_tilde_in_a_quoted_pattern(docs, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found("~/docs/*.txt") == [f"{tmp_path}/docs/b.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", r"no such file or folder; expected text, "),
        ("missing", r"no such file or folder; expected text, "),
        ("docs/*.pdf", "nothing matches the pattern"),
        ("gone/**/*.pdf", "nothing matches the pattern"),
        ("docs/**.pdf", "expected a pattern such as|nothing matches the pattern"),
        ("nul\0", "no such file or folder"),
        ("x" * 5000, "no such file or folder"),
    ],
)
def test_a_name_with_nothing_behind_it_is_refused(docs, name, message):
    with pytest.raises(BadInput, match=message):
        find_files([docs, name])


def test_nothing_to_read_is_refused(docs, tmp_path):
    with pytest.raises(BadInput, match=r"found 1 file but none to read \(docs/photo.png: an image"):
        find_files(["docs/photo.png"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(BadInput, match="found 0 files but none to read, expected"):
        find_files(["bare"])


def test_links_round_in_circles_and_to_nowhere_do_no_harm(docs):
    (docs / "a" / "loop").symlink_to(docs.absolute(), target_is_directory=True)
    (docs / "a" / "self.txt").symlink_to("self.txt")
    (docs / "gone.txt").symlink_to("nowhere.txt")
    (docs / "again.txt").symlink_to("b.txt")
    for name in (docs, "docs/**/*"):
        assert sorted(found(name)) == ALL
        assert reasons(name) == LINKS
    assert found("docs/again.txt") == ["docs/again.txt"]


LINKS = {
    "docs/a/loop": "a link to a folder is not followed; name it itself",
    "docs/a/self.txt": "cannot be read: Too many levels of symbolic links",
    "docs/gone.txt": "cannot be read: No such file or directory",
    "docs/photo.png": "an image, which is not read",
}


def test_a_link_to_a_folder_is_followed_where_it_is_named(docs):
    Path("link").symlink_to("docs/a", target_is_directory=True)
    assert found("link") == ["link/deep/X.TXT", "link/deep/er/x.csv", "link/z.md"]


def test_empty_large_and_special_files_are_skipped(docs):
    (docs / "empty.md").write_text("")
    os.mkfifo(docs / "pipe.txt")
    for name in ("big.txt", "big.csv"):
        with (docs / name).open("wb") as stream:
            stream.truncate(2 << 20)
    options = ReadOptions(max_mb=1)
    assert "docs/big.csv" in found(docs, options=options)  # rows are streamed
    assert reasons(docs, options=options) == {
        "docs/big.txt": "2 MB, more than the limit of 1 MB",
        "docs/empty.md": "empty",
        "docs/photo.png": "an image, which is not read",
        "docs/pipe.txt": "not a plain file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_skipped(docs):
    (docs / "b.txt").chmod(0)
    (docs / "a").chmod(0)
    try:
        assert reasons(docs)["docs/b.txt"] == "no permission to read it"
        assert reasons(docs)["docs/a"] == "cannot be read: Permission denied"
    finally:
        (docs / "a").chmod(0o700)


def test_a_format_whose_package_is_missing_is_skipped_with_the_command(docs, monkeypatch):
    (docs / "a.pdf").write_text("x")
    monkeypatch.setitem(formats._PACKAGES, Format.PDF, ("no_such_package",))
    assert reasons(docs)["docs/a.pdf"] == (
        'needs the package no_such_package: pip install "selfrag[documents]"'
    )


def test_a_file_has_size_time_and_a_hash_that_waits(docs):
    [file] = find_files(["docs/b.txt"]).files
    os.utime(docs / "b.txt", ns=(5, 7))
    [touched] = find_files(["docs/b.txt"]).files
    assert (file.n_bytes, touched.mtime_ns) == (4, 7)
    (docs / "b.txt").write_text("later")
    assert file.sha256 == hashlib.sha256(b"later").hexdigest()
    (docs / "b.txt").unlink()
    assert file.sha256 == hashlib.sha256(b"later").hexdigest()  # read once
    with pytest.raises(StorageError, match=r"cannot read docs/b\.txt: the system says"):
        _ = touched.sha256


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.PDF", Format.PDF),
        ("a.tsv.gz", Format.TABLE),
        ("a.txt.GZ", Format.TEXT),
        ("a.pdf.gz", Format.UNKNOWN),
        ("a.gz", Format.UNKNOWN),
        ("pdf", Format.UNKNOWN),
        (".txt", Format.UNKNOWN),
    ],
)
def test_formats_go_by_suffix(name, expected):
    assert format_of(Path(name)) is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_mb": 0}, "max_mb is 0, expected more than 0"),
        ({"timeout_s": -1.0}, "timeout_s is -1.0"),
        ({"encoding": "klingon"}, "found the encoding 'klingon'"),
        ({"encoding": "base64"}, "found the encoding 'base64'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ReadOptions(**options)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_that_is_not_utf8_costs_its_own_file(tmp_path):
    folder = os.fsencode(tmp_path)
    (tmp_path / "a.txt").write_text("fine")
    for name in (b"caf\xe9.txt", b"d\xe9/b.txt", b"photo\xe9.png"):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("text")
    found = find_files([tmp_path])
    assert [file.path.name for file in found.files] == ["a.txt"]
    assert sorted(str(each) for each in found.skipped) == [
        f"{tmp_path}/{name}: its name is not UTF-8, as an index wants; rename it"
        for name in ("caf\\udce9.txt", "d\\udce9/b.txt", "photo\\udce9.png")
    ]
    with pytest.raises(BadInput, match=r"none to read \(.*not UTF-8"):
        find_files([os.fsdecode(os.path.join(folder, b"caf\xe9.txt"))])
