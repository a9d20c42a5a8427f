"""PDF pages: scans, forms, notes, hyphens at the ends of lines, and fonts without letters."""

from itertools import pairwise

import pytest

from selfrag.errors import BadInput
from selfrag.ingest import pdf
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.parsers import parse

pytest.importorskip("pypdfium2")


def read_pdf(path):
    return pdf.read_pdf(path, ReadOptions())


def pages_of(parsed):
    starts = [*parsed.page_starts, len(parsed.text) + 2]
    return [parsed.text[start : end - 2] for start, end in pairwise(starts)]


PICTURE = "q 612 0 0 792 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID x EI Q"
STAMP = "BT /F1 12 Tf 72 20 Td (Page 7 of 9) Tj ET"


def shown(*lines):
    """The drawing of lines of text."""
    return "BT /F1 12 Tf 14 TL 72 720 Td " + " ".join(f"({x}) Tj T*" for x in lines) + " ET"


def write_pdf(path, contents, *, annotations=(), fields="", font="", title=""):
    """A PDF with a page for every drawing; the first page has the annotations."""
    first = 4 + 2 * len(contents)
    names = " ".join(f"{first + n} 0 R" for n in range(len(annotations)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [{names}] {fields} >> >>",
        f"<< /Type /Pages /Count {len(contents)} /Kids ["
        + " ".join(f"{4 + 2 * n} 0 R" for n in range(len(contents)))
        + "] >>",
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica {font} >>",
    ]
    for n, content in enumerate(contents):
        on_page = f"/Annots [{names}]" if n == 0 else ""
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            f"/Resources << /Font << /F1 3 0 R >> >> {on_page} >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    objects += [f"<< /Type /Annot /Rect [10 10 90 30] {each} >>" for each in annotations]
    objects.append(f"<< /Title ({title}) >>")
    body, starts = "%PDF-1.6\n", []
    for number, content in enumerate(objects, start=1):
        starts.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    trailer = f"/Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R"
    end = f"trailer << {trailer} >>\nstartxref\n{len(body)}\n%%EOF\n"
    whole = f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}"
    path.write_bytes(whole.encode("latin-1"))
    return path


def test_scanned_pages_among_others_are_named(tmp_path):
    path = write_pdf(
        tmp_path / "a.pdf", [shown("A lease."), PICTURE, PICTURE + STAMP, "", shown("B")]
    )
    found = read_pdf(path)
    assert pages_of(found) == ["A lease.", "", "Page 7 of 9", "", "B"]
    # Page 4 is blank, which is no fault.
    assert found.doubts == (
        "pages 2, 3: without text, or with no more than a stamp: scanned? then run OCR first",
    )


def test_a_picture_with_its_text_under_it_is_no_scan(tmp_path):
    lines = ["every line was read by OCR and lies under the picture"] * 9
    path = write_pdf(tmp_path / "a.pdf", [PICTURE + shown(*lines)])
    assert read_pdf(path).doubts == ()


def test_letters_drawn_as_outlines_are_no_text(tmp_path):
    outlines = "10 10 m 20 20 l 30 10 l f " * 50
    path = write_pdf(tmp_path / "a.pdf", [shown("Cover."), outlines, "10 10 m 90 10 l S"])
    assert read_pdf(path).doubts[0].startswith("page 2: without text")


def test_values_of_forms_and_typed_notes_are_text(tmp_path):
    annotations = [
        "/Subtype /Widget /FT /Tx /T (name) /TU (Full name) /V (Grace Hopper)",
        "/Subtype /Widget /FT /Ch /Ff 131072 /T (city) /V (Ghent) /Opt [(Ghent) (Paris)]",
        "/Subtype /Widget /FT /Tx /T (empty) /V ()",
        "/Subtype /Widget /FT /Tx /T (secret) /V (hidden) /F 2",
        "/Subtype /Widget /FT /Btn /T (smoker) /V /Yes /AS /Yes /AP << /N << /Yes 3 0 R >> >>",
        "/Subtype /Widget /FT /Btn /T (owner) /V /Off /AS /Off /AP << /N << /Yes 3 0 R >> >>",
        "/Subtype /Widget /FT /Btn /Ff 65536 /T (button) /V (push)",
        "/Subtype /FreeText /Contents (Paid on 3 May)",
        "/Subtype /Text /Contents (a remark that pops up)",
    ]
    path = write_pdf(tmp_path / "a.pdf", [shown("Form. Name:")], annotations=annotations)
    assert pages_of(read_pdf(path)) == [
        "Form. Name:\nFull name: Grace Hopper\ncity: Ghent\nsmoker: Yes\nPaid on 3 May"
    ]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["an exam-", "ple"], "an example"),
        (["a well-", "known man"], "a well-known man"),
        (["state-of-the-", "art"], "state-of-the-art"),
        (["by e-", "mail"], "by e-mail"),
        (["Jean-", "Paul"], "Jean-Paul"),
        (["COVID-", "19"], "COVID-19"),
        (["SE-", "QUENCE"], "SEQUENCE"),
        (["part-", "ner of high-", "er"], "partner of higher"),
        # As the file has it within a line.
        (["coop, co-op, co-op, co-", "op"], "coop, co-op, co-op, co-op"),
        (["selfless and self-", "less"], "selfless and selfless"),
        # Two words of the file.
        (["tax year, tax year, tax-", "year"], "tax year, tax year, tax-year"),
    ],
)
def test_hyphens_at_the_ends_of_lines_stay_where_they_belong(tmp_path, lines, text):
    path = write_pdf(tmp_path / "a.pdf", [shown(*lines)])
    assert pages_of(read_pdf(path)) == [text]


def font_of(n_private):
    """A font whose first letters from A on are given as private characters."""
    names = " ".join(f"/uniE{n:03X}" for n in range(n_private))
    return f"/Encoding << /Type /Encoding /Differences [65 {names}] >>"


def test_a_font_without_letters_is_spoken_of_and_not_indexed(tmp_path):
    pages = [shown("lower case letters"), shown("ABCD")]
    path = write_pdf(tmp_path / "a.pdf", pages, font=font_of(4))
    found = read_pdf(path)
    assert pages_of(found) == ["lower case letters", ""]
    assert found.doubts == (
        "page 2: left out, as the font does not say which letters it shows; run OCR first",
    )
    with pytest.raises(BadInput, match="its fonts do not say which letters they show"):
        read_pdf(write_pdf(tmp_path / "b.pdf", [shown("ABCD")], font=font_of(4)))


def test_some_letters_that_are_none_are_left_out_and_told(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", [shown("A bullet and words")], font=font_of(1))
    assert pages_of(read_pdf(path)) == ["bullet and words"]
    path = write_pdf(tmp_path / "b.pdf", [shown("AA bullet A words")], font=font_of(1))
    assert read_pdf(path).doubts == (
        "page 1: characters that the font does not explain are left out",
    )


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Leave rules", "Leave rules"),
        ("untitled", "rules"),
        ("Microsoft Word - Document1", "rules"),
        ("Microsoft Word - Leave rules.doc", "Leave rules.doc"),
        ("\\000\\000", "rules"),
    ],
)
def test_titles_that_say_nothing_give_way_to_the_files_name(tmp_path, title, expected):
    path = write_pdf(tmp_path / "rules.pdf", [shown("text")], title=title)
    assert parse(path, ReadOptions()).title == expected
