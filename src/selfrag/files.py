"""Files that survive a kill: complete or absent, growing by complete rows, written by one process.

Knows nothing of what is in them, except that a growing file holds one JSON value a line.
"""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from selfrag.errors import BadInput, SelfRAGError, StorageError
from selfrag.serial import json_line, json_text

logger = logging.getLogger(__name__)

WRITABLE = (
    "expected a writable file in an existing folder with free space, so make room or name another"
)
READABLE = "expected a readable file, so name another"

# Network failures are OSErrors too; whoever talks to a network translates them there.
_NOT_OF_FILES = (ConnectionError, TimeoutError)
# File systems without locks, mostly networked ones.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}


@contextmanager
def storage_errors(
    doing: str,
    *,
    advice: str = WRITABLE,
    raises: type[SelfRAGError] = StorageError,
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """What the disk refuses, as one sentence of ours: `cannot {doing}: {reason}; {advice}`.

    `also`: errors by which a library reports the same, such as `RuntimeError` of LanceDB.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *also)):
            raise
        if isinstance(error, _NOT_OF_FILES):
            raise
        raise raises(f"cannot {doing}: {reason_of(error)}; {advice}") from error


def read_errors(what: str, path: Path) -> Any:
    """`storage_errors` for an input file: raises `BadInput`, saying `what` was to be read."""
    return storage_errors(f"read {what} from {path}", advice=READABLE, raises=BadInput)


def reason_of(error: Exception) -> str:
    """What the system says, in its words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def beside(path: Path, ending: str) -> Path:
    """The file next to `path` with its whole name and then `ending`."""
    return path.with_name(path.name + ending)


def file_sha256(path: Path, what: str = "data") -> str:
    """The SHA-256 of a file in hexadecimal digits; raises `BadInput` where it cannot be read."""
    with read_errors(what, path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Files that are complete or absent


@contextmanager
def replacing(path: Path, what: str = "") -> Iterator[Path]:
    """A path to write to; when the block ends well, it takes the place of `path`, durably.

    Links are followed, and the mode and owner of a file that is there are kept. A pipe, a device or
    `/dev/stdout` gets the content at the end. A block that writes nothing leaves `path` as it is;
    one that raises leaves no trace. Raises `StorageError`.
    """
    with storage_errors(_writing(path, what)):
        target = _regular(path)
        if target is None:
            folder = Path(tempfile.mkdtemp())
            partial = folder / (path.name or "out")
        else:
            if target.exists() and not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
            partial = target.with_name(f".{target.name}.partial")
            partial.unlink(missing_ok=True)  # of a killed process
    try:
        yield partial
        if partial.exists():
            _put_in_place(partial, target, path)
    except OSError as error:
        # A file of somebody else that the block failed on is not this one's fault.
        is_ours = error.filename in (None, str(partial), str(target), str(path))
        if not is_ours or isinstance(error, _NOT_OF_FILES):
            raise
        raise StorageError(
            f"cannot {_writing(path, what)}: {reason_of(error)}; {WRITABLE}"
        ) from error
    finally:
        if target is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _put_in_place(partial: Path, target: Path | None, path: Path) -> None:
    if target is None:
        with partial.open("rb") as source, _open_special(path) as sink:
            shutil.copyfileobj(source, sink)
        return
    with suppress(FileNotFoundError):
        before = target.stat()
        if hasattr(os, "chown"):
            with suppress(PermissionError):  # only root gives files away
                os.chown(partial, before.st_uid, before.st_gid)
        partial.chmod(stat.S_IMODE(before.st_mode))
    _sync(partial)
    partial.replace(target)
    _sync(target.parent)


def write_bytes(path: Path, content: bytes, what: str = "") -> None:
    """Replaces `path` in one step; see `replacing`."""
    with replacing(path, what) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str, what: str = "") -> None:
    """Replaces `path` in one step. What UTF-8 cannot hold, a lone surrogate, is escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"), what)


def write_json(path: Path, value: Any, what: str = "", *, indent: int = 1) -> None:
    """Replaces `path` with one indented JSON value; keys keep their order."""
    write_text(path, json_text(value, indent=indent) + "\n", what)


def write_rows(path: Path, rows: Iterable[Any], what: str = "") -> int:
    """Replaces `path` with one JSON value a line; how many. `rows` is read as it is written."""
    n_rows = 0
    with replacing(path, what) as partial, partial.open("wb") as file:
        for row in rows:
            file.write(json_line(row))
            n_rows += 1
    return n_rows


def fsync(path: Path) -> None:
    """Forces a file to the disk, or every file of a folder and the folder itself."""
    if path.is_dir():
        for each in path.rglob("*"):
            if each.is_file():
                _sync(each)
    _sync(path)


def _sync(path: Path) -> None:
    """A file, or the names of a folder and not what is in it."""
    if path.is_dir() and os.name != "posix":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def making_folder(
    out: Path, what: str = "", *, also: tuple[type[Exception], ...] = ()
) -> Iterator[Path]:
    """A folder to fill; when the block ends well, it becomes `out`, else it goes.

    Where another process has made `out` in the meantime, that one stays. Raises `StorageError`, for
    errors of the kinds `also` too.
    """
    partial = out.parent / f".{out.name}-{secrets.token_hex(4)}"
    with storage_errors(_writing(out, what), also=also):
        partial.mkdir(parents=True)  # not mkdtemp, which would keep others out
        try:
            yield partial
            fsync(partial)
            try:
                partial.rename(out)
            except OSError:
                if not out.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


# Files that grow


class AppendLog:
    """JSON rows that one process adds to a file: when `append` returns, they are durable.

    A last line that a crash truncated is removed before the next rows, and one that only lacks its
    line end is completed. A pipe or `/dev/stdout` can be added to, and holds nothing.
    `sync=False` leaves durability to the system: a killed process loses nothing, a power cut may.
    Raises `StorageError`, and `BadInput` while another process writes the file.
    """

    def __init__(self, path: Path, what: str = "rows", *, sync: bool = True) -> None:
        self.path = path
        self._what = what
        self._open = ExitStack()
        with storage_errors(_writing(path, what)):
            target = _regular(path)
            self.is_regular = target is not None
            self._sync = sync and self.is_regular
            if target is None:
                self._file: Any = self._open.enter_context(_open_special(path))
                return
            if not target.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self._open.enter_context(locked(target))
            try:
                # Without a buffer, which would try again on closing what the disk has refused.
                self._file = self._open.enter_context(target.open("ab+", buffering=0))
            except BaseException:
                self._open.close()
                raise

    def __enter__(self) -> "AppendLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, and lets other processes write it."""
        self._open.close()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in the file, not even a truncated line."""
        return not self.is_regular or self._file.seek(0, os.SEEK_END) == 0

    def __iter__(self) -> Iterator[bytes]:
        """As `lines`, one at a time."""
        return self._complete() if self.is_regular else iter(())

    def lines(self) -> list[bytes]:
        """The complete rows, undecoded, in order; a truncated one is left out."""
        return list(self._complete()) if self.is_regular else []

    def keep(self, n_lines: int) -> None:
        """Removes what comes after the first `n_lines` rows."""
        if not self.is_regular:
            return
        with storage_errors(_writing(self.path, self._what)):
            kept = [line for _, line in zip(range(n_lines), self._complete(), strict=False)]
            self._file.truncate(sum(map(len, kept)))
            self._end_line()

    def append(self, rows: Iterable[Any]) -> None:
        """Adds the rows: all of them or, where the disk refuses, none."""
        content = b"".join(map(json_line, rows))
        with storage_errors(_writing(self.path, self._what)):
            if not self.is_regular:
                self._write(content)
                self._file.flush()
                return
            self._drop_truncated()
            end = self._file.seek(0, os.SEEK_END)
            try:
                self._write(content)
                if self._sync:
                    os.fsync(self._file.fileno())
            except BaseException:
                with suppress(OSError):
                    self._file.truncate(end)
                raise

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]

    def _complete(self) -> Iterator[bytes]:
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                if line.endswith(b"\n") or _is_json(line):
                    yield line

    def _drop_truncated(self) -> None:
        tail = self._tail()
        if not tail:
            return
        if _is_json(tail):
            self._end_line()
        elif tail[:1] in (b"{", b"\0"):  # zeros: what some file systems leave after a power cut
            self._file.truncate(self._file.seek(0, os.SEEK_END) - len(tail))
        else:
            raise BadInput(
                f"cannot add {self._what} to {self.path}: its last line, {tail[:40]!r}, is none of "
                "ours; expected a file of JSON lines, so name another"
            )

    def _end_line(self) -> None:
        if self._tail():
            self._write(b"\n")

    def _tail(self) -> bytes:
        """What comes after the last line end."""
        end = position = self._file.seek(0, os.SEEK_END)
        tail = b""
        while position and b"\n" not in tail:
            position = max(position - (1 << 16), 0)
            self._file.seek(position)
            tail = self._file.read(min(1 << 16, end - position - len(tail))) + tail
        return tail.rpartition(b"\n")[2]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def complete_lines(path: Path) -> list[bytes]:
    """The rows of a file that `AppendLog` wrote, while another may write it; none without file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = content.split(b"\n")
    return [line for line in lines[:-1] if line.strip()] + [
        line for line in lines[-1:] if _is_json(line)
    ]


# One process at a time, one run in a place


@contextmanager
def locked(path: Path, *, wait_s: float = 0.0, shown: Path | None = None) -> Iterator[None]:
    """Keeps other processes from writing the file or folder `path`; a crash lets go.

    The lock is a file of its own, `.lock` in a folder and `.NAME.lock` beside a file, which stays.
    Raises `BadInput`, naming `shown` where it is another, while another process holds it longer
    than `wait_s`, and `StorageError` where it cannot be made.
    """
    name = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(name, timeout=wait_s)
    with ExitStack() as held:
        try:
            if not name.parent.is_dir():  # filelock would make it
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(name.parent))
            held.enter_context(lock)
        except filelock.Timeout:
            raise BadInput(
                f"cannot write {shown or path}: another process is writing it, expected one at a "
                "time; "
                "wait for that one, or name another place"
            ) from None
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise StorageError(
                    f"cannot lock {shown or path}: {reason_of(error)}; {WRITABLE}"
                ) from error
            logger.warning("cannot lock %s (%s): write it from one process only", path, error)
        yield


def claim_run(
    path: Path,
    facts: Mapping[str, Any],
    *,
    has_results: bool,
    free: Collection[str] = (),
    way_out: str = "name another place",
) -> None:
    """Makes the results beside `path` those of the run `facts`, or checks that they are.

    Without results, `facts` are written to `path`; else they must equal those there, except for
    the top-level keys in `free`. Raises `BadInput` naming what differs, or where results are there
    and nothing says whose; `way_out` is what its sentence tells to do.
    """
    if not has_results:
        with storage_errors(f"make the folder {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(
            f"cannot go on with the run of {path}: found results there, but no valid {path.name} "
            f"that says whose ({reason_of(error)}); expected both from an earlier run, so {way_out}"
        ) from error
    now = json.loads(json_text(facts))
    for name in free:
        before.pop(name, None)
        now.pop(name, None)
    if differing := differences(before, now):
        raise BadInput(
            f"cannot go on with the run of {path}: it differs in {'; '.join(differing)}; expected "
            f"the same run, so give the same data and settings or {way_out}"
        )


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, each as `a.b (1 there, 2 now)`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            found
            for key in keys
            for found in differences(before.get(key), now.get(key), f"{name}.{key}".strip("."))
        ]
    return [] if before == now else [f"{name} ({before!r:.60} there, {now!r:.60} now)"]


def is_plain(path: Path) -> bool:
    """Whether `path` is a file, or would become one: no folder, pipe, device or `/dev/stdout`."""
    with suppress(OSError):
        return _regular(path) is not None
    return False


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None] | None = None
) -> None:
    """Refuses, before any work, outputs that cannot be meant; keys are the names of the options.

    Raises `BadInput` for an output that is an input, a folder, or the same file as another output,
    and for one whose folder is missing.
    """
    seen: dict[str, Path] = {name: path for name, path in (inputs or {}).items() if path}
    n_inputs = len(seen)
    for name, path in outputs.items():
        if path is None or str(path) == os.devnull:
            continue
        if path.is_dir():
            raise BadInput(f"cannot write {name} {path}: it is a folder; expected a file, name one")
        if not Path(os.path.realpath(path)).parent.is_dir():
            raise BadInput(
                f"cannot write {name} {path}: there is no folder {path.parent}; expected a "
                "file in an existing folder, so make it or name another"
            )
        for place, (other, taken) in enumerate(seen.items()):
            if _is_same(path, taken):
                what = "is read" if place < n_inputs else "is written too"
                raise BadInput(
                    f"cannot write {name} {path}: it is the file {other}, which {what}; expected "
                    "a file of its own, so name another"
                )
        seen[name] = path


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def _writing(path: Path, what: str) -> str:
    return f"write {what} to {path}" if what else f"write {path}"


def _regular(path: Path) -> Path | None:
    """The plain file that `path` names or would make, links followed; None for any other thing."""
    if _descriptor(path) is not None:
        return None
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) else None


def _descriptor(path: Path) -> int | None:
    """The open file that a name such as `/dev/stdout` or `/dev/fd/63` stands for."""
    name = os.path.abspath(path)
    for _ in range(40):  # links that a system follows
        if found := _DESCRIPTOR.fullmatch(name):
            return _STANDARD[found[1]] if found[1] else int(found[2])
        if not os.path.islink(name):
            break
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None


def _open_special(path: Path) -> BinaryIO:
    number = _descriptor(path)
    if number is None:
        return path.open("wb")
    # A copy of the descriptor: opening its name again would begin anew at the first byte.
    sys.stdout.flush()
    return os.fdopen(os.dup(number), "wb")
