"""A log that has ended is replayed without being attached to, and whoever finds it not as it should be follows it."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from api import reader as reader_module
from shared.errors import StorageError
from shared.events import START, Entry, EventId, apart
from shared.jobs import JobKey
from shared.storage.keys import job_keys
from shared.storage.log import PAGE, EventLog, Page
from tests.storage.conftest import Stores
from tests.storage.reading import Node, finish, running_job, running_node
from tests.support.loops import until


@pytest.fixture
async def node(stores: Stores) -> AsyncIterator[Node]:
    """An API node's tails."""
    async with running_node(stores) as node:
        yield node


async def _ended(stores: Stores, tokens: int) -> JobKey:
    job, epoch = await running_job(stores, tokens=tokens)
    await finish(stores, job, epoch, tokens + 3)
    return job


async def _replayed(node: Node, job: JobKey, cursor: EventId = START) -> list[Entry]:
    entries: list[Entry] = []
    async with aclosing(node.reader(job).replay(cursor)) as runs:
        async for run in runs:
            entries += apart(run.entries)
    return entries


async def test_every_cursor_gets_the_rest_and_nothing_is_subscribed_to(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await _ended(stores, 2 * PAGE + 5)
    log = await stores.log.read_all(job)

    async def never(*_: object) -> None:
        raise AssertionError("a reader of a log that has ended was attached to it")

    monkeypatch.setattr(stores.notices, "subscribe", never)
    for seq in (0, 1, 2, PAGE, PAGE + 1, 2 * PAGE, len(log) - 1):
        cursor = log[seq - 1].id if seq else START
        assert await _replayed(node, job, cursor) == log[seq:]


async def test_who_comes_a_moment_later_gets_the_same_page_and_nothing_is_kept_for_long(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "PAGE_KEPT_S", 0.05)
    job, reads = await _ended(stores, 5), 0
    log, read_after = await stores.log.read_all(job), stores.log.read_after

    async def counted(*asked: Any, **more: Any) -> Page:
        nonlocal reads
        reads += 1
        return await read_after(*asked, **more)

    monkeypatch.setattr(stores.log, "read_after", counted)
    assert [await _replayed(node, job), await _replayed(node, job)] == [log, log]
    assert reads == 1
    await until(lambda: not node.tails.pages)
    assert await _replayed(node, job, log[3].id) == log[4:]
    assert reads == 2


async def test_a_large_page_is_not_kept(stores: Stores, node: Node) -> None:
    job = await _ended(stores, PAGE)
    assert len(await _replayed(node, job)) == PAGE + 3
    assert len(node.tails.pages) == 1, "the last one alone is small"


async def test_a_log_that_lost_its_end_is_replayed_as_far_as_it_goes(stores: Stores, node: Node) -> None:
    job = await _ended(stores, 5)
    log = await stores.log.read_all(job)
    await stores.redis.xdel(job_keys(job).log, str(log[-1].id))
    assert await _replayed(node, job) == log[:-1]
    assert await _replayed(node, job, EventId(9, 3)) == []


async def test_a_store_that_goes_away_ends_a_replay_and_breaks_nothing(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await _ended(stores, 5)

    async def away(*_: object, **__: object) -> None:
        raise StorageError("storage_unavailable")

    monkeypatch.setattr(EventLog, "read_after", away)
    assert await _replayed(node, job) == []
