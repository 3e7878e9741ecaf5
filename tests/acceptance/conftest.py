"""Fixtures of the acceptance tests: clusters of real processes, and a client that does not dawdle."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from tailrace_client import AsyncTailrace, Patience

from tests.support.cluster import Cluster, running_cluster

ClusterFactory = Callable[..., Cluster]


@pytest.fixture
def cluster_of() -> Iterator[ClusterFactory]:
    """Makes clusters; all of their processes end with the test."""
    with contextlib.ExitStack() as stack:

        def make(api: int = 1, workers: int = 1, env: dict[str, str] | None = None) -> Cluster:
            return stack.enter_context(running_cluster(api, workers, env))

        yield make


def quick(url: str, key: str | None = None) -> AsyncTailrace:
    """A client that comes back at once, so that a test need not wait for politeness."""
    return AsyncTailrace(url, key, patience=Patience(backoff=lambda tries, hint: 0.02 * min(tries + 1, 10)))
