"""Rescoring: values by hand, a brute-force oracle, and equality with the search's own choice."""

import itertools
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from random_model import PASSAGES, RandomModel, RandomRetriever
from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import GateKind, GateNumbers, GateRule, RetrievalMode
from selfrag.decode.node import PathScore
from selfrag.decode.score import ScoreWeights
from selfrag.errors import BadInput, ConfigError
from selfrag.reflection import Retrieve
from selfrag.trace.candidates import Traces, recorded_questions
from selfrag.trace.file import load_trace, save_trace
from selfrag.trace.rescore import MAX_VALUES, Grid, choose, load_traces, rescore, weight_row

WIDE = 1000


def by_hand():
    """Three questions; the second has no candidate with a passage, the third no gold string.

    Features are relevance, support, utility, sequence, retrieval.
    """
    features = np.zeros((3, 3, 5))
    features[0, 0] = [0.9, 0.1, 0.0, 0.5, 0.4]  # reads, wrong, cites 1 passage without gold
    features[0, 1] = [0.4, 0.8, 0.0, 0.3, 1.0]  # reads, right, cites 2 passages, both with gold
    features[0, 2] = [0.0, 0.0, 1.0, 0.9, 0.0]  # reads nothing, wrong
    features[1, 0] = [0.0, 0.0, 0.2, 0.5, 0.0]  # reads nothing, right
    features[2, 0] = [0.5, 0.5, 0.0, 0.5, 1.0]  # reads
    reads = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
    reads_not = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
    return Traces(
        features=features,
        reads=reads,
        reads_not=reads_not,
        correct=np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool),
        n_cited=np.array([[1, 2, 0], [0, 0, 0], [1, 0, 0]]),
        n_cited_gold=np.array([[0, 2, 0], [0, 0, 0], [0, 0, 0]]),
        paper=np.array([0.6, 0.3, 0.9]),
        emitted_yes=np.array([False, True, True]),
        has_gold=np.array([True, True, False]),
        texts=(("wrong", "right", "bare"), ("right",), ("any",)),
    )


def test_values_worked_out_by_hand():
    grid = Grid(threshold=(0.0, 0.5, 1.0, None), w_sup=(0.0, 1.0), w_ret=(0.0,))
    traces = by_hand()
    # Totals of question 0 at weights 1, w_sup, 0.5, 1:
    #   w_sup 0: 0.9 + 0.5 = 1.4 against 0.4 + 0.3 = 0.7: the first, wrong, 0 of 1 citation
    #   w_sup 1: 0.9 + 0.1 + 0.5 = 1.5 against 0.4 + 0.8 + 0.3 = 1.5: see the test of ties; the sums
    #   in doubles are 1.5 and 1.5000000000000002, so the second, right, 2 of 2 citations
    # Threshold 0 retrieves for all: question 1 is unrecorded, 0 and 2 answered, 0 judged.
    # Threshold 0.5 retrieves for 0 and 2; question 1 answers without and is right.
    # Threshold 1 retrieves for none: 0 answers "bare" (wrong), 1 is right, 2 is unrecorded.
    # None retrieves for 1 and 2 by the emitted token: 0 answers "bare", 1 is unrecorded.
    assert 0.9 + 0.1 + 0.5 < 0.4 + 0.8 + 0.3
    table = rescore(traces, grid)
    thresholds = [0, 0, 0.5, 0.5, 1, 1, np.nan, np.nan]
    assert np.array_equal(table.threshold, thresholds, equal_nan=True)
    assert table.weights.tolist() == [[1, 0, 0.5, 1, 0], [1, 1, 0.5, 1, 0]] * 4
    assert np.allclose(table.retrieval_rate, np.repeat([3 / 3, 2 / 3, 0, 2 / 3], 2))
    assert table.n_answered.tolist() == [2, 2, 3, 3, 2, 2, 2, 2]
    assert table.n_unrecorded.tolist() == [1, 1, 0, 0, 1, 1, 1, 1]
    assert table.n_judged.tolist() == [1, 1, 2, 2, 2, 2, 1, 1]
    assert np.allclose(table.accuracy, [0 / 1, 1 / 1, 1 / 2, 2 / 2, 1 / 2, 1 / 2, 0, 0])
    # Only question 0 has citations and gold; without passages nothing is cited.
    expected = [0 / 1, 2 / 2, 0 / 1, 2 / 2, *[np.nan] * 4]
    assert np.allclose(table.citation_precision, expected, equal_nan=True)
    assert choose(traces, grid).tolist() == [
        [0, -1, 0],
        [1, -1, 0],
        [0, 0, 0],
        [1, 0, 0],
        [2, 0, -1],
        [2, 0, -1],
        [2, -1, 0],
        [2, -1, 0],
    ]


def test_ties_go_to_the_candidate_recorded_first():
    traces = by_hand()
    traces.features[0, :2] = [[0.25, 0.5, 0, 0.25, 1], [0.5, 0.25, 0, 0.25, 1]]
    grid = Grid(threshold=(0.0,), w_sup=(0.5, 1.0, 2.0))
    # 0.25 + w_sup * 0.5 against 0.5 + w_sup * 0.25: equal where w_sup is 1
    assert choose(traces, grid)[:, 0].tolist() == [1, 0, 0]


def test_the_weight_of_the_retriever_moves_the_choice():
    # Without support 1.4 against 0.7, as above; the retriever adds 0.4 and 1.0 times its weight:
    # 0.6 more for the second, so from w_ret 0.7 / 0.6 = 1.17 on it leads.
    grid = Grid(threshold=(0.0,), w_sup=(0.0,), w_ret=(0.0, 1.1, 1.2))
    assert choose(by_hand(), grid)[:, 0].tolist() == [0, 0, 1]


def random_traces(rng, n_questions, n_candidates):
    branch = rng.integers(0, 4, (n_questions, n_candidates))  # 0: padding, 3: serves both branches
    n_cited = rng.integers(0, 4, branch.shape)
    return Traces(
        features=rng.uniform(0, 1, (*branch.shape, 5)),
        reads=branch % 2 == 1,
        reads_not=branch >= 2,
        correct=rng.random(branch.shape) < 0.5,
        n_cited=n_cited,
        n_cited_gold=np.minimum(n_cited, rng.integers(0, 4, branch.shape)),
        paper=rng.choice([0.0, 0.1, 0.25, 0.5, 0.9, 1.0], n_questions),
        emitted_yes=rng.random(n_questions) < 0.5,
        has_gold=rng.random(n_questions) < 0.8,
        texts=(("",) * n_candidates,) * n_questions,
    )


def share(part, whole):
    return part / whole if whole else np.nan


def brute_force(traces, grid):
    """The table, by loops and by `GateRule` itself."""
    rows = []
    axes = (grid.threshold, grid.w_rel, grid.w_sup, grid.w_use, grid.w_seq, grid.w_ret)
    for threshold, *weights in itertools.product(*axes):
        rule = GateRule(threshold=threshold)
        n_yes = n_answered = n_judged = n_right = n_cited = n_gold = 0
        for q in range(traces.n_questions):
            emitted = Retrieve.YES if traces.emitted_yes[q] else Retrieve.NO
            numbers = GateNumbers(paper=traces.paper[q], reference=0.0, emitted=emitted)
            yes = rule.would_retrieve(GateKind.PAPER, numbers)
            n_yes += yes
            allowed = np.flatnonzero((traces.reads if yes else traces.reads_not)[q])
            if not len(allowed):
                continue
            n_answered += 1
            best = max(
                allowed, key=lambda c: sum(np.multiply(weights, traces.features[q, c]).tolist())
            )
            if traces.has_gold[q]:
                n_judged += 1
                n_right += traces.correct[q, best]
                n_cited += traces.n_cited[q, best]
                n_gold += traces.n_cited_gold[q, best]
        rows.append(
            [
                share(n_yes, traces.n_questions),
                share(n_right, n_judged),
                share(n_gold, n_cited),
                n_answered,
                n_judged,
                traces.n_questions - n_answered,
            ]
        )
    return np.array(rows, dtype=float)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), chunk_bytes=st.sampled_from([1, 400, 2**24]))
def test_every_setting_equals_a_loop_over_questions(seed, chunk_bytes):
    rng = np.random.default_rng(seed)
    traces = random_traces(rng, int(rng.integers(1, 6)), int(rng.integers(0, 5)))
    grid = Grid(
        threshold=(0.0, 0.25, 1.0, None),
        w_rel=(0.0, 1.0),
        w_sup=(0.3, 2.0),
        w_use=(0.5, 0.0),
        w_ret=(0.0, 1.5),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfrag.trace.rescore.CHUNK_BYTES", chunk_bytes)
        table = rescore(traces, grid)
    columns = [table.retrieval_rate, table.accuracy, table.citation_precision]
    columns += [table.n_answered, table.n_judged, table.n_unrecorded]
    assert np.allclose(np.stack(columns, axis=1), brute_force(traces, grid), equal_nan=True)


# Not so small that products with it vanish, which would make ties of what is none.
weight = st.just(0.0) | st.floats(0.01, 3)
PARTS = ("relevance", "support", "utility", "sequence", "retrieval")
five_weights = st.tuples(*[weight] * 5)


def grid_of(threshold, weights):
    """The grid of one setting."""
    names = ("w_rel", "w_sup", "w_use", "w_seq", "w_ret")
    values = {name: (value,) for name, value in zip(names, weights, strict=True)}
    return Grid(threshold=(threshold,), **values)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    weights=five_weights,
    threshold=st.none() | st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
    max_segments=st.integers(1, 3),
    retriever=st.sampled_from([None, RandomRetriever()]),
    n_passages=st.integers(0, 2),
    drop_unsupported=st.booleans(),
    max_tokens=st.none() | st.integers(8, 60),
    max_passages=st.none() | st.integers(1, 6),
)
def test_the_settings_of_the_search_choose_what_the_search_chose(
    tmp_path_factory,
    seed,
    weights,
    threshold,
    max_segments,
    retriever,
    n_passages,
    drop_unsupported,
    max_tokens,
    max_passages,
):
    path = tmp_path_factory.mktemp("traces") / "t"
    answers, events = RandomModel(seed).answer(
        ["Q one", "Q two"],
        passages=PASSAGES[:n_passages],
        retriever=retriever,
        beam_width=WIDE,
        threshold=threshold,
        max_segments=max_segments,
        weights=ScoreWeights(**dict(zip(PARTS, weights, strict=True))),
        drop_unsupported=drop_unsupported,
        max_tokens=max_tokens,
        max_passages=max_passages,
    )
    save_trace(path, ["Q one", "Q two"], events)
    traces = load_traces(path)
    (chosen,) = choose(traces, grid_of(threshold, weights))
    assert len(answers) == 2
    for question, (answer, column) in enumerate(zip(answers, chosen, strict=True)):
        if answer.segments:
            assert traces.texts[question][column] == answer.text
            total = np.dot(weights, traces.features[question, column])
            assert total == pytest.approx(answer.score)
        else:  # the budget or the bound left nothing to say
            assert column == -1


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), weights=five_weights)
def test_other_weights_choose_what_a_search_with_them_chooses(tmp_path_factory, seed, weights):
    # A beam that keeps all records all, so that one search stands for every other.
    path = tmp_path_factory.mktemp("traces") / "t"
    options = {"beam_width": WIDE, "max_segments": 2, "threshold": 0.0}
    options["retriever"] = RandomRetriever()
    _, events = RandomModel(seed).answer(["Q"], **options)
    save_trace(path, ["Q"], events)
    given_weights = ScoreWeights(**dict(zip(PARTS, weights, strict=True)))
    (other,), _ = RandomModel(seed).answer(["Q"], weights=given_weights, **options)
    traces = load_traces(path)
    column = choose(traces, grid_of(0.0, weights))[0, 0]
    total = np.dot(weights, traces.features[0, column])
    assert total == pytest.approx(other.score)


def record(path, mode=RetrievalMode.ALWAYS, questions=("Q",), seed=4, answers=None, **options):
    config = SearchConfig(mode=mode, **options)
    _, events = RandomModel(seed).answer(questions, mode=mode, **options)
    save_trace(path, questions, events, answers=answers, config=config)


def test_the_branch_that_was_not_recorded_is_reported_and_left_out(tmp_path):
    record(tmp_path / "t", answers=[["alpha"]])
    table = rescore(load_traces(tmp_path / "t"), Grid(threshold=(0.0, 1.0)))
    assert table.retrieval_rate.tolist() == [1, 0]
    assert table.n_answered.tolist() == [1, 0]
    assert table.n_unrecorded.tolist() == [0, 1]
    assert np.isnan(table.accuracy[1])


def test_both_branches_of_a_question_traced_twice_are_one_question(tmp_path):
    record(tmp_path / "t", RetrievalMode.ALWAYS, answers=[["alpha"]])
    record(tmp_path / "t", RetrievalMode.NEVER, answers=[["alpha"]])
    traces = load_traces(tmp_path / "t")
    assert traces.n_questions == 1
    assert rescore(traces, Grid(threshold=(0.0, 1.0))).n_unrecorded.tolist() == [0, 0]


def test_a_question_traced_twice_alike_stays_two(tmp_path):
    record(tmp_path / "t")
    record(tmp_path / "t")
    assert load_traces(tmp_path / "t").n_questions == 2


def test_questions_with_other_gold_strings_are_others(tmp_path):
    record(tmp_path / "t", RetrievalMode.ALWAYS, answers=[["alpha"]])
    record(tmp_path / "t", RetrievalMode.NEVER, answers=[["beta"]])
    assert load_traces(tmp_path / "t").n_questions == 2


def test_a_segment_without_a_passage_that_competed_is_the_other_branch(tmp_path):
    record(tmp_path / "t", with_no_retrieval=True, max_segments=1)
    traces = load_traces(tmp_path / "t")
    # Two passages are read, and one segment reads none.
    assert traces.reads[0].tolist() == [True, True, False]
    assert traces.reads_not[0].tolist() == [False, False, True]


def test_an_open_hypothesis_that_was_lost_before_the_last_level_is_no_candidate(tmp_path):
    for seed in range(30):
        path = tmp_path / f"t{seed}"
        record(path, seed=seed, beam_width=1, max_segments=3)
        (recorded,) = recorded_questions(load_trace(path))
        assert recorded.candidates
        last = max(candidate.leaf.depth for candidate in recorded.candidates)
        for candidate in recorded.candidates:
            assert candidate.leaf.finished or candidate.leaf.depth == last


def test_gold_strings_are_looked_for_in_answers_and_cited_passages(tmp_path):
    # The passages say "text alpha é" and "text beta é"; a segment is one word of four.
    record(tmp_path / "t", answers=[["ALPHA", " "]], max_segments=1)
    traces = load_traces(tmp_path / "t")
    (recorded,) = recorded_questions(load_trace(tmp_path / "t"))
    assert len(recorded.candidates) == 2
    for column, candidate in enumerate(recorded.candidates):
        cites = bool(candidate.answer.citations)
        read = candidate.leaf.hits[0].passage.id
        assert traces.correct[0, column] == ("alpha" in candidate.answer.text)
        assert traces.n_cited[0, column] == cites
        assert traces.n_cited_gold[0, column] == (cites and read == "p0")


def test_questions_without_an_end_are_left_out_with_a_warning(tmp_path, caplog):
    record(tmp_path / "t", questions=("a", "b"))
    content = (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    with caplog.at_level(logging.WARNING):
        assert load_traces(tmp_path / "t").n_questions == 1
    assert (
        "left out, as their search did not come to its end in the trace: 1 of 2 questions"
        in caplog.text
    )


def test_paths_ranked_by_another_rule_are_told(tmp_path, caplog):
    record(tmp_path / "t", path_score=PathScore.MEAN)
    load_traces(tmp_path / "t")
    assert "may choose another answer: 1 question" in caplog.text


def test_a_trace_without_questions_is_refused(tmp_path):
    (tmp_path / "t").touch()
    with pytest.raises(BadInput, match="no finished search is recorded"):
        load_traces(tmp_path / "t")


def test_a_grid_without_values_is_that_of_a_search():
    weights = ScoreWeights()
    assert Grid().weights.tolist() == [weight_row(weights).tolist()]
    assert Grid.parse() == Grid(threshold=(SearchConfig().threshold,))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.2", (0.2,)),
        ("0:1:0.25", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("0:0.3:0.1", (0.0, 0.1, 0.2, 0.3)),  # 3 * 0.1 is 0.30000000000000004
        ("0:1:0.4", (0.0, 0.4, 0.8)),
        ("1:1:5", (1.0,)),
        ("0.5, 0.1,0.5", (0.5, 0.1)),
        ("1,0:1:0.5", (1.0, 0.0, 0.5)),
        ("none,0.3", (None, 0.3)),
    ],
)
def test_ranges_lists_and_numbers(text, values):
    assert Grid.parse(threshold=text).threshold == values


@pytest.mark.parametrize(
    "text",
    ["", "x", "0:1", "0:1:0", "0:1:-0.1", "1:0:0.1", "0:1:0.1:2", "nan", "0:inf:1", "0.1,,0.2",
     f"0:1:{1 / (MAX_VALUES + 1)}", "0:1:1e-320"],
)  # fmt: skip
def test_what_is_no_range_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError, match=r"cannot rescore: w_sup is .* write it so$"):
        Grid.parse(w_sup=text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": "1.1"}, "threshold is 1.1, but it is a share"),
        ({"threshold": "-0.1"}, "threshold is -0.1, but it is a share"),
        ({"w_use": "-1"}, "w_use is -1.0, but a weight"),
        ({"w_use": "none"}, "w_use is 'none', expected a number"),
        ({"w_rel": "0:1:0.001", "w_sup": "0:1:0.001"}, "the grid has 1,002,001 settings"),
    ],
)
def test_values_out_of_range_are_refused_in_one_sentence(values, message):
    with pytest.raises(ConfigError, match=message):
        Grid.parse(**values)


def test_settings_are_ordered_with_the_threshold_slowest():
    grid = Grid(threshold=(0.1, 0.2), w_rel=(1, 2), w_seq=(3, 4))
    assert (grid.n_settings, grid.n_weights) == (8, 4)
    assert grid.weights[:, [0, 3]].tolist() == [[1, 3], [1, 4], [2, 3], [2, 4]]


@given(arrays(float, (3, 3, 5), elements=st.floats(0, 1)), st.floats(0.1, 10))
def test_scaling_all_weights_chooses_the_same_score(features, scale):
    traces = by_hand()
    traces.features[:] = features
    (one,) = choose(traces, Grid(threshold=(0.5,)))
    (two,) = choose(traces, grid_of(0.5, (scale, scale, scale / 2, scale, scale)))
    totals = features @ [1, 1, 0.5, 1, 1]
    # Rounding may decide between equals, so the scores are compared, not the places.
    assert np.allclose(totals[range(3), one], totals[range(3), two])
