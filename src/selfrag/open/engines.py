"""From the name of a language model to the engine that runs it.

Names are `default`, `base`, the folder of a model, a GGUF file, or an id on the Hugging Face hub.
Knows nothing of indexes or of searches; heavy packages are imported when a model is opened.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.resources import files
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from selfrag import assets
from selfrag.downloads import hub_snapshot, is_hub_id
from selfrag.engine.base import Precision
from selfrag.errors import AssetError, BadInput, EngineError, SelfRAGError
from selfrag.open import gguf
from selfrag.progress import SILENT, Progress, working
from selfrag.prompt import PromptFormat, Tokenizer
from selfrag.serial import check_config, setting

if TYPE_CHECKING:
    from selfrag.engine.base import Engine

DEFAULT = "default"
BASE = "base"
# What the two are called in answers and reports.
NAMES = {DEFAULT: "selfrag-smollm2-135m", BASE: "SmolLM2-135M-Instruct"}

# Of a repository on the hub: config and tokenizer, then weights, which some hold in both forms.
_SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
_WEIGHTS = (("model*.safetensors",), ("pytorch_model*.bin",))
_BYTES_OF = {"float32": 4, "float16": 2, "bfloat16": 2}


class EngineKind(StrEnum):
    """What runs the language model."""

    AUTO = "auto"  # a Llama or kin that fits: openvino where installed, else numpy; others: torch
    OPENVINO = "openvino"
    NUMPY = "numpy"
    TRANSFORMERS = "transformers"
    LLAMACPP = "llamacpp"  # what `auto` is for a GGUF file
    VLLM = "vllm"  # what `auto` is on CUDA where vLLM is installed

    @classmethod
    def _missing_(cls, value: object) -> "EngineKind | None":
        """What the numpy engine was called at first, and llama.cpp as it spells itself."""
        return {"llama": cls.NUMPY, "cpu": cls.NUMPY, "llama.cpp": cls.LLAMACPP}.get(str(value))


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that runs a model, and why it is that one."""

    kind: EngineKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which language model, and what runs it where.

    `model`: `default`, `base` (that model without our training), a folder with `config.json`, a
    hub id such as `selfrag/selfrag_llama2_7b`, `@revision` behind it if not the newest, a GGUF file
    (LoRA adapters for it, also GGUF, behind it with commas between), or the address of servers
    that run the same model, with commas between. `calibration` is read by `open.calibrations`.
    `writer`: the address of an OpenAI-compatible server, `#` and the model's name there behind it
    if it has several, or a chat model named as `model` is, which is run here; device and threads
    are those of both.
    """

    model: str = setting(
        DEFAULT, "default, a folder, a .gguf file, an id on the hub, or a server's address."
    )
    engine: EngineKind = setting(
        EngineKind.AUTO, "auto, openvino, numpy, transformers, vllm or llamacpp (a GGUF file)."
    )
    device: str = setting(
        "cpu", "Where transformers computes, as cuda:0; for GGUF, all but cpu is the GPU."
    )
    precision: Precision = setting(
        Precision.AUTO, "Of openvino and vllm: auto, exact (fp32), mixed (openvino) or bf16."
    )
    gpus: int = setting(1, "GPUs that the vllm engine spreads the model over.", least=1)
    threads: int = setting(
        0, "CPU threads, not of transformers; 0: one a core, of numpy and llamacpp half.", least=0
    )
    tokenizer: str = setting("", "Folder or hub id with the tokenizer of a served model or GGUF.")
    model_key_env: str = setting("", "Environment variable with the key of a model server.")
    calibration: str = setting(
        "", "File of `selfrag calibrate` for this model; the default model has its own."
    )
    writer: str = setting(
        "", "Chat model that writes while --model judges: URL#MODEL of an API, or as --model."
    )
    writer_key_env: str = setting("", "Environment variable with the key of the writer's API.")

    def __post_init__(self) -> None:
        check_config(self, "", doing="open the model")

    @property
    def name(self) -> str:
        """The model's name for reports: without the folders that it is in."""
        return NAMES.get(self.model) or _label(self.model)


def open_engine(
    options: ModelOptions | None = None,
    progress: Progress = SILENT,
    *,
    max_batch: int = 16,
    reflects: bool = True,
) -> "Engine":
    """The language model, ready to generate; what is missing of it is fetched and prepared.

    With `reflects` a vocabulary without the 15 reflection tokens is refused before the weights are
    read. `max_batch` is in rows. Raises `SelfRAGError`.
    """
    options = options or ModelOptions()
    if options.writer:
        return _open_written(options, progress, max_batch)
    with working(progress, "opening the model"):
        if is_url(options.model):
            return _open_remote(options, progress)
        path = model_folder(options.model, progress)
        progress.progress("opening the model", 0, 0)  # after what was fetched
        return _open_local(path, options, progress, max_batch=max_batch, reflects=reflects)


def _open_local(
    path: Path, options: ModelOptions, progress: Progress, *, max_batch: int, reflects: bool
) -> "Engine":
    if path.suffix == gguf.SUFFIX:
        return _open_gguf(path, options, progress, max_batch=max_batch, reflects=reflects)
    if reflects and options.model != DEFAULT:
        _require_reflection_tokens(path, options.name)
    kind = choose(path, options).kind
    if options.gpus > 1 and kind is not EngineKind.VLLM:
        raise BadInput(
            f"cannot spread {options.model} over {options.gpus} GPUs: the {kind} engine runs it, "
            "expected vllm, so add --engine vllm or leave --gpus out"
        )
    if kind is EngineKind.OPENVINO:
        from selfrag.engine.paged import PagedEngine

        return PagedEngine(
            path,
            name=options.name,
            precision=_precision(options.precision),
            n_threads=options.threads,
            max_batch=max_batch,
        )
    if kind is EngineKind.NUMPY:
        from selfrag.engine.numpy_llama import LlamaEngine

        return LlamaEngine(path, name=options.name, n_threads=options.threads, max_batch=max_batch)
    if kind is EngineKind.VLLM:
        from selfrag.engine.vllm import VllmEngine

        return VllmEngine(path, name=options.name, precision=options.precision, n_gpus=options.gpus)
    return _open_transformers(path, options, max_batch)


def model_folder(model: str, progress: Progress = SILENT, *, may_fetch: bool = True) -> Path:
    """The folder with config, weights and tokenizer of a model by its name, or the GGUF file.

    What is not here is fetched and prepared, or refused where that is not allowed. Raises
    `BadInput` for what is no name of a model, `AssetError` where it is out of reach.
    """
    check_name(model)
    if model in NAMES:
        return _own_model(model, progress, may_fetch)
    if gguf.is_gguf(model):
        return gguf.files_of(model)[0]
    path = Path(model).expanduser()
    return path if path.is_dir() else _from_hub(model, progress, may_fetch)


def check_name(model: str) -> None:
    """Raises `BadInput` for what can be no name of a model, without asking the hub."""
    path = Path(model).expanduser()
    if model in NAMES or is_url(model) or (path / "config.json").is_file():
        return
    if gguf.is_gguf(model):
        gguf.require_files(model)
        return
    if model and path.is_dir():
        raise BadInput(
            f"cannot open the model {model}: the folder holds no config.json, expected config, "
            "weights and tokenizer of a Hugging Face model; name the folder that holds them"
        )
    if path.exists() or "/" not in model or not is_hub_id(model.partition("@")[0]):
        raise BadInput(
            f"cannot open the model {model!r}: it is no folder here and no id on the hub, expected "
            "`default`, a folder with config.json, a .gguf file, an id as "
            "selfrag/selfrag_llama2_7b, or a server as http://localhost:8000/v1; name one"
        )


def weight_files(path: Path) -> list[Path]:
    """The files with the weights of a model folder, safetensors before PyTorch's own."""
    for patterns in _WEIGHTS:
        if found := sorted(file for pattern in patterns for file in path.glob(pattern)):
            return found
    return []


def adapter_dir() -> Path:
    """The adapter that comes with the package; raises `AssetError` where it is missing."""
    path = Path(str(files("selfrag"))) / "weights" / "smollm2-135m"
    if not (path / "adapter.json").is_file():
        raise AssetError(
            f"cannot load the default weights: no adapter in {path}; expected adapter.json and "
            "adapter.safetensors there, so install selfrag again"
        )
    return path


def merged_dir() -> Path:
    """Where the base model merged with our adapter is, or will be, by the hashes of both."""
    from selfrag.engine.adapter import prepared_name

    file = assets.named("base-model").files[0]
    return assets.cache_dir() / "models" / prepared_name(file.sha256, adapter_dir())


def base_gguf(progress: Progress = SILENT) -> Path:
    """The base model as packaged, fetched when it is not there."""
    asset = assets.named("base-model")
    return assets.fetch(asset, progress) / asset.files[0].path


def _own_model(model: str, progress: Progress, may_fetch: bool) -> Path:
    """The packaged base model, unpacked, with our adapter merged in for `default`; made once."""
    is_base = model == BASE
    plain = assets.cache_dir() / "models" / "smollm2-135m-instruct"
    out = plain if is_base else merged_dir()
    if (out / "config.json").is_file():
        return out
    if not may_fetch:
        raise SelfRAGError(f"the model {NAMES[model]} is not prepared yet")
    from selfrag.engine.prepare import dequantise_base, prepare_model

    packed = base_gguf(progress)
    if is_base:
        progress.say("unpacking the plain base model, once (about ten seconds)")
        with working(progress, "unpacking the model"):
            return dequantise_base(packed, out)
    progress.say("merging our weights into the base model, once (about ten seconds)")
    stages = count()
    try:
        return prepare_model(
            gguf=packed,
            adapter=adapter_dir(),
            out=out,
            on_event=lambda stage: progress.progress(stage, next(stages), 3),
        )
    finally:
        progress.close()


def _from_hub(model: str, progress: Progress, may_fetch: bool) -> Path:
    """The repository's snapshot in the hub's own cache, with weights in one form."""

    def fetched(patterns: Sequence[str]) -> Path:
        return hub_snapshot(
            model,
            patterns,
            may_fetch=may_fetch,
            on_bytes=lambda done, total: progress.progress(f"fetching {model}, bytes", done, total),
        )

    try:
        path = fetched(_SMALL_FILES)
        for patterns in _WEIGHTS:
            fetched(patterns)
            if weight_files(path):
                break
    finally:
        progress.close()
    if not (path / "config.json").is_file() or not weight_files(path):
        raise AssetError(
            f"cannot open the model {model}: its repository holds no config.json or no weights, "
            "expected those of a causal language model as safetensors or pytorch_model.bin; "
            "name another"
        )
    return path


def _label(model: str) -> str:
    """A hub id as it is, a folder or file by its name; the snapshot of the hub's cache has none."""
    if gguf.is_gguf(model):
        return "+".join(file.stem for file in gguf.files_of(model))
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _require_reflection_tokens(path: Path, name: str) -> None:
    """Raises `EngineError` naming the tokens that the vocabulary of the model lacks."""
    from selfrag.engine.tokenizer import open_tokenizer

    PromptFormat.of(open_tokenizer(path), model=name)


def choose(path: Path, options: ModelOptions) -> Choice:
    """The engine for the model in `path`: what `auto` comes to, else the one that was named."""
    _require_possible(path, options)
    if options.engine is not EngineKind.AUTO:
        return Choice(options.engine, "named by --engine")
    if path.suffix == gguf.SUFFIX:
        return Choice(EngineKind.LLAMACPP, "a GGUF file")
    if options.device.startswith("cuda") and find_spec("vllm"):
        return Choice(EngineKind.VLLM, f"runs on {options.device}, and vLLM is installed")
    if options.device != "cpu":
        return Choice(EngineKind.TRANSFORMERS, f"runs on {options.device}")
    from selfrag.engine.numpy_llama import LlamaShape

    try:
        LlamaShape.read(path)
    except EngineError:
        return Choice(EngineKind.TRANSFORMERS, "an architecture that openvino and numpy lack")
    if not (path / "model.safetensors").is_file():
        return Choice(EngineKind.TRANSFORMERS, "its weights are not one file of safetensors")
    if not _fits(path):
        return Choice(EngineKind.TRANSFORMERS, "fp32 weights would not fit into memory")
    if find_spec("openvino"):
        return Choice(EngineKind.OPENVINO, "a model of the Llama family that fits into memory")
    return Choice(
        EngineKind.NUMPY, "a model of the Llama family that fits, and openvino is not installed"
    )


def _require_possible(path: Path, options: ModelOptions) -> None:
    """Raises `BadInput` where the engine that is named cannot run this model there."""
    engine = options.engine
    if engine in (EngineKind.NUMPY, EngineKind.OPENVINO) and options.device != "cpu":
        raise BadInput(
            f"cannot run the {engine} engine on {options.device}: it computes on the CPU; expected "
            "--engine transformers for that"
        )
    is_gguf = path.suffix == gguf.SUFFIX
    if is_gguf and engine not in (EngineKind.AUTO, EngineKind.LLAMACPP):
        raise BadInput(
            f"cannot run {path} on the {engine} engine: it is a GGUF file, which llamacpp alone "
            "reads; leave --engine out"
        )
    if not is_gguf and engine is EngineKind.LLAMACPP:
        raise BadInput(
            f"cannot run {path} on llama.cpp: found a model folder, expected a GGUF file, so make "
            "one with `selfrag export --gguf` or leave --engine out"
        )


def _precision(wanted: Precision) -> Precision:
    """`auto` is exact: what other precisions change is left to who asks for them."""
    return Precision.EXACT if wanted is Precision.AUTO else wanted


def _fits(path: Path) -> bool:
    """Whether the weights fit into memory in fp32; yes where the system does not tell its size."""
    from selfrag.engine.tokenizer import read_model_config

    config = read_model_config(path)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    n_bytes = sum(file.stat().st_size for file in weight_files(path))
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return True
    return n_bytes * 4 / _BYTES_OF.get(stored, 2) < 0.7 * memory


def is_url(model: str) -> bool:
    """Whether a model is named by the address of a server."""
    return model.startswith(("http://", "https://"))


def _open_gguf(
    path: Path, options: ModelOptions, progress: Progress, *, max_batch: int, reflects: bool
) -> "Engine":
    _require_possible(path, options)
    source = options.tokenizer
    return gguf.open_gguf(
        options.model,
        name=options.name,
        tokenizer=_tokenizer_of(source, progress) if source else None,
        n_threads=options.threads,
        on_gpu=options.device != "cpu",
        max_batch=max_batch,
        reflects=reflects,
    )


def _open_written(options: ModelOptions, progress: Progress, max_batch: int) -> "Engine":
    """The model as the critic of the writer, which is opened first: it fails sooner."""
    from selfrag.engine.chat import EngineModel, Writer
    from selfrag.engine.written import WrittenEngine

    check_name(options.model)
    check_name(options.writer)
    writer: Writer
    if is_url(options.writer):
        from selfrag.open.served import served_writer

        writer = served_writer(options.writer, key_name=options.writer_key_env)
    else:
        own = ModelOptions(model=options.writer, device=options.device, threads=options.threads)
        writer = EngineModel(open_engine(own, progress, max_batch=max_batch, reflects=False))
        writer.require_chat("name one, as Qwen2.5 is, or serve this one and give its URL")
    critic = replace(options, writer="", writer_key_env="")
    return WrittenEngine(open_engine(critic, progress, max_batch=max_batch), writer)


def _open_remote(options: ModelOptions, progress: Progress) -> "Engine":
    from selfrag.open.served import open_served

    if options.engine is not EngineKind.AUTO or options.device != "cpu":
        raise BadInput(
            f"cannot run {options.model} here: the server chooses its engine and device; leave out "
            "--engine and --device"
        )
    return open_served(
        options.model,
        key_name=options.model_key_env,
        tokenizer_of=lambda root: _tokenizer_of(options.tokenizer or root, progress),
    )


def _tokenizer_of(source: str, progress: Progress) -> Tokenizer:
    """The tokenizer in a folder, a GGUF file or a repository of the hub; raises `SelfRAGError`."""
    from selfrag.engine.tokenizer import open_tokenizer

    if gguf.is_gguf(source) and Path(source).is_file():
        return gguf.open_vocabulary(source)
    path = Path(source).expanduser()
    if source == DEFAULT:
        path = model_folder(source, progress)
    elif not path.is_dir() and is_hub_id(source.partition("@")[0]):
        path = hub_snapshot(source, _SMALL_FILES)
    if not list(path.glob("tokenizer*")):
        raise BadInput(
            f"cannot read the tokenizer of the model: {source!r} holds no tokenizer.json, "
            "expected a folder or GGUF file here, or an id on the hub; name one with --tokenizer"
        )
    return open_tokenizer(path)


def _open_transformers(path: Path, options: ModelOptions, max_batch: int) -> "Engine":
    """Half precision, as models are released, on a GPU and where fp32 does not fit."""
    from selfrag.engine.transformers import TransformersEngine

    device = options.device
    import torch  # here: where it is missing, the module above says so in a sentence

    try:
        torch.empty(1, device=device)
    # AssertionError: a build of torch without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(
            f"cannot run on {device}: torch says {str(error).splitlines()[0]:.120}; expected a "
            "device of this machine, such as cpu or cuda:0, so name one or leave --device out"
        ) from error
    dtype = torch.float32 if _fits(path) else torch.bfloat16  # fp16 is slow on CPUs
    if device != "cpu":
        dtype = torch.float16
    return TransformersEngine(
        path, name=options.name, max_batch=max_batch, device=device, dtype=dtype
    )
