"""Blocks of keys and values: shared, copied where rows part, and more of them when all are used."""

import os

import numpy as np
import pytest

pytest.importorskip("openvino")
pytest.importorskip("torch")

from selfrag.engine import graph, paged
from selfrag.engine.base import Precision, Request
from selfrag.engine.graph import has_bf16
from selfrag.engine.numpy_llama import LlamaEngine
from selfrag.errors import EngineError
from test_engine_contract import assert_same
from tiny_model import TOKENS, save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), TOKENS)


def branches(n_prefix):
    """Rows that part after `n_prefix` ids, and later ones that go on from what they wrote."""
    prefix = tuple(1 + i % 40 for i in range(n_prefix))
    return [
        Request(prefix_ids=prefix, suffix_ids=(50 + n, 3 + n), max_new_tokens=20, watch_ids=(1, 2))
        for n in range(3)
    ]


@pytest.mark.parametrize("n_prefix", [1, 31, 32, 33, 63, 64, 90])
def test_rows_that_part_within_a_block_and_a_pool_that_grows_change_nothing(
    folder, monkeypatch, n_prefix
):
    monkeypatch.setattr(paged, "_FIRST_BLOCKS", 1)
    engine = paged.PagedEngine(folder, name="paged", max_batch=2)
    other = LlamaEngine(folder, name="numpy", cache_bytes=0)
    batch = branches(n_prefix)
    found, expected = engine.generate(batch), other.generate(batch)
    for one, reference in zip(found, expected, strict=True):
        assert_same(one, reference)
    longer = [
        Request(prefix_ids=request.prompt_ids + done.token_ids, max_new_tokens=9, watch_ids=(1, 2))
        for request, done in zip(batch, expected, strict=True)
    ]
    for one, reference in zip(engine.generate(longer), other.generate(longer), strict=True):
        assert_same(one, reference)


def test_blocks_go_back_to_the_pool_when_nothing_is_kept(folder):
    engine = paged.PagedEngine(folder, name="paged", cache_bytes=0)
    pool = engine._batcher._model._pool
    n_free = len(pool.free)
    engine.generate(branches(70))
    assert len(pool.free) == n_free and len(set(pool.free)) == n_free


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 instructions")
def test_bf16_weights_are_packed_once_and_read_back(folder, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    first = paged.PagedEngine(copy, name="mixed", precision=Precision.MIXED)
    packed = copy / "packed.bf16"
    written = packed.read_bytes()
    assert [file.name for file in copy.glob("*.safetensors")] == ["model.safetensors"]
    again = paged.PagedEngine(copy, name="mixed", precision=Precision.MIXED)
    assert packed.read_bytes() == written
    for one, other in zip(first.generate(branches(40)), again.generate(branches(40)), strict=True):
        assert one.token_ids == other.token_ids
        assert np.array_equal(one.watched, other.watched)
    # Other weights are packed again, and not taken from the file of the old ones.
    os.utime(copy / "model.safetensors", ns=(1, 1))
    paged.PagedEngine(copy, name="mixed", precision=Precision.MIXED)
    assert packed.read_bytes() != written
    # A damaged file is made anew, in place of packing at every start.
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    paged.PagedEngine(copy, name="mixed", precision=Precision.MIXED)
    assert packed.read_bytes() == whole


def test_a_precision_that_the_processor_lacks_is_refused(folder, monkeypatch):
    monkeypatch.setattr(graph, "has_bf16", lambda: False)
    with pytest.raises(EngineError, match=r"in mixed: this processor has no bf16.*exact"):
        paged.PagedEngine(folder, name="paged", precision=Precision.MIXED)


def test_what_openvino_refuses_is_an_error_of_ours(folder, monkeypatch):
    engine = paged.PagedEngine(folder, name="paged")

    def refuse():
        raise RuntimeError("bad allocation")

    class Refusing:
        set_tensor = staticmethod(lambda name, tensor: None)
        infer = staticmethod(refuse)

    monkeypatch.setattr(engine._batcher._model._llama, "_request", Refusing())
    with pytest.raises(EngineError, match=r"cannot read \d+ tokens together: bad allocation"):
        engine.generate(branches(5))
