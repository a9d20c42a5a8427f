"""Runs: records are whole batches, a crash costs nothing else, failures are named and counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval_parts import ROWS, question, questions_with_passages, random_system
from random_model import PASSAGES, WORDS, RandomModel
from selfrag.decode.config import SearchConfig
from selfrag.errors import BadInput, EngineError, StorageError
from selfrag.evaluate.record import (
    RECORDS,
    TIMINGS,
    Output,
    RecordFile,
    load_records,
    load_seconds,
    record_from_row,
    record_to_row,
    without_failures,
)
from selfrag.evaluate.run import MAX_FAILURES, answer_all, open_run
from selfrag.evaluate.summary import load_run, save_summary, summarise
from selfrag.evaluate.systems import SelfRagSystem
from selfrag.retrieval.base import GivenPassages
from selfrag.trace.candidates import recorded_questions
from selfrag.trace.file import load_trace

QUESTIONS = questions_with_passages()
CONFIG = {
    "task": {"name": "nq_open", "headline": "match_released", "form": "open"},
    "system": {"label": "random"},
    "data": {"n_faults": 0, "faults": [], "n_chosen": len(ROWS), "n_without_passages": 0},
}


def run(folder, questions=QUESTIONS, batch_size=3, system=None, **options):
    folder.mkdir(exist_ok=True)
    if not (folder / "config.json").exists():
        open_run(folder, CONFIG)
    opened = system or random_system(questions)
    return answer_all(questions, lambda: opened, folder, batch_size=batch_size, **options)


class Failing:
    """Answers with its own name, but not the questions named."""

    name = "failing"

    def __init__(self, *bad):
        self.bad = bad

    def answer(self, questions):
        for asked in questions:
            if asked.id in self.bad:
                raise EngineError(f"cannot run on {asked.id}")
        return [Output(text=asked.id) for asked in questions]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder) == len(ROWS)
    return folder


def test_records_hold_the_whole_search_in_the_order_of_the_questions(whole):
    records = load_records(whole / RECORDS)
    assert [record.question.id for record in records] == [row["id"] for row in ROWS]
    assert [record.n for record in records] == list(range(len(ROWS)))
    assert all(record.output is not None and record.output.trace for record in records)
    again = [record_from_row(record_to_row(record)) for record in records]
    assert again == records


def test_records_are_traces_that_can_be_replayed_and_rescored(whole):
    trace = load_trace(whole / RECORDS)
    assert [question.id for question in trace.questions] == [row["id"] for row in ROWS]
    assert len(recorded_questions(trace)) == len(ROWS)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.77, 0.999, 1.0])
def test_a_run_cut_anywhere_goes_on_to_the_same_bytes(whole, tmp_path, share):
    content = (whole / RECORDS).read_bytes()
    for name in (RECORDS, TIMINGS, "config.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    (tmp_path / RECORDS).write_bytes(content[: int(len(content) * share)])
    run(tmp_path)
    assert (tmp_path / RECORDS).read_bytes() == content
    assert len(load_seconds(tmp_path)) == len(ROWS)
    assert summarise(load_run(tmp_path)) == summarise(load_run(whole))


def test_a_batch_that_was_cut_is_answered_again_as_a_whole(tmp_path):
    # Results may depend on the batch in the last bits, so batches stay what they were.
    (tmp_path / RECORDS).write_bytes(b"{}\n" * 5 + b"{")
    with RecordFile(tmp_path, n_questions=7, batch_size=3) as file:
        assert file.n_done == 3
    assert (tmp_path / RECORDS).read_bytes() == b"{}\n" * 3


def test_a_finished_run_opens_no_model(whole):
    def no_model():
        raise AssertionError("a model was opened")

    assert answer_all(QUESTIONS, no_model, whole, batch_size=3) == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from eval_parts import questions_with_passages, random_system
from selfrag.evaluate.run import answer_all
questions = questions_with_passages()
def stop(step):
    if step.done >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
answer_all(questions, lambda: random_system(questions), Path(sys.argv[1]), batch_size=3,
           on_progress=stop)
"""


def test_a_process_killed_in_the_middle_is_gone_on_with(whole, tmp_path):
    open_run(tmp_path, CONFIG)
    here = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={"PYTHONPATH": f"{here}:{here.parent / 'src'}", "PATH": ""},
        timeout=60,
        check=False,
    )
    assert killed.returncode == -9
    assert len(load_records(tmp_path / RECORDS)) == 3
    assert run(tmp_path) == len(ROWS) - 3
    assert (tmp_path / RECORDS).read_bytes() == (whole / RECORDS).read_bytes()


def test_metrics_of_the_same_records_are_the_same_bytes(whole, tmp_path):
    save_summary(load_run(whole))
    first = (whole / "metrics.json").read_bytes()
    save_summary(load_run(whole))
    assert (whole / "metrics.json").read_bytes() == first
    assert b"seconds" not in first and b"seconds" in (whole / "timing.json").read_bytes()


def test_a_question_that_fails_costs_itself_alone_and_is_counted(tmp_path):
    told = []
    run(tmp_path, system=Failing("q1", "q5"), on_progress=told.append)
    summary = save_summary(load_run(tmp_path))
    assert (summary["n_questions"], summary["n_answered"], summary["n_failed"]) == (7, 5, 2)
    assert summary["failed"] == [
        {"id": "q1", "row": 2, "error": "cannot run on q1"},
        {"id": "q5", "row": 6, "error": "cannot run on q5"},
    ]
    assert summary["metrics"]["match_released"]["n"] == 5  # never averaged over
    assert [step.done for step in told] == [0, 3, 6, 7]


def test_a_run_tells_of_its_start_once_the_system_is_open_and_before_the_first_batch(tmp_path):
    events = []

    class Told(Failing):
        def answer(self, questions):
            events.append(len(questions))
            return super().answer(questions)

    def opening():
        events.append("opened")
        return Told()

    def tell(step):
        events.append((step.done, step.total))

    answer_all(QUESTIONS[:4], opening, tmp_path, batch_size=3, on_progress=tell)
    assert events == ["opened", (0, 4), 3, (3, 4), 1, (4, 4)]
    events.clear()
    (tmp_path / RECORDS).write_bytes(
        b"".join((tmp_path / RECORDS).read_bytes().splitlines(True)[:3])
    )
    answer_all(QUESTIONS[:4], opening, tmp_path, batch_size=3, on_progress=tell)
    assert events == ["opened", (3, 4), 1, (4, 4)]


def test_failed_questions_are_answered_again_when_asked_for(tmp_path):
    run(tmp_path, system=Failing("q4"))
    assert without_failures(tmp_path) == 4
    run(tmp_path, system=Failing())
    records = load_records(tmp_path / RECORDS)
    assert [record.output.text for record in records] == [row["id"] for row in ROWS]


def test_an_engine_that_only_fails_ends_the_run(tmp_path):
    many = [question(id=f"x{n}", row=n + 1) for n in range(2 * MAX_FAILURES)]
    bad = Failing(*(asked.id for asked in many[4:]))
    with pytest.raises(EngineError, match=r"stopped at question 'x12' \(row 13\): the last 12"):
        run(tmp_path, many, batch_size=4, system=bad)
    assert [r.error is None for r in load_records(tmp_path / RECORDS)] == [True] * 4 + [False] * 8


def test_another_run_does_not_go_into_the_same_folder(tmp_path):
    other = {**CONFIG, "system": {"label": "other"}}
    open_run(tmp_path, other)
    open_run(tmp_path, CONFIG)  # nothing was answered yet, so the other gives way
    run(tmp_path, system=Failing())
    with pytest.raises(BadInput, match=r"it differs in system\.label \('random' there, 'other'"):
        open_run(tmp_path, other)
    open_run(tmp_path, CONFIG)


def test_records_of_nobody_are_left_alone(tmp_path):
    (tmp_path / RECORDS).write_text("mine\n")
    with pytest.raises(BadInput, match=r"results there, but no valid config\.json"):
        open_run(tmp_path, CONFIG)


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    with (
        RecordFile(tmp_path, n_questions=1, batch_size=1),
        pytest.raises(BadInput, match="another process is writing it"),
    ):
        RecordFile(tmp_path, n_questions=1, batch_size=1)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        open_run(tmp_path / "file" / "run", CONFIG)


def test_a_damaged_record_is_named_by_line(tmp_path):
    (tmp_path / RECORDS).write_text('{"type": "record"}\n')
    with pytest.raises(BadInput, match="line 1 is no record"):
        load_records(tmp_path / RECORDS)


def test_a_search_is_for_the_question_not_for_what_stands_around_it():
    asked = question(text="Tea heals.", instruction="Is it so?\n\nTea heals.")
    heard = []

    class Recording:
        def search(self, queries, top_k):
            heard.extend(queries)
            return [list(GivenPassages(PASSAGES).hits[:top_k]) for _ in queries]

    model = RandomModel(5)
    config = SearchConfig(threshold=0.0, max_segments=2)
    SelfRagSystem(model.engine, Recording(), config).answer([asked])
    first, *later = heard
    assert first == "Tea heals."
    assert later and all(query.split()[:2] == ["Tea", "heals."] for query in later)
    assert all(query.split()[2] in WORDS for query in later)


def test_questions_that_share_an_instruction_keep_their_own_passages():
    one, two, *_ = QUESTIONS
    same = question(id="z", text=one.text, instruction=one.instruction, passages=one.passages[1:])
    outputs = random_system([one, two, same]).answer([one, two, same])
    assert [each.n_passages for each in outputs] == [2, 2, 1]
    rows = [json.dumps(each.trace) for each in outputs]
    assert '"question": 1' not in rows[1] and '"id": "z"' in rows[2]
