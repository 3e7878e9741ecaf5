"""Jobs that are to be cancelled when nobody reads them (`cancel_if_unread_s`)."""

import asyncio
from functools import partial
from typing import Any

import pytest

from shared.jobs import JobKey
from shared.storage.keys import job_keys
from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.cluster import Cluster, until
from tests.support.watch import finish, read_tokens, said

ENV = {"TAILRACE_CANCEL_IF_UNREAD_S": "2", "TAILRACE_LEASE_S": "3", "TAILRACE_LEASE_RENEW_S": "1"}
JOB: Any = {"provider": "scripted", "model": "demo", "prompt": "go"}
LONG: Any = {**JOB, "params": {"tokens": 300, "tokens_per_s": 40}}
ENDLESS: Any = {**JOB, "params": {"tokens": 4000, "tokens_per_s": 20}}


def _ended(cluster: Cluster, job_id: str) -> bool:
    with cluster.valkey.client() as client:
        return bool(client.hexists(job_keys(JobKey("default", job_id)).meta, "terminal"))


@pytest.mark.requirement("CN-7")
async def test_a_job_that_nobody_reads_is_cancelled_and_one_that_is_read_is_not(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env=ENV)
    async with quick(cluster.url) as tailrace, asyncio.TaskGroup() as group:
        stream = tailrace.stream(**LONG)
        reading = group.create_task(finish(stream))
        unread = await tailrace.submit(**ENDLESS)
        seen_once = await tailrace.submit(**ENDLESS)
        polled = await tailrace.submit(**LONG)
        reader = tailrace.events(seen_once.id)
        await read_tokens(reader, 3)
        await reader.aclose()
        async with asyncio.timeout(30):
            while (await tailrace.job(polled.id)).status in ("queued", "running"):
                await asyncio.sleep(0.1)
        terminal = await reading
        for orphan in (unread, seen_once):
            # Not by a GET, which would be a reading.
            await asyncio.to_thread(until, partial(_ended, cluster, orphan.id))
            assert (await finish(tailrace.events(orphan.id))).data["reason"] == "unread"
        assert (await tailrace.job(polled.id)).status == "done"

    assert terminal.type == "done"
    assert stream.transcript.text == said(LONG["params"], 1)


async def test_a_job_may_say_itself_how_long_it_waits_for_a_reader(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(workers=0)
    async with quick(cluster.url) as tailrace:
        job = await tailrace.submit(**LONG, cancel_if_unread_s=5)
        with cluster.valkey.client() as client:
            stored = client.hget(job_keys(JobKey("default", job.id)).meta, "unread_ms")

    assert stored == "5000"
