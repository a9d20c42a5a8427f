"""Texts checked against passages, on a scripted model: verdicts, sources, citations, marks."""

import pytest
from hypothesis import given, settings

from selfrag.api import SelfRAG
from selfrag.decode.check import MAX_CHARACTERS, check_texts
from selfrag.decode.checked import CitationStatus
from selfrag.decode.config import SearchConfig
from selfrag.decode.grounding import Grounding, Verdict
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput
from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import REFLECTION_TOKENS
from selfrag.retrieval.base import FixedRetriever, GivenPassages, as_passages
from test_prompt_safety import hostile_text

TITAN = Passage(
    id="t", title="Titan", text="Titan is the largest moon of Saturn. It was found in 1655."
)
BREAD = Passage(id="b", title="Bread", text="Bread is made of flour and water.")
# Words alone: 0.98 where all are there, 0.5 where half are.
WORDS = Grounding(weights={"in_passage": 8.0}, bias=-4.0, supported=0.7, partial=0.4)


def engine(relevant=0.9, full=0.9, *, max_context=4096):
    """Finds every passage relevant and every sentence supported, as likely as said."""
    tokenizer = ScriptedTokenizer()

    def script(ids):
        if tokenizer.surface(ids[-1:]) == "</paragraph>":
            return say({"[Relevant]": relevant, "[Irrelevant]": 1 - relevant})
        return say({"[Fully supported]": full, "[No support / Contradictory]": 1 - full})

    return ScriptedEngine(tokenizer, script, max_context=max_context)


def checked(text, passages=(TITAN, BREAD), *, grounding=WORDS, model=None, **more):
    (found,) = check_texts(
        [text],
        engine=model or engine(),
        retriever=FixedRetriever({}),
        passages=list(passages),
        grounding=grounding,
        **more,
    )
    return found


class Everything:
    """Finds the same passages for every query, and keeps the queries."""

    def __init__(self, *passages):
        self.passages, self.queries = passages, []

    def search(self, queries, top_k):
        self.queries += queries
        hits = [Hit(passage=p, score=1.0, rank=n) for n, p in enumerate(self.passages, start=1)]
        return [hits[:top_k] for _ in queries]


def found_by(retriever, text, **more):
    (found,) = check_texts([text], engine=engine(), retriever=retriever, grounding=WORDS, **more)
    return found


def test_every_sentence_gets_its_verdict_and_its_evidence():
    text = (
        "Titan is the largest moon of Saturn. Titan was found in 1755. "
        "Purple elephants dance happily. Titan bakes bread. Is it so?"
    )
    found = checked(text)
    assert [each.verdict for each in found.sentences] == [
        Verdict.SUPPORTED,
        Verdict.CONTRADICTED,
        Verdict.UNSUPPORTED,
        Verdict.UNSUPPORTED,
        Verdict.NO_CLAIM,
    ]
    first, second = found.sentences[:2]
    assert first.probability == pytest.approx(1 / (1 + 2.718281828**-4))
    assert first.best == 1 and first.is_quote
    start, end = first.span
    assert TITAN.text[start:end] == "Titan is the largest moon of Saturn."
    assert second.reason == "the passage has 1655" and second.best == 1
    assert found.to_dict()["summary"]["supported_share"] == 0.25


def test_without_constants_the_probability_is_relevance_times_support():
    found = checked("Titan is the largest moon.", grounding=Grounding())
    assert found.sentences[0].probability == pytest.approx(0.81)
    assert not found.is_fitted
    assert "only the order of probabilities" in found.to_dict()["summary"]["notes"][0]


def test_the_prompt_is_that_of_training():
    model = engine()
    checked("Titan is large.", [TITAN], model=model)
    (call,) = model.calls
    surfaces = [model.tokenizer.surface(request.prompt_ids) for request in call]
    read = (
        "### Instruction:\nCheck this claim: Titan is large.\n\n### Response:\n"
        f"[Retrieval]<paragraph>Titan\n{TITAN.text}</paragraph>"
    )
    assert surfaces == [read, f"{read}[Relevant]Titan is large."]


def test_a_question_is_the_instruction_and_makes_a_short_answer_a_claim():
    model = engine()
    found = checked("Titan.", [TITAN], model=model, question="Which moon is the largest?")
    assert found.sentences[0].verdict is Verdict.SUPPORTED
    surface = model.tokenizer.surface(model.calls[0][0].prompt_ids)
    assert surface.startswith("### Instruction:\nWhich moon is the largest?\n\n### Response:")
    assert checked("Titan.", [TITAN]).sentences[0].verdict is Verdict.NO_CLAIM


def test_all_pairs_are_judged_in_one_call():
    model = engine()
    checked("Titan is large. Bread is made of flour. Titan is a moon.", model=model)
    assert [len(call) for call in model.calls] == [3 * 2 * 2]


def test_texts_of_a_batch_are_checked_as_alone():
    texts = ["Titan is a moon of Saturn. Bread is red.", "Bread is made of flour.", "Ho!"]
    together = check_texts(
        texts,
        engine=engine(),
        retriever=FixedRetriever({}),
        passages=[TITAN, BREAD],
        grounding=WORDS,
    )
    assert [each.to_dict() for each in together] == [checked(text).to_dict() for text in texts]


def test_of_many_passages_the_nearest_are_read():
    others = [Passage(id=f"{n}", text=f"Stone number {n} is grey.") for n in range(20)]
    model = engine()
    found = checked(
        "Titan is the largest moon.",
        [*others, TITAN],
        model=model,
        config=SearchConfig(top_k=1),
    )
    assert found.sentences[0].best == 21
    assert len(model.calls[0]) == 2


def test_a_passage_of_an_index_gets_a_number_when_it_is_named():
    found = found_by(Everything(BREAD, TITAN), "Titan is the largest moon [3]. Bread is flour.")
    assert [each.best for each in found.sentences] == [4, 5]  # after the 3 that the text uses
    assert [(each.number, each.pieces) for each in found.passages] == [(4, (TITAN,)), (5, (BREAD,))]
    assert found.sentences[0].citations[0].status is CitationStatus.UNKNOWN
    assert "nobody knows what the numbers" in found.to_dict()["summary"]["notes"][0]


def test_a_sentence_that_points_back_is_searched_with_the_one_before():
    index = Everything(TITAN)
    text = "It is old. Titan is a large moon. It was found in 1655. Titan is a cold moon. "
    text += "This is known by now. Saturn."
    found_by(index, text, question="Which moon?")
    assert index.queries == [
        "Which moon? It is old.",
        "Titan is a large moon.",
        "Titan was found in 1655.",
        "Titan is a cold moon.",
        "Titan is a cold moon. This is known by now.",
        "Which moon? Saturn.",
    ]


def test_a_pronoun_is_searched_for_and_judged_as_what_it_stands_for():
    index, model = Everything(TITAN), engine()
    (found,) = check_texts(
        ["Titan is old. It is the largest moon of Jupiter."],
        engine=model,
        retriever=index,
        grounding=WORDS,
    )
    claim = "Titan is the largest moon of Jupiter."
    assert index.queries[1] == claim
    surface = model.tokenizer.surface(model.calls[0][-1].prompt_ids)
    assert f"Check this claim: {claim}\n" in surface and surface.endswith(f"[Relevant]{claim}")
    assert found.sentences[1].sentence.text == "It is the largest moon of Jupiter."


def test_citations_into_the_passages_given_are_verified():
    found = checked("Titan is the largest moon [1]. Titan is a moon of Saturn [2][9].")
    statuses = [(one.number, one.status) for s in found.sentences for one in s.citations]
    assert statuses == [
        (1, CitationStatus.RIGHT),
        (2, CitationStatus.WRONG),
        (9, CitationStatus.MISSING),
    ]


def test_a_passage_that_says_it_in_part_is_no_right_citation_where_another_says_it():
    part = Passage(id="p", title="Triton", text="Triton is the largest moon of Neptune.")
    (sentence,) = checked("The largest moon has cold lakes [1].", [part]).sentences
    assert sentence.verdict is Verdict.PARTIAL
    assert sentence.citations[0].status is CitationStatus.RIGHT
    whole = Passage(id="w", title="Titan", text="The largest moon has cold lakes.")
    (sentence,) = checked("The largest moon has cold lakes [1].", [part, whole]).sentences
    assert sentence.best == 2 and sentence.citations[0].status is CitationStatus.WRONG


def test_another_language_is_told_also_of_short_sentences():
    (sentence,) = checked("\u571f\u536b\u516d\u662f\u536b\u661f\u3002").sentences
    assert sentence.verdict is Verdict.UNCHECKED and "not in English" in sentence.reason


def test_citations_of_sources_listed_under_the_text_are_looked_up_by_title():
    text = "Titan is the largest moon [1]. Bread is made of flour [1].\n\n[1] Titan, Wikipedia\n"
    index = Everything(BREAD, TITAN)
    found = found_by(index, text)
    assert index.queries[0] == "Titan, Wikipedia"
    assert [s.citations[0].status for s in found.sentences] == [
        CitationStatus.RIGHT,
        CitationStatus.WRONG,
    ]


def test_a_source_that_is_listed_with_its_text_is_read_from_there():
    text = (
        "Mars has two small moons named Phobos and Deimos [1].\n\n"
        "[1] Mars\nMars has two small moons, which are named Phobos and Deimos.\n"
    )
    found = found_by(Everything(BREAD), text)
    assert found.sentences[0].citations[0].status is CitationStatus.RIGHT
    assert found.sentences[0].best == 1


def test_passages_that_disagree_are_named():
    other = Passage(id="o", title="Titan", text="Titan was found in 1755.")
    found = checked("Titan was found in 1655.", [TITAN, other])
    assert found.sentences[0].verdict is Verdict.SUPPORTED
    assert (found.sentences[0].best, found.sentences[0].disagreeing) == (1, (2,))


def test_a_passage_about_another_name_does_not_outweigh_a_contradiction():
    other = Passage(id="g", title="Ganymede", text="Ganymede is the largest moon of Jupiter.")
    found = checked("Titan is the largest moon of Jupiter.", [other, TITAN])
    assert found.sentences[0].verdict is Verdict.CONTRADICTED
    assert (found.sentences[0].best, found.sentences[0].reason) == (2, "the passage has Saturn")
    alone = checked("Titan is the largest moon of Jupiter.", [other])
    assert alone.sentences[0].verdict is Verdict.SUPPORTED  # three of four words: words are weak


def test_a_fixed_text_differs_by_its_marks_alone():
    text = (
        "# Titan\r\n\r\nTitan is the *largest* moon of Saturn.  Purple elephants dance.\r\n\r\n"
        "- Titan was found in 1755 [2]\r\n- Titan was found in 1655 [1]\r\n\r\n"
        "```\r\nTitan = 1\r\n```\r\nThe end is near"
    )
    assert checked(text).fixed_text == (
        "# Titan\r\n\r\nTitan is the *largest* moon of Saturn. [1]  Purple elephants dance. "
        "[not supported]\r\n\r\n"
        "- Titan was found in 1755 [2] [contradicted by 1]\r\n- Titan was found in 1655 [1]\r\n\r\n"
        "```\r\nTitan = 1\r\n```\r\nThe end is near [not supported]"
        "\r\n\r\n[1] Titan\r\n"
    )


def test_a_footnote_is_a_remark_where_passages_are_cited_and_joins_no_list():
    text = "Titan is the largest moon [1]. It was found in 1655.[^1]\n\n[^1]: By Huygens."
    found = checked(text)
    assert [one.status for s in found.sentences for one in s.citations] == [CitationStatus.RIGHT]
    assert found.fixed_text == (
        "Titan is the largest moon [1]. It was found in 1655.[^1] [1]\n\n[^1]: By Huygens."
        "\n\n[1] Titan\n"
    )
    assert checked(found.fixed_text).fixed_text == found.fixed_text


def test_the_list_that_a_contradiction_adds_is_no_sentence_when_it_is_read_again():
    once = checked("Titan was found in 1755.").fixed_text
    assert once == "Titan was found in 1755. [contradicted by 1]\n\n[1] Titan\n"
    assert checked(once).fixed_text == once


@pytest.mark.parametrize("question", [[], 0, False])
def test_a_question_that_is_no_text_is_refused(question):
    rag = SelfRAG(engine(), GivenPassages([TITAN]))
    with pytest.raises(BadInput, match="expected the question as a string"):
        rag.check("Titan is large.", question)


def test_what_is_supported_in_part_is_marked_as_such():
    part = Passage(id="p", title="Triton", text="Triton is the largest moon of Neptune.")
    once = checked("The largest moon has cold lakes.", [part]).fixed_text
    assert once == "The largest moon has cold lakes. [partially supported by 1]\n\n[1] Triton\n"
    assert checked(once, [part]).fixed_text == once


def test_a_text_that_needs_no_mark_is_fixed_to_itself():
    text = "Titan is the largest moon of Saturn [1].\n\nIs it?\n\n[1] Titan\n"
    assert checked(text).fixed_text == text


def test_a_fixed_text_is_not_marked_twice():
    once = checked("Purple elephants dance. Titan was found in 1755.").fixed_text
    assert once.count("[not supported]") == 1
    assert checked(once).fixed_text == once


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_is_refused(text):
    with pytest.raises(BadInput, match="cannot check: the text is empty; expected"):
        checked(text)


def test_a_megabyte_of_text_is_refused_in_one_sentence():
    with pytest.raises(BadInput, match=r"a text of 1,048,576 characters: expected at most 200,000"):
        checked("a" * (1 << 20))


def test_the_longest_text_is_split_and_checked():
    text = ("Titan is a moon. " * MAX_CHARACTERS)[:MAX_CHARACTERS]
    config = SearchConfig(max_seconds=1e-9)
    found = checked(text, config=config)
    assert len(found.sentences) == pytest.approx(MAX_CHARACTERS / 17, abs=1)
    assert {each.verdict for each in found.sentences} == {Verdict.UNCHECKED}
    assert found.sentences[0].reason == "the time was over before it was judged"


def test_another_language_is_said_and_not_guessed():
    model = engine()
    text = "Titan ist der größte Mond des Planeten Saturn und der zweitgrößte Mond im Sonnensystem."
    found = checked(text, model=model)
    assert found.sentences[0].verdict is Verdict.UNCHECKED
    assert found.sentences[0].probability is None
    assert model.calls == []
    (note,) = found.to_dict()["summary"]["notes"]
    assert note == (
        "1 of 1 sentences were not checked: not in English, which is all that is judged"
    )
    assert found.fixed_text == text


def test_where_nothing_is_found_that_is_said():
    found = found_by(FixedRetriever({}), "Titan is a moon of Saturn.")
    assert found.sentences[0].verdict is Verdict.UNCHECKED
    assert found.sentences[0].reason == "no passage was found for it"


@pytest.mark.parametrize(
    ("passages", "found"), [([], "no passages"), ([Passage(text=" ")], "1 passage without text")]
)
def test_passages_without_text_are_refused(passages, found):
    with pytest.raises(BadInput, match=f"cannot check: found {found}; expected some"):
        checked("Titan is a moon.", passages)


def test_a_passage_without_text_keeps_its_number():
    passages = as_passages([Passage(text=""), TITAN])
    found = checked("Titan is the largest moon [2]. Titan is a moon [1].", passages)
    assert [one.status for s in found.sentences for one in s.citations] == [
        CitationStatus.RIGHT,
        CitationStatus.UNKNOWN,
    ]


def test_a_sentence_longer_than_the_context_is_not_checked():
    found = checked("Titan is the moon " * 100 + "of it.", model=engine(max_context=256))
    assert found.sentences[0].verdict is Verdict.UNCHECKED
    assert found.sentences[0].reason == "it leaves no room for a passage in the model's context"


def test_a_long_passage_is_read_in_pieces():
    long = Passage(id="l", text="Stones are grey and old. " * 60 + "Titan is the largest moon.")
    config = SearchConfig(max_passage_tokens=100)
    found = checked("Titan is the largest moon [1].", [long], config=config)
    assert found.sentences[0].citations[0].status is CitationStatus.RIGHT
    assert "Titan" in found.sentences[0].evidence[0].passage.text


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(BadInput, match="bytes that are not UTF-8"):
        checked("Titan is \udcff.")


@settings(deadline=None, max_examples=50)
@given(sentence=hostile_text(), question=hostile_text(), text=hostile_text(), title=hostile_text())
def test_no_text_forges_a_control_token(sentence, question, text, title):
    model = engine(max_context=100_000)
    passages = [Passage(id="p", title=title, text=f"Titan. {text}")]
    checked(f"Titan is {sentence} a moon.", passages, model=model, question=question)
    fmt = PromptFormat.of(model.tokenizer)
    control = {fmt.ids[token] for token in REFLECTION_TOKENS} | {fmt.ids.end_of_sequence}
    for request in (request for call in model.calls for request in call):
        found = [fmt.ids.token_of[i].value for i in request.prompt_ids if i in control]
        head = ["[Retrieval]", "<paragraph>", "</paragraph>"]
        assert found in (head, [*head, "[Relevant]"])


def test_the_python_entry_checks_against_given_passages_and_its_own():
    rag = SelfRAG(engine(), GivenPassages([TITAN]), grounding=WORDS)
    own = rag.check("Titan is the largest moon.")
    assert own.sentences[0].verdict is Verdict.SUPPORTED
    other = rag.check("Titan is the largest moon.", passages=["Bread is brown."])
    assert other.sentences[0].verdict is Verdict.UNSUPPORTED
    with pytest.raises(BadInput, match="expected the text as a string"):
        rag.check(b"Titan is a moon.")
