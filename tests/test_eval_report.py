"""Reports: calibration by hand, tables, curves from traces, a page that no text breaks out of."""

import json
import re

import numpy as np
import pytest

from eval_parts import ROWS, cited, hit, output, question, questions_with_passages, random_system
from selfrag import plots
from selfrag.decode.gate import RetrievalMode
from selfrag.errors import BadInput
from selfrag.evaluate import page
from selfrag.evaluate.export import ExportFormat, cited_text, export
from selfrag.evaluate.metrics import METRICS
from selfrag.evaluate.record import Record, RecordFile
from selfrag.evaluate.report import build_report, check_run, judged_candidates
from selfrag.evaluate.run import answer_all, open_run
from selfrag.evaluate.summary import Run, load_run, measure
from selfrag.statistics import reliability, risk_coverage

pytest.importorskip("scipy")


def config(label, task="nq_open", headline="match_released", **system):
    return {
        "task": {"name": task, "headline": headline, "form": "open"},
        "system": {"label": label, "model": "m", "passages": "given", **system},
        "data": {
            "n_faults": 1, "faults": [{"row": 9, "reason": "<b>no</b>"}], "n_chosen": 3,
            "n_questions": 3, "n_without_passages": 0,
        },
        "environment": {"git_commit": "abc"},
    }  # fmt: skip


def saved(folder, label, texts, task="nq_open", headline="match_released", **fields):
    """A run whose answers are `texts`; None: the question failed."""
    folder.mkdir()
    open_run(folder, config(label, task, headline))
    records = []
    for n, text in enumerate(texts):
        asked = question(id=f"q{n}", row=n + 1, text=f"Who {n}?", answers=("Ann",), **fields)
        said = None if text is None else output(text, support=0.5, passages=(hit("</script>Ann"),))
        records.append(
            Record(n=n, question=asked, output=said, error=None if text is not None else "<i>x</i>")
        )
    with RecordFile(folder, n_questions=len(texts), batch_size=1) as file:
        file.append(records, 3.0)
    return load_run(folder)


@pytest.fixture
def runs(tmp_path):
    return [
        saved(tmp_path / "one", "ours", ["Ann", "Ann <x>", None]),
        saved(tmp_path / "two", "theirs", ["Ann", "Bob", "Bob"]),
    ]


def test_words_of_a_figure_are_text_that_cannot_end_it():
    figure = plots.svg(plots.bars_figure([("ours </svg>", 0.5, 0.4, 0.6)], "match_words"))
    assert re.search(r"<text[^>]*>match_words</text>", figure)
    assert "ours &lt;/svg&gt;" in figure
    assert figure.count("</svg>") == 1


def test_a_task_whose_headline_has_no_value_is_reported_by_the_first_measure_that_has_one(tmp_path):
    # ASQA rows without readings have no str_em; the records have gold strings, so match_released.
    run = saved(tmp_path / "one", "ours", ["Ann", "Bob"], task="asqa", headline="str_em")
    (part,) = build_report([run])
    assert part.headline == "match_released"
    assert "0.500" in page.markdown([part])


def test_scores_are_binned_with_their_gap():
    # Bin 2 (.2 to .3): mean .25, one of two true: gap .25 for 2 of 3. The last: 1.0, true: gap 0.
    found = reliability([0.2, 0.3 - 1e-9, 1.0], [True, False, True])
    assert found.ece == pytest.approx(0.25 * 2 / 3)
    assert found.count.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert found.accuracy[2] == 0.5 and np.isnan(found.accuracy[0])


def test_perfectly_calibrated_scores_have_no_gap():
    scores = np.repeat([0.05, 0.95], 20)
    labels = [True] + [False] * 19 + [True] * 19 + [False]
    assert reliability(scores, labels).ece == pytest.approx(0.0)


def test_the_most_supported_answers_are_given_first():
    # By support .9 right, .8 wrong, .1 right: risks 0/1, 1/2, 1/3.
    found = risk_coverage([0.1, 0.9, 0.8], [1.0, 1.0, 0.0])
    assert found.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    assert found.coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert found.area == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


def test_candidates_are_labelled_by_gold_strings_in_passage_and_segment():
    node = {
        "type": "node",
        "hits": [{"text": "Ann was here."}],
        "segment": {"text": "Bob", "scores": {"relevance": 0.9, "support": 0.2}},
    }
    root = {"type": "node", "hits": [], "segment": None}
    said = output("Bob", trace=(root, node))
    records = [Record(n=0, question=question(answers=("Ann",)), output=said)]
    assert judged_candidates(records, "relevance") == ([0.9], [True])
    assert judged_candidates(records, "support") == ([0.2], [False])


def test_systems_are_compared_on_the_questions_that_both_answered(runs):
    (part,) = build_report(runs)
    (found,) = part.comparisons
    # q0 both right; q1 ours only; q2 failed for ours, so it does not count.
    assert (found.difference.n, found.difference.difference) == (2, -0.5)
    assert found.difference.is_noise
    assert part.estimates["match_released"]["ours"].n == 2
    assert [row["id"] for row in part.differing] == ["q1", "q2"]


def test_the_markdown_table_counts_failures(runs):
    text = page.markdown(build_report(runs))
    assert "| ours | 1.000 [0.158, 1.000] (n = 2, 1 failed) |" in text
    assert re.search(r"\| theirs \| 0\.333 \[0\.000, \d\.\d{3}\] \(n = 3\) \|", text)
    assert "nq_open: theirs minus ours: -0.500" in text and "noise: chance gives" in text


def test_a_page_needs_no_network_and_no_text_breaks_out_of_it(runs):
    pytest.importorskip("matplotlib")
    text = page.html(build_report(runs), title="a <title>")
    assert not re.search(r'(src|href)="(?!data:)', text) and "@import" not in text
    assert "a &lt;title&gt;" in text
    assert "&lt;i&gt;x&lt;/i&gt;" in text and "&lt;b&gt;no&lt;/b&gt;" in text
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)
    (first, _) = json.loads(data)
    assert first["systems"]["ours"]["passages"][0]["text"] == "</script>Ann"
    assert text.count("</script>") == 2
    assert page.html(build_report(runs), title="a <title>") == text  # the same bytes again


def test_traces_give_calibration_and_control_curves(tmp_path):
    pytest.importorskip("matplotlib")
    questions = questions_with_passages()
    runs = []
    for mode in (RetrievalMode.ALWAYS, RetrievalMode.NEVER):
        folder = tmp_path / mode
        folder.mkdir()
        system = random_system(questions, mode=mode)
        open_run(folder, config(str(mode), search={"mode": str(mode)}))
        answer_all(questions, lambda system=system: system, folder, batch_size=4)
        runs.append(load_run(folder))
    (part,) = build_report(runs)
    assert part.relevance["always"].n > len(ROWS) and "never" not in part.relevance
    (controls,) = part.controls  # both branches together: nothing is unrecorded
    assert controls.title == "always and never"
    assert controls.threshold.n_unrecorded.tolist() == [0] * 21
    rates = controls.threshold.retrieval_rate
    assert rates[0] == 1.0 and rates[-1] == 0.0
    assert "Weight of support" in page.html([part], title="t")


def test_runs_that_share_a_name_are_told_apart_by_folder(tmp_path):
    pair = [saved(tmp_path / name, "same", ["Ann"]) for name in ("a", "b")]
    (part,) = build_report(pair)
    assert list(part.runs) == [f"same ({tmp_path / name})" for name in ("a", "b")]


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no run is named"):
        build_report([])
    with pytest.raises(BadInput, match="cannot read the run in"):
        load_run(tmp_path)


def test_alces_form_has_marks_that_count_its_documents(tmp_path):
    parts = {"facets": (("Ann",), ("Bob",)), "facet_questions": ("Who first?",)}
    run = saved(tmp_path / "r", "ours", ["x"], **parts, references=("Long.",))
    said = output(
        "x",
        sentences=cited(("It is 3.5 km. In the U.S. it is", [2]), ("Same.", []), ("Last!", [1, 2])),
        passages=(hit("one"), hit("two", rank=2)),
    )
    records = (Record(n=0, question=run.records[0].question, output=said),)
    (row,) = json.loads(export([_with(run, records)], ExportFormat.ALCE))["data"]
    # No character is lost, and numbers are those of `docs` though a sentence has none.
    assert row["output"] == "It is 3.5 km [2]. In the U.S. it is [2]. Same. Last [1][2]!"
    assert [doc["text"] for doc in row["docs"]] == ["one", "two"]
    assert row["qa_pairs"] == [
        {"question": "Who first?", "short_answers": ["Ann"]},
        {"question": "", "short_answers": ["Bob"]},  # as in records of before
    ]
    assert row["annotations"] == [{"long_answer": "Long."}]
    assert cited_text(output("")) == ""


def _with(run, records):
    values = measure(records, METRICS)
    return Run(folder=run.folder, config=run.config, records=records, values=values, seconds={})


def test_factscores_form_needs_topics(tmp_path, runs):
    run = saved(tmp_path / "r", "ours", ["Ann was born.", None], topic="Ann")
    (line,) = export([run], ExportFormat.FACTSCORE).splitlines()
    assert json.loads(line) == {
        "input": "Who?", "output": "Ann was born.", "topic": "Ann", "cat": [],
    }  # fmt: skip
    with pytest.raises(BadInput, match="its questions have no topics"):
        export(runs[:1], ExportFormat.FACTSCORE)
    with pytest.raises(BadInput, match="cannot export 2 runs as alce"):
        export(runs, ExportFormat.ALCE)


def test_the_harness_form_has_means_and_standard_errors(runs):
    found = json.loads(export(runs[1:], ExportFormat.LM_EVAL))
    result = found["results"]["nq_open"]
    # 1, 0, 0: mean 1/3, deviation sqrt(1/3) with n - 1, error sqrt(1/3 / 3) = 1/3.
    assert result["match_released,none"] == pytest.approx(1 / 3)
    assert result["match_released_stderr,none"] == pytest.approx(1 / 3)
    assert found["n-samples"]["nq_open"] == {"original": 3, "effective": 3}
    with pytest.raises(BadInput, match="two runs of one task"):
        export(runs, ExportFormat.LM_EVAL)


def test_published_numbers_have_a_tolerance_for_so_many_questions(tmp_path):
    right = saved(tmp_path / "r", "ours", ["Ann"] * 55 + ["Bob"] * 45, task="popqa")
    (found,) = check_run(right, "selfrag-7b")
    # 1.96 * sqrt(.549 * .451 / 100) + .01 = .1075; measured .55.
    assert found.tolerance == pytest.approx(0.1075, abs=1e-4)
    assert found.agrees and found.expected == 0.549
    wrong = saved(tmp_path / "w", "ours", ["Ann"] * 40 + ["Bob"] * 60, task="popqa")
    assert not check_run(wrong, "selfrag-7b")[0].agrees
    with pytest.raises(BadInput, match="nothing is published for nq_open"):
        check_run(saved(tmp_path / "n", "ours", ["Ann"]), "selfrag-7b")
    with pytest.raises(BadInput, match="expected one of selfrag-7b"):
        check_run(right, "gpt")


def test_mauve_compares_question_and_answer_without_marks(tmp_path):
    from selfrag.evaluate.metrics import mauve_score, mauve_texts

    run = saved(tmp_path / "r", "ours", ["It was [1] so.", None], references=("Long.", "Other."))
    assert mauve_texts(run.records) == (["Who 0? Long."], ["Who 0? It was so."])
    with pytest.raises(BadInput, match="found 1 question with an answer and a long reference"):
        mauve_score(run.records, model="gpt2")


def test_measures_of_all_answers_together_are_kept_and_shown(runs):
    pytest.importorskip("matplotlib")
    from selfrag.evaluate.summary import keep_corpus, summarise

    with pytest.raises(BadInput, match=r"cannot keep mauve@tiny .*: it is nan; expected a number"):
        keep_corpus(runs[0].folder, "mauve@tiny", float("nan"))
    keep_corpus(runs[0].folder, "mauve@tiny", 0.25)
    again = [load_run(run.folder) for run in runs]
    assert summarise(again[0])["corpus"] == {"mauve@tiny": 0.25}
    text = page.html(build_report(again), title="t")
    assert re.search(r"mauve@tiny</td><td[^>]*>0\.250</td><td[^>]*>-</td>", text)
