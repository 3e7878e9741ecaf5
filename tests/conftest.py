"""What every test runs under: property tests are judged by what they find, not by the clock of a busy machine.

And the provider that tests of more than one folder ask for.
"""

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.provider_server import ProviderServer

settings.register_profile("tailrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tailrace")


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProviderServer]:
    """A provider that the environment's settings lead to."""
    async with ProviderServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
