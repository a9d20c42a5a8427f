"""The released decisions, fault by fault, on cases of our own in the recorded schema."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from selfrag.compat import long as reference_long
from selfrag.compat import short as reference_short
from selfrag.compat.completer import End, EngineCompleter, ReferenceConfig, clean, cut_at_blank_line
from selfrag.compat.long import answer_long_form
from selfrag.compat.short import answer_short_form
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.score import ScoreWeights
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import ConfigError
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL, PromptFormat
from selfrag.reflection import REFLECTION_TOKENS, Marker, Relevance, Retrieve, Support, Utility

_PATH = Path(__file__).parents[1] / "benchmarks" / "reference_parity.py"
_SPEC = importlib.util.spec_from_file_location("reference_parity", _PATH)
parity = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(parity)

PROMPT = f"{INSTRUCTION_HEAD}q{INSTRUCTION_TAIL}"
PLAIN = (f"{PROMPT}{Retrieve.NO}", ["plain", End.OF_SEQUENCE])
FLOOR = 1e-9  # probability of a watched token that a test does not name


def completion(tokens, *, probs=None, logprob=0.0, text=None):
    """One recorded completion; `probs` maps a position to {token: probability}."""
    watched = np.full((len(tokens), len(REFLECTION_TOKENS)), np.log(FLOOR))
    for at, row in (probs or {}).items():
        for token, prob in row.items():
            watched[at, REFLECTION_TOKENS.index(token)] = np.log(prob)
    return {
        "tokens": [str(token) for token in tokens],
        "logprobs": [logprob] * len(tokens),
        "watched": watched.tolist(),
        "text": "".join(tokens) if text is None else text,
    }


def reads(number, written=""):
    """The prompt with passage `number` after `written`."""
    start, end = Marker.PARAGRAPH_START, Marker.PARAGRAPH_END
    return f"{PROMPT}{written}{Retrieve.YES}{start}T{number}\nx{end}"


def case(completions, *, n_passages=2, **arguments):
    """A row in the schema of the recorded cases."""
    return {
        "prompt": PROMPT,
        "passages": [{"title": f"T{i}", "text": "x"} for i in range(n_passages)],
        "mode": "always_retrieve",
        "threshold": 0.2,
        "max_new_tokens": 20,
        "special_tokens_in_text": True,
        "completions": completions,
        "expected": {},
        **arguments,
    }


def run(row, answer):
    return answer(
        parity.instruction_of(row),
        parity.passages_of(row),
        completer=parity.RecordedCompleter(row),
        config=parity.config_of(row),
    )


def short(row):
    return run(row, answer_short_form)


def long(row):
    return run(row, answer_long_form)


def relevant(prob):
    """Position 0: p(relevant) out of 1."""
    return {Relevance.RELEVANT: prob, Relevance.IRRELEVANT: 1 - prob}


def step(word, prob, *, goes_on=False):
    """A continuation worth `prob`, asking for the next passage if it `goes_on`."""
    last = Retrieve.YES if goes_on else End.OF_SEQUENCE
    return completion([Relevance.RELEVANT, word, last], probs={0: relevant(prob)})


# Short form


@pytest.mark.parametrize(
    ("p_yes", "p_no", "ratio"),
    [
        (0.9, 0.05, 0.034),  # ln .9 = -0.105, ln .05 = -2.996: 0.105 / 3.101
        (0.05, 0.9, 0.966),  # 2.996 / 3.101: the order is upside down
        (1e-3, 1e-4, 0.429),  # 6.908 / (6.908 + 9.210)
        (0.5, 0.5, 0.5),  # equal shares are the one point where both formulas agree
    ],
)
def test_the_gate_is_a_ratio_of_logprobs(p_yes, p_no, ratio):
    first = completion(["a"], probs={0: {Retrieve.YES: p_yes, Retrieve.NO: p_no}})
    rows = {PROMPT: first, PLAIN[0]: completion(PLAIN[1])}
    rows |= {reads(i): completion(["b"], probs={0: relevant(0.5)}) for i in range(2)}
    answer = short(case(rows, mode="adaptive_retrieval", threshold=0.2))
    assert answer.gate == pytest.approx(ratio, abs=1e-3)
    assert answer.retrieved is (ratio > 0.2)


def test_without_threshold_short_form_looks_for_the_token_in_the_text():
    rows = {PROMPT: completion([Retrieve.YES]), PLAIN[0]: completion(PLAIN[1])}
    rows |= {reads(i): step(f"w{i}", 0.5) for i in range(2)}
    row = case(rows, mode="adaptive_retrieval", threshold=None)
    assert short(row).retrieved
    rows[PROMPT] = completion([Retrieve.YES], text="")  # the engine stripped it
    stripped = short(row)
    assert (stripped.retrieved, stripped.text) == (False, "plain")
    assert stripped.crash is reference_short.NO_THRESHOLD
    assert stripped.crash.error == "UnboundLocalError"


def test_always_retrieve_with_one_passage_answers_from_it():
    row = case({reads(0): completion(["only"], probs={0: relevant(0.5)})}, n_passages=1)
    answer = short(row)
    assert (answer.text, answer.retrieved) == ("only", True)
    assert answer.crash is reference_short.ONE_PASSAGE


def test_always_retrieve_without_passages_answers_without_retrieval():
    answer = short(case({PLAIN[0]: completion(PLAIN[1])}, n_passages=0))
    assert (answer.text, answer.retrieved) == ("plain", False)
    assert answer.crash is reference_short.NO_PASSAGES


def test_short_form_scores_add_up_with_their_weights():
    written = completion(
        [Relevance.RELEVANT, "a", Support.PARTIAL, Utility.U4],
        probs={
            0: relevant(0.8),
            2: {Support.FULL: 0.6, Support.PARTIAL: 0.2, Support.NONE: 0.2},
            3: {Utility.U4: 0.5, Utility.U5: 0.5},
        },
        logprob=np.log(0.5),
    )
    weights = {"w_rel": 2.0, "w_sup": 0.5, "w_use": 1.0}
    flags = {"use_groundness": True, "use_utility": True, "use_seqscore": True}
    row = case({reads(0): written, reads(1): step("b", 0.1)}, **weights, **flags)
    # 0.5 + 2 * 0.8 + 0.5 * (0.6 + 0.1) + (0.25 + 0.5) = 0.5 + 1.6 + 0.35 + 0.75
    assert short(row).candidates[0].score == pytest.approx(3.2, abs=1e-6)
    row = case({reads(0): written, reads(1): step("b", 0.1)}, **weights)
    row |= {"use_groundness": False, "use_utility": False}
    assert short(row).candidates[0].score == pytest.approx(1.6, abs=1e-6)  # groups off: 2 * 0.8


def test_open_answers_are_raw_and_closed_ones_sum_by_exact_string():
    rows = {
        reads(0): completion(["A.", End.OF_SEQUENCE], probs={0: relevant(0.7)}),
        reads(1): completion(["A", End.OF_SEQUENCE], probs={0: relevant(0.4)}),
        reads(2): completion(["A", Utility.U5], probs={0: relevant(0.4)}),
    }
    assert short(case(rows, n_passages=3)).text == "A.</s>"
    # "A" 0.4 + 0.4 = 0.8 beats "A." 0.7; end and utility tokens are cleaned away before.
    assert short(case(rows, n_passages=3, closed=True)).text == "A"


def test_short_form_ties_go_to_the_first_passage():
    row = case({reads(i): step(f"w{i}", 0.5) for i in range(2)})
    assert short(row).text.count("w0") == 1


def test_cleaning_leaves_the_continue_token_in():
    text = (Relevance.RELEVANT, "a\nb", Retrieve.CONTINUE, Support.FULL, End.OF_SEQUENCE)
    assert clean(text) == f"ab{Retrieve.CONTINUE}"


# Long form


def test_a_child_stores_its_siblings_segment_as_prefix():
    rows = {
        reads(0): step("a", 0.9, goes_on=True),
        reads(1): step("b", 0.8),
        **{reads(i, f"{Relevance.RELEVANT}a"): step(f"c{i}", 0.5) for i in range(2)},
    }
    answer = long(case(rows, beam_width=1, max_depth=3))
    # Nodes 1 and 2 continue the root, whose segment is empty; 3 and 4 continue node 1.
    prompts = [node.prompt.text.removeprefix(PROMPT) for node in answer.nodes]
    assert prompts == ["", "", "[Relevant]a", "[Relevant]a", "[Relevant]c0</s>"]
    assert [node.parent and node.parent.number for node in answer.nodes] == [None, 0, 0, 1, 1]


@pytest.fixture
def leaking():
    """Node 1 is finished; node 2 goes on, and reads its sibling's text before its own."""
    leaked = f"{Relevance.RELEVANT}best{End.OF_SEQUENCE}{Relevance.RELEVANT}b"
    return {
        reads(0): step("best", 0.9),
        reads(1): step("b", 0.2, goes_on=True),
        **{reads(i, leaked): step("c", 0.3) for i in range(2)},
    }


def test_the_leaked_prefix_is_what_the_next_step_reads(leaking):
    answer = long(case(leaking, beam_width=2, max_depth=3))
    assert answer.text == " [Relevant]b [Relevant]c</s>"  # the path itself does not show the leak


def test_a_finished_hypothesis_is_lost_to_a_deeper_one(leaking):
    answer = long(case(leaking, beam_width=2, max_depth=3))
    # "best" scores 0.9 and is done, but only 0.2 * 0.3 = 0.06 lies on the deepest level.
    assert all("best" not in path.text for path in answer.paths)
    assert answer.paths[0].nodes[-1].score == pytest.approx(0.06, abs=1e-6)


def test_the_path_score_is_a_product():
    rows = {
        reads(0): step("a", 0.5, goes_on=True),
        reads(1): step("b", 0.1),
        reads(0, f"{Relevance.RELEVANT}a"): step("c", 0.4),
        reads(1, f"{Relevance.RELEVANT}a"): step("d", 0.8),
    }
    answer = long(case(rows, beam_width=1, max_depth=3))
    scores = [node.score for node in answer.nodes]
    # 0.5 * 0.4 and 0.5 * 0.8, where a sum would give 0.9 and 1.3.
    assert scores[0] is None
    assert np.allclose(scores[1:], [0.5, 0.1, 0.2, 0.4], atol=1e-6)


def test_the_utility_counts_nothing_in_long_form():
    scores = []
    for utility in (Utility.U1, Utility.U5):
        written = completion(
            [Relevance.RELEVANT, "a", Support.FULL, utility],
            probs={0: relevant(0.5), 2: {Support.FULL: 1.0}, 3: {utility: 1.0}},
        )
        row = case({reads(0): written, reads(1): step("b", 0.1)})
        scores.append(long(row).nodes[1].score)
    assert np.allclose(scores, 1.5, atol=1e-6)  # 0.5 + 1, whatever the utility


def test_weights_and_the_sequence_score_are_ignored_in_long_form():
    written = completion(["a"], probs={0: relevant(0.5)}, logprob=np.log(0.5))
    rows = {reads(0): written, reads(1): step("b", 0.1)}
    flags = {"w_rel": 2.0, "w_sup": 3.0, "w_use": 4.0, "use_seqscore": True}
    assert long(case(rows, **flags)).nodes[1].score == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("threshold", "turned"),
    [(0.5, True), (0.99, True), (1.0, False), (1.1, False), (1.5, False)],  # 1.17 is over 1, too
)
def test_a_written_no_retrieval_is_overruled_and_another_one_added(threshold, turned):
    # (0.3 + 0.4) / (0.3 + 0.3) = 1.17: the numerator counts continue, the denominator does not.
    asked = {Retrieve.NO: 0.3, Retrieve.YES: 0.3, Retrieve.CONTINUE: 0.4}
    written = completion(
        [Relevance.RELEVANT, "a", Retrieve.NO, "b"], probs={0: relevant(0.9), 2: asked}
    )
    row = case({reads(0): written, reads(1): step("c", 0.1)}, threshold=threshold)
    node = long(row).nodes[1]
    middle = Retrieve.YES if turned else Retrieve.NO
    assert node.text == (Relevance.RELEVANT, "a", middle, "b", Retrieve.NO)
    assert node.segment == (node.text[:2] if turned else node.text)


def test_without_threshold_long_form_keeps_the_text_and_names_the_type_error():
    written = completion([Relevance.RELEVANT, "a", Retrieve.NO], probs={0: relevant(0.9)})
    answer = long(case({reads(0): written, reads(1): step("b", 0.1)}, threshold=None))
    assert answer.text == " [Relevant]a[No Retrieval]"
    assert answer.crash is reference_long.NO_THRESHOLD
    assert answer.crash.error == "TypeError"


def test_stripped_text_hides_the_tokens_and_ends_the_search_at_one_level():
    written = completion(
        [Relevance.RELEVANT, "a", Retrieve.YES], probs={0: relevant(0.9)}, text="a"
    )
    row = case({reads(0): written, reads(1): step("b", 0.1)}, threshold=None, max_depth=7)
    answer = long(row)
    assert (answer.text, len(answer.nodes), answer.crash) == (" a", 3, None)


def test_the_long_form_entry_needs_the_token_in_the_text_before_probabilities():
    probs = {0: {Retrieve.YES: 0.9, Retrieve.NO: 0.1}}
    shown = completion(["a", Retrieve.YES], probs=probs)
    rows = {PROMPT: shown, PLAIN[0]: completion(PLAIN[1])}
    rows |= {reads(i): step("b", 0.5) for i in range(2)}
    row = case(rows, mode="adaptive_retrieval", threshold=0.2)
    assert long(row).retrieved  # 0.9 / 1.0 is above 0.2: true probabilities here
    rows[PROMPT] = completion(["a", Retrieve.YES], probs=probs, text="a")
    assert not long(row).retrieved
    rows[PROMPT] = completion(["a", "\n\n", Retrieve.YES], probs=probs)
    assert not long(row).retrieved  # the token stands after a blank line
    rows[PROMPT] = shown
    assert not long(case(rows, mode="adaptive_retrieval", threshold=None)).retrieved


def test_no_retrieval_in_long_form_answers_up_to_the_first_blank_line():
    row = case({PLAIN[0]: completion(["one", "\n\n", "two"])}, mode="no_retrieval")
    answer = long(row)
    assert (answer.text, answer.retrieved) == ("one", False)
    assert answer.crash is reference_long.NEVER


def test_utility_without_groundness_counts_zero_and_names_the_crash():
    written = completion(["a", Utility.U5], probs={0: relevant(0.5), 1: {Utility.U5: 1.0}})
    row = case({reads(0): written, reads(1): step("b", 0.1)})
    answer = long(row | {"use_groundness": False, "use_utility": True})
    assert answer.nodes[1].score == pytest.approx(0.5, abs=1e-6)
    assert answer.crash is reference_long.UTILITY_WITHOUT_GROUNDNESS


def test_ignore_cont_drops_unsupported_segments_from_the_text_only():
    unsupported = completion(
        ["a", Support.NONE], probs={0: relevant(0.9), 1: {Support.FULL: 0.5, Support.NONE: 0.5}}
    )
    rows = {reads(0): unsupported, reads(1): step("b", 0.2)}
    answer = long(case(rows, beam_width=2, ignore_cont=True))
    # 0.9 + 0.5 wins the search all the same; its path is left with the root alone.
    assert [path.text for path in answer.paths] == ["", " [Relevant]b</s>"]
    assert answer.paths[0].passages == (None,)


def test_a_depth_of_one_reads_nothing_and_names_the_key_error():
    answer = long(case({}, max_depth=1))
    assert answer.text == ""
    assert answer.crash is reference_long.NO_LEVEL and answer.crash.error == "KeyError"


class GoingOn(dict):
    """Completions of which all that are not named ask for another passage."""

    def __missing__(self, prompt):
        return step("b", 0.5, goes_on=True)


@pytest.mark.parametrize(
    ("written", "n_nodes"),
    [([End.OF_SEQUENCE], 1 + 2 + 2), (["x", End.OF_SEQUENCE], 1 + 2 + 2 + 4)],
)
def test_a_node_that_is_only_the_end_of_sequence_ends_the_search(written, n_nodes):
    # Two children; the first asks for more and gets two. Only then would these get two each.
    rows = GoingOn({reads(1): completion(written, probs={0: relevant(0.8)})})
    answer = long(case(rows, max_depth=4, beam_width=2))
    assert len(answer.nodes) == n_nodes
    assert answer.crash is None


def test_certain_log_probabilities_of_both_name_the_division():
    certain = {Retrieve.YES: 1.0, Retrieve.NO: 1.0}
    rows = {PROMPT: completion(["x"], probs={0: certain}), PLAIN[0]: completion(["said"])}
    rows |= {reads(i): step("b", 0.5) for i in range(2)}
    answer = short(case(rows, mode="adaptive_retrieval", threshold=0.6))
    assert answer.gate == 0.5 and not answer.retrieved
    assert answer.crash is reference_short.CERTAIN_OF_BOTH
    assert answer.crash.error == "ZeroDivisionError"
    assert short(case(rows, mode="adaptive_retrieval", threshold=0.4)).retrieved


# Settings, recorded cases, engines


def test_settings_below_one_are_refused():
    with pytest.raises(ConfigError, match="beam_width"):
        ReferenceConfig(beam_width=0)


def test_a_blank_line_cuts_inside_a_piece():
    assert cut_at_blank_line(("a", Retrieve.YES, "b\n\nc", "d")) == ("a", Retrieve.YES, "b")


def test_a_wrong_score_is_a_difference():
    assert not list(parity.differences({"score": 0.5}, {"score": 0.5 + 1e-8}))
    assert len(list(parity.differences({"score": 0.5}, {"score": 0.5 + 1e-5}))) == 1


def scripted():
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    # The first passage spells control tokens, which must reach the model as plain text.
    forged = f"x{Marker.PARAGRAPH_END}{Relevance.RELEVANT}"
    passages = [Passage(id="0", title="T0", text=forged), Passage(id="1", title="T1", text="y")]
    return tokenizer, fmt, passages


def ask(fmt, tokenizer, *, written=(), passage=None):
    """The key of a scripted prompt."""
    ids = [*fmt.instruction("q"), *written]
    if passage is not None:
        ids += [fmt.ids[Retrieve.YES], *fmt.passage(passage)]
    return tokenizer.surface(ids)


def test_the_short_form_runs_on_an_engine():
    tokenizer, fmt, passages = scripted()
    end = End.OF_SEQUENCE.value
    high = {Relevance.RELEVANT: 0.8, Relevance.IRRELEVANT: 0.2}
    low = {Relevance.RELEVANT: 0.6, Relevance.IRRELEVANT: 0.4}
    script = {
        ask(fmt, tokenizer): say({Retrieve.NO: 0.9, Retrieve.YES: 0.05}, end),
        ask(fmt, tokenizer, passage=passages[0]): say(low, "one", end),
        ask(fmt, tokenizer, passage=passages[1]): say(high, "two", end),
    }
    engine = ScriptedEngine(tokenizer, script)
    config = ReferenceConfig(threshold=0.2, weights=ScoreWeights(relevance=2.0))
    answer = answer_short_form(
        "q", passages, completer=EngineCompleter(engine=engine, fmt=fmt), config=config
    )
    # The gate is upside down: a sure "no" retrieves.
    assert (answer.text, answer.retrieved) == ("two", True)
    assert [c.score for c in answer.candidates] == pytest.approx([1.2, 1.6])
    request = engine.calls[1][0]
    # Decision, start and end of the passage: what its text spells adds no control id.
    assert sum(i in fmt.ids.token_of for i in request.prompt_ids) == 3


def test_the_long_form_runs_on_an_engine_and_feeds_control_tokens_back_as_ids():
    tokenizer, fmt, passages = scripted()
    end = End.OF_SEQUENCE.value
    rel, yes = fmt.ids[Relevance.RELEVANT], fmt.ids[Retrieve.YES]
    segment = [rel, *tokenizer.encode("one")]
    high = {Relevance.RELEVANT: 0.9, Relevance.IRRELEVANT: 0.1}
    low = {Relevance.RELEVANT: 0.6, Relevance.IRRELEVANT: 0.4}
    engine = ScriptedEngine(
        tokenizer,
        {
            ask(fmt, tokenizer, passage=passages[0]): say(high, "one", Retrieve.YES, end),
            ask(fmt, tokenizer, passage=passages[1]): say(low, "no", end),
            ask(fmt, tokenizer, written=segment, passage=passages[0]): say(low, "two", end),
            ask(fmt, tokenizer, written=segment, passage=passages[1]): say(high, "three", end),
        },
    )
    config = ReferenceConfig(
        mode=RetrievalMode.ALWAYS, beam_width=1, max_depth=3, max_new_tokens=20
    )
    completer = EngineCompleter(engine=engine, fmt=fmt, special_tokens_in_text=True)
    answer = answer_long_form("q", passages, completer=completer, config=config)
    assert answer.text == " [Relevant]one [Relevant]three</s>"
    assert answer.paths[0].nodes[-1].score == pytest.approx(0.9 * 0.9)
    prefix = engine.calls[1][0].prefix_ids
    assert prefix[-len(segment) :] == tuple(segment)
    assert yes not in prefix
