"""A training that diverges stops, keeps its last good checkpoint, and exports nothing."""

import json
import math

import pytest
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from selfrag.errors import BadInput, ConfigError  # noqa: E402
from selfrag.serial import finite  # noqa: E402
from selfrag.train import run as run_module  # noqa: E402
from selfrag.train.batches import token_losses  # noqa: E402
from selfrag.train.checkpoints import last_complete, read_held_out, require_sound  # noqa: E402
from selfrag.train.config import TrainConfig  # noqa: E402
from selfrag.train.critic import train_critic  # noqa: E402
from selfrag.train.critic_data import LabelForm  # noqa: E402
from selfrag.train.examples import UNIFORM, LossWeights  # noqa: E402
from selfrag.train.export import export_adapter, start_from  # noqa: E402
from selfrag.train.folder import WeightType, export_run  # noqa: E402
from selfrag.train.gguf_file import GgufType, write_gguf  # noqa: E402
from selfrag.train.run import train_from_file  # noqa: E402
from tiny_model import save_tiny_model  # noqa: E402

HUGE = 1e30
NOT_FINITE = [math.nan, math.inf, -math.inf]
NO_WEIGHT = [*NOT_FINITE, -1e30]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"), [])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [
        {"instruction": f"Question {i}?", "output": f"[No Retrieval]Answer {i}.[Utility:5]"}
        for i in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def critic_rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "critic.jsonl"
    rows = [
        {"instruction": "Relevant?", "input": f"Text {i}", "output": label, "task": "relevance"}
        for i in range(8)
        for label in ("[Relevant]", "[Irrelevant]")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(base, out, **options):
    fields = {"max_tokens": 100, "tokens_per_batch": 200, "save_steps": 1, "lora_rank": 2}
    return TrainConfig(base=str(base), out=str(out), **{**fields, **options})


@pytest.fixture(scope="module")
def good(base, data, tmp_path_factory):
    """A run that has come to its end."""
    out = tmp_path_factory.mktemp("good") / "run"
    train_from_file(data, config(base, out, learning_rate=1e-3, epochs=2), UNIFORM)
    return out


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["learning_rate", "warmup_share", "weight_decay"])
def test_a_setting_that_is_not_finite_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"train.{name} is"):
        TrainConfig(base="b", out="o", **{name: value})


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["text", "answer", "retrieve", "relevance", "support", "utility"])
def test_a_loss_weight_that_is_not_finite_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"loss.{name} is"):
        LossWeights(**{name: value})


def assert_stopped(out):
    assert not (out / "adapter").exists() and not (out / "model").exists()
    for path in (out / "held_out.jsonl", out / "run.json"):
        if path.exists():
            assert not {"NaN", "Infinity"} & set(path.read_text().replace(",", " ").split())


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("steps", [None, 1], ids=["many steps", "one step"])
def test_a_run_that_diverges_stops_and_saves_no_weights(base, data, tmp_path, method, steps):
    out = tmp_path / "run"
    settings = config(base, out, method=method, learning_rate=HUGE, max_steps=steps, epochs=4)
    with pytest.raises(BadInput, match="training has diverged"):
        train_from_file(data, settings, UNIFORM)
    assert_stopped(out)
    assert last_complete(out / "checkpoints") is None
    with pytest.raises(BadInput, match="come to its end"):
        export_run(out, tmp_path / "model")


def test_a_critic_that_diverges_stops_and_saves_no_weights(base, critic_rows, tmp_path):
    out = tmp_path / "run"
    settings = config(base, out, learning_rate=HUGE, epochs=4)
    with pytest.raises(BadInput, match="training has diverged"):
        train_critic(critic_rows, settings, LabelForm.TOKEN)
    assert_stopped(out)
    assert not (out / "critic.json").exists()


def test_the_last_good_checkpoint_stays_and_the_run_resumes_from_it(
    base, data, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    settings = config(base, out, learning_rate=1e-3, epochs=6)
    calls = []

    def losses(model, batch):
        calls.append(model.training)
        found = token_losses(model, batch)
        return found * math.nan if calls.count(True) > 3 else found

    monkeypatch.setattr(run_module, "token_losses", losses)
    with pytest.raises(BadInput, match="after step 3: the loss is not finite"):
        train_from_file(data, settings, UNIFORM)
    assert_stopped(out)
    assert last_complete(out / "checkpoints").name == "checkpoint-3"
    monkeypatch.undo()
    trained = train_from_file(data, settings, UNIFORM)
    assert trained.folder.is_dir()
    assert [row["step"] for row in read_held_out(out / "held_out.jsonl")][:4] == [1, 2, 3, 4]


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_complete(
    base, data, tmp_path, monkeypatch
):
    """As where the last step of all spoils the weights: no loss comes after it."""
    out = tmp_path / "run"
    step = torch.optim.AdamW.step

    def spoil(self, *args, **kwargs):
        step(self, *args, **kwargs)
        self.param_groups[0]["params"][0].data[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(BadInput, match=r"after step 1: the weights .* are not finite"):
        train_from_file(data, config(base, out, max_steps=1), UNIFORM)
    assert_stopped(out)
    assert last_complete(out / "checkpoints") is None


def spoilt(run, tmp_path, value, kind="q_proj.lora_A"):
    """A copy of a run with the first weight of some tensors replaced."""
    import shutil

    copy = shutil.copytree(run, tmp_path / "spoilt")
    path = copy / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if kind in name:
            tensors[name].flat[0] = value
    save_file(tensors, path, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("value", NO_WEIGHT)
def test_no_weights_that_are_not_finite_are_exported(good, tmp_path, value):
    run = spoilt(good, tmp_path, value)
    with pytest.raises(BadInput, match="are not finite"):
        export_run(run, tmp_path / "model")
    with pytest.raises(BadInput, match="are not finite"):
        export_adapter(run / "adapter", tmp_path / "adapter", base_name="b", gguf_sha256="0")
    assert not (tmp_path / "model").exists() and not (tmp_path / "adapter").exists()


def test_weights_that_half_precision_cannot_hold_are_not_exported(good, tmp_path):
    run = spoilt(good, tmp_path, 1e5, "trainable_tokens_delta")
    with pytest.raises(BadInput, match=r"as torch\.float16: the weights"):
        export_run(run, tmp_path / "model", WeightType.FP16)
    assert export_run(run, tmp_path / "model", WeightType.FP32).is_dir()


def test_no_model_folder_with_such_weights_becomes_gguf(good, tmp_path):
    folder = export_run(good, tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"as GGUF: the weights model\.norm\.weight"):
        write_gguf(folder, tmp_path / "model.gguf", GgufType.F16)
    assert not (tmp_path / "model.gguf").exists()


def test_no_run_starts_from_an_adapter_that_is_not_finite(good, tmp_path):
    adapter = export_adapter(good / "adapter", tmp_path / "a", base_name="b", gguf_sha256="0")
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    tensors = load(adapter / "adapter.safetensors")
    tensors["reflection_rows"][3, 0] = math.nan
    save(tensors, adapter / "adapter.safetensors")
    with pytest.raises(BadInput, match=r"cannot start from .* reflection_rows are not finite"):
        start_from(torch.nn.Linear(1, 1), adapter)


def test_whole_numbers_are_always_finite():
    require_sound([("steps", torch.tensor([1, 2])), ("none", torch.zeros(0))], "go on")


def test_json_has_null_for_what_is_no_number():
    value = {"a": [math.nan, 1.5, (math.inf, "NaN")], "b": {"c": -math.inf}, "d": 3}
    assert finite(value) == {"a": [None, 1.5, [None, "NaN"]], "b": {"c": None}, "d": 3}
