"""Finished logs are rewritten compactly in the store; no reader, whatever its cursor, can tell."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from shared.jobs import JobKey
from shared.storage.keys import job_keys
from tests.contract.conftest import OURS
from tests.support.cluster import Cluster, running_cluster
from tests.support.loops import until
from tests.support.sse_reader import shown
from tests.support.wire import Json, Wire

TOKENS = 60
PARAMS: Json = {"tokens": TOKENS, "tokens_per_s": 1000}
BROKEN: Json = {**PARAMS, "fault": {"kind": "drop", "after": 20, "attempts": 1}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that rewrites logs as soon as they have ended."""
    if not OURS:
        pytest.skip("looks into the store")
    with running_cluster(api=1, workers=1, env={"TAILRACE_COMPACT_AFTER_S": "0.001"}) as cluster:
        yield cluster


@dataclass(frozen=True)
class World:
    """A node, and a look into its store."""

    wire: Wire
    cluster: Cluster

    async def compact(self, job: str) -> None:
        """Return once the job's log is compact."""
        name = job_keys(JobKey("default", job)).log
        with contextlib.closing(self.cluster.valkey.client()) as store:
            await until(lambda: int(store.xlen(name)) < TOKENS / 2)  # type: ignore[arg-type]  # its types cannot tell sync from async


@pytest.fixture
async def world(cluster: Cluster) -> AsyncIterator[World]:
    """A caller of the cluster."""
    async with Wire(cluster.url) as wire:
        yield World(wire, cluster)


@pytest.mark.requirement("JF-4")
@pytest.mark.requirement("CU-2")
@pytest.mark.requirement("OR-2")
@pytest.mark.parametrize("params", [PARAMS, BROKEN], ids=["straight", "restarted"])
async def test_every_cursor_gives_the_same_events_byte_for_byte_from_a_compact_log(world: World, params: Json) -> None:
    job = await world.wire.submit(params=params)
    async with world.wire.tail(job, exact="true") as tail:  # as they are appended
        live = await tail.end()
    await world.compact(job)

    log = await world.wire.log(job)
    assert (log.ids, log.names, log.bodies) == (live.ids, live.names, live.bodies)
    for index in (*range(1, 12), TOKENS // 2, len(log.ids) - 1):
        rest = await world.wire.events(job, log.ids[index - 1], exact="true")
        assert (rest.ids, rest.bodies) == (log.ids[index:], log.bodies[index:])
    assert (await world.wire.events(job, log.ids[-1])).status == 204


@pytest.mark.requirement("JF-3")
@pytest.mark.requirement("OR-4")
async def test_joined_frames_and_the_job_show_the_same_text_as_before(world: World) -> None:
    job = await world.wire.submit(params=PARAMS)
    live = await world.wire.events(job, exact="true")
    before = await world.wire.show(job)
    await world.compact(job)

    joined = await world.wire.events(job)
    assert shown(joined.frames) == shown(live.frames)
    assert len(joined.frames) < len(live.frames) / 2
    assert await world.wire.show(job) == before
    middle = live.ids[TOKENS // 2]
    assert shown([*live.frames[: TOKENS // 2 + 1], *(await world.wire.events(job, middle)).frames]) == shown(
        live.frames
    )


@pytest.mark.requirement("CU-7")
async def test_a_cursor_that_a_compact_log_never_held_gets_a_snapshot(world: World) -> None:
    job = await world.wire.submit(params=PARAMS)
    log = await world.wire.log(job)
    await world.compact(job)
    epoch, _, seq = str(log.ids[10]).partition("-")
    for stranger in (f"{int(epoch) - 1}-{seq}", f"{int(epoch) + 1}-{seq}", f"{epoch}-{TOKENS * 2}"):
        snapshot = (await world.wire.events(job, stranger)).frames[0]
        assert snapshot.event == "reset"
        assert '"snapshot":true' in snapshot.data.replace(" ", "")
