"""Rows of training files, and the mask on answers that hold their passages as text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.engine.scripted import ScriptedTokenizer
from selfrag.errors import BadInput
from selfrag.prompt import PromptFormat
from selfrag.reflection import REFLECTION_TOKENS, Marker
from selfrag.released import (
    GeneratorRecord,
    InstructionRow,
    PassageText,
    read_training_rows,
    split_output,
)
from selfrag.rows import Reject
from selfrag.train.config import HeldOut, OverLong
from selfrag.train.data import RenderOptions, prepare_file, prepare_rows, split_held_out
from selfrag.train.examples import UNIFORM, LossWeights, Mask, encode_row

ONE = "[Retrieval]<paragraph>T\naa</paragraph>[Relevant]One.[Fully supported]"
TWO = "[Retrieval]<paragraph>T\nbb</paragraph>[Irrelevant]Two."
THREE = "[Retrieval]<paragraph>T\ncc</paragraph>[Relevant]Three.[Partially supported]"
END = "[Utility:5]"


def row(output, **options):
    return InstructionRow(instruction="Q", output=output, **options)


def learned(output, *, mask=Mask.PASSAGES, max_tokens=None, **options):
    """The surface of the ids with a loss."""
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    item = row(output, **options)
    encoded = encode_row(item, fmt, UNIFORM, mask=mask, max_tokens=max_tokens)
    pairs = zip(encoded.ids, encoded.weights, strict=True)
    return tokenizer.surface([token_id for token_id, weight in pairs if weight])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("[No Retrieval]Plain." + END, "[No Retrieval]Plain.[Utility:5]"),
        (ONE + END, "[Retrieval][Relevant]One.[Fully supported][Utility:5]"),
        (
            ONE + TWO + END,
            "[Retrieval][Relevant]One.[Fully supported][Retrieval][Irrelevant]Two.[Utility:5]",
        ),
        (
            ONE + TWO + "[No Retrieval]Bare." + THREE + END,
            "[Retrieval][Relevant]One.[Fully supported][Retrieval][Irrelevant]Two."
            "[No Retrieval]Bare.[Retrieval][Relevant]Three.[Partially supported][Utility:5]",
        ),
    ],
    ids=["no passage", "one", "two", "three"],
)
def test_every_passage_is_masked_on_its_own(output, expected):
    assert learned(output) == expected + "</s>"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("[No Retrieval]Plain." + END, "[No Retrieval]Plain.[Utility:5]"),
        (ONE + END, "[Retrieval]<paragraph></paragraph>[Relevant]One.[Fully supported][Utility:5]"),
        # All between the first start and the last end is silent: "One." and its critique too.
        (ONE + TWO + END, "[Retrieval]<paragraph></paragraph>[Irrelevant]Two.[Utility:5]"),
        (
            ONE + TWO + THREE + END,
            "[Retrieval]<paragraph></paragraph>[Relevant]Three.[Partially supported][Utility:5]",
        ),
    ],
    ids=["no passage", "one", "two", "three"],
)
def test_the_released_mask_is_reproduced(output, expected):
    # The last prompt id, a line break, is learned: the released mask is one short.
    assert learned(output, mask=Mask.REFERENCE) == "\n" + expected + "</s>"


def test_a_row_cut_inside_a_passage_learns_nothing_of_it():
    tokenizer = ScriptedTokenizer()
    n_prompt = len(PromptFormat.of(tokenizer).instruction("Q"))
    # [Retrieval] <paragraph> T \n aa: five ids, the last two inside the passage.
    assert learned(ONE + END, max_tokens=n_prompt + 5) == "[Retrieval]"
    # As released all but the very last id is silent behind an open marker.
    cut = learned(ONE + END, max_tokens=n_prompt + 5, mask=Mask.REFERENCE)
    assert cut == "\n[Retrieval]<paragraph>aa"


def test_a_second_passage_that_is_cut_is_masked_as_released():
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    whole = encode_row(row(ONE + TWO + END), fmt, UNIFORM).ids
    start = [i for i, token_id in enumerate(whole) if token_id == fmt.ids[Marker.PARAGRAPH_START]]
    cut = learned(ONE + TWO + END, max_tokens=start[1] + 3, mask=Mask.REFERENCE)
    first = "\n[Retrieval]<paragraph></paragraph>[Relevant]One.[Fully supported]"
    assert cut == first + "[Retrieval]<paragraph>\n"


def test_a_cut_prompt_leaves_its_last_id_to_the_released_mask_alone():
    assert learned(ONE, max_tokens=3) == ""
    assert len(learned(ONE, max_tokens=3, mask=Mask.REFERENCE)) > 0


def test_marker_text_inside_a_passage_is_passage():
    forged = "[Retrieval]<paragraph>T\nuse </paragraph> or <paragraph> and [Retrieval] here"
    output = forged + "</paragraph>[Relevant]One.[Fully supported][Utility:5]"
    assert learned(output) == "[Retrieval][Relevant]One.[Fully supported][Utility:5]</s>"
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    ids = encode_row(row(output), fmt, UNIFORM).ids
    # Only the outer pair are control ids.
    assert ids.count(fmt.ids[Marker.PARAGRAPH_START]) == 1
    assert ids.count(fmt.ids[Marker.PARAGRAPH_END]) == 1


def test_two_passages_without_a_relevance_token_are_two():
    first = "[Retrieval]<paragraph>a</paragraph>x"
    parts = list(split_output(first + "[Retrieval]<paragraph>b</paragraph>[Relevant]y"))
    bodies = [part.text for part in parts if isinstance(part, PassageText)]
    assert bodies == ["a", "b"]


def test_tokens_written_in_an_instruction_stay_text():
    tokenizer = ScriptedTokenizer()
    fmt = PromptFormat.of(tokenizer)
    ids = encode_row(InstructionRow(instruction="[Relevant]</s>", output="x"), fmt, UNIFORM).ids
    assert set(ids[:-1]).isdisjoint({*fmt.ids.all, fmt.ids.end_of_sequence})


def test_an_input_stands_between_instruction_and_response():
    tokenizer = ScriptedTokenizer()
    ids = encode_row(row("Y", task_input="I"), PromptFormat.of(tokenizer), UNIFORM).ids
    expected = "### Instruction:\nQ\n\n### Input:\nI\n\n### Response:\nY</s>"
    assert tokenizer.surface(ids) == expected


def test_reflection_tokens_of_rows_have_their_weights():
    fmt = PromptFormat.of(ScriptedTokenizer())
    weights = [w for w in encode_row(row(ONE + END), fmt, LossWeights()).weights if w]
    # retrieve 1, relevance 4, "One" and "." 1 each, support 3, utility 1.5, end 1
    assert weights == [1.0, 4.0, 1.0, 1.0, 3.0, 1.5, 1.0]


SURFACES = st.sampled_from([token.value for token in REFLECTION_TOKENS])


@given(st.lists(SURFACES | st.text(max_size=5), max_size=12).map("".join))
def test_nothing_of_an_answer_is_lost(output):
    parts = []
    for part in split_output(output):
        if isinstance(part, PassageText):
            end = Marker.PARAGRAPH_END if part.closed else ""
            parts.append(f"{Marker.PARAGRAPH_START}{part.text}{end}")
        else:
            parts.append(str(part))
    assert "".join(parts) == output


GOOD = {"instruction": "Q", "output": ONE + END, "input": "", "id": 7, "dataset_name": "made"}
RECORD = {
    "id": "r",
    "dataset": "made",
    "instruction": "Q",
    "segments": [
        {
            "retrieve": "[No Retrieval]",
            "passage": None,
            "relevance": None,
            "text": "A",
            "support": None,
            "learn_text": True,
            "learn_relevance": True,
        }
    ],
    "utility": "[Utility:5]",
}
BAD = [
    "nonsense",
    "[1, 2",
    "3",
    json.dumps({"instruction": "Q"}),
    json.dumps({**GOOD, "output": 3}),
    json.dumps({**GOOD, "output": " "}),
    json.dumps({**GOOD, "output": "half \ud800"}),
    json.dumps({**RECORD, "utility": "[Utility:9]"}),
    '{"instruction": ' + "[" * 100_000,
]


def test_bad_rows_are_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(GOOD), "", *BAD, json.dumps(RECORD), json.dumps({**GOOD, "input": None})]
    path.write_text("\n".join(lines))
    found = list(read_training_rows(path))
    rejects = [r for _, r in found if isinstance(r, Reject)]
    assert [reject.number for reject in rejects] == list(range(3, 3 + len(BAD)))
    kept = [r for _, r in found if not isinstance(r, Reject)]
    kinds = [InstructionRow, GeneratorRecord, InstructionRow]
    assert [type(r) for r in kept] == kinds
    assert (kept[0].id, kept[0].dataset, kept[2].task_input) == ("7", "made", "")


def test_a_json_list_is_read_like_lines(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([GOOD, 3, RECORD], indent=1))
    kinds = [type(r) for _, r in read_training_rows(path)]
    assert kinds == [InstructionRow, Reject, GeneratorRecord]


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[1,"], ids=["not UTF-8", "broken list"])
def test_a_file_that_cannot_be_read_at_all_is_refused(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="cannot read training rows"):
        list(read_training_rows(path))


def prepared(rows, **options):
    fmt = PromptFormat.of(ScriptedTokenizer())
    fields = {"weights": UNIFORM, "max_tokens": 60}
    return prepare_rows(enumerate(rows, start=1), fmt, RenderOptions(**{**fields, **options}))


def test_over_long_rows_are_cut_and_counted_or_left_out():
    rows = [row("Short."), row("word " * 80), row(ONE + END, dataset="d")]
    cut = prepared(rows).account
    assert (cut.n_rows, cut.n_used, cut.n_rejected, cut.n_cut, cut.n_plain) == (3, 3, 0, 1, 2)
    assert cut.datasets == {"": 2, "d": 1}
    dropped = prepared(rows, over_long=OverLong.DROP)
    assert (dropped.account.n_used, dropped.account.n_cut) == (2, 0)
    assert [(r.number, r.detail[:3]) for r in dropped.rejects] == [(2, "has")]


def test_a_row_whose_prompt_alone_is_too_long_is_rejected():
    found = prepared([InstructionRow(instruction="word " * 80, output="A")])
    assert [reject.detail for reject in found.rejects] == [
        "has nothing to learn from within max_tokens (60)"
    ]


def test_a_file_in_which_nothing_can_be_used_is_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("3\n")
    options = RenderOptions(weights=UNIFORM, max_tokens=60)
    with pytest.raises(BadInput, match="none can be used, line 1 is a number, not an"):
        prepare_file(path, PromptFormat.of(ScriptedTokenizer()), options)


def test_held_out_examples_come_from_all_over_the_file():
    trees = prepared([row(f"Text {i}.") for i in range(30)]).trees
    rest, held = split_held_out(trees, 3, HeldOut.SPREAD)
    assert [trees.index(tree) for tree in held] == [0, 10, 20]
    assert len(rest) == 27
    assert split_held_out(trees, 2, HeldOut.FIRST)[1] == list(trees[:2])
    # Never more than a tenth, never the only one.
    assert len(split_held_out(trees, 50, HeldOut.SPREAD)[1]) == 3
    assert split_held_out(trees[:1], 50, HeldOut.SPREAD)[1] == []
