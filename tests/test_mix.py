"""The training mix from a small folder of labelled sets: counts, groups, and the same again."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import zstandard

from facts import BARE_FACTS, RELATIONS, short_records, silent_records, twin_records
from longform import LongMix, comparison_records
from mix import FACTUAL_SETS, MixConfig, build_mix, main, table, untitled
from pairs import PAIR_SETS
from questions import Mined, mine
from selfrag.errors import BadInput
from selfrag.passage import Passage
from selfrag.prompt import check_instruction
from selfrag.reflection import Relevance, Support
from selfrag.released import load_records
from sets import LICENCES, read_set

MOONS = ("Titan", "Rhea", "Dione", "Mimas")


def passages():
    for number, name in enumerate(MOONS):
        text = f"{name} is a moon that orbits Saturn every {number + 2} days. It is cold there."
        yield {"pid": f"m{number}", "title": "Moons", "text": text}
    for number in range(6):
        text = f"A town by the river number {number}. Its moon festival is old and loud."
        yield {"pid": f"t{number}", "title": f"Town {number}", "text": text}


def questions():
    for number, name in enumerate(MOONS):
        for dataset in ("squad", "qed"):
            yield {
                "qid": f"{dataset}-{number}",
                "dataset": dataset,
                "question": f"Which planet does the moon {name} orbit?",
                "answers": ["Saturn"],
                "gold_pids": [f"m{number}"],
            }


@pytest.fixture
def data(tmp_path):
    sets = {
        "wiki_retrieval/passages": passages(),
        "wiki_retrieval/qrels_train": questions(),
        "instructions/dolly_hhrlhf_1000": [],
        "instructions/self_instruct_seeds": [
            {"instruction": f"Write a rhyme {n}", "instances": [{"input": "", "output": "Oh."}]}
            for n in range(8)
        ],
        "instructions/t0_mix_permissive": [
            {"prompt": f"Make a title {n}", "completion": "Rain", "template": "title_generation"}
            for n in range(20)
        ],
        "factscore_bio/bio_part": [
            {"entity": f"Ann {n}", "passages": [{"title": f"Ann {n}", "text": two(n)}]}
            for n in range(110)
        ],
    }
    sets |= {name: [{field: f"Is it {n}?"} for n in range(9)] for name, field in FACTUAL_SETS}
    for name, rows in sets.items():
        path = tmp_path / "data" / f"{name}.jsonl.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(zstandard.compress(lines.encode()))
    (tmp_path / "no_retrieval_seeds.txt").write_text("Sing me a song.\n")
    return tmp_path / "data"


def two(number):
    return f"Ann {number} Ann Lee was born in a small town. She painted the sea and the"


SMALL = MixConfig(
    n_squad=3,
    n_qed=2,
    n_retrieval=14,
    n_no_retrieval=12,
    n_topics=1,
    n_ambiguous=4,
    n_two_part=3,
    n_biographies=5,
)


def test_a_mix_holds_what_was_asked_for_and_is_the_same_again(data):
    made = build_mix(data, data.parent, SMALL)
    kinds = Counter(record.id.split("/")[-1].split("-")[0] for record in made)
    assert kinds["gate"] == 14
    assert kinds["none"] == 12
    assert kinds["topic"] == 1
    assert kinds["long"] == 4
    assert kinds["two"] == 3
    assert kinds["bio"] == 5
    assert kinds["right"] + kinds["irrelevant"] == 5
    assert build_mix(data, data.parent, SMALL) == made


def test_records_of_one_group_stay_together(data):
    made = build_mix(data, data.parent, SMALL)
    groups = [record.group for record in made if record.group]
    seen = [group for at, group in enumerate(groups) if not at or groups[at - 1] != group]
    assert len(seen) == len(set(seen))


def test_biographies_leave_the_first_hundred_topics_alone(data):
    made = build_mix(data, data.parent, SMALL)
    asked = {record.segments[0].passage.title for record in made if record.id.startswith("bio")}
    assert asked <= {f"Ann {n}" for n in range(100, 110)}


def add_set(data, name, rows):
    path = data / f"{name}.jsonl.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))


def test_a_question_that_is_evaluated_is_never_trained_on(data):
    asked = {row["question"].upper().replace("?", " ?") for row in questions()}
    add_set(data, "nq_open/dev_3610", [{"question": each} for each in asked])
    made = build_mix(data, data.parent, replace(SMALL, n_contrasts=3, n_two_part=0))
    assert not any(record.dataset in ("squad", "qed") for record in made)
    assert {record.dataset for record in made} >= {"topics", "instructions"}


def test_contrasts_and_labelled_pairs_are_part_of_a_mix(data):
    for each in PAIR_SETS:
        add_set(data, each.name, [])
    add_set(data, "squad/passages", [])
    told = {"label": "SUPPORTS"}
    rows = [
        {**told, "id": f"{n}", "claim": f"Moon {n} is old.", "evidence": f"It is old: {n}."}
        for n in range(30)
    ]
    add_set(data, "fever/symmetric_dev", rows)
    config = replace(SMALL, n_contrasts=4, n_claims=2, pair_words=12)
    kinds = Counter(record.id.split("/")[-1] for record in build_mix(data, data.parent, config))
    assert kinds["pair"] == 3  # of four words each
    assert kinds["right"] > 4 and kinds["claim"] + kinds["false-claim"] > 0
    # Evidence that is measured with another claim is not trained on.
    add_set(data, "fever/symmetric_test_part", rows)
    none = build_mix(data, data.parent, config)
    assert not any(record.id.endswith("/pair") for record in none)


@pytest.mark.parametrize(("words", "made"), [(0, 3), (20, 5)])
def test_pairs_that_say_whether_a_passage_answers_have_a_number_of_their_own(data, words, made):
    for each in PAIR_SETS:
        add_set(data, each.name, [])
    add_set(data, "squad/passages", [])
    asked = [
        {
            "article": f"Moon {n}",
            "question": f"How old is moon {n}?",
            "candidates": [f"It is old: {n}.", f"It is blue: {n}."],
            "answers": [0],
        }
        for n in range(30)
    ]
    add_set(data, "selqa/dev", asked)
    config = replace(SMALL, pair_words=12, relevance_words=words)
    kinds = Counter(record.id.split("/")[-1] for record in build_mix(data, data.parent, config))
    assert kinds["answerable"] == kinds["unanswerable"] == made  # of four words each


@pytest.mark.parametrize("given", [(), (BARE_FACTS, "bare")])
def test_facts_of_a_few_words_hold_their_answer_and_the_others_do_not(given):
    groups = list(short_records(30, np.random.default_rng(0), *given))
    assert len({record.id for group in groups for record in group}) == 90
    assert len(groups) == 60
    for right, wrong in groups[::2]:
        (read,), (misread,) = right.segments, wrong.segments
        assert len(read.passage.text.split()) <= 20 and read.passage == misread.passage
        lead, _, sentence = read.text.partition(". ")
        assert read.answer == lead and sentence in read.passage.text
        assert lead.lower() in sentence.lower()
        other = misread.text.removesuffix(f" {sentence}").rstrip(".").lower()
        assert other not in sentence.lower() and misread.support is Support.NONE
    for (right, _), (refused,) in zip(groups[::2], groups[1::2], strict=True):
        assert refused.instruction == right.instruction
        assert refused.segments[0].relevance is Relevance.IRRELEVANT
        sentence = right.segments[0].text.partition(". ")[2]
        assert refused.segments[0].passage.text != sentence


def test_of_three_claims_about_one_sentence_that_alone_which_it_holds_is_supported():
    made = [record for (record,) in silent_records(30, np.random.default_rng(0))]
    assert len({record.id for record in made}) == 90
    for record in made:
        (segment,) = record.segments
        assert record.instruction == check_instruction(segment.text) and not segment.learn_text
        holds = segment.passage.text == segment.text
        assert holds == record.id.endswith("/claim") == (segment.support is Support.FULL)
        # All three are about the same thing.
        assert segment.text.split()[0] == segment.passage.text.split()[0]


@pytest.mark.parametrize("given", [(), (RELATIONS, "relation")])
def test_of_two_things_with_like_names_the_passage_about_the_other_is_refused(given):
    groups = list(twin_records(40, np.random.default_rng(0), *given))
    assert len(groups) > 30
    for right, refused in groups:
        (read,), (other,) = right.segments, refused.segments
        assert right.instruction == refused.instruction and right.group == refused.group
        lead, _, sentence = read.text.partition(". ")
        assert read.answer == lead and lead in sentence and sentence in read.passage.text
        assert other.relevance is Relevance.IRRELEVANT and lead not in other.passage.text
        name = re.sub("^(The|Lady) ", "", read.passage.text).split()[0]
        assert name in right.instruction and name not in other.passage.text


def test_comparisons_are_of_two_things_of_one_kind_and_quote_both():
    def lead(title, text):
        return Passage(id=title, title=title, text=text)

    leads = [
        lead("Titan", "Titan is a moon of the planet Saturn. It is cold."),
        lead("Europa", "Europa is a moon of the planet Jupiter. It has ice."),
        lead("Quill", "Quill is a town by the sea in the north. It rains."),
        lead("Io", "The largest volcano there is Loki, which is a mountain."),
    ]
    made = list(comparison_records(leads, 20, LongMix(), np.random.default_rng(0)))
    assert len(made) == 20
    for record in made:
        one, other = record.segments
        assert {one.passage.title, other.passage.title} == {"Titan", "Europa"}
        assert one.text in leads[one.passage.title == "Europa"].text
        assert record.instruction.index(one.passage.title) < record.instruction.index(
            other.passage.title
        )
    assert not list(comparison_records(leads[2:], 5, LongMix(), np.random.default_rng(0)))


def test_the_table_counts_kinds_by_set_and_licence(data):
    made = build_mix(data, data.parent, SMALL)
    lines = [line.split(maxsplit=3) for line in table(made).split("\n")]
    assert ["12", "none", "instructions", LICENCES["instructions"]] in lines
    assert sum(int(n) for n, *_ in lines) == len(made)


@pytest.mark.parametrize("share", ["reworded_share", "long_share"])
def test_reworded_groups_keep_all_but_their_question(data, share):
    plain = build_mix(data, data.parent, SMALL)
    other = build_mix(data, data.parent, replace(SMALL, **{share: 1.0}))
    changed = [(a, b) for a, b in zip(plain, other, strict=True) if a != b]
    assert changed
    assert all(replace(b, instruction=a.instruction) == a for a, b in changed)
    assert all(b.segments[0].passage is not None for _, b in changed)
    if share == "long_share":
        assert all(a.instruction in b.instruction for a, b in changed)


def test_half_of_the_questions_lose_their_titles_and_nothing_else(data):
    with_titles = build_mix(data, data.parent, SMALL)
    half = build_mix(data, data.parent, replace(SMALL, untitled_share=0.5))
    none = build_mix(data, data.parent, replace(SMALL, untitled_share=1.0))
    assert none == [untitled(record) for record in with_titles]
    assert {s.passage.title for r in none for s in r.segments if s.passage} == {""}
    bare = [r == untitled(record) for r, record in zip(half, with_titles, strict=True)]
    same = [r == record for r, record in zip(half, with_titles, strict=True)]
    assert all(a or b for a, b in zip(bare, same, strict=True))
    assert not all(bare) and not all(same)


def test_what_is_found_is_parted_by_whether_it_holds_the_answer():
    corpus = {
        "g": Passage(id="g", title="", text="moon orbits saturn"),
        "r": Passage(id="r", title="", text="the moon and saturn"),
        "n": Passage(id="n", title="", text="a moon without a planet"),
    }
    row = {"question": "moon orbits?", "answers": ["Saturn"], "gold_pids": ["g"]}
    (found,) = mine(corpus, [row], depth=3)
    assert found == Mined(negatives=(corpus["n"],), related=(corpus["r"],))
    assert mine(corpus, []) == []


def test_a_set_that_is_not_there_is_named(data):
    with pytest.raises(BadInput, match=r"cannot read the set .* this one as .*absent\.jsonl\.zst"):
        read_set(data, "absent")


def run_mix(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["mix.py", *map(str, arguments)])
    main()


@pytest.mark.parametrize("content", [None, "[mix"], ids=["missing", "broken"])
def test_a_recipe_that_cannot_be_read_is_refused(monkeypatch, tmp_path, content):
    recipe = tmp_path / "recipe.toml"
    if content is not None:
        recipe.write_text(content)
    out = tmp_path / "records.jsonl"
    with pytest.raises(SystemExit, match=f"cannot read the recipe from {recipe}"):
        run_mix(monkeypatch, recipe, "--data", tmp_path, "--out", out)
    assert not out.exists()


def test_the_script_writes_the_records_of_its_recipe(monkeypatch, data, tmp_path, capsys):
    recipe, out = tmp_path / "recipe.toml", tmp_path / "records.jsonl"
    recipe.write_text("[mix]\nn_squad = 3\nn_qed = 0\nn_topics = 1\nseed = 2\n")
    run_mix(monkeypatch, recipe, "--data", data, "--out", out)
    config = MixConfig(n_squad=3, n_qed=0, n_topics=1, seed=2)
    ids = [record.id for record in build_mix(data, tmp_path, config)]
    assert [record.id for record in load_records(out)] == ids and len(ids) > 5
    assert "records to" in capsys.readouterr().out
