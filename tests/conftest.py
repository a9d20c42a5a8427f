"""Settings for all tests, and the server that two of them share."""

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
