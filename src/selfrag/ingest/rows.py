"""Rows to documents: JSON lines, CSV and TSV, and the corpora of Self-RAG, DPR and FlashRAG.

One row is held at a time. Knows nothing of passages or indexes.
"""

import csv
import json
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.ingest.encodings import guess_doubt, guess_encoding, known_encoding, n_damaged, valid
from selfrag.ingest.faults import LineFaults, OnSkip
from selfrag.ingest.formats import Format, ReadOptions, format_of, open_bytes
from selfrag.passage import Document

# Characters of a line or field. Beyond it lies a quote that was never closed, or no such format.
MAX_FIELD = 1 << 24
# Encoders read some 400 words; a row that is kept whole though it is much longer is worth a word.
_LONG_ROW = 8000
_SAMPLE_BYTES = 1 << 20
_OWN_FIELDS = {"text", "contents", "title", "id", "_id", "source", "metadata"}
_NAMED = _OWN_FIELDS | {"section", "url"}


def read_rows(path: Path, *, on_skip: OnSkip, options: ReadOptions) -> Iterator[Document]:
    """The documents of a JSON lines, CSV or TSV file, gzipped or not, one a row.

    Fields: `text`, else `contents`, whose first line is the title where there is no `title`
    (FlashRAG); a `section` is joined to the title (the demo corpus of Self-RAG); `id` or `_id`
    makes the row a passage of that name unless `options.cut_rows`; `source`, else `url`, else
    `path:line` is the source; what else is a string, number or truth value, there or in an object
    `metadata`, is metadata. A table has them by its header row (DPR), which for CSV may be parted
    by commas, semicolons or tabs.

    A row that cannot be used is reported and left out. Raises `BadInput`, giving the reason alone,
    where no row can be used, `UnicodeDecodeError` for UTF-16 that breaks off, and what broken gzip
    raises.
    """
    faults = LineFaults(path, on_skip)
    is_json = format_of(path) is Format.JSON_LINES
    encoding = _encoding_of(path, options.encoding, is_json, faults)
    with (
        open_bytes(path) as raw,
        TextIOWrapper(
            raw, encoding=encoding, errors="surrogateescape", newline="\n" if is_json else ""
        ) as stream,
        closing(faults),
    ):
        rows = _json_rows(stream, faults) if is_json else _table_rows(stream, path, faults)
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
    for line, row in rows:
        try:
            document = _document(row, f"{path}:{line}", options.cut_rows)
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
            f"{n_long} rows of more than {_LONG_ROW} characters are kept whole, as they have an "
            "id; encoders see their beginnings only, so have rows cut if they are no passages"
        )


def _document(row: Any, place: str, is_cut: bool) -> Document:
    if not isinstance(row, dict):
        raise TypeError("not a JSON object")
    title, text = _title_and_text(row)
    name = _string(row, "id") or _string(row, "_id")
    source = _string(row, "source") or _string(row, "url") or place
    metadata = _metadata(row)
    if name and is_cut:
        metadata = (("id", valid(name)), *metadata)
    return Document(
        title=valid(title),
        text=valid(text),
        source=valid(source),
        id="" if is_cut else valid(name),
        metadata=metadata,
    )


def _title_and_text(row: dict[str, Any]) -> tuple[str, str]:
    if not {"text", "contents"} & row.keys():
        raise KeyError("it has no text or contents")
    is_contents = row.get("text") in (None, "")
    text = row.get("contents") if is_contents else row["text"]
    if text is not None and not isinstance(text, str):
        raise TypeError("its text is not a string")
    title, section = _string(row, "title"), _string(row, "section")
    if title and section:
        return f"{title}: {section}", text or ""
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


def _metadata(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    is_own = _OWN_FIELDS if row.get("source") else _OWN_FIELDS | {"url"}
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


def _lines(stream: TextIOWrapper, faults: LineFaults) -> Iterator[tuple[int, str]]:
    number = 0
    while line := stream.readline(MAX_FIELD):
        number += 1
        if len(line) < MAX_FIELD or line.endswith("\n"):
            yield number, line
            continue
        faults.line(number, f"more than {MAX_FIELD} characters; are these JSON lines?")
        while line and not line.endswith("\n"):
            line = stream.readline(MAX_FIELD)


def _table_rows(
    stream: TextIOWrapper, path: Path, faults: LineFaults
) -> Iterator[tuple[int, dict[str, str]]]:
    # The default, 131072, is less than some articles have. The setting is the process's.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    # Pieces of an endless line; a quoted field of several pieces is still one field.
    pieces = iter(lambda: stream.readline(MAX_FIELD), "")
    delimiter, header = _header(next(pieces, ""), path)
    reader = csv.reader(pieces, delimiter=delimiter)
    while True:
        line = reader.line_num + 2  # the header has been read apart
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.line(line, f"{error} (to line {reader.line_num + 1}); is a quote left open?")
            continue
        if len(row) == len(header) and all(map(_is_decoded, row)):
            yield line, dict(zip(header, row, strict=True))
        elif row:
            faults.line(line, _row_fault(row, header))


def _header(line: str, path: Path) -> tuple[str, list[str]]:
    is_tsv = ".tsv" in (suffix.lower() for suffix in path.suffixes)
    for delimiter in ("\t",) if is_tsv else (",", ";", "\t"):
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        names = [name.lower() if name.lower() in _NAMED else name for name in names]
        if {"text", "contents"} & set(names):
            return delimiter, names
    found = line.strip()[:80]
    raise BadInput(f"no column text or contents: the first line is {found!r}, expected a header")


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
