"""A provider that is ill: few calls more than there are jobs, none at an open circuit, and both are to be seen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import pytest
from tailrace_client import AsyncTailrace, Event, Job

from tests.acceptance.conftest import ClusterFactory, quick
from tests.support import metrics
from tests.support.cluster import Cluster, free_port
from tests.support.provider_behaviour import Behaviour, answer
from tests.support.provider_server import ProviderServer
from tests.support.watch import GUARD_S, assert_whole, finish, read_tokens

MODEL = "gpt-x"
FLOOR = 3
# A long lease: a job that a slow machine takes over from itself would be one call more.
SETTINGS = {
    "TAILRACE_RETRY_BASE_S": "0.01",
    "TAILRACE_RETRY_BUDGET_FLOOR": str(FLOOR),
    "TAILRACE_LEASE_S": "60",
}
SURE_S = "8"
"""A circuit stays open for at least half of it: longer than a test needs to look at it, even on a slow machine."""


@dataclass
class Stage:
    """A cluster, a client of it, and where its worker shows its metrics."""

    cluster: Cluster
    tailrace: AsyncTailrace
    metrics_url: str

    async def job(self, prompt: str = "hello", **fields: str) -> Job:
        """A job's state once it has ended."""
        stream = self.tailrace.stream(provider="openai", model=MODEL, prompt=prompt, **fields)  # type: ignore[arg-type]
        await finish(stream)
        return await self.tailrace.job(str(stream.job_id))

    async def value(self, name: str, **labels: str) -> float:
        """One metric of the worker."""
        return await asyncio.to_thread(metrics.value, self.metrics_url, name, **labels)


@pytest.fixture
async def provider() -> AsyncIterator[ProviderServer]:
    """A provider in this process, so that a test can make it ill and well."""
    async with ProviderServer() as server:
        yield server


StageFactory = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def staged(provider: ProviderServer, cluster_of: ClusterFactory) -> AsyncIterator[StageFactory]:
    """Makes a cluster that calls the provider, with settings of the test's own."""
    async with AsyncExitStack() as stack:

        async def stage(**settings: str) -> Stage:
            port = free_port()
            # Without the other vendor's: its SDK need not be loaded.
            openai = {name: value for name, value in provider.environment.items() if name.startswith("OPENAI")}
            env = {**SETTINGS, **openai, **settings, "TAILRACE_WORKER_METRICS_PORT": str(port)}
            cluster = await asyncio.to_thread(cluster_of, env=env)
            tailrace = await stack.enter_async_context(quick(cluster.url))
            return Stage(cluster, tailrace, f"http://127.0.0.1:{port}")

        yield stage


@pytest.mark.requirement("LM-6")
async def test_in_an_outage_the_provider_gets_hardly_more_calls_than_there_are_jobs(
    provider: ProviderServer, staged: StageFactory
) -> None:
    stage = await staged(TAILRACE_CIRCUIT_FAILURES="0")
    jobs = 80

    ended = await asyncio.gather(*(stage.job(f"fault:503 {uuid4().hex}") for _ in range(jobs)))

    assert {job.error and job.error["code"] for job in ended} == {"provider_unavailable"}
    calls = len(provider.requests)
    retries = calls - jobs
    assert 0 < retries <= max(FLOOR, jobs / 10)
    assert sum(job.provider_calls for job in ended) == calls
    assert await stage.value("tailrace_jobs_ended_total", status="failed", code="provider_unavailable") == jobs
    assert await stage.value("tailrace_provider_calls_total", provider="openai") == calls
    assert await stage.value("tailrace_provider_retries_total", decision="granted") == retries
    assert await stage.value("tailrace_provider_retries_total", decision="denied") > 0


@pytest.mark.requirement("LM-7")
async def test_an_ill_provider_is_left_alone_then_probed_and_used_again(
    provider: ProviderServer, staged: StageFactory
) -> None:
    stage = await staged(TAILRACE_PROVIDER_TRIES="1", TAILRACE_CIRCUIT_OPEN_S=SURE_S)
    provider.script(*[Behaviour("503")] * 5)  # and well again after that
    for _ in range(5):
        assert (await stage.job()).error

    refused = await stage.job()

    assert refused.error is not None
    assert (refused.error["code"], refused.error["retryable"]) == ("provider_unavailable", True)
    assert "circuit is open" in refused.error["message"]
    assert (refused.provider_calls, len(provider.requests)) == (0, 5)
    assert await stage.value("tailrace_circuits_open", provider="openai", model=MODEL) == 1

    async with asyncio.timeout(GUARD_S):
        while (job := await stage.job()).status != "done":
            assert len(provider.requests) == 5
    assert job.text == answer(MODEL, [("user", "hello")])
    assert len(provider.requests) == 6
    assert await stage.value("tailrace_circuits_open", provider="openai", model=MODEL) == 0
    assert (await stage.job()).status == "done"


async def test_an_answer_that_broke_in_the_middle_waits_for_the_probe(
    provider: ProviderServer, staged: StageFactory
) -> None:
    stage = await staged(TAILRACE_PROVIDER_TRIES="1", TAILRACE_CIRCUIT_OPEN_S=SURE_S)
    provider.script(Behaviour("stall", after=4), *[Behaviour("503")] * 5)
    stream = stage.tailrace.stream(provider="openai", model=MODEL, prompt="hello")
    await read_tokens(stream, 4)
    (connection,) = provider.connections
    for _ in range(5):
        assert (await stage.job()).error

    connection.abort()
    terminal = await finish(stream)

    assert (terminal.type, terminal.data.get("attempt")) == ("done", 2)
    assert await stage.value("tailrace_circuit_refusals_total") > 0
    assert len(provider.requests) == 7
    await assert_whole(stage.tailrace, stream, answer(MODEL, [("user", "hello")]))


async def test_a_clients_fault_leaves_the_circuit_closed(provider: ProviderServer, staged: StageFactory) -> None:
    stage = await staged()
    for fault in ("400", "401", "404", "422", "quota", "400", "401"):
        assert (await stage.job(f"fault:{fault}")).provider_calls == 1

    assert (await stage.job()).status == "done"


@pytest.mark.requirement("SH-5")
async def test_the_job_says_how_many_calls_it_took(provider: ProviderServer, staged: StageFactory) -> None:
    stage = await staged(TAILRACE_RETRY_BUDGET_FLOOR="100")

    silent = await stage.job("fault:503:0:2")
    broken = await stage.job("fault:drop:5:1")
    failed = await stage.job("fault:503 for good")

    assert (silent.status, silent.attempt, silent.provider_calls) == ("done", 1, 3)
    assert (broken.status, broken.attempt, broken.provider_calls) == ("done", 2, 2)
    assert (failed.status, failed.attempt, failed.provider_calls) == ("failed", 1, 3)
    assert "provider_calls" not in silent.usage
    log = stage.tailrace.events(silent.id, exact=True)
    terminal: Event = await finish(log)
    assert terminal.data["usage"] == silent.usage


async def test_calls_are_summed_over_the_workers_that_a_drain_passes_a_job_through(
    provider: ProviderServer, staged: StageFactory
) -> None:
    stage = await staged(TAILRACE_WORKER_DRAIN_S="0")
    provider.script(Behaviour("503"), Behaviour("stall", after=4))
    stream = stage.tailrace.stream(provider="openai", model=MODEL, prompt="hello")
    await read_tokens(stream, 4)

    await asyncio.to_thread(stage.cluster.workers[0].terminate)
    waiting = await stage.tailrace.job(str(stream.job_id))
    await asyncio.to_thread(stage.cluster.add_worker)
    await finish(stream)

    assert (waiting.status, waiting.provider_calls, waiting.usage) == ("queued", 2, {})
    assert (await stage.tailrace.job(str(stream.job_id))).provider_calls == 3
