"""FActScore by hand: facts, knowledge, the penalty for short answers, and what is kept."""

import json
import math

import pytest

from eval_parts import cited, hit, output, question, record
from selfrag.engine.chat import EngineModel, Reply
from selfrag.errors import BadInput
from selfrag.evaluate.attribution import Claim
from selfrag.evaluate.judges import (
    ModelJudge,
    Searched,
    facts_in,
    judge_facts,
    passages_read,
    penalty,
)
from selfrag.evaluate.metrics import is_share
from selfrag.evaluate.record import RECORDS, Record
from selfrag.evaluate.summary import load_judged
from selfrag.retrieval.base import FixedRetriever

pytest.importorskip("scipy")
PASSAGES = (hit("Ann was born in Rome", rank=1), hit("Ann is a painter", rank=2))


def life(n, *sentences, passages=PASSAGES, abstained=False, topic="Ann"):
    asked = question(id=f"q{n}", row=n + 1, text=topic, topic=topic)
    said = output(
        " ".join(sentences),
        sentences=cited(*((text, [1]) for text in sentences)),
        passages=passages,
        abstained=abstained,
    )
    return Record(n=n, question=asked, output=said)


class Holds:
    """A fact is known where a line of the premise is that fact; keeps what it was asked."""

    name = "holds"

    def __init__(self):
        self.asked = []

    def judge(self, claims):
        self.asked += claims
        return [float(c.hypothesis.rstrip(".") in c.premise.split("\n")) for c in claims]


class Lists(Holds):
    """Lists what stands between semicolons; keeps the sentences that it was given."""

    name = "lists"

    def __init__(self):
        super().__init__()
        self.cut = []

    def list_facts(self, topic, sentences):
        self.cut += [(topic, sentence) for sentence in sentences]
        return ["\n".join(f"- {part.strip()}" for part in text.rstrip(".").split(";")[1:])
                for text in sentences]  # fmt: skip


def judged(folder, records, judge, knowledge=passages_read):
    (folder / RECORDS).touch()
    return judge_facts(folder, records, judge, knowledge, known_from="read")


def test_a_sentence_is_a_fact_where_the_judge_does_not_write(tmp_path):
    records = [
        life(0, "Ann was born in Rome.", "Ann is a sailor."),  # one of two
        life(1, "Ann is a painter."),  # one of one
    ]
    found = judged(tmp_path, records, Holds())
    # e^(1 - 10/2) and e^(1 - 10/1) times the shares
    assert found.values == {
        "factscore_sentences@holds:read": {"q0": 0.5, "q1": 1.0},
        "factscore_sentences_penalised@holds:read": {
            "q0": pytest.approx(0.5 * math.exp(-4)),
            "q1": pytest.approx(math.exp(-9)),
        },
        "facts@holds:read": {"q0": 2.0, "q1": 1.0},
    }
    assert load_judged(tmp_path) == found.values
    assert (found.n_sentences, found.n_whole) == (3, 0)


def test_facts_that_a_judge_lists_are_judged_one_by_one(tmp_path):
    records = [life(0, "x; Ann is a painter; Ann is a sailor; Ann was born in Rome; Ann is old.")]
    found = judged(tmp_path, records, Lists())
    assert found.values["factscore@lists:read"] == {"q0": 0.5}  # two of four
    assert found.values["facts@lists:read"] == {"q0": 4.0}


@pytest.mark.parametrize(
    ("n_facts", "factor"),
    [(1, math.exp(-9)), (5, math.exp(-1)), (9, math.exp(-1 / 9)), (10, 1.0), (30, 1.0)],
)
def test_the_penalty_of_short_answers(n_facts, factor):
    assert penalty(n_facts) == pytest.approx(factor)


def test_answers_that_say_nothing_have_no_score(tmp_path):
    records = [life(0, "Ann is a painter."), life(1, "Ann.", abstained=True), life(2)]
    failed = Record(n=3, question=life(3).question, error="no engine")
    found = judged(tmp_path, [*records, failed], Holds())
    assert found.values["factscore_sentences@holds:read"] == {"q0": 1.0}


def test_a_sentence_that_is_not_cut_counts_as_one_fact_and_is_counted(tmp_path):
    found = judged(tmp_path, [life(0, "Ann is a painter.", "x; Ann is old.")], Lists())
    assert found.values["factscore@lists:read"] == {"q0": 0.5}
    assert (found.n_sentences, found.n_whole) == (2, 1)


def test_what_was_asked_is_kept_and_not_asked_again_even_after_a_torn_line(tmp_path):
    records = [life(0, "x; Ann is a painter.", "y; Ann is old.")]
    first, again, mended = Lists(), Lists(), Lists()
    values = judged(tmp_path, records, first).values
    assert len(first.cut) == 2 and len(first.asked) == 2
    assert judged(tmp_path, records, again).values == values
    assert again.cut == [] and again.asked == []
    kept = tmp_path / "facts-lists.jsonl"
    kept.write_bytes(kept.read_bytes()[:-5])
    assert judged(tmp_path, records, mended).values == values
    assert mended.cut == [("Ann", "y; Ann is old.")] and mended.asked == []


def test_knowledge_can_be_searched_for_by_topic_and_fact(tmp_path):
    fact = "Ann is a painter."
    retriever = FixedRetriever({f"Ann {fact}": [hit("Ann is a painter", name="p")]})
    records = [life(0, fact, passages=())]
    judge = Holds()
    found = judged(tmp_path, records, judge, Searched(retriever))
    assert found.values["factscore_sentences@holds:read"] == {"q0": 1.0}
    assert judge.asked[0].premise == "Title: T\nAnn is a painter"


def test_facts_of_which_nothing_is_known_are_not_supported_and_not_asked(tmp_path):
    judge = Holds()
    found = judged(tmp_path, [life(0, "Ann is old."), life(1, "Ann is old.", passages=())], judge)
    assert found.values["factscore_sentences@holds:read"] == {"q0": 0.0, "q1": 0.0}
    assert len(judge.asked) == 1


def test_a_run_without_topics_or_without_any_knowledge_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"its questions have no topics; .* task biographies"):
        judged(tmp_path, [record(0, "a.")], Holds())
    with pytest.raises(BadInput, match=r"read no passages, .* give --knowledge INDEX"):
        judged(tmp_path, [life(0, "Ann is old.", passages=())], Holds())


@pytest.mark.parametrize(
    ("reply", "facts"),
    [
        ("- One.\n- Two.\n", ("One.", "Two.")),
        ("Facts:\n  * One.\n\u2022 Two.\n- One.\n-\n- ", ("One.", "Two.")),
        ("He was born in Rome.", ()),
        ("", ()),
    ],
)
def test_lists_are_read_as_models_write_them(reply, facts):
    assert facts_in(reply) == facts


def test_facts_are_counted_and_the_others_are_shares():
    assert not is_share("facts@issup-x:read")
    assert is_share("factscore@issup-x:read") and is_share("match_released")


class Echo(EngineModel):
    """Replies with the end of the prompt."""

    def __init__(self):
        self.prompts = []

    def complete(self, prompts, max_new_tokens):
        self.prompts += prompts
        return [Reply(text=prompt.text[-60:], n_tokens=1) for prompt in prompts]


def test_a_model_is_shown_topic_and_sentence_as_they_stand():
    model = Echo()
    replies = ModelJudge(model, chat=False).list_facts("{sentence} Ann", ["She is {topic}."])
    assert not model.prompts[0].chat
    assert json.dumps(replies[0]).count("She is {topic}.") == 1


class Reads(EngineModel):
    """Says yes with .75, and keeps the prompts."""

    def __init__(self):
        self.prompts = []

    def rate(self, prompts, labels):
        self.prompts += prompts
        return [[0.75, 0.25] for _ in prompts]


def test_what_is_judged_is_put_into_the_prompt_as_it_stands():
    model = Reads()
    claim = Claim(question="q", premise="He said {hypothesis}.", hypothesis="It is {premise}.")
    assert ModelJudge(model).judge([claim]) == [0.75]
    assert (
        "Passage:\nHe said {hypothesis}.\n\nStatement: It is {premise}.\n" in model.prompts[0].text
    )
