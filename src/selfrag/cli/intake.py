"""Files and pages put into an index, and what is told of them.

Knows nothing of encoders or options; `selfrag index` calls it with a writer that is open.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import chain
from pathlib import Path

from selfrag.cli.report import Reporter
from selfrag.errors import StorageError
from selfrag.ingest.chunking import Chunking, chunk_document
from selfrag.ingest.faults import Skipped
from selfrag.ingest.files import SourceFile
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.readers import read_all
from selfrag.passage import Document, Passage
from selfrag.retrieval.manifest import Manifest
from selfrag.retrieval.writer import FileState, IndexWriter


class Outcome(StrEnum):
    """What became of one file; the first three are those of `FileChange`."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    SKIPPED = "skipped"


@dataclass(slots=True)
class Intake:
    """What became of all files, and every fault met on the way."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, fault: Skipped) -> None:
        """To be told at the end; a file of which nothing was read counts as skipped."""
        self.skipped.append(fault)
        self.outcomes[Outcome.SKIPPED] += fault.whole


def is_url(name: str) -> bool:
    """Whether a name on the command line is a page rather than a file."""
    return name.lower().startswith(("http://", "https://"))


def key_of(name: str | Path) -> str:
    """The name under which the index holds a file: its absolute path; a URL is its own."""
    return str(name) if is_url(str(name)) else os.path.abspath(os.path.expanduser(name))


def put_files(
    writer: IndexWriter,
    files: Sequence[SourceFile],
    intake: Intake,
    report: Reporter,
    options: ReadOptions,
) -> None:
    """Every file that the index does not hold as it is now; broken ones keep what was there."""
    held = {name: state.version for name, state in writer.files.items()}
    total = sum(file.n_bytes for file in files)
    done = 0
    for file, documents in read_all(files, on_skip=intake.skip, options=options):
        report.progress("reading", done, total)
        done += file.n_bytes
        try:
            state = FileState(
                file=key_of(file.path),
                version=file.sha256,
                n_bytes=file.n_bytes,
                mtime_ns=file.mtime_ns,
            )
        except StorageError as error:
            intake.skip(Skipped(path=file.path, reason=str(error)))
            continue
        if held.get(state.file) == state.version:
            intake.outcomes[Outcome.UNCHANGED] += 1
            continue
        # Of a file that gives no document the fault has been told; what was held of it stays.
        first = next(documents, None)
        if first is not None:
            change = writer.put_file(state, _passages(chain([first], documents), writer.manifest))
            intake.outcomes[Outcome(change.value)] += 1


def put_page(writer: IndexWriter, document: Document, intake: Intake) -> None:
    """One web page, as it is now; `source` is its URL."""
    text = f"{document.title}\n{document.text}"
    state = FileState(
        file=document.source,
        version=sha256(text.encode()).hexdigest(),
        n_bytes=len(text.encode()),
    )
    change = writer.put_file(state, _passages([document], writer.manifest))
    intake.outcomes[Outcome(change.value)] += 1


def drop_others(writer: IndexWriter, keys: Iterable[str], intake: Intake) -> None:
    """Takes out what a broken-off build of other files left."""
    gone = (set(writer.files) | writer.unfinished_files()) - set(keys)
    _delete(writer, gone, intake)


def drop_missing(writer: IndexWriter, roots: Sequence[Path], intake: Intake) -> None:
    """Takes out the files under `roots` that are no longer there."""
    gone = {
        name
        for name in set(writer.files) | writer.unfinished_files()
        if not is_url(name) and not Path(name).exists() and _is_under(Path(name), roots)
    }
    _delete(writer, gone, intake)


def named_files(writer: IndexWriter, name: str) -> set[str]:
    """The file of that name, or all files of the folder."""
    key = key_of(name)
    held = set(writer.files) | writer.unfinished_files()
    return {file for file in held if file == key or _is_under(Path(file), [Path(key)])}


def _is_under(path: Path, roots: Sequence[Path]) -> bool:
    return any(root == path or root in path.parents for root in roots)


def _delete(writer: IndexWriter, names: set[str], intake: Intake) -> None:
    if names:
        writer.delete_files(sorted(names))
        intake.outcomes[Outcome.DELETED] += len(names)


def _passages(documents: Iterable[Document], manifest: Manifest) -> Iterator[Passage]:
    chunking = Chunking(manifest.chunking)
    for document in documents:
        yield from chunk_document(document, chunking=chunking, size=manifest.chunk_words)
