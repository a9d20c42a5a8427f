"""What `.gitignore` files and `--ignore` leave out."""

import pytest

from selfrag.errors import BadInput
from selfrag.ingest.files import find_files, list_files
from selfrag.ingest.formats import ReadOptions

pytest.importorskip("pathspec")


@pytest.fixture
def tree(tmp_path):
    """A git repository with a folder of its own rules; every file holds text."""
    names = """
        a.txt b.log docs/a.txt docs/b.log docs/keep.log docs/drafts/c.txt docs/sub/b.log
        build/out.txt build/deep/x.txt other/build.txt
    """.split()
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.log\n/build/\n# a comment\n")
    (tmp_path / "docs" / ".gitignore").write_text("!keep.log\ndrafts/\n")
    return tmp_path


def names(tree, *paths, **options):
    found = list_files(list(paths or [tree]), options=ReadOptions(**options))
    return [file.path.relative_to(tree).as_posix() for file in found.files]


def test_gitignore_files_hold_and_the_nearest_counts(tree):
    assert names(tree) == ["a.txt", "docs/a.txt", "docs/keep.log", "other/build.txt"]


def test_rules_further_up_in_the_repository_hold_too(tree):
    assert names(tree, tree / "docs") == ["docs/a.txt", "docs/keep.log"]


def test_what_is_named_itself_is_read_though_it_is_ignored(tree):
    assert names(tree, tree / "b.log") == ["b.log"]
    # Then nothing further up holds, or nothing would be left.
    assert names(tree, tree / "build") == ["build/deep/x.txt", "build/out.txt"]
    assert names(tree, tree / "build" / "deep") == ["build/deep/x.txt"]


def test_outside_a_repository_rules_above_the_folder_do_not_hold(tree):
    (tree / ".git").rmdir()
    assert "docs/b.log" in names(tree, tree / "docs")


def test_patterns_of_the_user_come_first(tree):
    assert names(tree, ignore=["docs/", "other"]) == ["a.txt"]
    assert names(tree, ignore=["!b.log", "*.txt"]) == ["b.log", "docs/b.log", "docs/keep.log",
                                                       "docs/sub/b.log"]  # fmt: skip
    assert names(tree, tree / "a.txt", tree / "docs", ignore=["a.*"]) == ["docs/keep.log"]


def test_patterns_of_files_leave_out_what_folders_would(tree):
    assert names(tree, tree / "**" / "*.txt") == ["a.txt", "docs/a.txt", "other/build.txt"]


def test_what_is_left_out_is_counted_and_named_where_nothing_is_left(tree):
    found = list_files([tree])
    assert {path.relative_to(tree).as_posix() for path in found.ignored} == {
        "b.log", "docs/b.log", "docs/drafts", "docs/sub/b.log", "build",
    }  # fmt: skip
    with pytest.raises(BadInput, match=r"and 1 path that --ignore or a \.gitignore"):
        find_files([tree / "docs" / "sub"])


def test_what_is_no_pattern_is_refused(tree):
    with pytest.raises(BadInput, match="cannot read --ignore"):
        names(tree, ignore=["!"])
