"""Seed rows: what is read, what is turned away and why; and the same for source files."""

import json

import pytest

from selfrag.annotate.judgement import Group
from selfrag.annotate.seeds import Seed, check_seeds, only_gold, read_seeds
from selfrag.annotate.sources import (
    TASK_SENTENCES,
    Source,
    SourceKind,
    check_source,
    looks_english,
    read_sources,
)
from selfrag.errors import BadInput
from selfrag.reflection import Relevance, Retrieve
from selfrag.rows import Reject


def seeds_of(*rows, **options):
    return list(check_seeds(enumerate(rows, start=1), **options))


def test_a_row_of_the_released_schema_is_one_sentence_with_one_passage():
    row = {
        "instruction": "Q",
        "target_output": "Two.",
        "output": "One. Two.",
        "evidence": "T\np",
        "preceding_sentences": "One.",
        "q_id": "nq_7",
        "sent_idx": 1,
        "p_idx": 3,
        "dataset_name": "nq",
    }
    (seed,) = seeds_of(row)
    assert (seed.id, seed.sentence, seed.output) == ("nq_7/1/3", "Two.", "One. Two.")
    assert [case.group for case in seed.cases()] == [
        Group.RETRIEVE,
        Group.UTILITY,
        Group.RETRIEVE_SENTENCE,
        Group.RELEVANCE,
        Group.SUPPORT,
    ]


def test_a_plain_row_is_judged_as_a_whole_and_without_evidence_only_twice():
    (seed,) = seeds_of({"instruction": "Q", "output": "A"})
    assert (seed.id, seed.sentence) == ("1/0/0", "A")
    assert [case.group for case in seed.cases()] == [Group.RETRIEVE, Group.UTILITY]


GOOD = {"instruction": "Q", "output": "A"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "wrong_type"),
        ("text", "wrong_type"),
        ({"instruction": "Q"}, "missing_field"),
        ({"instruction": " ", "output": "A"}, "empty_field"),
        ({"instruction": "Q", "output": 7}, "wrong_type"),
        ({**GOOD, "evidence": ["p"]}, "wrong_type"),
        ({**GOOD, "id": 1.5}, "wrong_type"),
        ({**GOOD, "id": True}, "wrong_type"),
        ({**GOOD, "sent_idx": "1"}, "wrong_type"),
        ({**GOOD, "output": "A" * 101}, "too_long"),
        ({**GOOD, "labels": "x"}, "wrong_type"),
        ({**GOOD, "labels": {"mood": "x"}}, "unknown_label"),
        ({**GOOD, "labels": {"relevance": "[Utility:5]"}}, "unknown_label"),
    ],
)
def test_a_row_that_cannot_be_used_is_a_reject_with_its_reason(row, reason):
    (reject,) = seeds_of(row, max_characters=100)
    assert isinstance(reject, Reject)
    assert (reject.place, reject.reason, reject.row) == ("row 1", reason, row)


def test_of_two_rows_with_one_id_the_first_is_taken():
    first, second = seeds_of({**GOOD, "id": "x"}, {**GOOD, "id": "x", "output": "B"})
    assert isinstance(first, Seed) and second.reason == "duplicate"


def test_lines_lists_and_broken_lines_are_read(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'\n{"instruction": "Q", "output": "A"}\n{broken\n\xff\n')
    seed, broken, bytes_ = read_seeds(path)
    assert isinstance(seed, Seed) and (broken.reason, bytes_.reason) == ("not_json", "not_utf8")
    path.write_text(" [\n" + json.dumps(GOOD) + ",\n" + json.dumps(GOOD) + "]")
    assert [type(seed) for seed in read_seeds(path)] == [Seed, Seed]
    path.write_text('[{"a":')
    with pytest.raises(BadInput, match="begins like a JSON list"):
        list(read_seeds(path))
    with pytest.raises(BadInput, match="No such file"):
        list(read_seeds(tmp_path / "none"))


def test_lone_surrogates_do_not_come_through(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({**GOOD, "output": "a\ud800"}) + "\n" + json.dumps(GOOD))
    reject, seed = read_seeds(path)
    assert reject.reason == "not_text" and isinstance(seed, Seed)


def test_gold_takes_the_rows_that_bring_labels_for_what_they_show():
    rows = [
        {**GOOD, "labels": {"retrieve": "[Retrieval]"}},
        GOOD,
        {**GOOD, "labels": {"relevance": "[Relevant]"}},  # without evidence
        {**GOOD, "evidence": "p", "labels": {"relevance": "[Relevant]"}},
    ]
    seed, unlabelled, blind, seeing = only_gold(seeds_of(*rows))
    assert seed.gold == {Group.RETRIEVE: Retrieve.YES}
    assert (unlabelled.reason, blind.reason) == ("no_gold", "no_gold")
    assert seeing.gold == {Group.RELEVANCE: Relevance.RELEVANT}


def source_of(row, kind, name):
    (found,) = check_source([(1, row)], kind, name, set())
    return found


CHOICES = "Which is hot?\nA: ice\nB: fire\nC: rain\nD: snow"


@pytest.mark.parametrize(
    ("row", "kind", "name", "identity", "instruction", "output"),
    [
        (
            {"instruction": "Q", "input": "x y", "output": "A"},
            SourceKind.PLAIN,
            "mine",
            "mine_0",
            "Q\nx y",
            "A",
        ),
        (
            {
                "id": "flan_3",
                "messages": [
                    {"role": "user", "content": "Say hello\nOutput:\n\n"},
                    {"role": "assistant", "content": "\nhello"},
                ],
            },
            SourceKind.OPEN_INSTRUCT,
            "flan_v2",
            "flan_3",
            "Say hello",
            "hello",
        ),
        (
            {"question": "who", "answers": ["me", "I"], "positive_ctxs": [{"title": "t"}]},
            SourceKind.DPR,
            "nq",
            "nq_0",
            "who",
            "me",
        ),
        (
            {"question": "Ice is hot.", "answers": ["REFUTES"]},
            SourceKind.DPR,
            "fever",
            "fever_0",
            f"{TASK_SENTENCES['fever']}## Input:\n\nIce is hot.",
            "false",
        ),
        (
            {
                "id": "M1",
                "question": "Which is hot?",
                "choices": {"text": ["ice", "fire", "rain", "snow"], "label": list("1234")},
                "answerKey": "2",
            },
            SourceKind.CHOICES,
            "arc_easy",
            "arc_easy_M1",
            f"{TASK_SENTENCES['arc_easy']}## Input:\n\n{CHOICES}",
            "B",
        ),
        (
            {
                "id": "7-1",
                "question": {
                    "stem": "Which is hot?",
                    "choices": [
                        {"text": text, "label": label}
                        for text, label in zip(["ice", "fire", "rain", "snow"], "ABCD", strict=True)
                    ],
                },
                "answerKey": "B",
            },
            SourceKind.CHOICES,
            "obqa",
            "obqa_7-1",
            f"{TASK_SENTENCES['obqa']}## Input:\n\n{CHOICES}",
            "B",
        ),
    ],
)
def test_every_source_is_read_as_released(row, kind, name, identity, instruction, output):
    found = source_of(row, kind, name)
    assert (found.id, found.instruction, found.output) == (identity, instruction, output)
    assert found.dataset == name


def test_asqa_is_one_object_and_its_first_long_answer_is_taken(tmp_path):
    path = tmp_path / "asqa.json"
    annotations = [{"long_answer": "Both did."}, {"long_answer": "None."}]
    row = {"ambiguous_question": "Who won?", "annotations": annotations}
    path.write_text(json.dumps({"train": {"-1": row, "-2": {"ambiguous_question": "x"}}}))
    first, second = read_sources([Source.parse(f"asqa:asqa:{path}")])
    assert (first.id, first.output, first.question) == ("asqa_-1", "Both did.", "Who won?")
    assert second.reason == "missing_field"


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"messages": [{"content": "a"}] * 3}, SourceKind.OPEN_INSTRUCT, "not_one_turn"),
        (
            {"messages": [{"content": "a " * 501}, {"content": "b"}]},
            SourceKind.OPEN_INSTRUCT,
            "too_long",
        ),
        (
            {"messages": [{"content": "Was ist das?"}, {"content": "Это луна"}]},
            SourceKind.OPEN_INSTRUCT,
            "not_english",
        ),
        ({"question": "q", "answers": []}, SourceKind.DPR, "missing_field"),
        ({"question": "q", "choices": ["a", "b"], "gold": 0}, SourceKind.CHOICES, "wrong_choices"),
        (
            {"question": "q", "choices": list("abcd"), "gold": 4},
            SourceKind.CHOICES,
            "unknown_label",
        ),
        ({"question": "q", "choices": [1, 2], "gold": 0}, SourceKind.CHOICES, "wrong_type"),
        ({"instruction": "q"}, SourceKind.PLAIN, "missing_field"),
    ],
)
def test_a_source_row_that_cannot_be_used_is_a_reject(row, kind, reason):
    assert source_of(row, kind, "any").reason == reason


def test_a_label_of_fever_that_is_none_is_a_reject():
    row = {"question": "q", "answers": ["NOT ENOUGH INFO"]}
    assert source_of(row, SourceKind.DPR, "fever").reason == "unknown_label"


def test_ids_are_unique_over_all_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**GOOD, "id": "1"}))
    first, second = read_sources([Source.parse(str(tmp_path / f"{n}.jsonl")) for n in "ab"])
    assert first.id == "1" and second.reason == "duplicate"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("dpr:nq:a.json", ("dpr", "nq", "a.json")),
        ("c:\\x.jsonl", ("plain", "c:\\x", "c:\\x.jsonl")),
    ],
)
def test_a_source_is_named_by_kind_name_and_path_or_by_its_path(text, source):
    found = Source.parse(text)
    assert (found.kind, found.name, str(found.path)) == source


def test_a_source_with_an_empty_part_is_refused():
    with pytest.raises(BadInput, match="expected kind:name:path"):
        Source.parse("dpr::x.json")


@pytest.mark.parametrize(
    ("text", "is_english"),
    [
        ("The moon of Saturn that has an atmosphere is named Titan, they say.", True),
        ("42", True),
        ("Der Mond hat keine Luft und wird von Staub bedeckt, sagen viele Leute heute.", False),
        ("土星の衛星", False),
    ],
)
def test_english_is_told_by_letters_and_common_words(text, is_english):
    assert looks_english(text) is is_english


def test_a_row_may_ask_some_groups_only_and_then_needs_no_more_than_they_show():
    retrieve, relevance = seeds_of(
        {"instruction": "Q", "groups": ["retrieve"]},
        {"instruction": "Q", "evidence": "p", "output": "A", "groups": ["relevance"]},
    )
    assert [case.group for case in retrieve.cases()] == [Group.RETRIEVE]
    assert [case.group for case in relevance.cases()] == [Group.RELEVANCE]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [(["utility"], "missing_field"), (["taste"], "unknown_group"), ("retrieve", "unknown_group")],
)
def test_groups_that_do_not_exist_or_need_an_answer_are_rejected(groups, reason):
    (reject,) = seeds_of({"instruction": "Q", "groups": groups})
    assert isinstance(reject, Reject) and reject.reason == reason
