"""Measures of retrieval by hand, their intervals, and the files they are read from."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.errors import BadInput
from selfrag.evaluate.retrieval import (
    Ranking,
    per_query,
    ranked_scores,
    read_qrels,
    read_run,
    score_answers,
    score_run,
)
from selfrag.rows import answers_of
from selfrag.statistics import bootstrap_intervals
from selfrag.text import has_answer


def ranking(*ids):
    return Ranking(scores=ranked_scores(ids))


def means(scores):
    return {name: estimate.mean for name, estimate in scores.estimates.items()}


# Measures


def test_the_measures_of_two_queries_by_hand():
    qrels = {"q": {"a": 1, "b": 1}, "r": {"c": 1}}
    run = {"q": ranking("x", "a", "y", "z", "w", "b"), "r": ranking("c", "x")}
    scores = score_run(qrels, run)
    # q: a is second, b sixth. r: c is first.
    ideal = 1 + 1 / math.log2(3)
    ndcg = (1 / math.log2(3) + 1 / math.log2(7)) / ideal
    assert means(scores) == pytest.approx(
        {
            "R@1": (0 + 1) / 2,
            "R@5": (1 / 2 + 1) / 2,
            "R@20": 1,
            "R@100": 1,
            "MRR": (1 / 2 + 1) / 2,
            "nDCG@10": (ndcg + 1) / 2,
        }
    )
    assert (scores.n_queries, scores.depth) == (2, 6)


def test_graded_relevance_counts_in_ndcg_and_0_is_not_relevant():
    scores = score_run({"q": {"a": 1, "b": 2, "x": 0}}, {"q": ranking("a", "x", "b")})
    # Gains 1, 0, 2 against 2, 1.
    expected = (1 + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert means(scores)["nDCG@10"] == pytest.approx(expected)
    assert means(scores)["R@1"] == 0.5


def test_a_query_without_results_counts_as_0_and_one_without_judgements_is_left_out():
    qrels = {"q": {"a": 1}, "gone": {"b": 1}, "empty": {"c": 1}, "vain": {"d": 0}, "blank": {}}
    run = {"q": ranking("a"), "empty": ranking(), "new": ranking("a"), "vain": ranking("d")}
    scores = score_run(qrels, run)
    assert scores.n_queries == 3
    assert means(scores)["R@1"] == pytest.approx(1 / 3)
    assert scores.without_results == ("gone", "empty")
    assert scores.without_judgements == ("vain", "blank", "new")


def test_nothing_to_measure_is_refused():
    with pytest.raises(BadInput, match="found 1 query and none with a relevant passage"):
        score_run({"q": {"a": 0}}, {})
    with pytest.raises(BadInput, match="found 1 query and none"):
        score_answers({"q": ranking("a")})


def test_judgements_of_other_queries_are_refused():
    with pytest.raises(BadInput, match="such as 'line 1', the judgements for such as 'q', and no"):
        score_run({"q": {"a": 1}}, {"line 1": ranking("a")})


def test_answers_are_measured_by_place():
    def held(*flags):
        return Ranking(scores={}, holds_answer=flags)

    run = {"q": held(False, True, True), "r": held(False, False), "s": held(), "t": ranking("a")}
    scores = score_answers(run)
    assert means(scores) == pytest.approx(
        {
            "Success@1": 0,
            "Success@5": 1 / 3,
            "Success@20": 1 / 3,
            "Success@100": 1 / 3,
            "MRR": 1 / 6,
        }
    )
    assert scores.without_results == ("s",)
    assert scores.without_judgements == ("t",)


def test_a_repeated_passage_counts_where_it_stands_first():
    assert ranked_scores(["a", "b", "a"]) == {"a": -1.0, "b": -2.0}


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_recall_and_reciprocal_rank_are_what_their_definitions_say(relevant: list[bool]) -> None:
    ids = [f"p{place}" for place in range(len(relevant))]
    qrels = {"q": {"never": 1} | {p: int(r) for p, r in zip(ids, relevant, strict=True)}}
    ((at_5, rr),) = per_query(qrels, {"q": ranked_scores(ids)}, ["R@5", "RR"])
    assert at_5 == pytest.approx(sum(relevant[:5]) / (sum(relevant) + 1))
    assert rr == pytest.approx(1 / (relevant.index(True) + 1) if any(relevant) else 0)


# Intervals


def test_an_interval_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(1).random((400, 1)) < 0.3
    (low,), (high,) = bootstrap_intervals(values.astype(float))
    error = math.sqrt(values.var() / 400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_intervals_are_paired_and_repeatable():
    values = np.random.default_rng(1).random((50, 1))
    both = np.hstack([values, values + 0.25, np.full_like(values, 0.5)])
    intervals = bootstrap_intervals(both, seed=3)
    # The same samples for all columns: a constant gain shifts the ends by exactly that.
    assert np.allclose(intervals[:, 1], intervals[:, 0] + 0.25)
    assert intervals[:, 2].tolist() == [0.5, 0.5]
    assert np.array_equal(intervals, bootstrap_intervals(both, seed=3))
    assert not np.array_equal(intervals, bootstrap_intervals(both, seed=4))


# Answers


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("Titan is a moon of Saturn.", ["saturn"], True),
        ("Titan is a moon of Saturn.", ["Satur"], False),
        ("Titan is a moon of Saturn.", ["moon  of\nSaturn"], True),
        ("Titan is a moon of Saturn.", ["of moon"], False),
        ("It cost $5,000 (about).", ["$5,000"], True),
        ("It cost $5,000 (about).", ["5 , 000"], True),
        ("It cost $5,000 (about).", ["5000"], False),
        ("Born in Malmo\u0308", ["malm\u00f6"], True),  # the two ways to write the same letter
        ("Born in Malmo", ["malm\u00f6"], False),
        ("Titan", ["", " ", "\u200b"], False),
        ("Titan", [], False),
        ("", ["Titan"], False),
        ("a b a b c", ["a b c"], True),
    ],
)
def test_an_answer_stands_in_a_text_as_whole_words(text, answers, expected):
    assert has_answer(text, answers) is expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"answers": ["a", "b"]}, ("a", "b")),
        ({"answers": [], "golds": ["c"]}, ("c",)),
        ({"answer": "d"}, ("d",)),
        ({"answers": [1999, 2.5]}, ("1999", "2.5")),
        ({"answers": [" ", None]}, ()),
        ({"question": "who"}, ()),
    ],
)
def test_gold_strings_of_a_row(row, expected):
    assert answers_of(row) == expected


# Files


@pytest.mark.parametrize(
    "content",
    [
        "q1 0 a 1\nq1 0 b 0\n\nq2 0 a 2\n",
        "q1\t0\ta\t1\nq1\t0\tb\t0\nq2\t0\ta\t2",
        "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t0\nq2\ta\t2\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\ta\t1\r\nq1\tb\t0\r\nq2\ta\t2\r\n",
    ],
)
def test_judgements_of_trec_and_beir_are_read(tmp_path, content):
    (tmp_path / "qrels").write_text(content, encoding="utf-8", newline="")
    assert read_qrels(tmp_path / "qrels") == {"q1": {"a": 1, "b": 0}, "q2": {"a": 2}}


def test_judgements_as_json_lines_are_read(tmp_path):
    (tmp_path / "qrels").write_text('{"qid": 7, "gold_pids": ["a", 3]}\n{"id":"x","gold_pids":[]}')
    assert read_qrels(tmp_path / "qrels") == {"7": {"a": 1, "3": 1}, "x": {}}


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ("q1 0 a 1\nq1 a", 2),
        ("q1 0 a yes", 1),
        ("q1\ta\t1\nquery-id\tcorpus-id\tscore", 2),
        ('{"qid": "q1"}', 1),
        ('{"gold_pids": ["a"]}', 1),
        ('{"qid": "q", "gold_pids": []}\n{"qid": "q", "gold_pids": ["a"]}', 2),
        ("1", 1),
    ],
)
def test_a_line_that_is_no_judgement_is_named(tmp_path, content, number):
    (tmp_path / "qrels").write_text(content)
    with pytest.raises(BadInput, match=f"line {number} is not a judgement .*; expected TREC"):
        read_qrels(tmp_path / "qrels")


def test_a_trec_run_is_read_by_its_scores(tmp_path):
    (tmp_path / "run").write_text("q Q0 b 2 0.5 me\nq Q0 a 1 0.75 me\nr Q0 a 1 3 me\n")
    run = read_run(tmp_path / "run")
    assert run["q"].scores == {"b": 0.5, "a": 0.75}
    assert run["r"] == Ranking(scores={"a": 3.0})


def test_a_run_as_json_lines_knows_its_answers_where_they_are_given(tmp_path):
    (tmp_path / "run").write_text(
        '{"id": "q", "ctxs": [{"id": "a", "hasanswer": false}, {"id": "b", "hasanswer": true}]}\n'
        '{"qid": 2, "answers": ["Saturn"], '
        '"ctxs": [{"id": "a", "text": "of Saturn"}, {"text": ""}]}\n'
        '{"question": "?", "answers": ["Saturn"], "ctxs": []}\n'
        '{"_id": "x", "ctxs": [{"id": "a"}]}\n'
    )
    assert read_run(tmp_path / "run") == {
        "q": Ranking(scores={"a": -1.0, "b": -2.0}, holds_answer=(False, True)),
        "2": Ranking(scores={"a": -1.0, "no id, rank 2": -2.0}, holds_answer=(True, False)),
        "line 3": Ranking(scores={}, holds_answer=()),
        "x": Ranking(scores={"a": -1.0}),
    }


def test_the_json_list_of_dpr_is_read(tmp_path):
    rows = [
        {
            "question": "Which planet?",
            "answers": ["Saturn"],
            "ctxs": [
                {
                    "id": "wiki:1",
                    "title": "T",
                    "text": "of Mars",
                    "score": "80.1",
                    "has_answer": False,
                },
                {
                    "id": "wiki:2",
                    "title": "T",
                    "text": "of it",
                    "score": "79.0",
                    "has_answer": True,
                },
            ],
        },
        {"question": "Who?", "answers": ["Ann"], "ctxs": [{"id": "wiki:1", "text": "Ann."}]},
    ]
    path = tmp_path / "dpr.json"
    for indent in (None, 4):
        path.write_text(json.dumps(rows, indent=indent))
        assert read_run(path) == {
            "line 1": Ranking(scores={"wiki:1": -1.0, "wiki:2": -2.0}, holds_answer=(False, True)),
            "line 2": Ranking(scores={"wiki:1": -1.0}, holds_answer=(True,)),
        }
    path.write_text(json.dumps([{"qid": "q", "gold_pids": ["a"]}]))
    assert read_qrels(path) == {"q": {"a": 1}}


def test_a_row_without_passages_is_named_with_what_it_lacks(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?", "answers": ["Ann"]}\n')
    with pytest.raises(BadInput, match=r"line 1 is not a ranking \(it has no 'ctxs'\)"):
        read_run(path)
    path.write_text("just words that are no run\n" * 2)
    with pytest.raises(BadInput, match=r"line 1 is not a ranking"):
        read_run(path)


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ("q Q0 a 1 nan me", 1),
        ("q Q0 a 1 0.5", 1),
        ('{"id": "q"}', 1),
        ('{"id": "q", "ctxs": []}\n{"id": "q", "ctxs": []}', 2),
        ('{"id": null, "ctxs": []}', 1),
        ('{"id": "q", "ctxs": [1]}', 1),
    ],
)
def test_a_line_that_is_no_ranking_is_named(tmp_path, content, number):
    (tmp_path / "run").write_text(content)
    with pytest.raises(BadInput, match=f"line {number} is not a ranking"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("read", [read_qrels, read_run])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, read):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "binary"):
        with pytest.raises(BadInput, match=f"from {path}: .*expected (a readable file|UTF-8)"):
            read(path)
