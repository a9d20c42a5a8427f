"""Closed sets that no candidate names: the likelihood of each choice, by hand."""

import pytest

from selfrag.decode.answer import answer_questions, answer_to_json, collect_answers
from selfrag.decode.config import SearchConfig
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Passage
from selfrag.retrieval.base import GivenPassages
from selfrag.trace.file import load_trace, save_trace

ASK = "### Instruction:\nQ\n\n### Response:\n"
PRIOR = "### Instruction:\n\n\n### Response:\n[No Retrieval]"  # no question and no passage
READS = [f"{ASK}[Retrieval]<paragraph>T{n}\ntext {n}</paragraph>" for n in range(2)]
PASSAGES = [Passage(id=f"p{n}", title=f"T{n}", text=f"text {n}") for n in range(2)]
BESIDE = ("Beside the point.", "[Utility:1]", "</s>")


def answer(table, passages=PASSAGES, **options):
    """The answer to "Q", with what was asked of the model."""
    told = []
    engine = ScriptedEngine(ScriptedTokenizer(), table)
    (given,) = answer_questions(
        ["Q"],
        engine=engine,
        retriever=GivenPassages(passages),
        config=SearchConfig(max_segments=1, **options),
        on_event=told.append,
    )
    return given, engine, told


def silent(relevance=(0.8, 0.2)):
    """Two passages, after which the model names neither true nor false."""
    table = {ASK: say({"[Retrieval]": 0.9, "[No Retrieval]": 0.1})}
    table[PRIOR] = say({"true": 0.2, "false": 0.2})
    for read, share in zip(READS, relevance, strict=True):
        table[read] = say({"[Relevant]": share, "[Irrelevant]": 1 - share}, *BESIDE)
    table[f"{READS[0]}[Relevant]"] = say({"false": 0.3, "true": 0.1})
    table[f"{READS[1]}[Relevant]"] = say({"true": 0.4, "false": 0.1})
    return table


def test_shares_of_the_passages_are_averaged_by_their_relevance():
    given, _, _ = answer(silent(), choices=("true", "false"))
    # true: .8 * .1 / .4 + .2 * .4 / .5 = .36; false: .8 * .3 / .4 + .2 * .1 / .5 = .64.
    assert given.choices == pytest.approx({"true": 0.36, "false": 0.64})
    assert (given.text, list(given.choices)) == ("false", ["false", "true"])
    assert given.choices_rated and answer_to_json(given)["choices_rated"] is True
    assert given.verdict.startswith("chosen by likelihood")


def test_what_is_likely_whatever_is_asked_is_divided_out():
    table = silent()
    table[PRIOR] = say({"false": 0.4, "true": 0.1})
    given, _, _ = answer(table, choices=("true", "false"))
    # true and false: .1 / .1 and .3 / .4, a share of 4/7; .4 / .1 and .1 / .4, of 16/17.
    assert given.choices["true"] == pytest.approx(0.8 * 4 / 7 + 0.2 * 16 / 17)
    assert given.text == "true" and sum(given.choices.values()) == pytest.approx(1)


def test_a_choice_of_several_tokens_has_the_product_of_their_probabilities():
    table = silent(relevance=(0.8, 0.8))
    start = f"{READS[0]}[Relevant]"
    table[start] = say({"not": 0.5, "so": 0.2})
    table[f"{start}not"] = say({" ": 0.5})
    table[f"{start}not "] = say({"so": 0.4})
    table[PRIOR] = say({"not": 0.5, "so": 0.25})
    table[f"{PRIOR}not"] = say({" ": 0.5})
    table[f"{PRIOR}not "] = say({"so": 1.0})
    given, _, _ = answer(table, passages=PASSAGES[:1], choices=("not so", "so"))
    # not so: .5 * .5 * .4 = .1; so: .2.
    assert given.choices == pytest.approx({"so": 2 / 3, "not so": 1 / 3})


def test_without_a_passage_the_choice_follows_the_decision():
    table = {
        PRIOR: say({"true": 0.3, "false": 0.3}),
        ASK: say({"[No Retrieval]": 0.9, "[Retrieval]": 0.1}),
        f"{ASK}[No Retrieval]": say({"maybe": 0.5, "true": 0.4, "false": 0.1}, *BESIDE),
    }
    given, _, _ = answer(table, choices=("true", "false"))
    assert given.choices == pytest.approx({"true": 0.8, "false": 0.2})


def test_passages_that_are_all_irrelevant_count_alike():
    table = silent(relevance=(1e-9, 1e-9))
    given, _, _ = answer(table, choices=("true", "false"))
    # (.25 + .8) / 2 and (.75 + .2) / 2
    assert given.choices == pytest.approx({"true": 0.525, "false": 0.475})


def test_what_a_candidate_names_is_not_rated():
    table = silent()
    table[READS[1]] = say("[Relevant]", "True.", "[Fully supported]", "[Utility:5]", "</s>")
    given, engine, _ = answer(table, choices=("true", "false"))
    assert given.text == "true" and not given.choices_rated
    assert len(engine.calls) == 2  # the gate and the candidates


@pytest.mark.parametrize("more", [2, 3])
def test_choices_are_not_rated_beyond_the_budget(more):
    free, _, _ = answer(silent())
    given, _, _ = answer(silent(), choices=("true", "false"), max_tokens=free.usage.n_tokens + more)
    # One token after each of two passages, and one without, tells of both choices.
    assert given.choices_rated is (more == 3)
    assert given.usage.n_tokens == free.usage.n_tokens + (3 if more == 3 else 0)


def test_a_withheld_answer_is_not_rated():
    given, _, _ = answer(silent(), choices=("true", "false"), min_support=0.5)
    assert given.abstained and given.choices == {} and not given.choices_rated


def test_a_replay_answers_alike(tmp_path):
    config = SearchConfig(max_segments=1, choices=("true", "false"))
    given, _, told = answer(silent(), choices=("true", "false"))
    save_trace(tmp_path / "t", ["Q"], told, config=config)
    trace = load_trace(tmp_path / "t")
    (again,) = collect_answers(trace.texts, trace.events, configs=[config])
    assert answer_to_json(again) == answer_to_json(given)
