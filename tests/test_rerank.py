"""Reranking: order, ties and ranks by hand, and the two kinds of cross-encoder on tiny models."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrag.assets import named
from selfrag.errors import AssetError, ConfigError
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import FixedRetriever
from selfrag.retrieval.rerank import OnnxCrossEncoder, Reranker, SentenceTransformerCrossEncoder


class TableEncoder:
    """Scores by query and passage id, 0 where none is given."""

    def __init__(self, scores):
        self.scores = scores
        self.calls = []

    def score(self, pairs):
        self.calls.append([(query, passage.id) for query, passage in pairs])
        found = [self.scores.get((query, passage.id), 0.0) for query, passage in pairs]
        return np.array(found, dtype=np.float32)


def hits(names):
    return [
        Hit(passage=Passage(id=name, title="", text=name), score=-float(rank), rank=rank)
        for rank, name in enumerate(names, start=1)
    ]


def ids(found):
    return [[hit.passage.id for hit in each] for each in found]


def test_hits_are_ordered_by_the_cross_encoder_and_hold_its_scores():
    inner = FixedRetriever({"q": hits("abc"), "r": hits("ca")})
    encoder = TableEncoder({("q", "c"): 2.5, ("q", "a"): -1.0, ("r", "a"): 0.5})
    found = Reranker(inner, encoder).search(["q", "r"], 2)
    assert ids(found) == [["c", "b"], ["a", "c"]]
    assert [(hit.score, hit.rank) for hit in found[0]] == [(2.5, 1), (0.0, 2)]
    assert [(hit.score, hit.rank) for hit in found[1]] == [(0.5, 1), (0.0, 2)]


def test_all_pairs_of_all_queries_are_scored_in_one_call():
    encoder = TableEncoder({})
    Reranker(FixedRetriever({"q": hits("ab"), "r": hits("c")}), encoder).search(["r", "x", "q"], 1)
    assert encoder.calls == [[("r", "c"), ("q", "a"), ("q", "b")]]


def test_ties_stay_in_the_order_of_the_inner_retriever():
    inner = FixedRetriever({"q": hits("dbca")})
    assert ids(Reranker(inner, TableEncoder({("q", "a"): 1.0})).search(["q"], 4)) == [list("adbc")]


def test_only_the_candidates_are_read_and_a_passage_beyond_them_cannot_win():
    encoder = TableEncoder({("q", "c"): 9.0})
    found = Reranker(FixedRetriever({"q": hits("abc")}), encoder, n_candidates=2).search(["q"], 1)
    assert ids(found) == [["a"]]
    assert encoder.calls == [[("q", "a"), ("q", "b")]]


def test_hits_beyond_the_candidates_are_put_in_order_among_themselves():
    # One candidate; ranks 2 to 4 are a block of their own, and no score is above that of rank 1.
    inner = FixedRetriever({"q": hits("abcd")})
    encoder = TableEncoder({("q", "a"): 0.5, ("q", "c"): 1.0, ("q", "d"): 0.25})
    (found,) = Reranker(inner, encoder, n_candidates=1).search(["q"], 4)
    assert [(hit.passage.id, hit.score, hit.rank) for hit in found] == [
        ("a", 0.5, 1), ("c", 0.5, 2), ("d", 0.25, 3), ("b", 0.0, 4),
    ]  # fmt: skip


@given(
    st.lists(st.integers(-3, 3), min_size=9, max_size=9),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_the_first_hits_are_the_same_however_many_are_asked_for(scores, n_candidates, weight):
    names = "abcdefghi"
    table = {("q", name): float(score) for name, score in zip(names, scores, strict=True)}
    inner = FixedRetriever({"q": hits(names)})
    reranker = Reranker(inner, TableEncoder(table), n_candidates=n_candidates, weight=weight)
    (most,) = reranker.search(["q"], len(names))
    assert sorted(hit.passage.id for hit in most) == list(names)
    assert all(one.score >= other.score for one, other in pairwise(most))
    for top_k in range(1, len(names)):
        assert reranker.search(["q"], top_k) == [most[:top_k]]


def test_no_queries_no_hits_and_no_wish_for_any_give_nothing():
    reranker = Reranker(FixedRetriever({"q": hits("a")}), TableEncoder({}))
    assert reranker.search([], 3) == []
    assert reranker.search(["unknown"], 3) == [[]]
    assert reranker.search(["q"], 0) == [[]]


def test_the_old_scores_have_a_share_where_one_is_left_to_them():
    # Old scores -1, -2, -3 become 1, .5, 0; new ones 2, 0, 4 become .5, 0, 1.
    inner = FixedRetriever({"q": hits("abc")})
    encoder = TableEncoder({("q", "a"): 2.0, ("q", "c"): 4.0})
    (found,) = Reranker(inner, encoder, weight=0.25).search(["q"], 3)
    assert [(hit.passage.id, hit.score) for hit in found] == [
        ("a", 0.25 * 0.5 + 0.75), ("b", 0.75 * 0.5), ("c", 0.25),
    ]  # fmt: skip
    assert ids(Reranker(inner, encoder, weight=0.75).search(["q"], 3)) == [["c", "a", "b"]]
    assert ids(Reranker(inner, encoder, weight=0).search(["q"], 3)) == [["a", "b", "c"]]
    assert ids(Reranker(inner, TableEncoder({}), weight=0.5).search(["q", "x"], 3)) == [
        ["a", "b", "c"], [],
    ]  # fmt: skip


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(ConfigError, match=r"the weight is .*, expected 0 .* to 1"):
        Reranker(FixedRetriever({}), TableEncoder({}), weight=weight)


def test_less_than_one_candidate_is_refused():
    with pytest.raises(ConfigError, match="n_candidates is 0"):
        Reranker(FixedRetriever({}), TableEncoder({}), n_candidates=0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.integers(1, 8))
def test_reranking_is_a_stable_sort_of_the_inner_hits(scores: list[int], top_k: int) -> None:
    names = "abcdefgh"[: len(scores)]
    table = {("q", name): float(score) for name, score in zip(names, scores, strict=True)}
    inner = FixedRetriever({"q": hits(names)})
    ((*found,),) = Reranker(inner, TableEncoder(table)).search(["q"], top_k)
    expected = sorted(names, key=lambda name: -table["q", name])[:top_k]
    assert [hit.passage.id for hit in found] == expected
    assert [hit.rank for hit in found] == list(range(1, len(expected) + 1))


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    """One protobuf field: a number, or bytes, text or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor_type(element):
    return field(2, field(1, field(1, element) + field(2, field(1, b"") + field(1, b""))))


def onnx_node(kind, inputs, output, attribute=b""):
    named = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    return field(1, named + attribute)


@pytest.fixture
def onnx_folder(tmp_path):
    """A reranker whose logits are (number of tokens, sum of token ids); words are numbers."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("onnxruntime")
    words = {
        word: n for n, word in enumerate("[UNK] query: sentence: what one two three. four".split())
    }
    model = tokenizers.models.WordLevel(words, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    nodes = onnx_node(
        "Cast", ["attention_mask"], "mask", field(5, field(1, "to") + field(3, 1) + field(20, 2))
    )
    nodes += onnx_node(
        "Cast", ["input_ids"], "ids", field(5, field(1, "to") + field(3, 1) + field(20, 2))
    )
    nodes += onnx_node("ReduceSum", ["mask", "axis"], "length")
    nodes += onnx_node("ReduceSum", ["ids", "axis"], "sum")
    nodes += onnx_node(
        "Concat",
        ["length", "sum"],
        "logits",
        field(5, field(1, "axis") + field(3, 1) + field(20, 2)),
    )
    axis = field(1, 1) + field(2, 7) + field(8, "axis") + field(9, struct.pack("<q", 1))
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = b"".join(field(11, field(1, name) + tensor_type(7)) for name in names)
    outputs = field(12, field(1, "logits") + tensor_type(1))
    graph = nodes + field(2, "tiny") + field(5, axis) + inputs + outputs
    opset = field(8, field(1, "") + field(2, 13))
    (tmp_path / "model.onnx").write_bytes(field(1, 8) + field(7, graph) + opset)
    return tmp_path


def test_the_packaged_kind_reads_query_title_and_text_and_gives_the_difference_of_logits(
    onnx_folder,
):
    encoder = OnnxCrossEncoder(onnx_folder)
    titled = Passage(id="1", title="two Three", text="four")
    bare = Passage(id="2", title="", text="four one")
    # query: what sentence: two three. four = 1 3 2 5 6 7: sum 24, 6 tokens; 18.
    # query: what sentence: four one = 1 3 2 7 4: sum 17, 5 tokens; 12.
    scores = encoder.score([("What", titled), ("What", bare)])
    assert scores.dtype == np.float32
    assert scores.tolist() == [18.0, 12.0]


def test_the_packaged_kind_cuts_long_texts_and_scores_nothing_as_nothing(onnx_folder):
    encoder = OnnxCrossEncoder(onnx_folder, max_tokens=4)
    # query: what sentence: four = 1 3 2 7: sum 13, 4 tokens.
    assert encoder.score([("what", Passage(id="", title="", text="four four four"))]).tolist() == [
        9
    ]
    assert encoder.score([]).shape == (0,)


def test_a_folder_without_a_reranker_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(AssetError, match="cannot load the reranker from"):
        OnnxCrossEncoder(tmp_path)


def test_the_asset_names_the_files_that_are_read():
    files = named("reranker").files
    assert [file.path for file in files] == ["model.onnx", "tokenizer.json"]
    assert all(len(file.sha256) == 64 for file in files)


def cross_encoder_folder(folder, n_labels):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] red blue green sky sea . ?".split()
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
        num_labels=n_labels,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return model


def test_any_cross_encoder_of_sentence_transformers_can_score(tmp_path):
    model = cross_encoder_folder(tmp_path, 1)
    import torch
    from transformers import AutoTokenizer

    encoder = SentenceTransformerCrossEncoder(str(tmp_path), batch_size=2)
    passages = [Passage(id=t, title="sky", text=t) for t in ("blue", "red green sea", "?")]
    found = encoder.score([("blue ?", passage) for passage in passages])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    expected = []
    for passage in passages:
        inputs = tokenizer("blue ?", f"sky. {passage.text}", return_tensors="pt")
        with torch.inference_mode():
            expected.append(torch.sigmoid(model(**inputs).logits[0, 0]).item())
    assert len(set(expected)) == 3
    assert np.allclose(found, expected, atol=1e-5)
    assert encoder.score([]).shape == (0,)


def test_a_classifier_with_several_outputs_is_refused(tmp_path):
    cross_encoder_folder(tmp_path, 3)
    with pytest.raises(AssetError, match="3 outputs, not 1"):
        SentenceTransformerCrossEncoder(str(tmp_path))
