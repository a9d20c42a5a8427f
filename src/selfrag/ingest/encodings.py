"""Bytes to text: UTF-8, what a mark or declaration says, or else a guess, and called one.

Knows nothing of files.
"""

import codecs

from selfrag.errors import BadInput

# Longest first: the mark of UTF-16 LE begins that of UTF-32 LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What a guess may say, the likelier first. Of all that Python knows, so many fit short texts that
# charset-normalizer takes "café" in Latin-1 for UTF-16.
_GUESSES = (
    "cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp932 euc_jp gb18030 big5 euc_kr koi8_r"
).split()
_SAMPLE_BYTES = 1 << 20


def decode(data: bytes, *, declared: str = "") -> tuple[str, str]:
    """The text without any byte order mark, and what is doubtful about it, or ''.

    `declared` is an encoding to use, if it fits, before any guess. Raises `BadInput`, giving the
    reason alone, for what is no text.
    """
    known = known_encoding(data, declared=declared)
    name = known or guess_encoding(data[:_SAMPLE_BYTES])
    try:
        text = data.decode(name)
    except UnicodeError as error:
        raise BadInput(f"not text in {name} ({error}); name its encoding or convert it") from error
    if "\0" in text:
        raise BadInput("not text: it has NUL characters; is it another format?")
    return text, "" if known else doubt(name)


def known_encoding(data: bytes, *, declared: str = "", is_cut: bool = False) -> str:
    """What a byte order mark says, else `declared` or UTF-8 where it fits, else ''.

    Of `data` the end is missing where `is_cut`.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    fitting = (name for name in (declared, "utf-8") if name and _fits(data, name, is_cut))
    return marked or next(fitting, "")


def guess_encoding(sample: bytes) -> str:
    """The likeliest of some encodings; raises `BadInput`, giving the reason alone."""
    if b"\0" in sample:
        raise BadInput("not text: it has NUL bytes; is it another format, or UTF-16 without mark?")
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise BadInput(
            "not UTF-8; name its encoding, convert it, or have the encoding guessed: "
            'pip install "selfrag[documents]"'
        ) from error
    matches = from_bytes(sample, cp_isolation=list(_GUESSES))
    # Several code pages may give the very same text: one match then stands for all of them.
    ranks = [
        (round(match.chaos, 2), min(map(_rank, match.could_be_from_charset))) for match in matches
    ]
    if not ranks:
        raise BadInput("not text in any encoding tried; name its encoding or convert it")
    return _GUESSES[min(ranks)[1]]


def doubt(name: str) -> str:
    """What is said of a guess."""
    return f"not UTF-8: read as {name}, a guess; name its encoding where that is wrong"


def valid(text: str) -> str:
    """Without lone surrogates, which JSON can spell and neither tokenizers nor files can hold."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _fits(data: bytes, name: str, is_cut: bool) -> bool:
    try:
        codecs.getincrementaldecoder(name)().decode(data, final=not is_cut)
    except (UnicodeError, LookupError):
        return False
    return True


def _rank(name: str) -> int:
    return _GUESSES.index(name)
