"""Passages of an index are no longer than its encoder reads, in any script."""

import json

import pytest

from selfrag import indexing
from selfrag.retrieval.encoder.base import (
    MeanPoolingEncoder,
    SentenceTransformerEncoder,
    TokenSpans,
)
from selfrag.retrieval.store import PassageStore
from tiny_bert import save_tiny_bert
from words import WordEncoder

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    save_tiny_bert(folder, max_tokens=32)
    return folder


@pytest.mark.parametrize("kind", [MeanPoolingEncoder, SentenceTransformerEncoder])
def test_an_encoder_tells_all_tokens_of_a_text_in_order(folder, kind):
    encoder = kind(folder, name="tiny")
    text = "the quick  brown fox, twice; " * 40
    spans = encoder.token_spans(text)
    assert isinstance(encoder, TokenSpans)
    # Twenty times what it encodes at once, and nothing but space between them.
    assert len(spans) > 20 * 10
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split())
    assert encoder.token_spans("") == []


@pytest.mark.parametrize(
    "text",
    [
        "one two three four five six seven eight nine ten. " * 40,
        "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002" * 60,
        "function(a,b){return a+b};" * 60,
        "x" * 3000,
    ],
)
@pytest.mark.parametrize("title", ["Title", "a much longer title than anything " * 9])
def test_no_passage_of_an_index_is_cut_off_by_its_encoder(folder, tmp_path, text, title):
    encoder = MeanPoolingEncoder(folder, name="tiny")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"title": title, "text": text}))
    indexing.build([tmp_path / "rows.jsonl"], tmp_path / "index", encoder)
    rows = PassageStore.open(tmp_path / "index", encoder)._table.to_arrow().to_pylist()
    n_title = min(len(encoder.token_spans(title)), 15)
    lengths = [len(encoder.token_spans(row["text"])) + n_title for row in rows]
    assert max(lengths) <= encoder.spec.max_tokens - 2
    assert "".join("".join(row["text"].split()) for row in rows) == "".join(text.split())


def test_an_encoder_that_tells_no_tokens_bounds_nothing():
    assert indexing.token_limit(WordEncoder()) is None
