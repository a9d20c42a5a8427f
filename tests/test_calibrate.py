"""Fitting a calibration: what it finds, that folds leak nothing, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from random_model import RandomModel, RandomRetriever
from selfrag.cli.app import app
from selfrag.cli.calibrate import _show
from selfrag.decode.calibration import FEATURES, Features, load_calibration
from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.score import ScoreWeights
from selfrag.errors import BadInput
from selfrag.trace.calibrate import Case, cases_of, cross_fitted, fit
from selfrag.trace.candidates import recorded_questions
from selfrag.trace.file import load_trace, save_trace

QUESTIONS = [f"Q {n}" for n in range(80)]


def drawn(rng, n, weight=4.0):
    """Answers that are right with log-odds `weight` x margin; support is high whatever happens."""
    rows = rng.uniform(0, 1, (n, 6))
    rows[:, FEATURES.index("margin")] = rng.uniform(-1, 1, n)
    rows[:, FEATURES.index("support")] = rng.uniform(0.9, 1, n)
    odds = np.exp(weight * rows[:, FEATURES.index("margin")])
    return rows, rng.random(n) < odds / (1 + odds)


def cases(rows, is_right, questions=None):
    names = questions or [f"q{n}" for n in range(len(rows))]
    return [
        Case(
            question=name,
            features=Features(**dict(zip(FEATURES, row.tolist(), strict=True))),
            support=row[FEATURES.index("support")],
            is_right=bool(right),
        )
        for name, row, right in zip(names, rows, is_right, strict=True)
    ]


def test_the_law_that_the_answers_were_drawn_from_is_found():
    fitted = fit(cases(*drawn(np.random.default_rng(0), 4000)), "m")
    found = fitted.calibration
    assert found.model == "m"
    assert found.coefficients.margin == pytest.approx(4.0, abs=0.4)
    assert abs(found.coefficients.retrieval) < 0.5
    assert found.quality.ece_after < 0.03
    # Support is about 0.95 everywhere and a half is right.
    assert found.quality.ece_before == pytest.approx(0.45, abs=0.03)
    whole, most, half = found.quality.accuracy
    assert (whole.coverage, most.coverage, half.coverage) == (1.0, 0.7, 0.5)
    assert whole.accuracy < most.accuracy < half.accuracy
    assert whole.low < whole.accuracy < whole.high


def test_bounds_keep_what_they_promise():
    fitted = fit(cases(*drawn(np.random.default_rng(1), 2000)), "m")
    targets = fitted.calibration.targets
    assert [target.wished for target in targets] == [0.6, 0.7, 0.8, 0.9, 0.95]
    for target in targets:
        given_out = fitted.probabilities >= target.min_probability
        right = fitted.is_right[given_out].mean()
        assert right >= target.wished - 0.005  # the bound is rounded down
        assert given_out.mean() == pytest.approx(target.coverage, abs=0.005)
    coverages = [target.coverage for target in targets]
    assert coverages == sorted(coverages, reverse=True)


def test_a_trace_that_is_given_twice_counts_once(tmp_path, caplog):
    record(tmp_path / "t")
    questions = recorded_questions(load_trace(tmp_path / "t"))
    once = cases_of(questions)
    assert once and cases_of([*questions, *questions]) == once
    assert f"recorded before, and counted once: {len(once)} questions" in caplog.text


def test_a_precision_that_is_never_reached_has_no_bound():
    rng = np.random.default_rng(2)
    rows, _ = drawn(rng, 400)
    fitted = fit(cases(rows, rng.random(400) < 0.3), "m")
    assert 0.9 not in [target.wished for target in fitted.calibration.targets]


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(0, 59))
def test_no_label_of_a_question_moves_its_own_probability(seed, place):
    # Every question occurs three times: all are in one fold.
    rng = np.random.default_rng(seed)
    rows, is_right = drawn(rng, 180)
    questions = [f"q{n % 60}" for n in range(180)]
    before = cross_fitted(rows, is_right, questions)
    flipped = is_right.copy()
    mine = np.arange(180) % 60 == place
    flipped[mine] = ~flipped[mine]
    after = cross_fitted(rows, flipped, questions)
    assert np.array_equal(before[mine], after[mine])
    assert not np.array_equal(before, after)


def test_of_noise_nothing_is_learnt_that_holds_elsewhere():
    # A fit that saw what it judges puts right answers above wrong ones here, six times in ten.
    seen, unseen = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows, is_right = rng.uniform(0, 1, (60, 6)), rng.random(60) < 0.5
        everything = fit_all(rows, is_right)
        seen.append(auc(everything, is_right))
        unseen.append(auc(cross_fitted(rows, is_right, [str(n) for n in range(60)]), is_right))
    assert np.mean(seen) > 0.6
    assert np.mean(unseen) < 0.53


def fit_all(rows, is_right):
    found = fit(cases(rows, is_right), "m").calibration
    return np.array([found.probability(case.features) for case in cases(rows, is_right)])


def auc(scores, is_right):
    higher = np.subtract.outer(scores[is_right], scores[~is_right])
    return np.mean((higher > 0) + 0.5 * (higher == 0))


@pytest.mark.parametrize(("n", "n_right"), [(49, 20), (60, 9), (60, 51), (0, 0)])
def test_too_few_answers_are_refused(n, n_right):
    rows = np.random.default_rng(0).uniform(0, 1, (n, 6))
    with pytest.raises(BadInput, match=f"found {n} questions .* {n_right} of them right"):
        fit(cases(rows, np.arange(n) < n_right), "m")


def test_equal_features_are_no_fault():
    rows, is_right = drawn(np.random.default_rng(3), 100)
    rows[:, 0] = 1.0
    assert fit(cases(rows, is_right), "m").calibration.coefficients.relevance == 0.0


def record(path, mode=RetrievalMode.ALWAYS, seed=0, answers=("alpha",), model=None, **options):
    config = SearchConfig(mode=mode, **options)
    _, events = RandomModel(seed).answer(
        QUESTIONS, retriever=RandomRetriever(), mode=mode, **options
    )
    golds = [answers] * len(QUESTIONS)
    save_trace(path, QUESTIONS, events, answers=golds, config=config, model=model)


def test_answers_of_a_trace_are_those_that_the_search_gave(tmp_path):
    options = {"beam_width": 9, "weights": ScoreWeights(retrieval=2.0)}
    record(tmp_path / "t", **options)
    answers, _ = RandomModel(0).answer(
        QUESTIONS, retriever=RandomRetriever(), mode=RetrievalMode.ALWAYS, **options
    )
    right = {
        answer.question: any(gold in answer.text.split() for gold in ("alpha",))
        for answer in answers
    }
    found = cases_of(recorded_questions(load_trace(tmp_path / "t")))
    assert len(found) > 40
    assert {case.question: case.is_right for case in found}.items() <= right.items()


def test_what_reads_nothing_or_has_no_gold_strings_is_no_case(tmp_path):
    record(tmp_path / "never", RetrievalMode.NEVER)
    record(tmp_path / "open", answers=(" ",))
    for name in ("never", "open"):
        assert cases_of(recorded_questions(load_trace(tmp_path / name))) == []


def calibrate(*arguments):
    return app(args=["calibrate", *map(str, arguments)], standalone_mode=False)


def test_the_command_writes_a_file_that_ask_reads_and_two_figures(tmp_path, capsys):
    record(tmp_path / "t")
    out = tmp_path / "c.json"
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    calibrate(tmp_path / "t", "--out", out, "--model", model, "--json")
    report = json.loads(capsys.readouterr().out)
    found = load_calibration(out)
    assert found.model == "model"
    assert report["quality"]["n"] == found.quality.n
    for name in ("reliability", "risk"):
        assert (tmp_path / f"c.{name}.png").read_bytes().startswith(b"\x89PNG")
    first = out.read_bytes()
    calibrate(tmp_path / "t", "--out", out, "--model", model)
    assert out.read_bytes() == first
    assert "each judged by a fit without it" in capsys.readouterr().out


def test_a_trace_of_other_weights_is_refused_and_one_that_names_none_is_believed(tmp_path, capsys):
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    record(tmp_path / "mine.jsonl", model="mine")
    record(tmp_path / "other.jsonl", model="theirs/1f", seed=1)
    record(tmp_path / "old.jsonl")
    old = (tmp_path / "old.jsonl").read_text(encoding="utf-8").replace(', "model": null', "")
    assert '"model"' not in old
    (tmp_path / "old.jsonl").write_text(old, encoding="utf-8")
    out = ("--out", tmp_path / "c.json", "--model", model)
    with pytest.raises(BadInput, match=r"cannot calibrate mine: .* answers of theirs/1f; expected"):
        calibrate(tmp_path / "mine.jsonl", tmp_path / "other.jsonl", *out)
    assert not (tmp_path / "c.json").exists()
    calibrate(tmp_path / "mine.jsonl", tmp_path / "old.jsonl", *out)
    assert load_calibration(tmp_path / "c.json").model == "mine"


def test_where_no_wished_precision_is_reached_a_line_says_so(tmp_path, capsys):
    record(tmp_path / "t")
    out, model = tmp_path / "c.json", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    calibrate(tmp_path / "t", "--out", out, "--model", model)
    assert "--min-probability" in capsys.readouterr().out
    _show(replace(load_calibration(out), targets=()), 60)
    shown = capsys.readouterr().out
    assert "no precision of 60%, 70%, 80%, 90%, 95% is reached" in shown
    assert "to be right in" not in shown


def test_a_trace_is_not_written_over(tmp_path):
    record(tmp_path / "t")
    with pytest.raises(BadInput, match="is the file trace 1, which is read"):
        calibrate(tmp_path / "t", "--out", tmp_path / "t")


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    (tmp_path / "t").write_text("{}\n", encoding="utf-8")
    with pytest.raises(BadInput, match="cannot read a trace"):
        calibrate(tmp_path / "t", "--out", tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()
