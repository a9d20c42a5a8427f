"""The package as users get it: built, installed into an empty folder, asked elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    sources, site = folder / "sources", folder / "site"
    sources.mkdir()
    # A copy: setuptools leaves a build folder beside the sources, and takes what an old one holds.
    shutil.copytree(ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    call(*PIP, "wheel", str(sources), "--no-deps", "--no-build-isolation", "-w", str(folder))
    (wheel,) = folder.glob("selfrag-*.whl")
    call(*PIP, "install", "--no-deps", "--target", str(site), str(wheel))
    return site


def call(*command: str, site: Path | None = None, folder: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site or "")}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_answers_with_a_citation(installed, tmp_path):
    (tmp_path / "Titan.txt").write_text("Titan is the largest moon of the planet Saturn.")
    (tmp_path / "Bakery.txt").write_text("A bakery sells bread early in the morning.")

    def selfrag(*arguments: str) -> str:
        return call(sys.executable, "-m", "selfrag", *arguments, site=installed, folder=tmp_path)

    where = "import selfrag.open.engines as e; print(e.__file__, e.adapter_dir())"
    for path in call(sys.executable, "-c", where, site=installed, folder=tmp_path).split():
        assert Path(path).is_relative_to(installed)
    selfrag("index", "build", "Titan.txt", "Bakery.txt", "--out", "index")
    answer = json.loads(
        selfrag("ask", "Which planet has the moon Titan?", "--index", "index", "--json")
    )
    assert "Saturn" in answer["answer"]
    (cited,) = answer["segments"][0]["citations"]
    assert answer["passages"][cited - 1]["title"] == "Titan"
