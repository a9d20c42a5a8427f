"""Bytes to text: what is known, what is guessed, and what is no text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.errors import BadInput
from selfrag.ingest.encodings import decode, known_encoding, valid
from selfrag.ingest.formats import ReadOptions
from selfrag.ingest.readers import read_file

pytest.importorskip("charset_normalizer")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_utf8_and_byte_order_marks_leave_no_doubt(encoding):
    assert decode("caf\u00e9 \U0001f642".encode(encoding)) == ("caf\u00e9 \U0001f642", "")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        (
            "cp1252",
            "Der Bundestag w\u00e4hlte gestern. \u00dcber die Gr\u00f6\u00dfe wird beraten.",
        ),
        ("cp1252", "The price is \u00a35 \u2013 that\u2019s \u201cfine\u201d."),
        (
            "cp1250",
            "P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148 \u00fap\u011bl",
        ),
        (
            "cp1251",
            "\u041f\u0440\u0438\u0432\u0435\u0442, \u043a\u0430\u043a \u0434\u0435\u043b\u0430?",
        ),
        ("cp932", "\u65e5\u672c\u8a9e\u306e\u6587\u66f8\u3067\u3059\u3002\u4eca\u65e5\u306f"),
        (
            "gb18030",
            "\u4e2d\u6587\u6587\u672c\u6587\u4ef6\uff0c\u4eca\u5929\u5929\u6c14\u5f88\u597d",
        ),
    ],
)
def test_other_encodings_are_guessed_and_the_guess_is_owned_up_to(encoding, text):
    found, doubt = decode(text.encode(encoding))
    assert found == text
    assert doubt.startswith("not UTF-8: read as ")


def test_what_is_declared_is_used_where_it_fits():
    assert decode("\u00a4".encode("latin-1"), declared="iso8859-15") == ("\u20ac", "")
    assert decode("caf\u00e9".encode(), declared="ascii") == ("caf\u00e9", "")
    assert decode("caf\u00e9".encode(), declared="no such") == ("caf\u00e9", "")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\0\0", b"plain\0text", b"\xff\xfea"])
def test_what_is_no_text_is_refused(data):
    with pytest.raises(BadInput, match="not text"):
        decode(data)


@given(st.text(min_size=1), st.integers(1, 20))
def test_a_sample_that_ends_within_a_character_is_utf8_still(text, n_bytes):
    assert known_encoding(text.encode()[:n_bytes], is_cut=True) == "utf-8"


@given(st.text())
def test_valid_text_can_be_encoded_and_stays_as_it_is_if_it_could(text):
    assert valid(text) == text
    assert valid(text + "\ud800").encode() == text.encode() + b"\xef\xbf\xbd"


def test_a_text_file_in_the_encoding_that_the_user_names(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("T\u00fcrk\u00e7e \u0131\u015f\u0131k".encode("cp1254"))
    skipped = []
    options = ReadOptions(encoding="cp1254")
    [document] = read_file(path, on_skip=skipped.append, options=options)
    assert (document.text, skipped) == ("T\u00fcrk\u00e7e \u0131\u015f\u0131k", [])
