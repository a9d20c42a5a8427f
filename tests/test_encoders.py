"""Encoders by name on a tiny BERT: pooling by hand, prefixes, int8, and what may not be mixed."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from selfrag.assets import asset_path, is_cached, named
from selfrag.cli.console import Reporter
from selfrag.errors import AssetError, ConfigError, IndexMismatch
from selfrag.open import indexes
from selfrag.passage import Passage
from selfrag.retrieval.build import open_manifest, open_writer
from selfrag.retrieval.encoder import named as encoders
from selfrag.retrieval.encoder.base import (
    MeanPoolingEncoder,
    SentenceTransformerEncoder,
    encode_passages,
    encode_queries,
)
from selfrag.retrieval.encoder.named import open_encoder, reopen_encoder, usual_precision
from selfrag.retrieval.options import SearchMode, SearchOptions
from selfrag.retrieval.spec import (
    CONTRIEVER,
    DEFAULT_ENCODER,
    E5,
    EncoderSpec,
    Metric,
    Precision,
    recipe_for,
)
from selfrag.retrieval.store import PassageStore
from selfrag.serial import from_builtins
from tiny_bert import save_tiny_bert
from words import WordEncoder

TEXTS = ["Titan is the moon of Saturn.", "bread", "a bakery sells bread early " * 20, "the moons"]
TITAN = Passage(id="1", title="Titan", text="the moon of saturn")


@pytest.fixture(scope="module")
def contriever(tmp_path_factory):
    """A folder of the name, holding a bare model as facebook/contriever-msmarco does; the model."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models") / "contriever-msmarco"
    folder.mkdir()
    return folder, save_tiny_bert(folder)


def copy_as(contriever, tmp_path: Path, name: str) -> Path:
    return Path(shutil.copytree(contriever[0], tmp_path / name))


def pooled_by_hand(model, ids: list[list[int]]) -> np.ndarray:
    """The sum of states over the attention mask, divided by its sum, one padded batch."""
    import torch

    width = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    with torch.inference_mode():
        states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    return ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()


def token_ids(folder: Path, texts: list[str], limit: int) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    return [tokenizer.encode(text).ids for text in texts]


def test_contriever_is_the_mean_over_the_attention_mask_and_nothing_else(contriever):
    folder, model = contriever
    expected = pooled_by_hand(model, token_ids(folder, TEXTS, 64))
    encoder = open_encoder(str(folder), device="cpu")
    assert np.allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    queries = reopen_encoder(encoder.spec)
    assert isinstance(queries, MeanPoolingEncoder)
    assert np.allclose(queries.encode(TEXTS), expected, atol=1e-5)
    assert not np.allclose(np.linalg.norm(expected, axis=1), 1.0, atol=0.1)
    assert encoder.encode([]).shape == (0, 24)


def test_a_contriever_passage_is_title_space_text(contriever):
    folder, model = contriever
    encoder = open_encoder(str(folder), device="cpu")
    expected = pooled_by_hand(model, token_ids(folder, ["Titan the moon of saturn"], 64))
    assert np.allclose(encode_passages(encoder, [TITAN]), expected, atol=1e-5)
    assert encoder.spec == EncoderSpec(
        name=str(folder),
        dim=24,
        normalised=False,
        metric=Metric.DOT,
        title_separator=" ",
        max_tokens=64,  # 512, but this model has places for 64
        pooling="mean",
    )


def test_e5_texts_have_their_prefixes_and_unit_vectors(contriever, tmp_path):
    folder = copy_as(contriever, tmp_path, "multilingual-e5-small")
    encoder = open_encoder(str(folder), device="cpu")
    texts = ["query: the moon", "passage: Titan. the moon of saturn"]
    expected = pooled_by_hand(contriever[1], token_ids(folder, texts, 64))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(encode_queries(encoder, ["the moon"])[0], expected[0], atol=1e-5)
    assert np.allclose(encode_passages(encoder, [TITAN])[0], expected[1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("facebook/contriever", CONTRIEVER),
        ("/models/contriever-msmarco/", CONTRIEVER),
        ("intfloat/e5-base-v2", E5),
        ("intfloat/e5-large-unsupervised", E5),
        ("intfloat/multilingual-e5-large-instruct", None),
        ("intfloat/e5-mistral-7b-instruct", None),
        ("all-MiniLM-L6-v2", None),
    ],
)
def test_families_are_known_by_name(name, recipe):
    assert recipe_for(name) == recipe


def test_a_folder_says_how_it_is_used(contriever, tmp_path):
    folder = copy_as(contriever, tmp_path, "own")
    use = {"prompts": {"query": "q: ", "document": "d: "}, "similarity_fn_name": "dot"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(use))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    spec = MeanPoolingEncoder(folder, name="own").spec
    assert (spec.query_prefix, spec.passage_prefix) == ("q: ", "d: ")
    assert (spec.normalised, spec.max_tokens) == (False, 7)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_onnx_gives_the_vectors_of_numpy(contriever, precision):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from selfrag.retrieval.encoder.onnx import OnnxEncoder

    expected = MeanPoolingEncoder(contriever[0], name="m", recipe=CONTRIEVER).encode(TEXTS)
    encoder = OnnxEncoder(
        contriever[0], name="m", precision=precision, recipe=CONTRIEVER, n_threads=2
    )
    found = encoder.encode(TEXTS)
    assert found.dtype == np.float32
    if precision is Precision.FP32:
        assert np.allclose(found, expected, atol=1e-5)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() > 0.98
    assert encoder.encode([]).shape == (0, 24)
    # No text sees another, so a batch of its own changes rounding alone.
    assert np.allclose(encoder.encode(TEXTS[::-1])[::-1], found, atol=0.1)


def test_int8_weights_are_rounded_within_half_a_step_where_nothing_is_cut():
    from selfrag.retrieval.encoder.onnx import quantised

    # Largest 64, so steps of 1 without cutting; cut, the 64 alone would be off by 3.2 or more.
    weights, scales = quantised(np.array([[64.0, -2.0], [-3.4, 1.0]], np.float32))
    assert scales.tolist() == [1.0, 2.0 / 64]
    assert weights.tolist() == [[64, -64], [-3, 32]]


def test_int8_is_for_cpus_and_for_mean_pooled_bert(contriever, tmp_path):
    with pytest.raises(ConfigError, match="int8 on cuda: expected cpu"):
        open_encoder(str(contriever[0]), precision=Precision.INT8, device="cuda")
    pytest.importorskip("onnxruntime")
    folder = copy_as(contriever, tmp_path, "cls")
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1").mkdir()
    (folder / "1" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(AssetError, match=r"pooled by .'cls'., expected the mean"):
        open_encoder(str(folder), precision=Precision.INT8)


def test_bf16_vectors_are_near_those_of_fp32(contriever):
    encoder = open_encoder(str(contriever[0]), precision=Precision.BF16, device="cpu")
    vectors = encoder.encode(TEXTS)
    expected = open_encoder(str(contriever[0]), device="cpu").encode(TEXTS)
    assert vectors.dtype == np.float32
    assert encoder.spec.precision is Precision.BF16
    assert np.abs(vectors - expected).max() < 0.1
    assert not np.array_equal(vectors, expected)


def test_an_index_reopens_its_own_model_and_no_other(contriever, tmp_path):
    spec = open_encoder(str(contriever[0]), device="cpu").spec
    assert not spec.difference(reopen_encoder(replace(spec, precision=Precision.INT8)).spec)
    short = reopen_encoder(replace(spec, max_tokens=3))
    assert short.spec.max_tokens == 64  # passages were cut; a question is not
    moved = copy_as(contriever, tmp_path, "elsewhere")
    again = reopen_encoder(replace(spec, name="facebook/contriever-msmarco"), folder=moved)
    assert again.spec.normalised is False
    assert np.allclose(again.encode(TEXTS), reopen_encoder(spec).encode(TEXTS))
    with pytest.raises(IndexMismatch, match="dim 768 against 24"):
        reopen_encoder(replace(spec, dim=768))
    with pytest.raises(IndexMismatch, match="pooling 'cls' against 'mean'"):
        reopen_encoder(replace(spec, pooling="cls"))


def test_an_index_is_searched_with_the_model_it_was_built_with(contriever, tmp_path):
    pytest.importorskip("onnxruntime")
    encoder = open_encoder(str(contriever[0]), precision=Precision.INT8)
    passages = [TITAN, replace(TITAN, id="2", title="", text="a bakery sells bread early.")]
    PassageStore.build(passages, encoder, tmp_path / "index")
    store = indexes.open_index(tmp_path / "index", Reporter())
    assert store.manifest.encoder == encoder.spec
    assert encoder.spec.precision is Precision.INT8
    exact = reopen_encoder(encoder.spec)
    scores = encode_passages(exact, passages) @ encode_queries(exact, ["saturn"])[0]
    hits = store.search(["saturn"], 2, options=SearchOptions(mode=SearchMode.DENSE))[0]
    # Inner products of vectors that are not normalised: int8 is off by a part of their lengths.
    by_id = {passage.id: score for passage, score in zip(passages, scores, strict=True)}
    assert [hit.score for hit in hits] == pytest.approx(
        [by_id[hit.passage.id] for hit in hits], rel=0.2
    )
    with open_writer(tmp_path / "index", encoder) as writer:
        assert writer.put([replace(TITAN, id="3")]) == 1
    other = SentenceTransformerEncoder(contriever[0], name=encoder.spec.name, recipe=E5)
    with pytest.raises(IndexMismatch, match=r"normalised False against True, .*passage_prefix ''"):
        open_manifest(tmp_path / "index", other, for_passages=True)


def test_an_index_whose_model_is_not_here_is_refused(tmp_path):
    PassageStore.build([TITAN], WordEncoder(name="./gone"), tmp_path / "index")
    with pytest.raises(IndexMismatch, match="built with another encoder than any found here"):
        indexes.open_index(tmp_path / "index", Reporter())


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "a/b/c"])
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(AssetError, match="found no such folder, expected one or a name"):
        open_encoder(name)


def test_a_name_that_the_hub_does_not_know_is_told(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match="cannot load encoder 'no-one/model': the hub says"):
        open_encoder("no-one/model")


def test_short_names_of_contriever_are_those_of_the_hub(contriever, monkeypatch):
    asked = []
    monkeypatch.setattr(encoders, "_from_hub", lambda name: asked.append(name) or contriever[0])
    assert open_encoder("contriever", device="cpu").spec.name == "facebook/contriever"
    assert asked == ["facebook/contriever"]


@pytest.mark.parametrize(
    ("name", "device", "precision"),
    [
        (DEFAULT_ENCODER, "cpu", Precision.INT8),
        (DEFAULT_ENCODER, "cuda:0", Precision.FP32),
        ("intfloat/e5-small-v2", "cpu", Precision.FP32),
    ],
)
def test_int8_is_usual_for_the_default_encoder_on_a_cpu_alone(name, device, precision):
    assert usual_precision(name, device=device) is precision


# What an index records


SPEC = EncoderSpec(name="m", dim=3)
CHANGES = {
    "name": "n",
    "dim": 4,
    "normalised": False,
    "metric": Metric.COSINE,
    "query_prefix": "q",
    "pooling": "cls",
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_makes_vectors_another_kind_is_a_difference(field):
    other = replace(SPEC, **{field: CHANGES[field]})
    assert field in SPEC.difference(other)
    assert field in SPEC.difference(other, for_passages=True)


@pytest.mark.parametrize(
    "change", [{"passage_prefix": "p"}, {"title_separator": " "}, {"max_tokens": 9}]
)
def test_how_passages_are_written_matters_to_passages_alone(change):
    other = replace(SPEC, **change)
    assert SPEC.difference(other) == ""
    assert next(iter(change)) in SPEC.difference(other, for_passages=True)


def test_a_spec_is_read_back_from_json():
    spec = replace(SPEC, precision=Precision.INT8, metric=Metric.COSINE)
    written = json.loads(json.dumps(asdict(spec)))
    assert from_builtins(EncoderSpec, written) == spec
    assert type(from_builtins(EncoderSpec, written).metric) is Metric
    assert from_builtins(EncoderSpec, {"name": "m", "dim": 3}) == SPEC  # written before pooling was


@pytest.mark.parametrize(
    "change", [{"dim": "3"}, {"dim": True}, {"metric": "l7"}, {"normalised": 1}, {"colour": "red"}]
)
def test_a_spec_with_values_of_other_kinds_is_refused(change):
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_builtins(EncoderSpec, {**asdict(SPEC), **change}, closed=True)


@pytest.mark.real
@pytest.mark.skipif(not is_cached(named("encoder")), reason="the encoder is not in the cache")
def test_int8_keeps_the_directions_of_the_packaged_model():
    pytest.importorskip("onnxruntime")
    texts = ["Titan is the largest moon of Saturn.", "A bakery sells bread, most of it early. " * 9]
    vectors = open_encoder(precision=Precision.INT8).encode(texts)
    exact = MeanPoolingEncoder(asset_path(named("encoder")), name="m").encode(texts)
    assert (vectors * exact).sum(axis=1).min() > 0.98


def test_without_sentence_transformers_a_mean_pooled_model_runs_on_numpy(contriever, monkeypatch):
    folder = str(contriever[0])
    expected = open_encoder(folder, device="cpu")
    monkeypatch.setattr(encoders, "_LIBRARY", "no_such_package")
    light = open_encoder(folder, device="cpu")
    assert isinstance(light, MeanPoolingEncoder) and light.spec == expected.spec
    assert np.allclose(light.encode(TEXTS), expected.encode(TEXTS), atol=1e-5)
    assert isinstance(
        open_encoder(folder, precision=Precision.BF16, device="cpu"), SentenceTransformerEncoder
    )
