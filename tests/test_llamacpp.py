"""GGUF files on llama.cpp: vocabularies, room for rows, adapters, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("xllamacpp")
gguf = pytest.importorskip("gguf")

import small_bases  # noqa: E402
from selfrag.cli.doctor import examine  # noqa: E402
from selfrag.engine import llama_h, llamacpp  # noqa: E402
from selfrag.engine.base import Request  # noqa: E402
from selfrag.engine.gguf_vocabulary import GgufTokenizer  # noqa: E402
from selfrag.engine.llamacpp import LlamaCppEngine  # noqa: E402
from selfrag.engine.tokenizer import open_tokenizer  # noqa: E402
from selfrag.errors import BadInput, EngineError  # noqa: E402
from selfrag.open.engines import EngineKind, ModelOptions, open_engine  # noqa: E402
from selfrag.prompt import PromptFormat  # noqa: E402
from selfrag.train.gguf_file import GgufType, write_gguf  # noqa: E402
from test_engine_contract import assert_greedy, assert_same, requests  # noqa: E402
from tiny_model import TOKENS, save_tiny_model  # noqa: E402

TEXTS = (
    "Which planet has the moon Titan?",
    " two  spaces\n\nand lines\n",
    "1610, café, 東京 and ab",
    "say [Relevant] or <paragraph>x</paragraph>[Utility:5]",
    "[[Relevant][Relevant]]",
    "",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), TOKENS)


@pytest.fixture(scope="module")
def tiny_gguf(tiny):
    return write_gguf(tiny, tiny / "tiny.gguf", GgufType.F32)


@pytest.fixture(scope="module")
def model(tiny):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny).eval()


def engine_of(path, **options):
    return LlamaCppEngine(path, name="tiny", n_threads=1, **options)


def test_it_computes_what_a_full_forward_pass_does(tiny_gguf, model):
    engine = engine_of(tiny_gguf)
    batch = requests(engine, max_new_tokens=12)
    assert len(batch) == 7
    for request, completion in zip(batch, engine.generate(batch), strict=True):
        assert_greedy(model, request, completion)


def test_8_bits_change_log_probabilities_a_little(tiny, tiny_gguf):
    small = write_gguf(tiny, tiny / "small.gguf", GgufType.Q8_0)
    batch = requests(engine_of(tiny_gguf), max_new_tokens=1)
    exact, rounded = (engine_of(path).generate(batch) for path in (tiny_gguf, small))
    moved = [np.abs(a.watched - b.watched).max() for a, b in zip(exact, rounded, strict=True)]
    assert 0 < max(moved) < 1.0


@pytest.mark.parametrize("family", ["smollm", "llama2"])
def test_the_vocabulary_of_the_file_reads_as_that_of_the_folder(tmp_path, family):
    size = small_bases.save_tokenizer(tmp_path, getattr(small_bases, family))
    small_bases.save_model(tmp_path, "llama", size, tied=False)
    path = write_gguf(tmp_path, tmp_path / "m.gguf", GgufType.F16)
    own, folder = GgufTokenizer(path), open_tokenizer(tmp_path)
    assert own.start_ids == folder.start_ids
    assert own.end_of_sequence_id == folder.end_of_sequence_id
    for text in small_bases.TEXTS:
        ids = own.encode(text)
        assert ids == folder.encode(text) == own.encode(text, continues=True)
        assert own.decode([*ids, own.end_of_sequence_id]).strip() == text.strip()


def mark_user_defined(folder):
    """Reflection tokens as most converters write them: added, but not special."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    for token in data["added_tokens"]:
        token["special"] = token["content"] not in TOKENS
    path.write_text(json.dumps(data))
    return folder


def test_no_text_forges_a_token_that_the_file_marks_as_user_defined(tmp_path):
    plain = open_tokenizer(save_tiny_model(tmp_path, TOKENS))
    path = write_gguf(mark_user_defined(tmp_path), tmp_path / "m.gguf", GgufType.F32)
    kinds = gguf.GGUFReader(path).get_field("tokenizer.ggml.token_type").contents()
    assert kinds.count(gguf.TokenType.USER_DEFINED) == 15
    own = GgufTokenizer(path)
    ids = PromptFormat.of(own).ids  # which tries to forge them all
    for text in TEXTS:
        assert own.encode(text) == plain.encode(text)
        assert own.decode([ids.all[0], *own.encode(text), *ids.all]) == text


def test_no_text_forges_one_in_a_vocabulary_that_puts_a_space_before_words(tmp_path):
    size = small_bases.save_tokenizer(tmp_path, small_bases.llama2)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["added_tokens"] += [
        {**data["added_tokens"][0], "id": size + n, "content": token, "special": True}
        for n, token in enumerate(TOKENS)
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    small_bases.save_model(tmp_path, "llama", size + 15, tied=False)
    plain = open_tokenizer(tmp_path)
    path = write_gguf(mark_user_defined(tmp_path), tmp_path / "m.gguf", GgufType.F16)
    own = GgufTokenizer(path)
    assert PromptFormat.of(own).ids == PromptFormat.of(plain).ids
    for text in TEXTS[:1] + TEXTS[3:5]:
        ids = own.encode(text)
        assert not set(ids) & set(PromptFormat.of(own).ids.all)
        assert own.decode(ids).strip() == text


def test_a_file_without_reflection_tokens_is_refused_before_its_weights_are_read(tmp_path):
    path = write_gguf(save_tiny_model(tmp_path, []), tmp_path / "m.gguf", GgufType.F32)
    with pytest.raises(BadInput, match="cannot ask m for reflections: its vocabulary lacks 15"):
        open_engine(ModelOptions(model=str(path)))
    assert open_engine(ModelOptions(model=str(path)), reflects=False).name == "m"


def test_rows_that_do_not_fit_together_are_completed_in_parts(tiny_gguf, monkeypatch):
    batch = [
        replace(r, prefix_ids=(n, *r.prefix_ids * 3)[:200])
        for n, r in enumerate(requests(engine_of(tiny_gguf), [60] * 6))
    ]
    expected = [engine_of(tiny_gguf).generate([request])[0] for request in batch]
    monkeypatch.setattr(llamacpp, "_CELLS", (512, 512))
    engine = engine_of(tiny_gguf)
    for _ in range(2):
        for found, one in zip(engine.generate(batch), expected, strict=True):
            assert_same(found, one)


def test_many_different_prompts_leave_sequences_for_the_next(tiny_gguf):
    engine = engine_of(tiny_gguf)
    batch = [Request(prefix_ids=(n, 20, 21), max_new_tokens=2) for n in range(250)]
    first = engine.generate(batch)
    again = engine.generate(batch)
    assert [a.token_ids for a in first] == [b.token_ids for b in again]
    assert len(first) == 250


def test_an_adapter_is_added_to_the_model(tiny, tiny_gguf, model, tmp_path):
    rng = np.random.default_rng(0)
    down, up = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 32), (16, 4)))
    adapter = tmp_path / "mine.gguf"
    writer = gguf.GGUFWriter(adapter, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    writer.add_tensor("blk.0.attn_v.weight.lora_a", down)
    writer.add_tensor("blk.0.attn_v.weight.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    engine = open_engine(ModelOptions(model=f"{tiny_gguf},{adapter}"))
    assert engine.name == "tiny+mine"
    import torch

    value = model.model.layers[0].self_attn.v_proj.weight
    added = torch.from_numpy(2.0 / 4 * up @ down)
    with torch.no_grad():
        value += added
    (request,) = requests(engine, [41], max_new_tokens=6)
    assert_greedy(model, request, engine.generate([request])[0])
    with torch.no_grad():
        value -= added
    with pytest.raises(EngineError, match=r"cannot add the adapter .*made for this very model"):
        open_engine(ModelOptions(model=f"{tiny_gguf},{tiny_gguf}"))


def test_what_is_no_gguf_or_is_damaged_is_named(tiny_gguf, tmp_path):
    wrong = tmp_path / "x.gguf"
    with pytest.raises(BadInput, match=r"cannot open the model .*x\.gguf: No such file"):
        open_engine(ModelOptions(model=str(wrong)))
    wrong.write_bytes(b"PK\x03\x04")
    with pytest.raises(BadInput, match=r"begins with b'PK.*expected a GGUF file"):
        open_engine(ModelOptions(model=str(wrong)))
    wrong.write_bytes(tiny_gguf.read_bytes()[:5000])
    with pytest.raises(EngineError, match=r"llama.cpp says .*; expected a GGUF file"):
        open_engine(ModelOptions(model=str(wrong)))


def test_an_engine_that_cannot_read_the_model_is_refused(tiny, tiny_gguf):
    with pytest.raises(BadInput, match="it is a GGUF file, which llamacpp alone reads"):
        open_engine(ModelOptions(model=str(tiny_gguf), engine=EngineKind.NUMPY))
    with pytest.raises(BadInput, match="expected a GGUF file, so make one with `selfrag export"):
        open_engine(ModelOptions(model=str(tiny), engine=EngineKind.LLAMACPP))


def test_another_tokenizer_is_used_where_it_has_the_same_reflection_tokens(
    tiny, tiny_gguf, tmp_path
):
    engine = open_engine(ModelOptions(model=str(tiny_gguf), tokenizer=str(tiny)))
    assert type(engine.tokenizer).__name__ == "FileTokenizer"
    other = save_tiny_model(tmp_path, TOKENS[::-1])
    with pytest.raises(BadInput, match="the two disagree on the ids of reflection tokens"):
        open_engine(ModelOptions(model=str(tiny_gguf), tokenizer=str(other)))


def test_another_layout_of_llama_cpp_is_refused(monkeypatch):
    llama_h.llama()
    monkeypatch.setitem(llama_h._CONTEXT_DEFAULTS, "n_ubatch", 513)
    llama_h.llama.cache_clear()
    with pytest.raises(EngineError, match="its structs have another layout; install xllamacpp=="):
        llama_h.llama()
    monkeypatch.undo()
    llama_h.llama.cache_clear()


def test_the_doctor_checks_the_scores_of_a_file(tiny_gguf):
    found = {each.name: each for each in examine(ModelOptions(model=str(tiny_gguf)))}
    assert found["model"].found.startswith("tiny, llamacpp engine (a GGUF file) on cpu")
    assert found["reflection tokens"].found.startswith("15 tokens, ids ")
    assert found["scores"].ok and "can be trusted" in found["scores"].found
