"""From the options of `selfrag eval` to a system that answers; models are opened here, late."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from selfrag import assets
from selfrag.cluster import Workers, connected
from selfrag.decode.config import SearchConfig
from selfrag.errors import BadInput
from selfrag.evaluate.baselines import RagSystem, VanillaSystem
from selfrag.evaluate.model import EngineModel, TextModel
from selfrag.evaluate.prompted import PromptedSystem
from selfrag.evaluate.systems import SelfRagSystem, System
from selfrag.evaluate.tasks import Task
from selfrag.evaluate.templates import template_named
from selfrag.open import engines, indexes
from selfrag.open.engines import PLAIN_MODEL_NAME, EngineKind
from selfrag.progress import SILENT, Progress
from selfrag.retrieval.base import Retriever

if TYPE_CHECKING:
    from selfrag.engine.base import Engine
    from selfrag.evaluate.run import Answerer, OpenSystem


class SystemKind(StrEnum):
    """Who answers."""

    SELFRAG = "selfrag"
    RAG = "rag"
    VANILLA = "vanilla"
    PROMPTED = "prompted"  # an untuned chat model as its own critic


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What was asked for. `model` is a folder, or a name at `base_url`; None: the default.

    `has_passages`: the questions bring their own. `label`: the system's name in tables.
    """

    kind: SystemKind
    task: Task
    search: SearchConfig
    model: str | None = None
    base_url: str | None = None
    engine: EngineKind = EngineKind.LLAMA
    device: str = "cpu"
    index: str | None = None
    has_passages: bool = False
    prompt: str | None = None
    sampling: str = "greedy"
    seed: int = 0
    batch_size: int = 8
    label: str | None = None

    @property
    def prompt_name(self) -> str:
        """The prompt that is used when none is named: the model's own chat format."""
        return self.prompt or "chat"

    @property
    def searches(self) -> bool:
        """Whether an index is searched, and not the passages that come with the questions."""
        if self.kind is SystemKind.VANILLA:
            return False
        return self.index is not None or not self.has_passages

    def describe(self) -> dict[str, Any]:
        """All that the answers depend on, as JSON, without opening anything."""
        from selfrag.trace.rows import config_to_row

        common: dict[str, Any] = {
            "kind": self.kind,
            "label": self.label or self.default_label,
            "model": self.model or self._default_model,
            "model_sha256": None if self.base_url else model_digest(self.model, self.kind),
            "base_url": without_password(self.base_url) if self.base_url else None,
            "engine": None if self.base_url else self.engine,
            "device": None if self.base_url else self.device,
            "passages": self._passage_source,
            "index_sha256": index_digest(self.index) if self.searches else None,
        }
        if self.kind is SystemKind.SELFRAG:
            return {**common, "search": config_to_row(self.search)}
        if self.kind is SystemKind.PROMPTED:
            search = config_to_row(self.search)
            return {**common, "search": search, "decoding": self.sampling}
        top_n = self.search.top_k if self.kind is SystemKind.RAG else 0
        return {
            **common,
            "prompt": self.prompt_name,
            "top_n": top_n,
            "max_new_tokens": self.search.max_new_tokens,
            "decoding": self.sampling,
        }

    @property
    def default_label(self) -> str:
        """A name from the settings that differ most often."""
        own = self.model is not None
        model = f" {Path(str(self.model)).name}" if own else ""
        if self.kind in (SystemKind.SELFRAG, SystemKind.PROMPTED):
            return f"{self.kind} {self.search.mode}{model}"
        if self.kind is SystemKind.RAG:
            return f"rag top-{self.search.top_k}{model}"
        return f"vanilla{model}"

    @property
    def _default_model(self) -> str:
        return engines.MODEL_NAME if self.kind is SystemKind.SELFRAG else PLAIN_MODEL_NAME

    @property
    def _passage_source(self) -> str:
        if self.kind is SystemKind.VANILLA:
            return "none"
        if not self.searches:
            return "with the questions"
        return f"index {without_password(self.index) if self.index else 'demo'}"


def model_digest(model: str | None, kind: SystemKind) -> str:
    """What tells one model from another: a sum over the files of its folder.

    The default models are told by the sums of what they are made of, without opening them.
    """
    if model is None:
        base = assets.BASE_MODEL.files[0].sha256
        return base if kind is not SystemKind.SELFRAG else _sum(engines.adapter_dir(), base)
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"cannot evaluate {model}: no config.json is there; expected the folder of a model, or "
            "a name together with --base-url"
        )
    return _sum(folder)


def index_digest(index: str | None) -> str | None:
    """The sum of the manifest of an index in a folder; None elsewhere, or where it is not yet."""
    manifest = Path(index or indexes.demo_index_dir()) / "manifest.json"
    if not manifest.is_file():
        return None
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def without_password(location: str) -> str:
    """The location as it may be written down: no secret of its address or its options."""
    parts = urlsplit(location)
    if not parts.scheme or not parts.netloc:
        return location
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _sum(folder: Path, start: str = "") -> str:
    """SHA-256 over names and contents of the files that make a model."""
    total = hashlib.sha256(start.encode())
    names = ("*.json", "*.safetensors", "*.gguf")
    for path in sorted(found for name in names for found in folder.glob(name)):
        with path.open("rb") as content:
            total.update(
                f"{path.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
            )
    return total.hexdigest()


def open_system(setup: Setup, report: Progress) -> System:
    """The system, ready to answer; an index that cannot be opened fails before any model loads."""
    retriever: Retriever | None = None
    if setup.searches:
        retriever = indexes.open_index(setup.index, report)
    if setup.kind is SystemKind.SELFRAG:
        return SelfRagSystem(_reflecting_engine(setup, report), retriever, setup.search)
    model = open_model(setup, report)
    if setup.kind is SystemKind.PROMPTED:
        if isinstance(model, EngineModel):
            model.require_chat()
        return PromptedSystem(model, retriever, setup.search)
    template = template_named(setup.prompt_name)
    if template.chat and isinstance(model, EngineModel):
        model.require_chat()
    n_new = setup.search.max_new_tokens
    if setup.kind is SystemKind.VANILLA:
        return VanillaSystem(model, template, max_new_tokens=n_new)
    return RagSystem(model, template, retriever, top_n=setup.search.top_k, max_new_tokens=n_new)


@contextmanager
def opened_answerer(workers: Workers) -> "Iterator[Answerer | None]":
    """Who answers the batches of a run: a cluster where one is named, else None, this process."""
    if not workers.ray:
        yield None
        return
    from selfrag.evaluate.run import ClusterAnswerer

    with connected(workers.ray, "evaluate", workers) as cluster:
        yield ClusterAnswerer(cluster)


def system_opener(setup: Setup, report: Progress, workers: Workers) -> "OpenSystem":
    """Opens the system here, or on a worker, whose folder is another and which tells nobody."""
    if not workers.ray:
        return partial(open_system, setup, report)
    there = replace(setup, index=_whole(setup.index), model=_whole(setup.model))
    return partial(_open_on_worker, there)


def _whole(path: str | None) -> str | None:
    """A path of this machine from its root on; any other name as it is."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def _open_on_worker(setup: Setup) -> System:
    return open_system(setup, SILENT)


def _reflecting_engine(setup: Setup, report: Progress) -> "Engine":
    if setup.base_url is not None:
        raise BadInput(
            "cannot run --system selfrag over --base-url: a chat API shows no reflection tokens; "
            "expected a model folder, so give --model, or ask for --system prompted"
        )
    n_rows = max(16, setup.batch_size * setup.search.top_k)
    path = Path(setup.model) if setup.model else engines.prepare_default_model(report)
    name = path.name if setup.model else engines.MODEL_NAME
    return engines.local_engine(
        path, setup.engine, setup.device, name=name, max_batch=min(n_rows, 48)
    )


def open_model(setup: Setup, report: Progress) -> TextModel:
    """The language model asked in words: behind an API, in a folder, or the plain base model."""
    return text_model(
        report,
        model=setup.model,
        base_url=setup.base_url,
        engine=setup.engine,
        device=setup.device,
        sampling=setup.sampling,
        seed=setup.seed,
        n_parallel=setup.batch_size,
    )


def text_model(
    report: Progress,
    *,
    model: str | None,
    base_url: str | None,
    engine: EngineKind,
    device: str = "cpu",
    sampling: str = "greedy",
    seed: int = 0,
    n_parallel: int = 8,
) -> TextModel:
    """A model that is asked in words; raises `BadInput` for what it cannot be."""
    if base_url is not None:
        from selfrag.evaluate.model import ApiModel, Sampling

        if model is None:
            raise BadInput(
                f"cannot ask {base_url}: no model is named; expected its name there, so give "
                "--model"
            )
        return ApiModel(
            base_url=base_url,
            model=model,
            sampling=Sampling(sampling),
            seed=seed,
            n_parallel=n_parallel,
        )
    if sampling != "greedy":
        raise BadInput(
            f"cannot draw with --sampling {sampling} here: local engines are greedy; expected an "
            "API for that, so give --base-url, or leave it out"
        )
    path = Path(model) if model else engines.plain_model_dir(report)
    name = path.name if model else PLAIN_MODEL_NAME
    return EngineModel(engines.local_engine(path, engine, device, name=name, max_batch=16))
