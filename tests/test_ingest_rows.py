"""Tables and JSON lines, and the corpora that others give away."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.errors import BadInput
from selfrag.ingest import rows
from selfrag.ingest.chunking import chunk_document
from selfrag.ingest.faults import Skipped
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.readers import read_file
from selfrag.ingest.rows import read_rows
from selfrag.passage import Document


def read(
    path: Path, content: str | bytes, *, options: ReadOptions | None = None
) -> tuple[list[Document], list[Skipped]]:
    """What a file of that content gives, and what is reported."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    skipped: list[Skipped] = []
    return list(read_file(path, on_skip=skipped.append, options=options)), skipped


def reported(skipped: list[Skipped]) -> list[tuple[int, str]]:
    return [(each.line, each.reason) for each in skipped]


# JSON lines


def test_json_lines_take_text_or_contents_and_any_source(tmp_path):
    lines = [
        {"title": "A", "text": "one"},
        {"contents": '"B"\ntwo\nlines', "url": "http://b"},
        {"title": "C", "contents": "three\nlines", "source": "book"},
        {"contents": "no title"},
        {"title": 1984, "text": "a number for a title"},
    ]
    path = tmp_path / "rows.jsonl"
    assert read(path, "\n\n".join(map(json.dumps, lines))) == (
        [
            Document(title="A", text="one", source=f"{path}:1"),
            Document(title="B", text="two\nlines", source="http://b"),
            Document(title="C", text="three\nlines", source="book"),
            Document(title="", text="no title", source=f"{path}:7"),
            Document(title="1984", text="a number for a title", source=f"{path}:9"),
        ],
        [],
    )


def test_scalars_there_and_in_an_object_metadata_are_metadata(tmp_path):
    row = {
        "text": "x",
        "year": 1843,
        "draft": False,
        "none": None,
        "list": [1],
        "empty": "",
        "metadata": {"lang": "en", "year": 1844, "deep": {}},
        "url": "http://x",
        "source": "book",
    }
    [document], skipped = read(tmp_path / "a.jsonl", json.dumps(row))
    assert document.source == "book"
    assert document.metadata == (
        ("year", "1844"),
        ("draft", "False"),
        ("url", "http://x"),
        ("lang", "en"),
    )
    assert skipped == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b"[1]", "not a document: not a JSON object"),
        (b"3", "not a document: not a JSON object"),
        (b'{"title": "x"}', "not a document: it has no text or contents"),
        (b'{"text": 3}', "not a document: its text is not a string"),
        (b'{"text": "x", "id": []}', "not a document: its id is not a string"),
        (b'{"text": "\xff"}', "not JSON: not UTF-8"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path, line, reason):
    content = b'{"text": "fine"}\n' + line + b'\n{"text": "also"}\n'
    documents, [skipped] = read(tmp_path / "rows.jsonl", content)
    assert [document.text for document in documents] == ["fine", "also"]
    assert str(skipped).startswith(f"{tmp_path}/rows.jsonl:2: {reason}")
    assert not skipped.whole


def test_of_many_bad_lines_five_are_named_and_the_others_counted(tmp_path):
    content = "{\n" * 7 + '{"text": "fine"}\n' + '{"text": " "}\n' * 3
    documents, skipped = read(tmp_path / "rows.jsonl", content)
    assert [document.text for document in documents] == ["fine"]
    assert [each.line for each in skipped] == [1, 2, 3, 4, 5, 0, 0]
    assert [each.reason for each in skipped[5:]] == [
        "2 more lines could not be used",
        "3 rows without text",
    ]


def test_a_file_of_bad_lines_only_is_a_skipped_file(tmp_path):
    documents, skipped = read(tmp_path / "rows.jsonl", "{")
    assert documents == []
    assert [(each.line, each.whole) for each in skipped] == [(1, False), (0, True)]


def test_lone_surrogates_of_json_are_replaced(tmp_path):
    [document], _ = read(tmp_path / "rows.jsonl", '{"text": "a\\ud800b \\ud83d\\ude42"}')
    assert document.text == "a\ufffdb \U0001f642"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_believed(tmp_path, encoding):
    content = '{"text": "caf\u00e9"}\n{"text": "two"}\n'.encode(encoding)
    documents, skipped = read(tmp_path / "rows.jsonl", content)
    assert [document.text for document in documents] == ["caf\u00e9", "two"]
    assert skipped == []


def test_an_endless_line_is_left_out_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_FIELD", 100)
    content = '{"text": "fine"}\n{"text": "' + "x" * 1000 + '"}\n{"text": "also"}'
    documents, skipped = read(tmp_path / "rows.jsonl", content)
    assert [document.source[-2:] for document in documents] == [":1", ":3"]
    assert reported(skipped) == [(2, "more than 100 characters; are these lines of rows?")]


# The corpora of others


def test_the_demo_corpus_of_self_rag_has_its_section_in_the_title(tmp_path):
    lines = [
        {"id": "140", "title": "Tea", "section": "", "text": "A drink."},
        {"id": "141", "title": "Tea", "section": "History", "text": "It began in China."},
    ]
    path = tmp_path / "enwiki.jsonl"
    documents, skipped = read(path, "\n".join(map(json.dumps, lines)))
    assert documents == [
        Document(title="Tea", text="A drink.", source=f"{path}:1", id="140"),
        Document(
            title="Tea: History",
            text="It began in China.",
            source=f"{path}:2",
            id="141",
            metadata=(("section", "History"),),
        ),
    ]
    assert skipped == []


@pytest.mark.parametrize(
    ("contents", "title"),
    [
        ('"Aaron"\nHe lived.', "Aaron"),
        ('"The ""Weird"" One"\nHe lived.', 'The "Weird" One'),
        ('"Heroes" (album)\nHe lived.', '"Heroes" (album)'),
        ('"\nHe lived.', '"'),
    ],
)
def test_flashrag_has_the_title_in_the_first_line(tmp_path, contents, title):
    path = tmp_path / "wiki18.jsonl"
    assert read(path, json.dumps({"id": 0, "contents": contents})) == (
        [Document(title=title, text="He lived.", source=f"{path}:1", id="0")],
        [],
    )


@pytest.mark.parametrize("name", ["psgs_w100.tsv", "psgs_w100.tsv.gz"])
def test_dpr_passages_keep_their_ids_and_are_never_cut(tmp_path, name):
    long = "word " * 300
    content = (
        "id\ttext\ttitle\n"
        '1\t"Aaron ( or ; ""Ah\u00e4r\u00f4n"") is a prophet"\tAaron\n'
        f'2\t"{long}"\t"The ""Weird"" One"\n'
    )
    documents, skipped = read(tmp_path / name, content)
    assert documents == [
        Document(
            title="Aaron",
            text='Aaron ( or ; "Ah\u00e4r\u00f4n") is a prophet',
            source=f"{tmp_path / name}:2",
            id="1",
        ),
        Document(title='The "Weird" One', text=long, source=f"{tmp_path / name}:3", id="2"),
    ]
    assert skipped == []
    [passage] = chunk_document(documents[1])
    assert (passage.id, passage.text, passage.start, passage.end) == ("2", long, 0, 1500)


def test_rows_are_cut_on_request_and_long_ones_kept_whole_are_spoken_of(tmp_path):
    line = json.dumps({"id": "a", "text": "word " * 2000})
    [whole], [doubt] = read(tmp_path / "rows.jsonl", line)
    assert whole.id == "a"
    assert doubt.reason.startswith("1 row of more than 8000 characters with an id, kept whole")
    [to_cut], none = read(tmp_path / "rows.jsonl", line, options=ReadOptions(cut_rows=True))
    assert (to_cut.id, to_cut.metadata, none) == ("", (("id", "a"),), [])
    assert len(list(chunk_document(to_cut))) == 20


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_file_is_read_by_its_header(tmp_path, delimiter):
    table = io.StringIO()
    csv.writer(table, delimiter=delimiter).writerows(
        [
            ["Title", "year", "TEXT", "URL"],
            ["Tea", "1843", 'two\nlines, "quoted"; and\tparted', "http://tea"],
            ["Milk", "", "white", ""],
        ]
    )
    path = tmp_path / "rows.csv"
    assert read(path, table.getvalue()) == (
        [
            Document(
                title="Tea",
                text='two\nlines, "quoted"; and\tparted',
                source="http://tea",
                metadata=(("year", "1843"),),
            ),
            Document(title="Milk", text="white", source=f"{path}:4"),
        ],
        [],
    )


def test_a_row_with_other_fields_than_the_header_is_named(tmp_path):
    content = "id,text\r\n1,fine\r\n2,to,many\r\n\r\n3\r\n4,also\r\n"
    documents, skipped = read(tmp_path / "rows.csv", content)
    assert [document.id for document in documents] == ["1", "4"]
    assert reported(skipped) == [
        (3, "found 3 fields, expected 2 as in the header"),
        (5, "found 1 fields, expected 2 as in the header"),
    ]


def test_rows_without_a_text_column_are_lines_of_column_and_value(tmp_path):
    path = tmp_path / "people.csv"
    documents, skipped = read(path, "id;name;age;;note;note\n1;Ada;36;x;;a\n2;Alan, Dr;;;b;c\n")
    assert [document.text for document in documents] == [
        "id: 1\nname: Ada\nage: 36\ncolumn 4: x\nnote (2): a",
        "id: 2\nname: Alan, Dr\nnote: b\nnote (2): c",
    ]
    assert documents[0] == Document(
        title="people",
        text=documents[0].text,
        source=f"{path}:2",
        metadata=(("name", "Ada"), ("age", "36"), ("column 4", "x"), ("note (2)", "a")),
    )
    assert skipped == []


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_the_line_by_which_excel_tells_itself_the_delimiter_is_no_header(tmp_path, delimiter):
    lines = [f"sep={delimiter}", f"name{delimiter}age", f"Ada{delimiter}36"]
    [document], _ = read(tmp_path / "a.csv", "\r\n".join(lines))
    assert (document.text, document.source[-2:]) == ("name: Ada\nage: 36", ":3")


def test_json_rows_without_a_text_are_lines_of_name_and_value(tmp_path):
    rows = [{"name": "Ada", "born": 1815, "tags": ["a", 1], "gone": None}, {"name": "Alan"}]
    documents, skipped = read(tmp_path / "people.jsonl", "\n".join(map(json.dumps, rows)))
    assert [document.text for document in documents] == [
        'name: Ada\nborn: 1815\ntags: ["a", 1]',
        "name: Alan",
    ]
    assert skipped == []


def test_columns_are_named_in_any_case_and_several_are_joined(tmp_path):
    content = "Name,Kind,Abstract,text\nOkapi,animal,lives in Congo,no\n"
    path = tmp_path / "rows.csv"
    options = ReadOptions(text_column=["abstract"], title_column=["name", "KIND"])
    [document], _ = read(path, content, options=options)
    assert (document.title, document.text) == ("Okapi: animal", "lives in Congo")
    assert document.metadata == (("Name", "Okapi"), ("Kind", "animal"))
    [document], _ = read(path, content, options=ReadOptions(text_column=["Kind", "Abstract"]))
    assert document.text == "Kind: animal\nAbstract: lives in Congo"
    line = json.dumps({"id": "7", "Body": "A beast.", "title": "Okapi"})
    [document], _ = read(tmp_path / "a.jsonl", line, options=ReadOptions(text_column=["body"]))
    assert (document.id, document.title, document.text) == ("7", "Okapi", "A beast.")


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path):
    options = ReadOptions(text_column=("body",))
    documents, [skipped] = read(tmp_path / "rows.csv", "name,age\nAda,36\n", options=options)
    assert documents == []
    assert skipped.reason == "it has no 'body' among 'name', 'age', its columns"
    documents, skipped = read(tmp_path / "rows.jsonl", '{"name": "Ada"}\n', options=options)
    assert skipped[0].reason == "not a document: it has no 'body' among 'name'"


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        # Quotes that are text: at the beginning, open, around a part, at the end of another row.
        (['"Hello," said he.', "Fine."], ['"Hello," said he.', "Fine."]),
        (['"Open', "Fine.", '"Open again'], ['"Open', "Fine.", '"Open again']),
        (['"Open', "Fine.", 'Closed"', "Fine."], ['"Open', "Fine.", 'Closed"', "Fine."]),
        (['A 5" pipe', '"a" or "b"'], ['A 5" pipe', '"a" or "b"']),
        # Quotes of CSV.
        (['"Say ""no"" to it"', '"tab\there"'], ['Say "no" to it', "tab\there"]),
        (['"two\nlines"', "Fine."], ["two\nlines", "Fine."]),
        (['"two\r\n\r\nlines, ""both"""', '"Open'], ['two\r\n\r\nlines, "both"', '"Open']),
    ],
)
@pytest.mark.parametrize("order", ["id text title", "text id title", "id title text"])
def test_tsv_rows_stay_apart_whatever_is_quoted(tmp_path, lines, texts, order):
    names = order.split()
    content = "\t".join(names) + "\n"
    for number, line in enumerate(lines):
        row = {"id": str(number), "text": line, "title": f"T{number}"}
        content += "\t".join(row[name] for name in names) + "\n"
    documents, skipped = read(tmp_path / "rows.tsv", content)
    assert [document.text for document in documents] == texts
    assert [document.id for document in documents] == [str(n) for n in range(len(lines))]
    assert skipped == []


def test_open_quotes_do_not_make_a_large_tsv_slow_or_one_row(tmp_path):
    content = "id\ttext\n" + "".join(f'{n}\t"open {n}\n' for n in range(20_001))
    documents, skipped = read(tmp_path / "rows.tsv", content)
    assert len(documents) == 20_001
    assert skipped == []


def test_a_field_may_be_longer_than_csv_allows_by_default(tmp_path):
    text = "x" * 200_000  # the default limit is 131072
    [document], skipped = read(tmp_path / "rows.tsv", f"text\ttitle\n{text}\tA\n")
    assert (document.text, skipped) == (text, [])


def test_a_quote_left_open_costs_a_bounded_piece_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_FIELD", 1000)
    monkeypatch.setattr(
        csv, "field_size_limit", lambda *limit, real=csv.field_size_limit: real(1000)
    )
    content = 'text,title\n"open,A\n' + "a fine line,B\n" * 200 + "last,C\n"
    before = csv.field_size_limit()
    documents, skipped = read(tmp_path / "rows.csv", content)
    csv.field_size_limit(before)
    assert documents[-1].title == "C"
    assert 100 < len(documents) < 200
    assert [each.line for each in skipped] == [2]
    assert "larger than field limit" in skipped[0].reason
    assert "is a quote left open?" in skipped[0].reason


def test_a_table_in_another_encoding_is_guessed_and_said_to_be(tmp_path):
    content = "text,title\nLe caf\u00e9 d\u00e9j\u00e0 bu \u00e0 No\u00ebl,\u00c9t\u00e9\n".encode(
        "cp1252"
    )
    [document], skipped = read(tmp_path / "rows.csv", content)
    assert (document.text, document.title) == (
        "Le caf\u00e9 d\u00e9j\u00e0 bu \u00e0 No\u00ebl",
        "\u00c9t\u00e9",
    )
    assert reported(skipped) == [
        (0, "not UTF-8: read as cp1252, a guess; name its encoding where that is wrong")
    ]


def test_bytes_that_are_no_text_far_into_a_table_cost_their_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_SAMPLE_BYTES", 16)
    content = b"text,title\n" + b"fine,A\n" * 5 + b"caf\xe9,B\n" + b"also,C\n"
    documents, skipped = read(tmp_path / "rows.csv", content)
    assert [document.title for document in documents] == ["A"] * 5 + ["C"]
    assert reported(skipped) == [(7, "bytes that are not text in the encoding of the file")]


def test_gzip_that_breaks_off_keeps_what_came_before(tmp_path):
    whole = gzip.compress("".join(f'{{"text": "row {i}"}}\n' for i in range(20_000)).encode())
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    skipped: list[Skipped] = []
    documents = list(read_file(path, on_skip=skipped.append))
    assert 1000 < len(documents) < 20_000
    [fault] = [each for each in skipped if not each.line]
    assert "cannot be read to its end" in fault.reason
    assert not fault.whole


def test_what_is_named_gzip_and_is_none_is_skipped(tmp_path):
    path = tmp_path / "rows.tsv.gz"
    path.write_bytes(b"text\nfine\n")
    skipped: list[Skipped] = []
    assert list(read_file(path, on_skip=skipped.append)) == []
    assert [each.whole for each in skipped] == [True]
    assert "Not a gzipped file" in skipped[0].reason


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.write('{"text": "first"}\n' + '{"text": "other"}\n' * 200_000)
    documents = read_rows(path, on_skip=lambda _: None, options=ReadOptions())
    assert next(documents).text == "first"
    documents.close()


def test_a_header_alone_gives_nothing(tmp_path):
    documents, skipped = read(tmp_path / "rows.csv", "id,text\n")
    assert (documents, reported(skipped)) == ([], [(0, "no text in it")])


CELLS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20
).filter(str.strip)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from([",", "\t"]))
def test_what_csv_writes_is_read_back(tmp_path_factory, cells, delimiter):
    if delimiter == "\t":  # within quotes it may be taken for the end of a field
        cells = [tuple(cell.replace("\t", "-") for cell in row) for row in cells]
    table = io.StringIO(newline="")
    csv.writer(table, delimiter=delimiter).writerows([("text", "title"), *cells])
    path = tmp_path_factory.mktemp("csv") / ("a.tsv" if delimiter == "\t" else "a.csv")
    documents, skipped = read(path, table.getvalue())
    assert [(found.text, found.title) for found in documents] == cells
    assert skipped == []


def test_rows_raises_bad_input_for_a_caller_of_its_own(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\nx\n")
    with pytest.raises(BadInput, match="no header: its first line is ''"):
        next(read_rows(path, on_skip=lambda _: None, options=ReadOptions()))
