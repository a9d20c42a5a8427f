"""Office files, books, mail, notebooks, XML and code as documents; what is not read is named."""

import datetime as dt
import gzip
import json
import zipfile
from email.message import EmailMessage

import pytest

from selfrag.ingest.files import list_files
from selfrag.ingest.formats import Format, format_of
from selfrag.ingest.readers import read_file

pytest.importorskip("lxml")


def documents(path):
    faults = []
    found = list(read_file(path, on_skip=faults.append))
    return found, [fault.reason for fault in faults]


def only(path):
    (found,), faults = documents(path)
    assert not faults
    return found


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


# Spreadsheets


def workbook(path, **sheets):
    xlsxwriter = pytest.importorskip("xlsxwriter")
    book = xlsxwriter.Workbook(str(path))
    for name, fill in sheets.items():
        fill(book.add_worksheet(name), book)
    book.close()
    return path


def test_rows_of_a_sheet_name_their_columns(tmp_path):
    pytest.importorskip("python_calamine")

    def fill(sheet, book):
        sheet.write_row(0, 0, ["Moons of 2023"])
        sheet.write_row(2, 0, ["Planet", "Moon", "Found", "Radius", "Icy"])
        sheet.write_row(3, 0, ["Saturn", "Titan", "", 2575, True])
        sheet.write_datetime(3, 2, dt.datetime(1955, 3, 25), book.add_format({"num_format": 14}))
        sheet.write_row(4, 0, ["Jupiter", "Io", "", 1821.6])

    found = only(workbook(tmp_path / "moons.xlsx", Moons=fill, Empty=lambda *_: None))
    assert found.title == "moons"
    assert found.text == (
        "## Moons\n\nMoons of 2023\n\n"
        "Planet: Saturn\nMoon: Titan\nFound: 1955-03-25\nRadius: 2575\nIcy: true\n\n"
        "Planet: Jupiter\nMoon: Io\nRadius: 1821.6"
    )


def test_a_merged_cell_counts_in_every_row_that_it_covers(tmp_path):
    pytest.importorskip("python_calamine")

    def fill(sheet, book):
        sheet.write_row(1, 1, ["Planet", "Moon"])
        sheet.merge_range(2, 1, 3, 1, "Saturn")
        sheet.write(2, 2, "Titan")
        sheet.write(3, 2, "Rhea")

    text = only(workbook(tmp_path / "m.xlsx", S=fill)).text
    assert text == "## S\n\nPlanet: Saturn\nMoon: Titan\n\nPlanet: Saturn\nMoon: Rhea"


def test_numbers_without_a_row_of_names_are_values_alone(tmp_path):
    pytest.importorskip("python_calamine")

    def fill(sheet, book):
        sheet.write_row(0, 0, [1, 2.5])
        sheet.write_row(1, 0, ["a", "b"])

    assert only(workbook(tmp_path / "n.xlsx", S=fill)).text == "## S\n\n1\n2.5\n\na\nb"


def test_an_encrypted_office_file_is_named(tmp_path):
    path = tmp_path / "locked.xlsx"
    path.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600))
    assert "encrypted" in documents(path)[1][0]


# Slides


def test_every_slide_is_a_page_with_its_tables_and_notes(tmp_path):
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Moons"
    first.placeholders[1].text = "Titan\nRhea"
    first.notes_slide.notes_text_frame.text = "Say hello."
    second = deck.slides.add_slide(deck.slide_layouts[6])
    inch = pptx.util.Inches
    table = second.shapes.add_table(2, 2, inch(1), inch(1), inch(4), inch(1)).table
    for place, text in enumerate(("Planet", "Moon", "Mars", "Phobos")):
        table.cell(*divmod(place, 2)).text = text
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, inch(1), inch(1)).text_frame.text = "in a group"
    deck.save(tmp_path / "deck.pptx")
    found = only(tmp_path / "deck.pptx")
    assert found.title == "Moons"
    assert found.text == (
        "Moons\n\nTitan\nRhea\n\nSay hello.\n\nPlanet | Moon\nMars | Phobos\n\nin a group"
    )
    start = found.page_starts[1]
    assert found.page_starts[0] == 0 and found.text[start:].startswith("Planet |")


# OpenDocument and RTF

ODF = (
    '<office:document-content xmlns:office="o" xmlns:text="t" xmlns:table="b" xmlns:style="s" '
    'xmlns:draw="d"><office:automatic-styles><style:style style:name="T1">'
    '<style:text-properties style:text-position="super 58%"/></style:style>'
    "</office:automatic-styles><office:body><office:text>{}</office:text></office:body>"
    "</office:document-content>"
)


def odt(path, body, **members):
    return archive(path, {"content.xml": ODF.format(body), **members})


def test_open_document_text_keeps_tables_indices_and_notes(tmp_path):
    body = (
        "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
        '<text:h text:outline-level="2">Stars &amp; more</text:h>'
        '<text:p>10<text:span text:style-name="T1">11</text:span> stars'
        "<text:note><text:note-citation>1</text:note-citation><text:note-body>"
        "<text:p>at least</text:p></text:note-body></text:note>,<text:s text:c='2'/>so</text:p>"
        "<text:list><text:list-item><text:p>one</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>Planet</text:p>"
        "</table:table-cell><table:table-cell><text:p>Moon</text:p></table:table-cell>"
        '</table:table-row><table:table-row><table:table-cell table:number-rows-spanned="2">'
        "<text:p>Saturn</text:p></table:table-cell><table:table-cell><text:p>Titan</text:p>"
        "</table:table-cell></table:table-row><table:table-row><table:covered-table-cell/>"
        "<table:table-cell><text:p>Rhea</text:p></table:table-cell></table:table-row>"
        "</table:table>"
    )
    about = '<m xmlns:dc="d"><dc:title>On stars</dc:title></m>'
    found = only(odt(tmp_path / "a.odt", body, **{"meta.xml": about}))
    assert found.title == "On stars"
    assert "deleted" not in found.text and "## Stars & more" in found.text
    assert "10^11" in found.text.replace("(", "").replace("{", "") or "10¹¹" in found.text
    assert "(at least)" in found.text and "one" in found.text
    rows = [line for line in found.text.splitlines() if "Saturn" in line]
    assert len(rows) == 2 and "Rhea" in rows[1]


def test_rtf_is_read_with_its_title_and_letters(tmp_path):
    pytest.importorskip("striprtf")
    path = tmp_path / "a.rtf"
    path.write_bytes(
        rb"{\rtf1\ansi\ansicpg1252{\info{\title Caf\'e9s}}{\fonttbl\f0 Arial;}"
        rb"Ren\'e9 \u960? went.\par Home}"
    )
    found = only(path)
    assert found.title == "Cafés" and found.text.split() == ["René", "π", "went.", "Home"]
    path.write_text("plain")
    assert "no RTF" in documents(path)[1][0]


# Books, mail, notebooks


def epub(path, **more):
    chapter = "<html><body><h1>{0}</h1><p>Text of {0}.</p></body></html>"
    return archive(
        path,
        {
            "META-INF/container.xml": '<c><rootfile full-path="O/p.opf"/></c>',
            "O/p.opf": (
                '<package xmlns:dc="d"><metadata><dc:title>A book</dc:title></metadata><manifest>'
                '<item id="b" href="t/two%20b.xhtml" media-type="application/xhtml+xml"/>'
                '<item id="a" href="one.xhtml" media-type="application/xhtml+xml"/>'
                '<item id="p" href="p.png" media-type="image/png"/></manifest>'
                '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>'
            ),
            "O/one.xhtml": chapter.format("One"),
            "O/t/two b.xhtml": chapter.format("Two"),
            **more,
        },
    )


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path):
    found = only(epub(tmp_path / "a.epub"))
    assert found.title == "A book"
    assert found.text.index("Text of One.") < found.text.index("Text of Two.")


def test_a_book_with_locked_chapters_is_refused_and_locked_fonts_are_not(tmp_path):
    listed = '<e><CipherReference URI="{}"/></e>'.format
    locked = epub(tmp_path / "l.epub", **{"META-INF/encryption.xml": listed("O/t/two%20b.xhtml")})
    assert documents(locked) == ([], ["protected by DRM; expected a book without it"])
    assert only(epub(tmp_path / "f.epub", **{"META-INF/encryption.xml": listed("O/f.otf")})).text


def test_mail_shows_its_heads_and_body_and_names_what_is_attached(tmp_path):
    inner = EmailMessage()
    inner["Subject"] = "Before"
    inner.set_content("The older one.")
    message = EmailMessage()
    message["From"], message["Subject"] = "Ann <a@x.org>", "Grüße"
    message.set_content("Hällo.\n")
    message.add_alternative("<p>Hällo in <b>HTML</b>.</p>", subtype="html")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="moon.png")
    message.add_attachment("a note", filename="note.txt")
    message.add_attachment(inner)
    path = tmp_path / "a.eml"
    path.write_bytes(bytes(message))
    (found,), faults = documents(path)
    assert found.title == "Grüße"
    assert found.text.startswith("From: Ann <a@x.org>\nSubject: Grüße\n\nHällo.")
    assert "in HTML" not in found.text
    assert "a note" in found.text and "Subject: Before\n\nThe older one." in found.text
    assert faults == ["1 attachments are not read: moon.png"]


def test_mail_in_an_encoding_that_nobody_knows_is_read_by_a_guess(tmp_path):
    path = tmp_path / "a.eml"
    path.write_bytes(
        b"From: a\nSubject: =?x-no?B?SGk=?=\nContent-Type: text/plain; charset=x-no\n\n"
        b"d\xe9j\xe0 vu, caf\xe9 au lait, \xe0 bient\xf4t"
    )
    found = only(path)
    assert found.title == "Hi" and "déjà vu" in found.text


def test_a_notebook_has_its_cells_and_what_they_said(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# On moons\n", "Titan."]},
        {
            "cell_type": "code",
            "source": "print(1)",
            "outputs": [
                {"output_type": "stream", "text": ["\x1b[31m1\x1b[0m\n"]},
                {"data": {"image/png": "iVBOR", "text/plain": "<Figure>"}},
            ],
        },
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {"language_info": {"name": "python"}}}))
    found = only(path)
    assert found.title == "On moons"
    assert found.text == "# On moons\nTitan.\n\n```python\nprint(1)\n```\n\n1\n\n<Figure>"
    path.write_text('{"cells": [{"cell_type": "code", "source": null, "outputs": []}]}')
    assert documents(path) == ([], ["no text in it"])
    path.write_text('{"cells": 3}')
    assert "no notebook" in documents(path)[1][0]


# XML, JSON, reStructuredText


def test_xml_gives_paragraphs_and_records(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e "expanded">]><book><title>Moons</title>'
        "<para>Titan is <em>large</em>.</para><!-- not this -->"
        "<moon><name>Rhea</name><planet>Saturn</planet></moon><see url='x.org'/></book>"
    )
    found = only(path)
    assert found.title == "Moons"
    assert found.text == "Moons\n\nTitan is large.\n\nname: Rhea\nplanet: Saturn\n\nsee: url x.org"
    path.write_text("<a><b></a>")
    assert "no XML" in documents(path)[1][0]


def test_entities_of_xml_are_not_fetched_nor_expanded(tmp_path):
    (tmp_path / "secret").write_text("secret words")
    path = tmp_path / "a.xml"
    path.write_text(f'<!DOCTYPE a [<!ENTITY s SYSTEM "file://{tmp_path}/secret">]><a>x &s; y</a>')
    assert "secret words" not in str(documents(path))


def test_json_is_one_document_an_item_or_one_for_the_object(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"id": "p", "title": "T", "text": "one"}, {"text": "two"}]
    path.write_text(json.dumps(rows))
    assert [(d.title, d.text, d.id) for d in documents(path)[0]] == [
        ("T", "one", "p"), ("", "two", ""),
    ]  # fmt: skip
    path.write_text(json.dumps({"data": [{"text": "three"}]}, indent=1))
    assert [d.text for d in documents(path)[0]] == ["three"]
    path.write_text(json.dumps({"name": "Titan", "moons": {"n": 1}}, indent=1))
    (found,), _ = documents(path)
    assert (found.title, found.text) == ("a", 'name: Titan\nmoons: {"n": 1}')
    path.write_text('["a", null, "b", 3]')
    assert [d.text for d in documents(path)[0]] == ["a", "b", "3"]
    path.with_suffix(".ndjson").write_text('{"text": "x"}\n{"text": "y"}\n')
    assert [d.text for d in documents(path.with_suffix(".ndjson"))[0]] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Moons\n=====\n\nText.\n", "Moons"),
        ("..  a comment\n\n=======\n  Moons\n=======\n", "Moons"),
        ("Intro without a line.\n\n:mod:`os` --- *files*\n-------------------\n", "os --- files"),
        ("No section at all.\n\n-- a dash\n", "a"),
        (".. note::\n   ------\n\nReal\n----\n", "Real"),
    ],
)
def test_the_first_section_titles_rst(tmp_path, text, title):
    path = tmp_path / "a.rst"
    path.write_text(text)
    found = only(path)
    assert (found.title, found.text) == (title, text)  # offsets hold: the text is as it was


# Code, files without a suffix, and what is not read


@pytest.mark.parametrize("name", ["a.py", "b.rs", "c.YAML", "d.tex", "Makefile", "LICENSE"])
def test_code_and_text_without_a_suffix_are_read_as_they_are(tmp_path, name):
    text = "one = 1\n\n\ttwo:\n"
    (tmp_path / name).write_text(text)
    found = only(tmp_path / name)
    assert found.text == text


def test_bytes_without_a_suffix_are_no_text(tmp_path):
    (tmp_path / "core").write_bytes(b"\x7fELF\x02\x01\x01\x00")
    (tmp_path / "README.gz").write_bytes(gzip.compress(b"packed text"))
    assert format_of(tmp_path / "core") is Format.UNKNOWN
    assert format_of(tmp_path / "gone") is Format.UNKNOWN
    assert format_of(tmp_path / "README.gz") is Format.TEXT


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.png", "an image, which is not read"),
        ("a.JPEG", "an image, which is not read"),
        ("a.mp3", "audio, which is not read"),
        ("a.mp4", "video, which is not read"),
        ("a.zip", "an archive, which is not read: unpack it"),
        ("a.parquet", "a .parquet file, which is not read"),
        ("binary", "no text, which is not read"),
    ],
)
def test_what_is_not_read_is_named_by_its_kind(tmp_path, name, reason):
    (tmp_path / name).write_bytes(b"\x00\x01")
    (skipped,) = list_files([tmp_path]).skipped
    assert skipped.reason == reason
