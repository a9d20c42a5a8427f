import gzip
import json
import os
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from selfrag.errors import BadInput
from selfrag.rows import (
    Reject,
    RowFault,
    answers_of,
    as_read,
    id_of,
    named,
    question_of,
    read_rows,
    text_field,
)


def read(path: Path, content: bytes):
    path.write_bytes(content)
    return list(read_rows(path, as_read))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows"


ROWS = [(1, {"a": 1}), (2, {"a": "é\u2028x"})]
LINES = '{"a": 1}\n{"a": "é\u2028x"}\n'.encode()
LIST = '[{"a": 1}, {"a": "é\u2028x"}]'.encode()


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.rstrip(),
        LINES.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + LINES,
        LIST,
        b"\xef\xbb\xbf" + LIST,
        b"\n  " + LIST + b"\n\n",
        json.dumps(json.loads(LIST), indent=2).encode(),
        b'{"data": ' + LIST + b"}",
        b'{\n"version": 2,\n"data":\n' + LIST + b"}\n",
        gzip.compress(LINES),
        gzip.compress(LINES[:9]) + gzip.compress(LINES[9:]),
        zstandard.compress(LINES),
        zstandard.compress(LIST),
    ],
)
def test_lines_and_lists_plain_and_compressed_are_the_same_rows(file, content):
    assert read(file, content) == ROWS


def test_numbers_count_lines_and_blank_ones_go(file):
    assert read(file, b'\n{"a": 1}\n  \n\r\n{"a": 2}') == [(2, {"a": 1}), (5, {"a": 2})]
    assert read(file, b"") == []
    assert read(file, b"\n\n") == []


def test_one_object_over_several_lines_is_one_row(file):
    assert read(file, b'{\n"a": 1\n}\n') == [(1, {"a": 1})]
    assert read(file, b'{"data": 3}') == [(1, {"data": 3})]


def test_a_first_row_that_is_a_list_leaves_the_lines_after_it(file):
    rows = read(file, b'[1]\n\n{"a": 2}\n')
    assert rows[1] == (3, {"a": 2})
    assert rows[0][1].detail == "is a list, not an object"


def test_a_damaged_first_row_leaves_the_lines_after_it(file):
    rows = read(file, b'{"a": \n{"a": 2}\nx\n')
    assert rows[1] == (2, {"a": 2})
    assert [each.reason for _, each in (rows[0], rows[2])] == ["not_json", "not_json"]
    rows = read(file, b'x\n{"a": 2}\n')
    assert rows[1] == (2, {"a": 2})


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"{'a': 1}", "not_json", "is not JSON (Expecting"),
        (b'{"a": NaN}', "not_json", "is not JSON (NaN is no JSON number)"),
        (b'{"a": 1e999}', "not_json", "is not JSON (1e999 is too large a number)"),
        (b'{"a": "\xff"}', "not_utf8", "is not UTF-8 (byte 8 is 0xff)"),
        (b'{"a": "\\ud800"}', "not_text", "has half a surrogate pair, which is no text"),
        (b'{"\\udc00": 1}', "not_text", "has half a surrogate pair, which is no text"),
        (b"3", "wrong_type", "is a number, not an object"),
        (b"null", "wrong_type", "is null, not an object"),
        (b'"a"', "wrong_type", "is a string, not an object"),
        (b"[" * 100_000, "not_json", "is not JSON (nested too deeply)"),
        (b"9" * 5000, "not_json", "is not JSON (Exceeds the limit"),
    ],
)
def test_a_row_that_cannot_be_used_is_kept_and_the_rest_goes_on(file, line, reason, detail):
    rows = read(file, b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert rows[0] == (1, {"a": 1}) and rows[2] == (3, {"a": 2})
    number, reject = rows[1]
    assert isinstance(reject, Reject)
    assert (number, reject.number, reject.reason) == (2, 2, reason)
    assert reject.detail.startswith(detail)
    json.dumps(reject.to_line(), ensure_ascii=False).encode()
    assert len(reject.to_line()["text"]) <= 2000


def test_half_a_surrogate_pair_in_a_list_is_one_reject(file):
    rows = read(file, b'[{"a": "\\ud83d"}, {"a": "\\ud83d\\ude00"}]')
    assert rows[0][1].reason == "not_text"
    assert rows[1] == (2, {"a": "\U0001f600"})


@given(st.binary(max_size=60))
def test_any_bytes_give_rows_rejects_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "rows"
    try:
        rows = read(path, content)
    except BadInput as error:
        assert str(error).startswith(f"cannot read rows from {path}: ")
        return
    assert all(isinstance(row, dict | Reject) for _, row in rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[{}, ", "begins like a JSON list and is none"),
        (b'[{"a": 1},\n{"a": 2}\n', "begins like a JSON list and is none"),
        ('{"a": 1}'.encode("utf-16"), "it is UTF-16; expected UTF-8"),
        (gzip.compress(LINES)[:-9], "its compression is damaged or incomplete"),
        (gzip.compress(LINES)[:12] + b"junk junk", "its compression is damaged or incomplete"),
        (zstandard.compress(LINES)[:6] + b"junk", "its compression is damaged or incomplete"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(file, content, said):
    with pytest.raises(BadInput) as caught:
        read(file, content)
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_missing_file_and_a_folder_are_bad_input(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match=r"cannot read questions from .*so name another"):
            list(read_rows(path, as_read, what="questions"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_rows_are_read_from_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(zstandard.compress(LINES),))
    writer.start()
    assert list(read_rows(pipe, as_read)) == ROWS
    writer.join()


def test_what_parse_refuses_is_a_reject_with_its_reason(file):
    def parse(number, row):
        if row["a"] == 1:
            raise RowFault("odd", "has an odd 'a'")
        if row["a"] == 2:
            raise ValueError("two")
        if row["a"] == 3:
            raise TypeError("has three")
        return number, row["b"]

    file.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a": 4}\n{"a": 5, "b": 6}')
    rows = [row for _, row in read_rows(file, parse)]
    assert [(each.reason, each.detail) for each in rows[:4]] == [
        ("odd", "has an odd 'a'"),
        ("wrong_type", "is no such row (two)"),
        ("wrong_type", "has three"),
        ("missing_field", "misses 'b'"),
    ]
    assert rows[0].row == {"a": 1}
    assert rows[4] == (5, 6)


def test_a_fault_of_ours_is_not_a_reject(file):
    file.write_bytes(b"{}\n")
    with pytest.raises(ZeroDivisionError):
        list(read_rows(file, lambda number, row: number // 0))


def test_rejects_in_words():
    rejects = [Reject(reason="x", detail="is odd", number=n) for n in range(1, 6)]
    assert named(rejects[:2]) == "line 1 is odd, line 2 is odd"
    assert named(rejects) == "line 1 is odd, line 2 is odd, line 3 is odd and 2 more"
    assert Reject(reason="x", detail="y", row={"a": "é" * 3000}).text == '{"a": "' + "é" * 1993


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answers": "a comet"}, ("a comet",)),
        ({"answers": ["a", "b"]}, ("a", "b")),
        ({"answers": [42, 0, 2.5]}, ("42", "0", "2.5")),
        ({"answers": 0}, ("0",)),
        ({"answers": ["[0, 1]"]}, ("[0, 1]",)),
        ({"answers": "[0, 1]"}, ("[0, 1]",)),
        ({"answers": True}, ("true",)),
        ({"answers": ["", " "], "golds": ["g"]}, ("g",)),
        ({"answers": None, "answer": "x"}, ("x",)),
        ({"answers": [None, "x", "x", [" y "]]}, ("x", "y")),
        ({"answers": '["a", "b"]'}, ("a", "b")),
        ({"answers": "['a', \"b's\"]"}, ("a", "b's")),
        ({"answers": "[a, b]"}, ("[a, b]",)),
        ({"answers": "[" * 9000}, ("[" * 9000,)),
        ({"answers": ['["a", "b"]']}, ('["a", "b"]',)),
        ({"answers": {"value": "a", "aliases": ["b", "a"]}}, ("a", "b")),
        ({"answers": [], "golds": [], "answer": ""}, ()),
        ({"golden_answers": ["a"]}, ("a",)),
        ({"possible_answers": '["a", "b"]'}, ("a", "b")),
        ({}, ()),
    ],
)
def test_gold_answers_of_a_row(row, answers):
    assert answers_of(row) == answers


@pytest.mark.parametrize("value", [{"a": 1}, [{}], [["x", {"b": 1}]]])
def test_gold_answers_that_are_no_strings_are_refused(value):
    with pytest.raises(RowFault, match="in 'answers', expected strings"):
        answers_of({"answers": value})


def test_ids_of_a_row():
    assert id_of({"id": 0}) == "0"
    assert id_of({"id": "", "qid": "x"}) == ""
    assert id_of({"id": None, "qid": 7}) == "7"
    assert id_of({"qid": 7, "id": 3}, "qid") == "7"
    assert id_of({}, otherwise="5") == "5"
    for value in (True, 2.5, ["a"], {}):
        with pytest.raises(RowFault, match="as 'id', expected a string"):
            id_of({"id": value})


def test_questions_of_a_row():
    assert question_of({"question": " q ", "instruction": "i"}) == "q"
    assert question_of({"question": 3, "instruction": "i"}) == "i"
    assert question_of({"_id": "1", "text": "t"}) == "t"
    assert question_of({"text": "t"}) == ""


def test_text_fields_of_a_row():
    assert text_field({"a": "x"}, "a") == "x"
    assert text_field({"a": None}, "a") == text_field({}, "a") == ""
    for row, reason in (
        ({}, "missing_field"),
        ({"a": " "}, "empty_field"),
        ({"a": 1}, "wrong_type"),
    ):
        with pytest.raises(RowFault) as caught:
            text_field(row, "a", required=True)
        assert caught.value.reason == reason
