"""The last steps of the default weights: fitting the gate, and the mean of two adapters."""

import numpy as np
import pytest

from tiny_model import save_tiny_model

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from average import average  # noqa: E402
from gate import fit_gate, fit_row, gate_examples, last_states  # noqa: E402
from selfrag.engine.adapter import ADAPTER_TENSORS, REFLECTION_ROWS, AdapterDescription  # noqa: E402
from selfrag.errors import BadInput  # noqa: E402
from selfrag.reflection import REFLECTION_TOKENS, Retrieve  # noqa: E402
from selfrag.released import GeneratorRecord, SegmentRecord  # noqa: E402
from selfrag.train.export import save_adapter  # noqa: E402

DESCRIPTION = AdapterDescription(
    base_name="tiny",
    gguf_sha256="0",
    rank=1,
    alpha=1,
    tokens=tuple(token.value for token in REFLECTION_TOKENS),
    modules=(),
)


def record(instruction, retrieve):
    return GeneratorRecord(
        id=instruction,
        dataset="made",
        instruction=instruction,
        segments=(SegmentRecord(retrieve=retrieve),),
    )


RECORDS = [record(f"who is {name}", Retrieve.YES) for name in "abcd"] + [
    record(f"write of {name}", Retrieve.NO) for name in "ef"
]


def test_the_row_moves_along_the_difference_of_two_opposite_states():
    # States (1, 0) needs, (-1, 0) does not. With row (r, 0) and yes = 0, both lose log(1 + e^r)
    # and the minimum of 2 log(1 + e^r) + ridge r^2 has 2 / (1 + e^-r) = -2 ridge r.
    row = fit_row(
        np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([True, False]), np.zeros(2), np.zeros(2), 0.5
    )
    assert row[1] == 0
    assert np.isclose(2 / (1 + np.exp(-row[0])), -row[0])


def test_a_kind_counts_the_same_however_many_examples_it_has():
    states = np.array([[1.0, 0.5], [-1.0, 0.2]])
    yes, no = np.array([0.3, -0.1]), np.array([-0.2, 0.4])
    once = fit_row(states, np.array([True, False]), yes, no, 0.1)
    repeated = fit_row(states[[0, 0, 0, 1]], np.array([True, True, True, False]), yes, no, 0.1)
    assert np.allclose(once, repeated)


def test_a_dear_row_stays():
    states = np.random.default_rng(0).normal(size=(20, 5))
    no = np.ones(5)
    row = fit_row(states, np.arange(20) % 2 == 0, np.zeros(5), no, 1e9)
    assert np.allclose(row, no, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ridge_of_zero_or_less_is_refused(ridge):
    with pytest.raises(BadInput, match="a number above 0"):
        fit_row(np.eye(2), np.array([True, False]), np.zeros(2), np.zeros(2), ridge)


def test_examples_of_one_kind_are_refused_and_each_instruction_counts_once():
    instructions, needs = gate_examples([*RECORDS, *RECORDS])
    assert len(instructions) == 6
    assert needs.tolist() == [True] * 4 + [False] * 2
    with pytest.raises(BadInput, match="all of one kind"):
        gate_examples(RECORDS[:4])


def test_only_the_row_of_no_retrieval_changes_and_the_examples_are_told_apart(tmp_path):
    (tmp_path / "model").mkdir()
    model = save_tiny_model(tmp_path / "model", [token.value for token in REFLECTION_TOKENS])
    instructions, needs = gate_examples(RECORDS)
    states = last_states(model, instructions)
    n_dim = states.shape[1]
    rows = torch.zeros(15, n_dim, dtype=torch.bfloat16)
    description = DESCRIPTION
    save_adapter(tmp_path / "old", description, {REFLECTION_ROWS: rows})
    out = fit_gate(model, tmp_path / "old", tmp_path / "new", RECORDS, ridge=1e-4)

    new = load_file(out / ADAPTER_TENSORS)[REFLECTION_ROWS].double().numpy()
    no, yes = (description.tokens.index(token) for token in (Retrieve.NO, Retrieve.YES))
    changed = np.flatnonzero((new != 0).any(axis=1))
    assert changed.tolist() == [no]
    assert (((states @ (new[yes] - new[no])) > 0) == needs).all()


def test_the_mean_of_two_adapters_lies_between_them(tmp_path):
    for name, value in (("before", 1.0), ("after", 4.0)):
        rows = torch.full((15, 2), value, dtype=torch.bfloat16)
        save_adapter(tmp_path / name, DESCRIPTION, {REFLECTION_ROWS: rows})
    for share, value in ((0.5, 2.5), (0.25, 1.75)):
        average(tmp_path / "before", tmp_path / "after", tmp_path / "mean", share)
        mean = load_file(tmp_path / "mean" / ADAPTER_TENSORS)[REFLECTION_ROWS]
        assert mean.dtype == torch.bfloat16 and (mean == value).all()


def test_adapters_of_another_shape_have_no_mean(tmp_path):
    for name, width in (("small", 2), ("large", 3)):
        save_adapter(tmp_path / name, DESCRIPTION, {REFLECTION_ROWS: torch.ones(15, width)})
    with pytest.raises(BadInput, match="differ in base, modules or shapes"):
        average(tmp_path / "small", tmp_path / "large", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
