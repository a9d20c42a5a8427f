"""What every engine promises, and the transformers engine against transformers itself."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from selfrag.engine.base import FinishReason, Request
from selfrag.engine.batching import BatchedEngine
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.errors import BadInput, EngineError
from selfrag.prompt import PromptFormat
from tiny_model import TOKENS, save_tiny_model, save_tokenizer

WORDS = "abcdefghij"
LENGTHS = (3, 90, 17, 1, 41, 60, 2)  # very different, not sorted


def scripted_case():
    """Writes letters that depend on the whole prompt, each with its own probability."""
    tokenizer = ScriptedTokenizer()

    def script(prompt_ids):
        rng = np.random.default_rng(prompt_ids)
        probs = rng.dirichlet(np.ones(len(WORDS)), size=40)
        return say(*(dict(zip(WORDS, row.tolist(), strict=True)) for row in probs))

    return ScriptedEngine(tokenizer, script, max_context=256)


def transformers_case(folder):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from selfrag.engine.transformers import TransformersEngine

    return TransformersEngine(save_tiny_model(folder, TOKENS), name="tiny", max_batch=4)


def llama_case(folder):
    pytest.importorskip("torch")
    from selfrag.engine.numpy_llama import LlamaEngine

    return LlamaEngine(save_tiny_model(folder, TOKENS), name="tiny", max_batch=4)


def paged_case(folder):
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    from selfrag.engine.paged import PagedEngine

    return PagedEngine(save_tiny_model(folder, TOKENS), name="tiny", max_batch=4)


def llamacpp_case(folder):
    pytest.importorskip("torch")
    pytest.importorskip("xllamacpp")
    from selfrag.engine.llamacpp import LlamaCppEngine
    from selfrag.train.gguf_file import GgufType, write_gguf

    path = write_gguf(save_tiny_model(folder, TOKENS), folder / "tiny.gguf", GgufType.F32)
    return LlamaCppEngine(path, name="tiny", n_threads=1, max_batch=4)


def vllm_case(folder):
    pytest.importorskip("torch")
    pytest.importorskip("vllm")
    from selfrag.engine.base import Precision
    from selfrag.engine.vllm import VllmEngine

    path = save_tiny_model(folder, TOKENS, hidden_size=128)  # it knows no heads of 8 numbers
    return VllmEngine(path, name="tiny", precision=Precision.EXACT)


CASES = {
    "scripted": lambda folder: scripted_case(),
    "transformers": transformers_case,
    "llama": llama_case,
    "paged": paged_case,
    "llamacpp": llamacpp_case,
    "vllm": vllm_case,
}


@pytest.fixture(scope="module", params=list(CASES))
def engine(request, tmp_path_factory):
    return CASES[request.param](tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The transformers engine and its model, for what only that engine can be asked."""
    folder = tmp_path_factory.mktemp("oracle")
    engine = transformers_case(folder)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return SimpleNamespace(engine=engine, model=model, folder=folder)


def prompts(engine, lengths=LENGTHS):
    text = "the quick brown fox jumps over the lazy dog, twice; " * 4
    return [
        tuple(engine.tokenizer.encode(text[start : start + length]))[:length]
        for start, length in enumerate(lengths)
    ]


def requests(engine, lengths=LENGTHS, max_new_tokens=8, **fields):
    watch_ids = PromptFormat.of(engine.tokenizer).ids.all
    base = Request(prefix_ids=(), max_new_tokens=max_new_tokens, watch_ids=watch_ids, **fields)
    return [replace(base, prefix_ids=prompt) for prompt in prompts(engine, lengths)]


def assert_same(found, expected):
    assert found.token_ids == expected.token_ids
    assert found.finish_reason == expected.finish_reason
    assert np.allclose(found.logprobs, expected.logprobs, atol=1e-4)
    assert found.watched.shape == expected.watched.shape
    assert np.allclose(found.watched, expected.watched, atol=1e-4)


def test_an_empty_batch_gives_an_empty_list(engine):
    assert engine.generate([]) == []


def test_a_batch_gives_what_single_requests_give_in_the_same_order(engine):
    batch = requests(engine)
    alone = [engine.generate([request])[0] for request in batch]
    assert len({completion.token_ids for completion in alone}) > 3  # order could not hide
    for found, expected in zip(engine.generate(batch), alone, strict=True):
        assert_same(found, expected)


def test_arrays_are_float64_with_one_row_for_each_token(engine):
    (completion,) = engine.generate(requests(engine, [5], max_new_tokens=6))
    assert completion.logprobs.shape == (6,) and completion.logprobs.dtype == np.float64
    assert completion.watched.shape == (6, 15) and completion.watched.dtype == np.float64
    assert (completion.logprobs <= 0).all() and (completion.watched <= 0).all()


def test_nothing_watched_gives_an_array_without_columns(engine):
    (request,) = requests(engine, [5], max_new_tokens=3)
    (completion,) = engine.generate([replace(request, watch_ids=())])
    assert completion.watched.shape == (3, 0)


def test_a_watched_id_that_is_chosen_has_the_log_probability_of_the_choice(engine):
    (request,) = requests(engine, [5], max_new_tokens=4)
    (first,) = engine.generate([request])
    (again,) = engine.generate([replace(request, watch_ids=first.token_ids)])
    assert np.allclose(np.diagonal(again.watched), again.logprobs)


def test_the_length_limit_cuts_what_a_longer_limit_would_write(engine):
    long = engine.generate(requests(engine, max_new_tokens=9))
    assert len(long) > 1
    for limit in (1, 2, 5):
        short = engine.generate(requests(engine, max_new_tokens=limit))
        for a, b in zip(short, long, strict=True):
            assert a.token_ids == b.token_ids[:limit]
            assert a.finish_reason is FinishReason.LENGTH
            assert np.allclose(a.watched, b.watched[:limit], atol=1e-4)


def test_limits_may_differ_within_a_batch(engine):
    batch = [replace(r, max_new_tokens=n) for n, r in enumerate(requests(engine), start=1)]
    assert [len(c.token_ids) for c in engine.generate(batch)] == list(range(1, len(batch) + 1))


def test_a_stop_id_is_the_last_of_the_completion(engine):
    free = engine.generate(requests(engine, max_new_tokens=12))
    assert len(free) > 1
    stop_ids = frozenset(completion.token_ids[3] for completion in free)
    stopped = engine.generate(requests(engine, max_new_tokens=12, stop_ids=stop_ids))
    for a, b in zip(stopped, free, strict=True):
        n = next(n for n, token_id in enumerate(b.token_ids, start=1) if token_id in stop_ids)
        assert a.token_ids == b.token_ids[:n]
        assert a.finish_reason is FinishReason.STOP
        assert np.allclose(a.logprobs, b.logprobs[:n], atol=1e-4)


def test_what_nobody_wants_any_more_is_given_up(engine):
    if not isinstance(engine, BatchedEngine):
        pytest.skip("asked of engines of this process alone")
    batch = requests(engine, [5, 9, 14], max_new_tokens=30)
    expected = engine.generate(batch)
    n_asked = iter(range(2))
    batch[1] = replace(batch[1], is_wanted=lambda: next(n_asked, None) is not None)
    found = engine.generate([replace(batch[0], is_wanted=lambda: False), *batch[1:]])
    assert found[0].token_ids == () and found[0].watched.shape == (0, 15)
    assert 0 < len(found[1].token_ids) < 30
    assert found[1].token_ids == expected[1].token_ids[: len(found[1].token_ids)]
    assert_same(found[2], expected[2])


def test_a_stop_id_at_the_limit_counts_as_a_stop(engine):
    (free,) = engine.generate(requests(engine, [5], max_new_tokens=1))
    stop_ids = frozenset(free.token_ids)
    (stopped,) = engine.generate(requests(engine, [5], max_new_tokens=1, stop_ids=stop_ids))
    assert stopped.finish_reason is FinishReason.STOP


def test_a_shared_prefix_changes_nothing(engine):
    start = prompts(engine, [40])[0]
    marked = [
        replace(request, prefix_ids=start, suffix_ids=request.prefix_ids)
        for request in requests(engine, [1, 30, 7])
    ]
    marked.append(replace(marked[0], suffix_ids=()))
    plain = [replace(r, prefix_ids=r.prompt_ids, suffix_ids=()) for r in marked]
    alone = [engine.generate([request])[0] for request in plain]
    assert len(alone) == 4
    for together in (engine.generate(marked), engine.generate(plain)):
        for found, expected in zip(together, alone, strict=True):
            assert_same(found, expected)


def test_equal_requests_give_equal_completions(engine):
    (request,) = requests(engine, [50])
    first, *others = engine.generate([request] * 5)
    assert len(others) == 4
    for other in others:
        assert_same(other, first)


def test_a_prompt_may_fill_the_context_and_no_more(engine):
    text_ids = tuple(engine.tokenizer.encode("a" + " a" * 200))[: engine.max_context - 4]
    full = (text_ids * 2)[: engine.max_context - 4]
    (completion,) = engine.generate([Request(prefix_ids=full, max_new_tokens=4)])
    assert len(completion.token_ids) == 4
    with pytest.raises(BadInput, match="253 tokens"):
        engine.generate([Request(prefix_ids=(*full, full[0]), max_new_tokens=4)])


def forget(engine):
    """Drops kept states, of engines that keep them in this process."""
    if batcher := getattr(engine, "_batcher", None):
        batcher.forget()


def test_earlier_calls_change_nothing(engine):
    """Every path is continued as a search does: from what was written, by several candidates."""
    fresh = [replace(request, max_new_tokens=6) for request in requests(engine, [40, 33, 1])]
    written = engine.generate(fresh)
    paths = [
        (*request.prompt_ids, *done.token_ids) for request, done in zip(fresh, written, strict=True)
    ]
    ends = prompts(engine, [1, 30, 7])
    later = [replace(fresh[0], prefix_ids=path, suffix_ids=end) for path in paths for end in ends]
    warm = engine.generate(later)
    forget(engine)
    for found, request in zip(warm, later, strict=True):
        (expected,) = engine.generate([request])
        assert_same(found, expected)
        forget(engine)


def test_a_closed_engine_cannot_be_used(request, engine, tmp_path):
    mine = CASES[request.node.callspec.params["engine"]](tmp_path)
    mine.generate(requests(mine, [5]))
    mine.close()
    mine.close()
    with pytest.raises(EngineError, match="was closed"):
        mine.generate(requests(mine, [5]))


def oracle_logprobs(model, token_ids):
    """Log-probabilities after every position, (T, V), from one plain forward pass."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([token_ids])).logits[0]
    return torch.log_softmax(logits.double(), dim=-1).numpy()


def assert_greedy(model, request, completion):
    prompt = request.prompt_ids
    logprobs = oracle_logprobs(model, (*prompt, *completion.token_ids))
    steps = logprobs[len(prompt) - 1 : -1]
    assert completion.token_ids == tuple(steps.argmax(axis=-1))
    assert np.allclose(completion.logprobs, steps.max(axis=-1), atol=1e-4)
    assert np.allclose(completion.watched, steps[:, list(request.watch_ids)], atol=1e-4)


def test_transformers_engine_equals_a_full_forward_pass(tiny):
    batch = requests(tiny.engine, max_new_tokens=10)
    assert len(batch) > 1
    for request, completion in zip(batch, tiny.engine.generate(batch), strict=True):
        assert_greedy(tiny.model, request, completion)


token_ids_lists = st.lists(st.integers(0, 250), min_size=1, max_size=50).map(tuple)


@settings(max_examples=20, deadline=None)
@given(
    start=st.lists(st.integers(0, 250), max_size=70).map(tuple),
    ends=st.lists(st.tuples(token_ids_lists, st.integers(1, 5)), min_size=1, max_size=6),
)
def test_transformers_engine_equals_a_full_forward_pass_on_any_batch(tiny, start, ends):
    batch = [
        Request(prefix_ids=start, suffix_ids=end, max_new_tokens=n, watch_ids=(3, 1))
        for end, n in ends
    ]
    assert batch
    for request, completion in zip(batch, tiny.engine.generate(batch), strict=True):
        assert_greedy(tiny.model, request, completion)


def torch_model(engine):
    return engine._batcher._model._model


def shapes_read(engine, *batches):
    """The shape of `input_ids` in every forward pass of some calls, nothing being cached before."""
    engine._batcher._cache.clear()
    shapes = []
    hook = torch_model(engine).register_forward_pre_hook(
        lambda module, args, fields: shapes.append(tuple(fields["input_ids"].shape)),
        with_kwargs=True,
    )
    for batch in batches:
        engine.generate(batch)
    hook.remove()
    return shapes


def test_one_token_costs_one_forward_pass(tiny):
    batch = requests(tiny.engine, [5, 20, 9], max_new_tokens=1)
    assert shapes_read(tiny.engine, batch) == [(3, 20)]


def test_a_long_common_start_is_read_once(tiny):
    start = prompts(tiny.engine, [40])[0]
    batch = [
        Request(prefix_ids=start, suffix_ids=(n, *range(n)), max_new_tokens=2) for n in (10, 5, 12)
    ]
    assert shapes_read(tiny.engine, batch) == [(1, 40), (3, 13), (3, 1)]


def test_finished_rows_leave_the_batch(tiny):
    batch = [Request(prefix_ids=(7, 8, 9 + n), max_new_tokens=n) for n in (1, 3, 3)]
    assert shapes_read(tiny.engine, batch) == [(3, 3), (2, 1), (2, 1)]


def test_the_next_call_reads_only_what_is_new(tiny):
    first = Request(prefix_ids=tuple(prompts(tiny.engine, [40])[0]), max_new_tokens=4)
    (done,) = tiny.engine.generate([first])
    path = (*first.prompt_ids, *done.token_ids)
    # 43 of these are known: the last id written was chosen, but never read. The two ids before it
    # were guessed, as the model repeats itself, and verified in one pass.
    later = [Request(prefix_ids=path, suffix_ids=(n, n, n), max_new_tokens=1) for n in (5, 6)]
    assert shapes_read(tiny.engine, [first], later) == [(1, 40), (1, 3), (2, 4)]


@pytest.mark.parametrize(("n_prompt", "n_new"), [(0, 1), (1, 0)])
def test_nothing_to_read_or_to_write_is_bad_input(tiny, n_prompt, n_new):
    with pytest.raises(BadInput, match="at least one"):
        tiny.engine.generate([Request(prefix_ids=(5,) * n_prompt, max_new_tokens=n_new)])


def test_a_failing_back_end_is_an_engine_error(tiny):
    def fail(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    hook = torch_model(tiny.engine).register_forward_pre_hook(fail)
    with pytest.raises(EngineError, match="can't allocate memory; if memory is short"):
        tiny.engine.generate(requests(tiny.engine, [5]))
    hook.remove()


def test_a_folder_without_weights_is_an_engine_error(tiny, tmp_path):
    from selfrag.engine.transformers import TransformersEngine

    with pytest.raises(EngineError, match="cannot load a model"):
        TransformersEngine(tmp_path, name="none")
    folder = shutil.copytree(tiny.folder, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="cannot load the model"):
        TransformersEngine(folder, name="none")


def test_the_end_token_may_be_written_as_an_object(tiny, tmp_path):
    from selfrag.engine.transformers import TransformersEngine

    folder = shutil.copytree(tiny.folder, tmp_path / "copy")
    config = {"eos_token": {"content": "</s>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = TransformersEngine(folder, name="tiny").tokenizer
    assert tokenizer.end_of_sequence_id == tokenizer.token_to_id("</s>")


def test_the_llama_engine_gives_what_transformers_gives(tiny):
    from selfrag.engine.numpy_llama import LlamaEngine

    llama = LlamaEngine(tiny.folder, name="tiny", max_batch=4)
    batch = requests(llama, max_new_tokens=12)
    assert len(batch) > 1
    for found, expected in zip(llama.generate(batch), tiny.engine.generate(batch), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("family", ["Qwen2", "Mistral"])
def test_relatives_of_llama_give_what_transformers_gives(tmp_path, family):
    torch = pytest.importorskip("torch")
    pytest.importorskip("openvino")
    import transformers

    from selfrag.engine.numpy_llama import LlamaEngine
    from selfrag.engine.paged import PagedEngine

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=save_tokenizer(tmp_path, TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        sliding_window=None,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for layer in model.model.layers:  # biases begin as zeros
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            if part.bias is not None:
                torch.nn.init.normal_(part.bias)
    model.save_pretrained(tmp_path)
    from selfrag.engine.transformers import TransformersEngine

    oracle = TransformersEngine(tmp_path, name="oracle")
    batch = requests(oracle, max_new_tokens=12)
    expected = oracle.generate(batch)
    for kind in (LlamaEngine, PagedEngine):
        for found, wanted in zip(kind(tmp_path, name="x").generate(batch), expected, strict=True):
            assert_same(found, wanted)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"model_type": "qwen3"}, "model_type is 'qwen3'"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "extra parts .'use_sliding_window'."),
        ({"model_type": "mistral", "sliding_window": 9}, "extra parts .'sliding_window'."),
        ({"attention_bias": True}, "extra parts .'attention_bias'."),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type 'llama3'"),
    ],
)
def test_the_llama_engine_refuses_what_it_would_compute_wrongly(tiny, tmp_path, change, found):
    from selfrag.engine.numpy_llama import LlamaEngine

    folder = shutil.copytree(tiny.folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(EngineError, match=f"{found}.*use the transformers engine"):
        LlamaEngine(folder, name="none")


def test_the_llama_engine_names_a_folder_without_weights(tiny, tmp_path):
    from selfrag.engine.numpy_llama import LlamaEngine

    folder = shutil.copytree(tiny.folder, tmp_path / "copy")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights)
    with pytest.raises(EngineError, match=r"it has no tensor 'model\.norm\.weight'"):
        LlamaEngine(folder, name="none")
    weights.unlink()
    with pytest.raises(EngineError, match="cannot load the model"):
        LlamaEngine(folder, name="none")
