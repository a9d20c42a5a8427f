"""A text that anyone wrote, as sentences to be checked: Markdown kept apart, `[n]` remembered.

Code, headings, tables and the list of sources hold no sentences; list items and quotes hold their
own. Every sentence knows its place in the text, so that marks can be added and nothing else
changes. Knows nothing of passages, models or verdicts.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import itemgetter

from selfrag.decode.subjects import opening_name, opens_with_pronoun, with_subject
from selfrag.text import sentence_spans


class BlockKind(StrEnum):
    """What a run of lines is."""

    PROSE = "prose"
    ITEM = "list item"
    QUOTE = "quote"
    HEADING = "heading"
    CODE = "code"
    TABLE = "table"
    SOURCE = "source"


TOO_SHORT = "too short to say anything"
APART = (BlockKind.HEADING, BlockKind.CODE, BlockKind.TABLE, BlockKind.SOURCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A citation in the text, as `[2]`, `[1, 3]` or `[2-4]`, at `start` to `end` (excluded)."""

    start: int
    end: int
    numbers: tuple[int, ...]
    is_footnote: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence: `text` without marks and markup; `start` and `end` are offsets in the whole.

    `end` lies behind the marks that follow the sentence. `claim`: what it says by itself, with the
    name that its first pronoun stands for where that is plain. `before`: the sentence before it in
    the same block. `why_not`: why it is no claim; empty for a claim. `is_english`: as far as told.
    """

    text: str
    claim: str
    start: int
    end: int
    marks: tuple[Mark, ...] = ()
    before: str = ""
    why_not: str = ""
    is_english: bool = True

    @property
    def is_short(self) -> bool:
        """Whether it is no claim only because it is short: it may answer a question."""
        return self.why_not == TOO_SHORT

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers that it cites, each once."""
        return tuple(dict.fromkeys(n for mark in self.marks for n in mark.numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A source that the text lists itself: its number, its first line, and what follows that."""

    number: int
    head: str
    body: str
    is_footnote: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """A text as sentences in order, the sources listed in it, and how much was kept apart.

    `ends_in_sources`: nothing follows the list of sources, footnotes aside, so it can go on there.
    """

    text: str
    sentences: tuple[Sentence, ...]
    listed: tuple[Listed, ...]
    apart: dict[BlockKind, int]
    ends_in_sources: bool = False


@dataclass(slots=True)
class _Block:
    kind: BlockKind
    lines: list[tuple[int, int]] = field(default_factory=list)  # offsets of what they say


def split_claims(text: str) -> Claims:
    """The sentences of `text`, which may be Markdown, with their places."""
    blocks = list(_blocks(text))
    is_english = is_mostly_english(" ".join(_body(text, b) for b in blocks if b.kind not in APART))
    sentences: list[Sentence] = []
    subject = ""  # of a text or a part of it, as its main headings name it
    for block in blocks:
        if block.kind not in APART:
            sentences += _sentences(text, block, subject, otherwise=is_english)
        elif title := _TITLE.match(_body(text, block)):
            subject = title.group(1)
    listed = [_listed(text, block) for block in blocks if block.kind is BlockKind.SOURCE]
    if any(not mark.is_footnote for each in sentences for mark in each.marks):
        # Beside [n], a footnote [^n] is a remark, and says nothing of what [n] means.
        listed = [each for each in listed if not each.is_footnote]
        sentences = [
            replace(each, marks=tuple(mark for mark in each.marks if not mark.is_footnote))
            for each in sentences
        ]
    return Claims(
        text=text,
        sentences=tuple(sentences),
        listed=tuple(listed),
        apart={kind: n for kind in APART if (n := sum(b.kind is kind for b in blocks))},
        ends_in_sources=bool(listed)
        and blocks[-1].kind is BlockKind.SOURCE
        and _listed(text, blocks[-1]) in listed,
    )


_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r"\s*(`{3,}|~{3,}|\$\$)")
_INDENTED = re.compile(r"(?: {4}|\t)\s*\S")
_HEADING = re.compile(r" {0,3}#{1,6}(?:\s|$)")
_TITLE = re.compile(r" {0,3}# +(?:About +)?((?:The |A |An )?[A-Z][^\n#*:?!.]{0,60}?)[ #]*$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})\s*$")
_RULE = re.compile(r" {0,3}([-*_])(?:\s*\1){2,}\s*$")
_ITEM = re.compile(r"\s*(?:[-*+\u2022]|(\d{1,3})[.)])\s+(?:\[[ xX]\]\s+)?")
_QUOTE = re.compile(r" {0,3}>[> ]*")
_TABLE_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")
_SOURCE = re.compile(r"\s*(?:[-*+]\s+)?\[\^?(\d{1,3})\]:?\s+(?=\S)")
_SOURCES_HEADING = re.compile(
    r"[#*\s]*(?:sources?|references?|citations?|bibliography|works cited|notes|footnotes)[:*#\s]*$",
    re.IGNORECASE,
)


def _blocks(text: str) -> Iterator[_Block]:
    """The runs of lines of a text; blank lines part them, and belong to none."""
    return _Blocks(text).found()


class _Blocks:
    """One pass over the lines of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = [found.span() for found in _LINE.finditer(text)]
        self._cited: set[int] = set()  # in the lines before
        self._in_sources = False

    def found(self) -> Iterator[_Block]:
        """The blocks in order."""
        at, open_block = 0, None
        while at < len(self._lines):
            block, n_lines, is_whole = self._next(at, open_block)
            at += n_lines
            if block is not open_block and open_block is not None:
                yield open_block
            open_block = None if is_whole else block
            if is_whole and block is not None:
                yield block
        if open_block is not None:
            yield open_block

    def _next(self, at: int, before: _Block | None) -> tuple[_Block | None, int, bool]:
        """The block that line `at` belongs to, the lines taken, and whether no more can join."""
        start, end = self._lines[at]
        line = self._text[start:end].rstrip("\r\n")
        if not line.strip() or _RULE.match(line):
            return None, 1, True
        if (whole := self._whole(at, line, before)) is not None:
            kind, n_lines = whole
            return _Block(kind, [(start, self._lines[at + n_lines - 1][1])]), n_lines, True
        end = start + len(line)
        if self._is_source(line, before):
            return _Block(BlockKind.SOURCE, [(start, end)]), 1, False
        if before is None or before.kind is not BlockKind.SOURCE:
            marks = (numbers_in(mark.group()) for mark in _MARK.finditer(line))
            self._cited.update(number for numbers in marks for number in numbers)
            self._cited.update(int(found[1]) for found in _FIXED.finditer(line))
        return self._joined(start, end, line, before), 1, False

    def _whole(self, at: int, line: str, before: _Block | None) -> tuple[BlockKind, int] | None:
        """The kind and lines of a block that nothing can join; None where none begins."""
        if n_code := self._n_code(at, line, before):
            return BlockKind.CODE, n_code
        if n_table := self._n_table(at, line):
            return BlockKind.TABLE, n_table
        if not self._is_heading(at, line, before):
            return None
        self._in_sources = bool(_SOURCES_HEADING.match(line))
        return BlockKind.HEADING, 1 if _HEADING.match(line) or self._in_sources else 2

    @staticmethod
    def _joined(start: int, end: int, line: str, before: _Block | None) -> _Block:
        """The block before with this line, or the block that this line begins."""
        quote, item = _QUOTE.match(line), _ITEM.match(line)
        is_source = before is not None and before.kind is BlockKind.SOURCE
        found = None if is_source else quote or item
        if found is not None:
            kind = BlockKind.QUOTE if quote else BlockKind.ITEM
            if not quote or before is None or before.kind is not kind:
                before = _Block(kind)
            start += found.end()
        else:
            start += len(line) - len(line.lstrip())
        block = before or _Block(BlockKind.PROSE)
        block.lines.append((start, end))
        return block

    def _n_code(self, at: int, line: str, before: _Block | None) -> int:
        """How many lines of code begin at line `at`."""
        if fence := _FENCE.match(line):
            mark = fence.group(1)
            closes = re.compile(rf"\s*{re.escape(mark[0])}{{{len(mark)},}}\s*$")
            if mark == "$$" and line.strip() != "$$" and line.rstrip().endswith("$$"):
                return 1
            for n, (start, end) in enumerate(self._lines[at + 1 :], start=2):
                if closes.match(self._text[start:end].rstrip("\r\n")):
                    return n
            return len(self._lines) - at
        # An item that is indented, or goes on after a blank line, is no code.
        if before is not None or not _INDENTED.match(line) or _ITEM.match(line):
            return 0
        n_code = 1
        while at + n_code < len(self._lines):
            start, end = self._lines[at + n_code]
            if not _INDENTED.match(self._text[start:end]):
                break
            n_code += 1
        return n_code

    def _n_table(self, at: int, line: str) -> int:
        if "|" not in line or at + 1 >= len(self._lines):
            return 0
        following = [self._text[s:e].rstrip("\r\n") for s, e in self._lines[at + 1 : at + 2]]
        if "-" not in following[0] or not _TABLE_RULE.match(following[0]):
            return 0
        n_table = 2
        for start, end in self._lines[at + 2 :]:
            if "|" not in self._text[start:end]:
                break
            n_table += 1
        return n_table

    def _is_heading(self, at: int, line: str, before: _Block | None) -> bool:
        if _HEADING.match(line) or _SOURCES_HEADING.match(line):
            return True
        if before is not None or at + 1 >= len(self._lines) or _ITEM.match(line):
            return False
        start, end = self._lines[at + 1]
        return bool(_UNDERLINE.match(self._text[start:end].rstrip("\r\n")))

    def _is_source(self, line: str, before: _Block | None) -> bool:
        """Whether a line begins an entry of the list of sources: it was cited, or is in a list."""
        if found := _SOURCE.match(line):
            is_listed = before is not None and before.kind is BlockKind.SOURCE
            return self._in_sources or is_listed or int(found.group(1)) in self._cited
        item = _ITEM.match(line)
        return self._in_sources and item is not None and item.group(1) is not None


def _body(text: str, block: _Block) -> str:
    return " ".join(text[start:end] for start, end in block.lines)


def _listed(text: str, block: _Block) -> Listed:
    (start, end), *rest = block.lines
    line = text[start:end]
    found = _SOURCE.match(line) or _ITEM.match(line)
    assert found is not None  # a block of this kind begins so
    return Listed(
        number=int(found.group(1)),
        head=line[found.end() :].strip(),
        body=" ".join(text[s:e].strip() for s, e in rest),
        is_footnote="[^" in found.group(),
    )


_MARK = re.compile(
    r"\[\^?\d{1,3}(?:\s*[,;\u2013-]\s*\^?\d{1,3})*\](?:\([^()\s]*\))?|\u3010\d{1,3}[^\u3010\u3011]*\u3011"
)
# What is taken out of a sentence before it is judged, in the order in which it is looked for.
# Code comes first: an index in it is no citation.
_INLINE = re.compile(
    rf"(?<!`)(?P<code>`++)(?P<in_code>.+?)(?<!`)(?P=code)(?!`)"
    # Space before a mark is looked at from its start alone: a long run is read once.
    rf"|(?P<mark>(?:(?<!\s)\s+)?(?:{_MARK.pattern}))"
    # Marks that `--fix` made.
    r"|(?:(?<!\s)\s+)?\[(?:not supported|(?:contradicted|partially supported) by \d+)\]"
    r"|!\[[^\]\[]*\]\([^()\s]*\)"
    r"|\[(?P<linked>[^\]\[]+)\]\([^()\s]*\)"
    r"|\*\*+|__+|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)|\ufeff"
)
_FIXED = re.compile(r"\[(?:contradicted|partially supported) by (\d+)\]")  # as `--fix` writes
MAX_RANGE = 20  # of a mark such as [2-4]; more is no list of passages


def numbers_in(mark: str) -> tuple[int, ...]:
    """The numbers of a mark, ranges written out; of one that is backwards or long, its ends."""
    inner = re.split(r"[\]\u2020\u3011]", mark.strip().lstrip("[\u3010"))[0]
    found: list[int] = []
    for part in re.split(r"[,;]", inner.replace("^", "")):
        first, _, last = re.sub(r"\s", "", part).replace("\u2013", "-").partition("-")
        low, high = int(first), int(last or first)
        found += range(low, high + 1) if low <= high < low + MAX_RANGE else (low, high)
    return tuple(dict.fromkeys(found))


def _sentences(text: str, block: _Block, subject: str, *, otherwise: bool) -> Iterator[Sentence]:
    """The sentences of one block, which is about `subject` until a sentence opens with a name.

    `otherwise`: what a short block is taken for, English or not.
    """
    places = [i for start, end in block.lines for i in (*range(start, end), end)]
    raw = "".join(text[start:end] + "\n" for start, end in block.lines)
    kept, marks, gone = _without_markup(raw, places)
    cleaned = "".join(raw[i] for i in kept)
    is_telling = len(_lower_case_words(cleaned)) >= LEAST_WORDS
    is_english = is_mostly_english(cleaned) if is_telling else otherwise
    before, n_before = "", 0
    for start, end in sentence_spans(cleaned):
        said = " ".join(cleaned[start:end].split())
        last = kept[end - 1] + 1
        while last < len(raw) and gone[last]:
            last += 1
        n_own = bisect_left(marks, last, lo=n_before, key=itemgetter(0)) - n_before
        own = [mark for _, mark in marks[n_before : n_before + n_own]]
        n_before += n_own
        if not opens_with_pronoun(said):
            subject = opening_name(said)
        yield Sentence(
            text=said,
            claim=with_subject(said, subject),
            start=min([places[kept[start]], *(mark.start for mark in own)]),
            end=places[last - 1] + 1,
            marks=tuple(own),
            before=before,
            why_not=_why_no_claim(said, block.kind),
            is_english=is_english,
        )
        before = said


def _without_markup(
    raw: str, places: Sequence[int]
) -> tuple[list[int], list[tuple[int, Mark]], list[bool]]:
    """Which characters are said, the marks by where they stand, and which are taken out."""
    gone = [False] * len(raw)
    marks: list[tuple[int, Mark]] = []
    for found in _INLINE.finditer(raw):
        kept_group = "in_code" if found["in_code"] else "linked" if found["linked"] else ""
        low, high = found.span(kept_group) if kept_group else (found.end(), found.end())
        for i in range(found.start(), found.end()):
            gone[i] = not low <= i < high
        if found["mark"]:
            numbers = numbers_in(found["mark"])
            start = found.end() - len(found["mark"].lstrip())
            place = Mark(
                start=places[start],
                end=places[found.end() - 1] + 1,
                numbers=numbers,
                is_footnote="[^" in found["mark"],
            )
            marks.append((start, place))
    return [i for i in range(len(raw)) if not gone[i]], marks, gone


_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_TALK = re.compile(
    r"(?:sure|certainly|of course|absolutely|great question|thanks?|thank you|you're welcome|"
    r"i hope|i'm sorry|i am sorry|i apologi[sz]e|sorry|please|let me|let us|let's|feel free|"
    r"as an ai|here (?:is|are|'s)|here's|hello|hi|hey|i (?:can|cannot|can't|could|will|would|"
    r"don't|do not) )\b",
    re.IGNORECASE,
)
_LEAST_CLAIM, _LEAST_ITEM = 3, 5  # words


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, numbers included."""
    return [found.group().casefold() for found in _WORD.finditer(text)]


def _why_no_claim(said: str, kind: BlockKind) -> str:
    words = words_of(said)
    bare = said.rstrip("\"'\u201d\u2019)]*_ ")
    if bare.endswith("?"):
        return "a question"
    if bare.endswith(":"):
        return "leads in to what follows"
    if len(words) < (_LEAST_ITEM if kind is BlockKind.ITEM and bare[-1:] != "." else _LEAST_CLAIM):
        return TOO_SHORT
    return "addressed to the reader" if _TALK.match(said) else ""


LEAST_WORDS = 8  # in lower case; fewer tell no language
_ENGLISH = 0.09  # of the words of an English text at least so many are these; of others fewer
_COMMON = frozenset(
    "the of and to is was for that with as by from are at it its his her which this be has had "
    "not were or have they their who been one also into after when than more would there can will "
    "on it's you your we he she but if about between other most some such only over during "
    "while".split()
)


def is_mostly_english(text: str) -> bool:
    """Whether a text reads as English: by the share of function words, so only a long one tells.

    Names are of no language, so only words in lower case count. A text of fewer than `LEAST_WORDS`
    of them counts as English where its letters are Latin.
    """
    letters = [sign for sign in text if sign.isalpha()]
    n_latin = sum(sign < "\u0250" for sign in letters)
    if 2 * n_latin < len(letters):
        return False
    words = _lower_case_words(text)
    n_common = sum(word in _COMMON for word in words)
    return len(words) < LEAST_WORDS or n_common >= _ENGLISH * len(words)


def _lower_case_words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if word[0].islower()]
