"""A package whose `__init__` waits, on one made here and on the one it is for."""

import importlib
import os
import sys

import pytest

from selfrag.retrieval.memory import limit_read_ahead
from selfrag.retrieval.table import import_lancedb, put_off


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`put_off_example`, whose `__init__` counts its runs in its submodule `part`."""
    name = "put_off_example"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"from {name}.part import runs\nruns.append(1)\nanswer = 42\n"
    )
    (folder / "part.py").write_text("runs = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]


def test_a_submodule_is_imported_before_the_package_runs(package):
    put_off(package)
    part = importlib.import_module(f"{package}.part")
    assert part.runs == []
    assert importlib.import_module(package).answer == 42
    assert importlib.import_module(package).part is part
    assert part.runs == [1]


def test_an_attribute_that_is_not_there_stays_an_error(package):
    put_off(package)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = importlib.import_module(package).nonsense


def test_a_package_that_is_imported_already_is_left_alone(package):
    before = importlib.import_module(package)
    put_off(package)
    assert importlib.import_module(package) is before
    assert before.part.runs == [1]


def test_a_package_that_is_not_installed_stays_so():
    put_off("no_such_package_anywhere")
    assert "no_such_package_anywhere" not in sys.modules


def test_lancedb_has_all_of_its_parts():
    pytest.importorskip("lancedb")
    lancedb = import_lancedb()
    client = importlib.import_module("lance_namespace_urllib3_client")
    assert lancedb.connect_namespace and client.TableApi.__name__ == "TableApi"


def test_reading_ahead_is_limited_unless_its_user_says_how_far(monkeypatch):
    name = "LANCE_DEFAULT_IO_BUFFER_SIZE"
    monkeypatch.setenv(name, "5")
    limit_read_ahead()
    assert os.environ[name] == "5"
    monkeypatch.delenv(name)
    limit_read_ahead()
    assert os.environ[name] == str(16 << 20)
