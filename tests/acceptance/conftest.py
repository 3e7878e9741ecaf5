"""Fixtures of the acceptance tests: clusters of real processes, and a client that does not dawdle."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tailrace_client import AsyncTailrace, Patience

from tests.support.cluster import Cluster, running_cluster
from tests.support.provider_server import ProviderServer

ClusterFactory = Callable[..., Cluster]


@pytest.fixture
def cluster_of() -> Iterator[ClusterFactory]:
    """Makes clusters; all of their processes end with the test."""
    with contextlib.ExitStack() as stack:

        def make(api: int = 1, workers: int = 1, env: dict[str, str] | None = None) -> Cluster:
            return stack.enter_context(running_cluster(api, workers, env))

        yield make


@pytest.fixture
async def provider_server() -> AsyncIterator[ProviderServer]:
    """A provider in this very process, to be told what to do; its `environment` is for the workers."""
    async with ProviderServer() as server:
        yield server


def quick(url: str, key: str | None = None) -> AsyncTailrace:
    """A client that comes back at once, so that a test need not wait for politeness."""
    return AsyncTailrace(url, key, patience=Patience(backoff=lambda tries, hint: 0.02 * min(tries + 1, 10)))
