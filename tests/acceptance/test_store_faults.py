"""What clients see when the store freezes, or has no memory left."""

import signal
from typing import Any

import httpx2

from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.watch import GUARD_S, assert_whole, finish, read_tokens, said

PARAMS: dict[str, Any] = {"tokens": 160, "tokens_per_s": 40, "seed": 3}
JOB: Any = {"provider": "scripted", "model": "demo", "prompt": "go", "params": PARAMS}
POST: dict[str, Any] = {"provider": "scripted", "model": "demo", "prompt": "x", "params": {"tokens": 1}}


async def test_a_frozen_store_is_answered_503_and_no_job_runs_twice_for_it(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(
        env={"TAILRACE_REDIS_TIMEOUT_S": "0.5", "TAILRACE_LEASE_S": "1.5", "TAILRACE_LEASE_RENEW_S": "0.5"}
    )
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        cluster.valkey.signal(signal.SIGSTOP)
        async with httpx2.AsyncClient(base_url=cluster.url, timeout=GUARD_S) as http:
            # Each takes a time-out: together they last for longer than a lease.
            refused = [await http.post("/jobs", json=POST) for _ in range(5)]
        cluster.valkey.signal(signal.SIGCONT)
        terminal = await finish(stream)

        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "storage_unavailable")}
        assert terminal.data["attempt"] == 1
        await assert_whole(tailrace, stream, said(PARAMS, 1))
        assert (await finish(tailrace.stream(**POST))).type == "done"
        assert all(process.alive for process in (*cluster.apis, *cluster.workers))


async def test_without_memory_a_post_is_503_and_a_running_job_goes_on_when_there_is_some_again(
    cluster_of: ClusterFactory,
) -> None:
    cluster = cluster_of()
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        with cluster.valkey.client() as client:
            before = client.config_get("maxmemory")["maxmemory"]
            client.config_set("maxmemory", "1mb")
            async with httpx2.AsyncClient(base_url=cluster.url, timeout=GUARD_S) as http:
                refused = await http.post("/jobs", json=POST)
            client.config_set("maxmemory", before)
        terminal = await finish(stream)

        assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert terminal.data["attempt"] == 1
        await assert_whole(tailrace, stream, said(PARAMS, 1))
        assert (await finish(tailrace.stream(**POST))).type == "done"


async def test_memory_that_stays_away_ends_a_running_job_as_failed(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={"TAILRACE_STORAGE_PATIENCE_S": "0.5"})
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        with cluster.valkey.client() as client:
            client.config_set("maxmemory", "1mb")
        terminal = await finish(stream)

        assert (terminal.type, terminal.data["code"]) == ("failed", "storage_full")
        assert terminal.data["attempt"] == 1
