"""Readers whose notices, log or store are lost: it costs them time, never an event, and never an end untold."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from api import reader as reader_module
from api.reader import Run, Start
from shared import metrics
from shared.errors import StorageError
from shared.events import Cancelled, EventId, Token
from shared.jobs import JobKey
from shared.storage.keys import job_keys, notice_channel
from shared.storage.log import EventLog, Page
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.storage.reading import Node, Reading, finish, running_job, running_node
from tests.support.loops import GUARD_S, end, until


@pytest.fixture
async def node(stores: Stores) -> AsyncIterator[Node]:
    """A node on the store of the test."""
    async with running_node(stores) as made:
        yield made


def _drop_notices(stores: Stores, monkeypatch: pytest.MonkeyPatch, job: JobKey) -> None:
    """From now on notices of `job` are lost on their way."""
    pass_on = stores.notices._pass_on

    def lossy(kind: str, channel: str, *rest: str) -> None:
        if kind != "message" or channel != notice_channel(job):
            pass_on(kind, channel, *rest)

    monkeypatch.setattr(stores.notices, "_pass_on", lossy)


async def test_lost_notices_cost_time_and_no_event(stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    job, epoch = await running_job(stores)
    _drop_notices(stores, monkeypatch, job)
    reading = Reading(node, job)
    await until(lambda: len(reading.entries) == 2)
    for seq in (3, 4, 5):
        await stores.jobs.append(job, epoch, seq, [Token("x")])
        await until(lambda seq=seq: len(reading.entries) == seq)  # type: ignore[misc]  # a lambda's default
    await finish(stores, job, epoch, 6)
    assert await reading.ended() == await stores.log.read_all(job)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_notice_that_was_lost_is_counted_and_one_that_came_is_not(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    def counted() -> float:
        return metrics.API.get_sample_value("tailrace_late_notices_total") or 0.0

    job, epoch = await running_job(stores)
    async with running_node(stores, tick_s=0.2 if lost else 3600) as node:
        reading = Reading(node, job)
        await until(lambda: len(reading.entries) == 2)
        if lost:
            _drop_notices(stores, monkeypatch, job)
        before = counted()
        for seq in (3, 4, 5):
            await stores.jobs.append(job, epoch, seq, [Token("x")])
            await until(lambda seq=seq: len(reading.entries) == seq)  # type: ignore[misc]  # a lambda's default
        # The first may have come with a reading that was under way.
        assert counted() - before in ((2, 3) if lost else (0,))
        await finish(stores, job, epoch, 6)
        await reading.ended()


async def test_a_subscription_that_is_lost_behind_our_back_costs_no_event(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores)
    reading = Reading(node, job)
    await until(lambda: len(reading.entries) == 2)
    assert stores.notices._pubsub is not None
    await stores.notices._pubsub.unsubscribe(notice_channel(job))
    await stores.jobs.append(job, epoch, 3, [Token("x")])
    await finish(stores, job, epoch, 4)
    assert await reading.ended() == await stores.log.read_all(job)


async def test_a_lost_notice_costs_no_more_on_a_busy_node(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    (job, epoch), (other, other_epoch) = await running_job(stores), await running_job(stores)
    _drop_notices(stores, monkeypatch, job)
    async with running_node(stores, tick_s=0.2) as node:
        reading, busy = Reading(node, job), Reading(node, other)
        await until(lambda: len(reading.entries) == len(busy.entries) == 2)
        await stores.jobs.append(job, epoch, 3, [Token("x")])
        try:
            async with asyncio.timeout(1.0):
                for seq in itertools.count(3):
                    await stores.jobs.append(other, other_epoch, seq, [Token("y")])
                    if len(reading.entries) == 3:
                        break
        finally:
            await end(reading.task, busy.task)


async def test_a_log_that_is_deleted_under_a_reader_is_told_as_lost(stores: Stores, node: Node) -> None:
    job, _ = await running_job(stores, tokens=3)
    reading = Reading(node, job)
    await until(lambda: len(reading.entries) == 5)
    await stores.redis.delete(job_keys(job).log)
    assert len(await reading.ended()) == 5
    assert reading.lost is not None
    assert (reading.lost.code, reading.lost.attempt, reading.lost.retryable) == ("log_lost", 1, True)


@pytest.mark.parametrize("gone_first", [True, False])
async def test_a_new_log_that_is_lost_at_once_is_told_as_lost(stores: Stores, node: Node, gone_first: bool) -> None:
    job = await acts.create(stores)
    if gone_first:
        await stores.redis.delete(job_keys(job).log)
    reading = Reading(node, job, Start(new=True))
    await until(lambda: gone_first or len(reading.entries) == 1)
    await stores.redis.delete(job_keys(job).log)
    assert len(await reading.ended()) == (0 if gone_first else 1)
    assert reading.lost is not None
    assert reading.lost.code == "log_lost"


async def test_a_reader_of_a_lost_log_gets_the_end_that_the_job_came_to(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=3)
    await stores.redis.delete(job_keys(job).log)
    await stores.jobs.cancel(job, "user")
    reading = Reading(node, job, EventId(epoch, 5))
    assert isinstance((await reading.ended())[-1].event, Cancelled)


async def test_a_tail_that_its_worker_appends_again_is_waited_for_and_not_told(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=4)
    reading = Reading(node, job, repair_wait_s=GUARD_S)
    await until(lambda: len(reading.entries) == 6)

    await acts.lose_tail(stores, job, 4)
    assert (await stores.jobs.append(job, epoch, 7, [Token("more")])).verdict == "GAP"
    assert (await stores.jobs.append(job, epoch, 5, [Token("2 "), Token("3 "), Token("more")])).verdict == "OK"
    await finish(stores, job, epoch, 8)

    assert await reading.ended() == await stores.log.read_all(job)


async def test_a_trimmed_place_is_told_at_once_for_no_worker_appends_it_again(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=6)
    await stores.redis.persist(job_keys(job).lease)  # its worker lives for as long as the test
    await stores.redis.xtrim(job_keys(job).log, maxlen=3, approximate=False)
    reading = Reading(node, job, EventId(epoch, 4), repair_wait_s=10 * GUARD_S)
    await until(lambda: bool(reading.entries))
    await finish(stores, job, epoch, 9)

    snapshot, _ = await reading.ended()
    assert (snapshot.id, reading.text) == (EventId(epoch, 8), await acts.text(stores, job))


async def test_a_lost_tail_that_nobody_can_repair_is_told_by_a_snapshot(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=4)
    reading = Reading(node, job, repair_wait_s=GUARD_S)
    await until(lambda: len(reading.entries) == 6)

    await acts.lose_tail(stores, job, 4)
    await acts.lapse(stores, job)
    await acts.claim(stores, job, "w2")
    await stores.jobs.cancel(job, "user")
    await reading.ended()

    assert epoch < reading.entries[-1].id.epoch
    assert reading.text == await acts.text(stores, job) == ""
    assert isinstance(reading.entries[-1].event, Cancelled)


async def test_a_reader_that_has_the_end_is_let_go_when_the_end_that_was_lost_is_appended_again(
    stores: Stores, node: Node
) -> None:
    job, epoch = await running_job(stores, tokens=1)
    reading = Reading(node, job, EventId(epoch, 4), repair_wait_s=GUARD_S)
    await until(lambda: reading.attached)
    await finish(stores, job, epoch, 4)
    assert await reading.ended() == []


async def test_silence_is_told_while_the_store_is_away(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = await running_job(stores)

    async def away(*_: object, **__: object) -> None:
        raise StorageError("storage_unavailable")

    monkeypatch.setattr(EventLog, "read_after", away)
    monkeypatch.setattr(reader_module, "REPAIR_LOOK_S", 0.005)
    async with asyncio.timeout(0.5), aclosing(node.reader(job).follow(Start(), 0.01)) as following:
        assert await anext(following) == Run([])
        assert await anext(following) is None


async def test_a_log_that_comes_back_is_given_event_by_event_to_who_has_seen_nothing(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, read_after, looks = acts.new_job(), stores.log.read_after, itertools.count(1)

    async def late(*asked: Any, **more: Any) -> Page:
        page = await read_after(*asked, **more)
        if next(looks) == 2:  # a POST is repeated between the reader's last look and what he is told
            await acts.create(stores, job)
        return page

    monkeypatch.setattr(stores.log, "read_after", late)
    reading = Reading(node, job)
    await until(lambda: bool(reading.entries) or reading.task.done())
    assert reading.entries == await stores.log.read_all(job)
    await end(reading.task)
