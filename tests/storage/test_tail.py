"""Readers on real stores: from every cursor exactly what follows it, and a snapshot where nothing can follow it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from api.reader import Lost, Run, Start
from shared.events import START, Entry, Event, EventId, Reset, Token, apart
from shared.jobs import JobKey
from shared.storage.keys import job_keys
from shared.storage.log import EventLog
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.storage.reading import Node, Reading, finish, running_job, running_node
from tests.support.loops import GUARD_S, until


@pytest.fixture
async def node(stores: Stores) -> AsyncIterator[Node]:
    """A node on the store of the test."""
    async with running_node(stores) as made:
        yield made


async def _write(stores: Stores, job: JobKey, epoch: int, seq: int, chance: random.Random) -> None:
    """An answer in two attempts and many batches, to its end."""
    for attempt in (1, 2):
        for _ in range(12):
            batch: list[Event] = [Token(f"{attempt}.{n} ") for n in range(chance.randint(1, 6))]
            seq = (await stores.jobs.append(job, epoch, seq, batch)).last_seq + 1
            for _ in range(chance.randint(0, 4)):
                await asyncio.sleep(0)
        if attempt == 1:
            await acts.lapse(stores, job)
            taken = await acts.claim(stores, job, "w2")
            epoch, seq = taken.epoch, taken.seq + 1
    await finish(stores, job, epoch, seq)


async def test_a_log_that_was_just_made_is_read_once_and_not_looked_at_for_its_end(
    stores: Stores, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_asked_for(_: EventLog, jobs: list[JobKey]) -> list[EventId | None]:
        assert not jobs
        return []

    monkeypatch.setattr(EventLog, "last_ids", none_asked_for)
    monkeypatch.delattr(EventLog, "read_after")
    job, epoch = await running_job(stores, tokens=5)
    reading = Reading(node, job, Start(new=True))
    await until(lambda: len(reading.entries) == 7)
    await finish(stores, job, epoch, 8)
    assert await reading.ended() == await stores.log.read_all(job)


@pytest.mark.parametrize("seed", range(5))
async def test_a_reader_of_a_log_that_was_just_made_gets_all_of_it(stores: Stores, node: Node, seed: int) -> None:
    chance = random.Random(seed)
    job = await acts.create(stores)
    reading = Reading(node, job, Start(new=True))
    for _ in range(chance.randint(0, 30)):
        await asyncio.sleep(0)
    epoch = (await acts.claim(stores, job)).epoch
    await _write(stores, job, epoch, 3, chance)
    assert await reading.ended() == await stores.log.read_all(job)


@pytest.mark.parametrize("seed", range(3))
async def test_every_reader_gets_exactly_what_follows_its_cursor(stores: Stores, node: Node, seed: int) -> None:
    chance = random.Random(seed)
    job, epoch = await running_job(stores, tokens=5)
    readings = [(START, Reading(node, job))]
    readings += [(entry.id, Reading(node, job, entry.id)) for entry in await stores.log.read_all(job)]
    writing = asyncio.create_task(_write(stores, job, epoch, 8, chance))
    while not writing.done():
        cursor = chance.choice(chance.choice(readings)[1].entries or [Entry(START, acts.DONE)]).id
        readings.append((cursor, Reading(node, job, cursor)))
        for _ in range(chance.randint(0, 40)):
            await asyncio.sleep(0)
    await writing
    log = await stores.log.read_all(job)
    # Some are still reading when the log is rewritten; others come afterwards.
    assert await stores.compaction.rewrite(job, lambda: asyncio.sleep(0)) == "OK"
    readings += [(entry.id, Reading(node, job, entry.id)) for entry in log[:-1:5]]

    acts.assert_sound(log)
    for cursor, reading in readings:
        assert await reading.ended() == log[cursor.seq :]
    assert len(readings) > 9


async def test_a_reader_in_the_middle_of_a_log_that_is_rewritten_goes_on_where_it_was(
    stores: Stores, node: Node
) -> None:
    job, epoch = await running_job(stores, tokens=600)
    await finish(stores, job, epoch, 603)
    log = await stores.log.read_all(job)
    got: list[Entry] = []
    async with aclosing(node.reader(job).follow(Start(), 60)) as steps:
        async for step in steps:
            assert isinstance(step, Run)
            got += apart(step.entries)
            if got and len(got) < 200:
                assert await stores.compaction.rewrite(job, lambda: asyncio.sleep(0)) == "OK"
    assert got == log


async def test_a_reader_that_comes_after_the_end_gets_the_rest(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=20)
    await finish(stores, job, epoch, 23)
    log = await stores.log.read_all(job)
    for seq in (0, 1, 2, 14, 22):
        assert await Reading(node, job, log[seq - 1].id if seq else START).ended() == log[seq:]


async def test_a_cursor_of_another_job_gets_a_snapshot_and_then_the_events(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=3)
    stranger, other_epoch = await running_job(stores, tokens=3)
    reading = Reading(node, job, EventId(other_epoch, 4))
    await until(lambda: len(reading.entries) == 1)
    await stores.jobs.append(job, epoch, 6, [Token("more")])
    await finish(stores, job, epoch, 7)

    snapshot, *rest = await reading.ended()

    assert snapshot.id == EventId(epoch, 5)
    assert isinstance(snapshot.event, Reset)
    assert (snapshot.event.snapshot, snapshot.event.keep, snapshot.event.text) == (True, 0, "0 1 2 ")
    assert rest == (await stores.log.read_all(job))[5:]
    assert reading.text == await acts.text(stores, job)
    assert stranger != job


async def test_a_cursor_whose_place_was_trimmed_gets_a_snapshot_of_what_is_left(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=6)
    await stores.redis.xtrim(job_keys(job).log, maxlen=3, approximate=False)
    await finish(stores, job, epoch, 9)
    snapshot, done = await Reading(node, job, EventId(epoch, 4)).ended()
    assert (snapshot.id, done.id) == (EventId(epoch, 8), EventId(epoch, 9))


async def test_whoever_wants_only_what_comes_gets_the_text_so_far_first(stores: Stores, node: Node) -> None:
    job, epoch = await running_job(stores, tokens=3)
    reading = Reading(node, job, Start(now=True))
    await until(lambda: len(reading.entries) == 1)
    await stores.jobs.append(job, epoch, 6, [Token("more")])
    await finish(stores, job, epoch, 7)
    assert [entry.id.seq for entry in await reading.ended()] == [5, 6, 7]
    assert reading.text == "0 1 2 more"


@pytest.mark.parametrize("restarted", [False, True])
async def test_whoever_cannot_take_text_back_gets_what_survives(stores: Stores, node: Node, restarted: bool) -> None:
    job, epoch = await running_job(stores, tokens=2)
    if restarted:
        await acts.lapse(stores, job)
        epoch = (await acts.claim(stores, job, "w2")).epoch
    seq = 7 if restarted else 5
    await stores.jobs.append(job, epoch, seq, [Token("new")])
    await finish(stores, job, epoch, seq + 1)
    entries = await Reading(node, job, Start(survivors=True)).ended()
    assert [entry.id.seq for entry in entries] == ([7, 8] if restarted else list(range(1, 7)))


async def test_silence_is_told_after_a_heartbeat(stores: Stores, node: Node) -> None:
    job, _ = await running_job(stores)
    steps: list[Run | Lost | None] = []
    async with asyncio.timeout(GUARD_S), aclosing(node.reader(job).follow(Start(), 0.001)) as following:
        async for step in following:
            steps.append(step)
            if steps[-2:] == [None, None]:
                break
    assert [entry.id.seq for step in steps if isinstance(step, Run) for entry in step.entries] == [1, 2]
