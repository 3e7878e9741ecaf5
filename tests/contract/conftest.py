"""The contract's fixtures: a node to ask, which may be any server, and a strict one of our own with small limits.

TAILRACE_TEST_URL (and TAILRACE_TEST_API_KEY where it wants one) names a server to be tested instead of a fresh cluster;
tests that need keys, small limits or the store of the strict node then stand aside.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.support.cluster import Cluster, running_cluster
from tests.support.wire import Wire

URL = os.environ.get("TAILRACE_TEST_URL", "")
KEY = os.environ.get("TAILRACE_TEST_API_KEY") or None
OURS = not URL
needs_our_node = pytest.mark.skipif(not OURS, reason="asks for something that only a node of our own has")

HEARTBEAT_S = "0.2"
STRICT = {
    "TAILRACE_API_KEYS": "acme:key-of-acme,umbra:key-of-umbra",
    "TAILRACE_CORS_ORIGINS": "https://app.example,http://localhost:5173",
    "TAILRACE_SLOTS": "4",
    "TAILRACE_MAX_QUEUED_JOBS": "8",
    "TAILRACE_MAX_OUTPUT_BYTES": "1024",
    "TAILRACE_JOB_DEADLINE_S": "6",
    "TAILRACE_BETWEEN_TOKEN_TIMEOUT_S": "0.3",
    "TAILRACE_RETRY_BASE_S": "0.01",
    # Its jobs ask for more faults than any provider has.
    "TAILRACE_RETRY_BUDGET_FLOOR": "1000",
    "TAILRACE_CIRCUIT_FAILURES": "0",
    "TAILRACE_REPAIR_WAIT_S": "0.2",
    "TAILRACE_TAIL_TICK_S": "0.3",
    # Tests ask as fast as they can.
    "TAILRACE_KEY_REQUESTS_PER_S": "0",
    "TAILRACE_FAILED_AUTH_PER_S": "0",
}


@pytest.fixture(scope="session")
def node_url() -> Iterator[str]:
    """The node under test: one API node and one worker, without keys, or the one that TAILRACE_TEST_URL names."""
    if URL:
        yield URL
        return
    with running_cluster(api=1, workers=1, env={"TAILRACE_HEARTBEAT_S": HEARTBEAT_S}) as cluster:
        yield cluster.url


@pytest.fixture
async def wire(node_url: str) -> AsyncIterator[Wire]:
    """A caller of the node under test."""
    async with Wire(node_url, KEY) as wire:
        yield wire


@dataclass(frozen=True)
class Strict:
    """A node with keys and small limits, and two tenants of it."""

    cluster: Cluster
    acme: Wire
    umbra: Wire
    nobody: Wire


@pytest.fixture(scope="session")
def strict_cluster() -> Iterator[Cluster]:
    """A cluster of STRICT settings, whose OpenAI is a server on loopback."""
    if not OURS:
        pytest.skip("asks for something that only a node of our own has")
    with openai_on_loopback() as env, running_cluster(api=1, workers=1, env={**STRICT, **env}) as cluster:
        yield cluster


@contextlib.contextmanager
def openai_on_loopback() -> Iterator[dict[str, str]]:
    """A provider that does what a prompt says, as a process; the workers' environment for it."""
    command = [sys.executable, "-m", "tests.support.provider_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as provider:
        try:
            assert provider.stdout is not None
            said = json.loads(provider.stdout.readline())
            yield {name: said[name] for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY")}
        finally:
            provider.terminate()


@pytest.fixture
async def strict(strict_cluster: Cluster) -> AsyncIterator[Strict]:
    """Callers of the strict node. Each test finds its slots and its queue empty."""
    url = strict_cluster.url
    async with Wire(url, "key-of-acme") as acme, Wire(url, "key-of-umbra") as umbra, Wire(url) as nobody:
        yield Strict(strict_cluster, acme, umbra, nobody)
        for tenant in (acme, umbra):
            for status in ("queued", "running"):
                listed = await tenant.ask("GET", "/jobs", params={"status": status, "limit": "100"})
                for job in listed.json()["data"]:
                    await tenant.cancel(job["id"])
