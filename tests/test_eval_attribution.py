"""Citation recall and precision: ALCE's definition by hand and against its text, and the judges."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_parts import cited, hit, output, question, record
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, EngineError
from selfrag.evaluate.attribution import (
    Claim,
    citation_scores,
    cited_sentences,
    claims_of,
    document,
    join_passages,
    score_citations,
)
from selfrag.evaluate.judges import SupportJudge, Verdicts, judge_citations
from selfrag.evaluate.record import RECORDS, Record
from selfrag.evaluate.summary import load_judged
from selfrag.passage import Hit, Passage
from selfrag.prompt import PromptFormat

PASSAGES = tuple(hit(text, rank=n) for n, text in enumerate(("a", "b", "c"), start=1))


def said(*sentences):
    return output("x", sentences=cited(*sentences), passages=PASSAGES)


def holds(claim):
    """A passage entails a sentence where it holds all of its letters."""
    letters = {line for line in claim.premise.split("\n") if not line.startswith("Title")}
    return set(claim.hypothesis.lower().rstrip(".")) <= letters


def test_two_of_three_sentences_are_entailed_and_half_of_the_citations_needed():
    # "a." by 1: entailed, needed. "b." by 1 and 2: entailed; 1 alone does not entail it and 2
    # does without it, so 1 is not needed. "c." by 1: not entailed, so its citation is not needed.
    # Recall 2/3; needed 2 (the first, and 2 of the second) of 4 citations.
    scores = citation_scores("q", said(("a.", [1]), ("b.", [1, 2]), ("c.", [1])), holds)
    assert scores is not None
    assert (scores.recall, scores.precision) == (pytest.approx(2 / 3), 0.5)


def test_passages_that_only_together_entail_a_sentence_are_both_needed():
    scores = citation_scores("q", said(("ab.", [1, 2])), holds)
    assert scores is not None and (scores.recall, scores.precision) == (1.0, 1.0)


def test_an_answer_without_citations_is_not_attributed():
    scores = citation_scores("q", said(("a.", [])), holds)
    assert scores is not None and (scores.recall, scores.precision) == (0.0, 0.0)
    assert citation_scores("q", output(""), holds) is None


def test_every_sentence_of_a_segment_has_its_citations_at_most_three():
    found = cited_sentences(said(("He came. He went.", [1, 2])))
    assert found == [("He came.", (1, 2)), ("He went.", (1, 2))]
    many = output("x", sentences=cited(("One.", [1, 2, 3, 1])), passages=PASSAGES)
    assert cited_sentences(many) == [("One.", (1, 2, 3))]


def alce(sentences, entails):
    """The loop of princeton-nlp/ALCE 246c476 `compute_autoais`, restated for one answer."""
    entail = entail_prec = total = 0
    for text, ref in sentences:
        if not ref:
            continue
        total += len(ref)
        joint = entails(ref, text)
        entail += joint
        if joint and len(ref) > 1:
            for each in ref:
                if entails([each], text) or not entails([r for r in ref if r != each], text):
                    entail_prec += 1
        else:
            entail_prec += joint
    return entail / len(sentences), entail_prec / total if total else 0


SENTENCES = st.lists(
    st.tuples(
        st.sampled_from(
            [f"{''.join(word)}." for word in itertools.combinations("abc", 2)] + ["a."]
        ),
        st.lists(st.integers(1, 3), max_size=3, unique=True),
    ),
    min_size=1,
    max_size=4,
)


@given(SENTENCES)
def test_scores_are_those_of_alces_loop(sentences):
    answer = said(*sentences)

    def entails(numbers, text):
        premise = "\n".join(f"Title: T\n{'abc'[n - 1]}" for n in numbers)
        return holds(Claim(question="q", premise=premise, hypothesis=text))

    scores = citation_scores("q", answer, holds)
    assert scores is not None
    assert (scores.recall, scores.precision) == pytest.approx(alce(sentences, entails))


@given(SENTENCES)
def test_all_that_may_be_asked_is_known_beforehand(sentences):
    answer = said(*sentences)
    known = set(claims_of("q", answer))
    asked = set()

    def ask(claim):
        asked.add(claim)
        return holds(claim)

    citation_scores("q", answer, ask)
    assert asked <= known
    assert asked or not known


class Letters:
    name = "letters/1"

    def __init__(self):
        self.asked = []

    def judge(self, claims):
        self.asked += claims
        return [float(holds(claim)) for claim in claims]


def test_measures_carry_the_name_of_their_judge_and_are_kept(tmp_path):
    records = [record(0, "a.", sentences=cited(("a.", [1])), passages=PASSAGES)]
    (tmp_path / RECORDS).write_text("as they were")
    judge = Letters()
    told = []
    values = judge_citations(tmp_path, records, judge, lambda *step: told.append(step))
    assert told == [(0, 1), (1, 1)]  # before the first batch, which may take minutes, too
    assert values == {
        "citation_recall@letters/1": {"q0": 1.0},
        "citation_precision@letters/1": {"q0": 1.0},
    }
    assert load_judged(tmp_path) == values
    assert len(judge.asked) == 1
    assert judge_citations(tmp_path, records, judge) == values
    assert len(judge.asked) == 1  # known verdicts are not asked for again
    (tmp_path / RECORDS).write_text("answered again")
    assert load_judged(tmp_path) == {}  # of other records


def test_a_verdict_that_a_crash_cut_short_is_asked_again(tmp_path):
    claims = [Claim(question="q", premise="a", hypothesis=text) for text in ("a.", "b.")]
    path, judge = tmp_path / "verdicts.jsonl", Letters()
    Verdicts(path).ask(claims, judge)
    path.write_bytes(path.read_bytes()[:-9])
    again = Verdicts(path)
    assert again.ask(claims, judge) == 1
    assert [Verdicts(path).entails(claim) for claim in claims] == [True, False]


def test_the_support_token_judges_the_sentence_as_read_from_the_passage():
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    claim = Claim(question="Who?", premise="Ann did it.", hypothesis="Ann did it.")
    head = tokenizer.surface(fmt.instruction("Who?"))
    prompt = f"{head}[Retrieval]<paragraph>\nAnn did it.</paragraph>[Relevant]Ann did it."
    support = {"[Fully supported]": 0.6, "[Partially supported]": 0.2, "</s>": 0.1}
    engine = ScriptedEngine(tokenizer, {prompt: say(support)})
    # p(none) is the floor e^-20: (.6 + .1) / .8.
    assert SupportJudge(engine).judge([claim]) == [pytest.approx(0.875)]


def test_an_nli_classifier_judges_by_its_entailment_class(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"]
    vocabulary = {word: index for index, word in enumerate(words)}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    config = transformers.BertConfig(
        vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, id2label={0: "neutral", 1: "ENTAILMENT"},
        label2id={"neutral": 0, "ENTAILMENT": 1},
    )  # fmt: skip
    folder = tmp_path / "nli"
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    from selfrag.evaluate.nli import NliJudge

    judge = NliJudge(str(folder), batch_size=2)
    claims = [Claim(question="", premise=p, hypothesis="b") for p in ("a", "a " * 40, "b")]
    together, apart = judge.judge(claims), [judge.judge([claim])[0] for claim in claims]
    assert together == pytest.approx(apart, abs=1e-5)
    assert all(0 < p < 1 for p in together) and judge.name == "nli-nli"
    (folder / "config.json").write_text(
        json.dumps(
            {**json.loads((folder / "config.json").read_text()), "id2label": {"0": "x", "1": "y"}}
        )
    )
    with pytest.raises(BadInput, match="expected one called entailment"):
        NliJudge(str(folder))


def test_a_question_without_an_answer_has_no_citation_scores(tmp_path):
    failed = record(0, "")
    (tmp_path / RECORDS).touch()
    assert judge_citations(tmp_path, [failed], Letters())["citation_recall@letters/1"] == {}
    assert question().passages == ()


def test_a_judge_that_gives_no_number_is_named_and_nothing_is_kept(tmp_path):
    class Broken:
        name = "broken"

        def judge(self, claims):
            return [float("nan")] * len(claims)

    claim = Claim(question="Who?", premise="Ann.", hypothesis="Ann.")
    with pytest.raises(EngineError, match="cannot judge with broken: it gave no number"):
        Verdicts(tmp_path / "verdicts").ask([claim], Broken())
    assert not (tmp_path / "verdicts").exists()


def test_a_citation_that_entails_alone_is_needed_though_the_others_do_too():
    # ALCE's condition: a citation is irrelevant where it does not entail alone AND the others do.
    said = output(
        "Ann did it.",
        sentences=cited(("Ann did it.", [1, 2])),
        passages=(hit("Ann did it."), hit("Ann did it, truly.", rank=2)),
    )
    found = citation_scores("Who?", said, lambda claim: "Ann did it" in claim.premise)
    assert (found.recall, found.precision) == (1.0, 1.0)
    # The second entails alone; the first does not, and is not needed beside it.
    said = replace(said, passages=(hit("Bob."), hit("Ann did it.", rank=2)))
    found = citation_scores("Who?", said, lambda claim: "Ann did it" in claim.premise)
    assert (found.recall, found.precision) == (1.0, 0.5)


def test_premises_are_written_with_their_titles_where_they_have_any():
    titled, bare = Passage(id="a", title="T", text="x"), Passage(id="b", title="", text="y")
    assert (document(titled), document(bare)) == ("Title: T\nx", "y")
    said = output(
        "z",
        passages=(Hit(passage=titled, score=1.0, rank=1), Hit(passage=bare, score=1.0, rank=2)),
    )
    assert join_passages(said, (2, 1)) == "y\nTitle: T\nx"


def test_failed_questions_and_those_that_say_nothing_have_no_citation_scores():
    records = [
        Record(n=2, question=question(id="q2"), error="broken"),
        record(0, "Ann.", sentences=cited(("Ann.", [])), passages=(hit("Ann."),)),
        record(1, "", sentences=()),
    ]
    found = score_citations(records, lambda claim: True)
    # A sentence without citations is entailed by nothing, and cites nothing needlessly: 0 and 0.
    assert found == {"citation_recall": {"q0": 0.0}, "citation_precision": {"q0": 0.0}}


def test_of_more_than_three_citations_the_first_count():
    said = output(
        "Ann.",
        sentences=cited(("Ann. Bob.", [4, 3, 2, 1])),
        passages=tuple(hit(f"p{n}", rank=n) for n in range(1, 5)),
    )
    assert cited_sentences(said) == [("Ann.", (4, 3, 2)), ("Bob.", (4, 3, 2))]


def test_claims_are_all_that_scores_may_ask():
    said = output(
        "Ann.",
        sentences=cited(("Ann.", [1, 2]), ("Bob.", [])),
        passages=(hit("one"), hit("two", rank=2)),
    )
    for share in itertools.product((True, False), repeat=3):
        asked = []
        answers = dict(zip(("both", "one", "two"), share, strict=True))

        def entails(claim, asked=asked, answers=answers):
            asked.append(claim)
            name = (
                "both"
                if "one" in claim.premise and "two" in claim.premise
                else ("one" if "one" in claim.premise else "two")
            )
            return answers[name]

        citation_scores("Who?", said, entails)
        assert set(asked) <= set(claims_of("Who?", said))
    assert len(list(claims_of("Who?", said))) == 5 and len(set(claims_of("Who?", said))) == 3
