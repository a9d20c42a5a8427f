import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrag.engine.base import FinishReason, Request
from selfrag.engine.scripted import FLOOR_LOGPROB, ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, EngineError
from selfrag.prompt import PromptFormat
from selfrag.reflection import REFLECTION_TOKENS, Relevance, Retrieve, Support

ASK = "### Instruction:\nWhere?\n\n### Response:\n"


def request(tokenizer, max_new_tokens=10, stops=("</s>",), watch=()):
    fmt = PromptFormat.of(tokenizer)
    return Request(
        prefix_ids=tuple(fmt.instruction("Where?")),
        max_new_tokens=max_new_tokens,
        stop_ids=frozenset(tokenizer.token_to_id(token) for token in stops),
        watch_ids=tuple(tokenizer.token_to_id(token) for token in watch),
    )


def answer(completion, **kwargs):
    tokenizer = ScriptedTokenizer()
    engine = ScriptedEngine(tokenizer, {ASK: completion})
    (result,) = engine.generate([request(tokenizer, **kwargs)])
    return tokenizer.surface(result.token_ids), result


@settings(deadline=None)
@given(st.text())
def test_plain_text_survives_the_tokenizer_and_yields_no_control_id(text):
    tokenizer = ScriptedTokenizer()
    token_ids = tokenizer.encode(text)
    assert tokenizer.decode(token_ids) == text
    assert all(token_id > tokenizer.end_of_sequence_id for token_id in token_ids)


def test_control_ids_are_fixed_and_left_out_of_decoded_text():
    tokenizer = ScriptedTokenizer()
    assert [tokenizer.token_to_id(token) for token in REFLECTION_TOKENS] == list(range(15))
    assert tokenizer.end_of_sequence_id == 15
    token_ids = [*tokenizer.read("[Relevant]"), *tokenizer.read("In Paris."), 15]
    assert tokenizer.decode(token_ids) == "In Paris."
    assert tokenizer.surface(token_ids) == "[Relevant]In Paris.</s>"


def test_the_name_of_a_control_token_inside_text_is_plain_text():
    tokenizer = ScriptedTokenizer()
    assert tokenizer.decode(tokenizer.encode("so [Relevant]</s>")) == "so [Relevant]</s>"


def test_an_unknown_piece_has_no_id():
    with pytest.raises(KeyError):
        ScriptedTokenizer().token_to_id("Paris")


def test_a_completion_reads_as_it_was_written():
    written = say({Relevance.RELEVANT: 0.8}, "In Paris", ".", Support.FULL, "</s>", "unread")
    text, result = answer(written)
    assert text == "[Relevant]In Paris.[Fully supported]</s>"
    assert result.finish_reason is FinishReason.STOP


def test_log_probabilities_are_those_of_the_script():
    # Step 1 chooses 0.75 and also knows 0.25; step 2 is text at 0.5 and knows nothing else.
    written = say({Retrieve.NO: 0.25, Retrieve.YES: 0.75}, "Paris", "</s>", text_prob=0.5)
    text, result = answer(written, max_new_tokens=2, watch=("[No Retrieval]", "[Retrieval]"))
    assert text == "[Retrieval]Paris"
    assert result.finish_reason is FinishReason.LENGTH
    assert np.allclose(result.logprobs, np.log([0.75, 0.5]))
    assert np.allclose(result.watched, [np.log([0.25, 0.75]), [FLOOR_LOGPROB] * 2])


def test_the_first_of_equally_probable_tokens_is_chosen():
    assert answer(say({"b": 0.5, "a": 0.5}), max_new_tokens=1)[0] == "b"


def test_nothing_watched_gives_an_array_without_columns():
    assert answer(say("Paris", "</s>"))[1].watched.shape == (2, 0)


def test_calls_record_every_batch():
    tokenizer = ScriptedTokenizer()
    engine = ScriptedEngine(tokenizer, {ASK: say("</s>")})
    assert engine.generate([]) == []
    engine.generate([request(tokenizer), request(tokenizer)])
    assert [len(batch) for batch in engine.calls] == [0, 2]


def test_a_function_may_be_the_script():
    tokenizer = ScriptedTokenizer()
    engine = ScriptedEngine(tokenizer, lambda ids: say(str(len(ids)), "</s>"))
    one = request(tokenizer)
    (result,) = engine.generate([one])
    assert tokenizer.decode(result.token_ids) == str(len(one.prompt_ids))


def test_a_prompt_without_a_script_is_quoted():
    tokenizer = ScriptedTokenizer()
    with pytest.raises(EngineError, match="Where"):
        ScriptedEngine(tokenizer, {}).generate([request(tokenizer)])


def test_a_script_that_is_over_too_early_is_an_error():
    with pytest.raises(EngineError, match="over after 1 tokens"):
        answer(say("Paris"))


def test_a_step_of_several_tokens_is_an_error():
    with pytest.raises(EngineError, match="3 tokens"):
        answer(say({"in Paris": 1.0}))


def test_an_impossible_probability_is_an_error():
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        say({"Paris": 0.0})


def test_a_prompt_that_leaves_no_room_is_bad_input():
    tokenizer = ScriptedTokenizer()
    engine = ScriptedEngine(tokenizer, {ASK: say("</s>")}, max_context=20)
    with pytest.raises(BadInput, match="at most 20"):
        engine.generate([request(tokenizer)])
