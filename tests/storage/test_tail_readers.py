"""Readers come and go: they share one subscription, stand in nobody's way, and leave nothing behind."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.tail import PAGES_AT_ONCE
from shared.errors import StorageError
from shared.events import EventId, Token
from shared.storage.keys import notice_channel
from shared.storage.log import PAGE, Page
from tests.storage.conftest import Stores
from tests.storage.reading import Node, Reading, finish, running_job, running_node
from tests.support.loops import end, until


@pytest.fixture
async def node(stores: Stores) -> AsyncIterator[Node]:
    """A node on the store of the test."""
    async with running_node(stores) as made:
        yield made


async def _nothing_left(stores: Stores, node: Node) -> None:
    """Wait until no table names a reader that has gone."""
    notices = stores.notices
    await until(lambda: not any((node.tails._tails, node.tails._dirty, notices._listeners, notices._confirmations)))


async def _nobody_subscribed(stores: Stores) -> bool:
    return not await stores.redis.pubsub_channels()


async def test_readers_of_one_job_share_one_subscription(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores)
    readings = [Reading(node, job) for _ in range(5)]
    await until(lambda: all(len(reading.entries) == 2 for reading in readings))

    assert await stores.redis.pubsub_numsub(notice_channel(job)) == [(notice_channel(job), 1)]
    assert len(node.tails._tails) == 1

    for reading in readings[1:]:
        await end(reading.task)
    await finish(stores, job, epoch, 3)
    assert await readings[0].ended() == await stores.log.read_all(job)
    await _nothing_left(stores, node)
    await until(lambda: _nobody_subscribed(stores))


async def test_readers_that_stay_to_the_end_leave_nothing(stores: Stores, node: Node) -> None:
    jobs = [await running_job(stores) for _ in range(4)]
    readings = [Reading(node, job) for job, _ in jobs for _ in range(3)]
    await until(lambda: all(reading.attached for reading in readings))
    for job, epoch in jobs:
        await finish(stores, job, epoch, 3)
    for reading in readings:
        assert len(await reading.ended()) == 3
    await _nothing_left(stores, node)
    await until(lambda: _nobody_subscribed(stores))


@pytest.mark.parametrize("seed", range(2))
async def test_readers_that_leave_in_the_middle_leave_nothing(stores: Stores, node: Node, seed: int) -> None:
    chance = random.Random(seed)
    jobs = [await running_job(stores) for _ in range(3)]
    readings: list[Reading] = []
    for seq in range(3, 40):
        readings.append(Reading(node, chance.choice(jobs)[0]))
        await until(lambda: readings[-1].attached)
        await stores.jobs.append(jobs[0][0], jobs[0][1], seq, [Token("x")])
        if chance.random() < 0.6:
            await end(readings.pop(chance.randrange(len(readings))).task)
    await end(*(reading.task for reading in readings))
    await _nothing_left(stores, node)


async def test_a_reader_that_comes_as_the_last_one_leaves_misses_nothing(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores)
    for seq in range(3, 23):
        leaving = Reading(node, job)
        await until(lambda: leaving.attached)  # noqa: B023 - awaited here
        leaving.task.cancel()
        coming = Reading(node, job)
        await stores.jobs.append(job, epoch, seq, [Token("x")])
        await until(lambda: len(coming.entries) == seq)  # noqa: B023 - awaited here
        await end(leaving.task, coming.task)
    await _nothing_left(stores, node)


async def test_many_who_replay_at_once_take_turns(stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each turn of the loop would hold a page of every one of them, and whoever shares the loop would wait."""
    job, epoch = await running_job(stores, tokens=3 * PAGE)
    await finish(stores, job, epoch, 3 * PAGE + 3)
    under_way, most = 0, 0
    read_after = stores.log.read_after

    async def counted(*asked: Any, **more: Any) -> Page:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await read_after(*asked, **more)
        finally:
            under_way -= 1

    monkeypatch.setattr(stores.log, "read_after", counted)
    seen = range(2, 12)  # so many events each has already: no two read the same page
    readings = [Reading(node, job, EventId(epoch, seq)) for seq in seen]
    assert [len(await reading.ended()) for reading in readings] == [3 * PAGE + 3 - seq for seq in seen]
    assert most == PAGES_AT_ONCE


@pytest.mark.parametrize("left", ["nobody", "who reads", "who waits"])
async def test_readers_that_come_back_together_have_a_page_read_once_for_all(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    job, epoch = await running_job(stores, tokens=40)
    held, reads, read_after = asyncio.Event(), 0, stores.log.read_after

    async def slow(*args: Any, **more: Any) -> Page:
        nonlocal reads
        reads += 1
        page = await read_after(*args, **more)
        await held.wait()
        return page

    monkeypatch.setattr(stores.log, "read_after", slow)
    readings = [Reading(node, job) for _ in range(6)]
    await until(lambda: all(reading.attached for reading in readings))
    await until(lambda: reads == 1)
    if left != "nobody":
        await end(readings.pop(0 if left == "who reads" else -1).task)
        await until(lambda: reads == (2 if left == "who reads" else 1))
    held.set()
    await finish(stores, job, epoch, 43)

    whole = await stores.log.read_all(job)
    for reading in readings:
        assert await reading.ended() == whole
    assert reads < len(readings)
    await _nothing_left(stores, node)


async def test_a_reader_that_leaves_while_it_is_attached_leaves_nothing(stores: Stores, node: Node) -> None:
    job, _ = await running_job(stores)
    gone = Reading(node, job)
    await asyncio.sleep(0)
    assert stores.notices._listeners
    await end(gone.task)
    await _nothing_left(stores, node)


async def test_a_reader_that_leaves_while_it_is_attached_takes_no_other_with_it(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores)
    first, second = Reading(node, job), Reading(node, job)
    await asyncio.sleep(0)
    assert stores.notices._confirmations
    await end(first.task)
    await finish(stores, job, epoch, 3)
    assert len(await second.ended()) == 3


async def test_a_store_that_cannot_be_subscribed_to_is_told_to_all_who_wait(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> None:
        await asyncio.sleep(0)
        raise StorageError("storage_unavailable")

    job, epoch = await running_job(stores)
    monkeypatch.setattr(stores.notices, "subscribe", refused)
    readings = [Reading(node, job) for _ in range(3)]
    ends = await asyncio.gather(*(reading.task for reading in readings), return_exceptions=True)
    assert [type(error) for error in ends] == [StorageError] * 3

    monkeypatch.undo()
    await finish(stores, job, epoch, 3)
    assert len(await Reading(node, job).ended()) == 3
    await _nothing_left(stores, node)
