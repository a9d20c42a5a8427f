"""What an answer's scores mean: features by hand, live as recorded, abstention, foreign files."""

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from random_model import RandomModel, RandomRetriever
from scripted_rag import scripted_rag
from selfrag.api import SelfRAG
from selfrag.cli.app import app
from selfrag.decode.answer import answer_questions, answer_to_json, collect_answers
from selfrag.decode.calibration import (
    FEATURES,
    Calibration,
    Features,
    Quality,
    features_of,
    load_calibration,
)
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import CandidateEvent, FinishEvent
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, ConfigError
from selfrag.files import write_json
from selfrag.open import calibrations
from selfrag.open.engines import DEFAULT, ModelOptions, adapter_dir
from selfrag.open.grounding import grounding_of
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import FixedRetriever
from selfrag.trace.candidates import recorded_questions
from selfrag.trace.file import load_trace, save_trace

END = "</s>"
QUALITY = Quality(n=100, ece_before=0.3, ece_after=0.04, accuracy=())
ZERO = dict.fromkeys(FEATURES, 0.0)


def calibration(intercept=0.0, *, model="scripted", **coefficients):
    return Calibration(
        model=model,
        intercept=intercept,
        coefficients=Features(**{**ZERO, **coefficients}),
        targets=(),
        quality=QUALITY,
    )


def planets():
    """Titan's own article says Saturn; another passage, found second, says Neptune.

    A third says Saturn in other words, a fourth has nothing to do with it.
    """
    texts = ("Titan orbits Saturn.", "Neptune has moons.", "Saturn and Titan.", "Oaks grow.")
    scores = (20.0, 10.0, 8.0, 5.0)
    found = [
        Hit(passage=Passage(id=f"p{n}", title=f"T{n}", text=text), score=score, rank=n + 1)
        for n, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]

    def judged(relevance, text, support, utility=0.5):
        return say(
            {"[Relevant]": relevance, "[Irrelevant]": 1 - relevance},
            text,
            {"[Fully supported]": support, "[No support / Contradictory]": 1 - support},
            {"[Utility:5]": (1 + utility) / 2, "[Utility:1]": (1 - utility) / 2},
            END,
        )

    head = "### Instruction:\nQ\n\n### Response:\n"
    table = {head: say({"[Retrieval]": 0.9, "[No Retrieval]": 0.1})}
    for hit, written in zip(
        found,
        (
            judged(0.9, "Saturn.", 0.8),
            judged(0.8, "Neptune.", 0.75),
            judged(0.6, "Saturn. It does.", 0.7),
            say({"[Irrelevant]": 0.9, "[Relevant]": 0.1}, "Oak.", END),
        ),
        strict=True,
    ):
        passage = hit.passage
        table[f"{head}[Retrieval]<paragraph>{passage.title}\n{passage.text}</paragraph>"] = written
    return ScriptedEngine(ScriptedTokenizer(), table), FixedRetriever({"Q": found})


def ask(found=None, **options):
    engine, retriever = planets()
    events = []
    (answer,) = answer_questions(
        ["Q"],
        engine=engine,
        retriever=retriever,
        config=SearchConfig(**options),
        calibration=found,
        on_event=events.append,
    )
    return answer, events


def test_the_features_of_an_answer_by_hand():
    answer, events = ask()
    (finish,) = (event for event in events if isinstance(event, FinishEvent))
    written = [event.node for event in events if isinstance(event, CandidateEvent)]
    found = features_of(finish.best, written)
    assert answer.text == "Saturn."
    assert found is not None
    # The best other answer is Neptune's, 0.8 * 0.75 = 0.6; "Saturn. It does." gives the same one,
    # and "Oak." was judged to have no support at all, which counts 0.
    assert found.margin == pytest.approx(0.9 * 0.8 - 0.8 * 0.75)
    assert found.relevance == pytest.approx(math.log(9))  # the log-odds of 0.9
    assert found.support == pytest.approx(0.8)
    assert found.utility == pytest.approx(0.5, abs=1e-6)
    assert found.retrieval == 0.0  # of the best hit
    assert found.sequence == pytest.approx((0.9 * 0.8 * 0.75) ** (1 / 6))


@pytest.mark.parametrize(
    ("relevance", "log_odds"),
    [(0.5, 0.0), (0.0, -9.21024), (1.0, 9.21024), (1e-9, -9.21024), (None, 0.0)],  # ln 9999
)
def test_the_log_odds_of_relevance_are_bounded(relevance, log_odds):
    _, events = ask()
    written = [event.node for event in events if isinstance(event, CandidateEvent)]
    segment = written[0].segment
    scores = replace(segment.scores, relevance=relevance)
    read = replace(written[0], segment=replace(segment, scores=scores))
    found = features_of(read, [read, *written[1:]])
    assert found is not None
    assert found.relevance == pytest.approx(log_odds, abs=1e-5)


def test_the_retriever_and_a_margin_may_be_negative():
    _, events = ask()
    written = [event.node for event in events if isinstance(event, CandidateEvent)]
    found = features_of(written[1], written)
    assert found is not None
    assert found.retrieval == -0.5
    assert found.margin == pytest.approx(0.8 * 0.75 - 0.9 * 0.8)


def test_one_passage_says_nothing_of_other_answers():
    _, events = ask(top_k=1)
    (written,) = (event.node for event in events if isinstance(event, CandidateEvent))
    assert features_of(written, [written]) is None
    assert ask(calibration(), top_k=1)[0].probability is None


def test_a_probability_by_hand():
    # Relevance 0.9 is log-odds ln 9: 1 + 2 ln 9 - 4 * 0.12 = ln 81 + 0.52, odds of 136.243 to 1.
    answer, _ = ask(calibration(1.0, relevance=2.0, margin=-4.0))
    assert answer.probability == pytest.approx(136.243 / 137.243, abs=1e-6)
    assert answer.verdict == "99% likely to be right: fully supported"
    assert answer_to_json(answer)["probability"] == answer.probability
    # Odds of e^-4: a passage that carries the answer does not make it right.
    doubtful, _ = ask(calibration(-4.0))
    assert doubtful.verdict == "2% likely to be right, though fully supported"


def test_without_a_calibration_all_is_as_before():
    answer, _ = ask()
    assert answer.probability is None
    assert answer.verdict == "fully supported (0.80)"


finite = st.floats(-1e6, 1e6)


@given(
    intercept=finite,
    rows=st.tuples(*[st.tuples(st.floats(-50, 50), st.floats(-1, 1), st.floats(-1, 1))] * 6),
)
def test_a_probability_is_between_0_and_1_and_moves_with_each_coefficient(intercept, rows):
    coefficients = {name: row[0] for name, row in zip(FEATURES, rows, strict=True)}
    found = calibration(intercept, **coefficients)
    here = {name: row[1] for name, row in zip(FEATURES, rows, strict=True)}
    before = found.probability(Features(**here))
    assert 0.0 < before < 1.0
    for name, (coefficient, old, new) in zip(FEATURES, rows, strict=True):
        after = found.probability(Features(**{**here, name: new}))
        assert (after - before) * coefficient * (new - old) >= 0.0


def test_a_probability_shown_is_never_certain():
    assert ask(calibration(30.0))[0].verdict.startswith("99% likely to be right")
    assert ask(calibration(-30.0))[0].verdict.startswith("1% likely to be right")


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    weights=st.tuples(*[st.floats(-5, 5)] * 6),
    options=st.fixed_dictionaries(
        {
            "max_segments": st.integers(1, 3),
            "beam_width": st.integers(1, 9),
            "drop_unsupported": st.booleans(),
            "with_no_retrieval": st.booleans(),
            "min_probability": st.none() | st.floats(0, 1),
        }
    ),
)
def test_a_probability_is_the_same_live_replayed_and_from_the_recorded_nodes(
    tmp_path_factory, seed, weights, options
):
    path = tmp_path_factory.mktemp("traces") / "t"
    found = calibration(0.5, **dict(zip(FEATURES, weights, strict=True)))
    config = SearchConfig(threshold=0.0, **options)
    events = []
    answers = answer_questions(
        ["Q one", "Q two"],
        engine=RandomModel(seed).engine,
        retriever=RandomRetriever(),
        config=config,
        calibration=found,
        on_event=events.append,
    )
    save_trace(path, ["Q one", "Q two"], events, config=config)
    trace = load_trace(path)
    again = collect_answers(trace.texts, trace.events, configs=trace.configs)
    assert list(map(answer_to_json, again)) == list(map(answer_to_json, answers))
    ended = [event for event in trace.events if isinstance(event, FinishEvent)]
    finishes = sorted(ended, key=lambda event: event.question)
    for recorded, finish, answer in zip(recorded_questions(trace), finishes, answers, strict=True):
        best = next(iter(finish.beam), finish.best)
        assert found.probability_of(best, recorded.first_level) == answer.probability
        bound = config.min_probability
        if bound is not None and best.path and best.path[-1].hits:
            assert answer.abstained == (answer.probability is None or answer.probability < bound)


def test_what_is_less_probable_is_withheld_with_its_evidence():
    found = calibration(0.0)  # everything is as likely as not
    said, _ = ask(found, min_probability=0.5)
    withheld, _ = ask(found, min_probability=0.51)
    assert (said.abstained, said.text) == (False, "Saturn.")
    assert (withheld.abstained, withheld.text) == (True, "")
    assert withheld.verdict == (
        "no answer: the best one is 50% likely to be right, and 51% is asked for; the best "
        "evidence is shown"
    )
    assert [hit.passage.id for hit in withheld.passages] == ["p0"]
    assert withheld.probability == 0.5


def test_what_nothing_is_known_of_is_withheld_too():
    answer, _ = ask(calibration(9.0), min_probability=0.1, top_k=1)
    assert answer.abstained
    assert "nothing tells how probable the best one is" in answer.verdict


def test_answers_without_passages_are_not_withheld():
    rag = scripted_rag()
    config = SearchConfig(min_probability=0.99)
    with SelfRAG(rag.engine, rag.retriever, config=config, calibration=calibration(-9.0)) as rag:
        assert rag.ask("Hello").text == "Good day."
        assert rag.ask("How old is the harbour?").abstained


def test_a_bound_without_a_calibration_is_refused_before_the_model_is_asked():
    with pytest.raises(ConfigError, match=r"min_probability 0\.5: nothing says .* --calibration"):
        ask(min_probability=0.5)


def test_a_bound_on_a_closed_set_is_refused():
    with pytest.raises(ConfigError, match="does not speak of closed sets"):
        SearchConfig(min_probability=0.5, choices=("yes", "no"))
    answer, _ = ask(calibration(), choices=("saturn", "neptune"))
    assert answer.probability is None


def test_the_least_supported_reason_stays_where_support_withholds():
    answer, _ = ask(calibration(9.0), min_probability=0.5, min_support=0.95)
    assert answer.verdict == ("no answer: nothing was supported enough; the best evidence is shown")


def test_a_file_holds_all_of_a_calibration(tmp_path):
    found = calibration(-1.5, sequence=11.25)
    write_json(tmp_path / "c.json", found)
    assert load_calibration(tmp_path / "c.json") == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "it has format 1, and this version reads 2"),
        ({"bias": 1.0}, "it has an unknown field 'bias'"),
        ({"coefficients": {**ZERO, "length": 1.0}}, "unknown field 'coefficients.length'"),
        ({"coefficients": {"margin": 1.0}}, "missing required field"),
        ({"intercept": "high"}, "Expected `float`"),
        ({"intercept": float("nan")}, "it holds NaN, which is no number"),
        ({"intercept": float("inf")}, "it holds Infinity, which is no number"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_sentence(tmp_path, change, message):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**asdict(calibration()), **change}), encoding="utf-8")
    with pytest.raises(BadInput, match=r"cannot read a calibration from .*; expected what") as told:
        load_calibration(path)
    assert message in str(told.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 9999, "\x00"])
def test_any_other_content_is_refused(tmp_path, content):
    (tmp_path / "c.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match="cannot read a calibration from"):
        load_calibration(tmp_path / "c.json")


def test_a_number_that_overflows_is_refused(tmp_path):
    text = json.dumps({**asdict(calibration()), "intercept": 7.25}).replace("7.25", "1e999")
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="it holds 1e999, which is no number"):
        load_calibration(tmp_path / "c.json")


def test_a_missing_file_is_told():
    with pytest.raises(BadInput, match="cannot read a calibration from"):
        load_calibration(adapter_dir() / "none.json")


def test_a_calibration_of_other_weights_is_refused(tmp_path):
    write_json(tmp_path / "c.json", calibration(model="another"))
    options = ModelOptions(model=str(tmp_path), calibration=str(tmp_path / "c.json"))
    with pytest.raises(BadInput, match=r"fitted for another, but the model is .*calibrate"):
        calibrations.open_calibration(options)
    write_json(tmp_path / "c.json", calibration(model=tmp_path.name))
    assert calibrations.open_calibration(options) == calibration(model=tmp_path.name)


def test_the_default_weights_ship_with_their_own():
    found = calibrations.open_calibration(ModelOptions())
    assert found is not None
    assert found.model == calibrations.weights_name(ModelOptions(model=DEFAULT))
    assert found.quality.n >= 400
    assert found.quality.ece_after < found.quality.ece_before


def test_other_models_have_none_unless_it_is_named(tmp_path):
    assert calibrations.open_calibration(ModelOptions(model=str(tmp_path))) is None


def test_ours_is_not_used_for_other_weights(monkeypatch, tmp_path, caplog):
    write_json(tmp_path / "calibration.json", calibration(model="older"))
    monkeypatch.setattr(calibrations, "adapter_dir", lambda: tmp_path)
    assert calibrations.open_calibration(ModelOptions()) is None
    assert "was fitted for other weights and is not used" in caplog.text


def test_whoever_writes_the_weights_judge_by_their_own_constants():
    written = ModelOptions(writer="http://127.0.0.1:9/v1#other")
    assert grounding_of(written) == grounding_of(ModelOptions())
    assert grounding_of(written).is_fitted


def test_options_about_passages_are_refused_where_none_is_read():
    for option in (["--min-probability", "0.5"], ["--calibration", "c.json"]):
        with pytest.raises(BadInput, match=f"in mode never with {option[0]}"):
            app(args=["ask", "Who?", "--mode", "never", *option], standalone_mode=False)


def test_features_without_some_scores_count_them_as_0():
    _, events = ask()
    written = [event.node for event in events if isinstance(event, CandidateEvent)]
    found = features_of(written[3], written)  # judged irrelevant: no support, no utility
    assert found is not None
    assert (found.support, found.utility) == (0.0, 0.0)
    assert found.margin == pytest.approx(0.0 - 0.9 * 0.8)
    assert features_of(written[0].start, written) is None
    bare = replace(written[0], hits=())
    assert features_of(bare, written) is None


def test_a_file_that_is_no_text_is_refused_in_plain_words(tmp_path):
    (tmp_path / "c.json").write_bytes(b'{"model": "\xff"}')
    with pytest.raises(BadInput, match="bytes that are not UTF-8; expected what") as told:
        load_calibration(tmp_path / "c.json")
    assert "codec" not in str(told.value)
