"""Settings for all tests, and the servers that some of them share."""

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: examples may be slow.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def pg_server():
    """A PostgreSQL server; every test makes databases of its own."""
    from pg_server import PgServer

    with PgServer() as running:
        yield running


@pytest.fixture(scope="module")
def nodes():
    """A Ray cluster on this machine, without a node that works."""
    from ray_nodes import ray_nodes

    with ray_nodes() as started:
        yield started


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, with an empty cache, as if HF_ENDPOINT named it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    from hub_server import HubServer

    with HubServer() as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running
