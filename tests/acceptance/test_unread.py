"""Jobs that are to be cancelled when nobody reads them (`cancel_if_unread_s`)."""

import asyncio
from typing import Any

import pytest

from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.watch import finish, read_tokens, said

LONG: Any = {"provider": "scripted", "model": "demo", "prompt": "go", "params": {"tokens": 160, "tokens_per_s": 40}}


@pytest.mark.requirement("CN-7")
async def test_a_job_that_nobody_reads_is_cancelled_and_one_that_is_read_is_not(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={"TAILRACE_CANCEL_IF_UNREAD_S": "2"})
    async with quick(cluster.url) as tailrace, asyncio.TaskGroup() as group:
        stream = tailrace.stream(**LONG)
        reading = group.create_task(finish(stream))
        unread = await tailrace.submit(**LONG)
        seen_once = await tailrace.submit(**LONG)
        polled = await tailrace.submit(**LONG)
        reader = tailrace.events(seen_once.id)
        await read_tokens(reader, 3)
        await reader.aclose()
        async with asyncio.timeout(30):
            while (await tailrace.job(polled.id)).status in ("queued", "running"):
                await asyncio.sleep(0.1)
        terminal = await reading
        ends = [await tailrace.job(job.id) for job in (unread, seen_once, polled)]

    assert terminal.type == "done"
    assert stream.transcript.text == said(LONG["params"], 1)
    assert [job.status for job in ends] == ["cancelled", "cancelled", "done"]


async def test_a_job_may_say_itself_how_long_it_waits_for_a_reader(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(workers=0)
    async with quick(cluster.url) as tailrace:
        job = await tailrace.submit(**LONG, cancel_if_unread_s=5)
        with cluster.valkey.client() as client:
            stored = client.hget(f"tailrace:{{default/{job.id}}}:meta", "unread_ms")

    assert stored == "5000"
