"""Numbered rows of JSON files, and what could not be used of them: nothing is dropped in silence.

Reads JSON Lines and JSON lists, also gzip and zstd. Knows nothing of what the rows are for, except
the names that questions, ids and gold answers have in the files of the field.
"""

import ast
import gzip
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from selfrag.errors import BadInput, MissingPackage
from selfrag.files import read_errors
from selfrag.text import counted

T = TypeVar("T")
Row = dict[str, Any]

MAX_REJECT_CHARACTERS = 2000
N_NAMED = 3  # rejects named in a sentence

_BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class RowFault(ValueError):
    """A row that cannot be used: `reason` in one word, to be counted, and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row, or a part of one, that could not be used.

    `number`: its line, or item of a list, from 1. `reason`: one word, to be counted. `detail`
    follows the words `line 3`, as in `misses 'question'`. `row`: as read, text of a line at most
    2,000 characters. `id` and `stage` where they are known.
    """

    reason: str
    detail: str
    number: int = 0
    id: str = ""
    stage: str = "read"
    row: Any = None

    def __str__(self) -> str:
        return f"line {self.number} {self.detail}"

    @property
    def place(self) -> str:
        """The row's id, or else its number."""
        return self.id or f"row {self.number}"

    @property
    def text(self) -> str:
        """The row as text, at most 2,000 characters."""
        text = self.row if isinstance(self.row, str) else json.dumps(self.row, ensure_ascii=False)
        return text[:MAX_REJECT_CHARACTERS]

    def to_line(self) -> Row:
        """`line`, `reason` and `text`: the form beside training rows and retrieved passages."""
        return {"line": self.number, "reason": self.detail, "text": self.text}


def named(rejects: Sequence[Reject]) -> str:
    """The first rejects in words."""
    more = f" and {len(rejects) - N_NAMED} more" if len(rejects) > N_NAMED else ""
    return ", ".join(map(str, rejects[:N_NAMED])) + more


def as_read(number: int, row: Row) -> Row:
    """The row itself: for `read_rows`."""
    return row


def read_rows(
    path: Path, parse: Callable[[int, Row], T], *, what: str = "rows"
) -> Iterator[tuple[int, T | Reject]]:
    """What `parse` makes of every object of a file, with its number from 1; blank lines go.

    The file holds a JSON object a line, or is one JSON list, alone or under `data`; plain, gzip or
    zstd, whatever it is called. A row that is no object in UTF-8, or that `parse` raises `RowFault`
    (or `KeyError`, `TypeError`, `ValueError`) for, is a `Reject`. Raises `BadInput` where the file
    cannot be read at all.
    """
    yield from parse_rows(read_values(path, what=what), parse)


def parse_rows(
    rows: Iterable[tuple[int, Any]], parse: Callable[[int, Row], T]
) -> Iterator[tuple[int, T | Reject]]:
    """What `parse` makes of numbered values, as in `read_rows`; rejects stay as they are."""
    for number, row in rows:
        yield number, row if isinstance(row, Reject) else _parsed(number, row, parse)


def read_values(path: Path, *, what: str = "rows") -> Iterator[tuple[int, Any]]:
    """Like `read_rows`, but any JSON value is a row."""
    with read_errors(what, path), _opened(path) as file:
        first, n_blank = b"", 0
        for line in file:
            first = line.removeprefix(_BOM) if n_blank == 0 else line
            if first.strip():
                break
            n_blank += 1
        if first.startswith(_UTF_16):
            raise BadInput(
                f"cannot read {what} from {path}: it is UTF-16; expected UTF-8, so convert it"
            )
        listed = _listed(path, first, file, what)
        if isinstance(listed, list):
            yield from ((n, _checked(n, item)) for n, item in enumerate(listed, start=1))
            return
        for number, line in enumerate(listed, start=n_blank + 1):
            if line.strip():
                yield number, _line(number, line)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        start = file.peek(4)  # of a pipe, too
        if start.startswith(_GZIP):
            yield io.BufferedReader(_Packed(gzip.GzipFile(fileobj=file)))
        elif start.startswith(_ZSTD):
            yield io.BufferedReader(_Packed(_zstd(file, path)))
        else:
            yield file


def _zstd(file: BinaryIO, path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingPackage(
            f'cannot read {path}: it is zstd-compressed; run `pip install "selfrag[eval]"`, or '
            "unpack it"
        ) from error
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


class _Packed(io.RawIOBase):
    """A compressed stream, any damage of which is an `OSError`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._stream.read(len(buffer))
        except Exception as error:  # zlib.error, EOFError, BadGzipFile, ZstdError: no common base
            raise OSError(f"its compression is damaged or incomplete ({error})") from error
        buffer[: len(piece)] = piece
        return len(piece)


def _listed(path: Path, first: bytes, file: BinaryIO, what: str) -> list[Any] | Iterator[bytes]:
    """The items of a file that is one JSON value; else its lines, from `first` on."""
    value = _value(first)
    is_row = value is not _NO_VALUE and not _is_wrapped(value)
    if is_row or first.lstrip()[:1] not in (b"[", b"{"):
        return _chained(first, file)
    rest = list(file)  # one value over many lines, a list on one, or a damaged first row
    if value is _NO_VALUE:
        value = _value(b"".join([first, *rest]))
    elif any(map(bytes.strip, rest)):  # JSON Lines, whose first row is a list
        return _chained(first, rest)
    if value is not _NO_VALUE:
        items = value.get("data") if isinstance(value, dict) else value
        return items if isinstance(items, list) else [value]
    if first.lstrip()[:1] == b"[":
        raise BadInput(
            f"cannot read {what} from {path}: it begins like a JSON list and is none; expected "
            "one complete list, or one object a line, so fix it or name another"
        )
    return _chained(first, rest)


def _chained(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _is_wrapped(value: Any) -> bool:
    return isinstance(value.get("data") if isinstance(value, dict) else value, list)


_NO_VALUE = object()


def _value(content: bytes) -> Any:
    try:
        return _loads(content)
    except (ValueError, RecursionError):
        return _NO_VALUE


def _loads(content: bytes) -> Any:
    return json.loads(content.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _line(number: int, line: bytes) -> Any:
    text = line.decode("utf-8", "backslashreplace").strip()[:MAX_REJECT_CHARACTERS]
    try:
        value = _loads(line)
    except UnicodeDecodeError as error:
        detail = f"is not UTF-8 (byte {error.start + 1} is 0x{line[error.start]:02x})"
        return Reject(reason="not_utf8", detail=detail, number=number, row=text)
    except RecursionError:
        detail = "is not JSON (nested too deeply)"
        return Reject(reason="not_json", detail=detail, number=number, row=text)
    except ValueError as error:
        return Reject(reason="not_json", detail=f"is not JSON ({error})", number=number, row=text)
    return _checked(number, value) if b"\\u" in line else value


def _checked(number: int, value: Any) -> Any:
    # JSON can spell half a surrogate pair, which no tokenizer and no UTF-8 file takes.
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        detail = "has half a surrogate pair, which is no text"
        return Reject(reason="not_text", detail=detail, number=number, row=json.dumps(value))
    return value


def _parsed(number: int, row: Any, parse: Callable[[int, Row], T]) -> T | Reject:
    try:
        if not isinstance(row, dict):
            raise RowFault("wrong_type", f"is {json_kind(row)}, not an object")
        return parse(number, row)
    except RowFault as error:
        reason, detail = error.reason, str(error)
    except KeyError as error:
        reason, detail = "missing_field", f"misses {error}"
    except (TypeError, ValueError) as error:
        said = str(error)
        reason = "wrong_type"
        detail = said if said.startswith(("is ", "has ")) else f"is no such row ({said})"
    return Reject(reason=reason, detail=detail, number=number, row=row)


def json_kind(value: Any) -> str:
    """What JSON calls the kind of `value`, with its article."""
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


# Fields of a row


def text_field(row: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    """The string `name`, empty where it is missing or null; raises `RowFault`."""
    value = row.get(name)
    if value is None:
        if required:
            raise RowFault("missing_field", f"misses {name!r}")
        return ""
    if not isinstance(value, str):
        raise RowFault("wrong_type", f"has {json_kind(value)} as {name!r}, expected a string")
    if required and not value.strip():
        raise RowFault("empty_field", f"has an empty {name!r}")
    return value


def id_of(row: Mapping[str, Any], *names: str, otherwise: str = "") -> str:
    """The first of the ids `names` that the row has, as a string; numbers, also 0, are ids."""
    for name in names or ("id", "q_id", "qid", "_id"):
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowFault("wrong_type", f"has {json_kind(value)} as {name!r}, expected a string")
        return str(value)
    return otherwise


# Ours, the released files', one answer, FlashRAG's and PopQA's.
GOLD_NAMES = ("answers", "golds", "answer", "golden_answers", "possible_answers")


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The gold strings of a row, by the first of `GOLD_NAMES` that has any; none where unknown."""
    for name in GOLD_NAMES:
        if strings := gold_strings(row.get(name), name):
            return strings
    return ()


def gold_strings(value: Any, name: str = "answers") -> tuple[str, ...]:
    """The gold strings in the field `name`, each once, empty ones left out.

    One string is one answer, unless it spells a list of strings, as PopQA and DPR write them.
    Numbers are answers as they are written, true and false as words; an object gives its `value`
    and `aliases` (TriviaQA). Raises `RowFault` for any other object.
    """
    strings = (_spelt_list(value) or [value]) if isinstance(value, str) else _strings(value, name)
    return tuple(dict.fromkeys(each.strip() for each in strings if each.strip()))


def _strings(value: Any, name: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, str | int | float):
        return [str(value)]
    if isinstance(value, Mapping) and {"value", "aliases"} & value.keys():
        return [*_strings(value.get("value"), name), *_strings(value.get("aliases"), name)]
    if isinstance(value, Sequence):
        return [text for each in value for text in _strings(each, name)]
    raise RowFault("wrong_type", f"has {json_kind(value)} in {name!r}, expected strings")


def _spelt_list(text: str) -> list[str] | None:
    """The strings of `["a", "b"]`, in JSON or as Python prints a list."""
    if not text.lstrip().startswith("["):
        return None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = read(text)
            if isinstance(value, list) and all(isinstance(each, str) for each in value):
                return value
    return None


def question_of(row: Mapping[str, Any]) -> str:
    """`question`, else `instruction`, else BEIR's `text` beside an `_id`, stripped; else empty."""
    for name in ("question", "instruction", *(["text"] if "_id" in row else [])):
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def read_questions(path: Path) -> tuple[dict[int, Row], list[Reject]]:
    """The rows with a question by number, in order, and the others.

    Their ids and gold answers are usable. Raises `BadInput` when the file cannot be read or no row
    can be used.
    """
    found = dict(read_rows(path, _question_row, what="questions"))
    rows = {n: each for n, each in found.items() if not isinstance(each, Reject)}
    rejects = [each for each in found.values() if isinstance(each, Reject)]
    if not rows:
        what = f"none with a question in {counted(len(rejects), 'row')}" if rejects else "no rows"
        detail = f" ({named(rejects)})" if rejects else ""
        raise BadInput(
            f"cannot read questions from {path}: found {what}{detail}; expected JSON objects with "
            "`question` or `instruction`, so fix them or name another file"
        )
    return rows, rejects


def _question_row(number: int, row: Row) -> Row:
    if not question_of(row):
        raise RowFault("no_question", "has no question")
    id_of(row)
    answers_of(row)
    return row
