"""Replicas: with TAILRACE_REPLICAS a create is acknowledged when they have it, and tokens do not wait for them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from shared.errors import StorageError
from shared.events import Token
from shared.storage.batch import Batcher
from shared.storage.connect import open_redis
from shared.storage.creation import Creation
from shared.storage.jobs import Claimed, JobStore
from shared.storage.keys import job_keys
from tests.storage import acts
from tests.support.cluster import free_port, until
from tests.support.loops import running
from tests.support.stores import ValkeyProcess, running_valkey


@dataclass
class Pair:
    """A primary and its replica."""

    primary: ValkeyProcess
    replica: ValkeyProcess


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both, in step."""
    with (
        running_valkey(tmp_path_factory.mktemp("primary")) as primary,
        running_valkey(tmp_path_factory.mktemp("replica")) as replica,
    ):
        port = free_port()
        with primary.client() as one, replica.client() as other:
            one.config_set("bind", "127.0.0.1")
            one.config_set("port", port)
            one.config_set("repl-diskless-sync-delay", 0)
            other.replicaof("127.0.0.1", port)
            until(lambda: other.info("replication").get("master_link_status") == "up")
        yield Pair(primary, replica)


@pytest.fixture
async def jobs(pair: Pair) -> AsyncIterator[JobStore]:
    """A job store that waits for one replica."""
    redis = open_redis(pair.primary.url, timeout_s=5.0, max_connections=8)
    batcher = Batcher(redis, replicas=1)
    async with running(batcher.run()):
        yield JobStore(redis, batcher)
    await redis.aclose()


async def test_an_acknowledged_create_is_on_the_replica(pair: Pair, jobs: JobStore) -> None:
    for _ in range(20):
        job = acts.new_job()
        assert await jobs.create(Creation(job, acts.request(), deadline_s=60, ttl_s=60))
        with pair.replica.client() as replica:
            assert replica.exists(job_keys(job).meta, job_keys(job).log) == 2


async def test_without_its_replica_a_create_is_refused_and_a_running_job_goes_on_to_its_end(
    pair: Pair, jobs: JobStore
) -> None:
    job = acts.new_job()
    assert await jobs.create(Creation(job, acts.request(), deadline_s=60, ttl_s=60))
    with pair.replica.client() as replica, pair.primary.client() as primary:
        host, port = "127.0.0.1", primary.config_get("port")["port"]
        replica.replicaof("NO", "ONE")
        try:
            refused = asyncio.create_task(
                jobs.create(Creation(acts.new_job(), acts.request(), deadline_s=60, ttl_s=60))
            )
            taken = await jobs.claim(job, "w1", acts.LEASE_MS)
            assert isinstance(taken, Claimed)
            appended = await jobs.append(job, taken.epoch, taken.seq + 1, [Token("on")])
            assert not refused.done(), "a token does not wait for a replica"
            with pytest.raises(StorageError):
                await refused
            assert appended.verdict == "OK"
            assert await jobs.cancel(job, "user")
        finally:
            replica.replicaof(host, port)
            until(lambda: replica.info("replication").get("master_link_status") == "up")
