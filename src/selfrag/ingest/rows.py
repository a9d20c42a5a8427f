"""Rows to documents: JSON, JSON lines, CSV and TSV, and the corpora of Self-RAG, DPR and FlashRAG.

One row is held at a time. Knows nothing of passages or indexes.
"""

import csv
import json
import re
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.ingest.encodings import guess_doubt, guess_encoding, known_encoding, n_damaged, valid
from selfrag.ingest.faults import LineFaults, OnSkip
from selfrag.ingest.formats import Format, ReadOptions, format_of, name_of, open_bytes
from selfrag.passage import Document
from selfrag.rows import Reject, read_values
from selfrag.text import counted

# Characters of a line or field. Beyond it lies a quote that was never closed, or no such format.
MAX_FIELD = 1 << 24
# Encoders read some 400 words; a row that is kept whole though it is much longer is worth a word.
_LONG_ROW = 8000
_SAMPLE_BYTES = 1 << 20
_MAX_LOOKAHEAD = 1 << 20  # characters of a row of several lines
_SEPARATOR_LINE = re.compile(r"\"?sep=.\"?\s*", re.IGNORECASE)
_NAMES_TOLD = 10
_TEXT_FIELDS = {"text", "contents"}
_OWN_FIELDS = {"text", "contents", "title", "id", "_id", "source", "metadata"}
_NAMED = _OWN_FIELDS | {"section", "url"}


def read_rows(path: Path, *, on_skip: OnSkip, options: ReadOptions) -> Iterator[Document]:
    """The documents of a JSON, JSON lines, CSV or TSV file, gzipped or not, one a row.

    The text is what `options.text_column` names, else `text`, else `contents`, whose first line is
    the title where there is no `title` (FlashRAG). A file whose first row has neither gives every
    row as lines of "column: value", titled by the file's name. `options.title_column`, else
    `title` and a `section` (the demo corpus of Self-RAG), make the title. `id` or `_id` makes a row
    with a text of its own a passage of that name unless `options.cut_rows`; `source`, else `url`,
    else `path:line` is the source; what else is a string, number or truth value, there or in an
    object `metadata`, is metadata. A table has its columns by its header row (DPR), which for CSV
    may be parted by commas, semicolons, tabs or bars; a TSV file may be quoted as CSV is, or not.

    A row that cannot be used is reported and left out. Raises `BadInput`, giving the reason alone,
    where no row can be used, `UnicodeDecodeError` for UTF-16 that breaks off, and what broken gzip
    raises.
    """
    faults = LineFaults(path, on_skip)
    if format_of(path) is Format.JSON:
        with closing(faults):
            yield from _documents(_json_values(path, faults), path, faults, options)
        return
    is_json = format_of(path) is Format.JSON_LINES
    encoding = _encoding_of(path, options.encoding, is_json, faults)
    with (
        open_bytes(path) as raw,
        TextIOWrapper(
            raw, encoding=encoding, errors="surrogateescape", newline="\n" if is_json else ""
        ) as stream,
        closing(faults),
    ):
        rows = _json_rows(stream, faults) if is_json else _table_rows(stream, path, faults, options)
        yield from _documents(rows, path, faults, options)


def _encoding_of(path: Path, declared: str, is_json: bool, faults: LineFaults) -> str:
    sample = _sample(path)
    if is_json:  # is UTF-8, says RFC 8259
        return known_encoding(sample) or "utf-8"
    known = known_encoding(sample, named=declared, is_cut=len(sample) == _SAMPLE_BYTES)
    if known:
        return known
    if n_damaged(sample, "utf-8"):
        return "utf-8"  # the rows that are not are told one by one
    guess = guess_encoding(sample)
    faults.note(guess_doubt(guess))
    return guess


def _sample(path: Path) -> bytes:
    pieces, n_missing = [], _SAMPLE_BYTES
    with open_bytes(path) as stream, suppress(EOFError, zlib.error):  # met again by the reader
        while n_missing and (piece := stream.read(min(n_missing, 1 << 13))):
            pieces.append(piece)
            n_missing -= len(piece)
    return b"".join(pieces)


def _documents(
    rows: Iterator[tuple[int, Any]], path: Path, faults: LineFaults, options: ReadOptions
) -> Iterator[Document]:
    n_long = 0
    has_text: bool | None = True if options.text_column else None  # not known yet
    for line, row in rows:
        try:
            if not isinstance(row, dict):
                raise TypeError("not a JSON object")
            if has_text is None:
                has_text = bool(_TEXT_FIELDS & row.keys())
            document = (
                _document(row, f"{path}:{line}", options)
                if has_text
                else _row_as_lines(row, f"{path}:{line}", path, options)
            )
        except (TypeError, KeyError) as error:
            faults.line(line, f"not a document: {error.args[0]}")
            continue
        if not document.text.strip():
            faults.blank()
            continue
        n_long += bool(document.id) and len(document.text) > _LONG_ROW
        yield document
    if n_long:
        faults.note(
            f"{counted(n_long, 'row')} of more than {_LONG_ROW} characters with an id, kept whole; "
            "encoders see their beginnings only, so have rows cut if they are no passages"
        )


def _document(row: dict[str, Any], place: str, options: ReadOptions) -> Document:
    title, text = _title_and_text(row, options)
    name = _string(row, "id") or _string(row, "_id")
    metadata = _metadata(row, {_named(row, each) for each in options.text_column})
    if name and options.cut_rows:
        metadata = (("id", valid(name)), *metadata)
    return Document(
        title=valid(title),
        text=valid(text),
        source=valid(_string(row, "source") or _string(row, "url") or place),
        id="" if options.cut_rows else valid(name),
        metadata=metadata,
    )


def _row_as_lines(row: dict[str, Any], place: str, path: Path, options: ReadOptions) -> Document:
    """A row of no text of its own. Its id names it for others, but no passage: it may be cut."""
    return Document(
        title=valid(_title(row, options) or name_of(path)),
        text=valid(_lines_of(row, row)),
        source=place,
        metadata=_metadata(row, {"source"} & row.keys()),
    )


def _lines_of(row: dict[str, Any], names: Iterable[str]) -> str:
    values = ((name, row[name]) for name in names)
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in values
        if value not in (None, "", [], {})
    )


def _title(row: dict[str, Any], options: ReadOptions) -> str:
    names = [_named(row, each) for each in options.title_column] or ["title", "section"]
    return ": ".join(filter(None, (_string(row, name) for name in names)))


def _named(row: dict[str, Any], name: str) -> str:
    """The field that a user means, in whatever case."""
    if name in row:
        return name
    for each in row:
        if each.lower() == name.lower():
            return each
    raise KeyError(f"it has no {name!r} among {', '.join(map(repr, list(row)[:_NAMES_TOLD]))}")


def _title_and_text(row: dict[str, Any], options: ReadOptions) -> tuple[str, str]:
    title = _title(row, options)
    if options.text_column:
        names = [_named(row, each) for each in options.text_column]
        return title, _string(row, names[0]) if len(names) == 1 else _lines_of(row, names)
    if not _TEXT_FIELDS & row.keys():
        raise KeyError("it has no text or contents")
    is_contents = row.get("text") in (None, "")
    text = row.get("contents") if is_contents else row["text"]
    if text is not None and not isinstance(text, str):
        raise TypeError("its text is not a string")
    if title or not is_contents or not text or "\n" not in text:
        return title, text or ""
    first, rest = text.split("\n", 1)
    return _unquoted(first.strip()), rest


def _unquoted(title: str) -> str:
    if len(title) > 1 and title[0] == title[-1] == '"':
        return title[1:-1].replace('""', '"')
    return title


def _string(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"its {name} is not a string")


def _metadata(row: dict[str, Any], used: set[str]) -> tuple[tuple[str, str], ...]:
    is_own = used | (_OWN_FIELDS if row.get("source") else _OWN_FIELDS | {"url"})
    found = {name: value for name, value in row.items() if name not in is_own}
    nested = row.get("metadata")
    if isinstance(nested, dict):
        found |= nested
    elif nested is not None:
        found["metadata"] = nested
    return tuple(
        (valid(name), valid(str(value)))
        for name, value in found.items()
        if isinstance(value, str | int | float) and value != ""
    )


def _json_values(path: Path, faults: LineFaults) -> Iterator[tuple[int, Any]]:
    """The items of a list, alone or as `data` in an object; else the object or value itself."""
    for number, value in read_values(path, what="rows"):
        if isinstance(value, Reject):
            faults.line(number, value.detail)
        else:
            yield number, value if isinstance(value, dict) else {"text": _value_text(value)}


def _value_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _json_rows(stream: TextIOWrapper, faults: LineFaults) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(stream, faults):
        if not line.strip():
            continue
        try:
            if not _is_decoded(line):
                raise ValueError("not UTF-8")
            yield number, json.loads(line.removeprefix("\ufeff"))
        except RecursionError:
            faults.line(number, "not JSON: nested too deeply")
        except ValueError as error:
            faults.line(number, f"not JSON: {error}")


def _lines(
    stream: TextIOWrapper, faults: LineFaults, *, first: int = 1
) -> Iterator[tuple[int, str]]:
    number = first - 1
    while line := stream.readline(MAX_FIELD):
        number += 1
        if len(line) < MAX_FIELD or line.endswith("\n"):
            yield number, line
            continue
        faults.line(number, f"more than {MAX_FIELD} characters; are these lines of rows?")
        while line and not line.endswith("\n"):
            line = stream.readline(MAX_FIELD)


def _table_rows(
    stream: TextIOWrapper, path: Path, faults: LineFaults, options: ReadOptions
) -> Iterator[tuple[int, dict[str, str]]]:
    # The default, 131072, is less than some articles have. The setting is the process's.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    # Pieces of an endless line; a quoted field of several pieces is still one field.
    pieces = iter(lambda: stream.readline(MAX_FIELD), "")
    first, n_read = next(pieces, ""), 1
    if _SEPARATOR_LINE.fullmatch(first):  # by which Excel tells itself the delimiter
        first, n_read = next(pieces, ""), 2
    delimiter, header = _header(first, path)
    n_fields = len(header)
    try:
        for name in (*options.text_column, *options.title_column):
            _named(dict.fromkeys(header), name)
    except KeyError as error:
        raise BadInput(f"{error.args[0]}, its columns") from error
    rows = (
        _tab_rows(_lines(stream, faults, first=n_read + 1), n_fields)
        if delimiter == "\t"
        else _csv_rows(pieces, delimiter, faults, n_read)
    )
    for line, row in rows:
        if len(row) == n_fields and all(map(_is_decoded, row)):
            yield line, dict(zip(header, row, strict=True))
        elif row:
            faults.line(line, _row_fault(row, header))


def _csv_rows(
    pieces: Iterator[str], delimiter: str, faults: LineFaults, n_read: int
) -> Iterator[tuple[int, list[str]]]:
    """The rows with their lines, of which `n_read` have been read before, the header among them."""
    reader = csv.reader(pieces, delimiter=delimiter)
    while True:
        line = reader.line_num + n_read + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.line(
                line, f"{error} (to line {reader.line_num + n_read}); is a quote left open?"
            )
            continue
        yield line, row


def _tab_rows(lines: Iterator[tuple[int, str]], n_fields: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of lines parted by tabs, of which some writers quote fields as CSV and some do not.

    A line is a row. Its quotes are those of CSV where they are well-formed as such, else they are
    text. Lines that are no rows, from one with a quote left open to the one that closes it, are a
    row together.
    """
    left = deque[tuple[int, str]]()  # looked at already
    while True:
        number, line = left.popleft() if left else next(lines, (0, ""))
        if not number:
            return
        row = _quoted_row(line, n_fields)
        if '"' in line and not row:
            quoted, n_more = _lines_together(line, left, lines, n_fields)
            for _ in range(n_more):
                left.popleft()
            row = quoted
        bare = line.rstrip("\r\n")
        yield number, row or (bare.split("\t") if bare else [])


def _quoted_row(text: str, n_fields: int) -> list[str]:
    """The fields of a text that is one well-formed row of CSV with quotes, else []."""
    if '"' not in text:
        return []
    try:
        rows = list(csv.reader(StringIO(text, newline=""), delimiter="\t", strict=True))
    except csv.Error:
        return []
    return rows[0] if len(rows) == 1 and len(rows[0]) == n_fields else []


def _lines_together(
    line: str, left: deque[tuple[int, str]], lines: Iterator[tuple[int, str]], n_fields: int
) -> tuple[list[str], int]:
    """The row that begins with `line` and ends some lines later, and how many; or ([], 0)."""
    text, n_more, are_rows = line, 0, line.count("\t") == n_fields - 1
    while len(text) <= _MAX_LOOKAHEAD:
        if n_more == len(left):
            following = next(lines, None)
            if following is None:
                break
            left.append(following)
        following_line = left[n_more][1]
        n_more += 1
        text += following_line
        are_rows = are_rows and following_line.count("\t") == n_fields - 1
        if text.count('"') % 2 == 0:
            row = [] if are_rows else _quoted_row(text, n_fields)
            return (row, n_more) if row else ([], 0)
    return [], 0


def _header(line: str, path: Path) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns: that with a text, else the one with the most."""
    is_tsv = ".tsv" in (suffix.lower() for suffix in path.suffixes)
    found = []
    for delimiter in ("\t",) if is_tsv else (",", ";", "\t", "|"):
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        names = [name.lower() if name.lower() in _NAMED else name for name in names]
        found.append((bool(_TEXT_FIELDS & set(names)), len(names), delimiter, names))
    _, _, delimiter, names = max(found, key=lambda each: each[:2])
    if not any(names):
        raise BadInput(f"no header: its first line is {line.strip()[:80]!r}")
    return delimiter, _distinct(names)


def _distinct(names: list[str]) -> list[str]:
    """The names of columns, each another: the second `x` is `x (2)`, one without is `column 3`."""
    counts: Counter[str] = Counter()
    distinct = []
    for number, name in enumerate(names, start=1):
        counts[name] += 1
        again = f"{name} ({counts[name]})" if counts[name] > 1 else name
        distinct.append(again if name else f"column {number}")
    return distinct


def _row_fault(row: list[str], header: list[str]) -> str:
    if len(row) != len(header):
        return f"found {len(row)} fields, expected {len(header)} as in the header"
    return "bytes that are not text in the encoding of the file"


def _is_decoded(text: str) -> bool:
    """Whether every byte was text; those that were not are lone surrogates now."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
