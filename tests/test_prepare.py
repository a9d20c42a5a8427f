"""Checkpoint to shipped adapter to merged model, against PEFT's own merge of a tiny Llama."""

import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from selfrag.errors import AssetError, BadInput, StorageError
from tiny_model import SPECIALS, TOKENS, plain_vocabulary, save_tokenizer, tiny_llama, write_gguf

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("gguf")

from safetensors.torch import load_file, save_file  # noqa: E402

from selfrag.engine import adapter as adapters  # noqa: E402
from selfrag.engine import gguf_base, prepare  # noqa: E402
from selfrag.engine.base import Request  # noqa: E402
from selfrag.engine.transformers import TransformersEngine  # noqa: E402
from selfrag.train.export import export_adapter  # noqa: E402

# PEFT looks at every attribute of a model, deprecated ones included.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

N_PLAIN = len(plain_vocabulary())
NEW_IDS = list(range(N_PLAIN, N_PLAIN + len(TOKENS)))


def random_adapter(base):
    """PEFT LoRA as `train/run.py` makes it, every factor and row random and exact in bf16."""
    base.resize_token_embeddings(N_PLAIN + len(TOKENS), mean_resizing=False)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "down_proj"],
        trainable_token_indices={"embed_tokens": NEW_IDS},
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_((0.3 * torch.randn_like(parameter)).bfloat16().float())
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A GGUF base, a PEFT checkpoint, the adapter exported from it, and PEFT's merge of both."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny_llama(N_PLAIN)
    gguf = write_gguf(folder / "tiny.gguf", base)
    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    model = random_adapter(base)
    model.save_pretrained(folder / "peft")
    adapter = export_adapter(
        folder / "peft", folder / "adapter", base_name="tiny", gguf_sha256=sha256
    )
    out = prepare.prepare_model(gguf=gguf, adapter=adapter, out=folder / "models" / "tiny")
    return SimpleNamespace(
        folder=folder,
        gguf=gguf,
        sha256=sha256,
        peft=folder / "peft",
        adapter=adapter,
        out=out,
        merged=model.merge_and_unload().eval(),
    )


def test_the_prepared_model_equals_peft_s_merge(made):
    from transformers import AutoModelForCausalLM

    ours = AutoModelForCausalLM.from_pretrained(made.out).eval()
    token_ids = torch.tensor([[*range(3, 40), *NEW_IDS]])
    with torch.inference_mode():
        found, expected = ours(token_ids).logits, made.merged(token_ids).logits
    assert found.shape == (1, 52, N_PLAIN + len(TOKENS))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_prepared_tokenizer_equals_what_transformers_makes_of_the_gguf(made):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made.folder, gguf_file="tiny.gguf")
    ours = AutoTokenizer.from_pretrained(made.out)
    assert [ours.convert_ids_to_tokens(i) for i in NEW_IDS] == TOKENS
    assert ours.eos_token == theirs.eos_token == SPECIALS[1]
    for text in ("abab é\t\n東 x", f"a{SPECIALS[2]} b", ""):
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours.decode(ours(text).input_ids, skip_special_tokens=True) == theirs.decode(
            theirs(text).input_ids, skip_special_tokens=True
        )


def test_preparing_needs_no_torch(made, tmp_path):
    program = (
        "import sys; from pathlib import Path; from selfrag.engine.prepare import prepare_model\n"
        "paths = [Path(name) for name in sys.argv[1:]]\n"
        "prepare_model(gguf=paths[0], adapter=paths[1], out=paths[2])\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", program, str(made.gguf), str(made.adapter), str(out)]
    subprocess.run(command, check=True)
    assert (out / "model.safetensors").read_bytes() == (made.out / "model.safetensors").read_bytes()


def test_the_engine_opens_what_was_prepared(made):
    engine = TransformersEngine(made.out, name="tiny")
    assert [engine.tokenizer.token_to_id(token) for token in TOKENS] == NEW_IDS
    assert engine.tokenizer.end_of_sequence_id == 1
    assert engine.tokenizer.decode(engine.tokenizer.encode("[Relevant] é")) == "[Relevant] é"
    prompt = (*engine.tokenizer.encode("Where"), NEW_IDS[1])
    (completion,) = engine.generate([Request(prefix_ids=prompt, max_new_tokens=1)])
    with torch.inference_mode():
        logits = made.merged(torch.tensor([prompt])).logits[0, -1]
    assert completion.token_ids == (int(logits.argmax()),)


def test_the_config_names_its_architecture_for_servers_and_converters(made):
    config = json.loads((made.out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_the_exported_adapter_is_complete(made):
    fields = json.loads((made.adapter / "adapter.json").read_text())
    assert fields["format"] == 1
    assert (fields["rank"], fields["alpha"]) == (4, 8)
    assert (fields["base_name"], fields["gguf_sha256"]) == ("tiny", made.sha256)
    assert fields["tokens"] == TOKENS
    # 2 layers x 3 kinds of module; A and B each, and the rows.
    assert len(fields["modules"]) == 6
    tensors = load_file(made.adapter / "adapter.safetensors")
    assert len(tensors) == 13
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors["model.layers.1.mlp.down_proj.lora_A"].shape == (4, 48)
    assert tensors["reflection_rows"].shape == (15, 32)


def test_merging_by_hand():
    # alpha / rank = 2; B A = [[1], [3]] [[1, 2]] = [[1, 2], [3, 6]]; W = I.
    weights = {
        "m.weight": np.eye(2, dtype=np.float32),
        "model.embed_tokens.weight": np.ones((2, 2), np.float32),
    }
    tensors = {
        "m.lora_A": np.float32([[1.0, 2.0]]),
        "m.lora_B": np.float32([[1.0], [3.0]]),
        "reflection_rows": np.float32([[5.0, 6.0], [7.0, 8.0]]),
    }
    description = adapters.AdapterDescription(
        base_name="", gguf_sha256="", rank=1, alpha=2, tokens=(), modules=("m",)
    )
    prepare.merge_adapter(weights, tensors, description, token_ids=[2, 1])
    assert weights["m.weight"].tolist() == [[3, 4], [6, 13]]
    assert weights["model.embed_tokens.weight"].tolist() == [[1, 1], [7, 8], [5, 6]]


def test_an_adapter_for_other_modules_is_refused():
    description = adapters.AdapterDescription(
        base_name="tiny", gguf_sha256="", rank=1, alpha=2, tokens=(), modules=("m",)
    )
    with pytest.raises(AssetError, match=r"4 tensors are missing, 'm\.lora_A' among them"):
        prepare.merge_adapter({}, {}, description, token_ids=[0])


def test_events_name_the_stages_in_order(made, tmp_path):
    events = []
    prepare.prepare_model(
        gguf=made.gguf, adapter=made.adapter, out=tmp_path / "out", on_event=events.append
    )
    assert [event.split()[0] for event in events] == ["reading", "merging", "saving"]


def test_a_prepared_folder_is_left_as_it_is(made, tmp_path):
    (tmp_path / "out").mkdir()
    nowhere = tmp_path / "nowhere"
    assert prepare.prepare_model(gguf=nowhere, adapter=nowhere, out=tmp_path / "out").is_dir()


def test_the_plain_base_has_the_weights_of_the_gguf(made, tmp_path):
    out = prepare.dequantise_base(made.gguf, tmp_path / "base")
    found = load_file(out / "model.safetensors")
    expected = tiny_llama(N_PLAIN).state_dict()
    del expected["lm_head.weight"]  # tied
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_failure_while_saving_leaves_nothing_behind(made, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_base, "save_file", fail)
    with pytest.raises(StorageError, match="No space left"):
        prepare.prepare_model(gguf=made.gguf, adapter=made.adapter, out=tmp_path / "m" / "out")
    assert list((tmp_path / "m").iterdir()) == []


def test_an_interruption_while_saving_leaves_nothing_behind(made, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_base, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare_model(gguf=made.gguf, adapter=made.adapter, out=tmp_path / "m" / "out")
    assert list((tmp_path / "m").iterdir()) == []


def test_a_faster_process_wins_the_folder(made, tmp_path, monkeypatch):
    out, theirs = tmp_path / "models" / "out", tmp_path / "models" / "out" / "theirs"

    def save(base, folder):
        out.mkdir(parents=True)
        theirs.touch()
        (folder / "ours").touch()

    monkeypatch.setattr(gguf_base.Base, "save", save)
    prepare.dequantise_base(made.gguf, out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert list(out.iterdir()) == [theirs]


def test_a_folder_that_cannot_be_made_is_a_storage_error(made, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write the model folder"):
        prepare.dequantise_base(made.gguf, tmp_path / "file" / "out")


def test_the_prepared_name_changes_with_base_and_adapter(made, tmp_path):
    names = {adapters.prepared_name(sha, made.adapter) for sha in ("a", "b", "a")}
    other = shutil.copytree(made.adapter, tmp_path / "other")
    assert adapters.prepared_name("a", other) in names
    (other / "adapter.json").write_text("{}")
    assert adapters.prepared_name("a", other) not in names
    assert len(names) == 2


def test_another_base_is_refused(made, tmp_path):
    gguf = tmp_path / "other.gguf"
    gguf.write_bytes(made.gguf.read_bytes() + b"\0")
    with pytest.raises(AssetError, match="was trained on"):
        prepare.prepare_model(gguf=gguf, adapter=made.adapter, out=tmp_path / "out")


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "base.gguf").write_bytes(b"not a model")
    for name in ("base.gguf", "missing.gguf"):
        with pytest.raises(AssetError, match="expected a GGUF file"):
            prepare.dequantise_base(tmp_path / name, tmp_path / "out")


def test_a_gguf_cut_short_is_refused(made, tmp_path):
    content = made.gguf.read_bytes()
    for n_bytes in (40, len(content) // 2, len(content) - 100):
        (tmp_path / "base.gguf").write_bytes(content[:n_bytes])
        with pytest.raises(AssetError, match="expected a GGUF file"):
            prepare.dequantise_base(tmp_path / "base.gguf", tmp_path / "out")


def test_a_gguf_with_a_head_of_its_own_is_refused(made, tmp_path):
    content = made.gguf.read_bytes()
    other = content.replace(b"output_norm.weight", b"output_head.weight")
    assert other != content
    (tmp_path / "base.gguf").write_bytes(other)
    with pytest.raises(AssetError, match=r"a tensor output_head\.weight"):
        prepare.dequantise_base(tmp_path / "base.gguf", tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"tokens": TOKENS[::-1]}, {"modules": None}],
    ids=["format", "tokens", "modules"],
)
def test_an_adapter_of_another_kind_is_refused(made, tmp_path, change):
    fields = json.loads((made.adapter / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps({**fields, **change}))
    with pytest.raises(AssetError, match="cannot use the adapter"):
        adapters.read_description(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", "nonsense"])
def test_a_damaged_adapter_description_is_refused(tmp_path, content):
    (tmp_path / "adapter.json").write_text(content)
    with pytest.raises(AssetError, match="expected format 1"):
        adapters.read_description(tmp_path)


def test_a_missing_adapter_is_refused(made, tmp_path):
    with pytest.raises(AssetError, match=r"adapter\.json"):
        prepare.prepare_model(gguf=made.gguf, adapter=tmp_path, out=tmp_path / "out")


def test_damaged_adapter_tensors_are_refused(made, tmp_path):
    adapter = shutil.copytree(made.adapter, tmp_path / "adapter")
    (adapter / "adapter.safetensors").write_bytes(b"cut short")
    with pytest.raises(AssetError, match="expected the tensors of an adapter"):
        prepare.prepare_model(gguf=made.gguf, adapter=adapter, out=tmp_path / "out")


def changed_checkpoint(made, tmp_path, change_config=None, change_tensors=None):
    folder = shutil.copytree(made.peft, tmp_path / "peft")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(change_config or {})}))
    if change_tensors is not None:
        tensors = dict(load_file(folder / "adapter_model.safetensors"))
        save_file(change_tensors(tensors), folder / "adapter_model.safetensors")
    return folder


def refused(folder, tmp_path, match):
    with pytest.raises(BadInput, match=match):
        export_adapter(folder, tmp_path / "out", base_name="tiny", gguf_sha256="")
    assert not (tmp_path / "out").exists()


def test_a_kind_of_lora_that_the_format_cannot_hold_is_refused(made, tmp_path):
    refused(changed_checkpoint(made, tmp_path, {"use_dora": True}), tmp_path, "use_dora")


def test_a_checkpoint_without_token_rows_is_refused(made, tmp_path):
    def drop(tensors):
        return {name: tensor for name, tensor in tensors.items() if "trainable" not in name}

    refused(changed_checkpoint(made, tmp_path, change_tensors=drop), tmp_path, "token rows")


def test_a_head_trained_apart_from_the_embedding_is_refused(made, tmp_path):
    def part(tensors):
        (name,) = [name for name in tensors if "embed_tokens" in name and "trainable" in name]
        head = name.replace("model.embed_tokens", "lm_head")
        return {**tensors, head: tensors[name] + 1}

    refused(changed_checkpoint(made, tmp_path, change_tensors=part), tmp_path, "token rows")


def test_too_few_token_rows_are_refused(made, tmp_path):
    def cut(tensors):
        return {n: t[:3].clone() if "trainable" in n else t for n, t in tensors.items()}

    refused(changed_checkpoint(made, tmp_path, change_tensors=cut), tmp_path, "3 token rows")


def test_an_unknown_tensor_is_refused(made, tmp_path):
    def add(tensors):
        return {**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}

    refused(changed_checkpoint(made, tmp_path, change_tensors=add), tmp_path, "lm_head")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    refused(tmp_path, tmp_path, "expected a PEFT checkpoint")


def test_special_tokens_of_the_base_stay_special(made, tmp_path):
    engine = TransformersEngine(made.out, name="tiny")
    ids = [engine.tokenizer.token_to_id(token) for token in SPECIALS[:2]]
    assert engine.tokenizer.decode([*ids, *engine.tokenizer.encode("a")]) == "a"
    assert set(ids).isdisjoint(engine.tokenizer.encode("".join(SPECIALS)))
    assert save_tokenizer(tmp_path, TOKENS) == N_PLAIN + len(TOKENS)
