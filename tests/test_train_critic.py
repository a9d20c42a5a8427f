"""A critic from rows to measured labels, and its measures worked by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.annotate.critic import critic_prompt
from selfrag.annotate.judgement import LABELS, Group
from selfrag.engine.scripted import ScriptedTokenizer
from selfrag.errors import BadInput
from selfrag.reflection import Relevance
from selfrag.statistics import label_quality, reliability
from selfrag.train.config import TrainConfig
from selfrag.train.critic_data import (
    CriticRow,
    encode_critic_row,
    load_critic_rows,
    split_rows,
)
from tiny_model import save_tiny_model


def test_quality_worked_by_hand():
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = label_quality(probs, np.array([0, 1, 1, 0]), ["a", "b"])
    # Given a a b a: right, wrong, right, right.
    assert (found.n, found.accuracy, found.majority) == (4, 0.75, 0.5)
    # a: 2 of 3 given are right, 2 of 2 found: 2*2/(3+2) = 0.8; b: 2*1/(1+2) = 2/3.
    assert found.f1 == pytest.approx({"a": 0.8, "b": 2 / 3})
    assert found.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)
    # One prediction a bin: gaps 0.1, 0.8, 0.3, 0.4, mean 0.4.
    assert found.ece == pytest.approx(0.4)


def test_a_label_that_never_occurs_does_not_weigh_on_the_mean_f1():
    found = label_quality(np.array([[1.0, 0.0, 0.0]]), np.array([0]), ["a", "b", "c"])
    assert found.macro_f1 == 1.0
    assert found.f1 == {"a": 1.0, "b": 0.0, "c": 0.0}


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_bins_hold_every_prediction_once(pairs):
    confidence, right = (np.array(column) for column in zip(*pairs, strict=True))
    bins = reliability(confidence, right).bins
    assert sum(b.n for b in bins) == len(pairs)
    assert sum(b.n * b.accuracy for b in bins) == pytest.approx(right.sum())


def critic_row(fields, label=Relevance.RELEVANT, **options):
    made = {"id": "r", "group": Group.RELEVANCE, "instruction": "Judge.", **options}
    return CriticRow(fields=fields, label=label, **made)


def test_only_the_label_and_the_end_are_learned():
    tokenizer = ScriptedTokenizer()
    encoded = encode_critic_row(critic_row("Evidence: x"), tokenizer, 100)
    assert tokenizer.surface(encoded.ids) == (
        critic_prompt("Judge.", "Evidence: x") + "[Relevant]</s>"
    )
    learned = [i for i, w in zip(encoded.ids, encoded.weights, strict=True) if w]
    assert tokenizer.surface(learned) == "[Relevant]</s>"


def test_evidence_is_cut_and_the_label_never():
    tokenizer = ScriptedTokenizer()
    long = critic_row("Task instruction: Q\nEvidence: " + "word " * 500)
    encoded = encode_critic_row(long, tokenizer, 60)
    assert len(encoded.ids) <= 60
    surface = tokenizer.surface(encoded.ids)
    assert surface.startswith(
        "### Instruction:\nJudge.\n\n### Input:\nTask instruction: Q\nEvidence"
    )
    assert surface.endswith("### Response:[Relevant]</s>")
    with pytest.raises(BadInput, match="max_tokens is 5"):
        encode_critic_row(long, tokenizer, 5)


ROW = {"instruction": "Judge.", "input": "Evidence: x", "output": "[Relevant]", "task": "relevance"}


def test_rows_of_the_released_schema_and_of_ours_are_read(tmp_path):
    path = tmp_path / "critic.jsonl"
    rows = [
        ROW,
        {**ROW, "task": "groudness", "output": "[Fully supported]"},
        {**ROW, "group": "retrieve_sentence", "output": "[Retrieval]", "task": "multi_retrieval"},
        {**ROW, "output": "[Fully supported]"},
        {**ROW, "task": "unheard of"},
        {"task": "relevance"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_critic_rows(path)
    groups = [Group.RELEVANCE, Group.SUPPORT, Group.RETRIEVE_SENTENCE]
    assert [row.group for row in found.rows] == groups
    assert [reject.number for reject in found.rejects] == [4, 5, 6]
    assert found.counts["relevance"] == {"[Irrelevant]": 0, "[Relevant]": 1}


def test_every_group_is_held_out_in_its_share():
    rows = [critic_row(str(i)) for i in range(60)]
    support = LABELS[Group.SUPPORT][0]
    rows += [critic_row(str(i), group=Group.SUPPORT, label=support) for i in range(30)]
    training, measured = split_rows(rows, 6)
    assert [row.group for row in measured].count(Group.RELEVANCE) == 4
    assert [row.group for row in measured].count(Group.SUPPORT) == 2
    assert len(training) == 84


def test_a_file_without_a_single_critic_row_is_refused(tmp_path):
    path = tmp_path / "critic.jsonl"
    path.write_text('{"instruction": "x"}\n')
    with pytest.raises(BadInput, match="line 1 misses 'task'"):
        load_critic_rows(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    pytest.importorskip("peft")
    return save_tiny_model(tmp_path_factory.mktemp("base"), [])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("critic") / "critic.jsonl"
    rows = []
    for i in range(120):
        letter, label = ("x", "[Relevant]") if i % 3 else ("y", "[Irrelevant]")
        rows.append({**ROW, "input": f"Evidence: {letter * 5}", "output": label, "id": f"r{i}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", ["text", "token"])
def test_a_critic_learns_and_is_measured(base, data, tmp_path, form):
    from selfrag.train.checkpoints import plot_run
    from selfrag.train.critic import plot_reliability, train_critic
    from selfrag.train.critic_data import LabelForm

    config = TrainConfig(
        base=str(base),
        out=str(tmp_path / "run"),
        method="full",
        learning_rate=1e-2,
        max_tokens=200,
        tokens_per_batch=1000,
        epochs=4,
    )
    trained = train_critic(data, config, LabelForm(form))
    found = trained.quality["relevance"]
    assert found.n == 12
    assert found.majority < found.accuracy == 1.0
    report = json.loads((tmp_path / "run" / "critic.json").read_text())
    assert report["counts"]["relevance"] == {"[Irrelevant]": 40, "[Relevant]": 80}
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert all(sum(json.loads(line)["probs"].values()) == pytest.approx(1) for line in lines)
    plot = plot_reliability(trained.quality, tmp_path / "reliability.png")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot_run(tmp_path / "run").is_file()


def test_a_shared_prompt_gives_the_probabilities_of_every_label_read_alone(base, tmp_path):
    import torch

    from selfrag.train.batches import collate, token_losses
    from selfrag.train.critic import label_probs
    from selfrag.train.examples import pack_tree
    from selfrag.train.model import file_tokenizer, load_model, load_tokenizer

    config = TrainConfig(base=str(base), out=str(tmp_path), max_tokens=200, method="full")
    model = load_model(config)
    tokenizer = file_tokenizer(load_tokenizer(str(base)), tmp_path)
    support = critic_row("y", group=Group.SUPPORT, label=LABELS[Group.SUPPORT][0])
    rows = [critic_row("xx"), support]
    for row, probs in zip(rows, label_probs(model, rows, tokenizer, config), strict=True):
        logprobs = []
        for label in LABELS[row.group]:
            tree = pack_tree([encode_critic_row(row, tokenizer, 200, label)])
            with torch.no_grad():
                logprobs.append(-float(token_losses(model, collate([tree])).sum()))
        expected = np.exp(np.array(logprobs) - np.logaddexp.reduce(logprobs))
        assert np.allclose(probs, expected, atol=1e-4)
