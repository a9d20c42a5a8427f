"""Bytes to text: what a mark says, UTF-8, what is declared, or else a guess, and called one.

Knows nothing of files.
"""

import codecs
import re

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
# Soft hyphens and marks of direction part a word for everybody who searches it; a hyphen that keeps
# a line together is a hyphen.
_UNSEEN: dict[int, str | None] = {
    **dict.fromkeys((0xAD, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, 0xFEFF)),
    **dict.fromkeys(range(0x2066, 0x206A)),
    **dict.fromkeys((0x2010, 0x2011), "-"),
}
# Text is UTF-8 with some bytes damaged where so many of its other characters are right for each.
_RIGHT_FOR_WRONG = 4

# Labels of web pages, in part by the name that Python has for them, and what browsers read them as
# (Encoding Standard, section 4.2): pages that say Latin-1 mean Windows-1252.
_LABELS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "dos-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "logical": "iso8859-8",
    "visual": "iso8859-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "hz": "gb18030",
    "shift_jis": "cp932",
    "windows-31j": "cp932",
    "big5": "big5hkscs",
    "x-big5": "big5hkscs",
    "cn-big5": "big5hkscs",
    "euc_kr": "cp949",
    "koi": "koi8-r",
    "koi8-ru": "koi8-u",
    "mac": "mac-roman",
    "mac-ukrainian": "mac-cyrillic",
    "unicode-1-1-utf-8": "utf-8",
    "user-defined": "cp1252",
    # The label itself was read as ASCII.
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be", "unicode", "ucs-2"), "utf-8"),
}
_ALLOWED = re.compile(
    r"utf-8|iso8859-\d+|cp(?:125\d|866|874|932|949)|koi8-[ru]|mac-(?:roman|cyrillic)|euc_jp|"
    r"iso2022_jp|gb18030|big5hkscs"
)
_RAW_TEXT = re.compile(
    rb"<!--.*?(?:-->|$)|<(script|style|title|textarea|xmp)\b.*?</\1|<\?.*?>", re.DOTALL | re.I
)
_TAG = re.compile(rb"<([a-z][^\s/>]*)((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>", re.I)
_ATTRIBUTE = re.compile(rb"([^\s/>\"'=]+)(?:\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s>\"']+))?")
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s\"';]+)", re.I)
_XML = re.compile(rb"\s*<\?xml\s[^>]*?encoding\s*=\s*[\"']([^\"']+)[\"']", re.I)
_HEAD_BYTES = 1 << 14  # browsers look at 1024, and begin again where a declaration comes later


def decode(data: bytes, *, named: str = "", declared: str = "") -> tuple[str, str]:
    """The text without any byte order mark, and what is doubtful about it, or ''.

    In this order: a byte order mark, the encoding that the user `named`, UTF-8, the one that the
    text itself `declared`, UTF-8 with damaged bytes, a guess; each if it fits. Raises `BadInput`,
    giving the reason alone, for what is no text.
    """
    name = known_encoding(data, named=named, declared=declared)
    if name:
        return _text(data, name), ""
    for damaged in filter(None, ("utf-8", declared)):
        n_wrong = n_damaged(data, damaged, is_declared=damaged == declared)
        if n_wrong:
            places = f"{n_wrong} {'place is' if n_wrong == 1 else 'places are'}"
            doubt = f"{places} not {damaged} and read as \ufffd; is the file damaged?"
            return _text(data, damaged, "replace"), doubt
    guess = guess_encoding(data[:_SAMPLE_BYTES])
    return _text(data, guess), guess_doubt(guess)


def _text(data: bytes, name: str, errors: str = "strict") -> str:
    try:
        text = data.decode(name, errors)
    except UnicodeError as error:
        raise BadInput(f"not text in {name} ({error}); name its encoding or convert it") from error
    if "\0" in text:
        raise BadInput("not text: it has NUL characters; is it another format?")
    return text


def known_encoding(
    data: bytes, *, named: str = "", declared: str = "", is_cut: bool = False
) -> str:
    """What a byte order mark says, else the first of `named`, UTF-8, `declared` that fits, or ''.

    Valid UTF-8 is UTF-8 whatever is declared, as nothing else looks like it by chance; ASCII alone
    may be ISO-2022. Of `data` the end is missing where `is_cut`.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    is_escaped = declared == "iso2022_jp" and data.isascii()
    names = (named, declared, "utf-8") if is_escaped else (named, "utf-8", declared)
    return marked or next((name for name in names if name and _fits(data, name, is_cut)), "")


def n_damaged(data: bytes, name: str, *, is_declared: bool = False) -> int:
    """How many places are not in an encoding that most of a text is in; else 0.

    Of one that the text declares itself, half of the characters beyond ASCII have to be right.
    """
    if b"\0" in data:
        return 0
    text = data.decode(name, "replace")
    n_wrong = text.count("\ufffd")
    n_right = sum(not character.isascii() for character in text) - n_wrong
    return n_wrong if n_right >= n_wrong * (1 if is_declared else _RIGHT_FOR_WRONG) else 0


def declared_encoding(page: bytes) -> str:
    """What an HTML page declares, as `web_encoding`; not what it says in comments or as text."""
    head = page[:_HEAD_BYTES]
    xml = _XML.match(head)
    for name, inside in _TAG.findall(_RAW_TEXT.sub(b" ", head)):
        if name.lower() != b"meta":
            continue
        found = {key.lower(): value.strip(b"\"'") for key, value in _ATTRIBUTE.findall(inside)}
        label = found.get(b"charset", b"")
        if not label and found.get(b"http-equiv", b"").lower() == b"content-type":
            in_content = _CHARSET.search(found.get(b"content", b""))
            label = in_content[1] if in_content else b""
        encoding = web_encoding(label.decode("latin-1"))
        if encoding:
            return encoding
    return web_encoding(xml[1].decode("latin-1")) if xml else ""


def web_encoding(label: str) -> str:
    """Python's name of what browsers read a label as, or '' where they know none such."""
    plain = re.sub(r"^iso_?8859-?_?(\d+)$", r"iso-8859-\1", label.strip().lower())
    for name in (plain, plain.removeprefix("x-"), plain.removeprefix("x-x-")):
        for candidate in (name, name.replace("windows-", "cp")):
            try:
                candidate = codecs.lookup(candidate).name
            except (LookupError, ValueError):
                pass
            found = _LABELS.get(candidate, candidate)
            if _ALLOWED.fullmatch(found):
                return found
    return ""


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


def guess_doubt(name: str) -> str:
    """What is said of a guess."""
    return f"not UTF-8: read as {name}, a guess; name its encoding where that is wrong"


def visible(text: str) -> str:
    """Valid text without the characters that only tell where a line may end."""
    return valid(text).translate(_UNSEEN)


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
