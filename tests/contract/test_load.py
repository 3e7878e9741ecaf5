"""Too much to do: new jobs are refused at once, running ones do not feel it, and it ends by itself."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import OURS
from tests.support.cluster import Cluster
from tests.support.loops import until
from tests.support.wire import SLOW, Wire, assert_problem, scripted

MOST_BYTES = 10**9
BALLAST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node and a worker with one slot, which takes no job that would wait for more than half a second; and a store
    with a limit of memory."""
    if not OURS:
        pytest.skip("asks for something that only a node of our own has")
    folder: Path = tmp_path_factory.mktemp("load")
    cluster = Cluster(folder, {"TAILRACE_SLOTS": "1", "TAILRACE_MAX_WAIT_S": "0.5"})
    try:
        cluster.valkey.start()
        _most(cluster, MOST_BYTES)
        cluster.add_api()
        cluster.add_worker()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
async def wire(busy: Cluster) -> AsyncIterator[Wire]:
    """A caller of the node."""
    async with Wire(busy.url) as wire:
        yield wire


def _most(cluster: Cluster, size: int) -> None:
    with contextlib.closing(cluster.valkey.client()) as client:
        client.config_set("maxmemory", size)


def _used(cluster: Cluster) -> int:
    """Bytes, most of them a ballast that stays, so that a buffer that comes or goes is no part worth naming."""
    with contextlib.closing(cluster.valkey.client()) as client:
        client.setrange("ballast", BALLAST_BYTES, "x")
        found: Any = client.info("memory")
        return int(found["used_memory"])


async def _refused_with(wire: Wire, status: int) -> bool:
    answer = await wire.create(scripted("hello"))
    if answer.status_code == 202:
        await wire.cancel(answer.json()["id"])
    return answer.status_code == status


async def _refused_for(wire: Wire, code: str) -> bool:
    answer = await wire.create(scripted("hello"))
    if answer.status_code == 202:
        await wire.cancel(answer.json()["id"])
    return bool(answer.json().get("code") == code)


@pytest.mark.requirement("LT-10")
async def test_jobs_that_would_wait_too_long_are_refused_until_there_is_room(wire: Wire) -> None:
    running = await wire.submit(params=SLOW)
    await wire.show_when(running, lambda job: job["status"] == "running")
    waiting = await wire.submit(params=SLOW)
    async with wire.tail(running) as tail:
        await until(lambda: _refused_with(wire, 503))
        answer = await wire.create(scripted("hello"))
        assert_problem(answer, 503, "overloaded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (await wire.show(running))["status"] == "running"
        await wire.cancel(running)
        assert (await tail.end()).names[-1] == "cancelled"
    await wire.cancel(waiting)
    await until(lambda: _refused_with(wire, 202))


@pytest.mark.requirement("LT-11")
async def test_a_store_that_is_nearly_full_takes_no_new_jobs_and_goes_on_with_what_runs(
    wire: Wire, busy: Cluster
) -> None:
    running = await wire.submit(params={"tokens": 2000, "tokens_per_s": 100})
    async with wire.tail(running) as tail:
        await tail.until(lambda streamed: "token" in streamed.names)
        _most(busy, round(_used(busy) / 0.9))
        try:
            await until(lambda: _refused_for(wire, "storage_full"))
            answer = await wire.create(scripted("hello"))
            assert_problem(answer, 503, "storage_full")
            assert int(answer.headers["retry-after"]) >= 1
            seen = len(tail.streamed.frames)
            await tail.until(lambda streamed: len(streamed.frames) > seen)
            assert (await wire.ask("GET", "/jobs")).status_code == 200
        finally:
            _most(busy, MOST_BYTES)
        await until(lambda: _refused_with(wire, 202))
        await wire.cancel(running)
        assert (await tail.end()).names[-1] == "cancelled"
