"""HTML pages to text: nothing that a reader sees is lost, and what is navigation is left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.ingest.encodings import declared_encoding, web_encoding
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.html import page_text, page_titles, parse_html
from selfrag.ingest.parsers import parse

pytest.importorskip("lxml")

PROSE = "The red lever opens the hatch and the blue one closes it again after ten seconds. " * 3


def text_of(html: str) -> str:
    return page_text(parse_html(html))


def in_page(body: str) -> str:
    """The text of a fragment within a page that is long enough to be one."""
    return text_of(f"<body><p>{PROSE}</p>{body}</body>").removeprefix(PROSE.strip()).strip()


@pytest.mark.parametrize("tag", ["div", "section", "p", "aside", "article", "footer", "header"])
@pytest.mark.parametrize(
    "name",
    "navigation nav menu sidebar footer header comment comments cookie banner promo ad related "
    "share social widget author meta toc breadcrumb hidden print popup newsletter byline tags "
    "teaser caption disclaimer rating login search signup sponsor video gallery".split(),
)
def test_no_sentence_is_lost_for_the_name_of_its_block(tag, name):
    secret = "The wrench of size 13 fits the hatch."
    for attribute in ("id", "class"):
        body = f"<{tag} {attribute}='{name}'><h2>Tools</h2>{secret}</{tag}>"
        assert secret in text_of(f"<main><p>{PROSE}</p>{body}</main>")
        assert secret in text_of(f"<body><p>{PROSE}</p>{body}</body>")


def test_short_pages_keep_lists_and_tables_too():
    html = (
        "<h1>Hours</h1><ul><li>Monday: 9<li>Tuesday: closed</ul><p>Call the desk.</p>"
        "<table><tr><th>Day<th>Fee<tr><td>Sunday<td>3</table>"
    )
    assert text_of(html).splitlines() == [
        *("# Hours", "", "- Monday: 9", "- Tuesday: closed", "", "Call the desk.", ""),
        *("| Day | Fee |", "| --- | --- |", "| Sunday | 3 |"),
    ]


def test_navigation_scripts_and_fields_are_left_out():
    links = "".join(f"<li><a href='/{n}'>Chapter {n}</a>" for n in range(9))
    kept = text_of(
        f"<body><nav>Home Imprint</nav><div class='sidebar'><ul>{links}</ul></div>"
        f"<script>var x = 'hidden'</script><style>p {{}}</style><p>{PROSE}</p>"
        "<select><option>one</select><button>Send</button><img alt='a picture'>"
        "<div role='navigation'>Up</div><template>later</template></body>"
    )
    assert kept == PROSE.strip()


def test_links_of_the_text_and_lists_of_links_in_the_main_part_are_kept():
    moons = "".join(f"<li><a href='/{each}'>{each}</a>" for each in ("Io", "Europa", "Callisto"))
    kept = text_of(f"<main><p>{PROSE} See <a href='/j'>Jupiter</a>.</p><ul>{moons}</ul></main>")
    assert kept.endswith("See Jupiter.\n\n- Io\n- Europa\n- Callisto")


def test_lists_of_links_around_the_main_part_are_navigation():
    links = "".join(f"<li><a href='/{n}'>Story {n}</a>" for n in range(9))
    page = f"<body><ul>{links}</ul><main><p>{PROSE}</p></main><div>{links} or more</div></body>"
    assert text_of(page) == PROSE.strip()


def test_a_page_of_links_alone_keeps_them():
    links = "".join(f"<li><a href='/{n}'>Chapter {n}</a>" for n in range(3))
    assert text_of(f"<div class='toc'><ul>{links}</ul></div>") == "\n".join(
        f"- Chapter {n}" for n in range(3)
    )


def test_text_that_is_folded_up_is_text():
    body = (
        "<details><summary>Is it safe?</summary>It is.</details>"
        "<h2><button aria-expanded='false'>Price?</button></h2><div hidden>Nine coins.</div>"
    )
    assert in_page(body) == "Is it safe?\nIt is.\n\n## Price?\n\nNine coins."


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("10<sup>11</sup> stars", "10^11 stars"),
        ("10<sup>\u22123</sup> m", "10^\u22123 m"),
        ("5,300<sup>2</sup> people", "5,300^2 people"),
        ("x<sup>n+1</sup>", "x^(n+1)"),
        ("the 1<sup>st</sup> and 22<sup>nd</sup>", "the 1st and 22nd"),
        ("H<sub>2</sub>O and CO<sub>2</sub>", "H2O and CO2"),
        ("101<sub>2</sub> is log<sub>2</sub>8", "101_2 is log_28"),
        ("a<sub>i+1</sub> and 5<sup>1</sup>/<sub>2</sub>", "a_(i+1) and 5 1/2"),
        ("<del>50</del><ins>40</ins> coins", "~~50~~40 coins"),
        ("<x-box><template shadowrootmode=open>shown</template></x-box>", "shown"),
        ("said<sup><a href='#n1'>1</a></sup> so", "said[1] so"),
        ("said<sup class='reference'><a href='#n1'>[1]</a></sup>", "said[1]"),
        ("<sup>1</sup> A note.", "1 A note."),
        ("<b>A</b>nna, <i>Bob</i>", "Anna, Bob"),
        ("one<br>two", "one\ntwo"),
        ("<ruby>\u6f22<rt>kan</rt>\u5b57<rt>ji</rt></ruby>", "\u6f22(kan)\u5b57(ji)"),
        ("<ruby>\u6f22<rp>[</rp><rt>kan</rt><rp>]</rp></ruby>", "\u6f22[kan]"),
        ("<ul><li><input type=checkbox checked disabled> done</ul>", "- [x] done"),
        ("<ol start=3><li>three<li>four<ul><li>in</ul></ol>", "3. three\n4. four\n  - in"),
        ("<pre>a  b<br>  c\n\td</pre>", "a  b\n  c\n\td"),
        (
            "<math><mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac></math>",
            "a/(b + 1)",
        ),
        ("<math alttext='x^2'><msup><mi>x</mi><mn>2</mn></msup></math>", "x^2"),
        ("<img alt='$E = mc^2$'>", "$E = mc^2$"),
        ("<h3>Use<a class=headerlink href='#use'>\u00b6</a></h3>", "### Use"),
        ("so<span aria-hidden=true>*</span> it is", "so it is"),
        ("<svg><text>one</text><text>two</text></svg>", "one\ntwo"),
    ],
)
def test_what_stands_for_more_than_its_letters(html, text):
    assert in_page(html) == text


def test_cells_that_span_rows_and_columns_stand_in_each_of_them():
    table = (
        "<table><tr><th>Region<th>Quarter<th colspan=2>Rates"
        "<tr><td rowspan=2>North<td>Q1<td>1<td>2<tr><td>Q2<td>3<td>4"
        "<tr><td colspan=4>Provisional<tr><td>South<td>Q1<td>5<td></table>"
    )
    assert in_page(table).splitlines() == [
        "| Region | Quarter | Rates | Rates |",
        "| --- | --- | --- | --- |",
        "| North | Q1 | 1 | 2 |",
        "| North | Q2 | 3 | 4 |",
        "| Provisional |",
        "| South | Q1 | 5 |  |",
    ]


def test_a_table_that_arranges_a_page_is_read_as_its_parts():
    table = f"<table><tr><td><h2>Left</h2><p>One.</p><td><p>{PROSE}</p></table>"
    assert in_page(table) == f"## Left\n\nOne.\n\n{PROSE.strip()}"
    assert in_page("<table>lost<tr><td>a<td>b</table>").split() == ["lost", "a", "b"]


def test_a_tree_of_any_depth_is_read_to_its_end():
    for depth in (300, 1000, 3000, 50_000):
        html = "<font>" * depth + "d\u00e9ep" + "</font>" * (depth - 10) + "<p>end"
        assert text_of(f"<script>no</script><p>{PROSE}{html}").split()[-2:] == ["d\u00e9ep", "end"]


@pytest.mark.parametrize(
    ("html", "titles"),
    [
        ("<title>Tea - Our site</title><h1>Tea</h1>", ["Tea", "Tea - Our site"]),
        ("<title>Opening hours</title><h1>City library</h1>", ["Opening hours", "City library"]),
        ("<title>Two</title><h1>a</h1><h1>b</h1>", ["Two"]),
        ("<h1>Foo<a href='#foo'>\u00b6</a></h1>", ["Foo"]),
        ("<svg><title>icon</title></svg><p>text", []),
    ],
)
def test_titles_of_a_page_come_the_best_first(html, titles):
    assert page_titles(parse_html(html)) == titles


def test_words_are_found_whatever_parts_them_on_the_screen(tmp_path):
    path = tmp_path / "a.html"
    path.write_text("<p>Donau&shy;dampf&shy;schiff, co&#8209;op")
    assert parse(path, ReadOptions()).text == "Donaudampfschiff, co-op"


@pytest.mark.parametrize(
    "title", ["", "Untitled", "untitled document", "Document1", "Microsoft Word - Document1", "\0"]
)
def test_a_title_that_says_nothing_is_none(tmp_path, title):
    path = tmp_path / "Leave policy.html"
    path.write_text(f"<title>{title}</title><p>text".replace("\0", "&#1;"))
    assert parse(path, ReadOptions()).title == "Leave policy"


# Encodings

BODY = "<title>M</title><p>cr\u00e8me br\u00fbl\u00e9e \u20ac5"


@pytest.mark.parametrize(
    ("encoding", "declaration"),
    [
        ("utf-8", "<meta charset='iso-8859-1'>"),  # left over: valid UTF-8 is UTF-8
        ("utf-8", "<meta http-equiv=Content-Type content='text/html; charset=windows-1252'>"),
        ("cp1252", "<meta charset=iso-8859-1>"),  # Latin-1 has no Euro sign
        ("cp1252", "<META HTTP-EQUIV='content-type' CONTENT='text/html;charset=us-ascii'>"),
        ("cp1252", "<!-- <meta charset=koi8-r> --><meta charset=latin1>"),
        ("cp1252", "<script>s = '<meta charset=koi8-r>'</script><meta charset=x-cp1252>"),
        ("cp1252", "<meta name=description content='charset=koi8-r'><meta charset=l1>"),
        ("iso8859-15", "<meta charset=iso-8859-15>"),
        ("utf-16", "<meta charset=koi8-r>"),  # has a byte order mark
    ],
)
def test_the_charset_is_found_as_browsers_do_and_utf8_wins(tmp_path, encoding, declaration):
    path = tmp_path / "a.html"
    path.write_bytes((declaration + BODY).encode(encoding))
    parsed = parse(path, ReadOptions())
    assert (parsed.text, parsed.doubts) == ("cr\u00e8me br\u00fbl\u00e9e \u20ac5", ())


def test_escape_sequences_are_read_as_declared_though_they_are_ascii(tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes("<meta charset=iso-2022-jp><p>\u65e5\u672c".encode("iso2022_jp"))
    assert parse(path, ReadOptions()).text == "\u65e5\u672c"


@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
def test_damaged_bytes_do_not_turn_the_rest_into_another_script(tmp_path, encoding):
    path = tmp_path / "a.html"
    text = "\u65e5\u672c\u8a9e\u306e\u6587\u66f8"
    html = f"<meta charset={encoding}><p>".encode() + text.encode(encoding) + b"\x81!"
    path.write_bytes(html)
    parsed = parse(path, ReadOptions())
    assert parsed.text == f"{text}\ufffd!"
    assert parsed.doubts == (f"1 place is not {encoding} and read as \ufffd; is the file damaged?",)


def test_what_is_declared_is_used_though_a_byte_does_not_fit(tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes(b"<meta charset=latin1><p>\x81 and \x93so\x94")  # 0x81 is nothing in cp1252
    assert parse(path, ReadOptions()).text == "\ufffd and \u201cso\u201d"


@pytest.mark.parametrize(
    ("label", "encoding"),
    [
        *(("latin1", "cp1252"), ("ISO88591", "cp1252"), (" us-ascii ", "cp1252")),
        *(("x-sjis", "cp932"), ("shift_jis", "cp932"), ("gb2312", "gb18030")),
        *(("ks_c_5601-1987", "cp949"), ("x-x-big5", "big5hkscs"), ("tis-620", "cp874")),
        *(("utf-16le", "utf-8"), ("utf8", "utf-8"), ("x-mac-cyrillic", "mac-cyrillic")),
        *(("utf-7", ""), ("unicode_escape", ""), ("rot13", ""), ("", ""), ("no\0such", "")),
    ],
)
def test_labels_mean_what_they_mean_to_browsers(label, encoding):
    assert web_encoding(label) == encoding


@given(st.binary(max_size=200))
def test_any_bytes_declare_an_encoding_or_none(data):
    found = declared_encoding(b"<meta charset=" + data + b">")
    assert found == "" or b"a".decode(found) == "a"
