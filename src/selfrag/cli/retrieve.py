"""`selfrag retrieve`: the passages of many questions, written as the released scripts read them."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfrag.cli import options
from selfrag.cli.console import stdout
from selfrag.cli.report import Reporter
from selfrag.errors import BadInput, StorageError
from selfrag.open import indexes
from selfrag.passage import Hit
from selfrag.retrieval.base import Retriever
from selfrag.retrieval.objectstore import is_remote
from selfrag.retrieval.options import SearchOptions
from selfrag.retrieval.store import PassageStore
from selfrag.rows import Reject, Row, answers_of, named, question_of, read_questions
from selfrag.text import has_answer

if TYPE_CHECKING:
    from selfrag.retrieval.postgres.store import PgVectorStore

logger = logging.getLogger(__name__)


@options.command
def retrieve(
    *,
    data: Annotated[
        Path, typer.Option("--data", help="JSON or JSONL: `question` or `instruction` in each row.")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSONL to write, or to go on with.")],
    index: options.Index = None,
    n_docs: Annotated[
        int, typer.Option("--n-docs", "--n_docs", "--top-k", help="Passages a question.")
    ] = 20,
    how: SearchOptions,
    batch_size: Annotated[int, typer.Option(help="Questions searched together.")] = 32,
    restart: Annotated[bool, typer.Option("--restart", help="Write --out anew.")] = False,
) -> None:
    """Retrieve for every row of a file; run again to go on after an interruption."""
    _check(data, out, n_docs, batch_size)
    report = Reporter()
    rows, rejects = read_questions(data)
    store = indexes.open_index(index, report)
    found = indexes.open_retriever(store, how, report)
    place = {"index": _whole_name(index), "made": _made_at(store)}
    with Output(out) as output:
        output.claim({**place, "n_docs": n_docs, **asdict(how)}, restart=restart)
        n_done = output.count_done(rows, data)
        _keep_rejects(out, rejects)
        if n_done:
            report.say(f"going on after {n_done} of {len(rows)} questions")
        if n_done < len(rows):
            try:
                for done in _in_batches(rows[n_done:], found, n_docs, batch_size):
                    output.append(done)
                    n_done += len(done)
                    report.progress("retrieving", n_done, len(rows))
            finally:
                report.close()
    if rejects:
        kept = _beside(out, "rejects.jsonl")
        report.say(f"left out {len(rejects)} rows, kept in {kept}: {named(rejects)}")
    stdout.print(f"retrieved for {len(rows)} questions in {out}", markup=False)


def _made_at(store: "PassageStore | PgVectorStore") -> str:
    """When the index was built; '' for a database, which is no one's build."""
    return store.manifest.created_at if isinstance(store, PassageStore) else ""


def _whole_name(index: str | None) -> str:
    if index is None:
        return "demo"
    return index if is_remote(index) else str(Path(index).resolve())


def _check(data: Path, out: Path, n_docs: int, batch_size: int) -> None:
    if n_docs < 1 or batch_size < 1:
        raise BadInput(
            f"cannot retrieve: --n-docs is {n_docs} and --batch-size {batch_size}; expected at "
            "least 1 of each, so raise it"
        )
    if out.exists() and data.exists() and out.samefile(data):
        raise BadInput(
            f"cannot retrieve: --out is {out}, the questions themselves; expected another file, so "
            "name one"
        )


def retrieved(rows: Sequence[Row], found: Retriever, n_docs: int) -> list[Row]:
    """The rows with `ctxs`, the hits of their questions, best first; others of that name go.

    A passage has `id`, `title`, `text`, `score` (text, as in the released files), its `source`
    where it has one, and `hasanswer` where the row has gold strings.
    """
    all_hits = found.search([question_of(row) for row in rows], n_docs)
    return [
        {**row, "ctxs": [_ctx(hit, answers_of(row)) for hit in hits]}
        for row, hits in zip(rows, all_hits, strict=True)
    ]


def _in_batches(
    rows: Sequence[Row], found: Retriever, n_docs: int, batch_size: int
) -> Iterator[list[Row]]:
    for first in range(0, len(rows), batch_size):
        yield retrieved(rows[first : first + batch_size], found, n_docs)


def _ctx(hit: Hit, answers: Sequence[str]) -> Row:
    passage = hit.passage
    ctx: Row = {"id": passage.id, "title": passage.title, "text": passage.text}
    ctx["score"] = str(hit.score)
    if passage.source:
        ctx["source"] = passage.source
    if answers:
        ctx["hasanswer"] = has_answer(passage.text, answers)
    return ctx


class Output:
    """The rows of one plan as JSON lines, written by one process at a time, to be gone on with.

    The plan stands beside them, in a file of the same name and `.plan.json`.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file; raises `BadInput` while another process writes it."""
        self._path = path
        self._plan_path = _beside(path, "plan.json")
        with _storage(path):
            # Without a buffer: it would try to write again on closing what the disk has refused.
            self._file = path.open("ab+", buffering=0)
        try:
            self._lock()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def count_done(self, rows: Sequence[Row], data: Path) -> int:
        """How many rows are written; what a run that was killed left of one is cut away.

        Raises `BadInput` where they are not the first of `rows`.
        """
        n_done = end = 0
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                if n_done == len(rows) or _question_in(line) != question_of(rows[n_done]):
                    raise BadInput(
                        f"cannot go on with {self._path}: its row {n_done + 1} is not that of "
                        f"question {n_done + 1} of {data}, expected the same questions in the same "
                        "order; name another file, or give --restart"
                    )
                n_done, end = n_done + 1, end + len(line)
        with _storage(self._path):
            self._file.truncate(end)
        return n_done

    def claim(self, plan: dict[str, Any], *, restart: bool) -> None:
        """Writes the plan down for an empty output; `restart` empties it.

        Raises `BadInput` where the rows are of another plan.
        """
        if restart:
            with _storage(self._path):
                self._file.truncate(0)
        if not self._file.seek(0, os.SEEK_END):
            _write_whole(self._plan_path, json.dumps(plan, indent=2, ensure_ascii=False) + "\n")
            return
        try:
            found = dict(json.loads(self._plan_path.read_text(encoding="utf-8")))
        except (OSError, RecursionError, TypeError, ValueError) as error:
            raise BadInput(
                f"cannot go on with {self._path}: found rows there but no sound "
                f"{self._plan_path.name} ({error!r}), expected both from an earlier `selfrag "
                "retrieve`; name another file, or give --restart"
            ) from error
        odd = [f"{name} {found.get(name)!r}" for name in plan if found.get(name) != plan[name]]
        if odd:
            raise BadInput(
                f"cannot go on with {self._path}: it was made with {', '.join(odd)}, which is not "
                "what is asked for now; give the same options, name another file, or give --restart"
            )

    def append(self, rows: Sequence[Row]) -> None:
        """Adds the rows; they are on the disk when this returns."""
        left = memoryview("".join(as_json(row) + "\n" for row in rows).encode())
        with _storage(self._path):
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"cannot write {self._path}: another process is writing it, expected one at a "
                "time; wait for that one, or name another file"
            ) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning("cannot lock %s (%s): run it once only", self._path, error)


def _question_in(line: bytes) -> str:
    try:
        return question_of(dict(json.loads(line)))
    except (RecursionError, TypeError, ValueError):
        return ""


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")


def _keep_rejects(out: Path, rejects: Sequence[Reject]) -> None:
    path = _beside(out, "rejects.jsonl")
    _write_whole(path, "".join(as_json(row.to_line()) + "\n" for row in rejects))
    if not rejects:
        path.unlink()


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with _storage(path):
        partial.write_text(text, "utf-8")
        partial.replace(path)


def as_json(row: Row) -> str:
    """One line of JSON that UTF-8 can hold: lone surrogates, which JSON can spell, stay spelt."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return line


@contextmanager
def _storage(out: Path) -> Iterator[None]:
    """Turns what the disk refuses into one sentence of ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror}; expected a writable file in an existing folder "
            "with free space, so make room or name another, and run again to go on"
        ) from error
