"""The local teacher's model file and the labelled sets: what is fetched, joined, read, drawn."""

import json

import pytest
import zstandard

from seeds import SETS, main, read_labelled_sets
from selfrag.annotate import local
from selfrag.annotate.judgement import LABELS, Group
from selfrag.annotate.seeds import read_seeds
from selfrag.errors import BadInput, EngineError


def test_a_file_that_is_no_model_is_refused_before_it_is_loaded(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"<html>")
    with pytest.raises(EngineError, match="expected a GGUF file"), local.serving(path, n_threads=1):
        pass


CLAIM = {"claim": "It rains.", "evidence": "It rains.", "gold_evidence": [{"text": "It rains."}]}
ROWS = {
    "nq_open/train_part_8757": [{"question": f"who is {n}"} for n in range(9)],
    "entity_questions/train": [{"question": "Who?"}],
    "instructions/t0_mix_permissive": [
        {"template": "common_gen_x", "prompt": "Write of cats."},
        {"template": "kilt_x", "prompt": "Who is it?"},
    ],
    "selqa/dev": [{"question": "Q", "article": "S", "candidates": ["a", "b", "c"], "answers": [1]}],
    "wice/claim_dev_oracle_chunks": [
        {
            "label": "partially_supported",
            "claim": "C",
            "evidence": ["a", "b"],
            "meta": {"claim_title": "Snow"},
        }
    ],
    "factcheck_bench/claim_evidence_stance": [
        {**CLAIM, "stance": "refute"},
        {**CLAIM, "stance": "irrelevant"},
    ],
    "fool_me_twice/dev": [{**CLAIM, "label": "SUPPORTS", "text": "C", "wikipedia_page": "P"}],
    "fever/symmetric_dev": [{**CLAIM, "id": "1", "label": "REFUTES"}],
    "asqa/alce_human_utility": [{"question": "Q", "output": "A", "utility_score": 4}],
    "squad/dev_v2.0": [{"question": "Q", "pid": "p1", "no_answer": True}],
    "begin/wow_dev": [
        {"message": "M", "knowledge": "K2", "response": "R", "begin_label": label}
        for label in ("Not fully attributable", "Generic")
    ],
}
PASSAGES = {"squad/passages": [{"pid": "p1", "title": "S", "text": "It rains."}]}


@pytest.fixture
def data(tmp_path):
    for name, rows in {**ROWS, **PASSAGES}.items():
        path = tmp_path / f"{name}.jsonl.zst"
        path.parent.mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(zstandard.compress(lines.encode()))
    return tmp_path


def test_labelled_sets_become_seeds_that_ask_the_one_group_they_label(data):
    seeds = list(read_labelled_sets(data, per_label=2))
    assert {seed.dataset for seed in seeds} == set(ROWS) == {each.name for each in SETS}
    for seed in seeds:
        (group,) = seed.gold
        assert seed.gold[group] in LABELS[group]
        assert [case.group for case in seed.cases()] == [group]
    told = {(seed.dataset.split("/")[0], seed.evidence, str(*seed.gold.values())) for seed in seeds}
    assert ("selqa", "S\nb", "[Relevant]") in told and ("selqa", "S\na", "[Irrelevant]") in told
    assert ("wice", "a b", "[Partially supported]") in told
    assert ("fool_me_twice", "P\nIt rains.", "[Fully supported]") in told
    assert ("squad", "S\nIt rains.", "[Irrelevant]") in told
    assert ("begin", "K2", "[Partially supported]") in told
    assert len([s for s in seeds if s.dataset.startswith(("factcheck", "begin"))]) == 2


def test_sets_are_chosen_by_the_beginnings_of_their_names(data):
    seeds = list(read_labelled_sets(data, per_label=1, sets=("wice", "fever/")))
    assert {seed.dataset.split("/")[0] for seed in seeds} == {"wice", "fever"}
    with pytest.raises(BadInput, match="cannot read the labelled set 'mice'"):
        list(read_labelled_sets(data, per_label=1, sets=("mice",)))


def test_the_draw_is_fixed_by_its_seed_and_no_set_changes_that_of_another(data):
    def ids(**options):
        return [seed.id for seed in read_labelled_sets(data, per_label=3, **options)]

    assert ids() == ids() and ids() != ids(seed=1)
    utility = ids(groups=(Group.UTILITY,))
    assert utility == [each for each in ids() if each.startswith("asqa")]


def test_a_set_that_is_not_there_or_lacks_a_field_is_named(data):
    (data / "selqa/dev.jsonl.zst").write_bytes(zstandard.compress(b'{"question": "Q"}\n'))
    with pytest.raises(BadInput, match="selqa/dev: row 1 lacks a field"):
        list(read_labelled_sets(data, per_label=1))
    (data / "squad/passages.jsonl.zst").write_bytes(zstandard.compress(b'{"pid": "p2"}\n'))
    with pytest.raises(BadInput, match=r"squad/dev_v2\.0: row 1 lacks a field"):
        list(read_labelled_sets(data, per_label=1, sets=("squad",)))
    (data / "selqa/dev.jsonl.zst").unlink()
    with pytest.raises(BadInput, match="name the folder that holds them"):
        list(read_labelled_sets(data, per_label=1, groups=(Group.RELEVANCE,)))


def test_the_script_writes_seeds_that_are_read_again(monkeypatch, data, tmp_path):
    out = tmp_path / "seeds.jsonl"
    monkeypatch.setattr("sys.argv", ["seeds.py", str(data), "--out", str(out), "--per-label", "2"])
    main()
    drawn = list(read_labelled_sets(data, per_label=2))
    read = list(read_seeds(out))
    assert [(s.gold, s.cases()) for s in read] == [(s.gold, s.cases()) for s in drawn]
    monkeypatch.setattr("sys.argv", ["seeds.py", str(tmp_path / "none"), "--out", str(out)])
    with pytest.raises(SystemExit, match="name the folder that holds them"):
        main()
