"""Training on every family of tokenizer and model, tied and untied, from file to weights."""

import json

import pytest
from safetensors.numpy import load_file

import small_bases
from small_bases import load_base

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from selfrag.errors import BadInput  # noqa: E402
from selfrag.reflection import REFLECTION_TOKENS  # noqa: E402
from selfrag.released import InstructionRow  # noqa: E402
from selfrag.train.batches import (  # noqa: E402
    attend_by_tree,
    collate,
    packs_cleanly,
    token_losses,
)
from selfrag.train.config import TrainConfig  # noqa: E402
from selfrag.train.examples import UNIFORM, encode_row, pack_tree  # noqa: E402
from selfrag.train.model import (  # noqa: E402
    grow_tokenizer,
    load_tokenizer,
    prompt_format,
    reflection_ids,
)
from selfrag.train.run import train_from_file  # noqa: E402

# tokenizer, model, tied head, rows beyond the tokenizer's vocabulary
BASES = {
    "llama2": (small_bases.llama2, "llama", False, 0),
    "llama3": (small_bases.llama3, "llama", True, 0),
    "mistral": (small_bases.mistral, "mistral", False, 0),
    "qwen": (small_bases.qwen, "qwen2", True, 48),
    "gpt2": (small_bases.gpt2, "gpt2", True, 0),
    "smollm": (small_bases.smollm, "llama", True, 0),
    "sentencepiece": (None, "llama", False, 0),
}
TEXT = "Titan é is\n\na moon.中"
OUTPUT = (
    "[Retrieval]<paragraph>Titan\nThe moon of Saturn.</paragraph>[Relevant]Saturn."
    "[Fully supported][Utility:5]"
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    def save(name):
        made, kind, tied, n_spare = BASES[name]
        folder = tmp_path_factory.mktemp(name)
        if made is None:
            pytest.importorskip("sentencepiece")
            size = small_bases.save_sentencepiece(folder)
        else:
            size = small_bases.save_tokenizer(folder, made)
        return str(small_bases.save_model(folder, kind, size + n_spare, tied=tied))

    found = {}
    return lambda name: (
        found.setdefault(name, None) or found.update({name: save(name)}) or found[name]
    )


@pytest.fixture(params=BASES)
def base(request, bases):
    return request.param, bases(request.param)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    row = {"instruction": "Which planet?", "output": OUTPUT, "input": "", "dataset_name": "made"}
    path.write_text("".join(json.dumps({**row, "id": f"r{i}"}) + "\n" for i in range(6)))
    return path


def config(base, out, **options):
    fields = {"tokens_per_batch": 512, "max_tokens": 256, "lora_rank": 2, "held_out_trees": 1}
    return TrainConfig(base=base, out=str(out), learning_rate=1e-2, **{**fields, **options})


def test_text_is_kept_and_never_becomes_a_control_id(base, tmp_path):
    name, folder = base
    tokenizer = load_tokenizer(folder)
    assert len(grow_tokenizer(tokenizer)) == 15
    fmt = prompt_format(tokenizer, tmp_path)
    assert fmt.tokenizer.decode(fmt.tokenizer.encode(TEXT)) == TEXT
    forged = fmt.tokenizer.encode(" ".join(token.value for token in REFLECTION_TOKENS))
    assert set(forged).isdisjoint({*fmt.ids.all, fmt.ids.end_of_sequence})
    start = {"llama3": "<|begin_of_text|>"}.get(name, "<s>")
    begins = name in ("llama2", "llama3", "mistral", "sentencepiece")
    expected = (tokenizer.convert_tokens_to_ids(start),) if begins else ()
    assert fmt.tokenizer.start_ids == expected
    assert tuple(fmt.instruction("x")[: len(expected)]) == expected


def test_new_rows_of_both_matrices_are_means_of_their_words(base):
    model, tokenizer, token_ids = load_base(base[1])
    words = tokenizer(" Utility 5", add_special_tokens=False).input_ids
    for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert torch.allclose(matrix.weight[token_ids[11]], matrix.weight[words].mean(dim=0))


def test_lora_trains_the_new_rows_and_no_others(base, data, tmp_path):
    from peft import PeftModel

    folder = base[1]
    untouched, tokenizer, token_ids = load_base(folder)
    trained = train_from_file(data, config(folder, tmp_path / "run", epochs=2), UNIFORM)
    model = PeftModel.from_pretrained(load_base(folder)[0], str(trained.folder)).merge_and_unload()
    for side in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(untouched, side)().weight, getattr(model, side)().weight
        moved = (before != after).any(dim=1).nonzero().flatten().tolist()
        assert moved
        assert set(moved) <= set(token_ids)
    assert (
        tokenizer.get_vocab().keys()
        == load_tokenizer(str(tmp_path / "run/tokenizer")).get_vocab().keys()
    )


@pytest.mark.parametrize("name", ["llama2", "gpt2"])
def test_all_weights_are_trained_and_saved_as_a_model_folder(name, bases, data, tmp_path):
    from transformers import AutoModelForCausalLM

    run = config(bases(name), tmp_path / "run", method="full", pad_vocabulary_to=64)
    trained = train_from_file(data, run, UNIFORM)
    model = AutoModelForCausalLM.from_pretrained(trained.folder)
    assert model.get_input_embeddings().weight.shape[0] % 64 == 0
    assert reflection_ids(load_tokenizer(str(trained.folder)))[0] >= 300
    saved = load_file(trained.folder / "model.safetensors")
    layer = next(key for key in saved if "mlp" in key and key.endswith("weight"))
    assert (saved[layer] != load_base(bases(name))[0].state_dict()[layer].numpy()).any()


def encoded_pair(folder, tmp_path):
    model, tokenizer, _ = load_base(folder)
    fmt = prompt_format(tokenizer, tmp_path)
    rows = [InstructionRow(instruction=text, output=OUTPUT) for text in ("Q?", "A longer one?")]
    return model.eval(), [pack_tree([encode_row(row, fmt, UNIFORM)]) for row in rows]


def test_rows_packed_together_have_the_losses_of_rows_alone(base, tmp_path):
    model, trees = encoded_pair(base[1], tmp_path)
    with torch.no_grad():
        alone = torch.cat([token_losses(model, collate([tree])) for tree in trees])
        together = token_losses(model, collate(trees))
        attend_by_tree(model)
        by_tree = token_losses(model, collate(trees))
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(by_tree, alone, atol=1e-4)
    assert packs_cleanly(model, trees)


def test_a_model_that_takes_no_positions_is_noticed_and_trained_row_by_row(data, tmp_path, caplog):
    # Bloom tells places by ALiBi, from the mask.
    from transformers import BloomConfig, BloomForCausalLM

    folder = tmp_path / "bloom"
    folder.mkdir()
    size = small_bases.save_tokenizer(folder, small_bases.smollm)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    BloomForCausalLM(BloomConfig(vocab_size=size, **sizes)).save_pretrained(folder)
    model, trees = encoded_pair(str(folder), tmp_path / "tokenizer")
    assert not packs_cleanly(model, trees)
    trained = train_from_file(data, config(str(folder), tmp_path / "run", epochs=2), UNIFORM)
    assert "each is its own batch" in caplog.text
    assert (trained.folder / "adapter_model.safetensors").is_file()


def test_gradient_checkpointing_and_bf16_change_the_loss_by_rounding_only(bases, data, tmp_path):
    def first_loss(name, **options):
        run = config(bases("llama2"), tmp_path / name, max_steps=1, **options)
        train_from_file(data, run, UNIFORM)
        return json.loads((tmp_path / name / "log.json").read_text())[-1]["train_loss"]

    plain = float(first_loss("plain"))
    assert float(first_loss("kept", gradient_checkpointing=True)) == pytest.approx(plain, rel=1e-5)
    assert float(first_loss("half", precision="bf16")) == pytest.approx(plain, rel=2e-2)


def test_qlora_without_a_gpu_is_refused(bases, data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(BadInput, match="no CUDA device"):
        train_from_file(data, config(bases("llama2"), tmp_path, method="qlora"), UNIFORM)
