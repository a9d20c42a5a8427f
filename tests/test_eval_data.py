"""Question files: what becomes a question of which task, and what is left out, by name."""

import gzip
import json

import pytest

from eval_parts import question, write_rows
from selfrag.errors import BadInput
from selfrag.evaluate.data import choose, load_questions, reasons_counted
from selfrag.evaluate.fields import gold_letter, golds_of, passages_of
from selfrag.evaluate.record import Question, question_to_row
from selfrag.evaluate.tasks import TASKS, task_named
from selfrag.serial import from_builtins


def load(tmp_path, task, *rows):
    return load_questions(write_rows(tmp_path / "rows.jsonl", rows), task_named(task))


@pytest.mark.parametrize(
    ("row", "golds"),
    [
        ({"answers": ["Ann", "Ann", "Bob"]}, ("Ann", "Bob")),  # released, each once
        ({"golden_answers": ["Ann"]}, ("Ann",)),  # FlashRAG
        ({"possible_answers": '["pol", "politician"]'}, ("pol", "politician")),  # PopQA
        ({"possible_answers": "['it\\'s', 'b']"}, ("it's", "b")),
        ({"answer": {"value": "Ann", "aliases": ["Annie"]}}, ("Ann", "Annie")),  # TriviaQA
        ({"answer": " Ann "}, ("Ann",)),
        ({"answer": True}, ("true",)),
        ({"answer": "[sic] Ann"}, ("[sic] Ann",)),
        ({"answers": [], "answer": "Ann"}, ("Ann",)),
    ],
)
def test_gold_strings_are_found_whatever_a_set_calls_them(row, golds):
    assert golds_of(row) == golds


def test_a_row_without_gold_strings_is_no_question():
    with pytest.raises(ValueError, match="none of the fields answers, answer"):
        golds_of({"question": "Who?", "answers": [" "]})


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"answerKey": "B"}, "B"),
        ({"answerKey": "3"}, "C"),  # numeric keys count from 1
        ({"choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "2"}, "B"),
        ({"gold": 0}, "A"),
        ({"answers": ["z"]}, "C"),
        ({"golden_answers": ["B"]}, "B"),
    ],
)
def test_the_right_option_is_known_by_letter_number_place_or_text(row, letter):
    assert gold_letter(row, ("x", "y", "z")) == letter


@pytest.mark.parametrize("row", [{"answerKey": "D"}, {"answerKey": "4"}, {"gold": 3}, {}])
def test_a_key_without_an_option_is_a_fault(row):
    with pytest.raises(ValueError, match=r"no option is the gold answer|holds a gold answer"):
        gold_letter(row, ("x", "y", "z"))


def test_passages_keep_their_order_and_lose_empty_ones_and_doubles():
    # Web hits of the released files have no id; some are empty pages.
    ctxs = [
        {"id": "7", "title": "A", "text": "one"},
        {"title": "Category:", "text": " "},
        {"title": "B", "text": "two"},
        {"id": 7, "title": "A", "text": "one again"},
    ]
    found = passages_of({"ctxs": ctxs}, "q1")
    assert [(p.id, p.title, p.text) for p in found] == [("7", "A", "one"), ("q1-3", "B", "two")]


@pytest.mark.parametrize("key", ["ctxs", "docs", "top_contexts", "passages", "context"])
def test_passages_are_found_under_every_name(key):
    assert passages_of({key: [{"title": "T", "contents": "text"}]}, "q")[0].text == "text"


def test_a_single_passage_may_be_a_string():
    assert [p.text for p in passages_of({"passage": "one text"}, "q")] == ["one text"]
    assert passages_of({"ctxs": []}, "q") == ()


def test_a_claim_is_asked_as_the_released_script_asks_it(tmp_path):
    (asked,) = load(tmp_path, "pubhealth", {"claim": "Tea heals.", "label": "REFUTES"}).questions
    assert asked.instruction == (
        "Is the following statement correct or not? Say true if it's correct; otherwise say false."
        "\n\n## Input:\n\nTea heals."
    )
    assert (asked.text, asked.answers, asked.labels) == (
        "Tea heals.",
        ("false",),
        ("true", "false"),
    )


def test_options_are_listed_with_letters_the_fifth_included(tmp_path):
    row = {
        "id": "x",
        "question": "Which?",
        "choices": {"text": ["a", "b", "c", "d", "e"], "label": ["1", "2", "3", "4", "5"]},
        "answerKey": "5",
    }
    (asked,) = load(tmp_path, "arc_challenge", row).questions
    assert asked.instruction.endswith("### Input:\nWhich?\nA: a\nB: b\nC: c\nD: d\nE: e")
    assert (asked.answers, asked.labels) == (("E",), ("A", "B", "C", "D", "E"))


def test_an_ambiguous_question_has_facets_and_long_answers(tmp_path):
    row = {
        "sample_id": 3,
        "question": "When?",
        "qa_pairs": [
            {"question": "When first?", "short_answers": ["1990", "in 1990"]},
            {"short_answers": ["2001"]},
        ],
        "annotations": [{"long_answer": "In 1990 or 2001."}],
        "docs": [{"title": "T", "text": "text"}],
    }
    (asked,) = load(tmp_path, "asqa", row).questions
    assert asked.facets == (("1990", "in 1990"), ("2001",))
    assert asked.facet_questions == ("When first?", "")
    assert asked.references == ("In 1990 or 2001.",)
    # No newline stands before the mark here, as in training.
    assert "correct answers.## Input:\n\nWhen?" in asked.instruction
    assert asked.id == "3" and len(asked.passages) == 1


def test_a_biography_is_asked_for_in_the_words_of_its_row(tmp_path):
    rows = [{"topic": "Ann"}, {"topic": "Bob", "input": "Question: Tell me a bio of Bob."}]
    first, second = load(tmp_path, "biographies", *rows).questions
    assert first.instruction == "Question: Tell me a bio of Ann."
    assert (second.instruction, second.topic) == ("Question: Tell me a bio of Bob.", "Bob")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_names_a_row_that_lacks_everything(tmp_path, task):
    with pytest.raises(BadInput, match=r"holds no question of .* in 1 row: row 1: .*holds"):
        load(tmp_path, task, {"nothing": 1})


def test_rows_that_cannot_be_used_are_left_out_by_number_and_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"id": "a", "question": "Who?", "answers": ["Ann"]}).encode()
    lines = [
        good,
        b'{"question": "Wh\xff?", "answers": ["x"]}',
        b"{broken",
        b"[1]",
        b'{"question": " ", "answers": ["x"]}',
        b'{"question": "Who?"}',
        good,
        b'{"question": "Who?", "answers": ["x"], "ctxs": [3]}',
        b"",
        b'{"question": "Last?", "answers": ["x"]}',
    ]
    path.write_bytes(b"\n".join(lines))
    found = load_questions(path, TASKS["nq_open"])
    assert [(q.row, q.id) for q in found.questions] == [(1, "a"), (10, "row-10")]
    reasons = {fault.row: fault.reason for fault in found.faults}
    assert list(reasons) == [2, 3, 4, 5, 6, 7, 8]
    assert reasons[2] == "it is not UTF-8 (byte 17 is 0xff)"
    assert "not JSON" in reasons[3] and "expected a JSON object" in reasons[4]
    assert "none of the fields question" in reasons[5] and "gold answer" in reasons[6]
    assert reasons[7] == "its id 'a' is that of row 1"
    assert "a passage is 3" in reasons[8]
    assert found.n_without_passages == 2


def test_reasons_are_counted_with_their_first_row(tmp_path):
    rows = [{"q": 1}, {"question": "Who?", "answers": ["x"]}, {"q": 2}]
    found = load(tmp_path, "nq_open", *rows)
    ((reason, n_rows, first),) = reasons_counted(found.faults)
    assert (n_rows, first) == (2, 1) and reason.startswith("none of the fields question")


def test_json_and_packed_files_are_read_like_lines(tmp_path):
    rows = [{"id": "a", "question": "Who?", "answers": ["x"]}]
    packed, plain, alce = (tmp_path / n for n in ("a.jsonl.gz", "a.json", "b.json"))
    packed.write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    plain.write_text(json.dumps(rows))
    alce.write_text(json.dumps({"data": rows, "args": []}))
    task = TASKS["nq_open"]
    found = [load_questions(path, task).questions for path in (packed, plain, alce)]
    assert found[0] == found[1] == found[2] and len(found[0]) == 1


def test_zstd_and_arrow_files_are_read_like_lines(tmp_path):
    zstandard, pyarrow = pytest.importorskip("zstandard"), pytest.importorskip("pyarrow")
    rows = [{"id": "a", "question": "Who?", "answers": ["x"]}]
    packed, arrow = tmp_path / "a.jsonl.zst", tmp_path / "a.arrow"
    packed.write_bytes(zstandard.compress(json.dumps(rows[0]).encode()))
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    found = [load_questions(path, TASKS["nq_open"]).questions for path in (packed, arrow)]
    assert found[0] == found[1] and len(found[0]) == 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.arrow", "a.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"[not such a file")
    with pytest.raises(BadInput, match="cannot read questions from"):
        load_questions(tmp_path / name, TASKS["nq_open"])


def test_a_missing_file_and_an_unknown_task_are_named(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        load_questions(tmp_path / "none.jsonl", TASKS["nq_open"])
    with pytest.raises(BadInput, match="there is no task 'nq'; expected one of popqa, triviaqa"):
        task_named("nq")


def test_a_sample_is_drawn_by_seed_and_keeps_the_order():
    questions = [question(id=str(n)) for n in range(20)]
    first = choose(questions, limit=None, sample=5, seed=1)
    again = choose(questions, limit=None, sample=5, seed=1)
    other = choose(questions, limit=None, sample=5, seed=2)
    assert first == again != other
    assert [int(q.id) for q in first] == sorted(int(q.id) for q in first)
    assert [q.id for q in choose(questions, limit=2, sample=None, seed=0)] == ["0", "1"]
    assert len(choose(questions, limit=None, sample=99, seed=0)) == 20


@pytest.mark.parametrize(("limit", "sample"), [(0, None), (None, 0), (1, 1)])
def test_an_impossible_choice_is_refused(limit, sample):
    with pytest.raises(BadInput, match="cannot evaluate: --"):
        choose([question()], limit=limit, sample=sample, seed=0)


def test_a_question_survives_its_row():
    asked = question(
        answers=("a",), labels=("A", "B"), options=("x", "y"), facets=(("a", "b"), ("c",)),
        references=("long",), topic="t",
    )  # fmt: skip
    assert from_builtins(Question, json.loads(json.dumps(question_to_row(asked)))) == asked


@pytest.mark.parametrize(
    "row",
    [
        r'{"question": "Who \ud800?", "answers": ["x"]}',
        r'{"question": "Who?", "answers": ["\udfff"]}',
        r'{"question": "Who?", "answers": ["x"], "ctxs": [{"text": "\ud83d alone"}]}',
        '{"question": "Who?", "answers": ["x"], "ctxs": [{"text": "y", "score": NaN}]}',
        '{"question": "Who?", "answers": [1e999]}',
    ],
)
def test_what_no_tokenizer_and_no_file_takes_is_left_out_and_named(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"question": "Pair \\ud83d\\ude00?", "answers": ["x"]}}\n{row}\n')
    found = load_questions(path, TASKS["nq_open"])
    assert [asked.text for asked in found.questions] == ["Pair \U0001f600?"]
    (fault,) = found.faults
    assert fault.row == 2 and ("surrogate" in fault.reason or "not JSON" in fault.reason)
