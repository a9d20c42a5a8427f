"""HTML, PDF and docx files, made here byte by byte, and what goes wrong with them."""

import gzip
import json
import os
import signal
import zipfile
from pathlib import Path

import pytest

from selfrag.errors import BadInput
from selfrag.ingest import sandbox
from selfrag.ingest.chunking import Chunking, chunk_document
from selfrag.ingest.faults import Skipped
from selfrag.ingest.files import find_files
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.parsers import Parsed, parse
from selfrag.ingest.readers import read_all, read_file
from selfrag.ingest.sandbox import ParserProcess

pytest.importorskip("pypdfium2")
pytest.importorskip("lxml")
pytest.importorskip("mammoth")

OPTIONS = ReadOptions()


def write_pdf(
    path: Path, pages: list[list[str]], *, title: str = "", is_encrypted: bool = False
) -> Path:
    """A PDF of lines of text, as section 7.5 of ISO 32000-1 has its parts."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, lines in enumerate(pages):
        shown = " ".join(f"({line}) Tj T*" for line in lines)
        content = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * index} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    objects.append(f"<< /Title ({title}) >>")
    body, starts = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        starts.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    # Keys that no password fits.
    key = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{'41' * 32}> /U <{'42' * 32}> >>"
    trailer = f"/Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R /ID [<aa> <aa>]"
    path.write_bytes(
        (
            f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
            f"trailer << {trailer} {key if is_encrypted else ''} >>\n"
            f"startxref\n{len(body)}\n%%EOF\n"
        ).encode("ascii")
    )
    return path


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
CONTENT_TYPES = """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/>
<Override PartName="/word/document.xml" ContentType=
"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
RELATIONS = """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="rId1" Target="word/document.xml" Type=
"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/>
</Relationships>"""
STYLES = f"""<w:styles xmlns:w="{W}">
<w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/></w:style>
<w:style w:type="paragraph" w:styleId="Title"><w:name w:val="Title"/></w:style></w:styles>"""
STYLE_RELATION = """<Relationships
xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1"
Target="styles.xml" Type=
"http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles"/></Relationships>"""


def paragraph(text: str, style: str = "") -> str:
    of_style = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{of_style}<w:r><w:t>{text}</w:t></w:r></w:p>"


def write_docx(path: Path, body: str, *, title: str = "", padding: int = 0) -> Path:
    parts = {
        "[Content_Types].xml": CONTENT_TYPES,
        "_rels/.rels": RELATIONS,
        "word/_rels/document.xml.rels": STYLE_RELATION,
        "word/styles.xml": STYLES,
        "word/document.xml": f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>',
    }
    if title:
        parts["docProps/core.xml"] = (
            '<p:coreProperties xmlns:p="x" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<dc:title>{title}</dc:title></p:coreProperties>"
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        if padding:
            archive.writestr("word/media/x.bmp", bytes(padding))
    return path


# PDF


def test_a_pdf_has_its_title_and_the_offset_of_every_page(tmp_path):
    path = write_pdf(
        tmp_path / "a.pdf", [["Tea is a drink.", "It is hot."], [], ["Milk is white."]], title="Tea"
    )
    # Page 1: 15 + 1 + 10 = 26 characters, then two for the break; page 2 has none.
    assert parse(path, OPTIONS) == Parsed(
        title="Tea",
        text="Tea is a drink.\nIt is hot.\n\n\n\nMilk is white.",
        page_starts=(0, 28, 30),
    )


def test_a_word_parted_at_the_end_of_a_line_is_joined(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", [["This is an exam-", "ple of it."]])
    assert parse(path, OPTIONS).text == "This is an example of it."


def test_a_citation_leads_back_to_the_page(tmp_path):
    words = [f"word{index}" for index in range(60)]
    pages = [[" ".join(words[start : start + 10])] for start in range(0, 60, 10)]
    path = write_pdf(tmp_path / "Six pages.pdf", pages)
    [document] = read_file(path)
    assert (document.title, document.source) == ("Six pages", str(path))
    for chunking in Chunking:
        for passage in chunk_document(document, chunking=chunking, size=7):
            assert document.text[passage.start : passage.end] == passage.text
            # Ten words a page.
            assert passage.page == words.index(passage.text.split()[0]) // 10 + 1


@pytest.mark.parametrize(
    ("pages", "is_encrypted", "reason"),
    [
        ([["secret"]], True, "encrypted: it opens with a password only"),
        ([[], []], False, "no text on 2 pages: scanned"),
    ],
)
def test_a_pdf_without_text_to_be_had_says_why(tmp_path, pages, is_encrypted, reason):
    path = write_pdf(tmp_path / "a.pdf", pages, is_encrypted=is_encrypted)
    with pytest.raises(BadInput, match=reason):
        parse(path, OPTIONS)


def test_a_cut_off_pdf_says_so(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", [["text"]])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BadInput, match="broken, or no PDF"):
        parse(path, OPTIONS)


def test_pages_beyond_the_limit_are_left_out_and_spoken_of(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", [["one"], ["two"], ["three"]])
    parsed = parse(path, ReadOptions(max_pages=2))
    assert parsed.text == "one\n\ntwo"
    assert parsed.doubts == ("only 2 of 3 pages are read, the limit",)


# HTML

ARTICLE = """<html><head><title>Tea &amp; history</title><script>var hidden = 1</script></head>
<body><nav><a href="/">Home</a></nav><article><h1>Tea &amp; history</h1>
<p>Tea is a drink made of leaves, in China first and then everywhere else in the world.</p>
<p>The second paragraph has a caf\u00e9 in it and is long enough to be taken for content.</p>
</article></body></html>"""


def test_html_gives_its_title_and_main_text(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(ARTICLE, encoding="utf-8")
    parsed = parse(path, OPTIONS)
    assert parsed.title == "Tea & history"
    assert "drink made of leaves" in parsed.text
    assert "a caf\u00e9 in it" in parsed.text
    assert "hidden" not in parsed.text
    assert "<" not in parsed.text


def test_html_in_the_encoding_it_declares(tmp_path):
    path = tmp_path / "a.htm"
    declared = ARTICLE.replace("<head>", '<head><meta charset="cp1250">')
    path.write_bytes(declared.replace("caf\u00e9", "ku\u0159e").encode("cp1250"))
    parsed = parse(path, OPTIONS)
    assert "a ku\u0159e in it" in parsed.text
    assert parsed.doubts == ()


def test_html_that_declares_nothing_is_guessed_and_said_to_be(tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes(ARTICLE.encode("cp1252"))
    parsed = parse(path, OPTIONS)
    assert "a caf\u00e9 in it" in parsed.text
    assert parsed.doubts[0].startswith("not UTF-8: read as cp1252, a guess")


@pytest.mark.parametrize(
    ("html", "title", "text"),
    [
        ("<title> A\n page </title><div>hi</div>", "A page", "hi"),
        ("<body><style>p {}</style><span>there</span></body>", "a", "there"),
        ("<p>a paragraph</p>", "a", "a paragraph"),
        ("no tags", "a", "no tags"),
    ],
)
def test_html_without_an_article_is_stripped(tmp_path, html, title, text):
    path = tmp_path / "a.html"
    path.write_text(html)
    parsed = parse(path, OPTIONS)
    assert (parsed.title, parsed.text.strip()) == (title, text)


def test_html_that_unpacks_beyond_the_limit_is_refused(tmp_path):
    path = tmp_path / "a.html.gz"
    path.write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(BadInput, match="unpacked larger than the limit of 1 MB"):
        parse(path, ReadOptions(max_mb=1))


# docx


def test_docx_gives_headings_paragraphs_and_tables_as_markdown(tmp_path):
    cell = "<w:tc>{}</w:tc>"
    row = f"<w:tr>{cell.format(paragraph('leaf'))}{cell.format(paragraph('2_g'))}</w:tr>"
    body = (
        paragraph("Tea", style="Title")
        + paragraph("What it is", style="Heading1")
        + paragraph("A drink, 5 * 3 &lt; 20.")
        + f"<w:tbl>{row}{row}</w:tbl>"
        + paragraph("End.")
    )
    parsed = parse(write_docx(tmp_path / "a.docx", body), OPTIONS)
    assert parsed.title == "Tea"
    lines = [line for line in parsed.text.splitlines() if line.strip()]
    assert lines == [
        "# Tea",
        "# What it is",
        "A drink, 5 * 3 < 20.",
        "| leaf | 2_g |",
        "| --- | --- |",
        "| leaf | 2_g |",
        "End.",
    ]


M = "http://schemas.openxmlformats.org/officeDocument/2006/math"
WORD_2010 = "http://schemas.microsoft.com/office/word/2010/wordml"
CHOICES = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def formula(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        (
            run("10")
            + '<w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:t>11</w:t></w:r>'
            + run(" stars"),
            "10^11 stars",
        ),
        (
            run("E is ")
            + f"<m:oMath><m:f><m:num>{formula('a')}</m:num><m:den><m:rad><m:e>{formula('b+1')}"
            + "</m:e></m:rad></m:den></m:f></m:oMath>"
            + run(" here"),
            "E is a/(sqrt(b+1)) here",
        ),
        (
            f"<m:oMathPara><m:oMath><m:sSubSup><m:e>{formula('x')}</m:e><m:sub>{formula('i')}"
            f"</m:sub><m:sup>{formula('n+1')}</m:sup></m:sSubSup></m:oMath></m:oMathPara>",
            "x_i^(n+1)",
        ),
        (
            f'<m:oMath><m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr><m:sub>{formula("1")}'
            f"</m:sub><m:sup>{formula('n')}</m:sup><m:e>{formula('k')}</m:e></m:nary></m:oMath>",
            "∑_1^n k",
        ),
        (
            f"<w:r><w:ruby><w:rt>{run('kan')}</w:rt><w:rubyBase>{run('漢')}</w:rubyBase>"
            "</w:ruby></w:r>",
            "漢(kan)",
        ),
        (
            '<w:sdt><w:sdtPr><x:checkbox><x:checked x:val="1"/></x:checkbox></w:sdtPr>'
            "<w:sdtContent>" + run("☒") + "</w:sdtContent></w:sdt>" + run(" Yes"),
            "[x] Yes",
        ),
        (run("on ") + f'<w:fldSimple w:instr="DATE">{run("3 May")}</w:fldSimple>', "on 3 May"),
        (f'<w:bdo w:val="rtl">{run("shalom")}</w:bdo>', "shalom"),
        ("<w:r><w:t>one</w:t><w:cr/><w:t>two</w:t></w:r>", "one\ntwo"),
        (
            "<w:r><c:AlternateContent><c:Choice Requires='wps'><w:drawing><w:txbxContent>"
            + paragraph("in a box")
            + "</w:txbxContent></w:drawing></c:Choice></c:AlternateContent></w:r>",
            "in a box",
        ),
    ],
)
def test_docx_keeps_what_its_converter_leaves_out(tmp_path, inside, text):
    body = f'<w:p xmlns:m="{M}" xmlns:x="{WORD_2010}" xmlns:c="{CHOICES}">{inside}</w:p>'
    parsed = parse(write_docx(tmp_path / "a.docx", body), OPTIONS)
    assert (parsed.text, parsed.doubts) == (text, ())


def test_cells_of_docx_that_are_merged_stand_in_every_row(tmp_path):
    def cell(text, merged=""):
        of_cell = f"<w:tcPr><w:vMerge {merged}/></w:tcPr>" if merged else ""
        return f"<w:tc>{of_cell}{paragraph(text)}</w:tc>"

    rows = [
        cell("Region") + cell("Quarter"),
        cell("North", "w:val='restart'") + cell("Q1"),
        cell("", "w:val='continue'") + cell("Q2"),
    ]
    table = "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>"
    assert parse(write_docx(tmp_path / "a.docx", table), OPTIONS).text.splitlines() == [
        "| Region | Quarter |",
        "| --- | --- |",
        "| North | Q1 |",
        "| North | Q2 |",
    ]


def test_what_the_converter_of_docx_does_not_know_is_said(tmp_path):
    body = paragraph("text") + f"<w:strange>{paragraph('lost')}</w:strange>"
    parsed = parse(write_docx(tmp_path / "a.docx", body), OPTIONS)
    assert parsed.text == "text"
    assert len(parsed.doubts) == 1
    assert parsed.doubts[0].startswith("its converter says: An unrecognised element was ignored")


def test_docx_is_titled_by_its_properties_else_by_its_name(tmp_path):
    titled = write_docx(tmp_path / "a.docx", paragraph("text"), title="A title")
    plain = write_docx(tmp_path / "b.docx", paragraph("text"))
    assert [parse(path, OPTIONS).title for path in (titled, plain)] == ["A title", "b"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(512), "encrypted, or in the older .doc format"),
        (b"no zip", "broken, or no docx file"),
    ],
)
def test_what_is_no_docx_says_so(tmp_path, content, reason):
    path = tmp_path / "a.docx"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=reason):
        parse(path, OPTIONS)


def test_a_docx_that_unpacks_a_thousandfold_is_refused(tmp_path):
    path = write_docx(tmp_path / "a.docx", paragraph("text"), padding=20 << 20)
    with pytest.raises(BadInput, match="times its size: a zip bomb"):
        parse(path, OPTIONS)
    with pytest.raises(BadInput, match="unpacks to 20 MB, more than the limit of 10 MB"):
        parse(path, ReadOptions(max_mb=10))


# The process of its own


def test_a_folder_of_everything_is_read_and_its_faults_come_by_name(tmp_path):
    write_pdf(tmp_path / "a.pdf", [["one"], ["two"]])
    write_pdf(tmp_path / "b.pdf", [["secret"]], is_encrypted=True)
    write_docx(tmp_path / "c.docx", paragraph("three"))
    (tmp_path / "d.docx").write_bytes(b"junk")
    with zipfile.ZipFile(tmp_path / "e.docx", "w") as archive:
        archive.writestr("empty", "")
    (tmp_path / "f.html").write_text("<p>four</p>")
    (tmp_path / "g.md").write_text("# Five\nfive")
    (tmp_path / "h.jsonl").write_text('{"text": "six"}\n{\n{"text": "seven"}\n')
    (tmp_path / "i.txt").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "j.pdf").write_bytes(b"")
    skipped: list[Skipped] = []
    found = find_files([tmp_path])
    texts = {
        file.path.name: [document.text for document in documents]
        for file, documents in read_all(found.files, on_skip=skipped.append)
    }
    assert texts == {
        "a.pdf": ["one\n\ntwo"],
        "b.pdf": [],
        "c.docx": ["three"],
        "d.docx": [],
        "e.docx": [],
        "f.html": ["four"],
        "g.md": ["# Five\nfive"],
        "h.jsonl": ["six", "seven"],
        "i.txt": [],
    }
    faults = [(each.path.name, each.line, each.whole) for each in (*found.skipped, *skipped)]
    assert faults == [
        ("j.pdf", 0, True),
        ("b.pdf", 0, True),
        ("d.docx", 0, True),
        ("e.docx", 0, True),
        ("h.jsonl", 2, False),
        ("i.txt", 0, True),
    ]
    assert "its parser failed: " in next(str(each) for each in skipped if "e.docx" in str(each))


def test_files_whose_documents_nobody_wants_are_not_opened(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("text")
    files = find_files([tmp_path]).files
    (tmp_path / "a.txt").unlink()
    skipped: list[Skipped] = []
    read = [
        document.title
        for file, documents in read_all(files, on_skip=skipped.append)
        if file.path.name == "b.txt"
        for document in documents
    ]
    assert (read, skipped) == (["b"], [])


def test_a_file_that_is_gone_by_then_is_reported(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    [file] = find_files([tmp_path]).files
    file.path.unlink()
    skipped: list[Skipped] = []
    assert [list(documents) for _, documents in read_all([file], on_skip=skipped.append)] == [[]]
    assert "cannot be read: [Errno 2]" in skipped[0].reason


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """A parser process that does as `program` says when a name holds `bad`."""
    code = f"""
import json, os, sys, time
for line in sys.stdin:
    path = json.loads(line)["path"]
    if "bad" in path:
        {program}
    print(json.dumps(dict(title="T", text=path, page_starts=[], doubts=[])), flush=True)
"""
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sandbox.sys.executable} -c '{code}'\n")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sandbox.sys, "executable", str(tmp_path / "python"))


@pytest.mark.parametrize(
    ("program", "timeout_s", "reason"),
    [
        (f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", 60.0, r"its parser crashed \(signal 11\)"),
        ("sys.exit(3)", 60.0, r"its parser crashed \(exit code 3\)"),
        ("time.sleep(60)", 0.5, r"took more than the limit of 0.5 s"),
    ],
)
def test_a_parser_that_crashes_or_hangs_costs_one_file(
    tmp_path, monkeypatch, program, timeout_s, reason
):
    stand_in(tmp_path, monkeypatch, program)
    with ParserProcess(ReadOptions(timeout_s=30.0)) as parser:
        assert parser.parse(Path("/a")).text == "/a"
    with ParserProcess(ReadOptions(timeout_s=timeout_s)) as parser:
        with pytest.raises(BadInput, match=reason):
            parser.parse(Path("/bad"))


def test_after_a_crash_the_next_file_is_parsed(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "sys.exit(3)")
    with ParserProcess(OPTIONS) as parser:
        for _ in range(2):
            with pytest.raises(BadInput, match="crashed"):
                parser.parse(Path("/bad"))
            assert parser.parse(Path("/good")).text == "/good"


@pytest.mark.skipif(os.name != "posix", reason="memory is limited on POSIX only")
def test_a_parser_has_a_limit_of_memory(tmp_path):
    path = tmp_path / "a.html"
    path.write_text("<p>" + "text " * 30_000_000)  # 150 MB, of which a tree is made
    skipped: list[Skipped] = []
    options = ReadOptions(memory_mb=500)
    assert list(read_file(path, on_skip=skipped.append, options=options)) == []
    assert [each.reason for each in skipped] == ["takes more than the limit of 500 MB to parse"]


def test_the_program_answers_a_line_with_a_line(tmp_path, monkeypatch):
    assert sandbox._reply(tmp_path / "gone.pdf", OPTIONS)["reason"].startswith("its parser failed")
    path = write_pdf(tmp_path / "a.pdf", [["one"]], title="A")
    reply = json.loads(json.dumps(sandbox._reply(path, OPTIONS)))
    assert sandbox._parsed(reply) == Parsed(title="A", text="one", page_starts=(0,))
