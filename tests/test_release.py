"""The release as users get it: built twice, installed into an empty folder, asked elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, each built twice from copies whose files have other dates."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("release")
    for name in ("once", "again"):
        sources = folder / f"sources-{name}"
        shutil.copytree(ROOT, sources, ignore=NOT_COPIED, copy_function=shutil.copyfile)
        (sources / "src" / "selfrag" / "api.py").touch()
        call(sys.executable, "-m", "hatchling", "build", "-d", str(folder / name), folder=sources)
    return folder


@pytest.fixture(scope="module")
def installed(built):
    """The folder that the wheel is installed into."""
    site = built / "site"
    (wheel,) = (built / "once").glob("*.whl")
    call(*PIP, "install", "--no-deps", "--target", str(site), str(wheel))
    return site


def call(*command: str, site: Path | None = None, folder: Path | None = None) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(site or ""),
        "SOURCE_DATE_EPOCH": "1767225600",  # 2026
    }
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_sources_give_the_same_bytes(built):
    names = {f"selfrag-{VERSION}.tar.gz", f"selfrag-{VERSION}-py3-none-any.whl"}
    for folder in ("once", "again"):
        assert {path.name for path in (built / folder).iterdir()} == names
    for name in names:
        assert (built / "once" / name).read_bytes() == (built / "again" / name).read_bytes()


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built):
    (wheel,) = (built / "once").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(f"selfrag-{VERSION}.dist-info/METADATA").decode()
    package = ROOT / "src" / "selfrag"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert names == {path.relative_to(package.parent).as_posix() for path in files}
    assert {"selfrag/weights/smollm2-135m/adapter.safetensors", "selfrag/py.typed"} <= names
    assert "selfrag/serve/static/index.html" in names
    assert f"\nVersion: {VERSION}\n" in metadata and "\nLicense-Expression: MIT\n" in metadata


def test_the_sdist_holds_what_the_tests_read(built):
    (sdist,) = (built / "once").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    read = [*(ROOT / "tests").glob("*.py"), *(ROOT / "examples").glob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in read} <= names
    assert {"README.md", "LICENSE", "Makefile", "CHANGELOG.md", ".ci/run"} <= names
    assert not [name for name in names if name.startswith((".git/", ".venv", "docs/results"))]


def test_the_version_is_said_once_and_repeated_for_citations_alone():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.M) == [VERSION]
    sources = [path for path in (ROOT / "src").rglob("*.py") if VERSION in path.read_text("utf-8")]
    assert not sources


@pytest.mark.real
def test_an_installed_wheel_answers_with_a_citation(installed, tmp_path):
    (tmp_path / "Titan.txt").write_text("Titan is the largest moon of the planet Saturn.")
    (tmp_path / "Bakery.txt").write_text("A bakery sells bread early in the morning.")

    def selfrag(*arguments: str) -> str:
        return call(sys.executable, "-m", "selfrag", *arguments, site=installed, folder=tmp_path)

    where = "import selfrag.open.engines as e; print(e.__file__, e.adapter_dir())"
    for path in call(sys.executable, "-c", where, site=installed, folder=tmp_path).split():
        assert Path(path).is_relative_to(installed)
    assert selfrag("--version").strip() == VERSION
    told = "import selfrag; print(selfrag.__version__)"
    assert call(sys.executable, "-c", told, site=installed, folder=tmp_path).strip() == VERSION
    selfrag("index", "build", "Titan.txt", "Bakery.txt", "--out", "index")
    answer = json.loads(
        selfrag("ask", "Which planet has the moon Titan?", "--index", "index", "--json")
    )
    assert "Saturn" in answer["answer"]
    (cited,) = answer["segments"][0]["citations"]
    assert answer["passages"][cited - 1]["title"] == "Titan"
