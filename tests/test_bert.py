"""The numpy encoder: GELU by hand, and the states of a tiny random BERT against transformers."""

import json
import math
import shutil

import numpy as np
import pytest

from selfrag.retrieval.encoder.bert import Bert, gelu

TEXTS = [(2, 7, 9, 3), (2, 3), tuple(range(1, 33)), (5,)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a two-layer BERT, and the transformers model that wrote it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:  # else all 0 or 1: nothing would show
                weight.normal_(std=0.5)
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return folder, model


def test_gelu_is_x_times_the_normal_distribution_function():
    # 2 x Phi(2) = 2 x 0.977250 = 1.954500; -2 x Phi(-2) = -0.045500.
    xs = np.array([[-40, -6, -2, -0.5, 0, 0.5, 2, 6, 40]], np.float32)
    expected = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in xs[0].tolist()]
    assert np.allclose(gelu(xs.copy())[0], expected, atol=5e-7)
    assert np.allclose(gelu(xs.copy())[0, [2, 6]], [-0.0455, 1.9545], atol=1e-5)


def test_states_equal_those_of_transformers(tiny):
    import torch

    folder, model = tiny
    for ids, found in zip(TEXTS, Bert(folder).states(TEXTS), strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        assert found.dtype == np.float32
        assert np.allclose(found, expected, atol=1e-5)


def test_no_text_sees_another(tiny):
    bert = Bert(tiny[0])
    together = bert.states(TEXTS)
    for ids, found in zip(TEXTS, together, strict=True):
        (alone,) = bert.states([ids])
        assert np.allclose(found, alone, atol=1e-5)
    assert bert.states([]) == []


def test_a_prefix_before_all_names_is_left_out(tiny, tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    folder = shutil.copytree(tiny[0], tmp_path / "copy")
    path = folder / "model.safetensors"
    numpy_io.save_file({f"bert.{n}": w for n, w in numpy_io.load_file(path).items()}, path)
    expected = Bert(tiny[0]).states(TEXTS)[0]
    assert np.array_equal(Bert(folder).states(TEXTS)[0], expected)


@pytest.mark.parametrize("change", [{"model_type": "roberta"}, {"hidden_act": "relu"}])
def test_a_model_of_another_kind_is_refused(tiny, tmp_path, change):
    folder = shutil.copytree(tiny[0], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        Bert(folder)


def test_a_damaged_file_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny[0], tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        Bert(folder)
