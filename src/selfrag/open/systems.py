"""From the options of `selfrag eval` to a system that answers; models are opened here, late."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from selfrag import assets
from selfrag.cluster import Workers, connected
from selfrag.decode.config import SearchConfig
from selfrag.engine.base import Precision
from selfrag.engine.chat import EngineModel, TextModel
from selfrag.errors import BadInput
from selfrag.evaluate.baselines import PlainSystem
from selfrag.evaluate.judges import Judge, ModelJudge, SupportJudge
from selfrag.evaluate.systems import SelfRagSystem, System
from selfrag.evaluate.tasks import Task
from selfrag.open import indexes
from selfrag.open.calibrations import open_calibration, weights_name
from selfrag.open.engines import (
    BASE,
    DEFAULT,
    NAMES,
    ModelOptions,
    adapter_dir,
    is_url,
    model_folder,
    open_engine,
)
from selfrag.progress import SILENT, Progress
from selfrag.prompt import template_named
from selfrag.retrieval.base import Retriever
from selfrag.serial import setting

if TYPE_CHECKING:
    from selfrag.evaluate.run import Answerer, OpenSystem


class SystemKind(StrEnum):
    """Who answers."""

    SELFRAG = "selfrag"
    RAG = "rag"
    VANILLA = "vanilla"


class JudgeKind(StrEnum):
    """Who judges."""

    ISSUP = "issup"  # support tokens of a Self-RAG model, the default weights where none is named
    ASKED = "asked"  # a language model asked for yes or no
    LOCAL = "local"  # the same of the local teacher of `selfrag annotate`
    NLI = "nli"  # a classifier, or a T5 such as TRUE, which ALCE uses


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedModel(ModelOptions):
    """The model of an evaluation: one that is opened, or at an API where `base_url` is given.

    An empty `model` is the default of who asks. APIs draw as `sampling` says, engines are greedy.
    """

    model: str = setting("", "As in `ask`, or a model's name at --base-url.")
    base_url: str | None = setting(None, "An OpenAI-compatible API, as http://…/v1.")
    sampling: str = setting("greedy", "greedy, or released: 0.8 and 0.95, over an API.")
    seed: int = setting(0, "Of --sample.")
    n_parallel: int = setting(8, "Questions answered together.", "--batch-size", least=1)
    api_key: str = ""  # '' for that of the environment

    def __post_init__(self) -> None:
        ModelOptions.__post_init__(self)
        if self.sampling not in ("greedy", "released"):
            raise BadInput(
                f"cannot evaluate: --sampling is {self.sampling!r}; expected greedy or released"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What was asked for; the default model where `asked` names none.

    `has_passages`: the questions bring their own. `label`: the system's name in tables.
    """

    kind: SystemKind
    task: Task
    search: SearchConfig
    asked: AskedModel = field(default_factory=AskedModel)
    index: str | None = None
    has_passages: bool = False
    prompt: str | None = None
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

        is_served = bool(self.asked.base_url) or is_url(self.asked.model)
        common: dict[str, Any] = {
            "kind": self.kind,
            "label": self.label or self.default_label,
            "model": _addresses(self.asked.model) or self._default_model,
            "model_sha256": None if is_served else model_digest(self.asked.model, self.kind),
            "base_url": without_password(self.asked.base_url) if self.asked.base_url else None,
            "engine": None if is_served else self.asked.engine,
            "device": None if is_served else self.asked.device,
            "passages": self._passage_source,
            "index_sha256": index_digest(self.index) if self.searches else None,
        }
        if self.asked.precision is not Precision.AUTO:
            common["precision"] = self.asked.precision
        if self.kind is SystemKind.SELFRAG:
            writer = writer_facts(self.asked.writer)
            return {**common, **writer, "search": config_to_row(self.search)}
        top_n = self.search.top_k if self.kind is SystemKind.RAG else 0
        return {
            **common,
            "prompt": self.prompt_name,
            "top_n": top_n,
            "max_new_tokens": self.search.max_new_tokens,
            "decoding": self.asked.sampling,
        }

    @property
    def default_label(self) -> str:
        """A name from the settings that differ most often."""
        own = _addresses(self.asked.model)
        model = f" {own if is_url(own) else Path(own).name}" if own else ""
        if self.kind is SystemKind.SELFRAG:
            name = Path(self.asked.writer.partition("#")[2] or self.asked.writer).name
            writer = f" by {name}" if name else ""
            return f"{self.kind} {self.search.mode}{model}{writer}"
        if self.kind is SystemKind.RAG:
            return f"rag top-{self.search.top_k}{model}"
        return f"vanilla{model}"

    @property
    def _default_model(self) -> str:
        return NAMES[DEFAULT if self.kind is SystemKind.SELFRAG else BASE]

    @property
    def _passage_source(self) -> str:
        if self.kind is SystemKind.VANILLA:
            return "none"
        if not self.searches:
            return "with the questions"
        return f"index {without_password(self.index) if self.index else 'demo'}"


def model_digest(model: str, kind: SystemKind) -> str:
    """What tells one model from another: a sum over the files of its folder.

    The default models are told by the sums of what they are made of, without opening them.
    """
    model = model or (DEFAULT if kind is SystemKind.SELFRAG else BASE)
    base = assets.named("base-model").files[0].sha256
    if model in NAMES:
        return base if model == BASE else _sum(adapter_dir(), base)
    return _sum(model_folder(model))


def writer_facts(writer: str) -> dict[str, str]:
    """What tells one writer from another; nothing where the model itself writes."""
    if not writer:
        return {}
    if is_url(writer):
        return {"writer": f"{without_password(writer)}#{urlsplit(writer).fragment}"}
    return {"writer": writer, "writer_sha256": model_digest(writer, SystemKind.SELFRAG)}


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


def _addresses(model: str) -> str:
    """The model as it may be written down: addresses without their passwords."""
    return ",".join(map(without_password, model.split(","))) if is_url(model) else model


def _sum(folder: Path, start: str = "") -> str:
    """SHA-256 over names and contents of the files that make a model."""
    total = hashlib.sha256(start.encode())
    names = ("*.json", "*.safetensors", "*.gguf")
    files = [folder] if folder.is_file() else [f for name in names for f in folder.glob(name)]
    for path in sorted(files):
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
        options = _reflecting_model(setup)
        n_rows = max(16, setup.asked.n_parallel * setup.search.top_k)
        engine = open_engine(options, report, max_batch=min(n_rows, 48))
        calibration, weights = open_calibration(options), weights_name(options)
        return SelfRagSystem(engine, retriever, setup.search, calibration, weights=weights)
    model = open_asked(setup.asked, report)
    template = template_named(setup.prompt_name)
    if template.chat and isinstance(model, EngineModel):
        model.require_chat("name another prompt, such as --prompt prompt_no_input")
    top_n = setup.search.top_k if setup.kind is SystemKind.RAG else 0
    n_new = setup.search.max_new_tokens
    return PlainSystem(model, template, retriever, top_n=top_n, max_new_tokens=n_new)


@contextmanager
def opened_answerer(workers: Workers) -> "Iterator[Answerer | None]":
    """Who answers the batches of a run: a cluster where one is named, else None, this process."""
    if not workers.ray:
        yield None
        return
    from selfrag.evaluate.run import cluster_answerer

    with connected(workers.ray, "evaluate", workers) as cluster:
        yield cluster_answerer(cluster)


def system_opener(setup: Setup, report: Progress, workers: Workers) -> "OpenSystem":
    """Opens the system here, or on a worker, whose folder is another and which tells nobody."""
    if not workers.ray:
        return partial(open_system, setup, report)
    asked = setup.asked
    there = replace(
        setup,
        index=_whole(setup.index) if setup.index else None,
        asked=replace(asked, model=_whole(asked.model), tokenizer=_whole(asked.tokenizer)),
    )
    return partial(_open_on_worker, there)


def _whole(path: str) -> str:
    """A path of this machine from its root on; any other name as it is."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def _open_on_worker(setup: Setup) -> System:
    return open_system(setup, SILENT)


def _reflecting_model(setup: Setup) -> ModelOptions:
    if setup.asked.base_url is not None:
        raise BadInput(
            "cannot run --system selfrag over --base-url: a chat API shows no reflection tokens; "
            "expected a model folder, so give --model, and the API as --writer"
        )
    return _opened_as(setup.asked, DEFAULT)


def _opened_as(asked: AskedModel, default: str) -> ModelOptions:
    values = {each.name: getattr(asked, each.name) for each in fields(ModelOptions)}
    return ModelOptions(**{**values, "model": asked.model or default})


def open_asked(asked: AskedModel, report: Progress) -> TextModel:
    """The model, ready to be asked; raises `BadInput` for what it cannot be."""
    if asked.base_url is not None:
        from selfrag.engine.chat import ApiModel, Sampling

        if not asked.model:
            raise BadInput(
                f"cannot ask {asked.base_url}: no model is named; expected its name there, so give "
                "--model"
            )
        return ApiModel(
            base_url=asked.base_url,
            model=asked.model,
            sampling=Sampling(asked.sampling),
            seed=asked.seed,
            n_parallel=asked.n_parallel,
            api_key=asked.api_key,
        )
    if asked.sampling != "greedy":
        raise BadInput(
            f"cannot draw with --sampling {asked.sampling} here: local engines are greedy; "
            "expected an API for that, so give --base-url, or leave it out"
        )
    if is_url(asked.model):
        raise BadInput(
            f"cannot ask {_addresses(asked.model)} in words: --model is an address; expected it as "
            "--base-url, so give it there, and the model's name there as --model"
        )
    return EngineModel(open_engine(_opened_as(asked, BASE), report, reflects=False))


@contextmanager
def open_judge(kind: JudgeKind, asked: AskedModel, report: Progress) -> Iterator[Judge]:
    """The judge, ready to answer; a server of ours ends with the block."""
    if kind is JudgeKind.LOCAL:
        from selfrag.open.teachers import served_teacher

        with served_teacher(report) as (url, name):
            local = AskedModel(base_url=url, model=name, n_parallel=1, api_key="ours")
            yield ModelJudge(open_asked(local, report))
    elif kind is JudgeKind.NLI:
        from selfrag.evaluate.nli import NliJudge

        if not asked.model:
            raise BadInput(
                "cannot judge with an NLI model: none is named, and no registry package carries "
                "one; expected a folder, such as that of t5_xxl_true_nli_mixture, so give --model"
            )
        yield NliJudge(asked.model)
    elif kind is JudgeKind.ASKED:
        yield ModelJudge(open_asked(asked, report))
    else:
        yield SupportJudge(open_engine(_opened_as(asked, DEFAULT), report))
