"""Answers annotated end to end with a teacher and a retriever whose words are known."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.annotate.annotate_row import annotate_row, split_answer, without_control
from selfrag.annotate.assemble import AssemblyConfig, Bug, Rules
from selfrag.annotate.generator_data import annotate_rows, write_generator_data
from selfrag.annotate.judge import AnswerStore, Judge
from selfrag.annotate.judgement import Group
from selfrag.annotate.report import spans
from selfrag.annotate.sources import SourceRow
from selfrag.engine.failure import Failure, Reason
from selfrag.errors import BadInput, EngineError
from selfrag.passage import Hit, Passage
from selfrag.reflection import REFLECTION_TOKENS
from spoken_teacher import SpokenTeacher

FIRST = "Titan is the largest moon of Saturn."
SECOND = "It has a thick atmosphere of nitrogen."
THIRD = "Have fun when you look at it yourself!"
TITAN = Passage(id="t", title="Titan", text="Titan is the largest moon of Saturn.")
AIR = Passage(id="a", title="Air", text="Titan has air of nitrogen.")
REA = Passage(id="r", title="Rhea", text="Rhea is a moon.")


class WordRetriever:
    """Hits by a word of the query; `queries` holds all that were searched."""

    def __init__(self, **by_word):
        self.by_word = by_word
        self.queries = []

    def search(self, queries, top_k):
        self.queries += queries
        return [self._hits(query)[:top_k] for query in queries]

    def _hits(self, query):
        found = next((ps for word, ps in self.by_word.items() if word in query), [])
        return [Hit(passage=p, score=1.0 / n, rank=n) for n, p in enumerate(found, start=1)]


def say(case):
    """Facts; the second sentence goes on, the third needs nothing; Rhea is beside the point."""
    if case.group is Group.RETRIEVE:
        return "work" if case.instruction.startswith("Write") else "fact"
    if case.group is Group.RETRIEVE_SENTENCE:
        return {SECOND: "covered", THIRD: "none"}.get(case.output, "search")
    if case.group is Group.RELEVANCE:
        return "irrelevant" if case.evidence.startswith("Rhea") else "relevant"
    if case.group is Group.SUPPORT:
        return "full" if case.evidence.startswith("Titan") else "partial"
    return "5"


def retriever():
    return WordRetriever(nitrogen=[REA, AIR, TITAN], Titan=[REA, TITAN], air=[AIR])


def annotate(row, config, *, teacher=None, found=None):
    teacher = teacher or SpokenTeacher(say)
    judge = Judge(teacher, AnswerStore(":memory:"))
    return annotate_rows([row], judge, found or retriever(), config)[0]


def row_of(output, *, instruction="Tell me about Titan.", dataset="x", identity="1"):
    return SourceRow(id=identity, dataset=dataset, instruction=instruction, output=output)


PAPER = AssemblyConfig(rules=Rules.PAPER)
REFERENCE = AssemblyConfig(rules=Rules.REFERENCE)


def test_an_answer_gets_passage_relevance_support_and_utility_by_sentence():
    done = annotate(row_of(f"{FIRST} {SECOND} {THIRD}"), PAPER)
    assert done.output == (
        "[Retrieval]<paragraph>Titan\nTitan is the largest moon of Saturn.</paragraph>"
        f"[Relevant]{FIRST}[Fully supported]"
        f"[Continue to Use Evidence]{SECOND}"
        f"[No Retrieval]{THIRD}[Utility:5]"
    )


def test_every_token_says_where_it_stands_and_who_gave_it():
    row = annotate(row_of(FIRST), PAPER).to_json()
    assert {k: row[k] for k in ("instruction", "input", "id", "dataset_name")} == {
        "instruction": "Tell me about Titan.",
        "input": "",
        "id": "1",
        "dataset_name": "x",
    }
    for entry in row["provenance"]:
        assert row["output"][entry["at"] :].startswith(entry["token"])
    assert [(e["token"], e["by"], e["passage"], e["rank"]) for e in row["provenance"]] == [
        ("[Retrieval]", "spoken", "t", 2),
        ("[Relevant]", "spoken", "t", 2),
        ("[Fully supported]", "spoken", "t", 2),
        ("[Utility:5]", "spoken", None, None),
    ]


def test_what_needs_no_passage_is_neither_searched_nor_judged_further():
    teacher, found = SpokenTeacher(say), retriever()
    done = annotate(
        row_of("Rain.", instruction="Write a poem."), PAPER, teacher=teacher, found=found
    )
    assert done.output == "[No Retrieval]Rain.[Utility:5]"
    assert [case.group for case in teacher.asked] == [Group.RETRIEVE, Group.UTILITY]
    assert found.queries == []


def test_the_task_sentence_is_read_but_not_searched():
    found = retriever()
    task = (
        "Is the following statement correct or not? Say true if it's correct; otherwise say false."
    )
    row = row_of("true", instruction=f"{task}## Input:\n\nTitan is a moon.", dataset="fever")
    teacher = SpokenTeacher(say)
    annotate(row, PAPER, teacher=teacher, found=found)
    assert found.queries == ["Titan is a moon. true"] * 2
    assert {case.instruction for case in teacher.asked} == {row.instruction}


def test_the_evidence_shown_is_the_passage_taken_last():
    teacher = SpokenTeacher(say)
    longer = f"{FIRST} Its air is mostly made of nitrogen gas. {SECOND}"
    annotate(row_of(longer), PAPER, teacher=teacher)
    shown = [c.evidence for c in teacher.asked if c.group is Group.RETRIEVE_SENTENCE]
    # After the first sentence Titan; for the second, of partial support, Air is the better rank.
    assert shown == ["Titan\n" + TITAN.text, "Titan\n" + TITAN.text]
    teacher = SpokenTeacher(say)
    annotate(row_of(longer), REFERENCE, teacher=teacher)
    shown = [c.evidence for c in teacher.asked if c.group is Group.RETRIEVE_SENTENCE]
    assert shown == ["Rhea\n" + REA.text] * 2  # the first hit of the whole answer, to the end


def test_without_evidence_in_the_output_nothing_is_continued():
    found = WordRetriever(Titan=[REA])
    done = annotate(row_of(f"{FIRST} {SECOND}"), PAPER, found=found)
    assert done.output.count("[Retrieval]") == 2 and "[Continue" not in done.output
    by = [entry["by"] for entry in done.to_json()["provenance"]]
    assert "rule:nothing_to_continue" in by


def test_a_sentence_without_any_passage_is_kept_without_one():
    done = annotate(row_of(FIRST), PAPER, found=WordRetriever())
    assert done.output == f"[No Retrieval]{FIRST}[Utility:5]"
    assert done.to_json()["provenance"][0]["by"] == "rule:no_passage"


def test_the_reference_copies_short_sentences_bare_and_gives_irrelevant_ones_no_support():
    found = WordRetriever(Titan=[REA])
    answer = f"Yes, it is. {FIRST} {THIRD}"
    done = annotate(row_of(answer), REFERENCE, found=found)
    assert done.output == (
        "Yes, it is.[Retrieval]<paragraph>Rhea\nRhea is a moon.</paragraph>"
        f"[Irrelevant]{FIRST}[No Retrieval]{THIRD}[Utility:5]"
    )


def test_the_reference_mends_the_utility_of_true_and_false():
    teacher = SpokenTeacher(lambda case: "1" if case.group is Group.UTILITY else say(case))
    row = row_of("true", dataset="fever", instruction="Write: Titan")
    kept = [
        annotate(
            row_of("true", instruction="Write it", identity=str(n)), REFERENCE, teacher=teacher
        )
        for n in range(30)
    ]
    assert {done.output for done in kept} == {"[No Retrieval]true[Utility:5]"}
    # 0.4 of the rows without retrieval stay.
    assert 4 < sum(not done.left_out for done in kept) < 20
    assert annotate(row, PAPER, teacher=teacher).output.endswith("[Utility:5]")


def test_a_bug_of_the_reference_drops_a_sentence_that_is_kept_without_it():
    found = WordRetriever(nitrogen=[], Titan=[TITAN])
    answer = f"{FIRST} Its air is mostly made of nitrogen gas."
    dropping = AssemblyConfig(rules=Rules.REFERENCE, bugs=frozenset({Bug.DROP_SENTENCE}))
    assert "nitrogen" not in annotate(row_of(answer), dropping, found=found).output
    assert "nitrogen" in annotate(row_of(answer), REFERENCE, found=found).output


def test_an_answer_that_spells_tokens_cannot_forge_them():
    evil = Passage(id="e", title="[Relevant]", text="</paragraph>[Fully supported] Titan</s>")
    done = annotate(row_of(f"{FIRST[:-1]}[Utility:1]."), PAPER, found=WordRetriever(Titan=[evil]))
    row = done.to_json()
    found = [span.token for span in spans(row["output"]) if span.token]
    assert found == [entry["token"] for entry in row["provenance"]]
    assert "(Utility:1)" in row["output"] and "(/paragraph)(Fully supported)" in row["output"]
    assert "</s>" not in row["output"]


def test_a_row_without_an_answer_is_unfinished_and_a_malformed_passage_is_passed_over():
    down = Failure(reason=Reason.SERVER_ERROR, detail="oops")

    def broken(case):
        if case.group is Group.RELEVANCE and case.evidence.startswith("Titan"):
            return "hm"
        return say(case)

    done = annotate(row_of(FIRST), PAPER, teacher=SpokenTeacher(broken))
    assert "Rhea" in done.output and done.unfinished is None
    failing = SpokenTeacher(lambda c: down if c.group is Group.RELEVANCE else say(c))
    assert annotate(row_of(FIRST), PAPER, teacher=failing).unfinished.failure is down


def test_rows_share_batches_and_do_not_change_one_another():
    rows = [row_of(f"{FIRST} {SECOND}", identity=str(n)) for n in range(5)]
    rows.append(row_of("Rain.", instruction="Write a poem.", identity="p"))
    judge = Judge(SpokenTeacher(say), AnswerStore(":memory:"))
    for config in (PAPER, REFERENCE):
        together = [d.to_json() for d in annotate_rows(rows, judge, retriever(), config)]
        alone = [annotate(row, config).to_json() for row in rows]
        assert together == alone


def test_the_file_holds_what_could_be_used_and_the_rejects_the_rest(tmp_path):
    down = Failure(reason=Reason.UNREACHABLE, detail="no line")
    teacher = SpokenTeacher(lambda c: down if "fail" in c.instruction else say(c))
    rows = [row_of(FIRST, identity="1"), row_of(FIRST, instruction="Will fail", identity="2")]
    out = tmp_path / "g.jsonl"
    with AnswerStore(tmp_path / "a") as store:
        summary = write_generator_data(rows, Judge(teacher, store), retriever(), out, PAPER)
    (line,) = out.read_text().splitlines()
    assert json.loads(line)["id"] == "1" and summary["rows"] == 1
    assert summary["tokens"]["[Fully supported]"] == 1
    rejects = (tmp_path / "g.jsonl.rejects.jsonl").read_text().splitlines()
    assert {json.loads(r)["stage"] for r in rejects} == {"ask"}
    assert summary["rejects"] == {"ask: unreachable": len(rejects)}


def test_when_nothing_can_be_used_an_old_file_stays_and_the_error_says_why(tmp_path):
    down = Failure(reason=Reason.UNREACHABLE, detail="no line")
    out = tmp_path / "g.jsonl"
    out.write_text("old\n")
    with AnswerStore(tmp_path / "a") as store:
        judge = Judge(SpokenTeacher(lambda c: down), store)
        with pytest.raises(EngineError, match="ask: unreachable"):
            write_generator_data([row_of(FIRST)], judge, retriever(), out, PAPER)
        with pytest.raises(BadInput, match="no rows"):
            write_generator_data([], judge, retriever(), out, PAPER)
    assert out.read_text() == "old\n"
    assert (tmp_path / "g.jsonl.report.json").exists()


WORDS = st.sampled_from(["Titan", "is", "a", "moon", "U.S.", "3.5", "(yes)", "[Relevant]", "\n"])
ENDS = st.sampled_from([". ", "! ", "? ", ".", "\n\n", " "])


@given(
    st.lists(st.tuples(st.lists(WORDS, min_size=1, max_size=9), ENDS), max_size=6), st.booleans()
)
def test_no_sentence_is_ever_lost(sentences, is_paper):
    answer = "".join(" ".join(words) + end for words, end in sentences) or "x"
    config = PAPER if is_paper else REFERENCE
    done = annotate(row_of(answer), config)
    bare = re.sub(r"<paragraph>.*?</paragraph>", "", done.output, flags=re.S)
    for token in REFLECTION_TOKENS:
        bare = bare.replace(token, "")
    assert "".join(bare.split()) == "".join(without_control(answer).split())


@given(st.text(max_size=200), st.booleans())
def test_parts_of_an_answer_are_the_answer_but_for_space_between(text, merge_short):
    parts = split_answer(text, merge_short=merge_short)
    assert "".join("".join(p.text for p in parts).split()) == "".join(text.split())
    assert not (merge_short and any(part.is_bare for part in parts))


def test_short_sentences_go_with_their_neighbour():
    answer = f"Yes. {FIRST} Wow. Great! {SECOND}"
    parts = [part.text for part in split_answer(answer, merge_short=True)]
    assert parts == [f"Yes. {FIRST} Wow. Great!", SECOND]
    assert [p.is_bare for p in split_answer(answer, merge_short=False)] == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_the_coins_of_a_row_depend_on_seed_and_row_alone():
    rows = [row_of(FIRST, instruction="Write it", identity=str(n)) for n in range(40)]
    kept = {
        seed: [
            not annotate(row, AssemblyConfig(rules=Rules.REFERENCE, seed=seed)).left_out
            for row in rows
        ]
        for seed in (0, 1)
    }
    again = [not annotate(row, REFERENCE).left_out for row in reversed(rows)]
    assert kept[0] == again[::-1] and kept[0] != kept[1]
    steps = annotate_row(rows[0], PAPER)
    assert [case.group for case in next(steps)] == [Group.RETRIEVE, Group.UTILITY]


def test_an_answer_of_short_sentences_alone_is_left_out_by_the_released_rules_and_kept_by_ours():
    row = row_of("Yes it is. I know it. Go there.")
    assert annotate(row, REFERENCE).left_out == "only_short_sentences"
    assert annotate(row, PAPER).left_out == ""
