"""A teacher's liking for a label is divided out; what it tells rows apart by stays."""

import json

import pytest

from selfrag.annotate.critic_data import judged_shares, label_shares, rebalance, write_critic_data
from selfrag.annotate.judge import AnswerStore, Judge
from selfrag.annotate.judgement import Answer, Group, Judgement, relevance_case, utility_case
from selfrag.annotate.seeds import check_seeds
from selfrag.reflection import Relevance
from spoken_teacher import SpokenTeacher


def judged(prob_relevant, question="Q"):
    probs = (("[Irrelevant]", 1 - prob_relevant), ("[Relevant]", prob_relevant))
    case = relevance_case(question, "p")
    return Judgement(case=case, by="t", label=Relevance.IRRELEVANT, probs=probs)


def test_the_likeliest_label_is_that_above_its_mean():
    # Means .75 and .25. The second row: .6 / .75 = .8 against .4 / .25 = 1.6, so 1/3 and 2/3.
    rows = [judged(0.1), judged(0.4)]
    shares = label_shares(rows)
    assert shares[Group.RELEVANCE] == pytest.approx({"[Irrelevant]": 0.75, "[Relevant]": 0.25})
    first, second = (rebalance(row, shares) for row in rows)
    assert (first.label, second.label) == (Relevance.IRRELEVANT, Relevance.RELEVANT)
    assert dict(second.probs) == pytest.approx(
        {"[Irrelevant]": 1 / 3, "[Relevant]": 2 / 3}, abs=1e-6
    )


def test_without_probabilities_a_label_stays():
    bare = Judgement(case=utility_case("Q", "A"), by="t", label=None)
    assert rebalance(bare, label_shares([judged(0.2)])) is bare
    assert label_shares([bare]) == {}


class UnsureTeacher(SpokenTeacher):
    """Prefers irrelevant; says by the question how much."""

    def ask(self, cases):
        for index, (_, answer) in enumerate(super().ask(cases)):
            prob = float(answer.text)
            probs = (("[Irrelevant]", 1 - prob), ("[Relevant]", prob))
            yield index, Answer(text="irrelevant", probs=probs, prompt_tokens=1)


def test_data_are_labelled_by_it_and_nothing_is_asked_twice(tmp_path):
    rows = [
        {"instruction": str(prob), "output": "A", "evidence": "p"} for prob in (0.1, 0.2, 0.3, 0.4)
    ]
    teacher = UnsureTeacher(lambda case: case.instruction)
    groups = (Group.RELEVANCE,)

    def seeds():
        return check_seeds(enumerate(rows, start=1))

    with AnswerStore(tmp_path / "answers.sqlite") as store:
        judge = Judge(teacher, store)
        shares = judged_shares(seeds(), judge, groups=groups)
        report = write_critic_data(seeds(), judge, tmp_path / "c", groups=groups, shares=shares)
    assert len(teacher.asked) == 4
    labels = [json.loads(line)["output"] for line in (tmp_path / "c").read_text().splitlines()]
    assert labels == ["[Irrelevant]"] * 2 + ["[Relevant]"] * 2
    assert report["shares"]["relevance"] == {"[Irrelevant]": 0.75, "[Relevant]": 0.25}
