"""Files of questions in, and files of what was found for them out, to be continued after any end.

Knows nothing of what is done with a question.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfrag.cli.console import Reporter
from selfrag.cli.options import Source
from selfrag.engine.base import Engine
from selfrag.errors import BadInput
from selfrag.files import AppendLog, beside, claim_run, is_plain, write_rows
from selfrag.ingest.faults import Skipped
from selfrag.open import indexes
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.passage import Passage
from selfrag.retrieval.base import GivenPassages, Retriever, as_passages
from selfrag.retrieval.objectstore import is_remote
from selfrag.rows import Reject, Row, RowFault, id_of, named, question_of, text_field
from selfrag.text import counted, require_text


def question_from(argument: str | None) -> str:
    """The question as given, or from standard input for `-`; raises `BadInput` when empty."""
    question = sys.stdin.read() if argument == "-" else argument or ""
    if not question.strip():
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            'so write one, as in selfrag ask "Which planet has the moon Titan?"'
        )
    return require_text(question.strip())


def passages_in(row: Row) -> list[Passage] | None:
    """The passages that a row brings as `ctxs`, in order; None where it brings none.

    Raises `RowFault` for anything but a list of objects with a string `text`.
    """
    given = row.get("ctxs")
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise RowFault("wrong_type", "has 'ctxs' that are no list of objects")
    return as_passages(
        Passage(
            id=id_of(each, "id", otherwise=""),
            title=text_field(each, "title"),
            text=text_field(each, "text", required=True),
            source=text_field(each, "source"),
            page=_page(each, "page"),
            last_page=_page(each, "last_page"),
        )
        for each in given
    )


def open_source(
    source: Source, model: ModelOptions, report: Reporter, *, by_paragraph: bool = False
) -> tuple[Retriever, Engine, list[Passage] | None]:
    """What finds passages, the language model, and the passages where they are given in a file.

    `by_paragraph`: every paragraph of a document is one, as what a document says of one subject
    supports nothing about another.
    """
    if source.passages is None:
        return *indexes.load(source.index, model, report), None
    own = _passages_of(source.passages, report, by_paragraph=by_paragraph)
    return GivenPassages(own), open_engine(model, report), own


def _passages_of(path: Path, report: Reporter, *, by_paragraph: bool) -> list[Passage]:
    """A passage a document of the file, in order: of rows one each, else the file."""
    from selfrag.ingest.chunking import paragraphs
    from selfrag.ingest.formats import Format, format_of
    from selfrag.ingest.readers import read_documents

    if path.is_dir():
        raise BadInput(
            f"cannot take passages from {path}: it is a folder; expected one file, so name a file, "
            "or make an index of the folder and name that with --index"
        )
    faults: list[Skipped] = []
    documents = list(read_documents([path], on_skip=faults.append))
    if not documents:
        found = next((fault.reason for fault in faults), "no text in it")
        raise BadInput(
            f"cannot take passages from {path}: found {found}; expected passages, as JSON "
            "lines with `text` and `title`, or a document, so name another file"
        )
    for fault in faults:
        report.say(str(fault))
    if by_paragraph and format_of(path) not in (Format.TABLE, Format.JSON_LINES, Format.JSON):
        return as_passages(passage for each in documents for passage in paragraphs(each))
    return as_passages(
        Passage(id=each.id, title=each.title, text=each.text, source=each.source)
        for each in documents
    )


def _page(row: Row, name: str) -> int:
    found = row.get(name) or 0
    if type(found) is not int:
        raise RowFault("wrong_type", f"has {found!r:.40} as {name!r}, expected a whole number")
    return found


@contextmanager
def continued(
    out: Path, rows: Sequence[Row], facts: Mapping[str, Any], data: Path, *, restart: bool
) -> Iterator[tuple[AppendLog, int]]:
    """The file `out`, to add what was found for `rows` from `data`, and how many are done.

    `facts`, in a file beside it, are what a later run must share to continue; `restart` empties
    `out`. Raises `BadInput` where the rows there are of other questions or another run.
    """
    with AppendLog(out) as log:
        if restart:
            log.keep(0)
        if log.is_regular:
            claim_run(
                beside(out, ".plan.json"),
                facts,
                has_results=not log.is_empty,
                way_out="name another file, or give --restart",
            )
        n_done = 0
        for line in log:
            if n_done == len(rows) or _question_in(line) != question_of(rows[n_done]):
                raise BadInput(
                    f"cannot go on with {out}: its row {n_done + 1} is not that of question "
                    f"{n_done + 1} of {data}, expected the same questions in the same order; name "
                    "another file, or give --restart"
                )
            n_done += 1
        log.keep(n_done)
        yield log, n_done


def _question_in(line: bytes) -> str:
    try:
        return question_of(dict(json.loads(line)))
    except (RecursionError, TypeError, ValueError):
        return ""


def keep_rejects(out: Path, rejects: Sequence[Reject]) -> str:
    """Writes the rows that could not be used beside `out`, and says so; empty for none."""
    path = beside(out, ".rejects.jsonl")
    is_kept = is_plain(out)  # nothing lies beside a pipe
    if is_kept and rejects:
        write_rows(path, [each.to_line() for each in rejects])
    elif is_kept:
        path.unlink(missing_ok=True)
    if not rejects:
        return ""
    where = f", kept in {path}" if is_kept else ""
    return f"left out {counted(len(rejects), 'row')}{where}: {named(rejects)}"


def index_facts(index: str | None, store: Any) -> dict[str, str]:
    """Which index is read, and when it was built: '' for a database, which is no one's build."""
    name = index if index is None or is_remote(index) else str(Path(index).resolve())
    manifest = getattr(store, "manifest", None)
    return {"index": name or "demo", "made": manifest.created_at if manifest else ""}
