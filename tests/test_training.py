"""Training on a tiny model: the tree loss, new rows, resume, the curve."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from small_bases import load_base
from tiny_model import save_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from selfrag.engine.tokenizer import FileTokenizer  # noqa: E402
from selfrag.errors import BadInput, ConfigError  # noqa: E402
from selfrag.passage import Passage  # noqa: E402
from selfrag.prompt import PromptFormat  # noqa: E402
from selfrag.reflection import Relevance, Retrieve, Support, Utility  # noqa: E402
from selfrag.released import GeneratorRecord, SegmentRecord, save_records  # noqa: E402
from selfrag.train.batches import (  # noqa: E402
    attend_by_tree,
    collate,
    make_batches,
    token_losses,
)
from selfrag.train.checkpoints import plot_run  # noqa: E402
from selfrag.train.config import TrainConfig  # noqa: E402
from selfrag.train.data import RenderOptions, prepare_rows  # noqa: E402
from selfrag.train.examples import LossWeights, encode_row, pack_tree  # noqa: E402
from selfrag.train.export import export_adapter  # noqa: E402
from selfrag.train.model import halve_frozen  # noqa: E402
from selfrag.train.run import train_from_file  # noqa: E402


def made(number, text, group=""):
    segment = SegmentRecord(
        retrieve=Retrieve.YES,
        passage=Passage(id="p", title="T", text=f"passage {number % 3}"),
        relevance=Relevance.RELEVANT,
        text=text,
        support=Support.FULL,
    )
    return GeneratorRecord(
        id=f"{number}/{text}",
        dataset="made",
        instruction=f"question {number}",
        segments=(segment,),
        utility=Utility.U5,
        group=group,
    )


def train_from_records(records, config, weights):
    path = Path(config.out).with_suffix(".jsonl")
    save_records(records, path)
    return train_from_file(path, config, weights).folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("base"), []))


def trees_of(records, fmt, max_tokens):
    options = RenderOptions(weights=LossWeights(), max_tokens=max_tokens)
    return prepare_rows(enumerate(records, start=1), fmt, options).trees


def bound(base, tmp_path):
    model, tokenizer, token_ids = load_base(base)
    tokenizer.save_pretrained(str(tmp_path))
    file = FileTokenizer(tmp_path / "tokenizer.json", end_of_sequence="<|im_end|>")
    return model, PromptFormat.of(file), token_ids


def test_new_rows_start_as_the_mean_of_their_words(base):
    model, tokenizer, token_ids = load_base(base)
    rows = model.get_input_embeddings().weight
    # "[Utility:5]" reads as " Utility 5" for the mean
    words = tokenizer(" Utility 5", add_special_tokens=False).input_ids
    row = token_ids[11]
    assert tokenizer.convert_ids_to_tokens(row) == str(Utility.U5)
    assert torch.allclose(rows[row], rows[words].mean(dim=0))
    assert model.get_output_embeddings().weight is rows


def test_a_tree_has_the_losses_of_its_branches_read_alone(base, tmp_path):
    model, fmt, _ = bound(base, tmp_path)
    encoded = [encode_row(made(1, text), fmt, LossWeights()) for text in ("one", "two", "other")]
    with torch.no_grad():
        tree = collate([pack_tree(encoded)])
        together = token_losses(model, tree)
        alone = [token_losses(model, collate([pack_tree([item])])) for item in encoded]
    # Shared losses are counted once in the tree, and in every branch alone.
    shared = len(set.intersection(*({*np.round(a.numpy(), 4)} for a in alone)))
    found = np.sort(together.numpy())
    expected = np.unique(np.round(torch.cat(alone).numpy(), 3))
    assert shared >= 1
    assert np.allclose(np.unique(np.round(found, 3)), expected, atol=2e-3)


def test_packing_changes_no_loss(base, tmp_path):
    model, fmt, _ = bound(base, tmp_path)
    short = pack_tree([encode_row(made(1, "a"), fmt, LossWeights())])
    long = pack_tree([encode_row(made(2, "a much longer text"), fmt, LossWeights())])
    with torch.no_grad():
        both = token_losses(model, collate([short, long]))
        alone = token_losses(model, collate([short]))
        last = token_losses(model, collate([long]))
    assert torch.allclose(both, torch.cat([alone, last]), atol=1e-5)


def test_attention_by_tree_gives_the_losses_and_gradients_of_the_whole_mask(base, tmp_path):
    model, fmt, _ = bound(base, tmp_path)
    texts = [encode_row(made(1, text), fmt, LossWeights()) for text in ("one", "two", "other")]
    row = collate([pack_tree(texts[:2]), pack_tree(texts[2:]), pack_tree(texts)])
    seen = []
    for change in (lambda model: None, attend_by_tree):
        change(model)
        model.zero_grad()
        losses = token_losses(model, row)
        losses.sum().backward()
        seen.append([losses.detach(), *(each.grad.clone() for each in model.parameters())])
    assert model.config._attn_implementation != "sdpa"
    for whole, by_tree in zip(*seen, strict=True):
        assert torch.allclose(whole, by_tree, atol=1e-4)


def test_batches_hold_every_tree_once_within_the_limit(base, tmp_path):
    _, fmt, _ = bound(base, tmp_path)
    records = [made(n, "x" * (n % 7 + 1)) for n in range(60)]
    trees = trees_of(records, fmt, 400)
    batches = make_batches(trees, 400, np.random.default_rng(0))
    assert sorted(id(t) for batch in batches for t in batch) == sorted(id(t) for t in trees)
    assert max(len(b) * max(len(t.ids) for t in b) for b in batches) <= 400


def config(base, out, **options):
    fields = {
        "base": base,
        "out": str(out),
        "tokens_per_batch": 400,
        "max_tokens": 200,
        "lora_rank": 2,
        "lora_alpha": 4,
        "save_steps": 4,
        "held_out_trees": 4,
        "eval_batches": 1,
        "learning_rate": 5e-3,
    }
    return TrainConfig(**{**fields, **options})


RECORDS = [made(n, text, group=str(n)) for n in range(28) for text in ("right", "wrong")]


def test_a_run_learns_and_draws_its_curve(base, tmp_path):
    out = tmp_path / "run"
    train_from_records(RECORDS * 4, config(base, out, learning_rate=2e-2), LossWeights())
    held = [json.loads(line) for line in (out / "held_out.jsonl").read_text().splitlines()]
    assert held[-1]["Utility"] < held[0]["Utility"]
    assert plot_run(out).read_bytes().startswith(b"\x89PNG")


def test_a_run_that_holds_nothing_out_draws_its_curve_without_a_warning(base, tmp_path):
    out = tmp_path / "run"
    settings = config(base, out, held_out_trees=0, max_steps=2, log_steps=1)
    train_from_records(RECORDS[:4], settings, LossWeights())
    assert plot_run(out).read_bytes().startswith(b"\x89PNG")


def test_a_run_goes_on_from_a_shipped_adapter(base, tmp_path):
    first = train_from_records(RECORDS, config(base, tmp_path / "first"), LossWeights())
    shipped = export_adapter(first, tmp_path / "shipped", base_name="tiny", gguf_sha256="0")
    # Without a learning rate the second run ends where it began: at the adapter, rounded to bf16.
    options = {"start": str(shipped), "learning_rate": 0.0}
    second = train_from_records(RECORDS, config(base, tmp_path / "on", **options), LossWeights())
    one = load_file(first / "adapter_model.safetensors")
    other = load_file(second / "adapter_model.safetensors")
    assert one.keys() == other.keys()
    assert all(np.allclose(one[k], other[k], rtol=2**-7, atol=1e-6) for k in one)


def test_a_run_in_bf16_learns_as_one_in_fp32_and_keeps_its_factors_in_fp32(base, tmp_path):
    def last_loss(precision):
        out = tmp_path / precision
        options = {"precision": precision, "learning_rate": 2e-2}
        folder = train_from_records(RECORDS * 4, config(base, out, **options), LossWeights())
        factors = load_file(folder / "adapter_model.safetensors")
        assert {str(each.dtype) for each in factors.values()} == {"float32"}
        return json.loads((out / "held_out.jsonl").read_text().splitlines()[-1])["Utility"]

    assert last_loss("bf16") == pytest.approx(last_loss("fp32"), rel=0.1, abs=0.01)


def test_only_frozen_matrices_are_halved():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    model[1].requires_grad_(False)
    halve_frozen(model)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds == {
        "0.weight": torch.float32,
        "0.bias": torch.float32,
        "1.weight": torch.bfloat16,
        "1.bias": torch.float32,
    }


def test_an_adapter_of_another_rank_is_no_start(base, tmp_path):
    first = train_from_records(RECORDS, config(base, tmp_path / "first"), LossWeights())
    shipped = export_adapter(first, tmp_path / "shipped", base_name="tiny", gguf_sha256="0")
    other = config(base, tmp_path / "on", start=str(shipped), lora_rank=3)
    with pytest.raises(BadInput, match="tensors do not fit the model"):
        train_from_records(RECORDS, other, LossWeights())


def test_a_folder_without_an_adapter_is_no_start(base, tmp_path):
    nowhere = config(base, tmp_path / "on", start=str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="expected an adapter folder as shipped"):
        train_from_records(RECORDS, nowhere, LossWeights())


@pytest.mark.parametrize(
    ("key", "value"),
    [("method", "magic"), ("epochs", 0), ("max_tokens", "many"), ("learning_rate", -1.0)],
)
def test_settings_out_of_range_are_named(base, tmp_path, key, value):
    with pytest.raises(ConfigError, match=f"train.{key} is {value!r}"):
        config(base, tmp_path, **{key: value})


def test_a_batch_smaller_than_an_example_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match="tokens_per_batch is 100"):
        config(base, tmp_path, tokens_per_batch=100)
