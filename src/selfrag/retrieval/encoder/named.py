"""From the name of an embedding model to the encoder that runs it best here.

Models are named as the default, as folders, or as on the Hugging Face hub, from which they come
once. Knows nothing of passages or indexes.
"""

import re
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from selfrag import assets
from selfrag.errors import AssetError, ConfigError, IndexMismatch
from selfrag.retrieval.encoder.base import (
    Encoder,
    MeanPoolingEncoder,
    SentenceTransformerEncoder,
    recipe_of,
)
from selfrag.retrieval.spec import DEFAULT_ENCODER, EncoderSpec, Precision, Recipe, recipe_for

_SHORT_NAMES = {
    "contriever": "facebook/contriever",
    "contriever-msmarco": "facebook/contriever-msmarco",
}
_LIBRARY = "sentence_transformers"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# Copies of the weights in formats that nothing here reads.
_NOT_READ = ["*.onnx*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "onnx/*", "openvino/*"]


def usual_precision(name: str, *, device: str = "") -> Precision:
    """What to encode passages in where nobody says: INT8 for the default encoder on a CPU.

    There it is about 2.5 times as quick as fp32 through torch, at a cosine of .993 on average; of
    other models that is not known.
    """
    is_cpu = device == "cpu" or (not device and not _NVIDIA_DRIVER.exists())
    return Precision.INT8 if name == DEFAULT_ENCODER and is_cpu else Precision.FP32


def open_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    precision: Precision = Precision.FP32,
    device: str = "",
    batch_size: int = 64,
    max_tokens: int | None = None,
) -> Encoder:
    """The embedding model `name`, to encode passages: a known name, a folder, or one on the hub.

    fp32 and bf16 run on sentence-transformers, on `device` or the best there is; int8 on ONNX
    Runtime, on CPUs and for mean-pooled BERT models alone. Without sentence-transformers these run
    in fp32 on numpy, to the same vectors, a quarter slower. Contriever and E5 models are used as
    their papers say. Raises `AssetError` where the model is out of reach or not fit for it,
    `ConfigError` for int8 on another device.
    """
    name, folder = _resolved(name)
    recipe = recipe_for(name)
    if precision is not Precision.INT8:
        if precision is Precision.FP32 and device in ("", "cpu") and not find_spec(_LIBRARY):
            # Of another architecture: the error below names the package.
            with suppress(AssetError):
                return MeanPoolingEncoder(
                    folder, name=name, batch_size=batch_size, max_tokens=max_tokens, recipe=recipe
                )
        return SentenceTransformerEncoder(
            folder,
            name=name,
            batch_size=batch_size,
            max_tokens=max_tokens,
            recipe=recipe,
            precision=precision,
            device=device,
        )
    if device not in ("", "cpu"):
        raise ConfigError(
            f"cannot run encoder {name!r} in int8 on {device}: expected cpu; use fp32 or bf16 there"
        )
    from selfrag.retrieval.encoder.onnx import OnnxEncoder

    return OnnxEncoder(folder, name=name, recipe=recipe, max_tokens=max_tokens)


def reopen_encoder(spec: EncoderSpec, *, folder: Path | None = None) -> Encoder:
    """The model that an index was built with, for its queries, in fp32: `folder` if it has moved.

    On numpy where that can run it, which is quick to load. Raises `IndexMismatch` where the model
    found under that name gives other vectors than `spec` says, `AssetError` where there is none.
    """
    name = spec.name
    if folder is None:
        name, folder = _resolved(name)
    recipe = Recipe.of(spec)
    encoder: Encoder
    try:
        # However short passages were cut: a question is read whole.
        recipe = replace(recipe, max_tokens=max(spec.max_tokens, recipe_of(folder).max_tokens))
        encoder = MeanPoolingEncoder(folder, name=name, recipe=recipe)
    except AssetError:  # another architecture or pooling
        encoder = SentenceTransformerEncoder(folder, name=name, recipe=recipe, device="")
    if difference := spec.difference(encoder.spec):
        raise IndexMismatch(
            f"cannot query an index of encoder {name!r}: it was built with another encoder than "
            f"the one found in {folder} ({difference}); name the folder of the right one, or "
            "rebuild the index"
        )
    return encoder


def _resolved(name: str) -> tuple[str, Path]:
    """What an index calls the model `name`, and the folder that holds it."""
    if name == DEFAULT_ENCODER:
        return name, assets.fetch(assets.named("encoder"))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve()), path
    name = _SHORT_NAMES.get(name, name)
    if not _HUB_NAME.fullmatch(name):
        raise AssetError(
            f"cannot load encoder {name!r}: found no such folder, expected one or a name such as "
            f"{DEFAULT_ENCODER}, contriever-msmarco or intfloat/e5-small-v2; check it"
        )
    return name, _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, ignore_patterns=_NOT_READ))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise AssetError(
            f"cannot load encoder {name!r}: the hub says "
            f"{str(error).strip().splitlines()[0][:200]!r}, expected a model of that name there or "
            "in its cache; check the name and the network, or give the folder of a copy"
        ) from error
