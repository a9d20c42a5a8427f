"""From a run folder to what users open: merged folders in every engine, GGUF, the card."""

import json

import numpy as np
import pytest

import small_bases
from tiny_model import save_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
gguf = pytest.importorskip("gguf")

from selfrag.engine.base import Request  # noqa: E402
from selfrag.engine.numpy_llama import LlamaEngine  # noqa: E402
from selfrag.engine.transformers import TransformersEngine  # noqa: E402
from selfrag.errors import BadInput  # noqa: E402
from selfrag.prompt import PromptFormat  # noqa: E402
from selfrag.reflection import REFLECTION_TOKENS  # noqa: E402
from selfrag.train.config import TrainConfig  # noqa: E402
from selfrag.train.examples import UNIFORM  # noqa: E402
from selfrag.train.folder import WeightType, export_run  # noqa: E402
from selfrag.train.gguf_file import GgufType, write_gguf  # noqa: E402
from selfrag.train.run import train_from_file  # noqa: E402


def train(base, folder, **options):
    data = folder / "train.jsonl"
    rows = [("Q {}?", "[No Retrieval]A {}.[Utility:5]")] * 9
    made = [{"instruction": q.format(i), "output": a.format(i)} for i, (q, a) in enumerate(rows)]
    data.write_text("".join(json.dumps(row) + "\n" for row in made))
    fields = {"max_tokens": 200, "tokens_per_batch": 200, "learning_rate": 2e-2, "lora_rank": 2}
    config = TrainConfig(base=str(base), out=str(folder / "run"), **{**fields, **options})
    train_from_file(data, config, UNIFORM)
    return folder / "run"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run with an adapter, and its exported folder."""
    folder = tmp_path_factory.mktemp("lora")
    run = train(save_tiny_model(tmp_path_factory.mktemp("base"), []), folder)
    return run, export_run(run, folder / "model")


def test_the_folder_opens_in_every_engine_with_the_trained_weights(exported):
    from peft import PeftModel

    from small_bases import load_base

    run, folder = exported
    engines = [TransformersEngine(folder, name="t"), LlamaEngine(folder, name="l")]
    fmt = PromptFormat.of(engines[0].tokenizer)
    prompt = fmt.instruction("Q 3?")
    request = Request(prefix_ids=tuple(prompt), max_new_tokens=5, watch_ids=fmt.ids.all)
    one, other = (engine.generate([request])[0] for engine in engines)
    assert one.token_ids == other.token_ids
    assert np.allclose(one.watched, other.watched, atol=1e-3)
    base = json.loads((run / "run.json").read_text())["base"]
    trained = PeftModel.from_pretrained(load_base(base)[0], str(run / "adapter")).eval()
    with torch.no_grad():
        logits = trained(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = torch.log_softmax(logits, -1)[list(fmt.ids.all)]
    assert np.allclose(one.watched[0], expected.numpy(), atol=1e-3)


def test_the_card_is_written_from_the_records_of_the_run(exported):
    run, folder = exported
    card = (folder / "README.md").read_text()
    facts = json.loads((run / "run.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers")
    assert f"| data_sha256 | {facts['data_sha256']} |" in card
    assert "| rows n_used | 9 |" in card
    assert "| Utility |" in card


def test_a_model_of_all_weights_is_exported_in_the_type_asked_for(tmp_path_factory):
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("full")
    run = train(save_tiny_model(tmp_path_factory.mktemp("base"), []), folder, method="full")
    out = export_run(run, folder / "half", WeightType.BF16)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_a_folder_that_exists_and_a_run_without_an_end_are_refused(exported, tmp_path):
    run, folder = exported
    with pytest.raises(BadInput, match="it exists"):
        export_run(run, folder)
    with pytest.raises(BadInput, match=r"with run\.json"):
        export_run(tmp_path, tmp_path / "out")
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    with pytest.raises(BadInput, match="neither a model nor an adapter"):
        export_run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def logits_of(path, ids, **options):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


FAMILIES = {
    "smollm": (small_bases.smollm, "llama", True),
    "llama2": (small_bases.llama2, "llama", False),
    "qwen": (small_bases.qwen, "qwen2", True),
}


@pytest.mark.parametrize(
    ("family", "kind", "tolerance"),
    [("smollm", "f16", 2e-2), ("smollm", "q8_0", 0.2), ("llama2", "bf16", 0.1)],
)
@pytest.mark.filterwarnings("ignore")  # of the GGUF reader of transformers
def test_gguf_has_the_logits_of_the_folder_and_control_tokens(tmp_path, family, kind, tolerance):
    made, model, tied = FAMILIES[family]
    base = tmp_path / "base"
    base.mkdir()
    size = small_bases.save_tokenizer(base, made)
    small_bases.save_model(base, model, size, tied=tied)
    folder = export_run(train(base, tmp_path), tmp_path / "model")
    path = write_gguf(folder, tmp_path / "model.gguf", GgufType(kind))
    ids = list(range(5, 25))
    expected, found = logits_of(folder, ids), logits_of(tmp_path, ids, gguf_file=path.name)
    assert torch.allclose(found, expected, atol=tolerance)
    reader = gguf.GGUFReader(path)
    tokens = [str(t) for t in reader.get_field("tokenizer.ggml.tokens").contents()]
    types = reader.get_field("tokenizer.ggml.token_type").contents()
    control = {t for t, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL}
    assert control >= {token.value for token in REFLECTION_TOKENS}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    end = reader.get_field("tokenizer.ggml.eos_token_id").contents()
    assert tokens[end] == config["eos_token"]
    adds_start = reader.get_field("tokenizer.ggml.add_bos_token").contents()
    assert adds_start == (family == "llama2")


def test_models_that_llama_cpp_may_read_otherwise_are_refused(tmp_path):
    base = tmp_path / "gpt2"
    base.mkdir()
    size = small_bases.save_tokenizer(base, small_bases.gpt2)
    small_bases.save_model(base, "gpt2", size, tied=True)
    with pytest.raises(BadInput, match="it is a GPT2LMHeadModel"):
        write_gguf(base, tmp_path / "x.gguf", GgufType.F16)
    odd = tmp_path / "odd"
    odd.mkdir()
    size = small_bases.save_tokenizer(odd, small_bases.llama3)
    small_bases.save_model(odd, "llama", size, tied=True)
    with pytest.raises(BadInput, match="no name for how this tokenizer splits text"):
        write_gguf(odd, tmp_path / "x.gguf", GgufType.F16)
    assert not list(tmp_path.glob("*.gguf"))
