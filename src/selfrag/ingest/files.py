"""Files found under the names that a user gives: files, folders and patterns.

Knows nothing of what is in them.
"""

import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

from selfrag.errors import BadInput, StorageError
from selfrag.ingest.faults import Skipped, printable
from selfrag.ingest.formats import (
    EXPECTED,
    Format,
    ReadOptions,
    format_of,
    is_one_document,
    missing_package,
    not_read,
)
from selfrag.ingest.ignore import IgnoreRules
from selfrag.text import counted

_EMPTY = "empty"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that can be read, as it was when it was found."""

    path: Path
    n_bytes: int
    mtime_ns: int

    @cached_property
    def sha256(self) -> str:
        """64 hexadecimal digits of the file's bytes, read when first asked for.

        Raises `StorageError` for a file that is gone by then, or cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise StorageError(
                f"cannot read {self.path}: the system says {error.strerror!r}, expected a "
                "readable file; check it and its permissions"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The files to read, and what lies among them that cannot be."""

    files: tuple[SourceFile, ...]
    skipped: tuple[Skipped, ...] = ()
    ignored: tuple[Path, ...] = ()  # files and folders that the user or a .gitignore left out


def find_files(paths: Sequence[str | Path], *, options: ReadOptions | None = None) -> Found:
    """The readable files of files, folders and patterns such as `docs/**/*.pdf`.

    In the order of `paths`, those of a folder or pattern sorted. A file that several names lead to
    comes once: under its own name rather than a link's, else under the first. Folders are read with
    their subfolders, less what is hidden, an office program's lock or an index of ours; a link to a
    folder is followed only where it is named itself. What a `.gitignore` in them, or above them in
    a git repository, or `options.ignore` names is left out.

    Files of other formats, empty, too large or unreadable ones, and those whose package is not
    installed, are `skipped`. Raises `BadInput` for a name with nothing behind it, and when there is
    nothing to read at all.
    """
    found = _found(paths, options or ReadOptions(), must_match=True)
    if not found.files:
        raise BadInput(_nothing(paths, found))
    return found


def list_files(paths: Sequence[str | Path], *, options: ReadOptions | None = None) -> Found:
    """As `find_files`, and neither nothing to read nor a pattern without a match is an error."""
    return _found(paths, options or ReadOptions(), must_match=False)


def rooted(name: str | Path) -> str:
    """The absolute path of a file, folder or pattern, to be found later from anywhere.

    Only what is no name of something there stays a pattern: `*.md` in the folder `my [notes]` is
    `.../my [[]notes]/*.md`.
    """
    return printable(_escaped(Path(os.path.abspath(os.path.expanduser(name)))))


def fixed_part(name: str | Path) -> Path:
    """The file or folder itself; of a pattern the folder that it begins in."""
    return _split(_escaped(Path(os.path.expanduser(name))))[0]


def _found(paths: Sequence[str | Path], options: ReadOptions, *, must_match: bool) -> Found:
    files: list[SourceFile] = []
    skipped: list[Skipped] = []
    ignored: list[Path] = []

    def paths_of(name: str | Path) -> Iterator[Path]:
        return _paths_of(name, options, must_match=must_match, skipped=skipped, ignored=ignored)

    for path in _once([path for name in paths for path in paths_of(name)]):
        found = _look_at(path, options)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            files.append(found)
    return Found(files=tuple(files), skipped=tuple(dict.fromkeys(skipped)), ignored=tuple(ignored))


def _escaped(path: Path) -> Path:
    """The path with the beginning that is there escaped, as far as it looks like a pattern."""
    parts = path.parts
    n_there = next((n for n in range(len(parts), 0, -1) if os.path.lexists(Path(*parts[:n]))), 0)
    return Path(*map(glob.escape, parts[:n_there]), *parts[n_there:])


def _split(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that an escaped pattern begins in, and what is matched in it."""
    plain = [re.sub(r"\[([*?[])\]", r"\1", part) for part in pattern.parts]
    n_fixed = 0
    while n_fixed < len(plain) and glob.escape(plain[n_fixed]) == pattern.parts[n_fixed]:
        n_fixed += 1
    return Path(*plain[:n_fixed]), pattern.parts[n_fixed:]


def _once(paths: Sequence[Path]) -> Iterator[Path]:
    """Every file under one name: its own rather than a link's, else the first."""
    real_paths = [os.path.realpath(path) for path in paths]
    plain = {real for path, real in zip(paths, real_paths, strict=True) if not path.is_symlink()}
    seen: set[str] = set()
    for path, real in zip(paths, real_paths, strict=True):
        if real not in seen and not (path.is_symlink() and real in plain):
            seen.add(real)
            yield path


def _nothing(paths: Sequence[str | Path], found: Found) -> str:
    names, skipped = ", ".join(map(printable, paths)), found.skipped
    first = f" ({skipped[0]})" if skipped else ""
    if found.ignored:
        first += f", and {counted(len(found.ignored), 'path')} that --ignore or a .gitignore names"
    return (
        f"cannot read documents from {names}: found {counted(len(skipped), 'file')} but none to "
        f"read{first}, expected {EXPECTED}; name others"
    )


def _paths_of(
    name: str | Path,
    options: ReadOptions,
    *,
    must_match: bool,
    skipped: list[Skipped],
    ignored: list[Path],
) -> Iterator[Path]:
    base, rest = _split(_escaped(Path(os.path.expanduser(name))))
    if not rest and not os.path.lexists(base):
        raise BadInput(
            f"cannot read documents from {printable(base)}: no such file or folder; expected "
            f"{EXPECTED} or a folder or pattern of those, so check the path"
        )
    rules = IgnoreRules(base, options.ignore)
    if not rest:
        if not base.is_dir() and rules.leaves_out_named(base):
            ignored.append(base)
        else:
            yield from _walk(base, rules, skipped, ignored)
        return
    matches = _matches(base, rest)
    if not matches and must_match:
        raise BadInput(
            f"cannot read documents from {printable(name)}: nothing matches the pattern; expected "
            "one such as 'docs/**/*.pdf', so check it"
        )
    for match in matches:
        if rules.leaves_out(match):
            ignored.append(match)
        elif match.is_symlink() and match.is_dir():
            skipped.append(_folder_link(match))
        else:
            yield from _walk(match, rules, skipped, ignored)


def _matches(base: Path, rest: tuple[str, ...]) -> list[Path]:
    # Not the glob module: its ** follows links to folders, and round in circles.
    wants_hidden = any(part.startswith(".") for part in rest)
    try:
        found = sorted(base.glob(str(Path(*rest))))
    except (OSError, ValueError) as error:
        pattern = printable(base.joinpath(*rest))
        raise BadInput(
            f"cannot read documents from {pattern}: {error}; expected a pattern such as "
            "'docs/**/*.pdf', so fix it"
        ) from error
    is_index = cache(_is_index)
    return [
        path
        for path in found
        if (wants_hidden or not _is_hidden(path.relative_to(base)))
        and not any(map(is_index, islice(path.parents, len(path.relative_to(base).parts))))
    ]


def _is_index(folder: Path) -> bool:
    """Whether a folder holds tables of LanceDB, or is one: documents are not kept there."""
    is_ours = (folder / "manifest.json").is_file() or (folder / "embed.json").is_file()
    return folder.suffix == ".lance" or (is_ours and any(folder.glob("*.lance")))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "~$")) for part in path.parts)


def _walk(
    path: Path, rules: IgnoreRules, skipped: list[Skipped], ignored: list[Path]
) -> Iterator[Path]:
    """The file itself, or the files of a folder, sorted."""
    if not path.is_dir():
        yield path
        return

    def report(error: OSError) -> None:
        skipped.append(Skipped(path=Path(error.filename), reason=_system_says(error)))

    found = []
    for folder, folders, names in os.walk(path, onerror=report):
        if _is_index(Path(folder)):
            folders.clear()
            continue
        visible = [name for name in (*folders, *names) if not _is_hidden(Path(name))]
        left_out = {name for name in visible if rules.leaves_out(Path(folder, name))}
        ignored += [Path(folder, name) for name in visible if name in left_out]
        folders[:] = [name for name in folders if name in visible and name not in left_out]
        links = [Path(folder, name) for name in folders if os.path.islink(Path(folder, name))]
        skipped += map(_folder_link, links)
        wanted = set(visible) - left_out
        found += [Path(folder, name) for name in names if name in wanted]
    yield from sorted(found)


def _folder_link(path: Path) -> Skipped:
    return Skipped(
        path=Path(printable(path)), reason="a link to a folder is not followed; name it itself"
    )


def _look_at(path: Path, options: ReadOptions) -> SourceFile | Skipped:
    if printable(path) != str(path):
        return Skipped(path=path, reason="its name is not UTF-8, as an index wants; rename it")
    try:
        status = path.stat()
    except OSError as error:
        return Skipped(path=path, reason=_system_says(error))
    reason = _reason(path, status, options)
    if reason:
        return Skipped(path=path, reason=reason, is_empty=reason == _EMPTY)
    return SourceFile(path=path, n_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def _reason(path: Path, status: os.stat_result, options: ReadOptions) -> str:
    """Why the file cannot be read, or ''."""
    file_format = format_of(path)
    if not stat.S_ISREG(status.st_mode):
        return "not a plain file"
    if file_format is Format.UNKNOWN:
        return not_read(path)
    if status.st_size == 0:
        return _EMPTY
    if is_one_document(file_format) and status.st_size > options.max_bytes:
        return f"{status.st_size >> 20} MB, more than the limit of {options.max_mb} MB"
    if not os.access(path, os.R_OK):
        return "no permission to read it"
    package = missing_package(file_format)
    if package:
        return f'needs the package {package}: pip install "selfrag[documents]"'
    return ""


def _system_says(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"
