"""Answers kept by the hash of their request, so that no teacher is asked the same thing twice.

One SQLite file, open in one run at a time; every answer is committed as it arrives, so a killed
run loses at most those that were still on their way. Knows nothing of what is asked.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from selfrag.annotate.judgement import Answer
from selfrag.errors import StorageError


def request_key(request: str) -> str:
    """SHA-256 of a request, as 64 hexadecimal digits."""
    return hashlib.sha256(request.encode("utf-8", "surrogatepass")).hexdigest()


class AnswerStore:
    """The answers of one file; raises `StorageError` where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._guard():
            self._db = sqlite3.connect(path, timeout=1)
            # Two runs at once would ask, and pay, for the same answers.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            # kill -9 loses nothing that was committed; a power cut may lose the last few.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
                " WITHOUT ROWID"
            )
            self._db.commit()

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers there are among those of `keys`."""
        found = {}
        with self._guard():
            for key in keys:
                row = self._db.execute(
                    "SELECT answer FROM answers WHERE key = ?", (key,)
                ).fetchone()
                if row:
                    found[key] = Answer.from_json(row[0])
        return found

    def put(self, key: str, answer: Answer) -> None:
        """Keeps one answer for good; a second one under the same key is not kept."""
        with self._guard(), self._db:
            self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, answer.to_json()))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Folds the journal into the file."""
        self._db.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise StorageError(
                f"cannot use the answers in {self.path}: {error}; expected a file of answers that "
                "can be read and written and that no other run has open, so wait for that run or "
                "make room, or delete the file and have all asked again"
            ) from error
