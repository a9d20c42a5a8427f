"""Pairs that people have labelled: how rows are read, and which side of the split they fall on."""

import json

import pytest
import zstandard

from pairs import PAIR_SETS, SUPPORT_SETS, Part, part_of, read_pairs
from selfrag.errors import BadInput
from selfrag.passage import Passage
from selfrag.reflection import Relevance, Support
from sets import LICENCES

TITLE = "(meta data) TITLE: Rain News"
FEVER = {"claim": "It rains .", "label": "REFUTES"}


def write(folder, name, rows):
    path = folder / f"{name}.jsonl.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))


def both(folder, name):
    return [*read_pairs(folder, name, Part.TRAIN), *read_pairs(folder, name, Part.MEASURE)]


def test_three_tenths_of_the_sources_are_measured_and_spelling_moves_none():
    sides = [part_of(f"Article {n}") for n in range(2000)]
    # Mean 600, standard deviation sqrt(2000 * .3 * .7) = 20.5.
    assert 520 < sides.count(Part.MEASURE) < 680
    assert part_of("  article\t7 ") is part_of("Article 7")


def test_both_parts_together_are_the_set_and_no_source_is_in_two(tmp_path):
    rows = [
        {**FEVER, "id": f"{n}{end}", "evidence": f"It is dry {n} {end} ."}
        for n in range(40)
        for end in ("", "0000002", "0000003")
    ]
    write(tmp_path, "fever/symmetric_dev", rows)
    parts = [read_pairs(tmp_path, "fever/symmetric_dev", part) for part in Part]
    assert sum(map(len, parts)) == 120 and all(parts)
    learned, measured = ({pair.source for pair in part} for part in parts)
    assert learned | measured == {str(n) for n in range(40)} and not learned & measured


def test_a_set_published_to_be_tested_on_is_only_measured(tmp_path):
    rows = [{**FEVER, "id": str(n), "evidence": f"Dry {n}."} for n in range(20)]
    write(tmp_path, "fever/symmetric_test_part", rows)
    assert read_pairs(tmp_path, "fever/symmetric_test_part", Part.TRAIN) == []
    assert len(read_pairs(tmp_path, "fever/symmetric_test_part", Part.MEASURE)) == 20
    assert all(s.measured_only for s in SUPPORT_SETS if "test" in s.name)


def test_every_set_names_its_licence_and_none_forbids_commercial_use():
    folders = {each.name.split("/")[0] for each in PAIR_SETS}
    assert folders <= set(LICENCES) and not any("NC" in licence for licence in LICENCES.values())
    assert not any("scifact" in each.name for each in PAIR_SETS)


@pytest.mark.parametrize(
    ("name", "row", "passage", "claim", "question", "support"),
    [
        (
            "wice/claim_dev_oracle_chunks",
            {
                "label": "partially_supported",
                "claim": "It rained.",
                "evidence": [TITLE, "(meta data) PUBLISHED: x", "It rained", "twice."],
                "meta": {"claim_title": "Rain"},
            },
            Passage(title="Rain News", text="It rained twice."),
            "It rained.",
            "",
            Support.PARTIAL,
        ),
        (
            "fever/symmetric_dev",
            {**FEVER, "id": "1", "evidence": "Dry ( -LRB- D -RRB- ) , it is ."},
            Passage(text="Dry ((D)), it is."),
            "It rains.",
            "",
            Support.NONE,
        ),
        (
            "fool_me_twice/dev",
            {
                "gold_evidence": [{"text": "It rains. "}, {"text": "It pours."}],
                "wikipedia_page": "Rain",
                "text": "It pours.",
                "label": "SUPPORTS",
            },
            Passage(title="Rain", text="It rains. It pours."),
            "It pours.",
            "",
            Support.FULL,
        ),
        (
            "begin/wow_dev",
            {
                "knowledge": "It rains.",
                "message": "Hi",
                "response": "it rains .",
                "begin_label": "Fully attributable",
            },
            Passage(text="It rains."),
            "it rains.",
            "Hi",
            Support.FULL,
        ),
    ],
)
def test_a_row_is_read_as_a_pair(tmp_path, name, row, passage, claim, question, support):
    write(tmp_path, name, [row, row])
    (pair,) = both(tmp_path, name)
    assert (pair.passage, pair.claim, pair.question) == (passage, claim, question)
    assert (pair.support, pair.relevance) == (support, Relevance.RELEVANT)


def test_evidence_about_something_else_is_irrelevant_and_supports_nothing(tmp_path):
    name = "factcheck_bench/claim_evidence_stance"
    write(tmp_path, name, [{"claim": "C", "evidence": "E", "stance": "irrelevant"}])
    (pair,) = both(tmp_path, name)
    assert (pair.support, pair.relevance) == (Support.NONE, Relevance.IRRELEVANT)


def test_what_has_no_label_of_ours_or_no_text_gives_no_pair(tmp_path):
    row = {"knowledge": "K", "message": "M", "response": "R", "begin_label": "Generic"}
    silent = {**row, "response": " ", "begin_label": "Fully attributable"}
    write(tmp_path, "begin/wow_dev", [row, silent])
    assert both(tmp_path, "begin/wow_dev") == []


def test_questions_are_paired_with_passages_that_answer_or_only_seem_to(tmp_path):
    row = {"question": "Q?", "pid": "p", "no_answer": True}
    write(tmp_path, "squad/dev_v2.0", [row, {**row, "no_answer": False}])
    write(tmp_path, "squad/passages", [{"pid": "p", "title": "T", "text": "It rains."}])
    found = both(tmp_path, "squad/dev_v2.0")
    assert [pair.relevance for pair in found] == [Relevance.IRRELEVANT, Relevance.RELEVANT]
    assert {(pair.source, pair.support) for pair in found} == {("T", None)}
    empty = {"input": "who is it", "passages": [{"title": "T", "text": "A ."}]}
    write(tmp_path, "clapnq/dev_unanswerable", [{**empty, "output": [{"answer": ""}]}])
    (pair,) = both(tmp_path, "clapnq/dev_unanswerable")
    assert (pair.question, pair.relevance) == ("Who is it?", Relevance.IRRELEVANT)


def test_an_unknown_set_and_a_row_without_a_field_are_named(tmp_path):
    with pytest.raises(BadInput, match="cannot read pairs of 'mice'"):
        read_pairs(tmp_path, "mice", Part.TRAIN)
    write(tmp_path, "fever/symmetric_dev", [{"id": "1"}])
    with pytest.raises(BadInput, match="fever/symmetric_dev: row 1 lacks a field"):
        read_pairs(tmp_path, "fever/symmetric_dev", Part.TRAIN)
