"""PDF files to the text of their pages, by pdfium, and what of a page is no text.

Knows nothing of documents or passages.
"""

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrag.errors import BadInput
from selfrag.ingest.encodings import visible
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.parsed import Parsed, in_pages
from selfrag.text import counted

_PASSWORD = 4  # FPDF_ERR_PASSWORD
_HYPHEN = "\ufffe"  # what pdfium has for a hyphen and the end of its line
_PARTED = re.compile(r"([^\W_]*)\ufffe\s*([^\W_]*)")
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)?")
# First parts of words that keep their hyphen at the end of a line, too.
_PREFIXES = frozenset(
    "all cross ex first five four full half high long low mid near one open quasi real second self "
    "short single six ten third three two vice well wide".split()
)
_SUFFIXES = frozenset("able hood ible ings less like ment ness ship tion ward wards wise".split())
# Control, private and replacement characters: of a font that does not say which letters it has.
_GARBAGE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd\U000f0000-\U0010ffff]"
)
_DOUBTFUL, _USELESS = 0.05, 0.3  # shares of such characters on a page
# A page with a picture of this share of it and no more than these words is a scan with a stamp.
_SCAN_AREA, _STAMP_WORDS = 0.5, 40
_MAX_OBJECTS = 2000  # of a page that are looked at
_PAGES_NAMED = 10


@dataclass(slots=True)
class _Page:
    text: str = ""
    is_broken: bool = False
    is_picture: bool = False
    garbage: float = 0.0  # share of its characters


def read_pdf(path: Path, options: ReadOptions) -> Parsed:
    """The text of at most `options.max_pages` pages, with the values of forms and typed notes.

    Raises `BadInput`, giving the reason alone, for what is no PDF or has no text.
    """
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == _PASSWORD:
            raise BadInput("encrypted: it opens with a password only; take it off") from error
        raise BadInput(f"broken, or no PDF: {error}") from error
    with closing(pdf):
        n_pages = len(pdf)
        if pdf.get_formtype():
            pdf.init_forms()  # before any page is loaded
        pages = [_page(pdf, index) for index in range(min(n_pages, options.max_pages))]
        title = pdf.get_metadata_value("Title") or ""
    if not any(page.text for page in pages):
        raise BadInput(_no_text(pages))
    words: Counter[str] = Counter()
    for page in pages:
        words.update(_WORD.findall(_PARTED.sub(" ", page.text.lower())))
    texts = [_joined(page.text, words) for page in pages]
    doubts = list(_doubts(pages))
    if n_pages > options.max_pages:
        doubts.append(f"only {options.max_pages} of {n_pages} pages are read, the limit")
    return in_pages(texts, title=title, doubts=tuple(doubts))


def _page(pdf: Any, index: int) -> _Page:
    import pypdfium2

    try:
        with closing(pdf[index]) as page:
            with closing(page.get_textpage()) as textpage:
                text = textpage.get_text_range().replace("\r\n", "\n").replace("\0", "")
            fields = _fields(pdf, page)
            n_words = len(text.split())
            is_picture = n_words <= _STAMP_WORDS and _is_drawn(page, has_text=n_words > 0)
    except pypdfium2.PdfiumError:
        return _Page(is_broken=True)
    letters = [each for each in text if not each.isspace() and each != _HYPHEN]
    n_garbage = sum(_GARBAGE.match(each) is not None for each in letters)
    garbage = n_garbage / len(letters) if letters else 0.0
    text = "" if garbage > _USELESS else _GARBAGE.sub("", text)
    text = "\n".join(filter(None, [visible(text).strip(), *fields]))
    return _Page(text=text, is_picture=is_picture, garbage=garbage)


def _is_drawn(page: Any, *, has_text: bool) -> bool:
    """Whether a page with little text is a picture; one without any, if anything is on it."""
    import pypdfium2.raw as pdfium

    area = page.get_width() * page.get_height()
    covered = 0.0
    for number, thing in enumerate(page.get_objects(max_depth=3)):
        if thing.type == pdfium.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = thing.get_bounds()
            covered += (right - left) * (top - bottom)
        elif not has_text and thing.type in {pdfium.FPDF_PAGEOBJ_PATH, pdfium.FPDF_PAGEOBJ_SHADING}:
            covered += area / 20  # letters drawn as outlines are many; a rule is none
        if covered >= _SCAN_AREA * area:
            return True
        if number > _MAX_OBJECTS:
            break
    return False


def _fields(pdf: Any, page: Any) -> list[str]:
    """The values of a form's fields as "name: value", and notes typed onto the page."""
    import pypdfium2.raw as pdfium

    found = []
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        if pdfium.FPDFAnnot_GetFlags(annotation) & pdfium.FPDF_ANNOT_FLAG_HIDDEN:
            value = ""
        elif kind == pdfium.FPDF_ANNOT_FREETEXT:
            value = _string(pdfium.FPDFAnnot_GetStringValue, annotation, b"Contents")
        elif kind == pdfium.FPDF_ANNOT_WIDGET and pdf.formenv is not None:
            value = _field(pdf.formenv, annotation)
        else:
            value = ""
        pdfium.FPDFPage_CloseAnnot(annotation)
        found += [value] if value else []
    return list(dict.fromkeys(found))


def _field(form: Any, annotation: Any) -> str:
    import pypdfium2.raw as pdfium

    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    name = _string(pdfium.FPDFAnnot_GetFormFieldAlternateName, form, annotation) or _string(
        pdfium.FPDFAnnot_GetFormFieldName, form, annotation
    )
    if kind in {pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON}:
        if not pdfium.FPDFAnnot_IsChecked(form, annotation):
            return ""
        value = _string(pdfium.FPDFAnnot_GetFormFieldExportValue, form, annotation) or "Yes"
    elif kind in {pdfium.FPDF_FORMFIELD_PUSHBUTTON, pdfium.FPDF_FORMFIELD_SIGNATURE}:
        return ""
    else:
        value = _string(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation)
    return f"{name}: {value}" if name and value else value


def _string(get: Callable[..., int], *arguments: Any) -> str:
    """What a function of pdfium writes into a buffer, asked for its size first."""
    import pypdfium2.raw as pdfium

    n_bytes = get(*arguments, None, 0)
    if n_bytes < 2:
        return ""
    buffer = ctypes.create_string_buffer(n_bytes)
    get(*arguments, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), n_bytes)
    text = buffer.raw[: n_bytes - 2].decode("utf-16-le", "replace")
    return visible(" ".join(_GARBAGE.sub(" ", text).split()))


def _joined(text: str, words: Counter[str]) -> str:
    """The text with every word that is parted at the end of a line in one, with or without hyphen.

    `words`: how often the file has a word, or two with a hyphen between them, within a line.
    """

    def join(match: re.Match[str]) -> str:
        first, second = match.groups()
        joined, with_hyphen = words[(first + second).lower()], words[f"{first}-{second}".lower()]
        is_kept = with_hyphen > joined
        if with_hyphen == joined:
            before = text[match.start() - 1 : match.start()]
            is_kept = before == "-" or _keeps_hyphen(first, second, words)
        return f"{first}-{second}" if is_kept else first + second

    return _PARTED.sub(join, text)


def _keeps_hyphen(first: str, second: str, words: Counter[str]) -> bool:
    """Whether two parts that the file never has together are two words rather than one."""
    if len(first) < 2 or not (first + second).isalpha() or not second:
        return True  # e-mail, COVID-19
    if not second.islower():
        return not (first + second).isupper()  # Jean-Paul, but not SE-QUENCE
    is_compound = first.lower() in _PREFIXES and len(second) > 3 and second not in _SUFFIXES
    return is_compound or (words[first.lower()] > 1 and words[second] > 1)


def _no_text(pages: Sequence[_Page]) -> str:
    if any(page.garbage > _USELESS for page in pages):
        return "its fonts do not say which letters they show: run OCR over it first"
    return f"no text on {counted(len(pages), 'page')}: scanned? then run OCR over it first"


def _doubts(pages: Sequence[_Page]) -> list[str]:
    numbered = list(enumerate(pages, start=1))
    broken = [number for number, page in numbered if page.is_broken]
    scanned = [number for number, page in numbered if page.is_picture]
    doubtful = [number for number, page in numbered if _DOUBTFUL < page.garbage <= _USELESS]
    useless = [number for number, page in numbered if page.garbage > _USELESS]
    return [
        f"{_named(numbers)}: {words}"
        for numbers, words in (
            (broken, "broken and left out"),
            (scanned, "without text, or with no more than a stamp: scanned? then run OCR first"),
            (useless, "left out, as the font does not say which letters it shows; run OCR first"),
            (doubtful, "characters that the font does not explain are left out"),
        )
        if numbers
    ]


def _named(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:_PAGES_NAMED]))
    more = f" and {len(numbers) - _PAGES_NAMED} more" if len(numbers) > _PAGES_NAMED else ""
    return f"page{'s' if len(numbers) > 1 else ''} {named}{more}"
