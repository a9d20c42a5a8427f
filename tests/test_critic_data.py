"""Critic data from seeds: rows, rejects, report, and what a rerun asks."""

import json

import pytest

from selfrag.annotate.critic import EngineCritic, forks
from selfrag.annotate.critic_data import groups_from, planned_cases, write_critic_data
from selfrag.annotate.judge import AnswerStore, Judge, Prices, estimate
from selfrag.annotate.judgement import Group, relevance_case
from selfrag.annotate.seeds import check_seeds, only_gold
from selfrag.engine.failure import Failure, Reason
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, EngineError
from selfrag.reflection import Relevance, Support
from spoken_teacher import SpokenTeacher

ROWS = [
    {"instruction": "Q1", "output": "A1", "evidence": "p1", "id": "1"},
    {"instruction": "Q1", "output": "A1", "evidence": "p2", "id": "1", "p_idx": 1},
    {"instruction": "Q2"},
    {
        "instruction": "Q3",
        "output": "A3",
        "evidence": "p3",
        "id": "3",
        "labels": {"relevance": "[Irrelevant]", "support": "[Fully supported]"},
    },
]


def seeds():
    return check_seeds(enumerate(ROWS, start=1))


def speak(case):
    words = {
        Group.RETRIEVE: "fact",
        Group.RETRIEVE_SENTENCE: "covered",
        Group.RELEVANCE: "relevant\nExplanation: it helps",
        Group.SUPPORT: "full",
        Group.UTILITY: "4",
    }
    return words[case.group]


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "a.sqlite") as opened:
        yield opened


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_label_is_one_row_in_the_order_of_the_seeds(tmp_path, store):
    out = tmp_path / "c.jsonl"
    report = write_critic_data(seeds(), Judge(SpokenTeacher(speak), store), out)
    rows = lines(out)
    # The second seed shares instruction and answer with the first: only what it adds is asked.
    assert [row["id"] for row in rows] == [
        *(f"1/0/0/{group}" for group in ("retrieve", "utility")),
        *(f"1/0/0/{group}" for group in ("retrieve_sentence", "relevance", "support")),
        *(f"1/0/1/{group}" for group in ("retrieve_sentence", "relevance", "support")),
        *(f"3/0/0/{group}" for group in ("retrieve", "utility")),
        *(f"3/0/0/{group}" for group in ("retrieve_sentence", "relevance", "support")),
    ]
    assert report["repeated"] == 2 and report["labels"] == 13
    assert rows[3] == {
        "instruction": "Decide whether the evidence helps to carry out the instruction.",
        "input": "Task instruction: Q1\nEvidence: p1",
        "output": "[Relevant]",
        "task": "relevance",
        "id": "1/0/0/relevance",
        "group": "relevance",
        "dataset_name": "",
        "fields": {
            "instruction": "Q1",
            "output": None,
            "evidence": "p1",
            "preceding_sentences": None,
        },
        "probs": None,
        "explanation": "it helps",
        "teacher": "spoken",
        "gold": None,
    }


def test_the_report_counts_labels_rejects_cost_and_agreement(tmp_path, store):
    prices = Prices(prompt=1.0, completion=2.0)
    report = write_critic_data(
        seeds(), Judge(SpokenTeacher(speak), store), tmp_path / "c", prices=prices
    )
    assert report["counts"]["utility"] == {
        f"[Utility:{n}]": 2 if n == 4 else 0 for n in range(1, 6)
    }
    assert report["rejects"] == {"read: missing_field": 1}
    # 13 answers of 10 tokens at 1 a million.
    assert report["usage"] == {
        "answers": 13,
        "prompt_tokens": 130,
        "completion_tokens": 0,
        "cost": 0.00013,
    }
    assert (report["agreement"]["relevance"]["share"], report["agreement"]["support"]["share"]) == (
        0.0,
        1.0,
    )
    assert report == json.loads((tmp_path / "c.report.json").read_text())
    (reject,) = lines(tmp_path / "c.rejects.jsonl")
    assert reject["row"] == {"instruction": "Q2"} and reject["stage"] == "read"


def test_kappa_leaves_out_what_chance_agrees_on(tmp_path, store):
    # Gold full full none none, given full full full none: 3 of 4 agree; by chance
    # .5 * .75 + .5 * .25 = .5; kappa (.75 - .5) / (1 - .5) = .5.
    gold = [Support.FULL, Support.FULL, Support.NONE, Support.NONE]
    words = ["full", "full", "full", "none"]
    rows = [
        {
            "instruction": str(n),
            "output": "A",
            "evidence": "p",
            "labels": {"support": label},
            "dataset_name": "last" if n == 3 else "others",
        }
        for n, label in enumerate(gold)
    ]
    teacher = SpokenTeacher(lambda case: words[int(case.instruction)])
    report = write_critic_data(
        check_seeds(enumerate(rows, start=1)),
        Judge(teacher, store),
        tmp_path / "c",
        groups=(Group.SUPPORT,),
    )
    agreement = report["agreement"]["support"]
    assert (agreement["n"], agreement["share"], agreement["kappa"]) == (4, 0.75, 0.5)
    assert agreement["gold_to_label"][Support.NONE][Support.FULL] == 1
    # Wilson's interval of 3 in 4.
    assert agreement["interval"] == [0.3006, 0.9544]
    by_set = report["agreement_by_set"]["support"]
    assert {name: (each["same"], each["n"]) for name, each in by_set.items()} == {
        "others": (2, 3),
        "last": (1, 1),
    }


def test_support_is_also_compared_by_whether_it_is_full(tmp_path, store):
    # Partial for none is no agreement, but both are not full.
    row = {"instruction": "Q", "output": "A", "evidence": "p", "labels": {"support": Support.NONE}}
    report = write_critic_data(
        check_seeds([(1, row)]),
        Judge(SpokenTeacher(lambda case: "partial"), store),
        tmp_path / "c",
        groups=(Group.SUPPORT,),
    )
    agreement = report["agreement"]["support"]
    assert (agreement["share"], agreement["share_full_or_not"]) == (0.0, 1.0)


def test_gold_takes_the_labels_that_the_rows_bring(tmp_path):
    out = tmp_path / "c.jsonl"
    write_critic_data(only_gold(seeds()), None, out)
    assert [(row["id"], row["output"], row["teacher"]) for row in lines(out)] == [
        ("3/0/0/relevance", "[Irrelevant]", "gold"),
        ("3/0/0/support", "[Fully supported]", "gold"),
    ]


def test_a_gold_label_counts_also_where_an_earlier_row_asks_the_same_without_one(tmp_path):
    rows = [
        {"instruction": "Q", "output": "A", "labels": {"utility": "[Utility:4]"}},
        {"instruction": "Q", "output": "A", "labels": {"retrieve": "[Retrieval]"}},
    ]
    write_critic_data(only_gold(check_seeds(enumerate(rows, 1))), None, tmp_path / "c.jsonl")
    labels = [row["output"] for row in lines(tmp_path / "c.jsonl")]
    assert labels == ["[Utility:4]", "[Retrieval]"]


def test_what_has_no_label_is_a_reject_and_a_rerun_asks_only_what_was_not_answered(tmp_path, store):
    down = Failure(reason=Reason.SERVER_ERROR, detail="oops")

    def half_down(case):
        if case.group is Group.UTILITY:
            return down
        return "I'm sorry, I can't." if case.group is Group.SUPPORT else speak(case)

    out = tmp_path / "c.jsonl"
    teacher = SpokenTeacher(half_down)
    report = write_critic_data(seeds(), Judge(teacher, store), out)
    assert report["rejects"] == {
        "ask: server_error": 2,
        "parse: refusal": 3,
        "read: missing_field": 1,
    }
    refused = next(r for r in lines(tmp_path / "c.jsonl.rejects.jsonl") if r["stage"] == "parse")
    assert refused["row"]["answer"] == "I'm sorry, I can't." and refused["id"] == "1/0/0/support"
    again = SpokenTeacher(speak)
    report = write_critic_data(seeds(), Judge(again, store), out)
    assert {case.group for case in again.asked} == {Group.UTILITY}
    assert report["rejects"] == {"parse: refusal": 3, "read: missing_field": 1}


def test_an_estimate_counts_only_what_is_not_stored(tmp_path, store):
    teacher = SpokenTeacher(speak)
    judge = Judge(teacher, store)
    before = estimate(judge, planned_cases(seeds()))
    assert (before.calls, before.stored, before.prompt_tokens) == (13, 0, 26)
    write_critic_data(seeds(), judge, tmp_path / "c", groups=(Group.RETRIEVE,))
    after = estimate(judge, planned_cases(seeds()))
    assert (after.calls, after.stored) == (11, 2)
    assert "cost about 0.0000" in after.sentence(Prices(prompt=1.0, completion=1.0))


def test_when_nothing_can_be_used_the_error_names_the_commonest_reason(tmp_path, store):
    down = Failure(reason=Reason.UNAUTHORISED, detail="no")
    out = tmp_path / "c.jsonl"
    with pytest.raises(EngineError, match="unauthorised"):
        write_critic_data(seeds(), Judge(SpokenTeacher(lambda c: down), store), out)
    assert not out.exists() and (tmp_path / "c.jsonl.rejects.jsonl").exists()
    with pytest.raises(BadInput, match="missing_field"):
        write_critic_data(check_seeds([(1, {})]), None, out)
    with pytest.raises(BadInput, match="there is none of that name"):
        groups_from(["mood"])


def critic_on(script, tokenizer=None):
    tokenizer = tokenizer or ScriptedTokenizer()
    engine = ScriptedEngine(tokenizer, script)
    return EngineCritic(engine, name="critic", identity="x"), engine


def test_an_engine_critic_reads_label_probabilities_at_the_place_of_the_label(store):
    script = {Relevance.RELEVANT: 0.6, Relevance.IRRELEVANT: 0.2}
    critic, engine = critic_on(lambda prompt: say(script))
    (judgement,) = Judge(critic, store).judge([relevance_case("Q", "p")])
    assert judgement.label is Relevance.RELEVANT and judgement.prob == pytest.approx(0.75)
    (request,) = engine.calls[0]
    assert request.max_new_tokens == 1 and len(request.watch_ids) == 2


class TextTokenizer(ScriptedTokenizer):
    """Without reflection tokens: labels are text, `[` `Relevant` `]` and so on."""

    def token_to_id(self, token):
        if token.startswith("["):
            raise KeyError(token)
        return super().token_to_id(token)


def test_an_engine_critic_without_tokens_multiplies_over_the_forks(store):
    tokenizer = TextTokenizer()
    case = relevance_case("Q", "p")
    critic, engine = critic_on(
        lambda prompt: say({"Relevant": 0.3, "Irrelevant": 0.1, "x": 0.6}), tokenizer
    )
    (judgement,) = Judge(critic, store).judge([case])
    # Only after "[" do they part: .3 against .1.
    assert judgement.prob == pytest.approx(0.75)
    (request,) = engine.calls[0]
    assert tokenizer.decode(request.suffix_ids) == "["


def test_labels_part_at_every_place_where_their_spellings_differ():
    found = forks({"a": [1, 2, 3], "b": [1, 2, 4], "c": [5]})
    assert [(fork.written, dict(fork.nexts)) for fork in found] == [
        ((), {1: frozenset("ab"), 5: frozenset("c")}),
        ((1, 2), {3: frozenset("a"), 4: frozenset("b")}),
    ]
    with pytest.raises(ValueError, match="beginning of another"):
        forks({"a": [1], "b": [1, 2]})


def test_how_many_seeds_are_asked_together_changes_no_byte(tmp_path):
    # Seeds that cannot be read, and answers without a label, become rejects in the order of rows.
    unlabelled = SpokenTeacher(lambda case: "?" if case.group is Group.SUPPORT else speak(case))
    rows = [ROWS[0], {"instruction": ""}, ROWS[3], {"instruction": ""}]
    found = []
    for window in (1, 64):
        out = tmp_path / f"{window}.jsonl"
        with AnswerStore(tmp_path / f"{window}.sqlite") as own:
            seeds = check_seeds(enumerate(rows, start=1))
            write_critic_data(seeds, Judge(unlabelled, own), out, window=window)
        rejects = out.with_name(out.name + ".rejects.jsonl")
        found.append((out.read_bytes(), rejects.read_bytes()))
        assert [row["stage"] for row in lines(rejects)] == ["parse", "read", "parse", "read"]
    assert found[0] == found[1]
