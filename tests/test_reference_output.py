"""What the released scripts store, one test for each fault, on a scripted model."""

import pytest

from selfrag.compat.completer import EngineCompleter, ReferenceConfig
from selfrag.compat.long import answer_long_form
from selfrag.compat.output import (
    biography_output,
    cited_output,
    fix_spacing,
    short_output,
)
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL, PromptFormat
from selfrag.reflection import Marker, Relevance, Retrieve, Utility

ASK = f"{INSTRUCTION_HEAD}Who?{INSTRUCTION_TAIL}"
NO = Retrieve.NO.value
END = "</s>"


def read(number):
    """Passage `number` as the model reads it."""
    body = f"T{number}\nt{number}"
    return f"{Retrieve.YES}{Marker.PARAGRAPH_START}{body}{Marker.PARAGRAPH_END}"


def relevant(prob):
    """[Relevant] with `prob` (over 0.5) and [Irrelevant] with the rest: the score is `prob`."""
    return {Relevance.RELEVANT: prob, Relevance.IRRELEVANT: 1 - prob}


def long(table, n_passages=1, *, mode=RetrievalMode.ALWAYS, max_depth=2):
    tokenizer = ScriptedTokenizer()
    completer = EngineCompleter(
        engine=ScriptedEngine(tokenizer, table),
        fmt=PromptFormat.of(tokenizer),
        special_tokens_in_text=True,
    )
    passages = [Passage(id=f"p{i}", title=f"T{i}", text=f"t{i}") for i in range(n_passages)]
    config = ReferenceConfig(mode=mode, threshold=0.2, max_new_tokens=40, max_depth=max_depth)
    return answer_long_form("Who?", passages, completer=completer, config=config)


def one_path(*segments, n_paths=1):
    """A long answer whose first path is `segments`, each written from passage 0."""
    table, prefix = {}, ASK
    for i, segment in enumerate(segments):
        is_last = i == len(segments) - 1
        steps = (segment,) if is_last else (segment, Retrieve.YES)
        table[prefix + read(0)] = say(relevant(0.8), *steps, END)
        prefix += f"[Relevant]{segment}"
    if n_paths == 2:
        table[ASK + read(1)] = say(relevant(0.6), "Second!", END)
    return long(table, n_paths, max_depth=len(segments) + 1)


def test_the_last_character_of_a_cited_sentence_is_chopped():
    output = cited_output(one_path("Al won?", "So did 3.5 B"))
    assert output.text == "Al won [1]. So did 3. 5  [2]."
    assert [p.title for p in output.passages] == ["T0", "T0"]


def test_a_repeated_sentence_is_skipped_and_the_numbers_run_ahead():
    output = cited_output(one_path("Al.", "Al.", "Bo."))
    # Three segments, two passages: [3] has no passage behind it.
    assert output.text == "Al [1]. Bo [3]."
    assert len(output.passages) == 2


def test_a_continue_token_becomes_a_citation_of_the_first_passage():
    tokens = (relevant(0.8), "Al.", Retrieve.CONTINUE, "Bo.", END)
    assert cited_output(long({ASK + read(0): say(*tokens)})).text == "Al [1]. Bo [1]."


def test_an_empty_first_path_gives_way_to_the_second():
    assert cited_output(one_path("", n_paths=2)).text == "Second [1]."
    alone = cited_output(one_path(""))
    assert (alone.text, alone.passages, alone.crash.error) == ("", (), "KeyError")


def test_spacing_breaks_decimals_and_abbreviations():
    assert fix_spacing("End.Next 3.5 of U.S. so!no") == "End. Next 3. 5 of U. S. so! no"


def test_a_biography_without_retrieval_crashes_there_and_is_the_whole_text_here():
    table = {ASK + NO: say("Bo won.Twice.", Utility.U5, END)}
    output = biography_output(long(table, mode=RetrievalMode.NEVER))
    assert (output.text, output.crash.error) == ("Bo won. Twice.", "KeyError")
    assert biography_output(one_path("Al.", "Bo.")).text == "Al. Bo."
    assert cited_output(long(table, mode=RetrievalMode.NEVER)).text == "Bo won.Twice."


@pytest.mark.parametrize(
    ("text", "stored"),
    [("#Al", "Al"), (":#Al", "#Al"), ("Al", "Al"), ("SUPPORTS it", "true"), ("REFUTES", "false")],
)
def test_a_short_prediction_loses_one_leading_sign(text, stored):
    assert short_output(text).text == stored


def test_an_empty_prediction_crashes_there_and_stays_empty_here():
    output = short_output("")
    assert (output.text, output.crash.error) == ("", "IndexError")
