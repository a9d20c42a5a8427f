"""`selfrag doctor`: what is installed, what is cached, what is wrong and how to fix it."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Annotated

import typer

from selfrag import assets
from selfrag.cli import options
from selfrag.cli.console import Reporter, stdout
from selfrag.engine.base import Engine
from selfrag.errors import AssetError, SelfRAGError
from selfrag.open.engines import (
    DEFAULT,
    EngineKind,
    ModelOptions,
    adapter_dir,
    choose,
    is_url,
    model_folder,
    open_engine,
)
from selfrag.open.gguf import is_gguf, open_vocabulary
from selfrag.open.indexes import demo_index_dir, index_facts
from selfrag.progress import working
from selfrag.prompt import PromptFormat, Tokenizer
from selfrag.text import counted

_MAKES_IT = "run `selfrag demo`"

# Packages of extras, and what they are for; missing ones are told, and nothing is wrong then.
EXTRAS = {
    "openvino": ("cpu", "answers twice as fast"),
    "lancedb": ("retrieval", "indexes"),
    "fastapi": ("serve", "the server and its page"),
    "torch": ("engine", "models of other families"),
    "sentence-transformers": ("encoders", "other encoders, and GPUs"),
}
# The package of an engine that is named, and its extra; a missing one is wrong then.
ENGINES = {
    EngineKind.OPENVINO: ("openvino", "cpu"),
    EngineKind.TRANSFORMERS: ("torch", "engine"),
    EngineKind.VLLM: ("vllm", "vllm"),
    EngineKind.LLAMACPP: ("xllamacpp", "gguf"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report; `remedy` is empty where nothing can be done."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


@options.command
def doctor(*, model: Annotated[ModelOptions, options.Without({"calibration"})]) -> None:
    """Show what is installed and cached, what is wrong, and how to fix it; fetches nothing."""
    wrong, report = 0, Reporter()
    findings = examine(model)
    while finding := _next(findings, report):
        mark = "[green]ok  [/green]" if finding.ok else "[red]FAIL[/red]"
        stdout.print(mark, end=" ")
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        stdout.print(f"{finding.name}: {finding.found}{remedy}", markup=False)
        wrong += not finding.ok
    raise typer.Exit(1 if wrong else 0)


def _next(findings: Iterator[Finding], report: Reporter) -> Finding | None:
    """The next finding, some of which take seconds; None after the last."""
    with working(report, "looking"):
        return next(findings, None)


def examine(model: ModelOptions) -> Iterator[Finding]:
    """All findings, in the order in which things are needed."""
    yield Finding(name="python", ok=True, found=platform.python_version())
    engine = EngineKind.LLAMACPP if is_gguf(model.model) else model.engine
    needed, extra_of_needed = ENGINES.get(engine, ("", ""))
    for package, (extra, purpose) in EXTRAS.items():
        if package != needed:
            yield _package(package, extra, purpose)
    if needed:
        yield _package(needed, extra_of_needed, f"the {engine} engine", is_needed=True)
    has_indexes = find_spec("lancedb") is not None
    keys = ["encoder", "corpus"] if has_indexes else []
    if model.model == DEFAULT:
        yield _check("adapter", lambda: str(adapter_dir()))
        keys.insert(0, "base-model")
    yield from map(_asset, map(assets.named, keys))
    remedy = _MAKES_IT if model.model == DEFAULT else ""  # of others the sentence says it

    @cache
    def opened() -> Engine:
        if not is_url(model.model):
            model_folder(model.model, may_fetch=False)
        return open_engine(model)

    yield _check("model", lambda: _model(model, opened), remedy)
    yield _check("reflection tokens", lambda: _tokens(model, opened), remedy)
    yield _check("scores", lambda: _scores(opened), remedy)
    if has_indexes:
        yield _check("demo index", _index)


def _package(package: str, extra: str, purpose: str, *, is_needed: bool = False) -> Finding:
    try:
        return Finding(name=package, ok=True, found=importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        remedy = f'pip install "selfrag[{extra}]" for {purpose}'
        return Finding(name=package, ok=not is_needed, found="not installed", remedy=remedy)


def _asset(asset: assets.Asset) -> Finding:
    if not assets.is_cached(asset):
        remedy = "run `selfrag demo`, which fetches it"
        return Finding(name=str(asset), ok=False, found="not fetched yet", remedy=remedy)
    try:
        assets.verify(asset)
    except SelfRAGError as error:
        remedy = "run `selfrag demo` again"
        return Finding(name=str(asset), ok=False, found=str(error), remedy=remedy)
    return Finding(name=str(asset), ok=True, found=f"{assets.asset_path(asset)}, checksums right")


def _check(name: str, look: Callable[[], str], remedy: str = _MAKES_IT) -> Finding:
    try:
        return Finding(name=name, ok=True, found=look())
    except SelfRAGError as error:
        if isinstance(error, AssetError):  # whose sentence says itself what to do
            remedy = ""
        return Finding(name=name, ok=False, found=str(error), remedy=remedy)


def _model(model: ModelOptions, opened: Callable[[], Engine]) -> str:
    if is_url(model.model):
        return f"{opened().name} at {model.model}"
    path = model_folder(model.model, may_fetch=False)
    choice = choose(path, model)
    return f"{model.name}, {choice.kind} engine ({choice.reason}) on {model.device}, {path}"


def _tokens(model: ModelOptions, opened: Callable[[], Engine]) -> str:
    tokenizer = opened().tokenizer if is_url(model.model) else _tokenizer(model)
    ids = PromptFormat.of(tokenizer, model=model.name).ids.all
    return f"{len(ids)} tokens, ids {ids[0]} to {ids[-1]}, none can be forged by text"


def _tokenizer(model: ModelOptions) -> Tokenizer:
    path = model_folder(model.model, may_fetch=False)
    if is_gguf(model.model):
        return open_vocabulary(model.model)
    from selfrag.engine.tokenizer import open_tokenizer

    return open_tokenizer(path)


def _scores(opened: Callable[[], Engine]) -> str:
    """The self-check of the engine that would answer, on known prompts."""
    from selfrag.engine.check import check_engine

    engine = opened()
    try:
        n = check_engine(engine)
    finally:
        engine.close()
    return f"{n} log-probabilities of known prompts checked alone and together: can be trusted"


def _index() -> str:
    facts = index_facts(demo_index_dir())
    name, n_passages = facts["encoder"]["name"], facts["n_passages"]
    return f"{counted(n_passages, 'passage')}, encoder {name}, {demo_index_dir()}"
