"""What `.gitignore` files and patterns of the user leave out of a folder.

Patterns are those of gitignore(5). Knows nothing of formats.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfrag.errors import BadInput, MissingPackage

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_FILE = ".gitignore"


class IgnoreRules:
    """What to leave out below `root`, a folder, or of a named file where `root` is that of it.

    The user's `patterns` come first, and one with `!` brings back what a `.gitignore` leaves out;
    then the `.gitignore` of the folder that is nearest, up to the top of a git repository. Where
    `root` itself is left out by one further up, it was named all the same, and only those from
    `root` on count. Raises `BadInput` for what is no pattern.
    """

    def __init__(self, root: Path, patterns: Sequence[str]) -> None:
        self._root = Path(os.path.abspath(root))
        self._given = _spec(patterns, "--ignore") if patterns else None
        self._specs: dict[Path, GitIgnoreSpec | None] = {}
        self._known: dict[Path, bool] = {}

    def leaves_out(self, path: Path) -> bool:
        """Whether what is below the root is left out, itself or with a folder above it."""
        path = Path(os.path.abspath(path))
        if self._root not in path.parents:
            return False
        if path not in self._known:
            self._known[path] = self.leaves_out(path.parent) or self._says(path, self._top)
        return self._known[path]

    def leaves_out_named(self, path: Path) -> bool:
        """Whether the patterns of the user leave out a file that was named itself."""
        found = self._given.check_file(path.name).include if self._given else None
        return bool(found)

    @cached_property
    def _top(self) -> Path:
        """The folder whose `.gitignore` counts last; of no use where a file was named itself."""
        top = next((each for each in _upwards(self._root) if (each / ".git").exists()), self._root)
        way = [self._root, *_between(self._root, top)] if top != self._root else []
        return self._root if any(self._says(each, top) for each in way) else top

    def _says(self, path: Path, top: Path) -> bool:
        """What the nearest rule, up to that of `top`, says of the path alone."""
        end = "/" if path.is_dir() else ""
        if self._given is not None and self._root in path.parents:
            found = self._given.check_file(path.relative_to(self._root).as_posix() + end).include
            if found is not None:
                return bool(found)
        for folder in path.parents:
            spec = self._spec_of(folder)
            name = path.relative_to(folder).as_posix() + end
            found = spec.check_file(name).include if spec else None
            if found is not None:
                return bool(found)
            if folder == top:
                break
        return False

    def _spec_of(self, folder: Path) -> "GitIgnoreSpec | None":
        if folder not in self._specs:
            self._specs[folder] = None
            try:
                text = (folder / _FILE).read_text(encoding="utf-8", errors="replace")
            except OSError:
                text = ""
            if text.strip():
                self._specs[folder] = _spec(text.splitlines(), str(folder / _FILE))
        return self._specs[folder]


def _upwards(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _between(folder: Path, top: Path) -> Iterator[Path]:
    """The folders above `folder` and below `top`."""
    for each in folder.parents:
        if each == top:
            return
        yield each


def _spec(patterns: Sequence[str], place: str) -> Any:
    try:
        from pathspec import GitIgnoreSpec
    except ImportError as error:
        raise MissingPackage(
            f'cannot read {place}: {error}; run `pip install "selfrag[documents]"`'
        ) from error
    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise BadInput(
            f"cannot read {place}: {error}; expected patterns as in a .gitignore, such as "
            "'drafts/' or '*.log', so fix it"
        ) from error
