"""What readers see when API nodes die, drain, or lose the store."""

import asyncio
import signal
import socket
from typing import Any

import httpx2
import pytest

from tests.acceptance.conftest import ClusterFactory, quick
from tests.support.cluster import Cluster, until
from tests.support.watch import GUARD_S, assert_whole, finish, read_tokens, said

PARAMS: dict[str, Any] = {"tokens": 120, "tokens_per_s": 40}
JOB: Any = {"provider": "scripted", "model": "demo", "prompt": "go", "params": PARAMS}


@pytest.mark.requirement("KL-6")
async def test_a_reader_whose_node_is_killed_goes_on_at_another_without_a_loss(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(api=2)
    async with quick(cluster.urls[0]) as first, quick(cluster.urls[1]) as second:
        stream = first.stream(**JOB)
        await read_tokens(stream, 20)
        cluster.apis[0].kill()

        rest = second.events(str(stream.job_id), after=stream.cursor, transcript=stream.transcript)
        await finish(rest)

        await assert_whole(second, rest, said(PARAMS, 1))


async def test_a_cut_connection_loses_and_doubles_nothing_wherever_it_is_cut(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        for _ in range(8):
            await read_tokens(stream, 10)
            await stream.cut()
        await finish(stream)

        assert stream.counters.resumes >= 8
        await assert_whole(tailrace, stream, said(PARAMS, 1))


@pytest.mark.requirement("KL-3")
async def test_a_draining_node_sends_its_readers_away_and_ends_with_status_zero(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(env={"TAILRACE_DRAIN_SPREAD_S": "0.1"})
    job_id = await _submit(cluster)
    async with asyncio.timeout(GUARD_S):
        reader, writer = await _raw_get(cluster, f"/jobs/{job_id}/events")
        await reader.readuntil(b"event: token")
        cluster.apis[0].signal(signal.SIGTERM)
        rest = await reader.read()
        writer.close()

    assert b"retry: " in rest
    assert rest.endswith(b"0\r\n\r\n"), "EventSource comes back after a clean end"
    assert await asyncio.to_thread(cluster.apis[0].wait) == 0


async def test_a_draining_node_aborts_readers_that_would_take_a_clean_end_for_the_answers_end(
    cluster_of: ClusterFactory,
) -> None:
    cluster = cluster_of(env={"TAILRACE_DRAIN_SPREAD_S": "0.1"})
    job_id = await _submit(cluster)
    async with asyncio.timeout(GUARD_S):
        reader, writer = await _raw_get(cluster, f"/jobs/{job_id}/events?dialect=chat")
        await reader.readuntil(b'"token"')
        cluster.apis[0].signal(signal.SIGTERM)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"0\r\n\r\n")
        writer.close()


@pytest.mark.requirement("KL-7")
async def test_readers_outlast_a_store_that_is_killed_and_started_again(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    async with quick(cluster.url) as tailrace, tailrace.stream(**JOB) as stream:
        await read_tokens(stream, 20)
        cluster.valkey.kill()
        cluster.valkey.start()
        terminal = await finish(stream)

        assert terminal.type == "done"
        assert stream.counters.resumes == 0, "the connection itself was kept"
        await assert_whole(tailrace, stream, said(PARAMS, terminal.data["attempt"]))


async def test_without_a_store_a_post_is_503_and_a_new_reader_is_closed_without_an_answer(
    cluster_of: ClusterFactory,
) -> None:
    cluster = cluster_of(workers=0)
    job_id = await _submit(cluster)
    cluster.valkey.kill()
    async with httpx2.AsyncClient(base_url=cluster.url, timeout=GUARD_S) as http:
        refused = await http.post("/jobs", json={"provider": "scripted", "model": "demo", "prompt": "x"})
        ready = await http.get("/readyz")
        alive = await http.get("/healthz")
        with pytest.raises(httpx2.RemoteProtocolError):
            await http.get(f"/jobs/{job_id}/events")

    assert refused.status_code == 503
    assert refused.json()["code"] == "storage_unavailable"
    assert int(refused.headers["retry-after"]) >= 1
    assert (ready.status_code, alive.status_code) == (503, 200)

    cluster.valkey.start()
    until(lambda: httpx2.get(f"{cluster.url}/readyz").status_code == 200)
    assert httpx2.get(f"{cluster.url}/jobs/{job_id}").json()["status"] == "queued"


async def test_once_its_job_is_made_a_post_needs_nothing_more_of_the_store_that_could_fail(
    cluster_of: ClusterFactory,
) -> None:
    cluster = cluster_of(workers=0)
    with cluster.valkey.client() as client:
        client.config_resetstat()
        await _submit(cluster)
        asked = set(client.info("commandstats"))

    assert not {"cmdstat_hgetall", "cmdstat_xrange", "cmdstat_xread"} & asked


async def test_a_thousand_tokens_in_one_breath_arrive_whole_at_many_readers(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of()
    params: dict[str, Any] = {"tokens": 5000}
    async with quick(cluster.url) as tailrace:
        job = await tailrace.submit(provider="scripted", model="demo", prompt="go", params=params)
        streams = [tailrace.events(job.id, exact=number % 2 == 0) for number in range(20)]
        await asyncio.gather(*(finish(stream) for stream in streams))

        for stream in streams:
            await assert_whole(tailrace, stream, said(params, 1))


async def _submit(cluster: Cluster) -> str:
    async with quick(cluster.url) as tailrace:
        return (await tailrace.submit(**JOB)).id


async def _raw_get(cluster: Cluster, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A GET whose every byte the test sees."""
    port = int(cluster.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await writer.drain()
    return reader, writer
