"""A log that has ended is replayed without being attached to, and whoever finds it not as it should be follows it."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from shared.errors import StorageError
from shared.events import START, Entry, EventId, apart
from shared.jobs import JobKey
from shared.storage.keys import job_keys
from shared.storage.log import PAGE, EventLog
from tests.storage.conftest import Stores
from tests.storage.reading import Node, finish, running_job, running_node


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
    assert not node.tails.pages


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
