"""Encoders: errors without a model; the packaged model when it is in the cache."""

import numpy as np
import pytest

from selfrag.assets import asset_path, is_cached, named
from selfrag.errors import AssetError
from selfrag.retrieval.encoder.base import MeanPoolingEncoder, SentenceTransformerEncoder


@pytest.mark.parametrize("encoder", [MeanPoolingEncoder, SentenceTransformerEncoder])
def test_a_missing_model_folder_is_named(tmp_path, encoder):
    with pytest.raises(AssetError, match=r"cannot load encoder 'm' from .*nowhere: .*fetch the mo"):
        encoder(tmp_path / "nowhere", name="m")


@pytest.mark.real
@pytest.mark.skipif(not is_cached(named("encoder")), reason="the encoder is not in the cache")
def test_both_encoders_give_the_same_unit_vectors():
    texts = ["", "short", "a longer text " * 300, "\u65e5\u672c\u8a9e", "What is rain?"]
    light = MeanPoolingEncoder(asset_path(named("encoder")), name="m", batch_size=2)
    full = SentenceTransformerEncoder(asset_path(named("encoder")), name="m")
    vectors = light.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), light.spec.dim) == (len(texts), full.spec.dim)
    assert np.allclose(vectors, full.encode(texts), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert light.encode([]).shape == full.encode([]).shape == (0, light.spec.dim)
