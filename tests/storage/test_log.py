"""Reading logs: what follows a cursor, whole or not at all; holes and strangers are noticed, never jumped over."""

import pytest

from shared.events import START, EventId, Queued, Token
from shared.jobs import JobKey
from shared.storage.keys import job_keys
from shared.storage.log import PAGE
from tests.storage.acts import assert_sound, claim, create, new_job
from tests.storage.conftest import Stores


async def _job_with_tokens(stores: Stores, count: int) -> tuple[JobKey, int]:
    """A job whose log holds `queued`, `start` and `count` tokens; its epoch."""
    job = await create(stores)
    epoch = (await claim(stores, job)).epoch
    await stores.jobs.append(job, epoch, 3, [Token(f"{n} ") for n in range(count)])
    return job, epoch


@pytest.mark.parametrize("seq", [1, 2, 3, 11, 12])
async def test_a_cursor_gets_exactly_what_follows_it(stores: Stores, seq: int) -> None:
    job, epoch = await _job_with_tokens(stores, 10)
    cursor = EventId(epoch if seq > 1 else 0, seq)

    page = await stores.log.read_after(job, cursor)

    assert (page.held, page.full, page.empty_log) == (True, False, False)
    assert [entry.id for entry in page.entries] == [EventId(epoch, n) for n in range(seq + 1, 13)]


async def test_the_start_gets_everything(stores: Stores) -> None:
    job, _ = await _job_with_tokens(stores, 3)
    page = await stores.log.read_after(job, START)
    assert page.held
    assert_sound(page.entries)
    assert isinstance(page.entries[0].event, Queued)


@pytest.mark.parametrize(("count", "full"), [(1, True), (3, True), (4, True), (5, False), (6, False)])
async def test_a_page_says_whether_there_may_be_more(stores: Stores, count: int, full: bool) -> None:
    job, _ = await _job_with_tokens(stores, 3)
    page = await stores.log.read_after(job, EventId(0, 1), count)
    assert (len(page.entries), page.full) == (min(count, 4), full)
    assert (await stores.log.read_after(job, START, count)).full is full


async def test_a_log_that_is_not_there_holds_nothing_but_the_start_and_says_so(stores: Stores) -> None:
    page = await stores.log.read_after(new_job(), START)
    assert (page.entries, page.held, page.empty_log) == ([], True, True)
    page = await stores.log.read_after(new_job(), EventId(0, 1))
    assert (page.entries, page.held, page.empty_log) == ([], False, True)
    assert await stores.log.read_all(new_job()) == []


@pytest.mark.parametrize(("epoch", "seq"), [(1, 3), (0, 2), (0, 99), (2**63, 4), (2**64 - 1, 2**64 - 1)])
async def test_a_cursor_of_another_log_gets_nothing_of_this_one(stores: Stores, epoch: int, seq: int) -> None:
    job, own = await _job_with_tokens(stores, 3)
    assert epoch != own
    page = await stores.log.read_after(job, EventId(epoch, seq))
    assert (page.entries, page.held) == ([], False)


async def test_a_cursor_beyond_the_end_is_not_taken_for_the_end(stores: Stores) -> None:
    job, epoch = await _job_with_tokens(stores, 3)
    assert (await stores.log.read_after(job, EventId(epoch, 6))).held is False
    assert (await stores.log.read_after(job, EventId(epoch, 5))).held is True


async def test_a_trimmed_log_holds_neither_its_start_nor_what_was_trimmed(stores: Stores) -> None:
    job, epoch = await _job_with_tokens(stores, 10)
    await stores.redis.xtrim(job_keys(job).log, maxlen=4, approximate=False)

    held = {seq: (await stores.log.read_after(job, EventId(epoch, seq))).held for seq in range(2, 13)}

    assert (await stores.log.read_after(job, START)).held is False
    assert held == {seq: seq >= 9 for seq in range(2, 13)}


async def test_a_hole_right_after_the_cursor_is_noticed(stores: Stores) -> None:
    job, epoch = await _job_with_tokens(stores, 5)
    await stores.redis.xdel(job_keys(job).log, f"{epoch}-5")
    assert (await stores.log.read_after(job, EventId(epoch, 4))).held is False
    assert (await stores.log.read_after(job, EventId(epoch, 6))).held is True


async def test_a_hole_further_on_is_noticed(stores: Stores) -> None:
    job, epoch = await _job_with_tokens(stores, 5)
    await stores.redis.xdel(job_keys(job).log, f"{epoch}-5")
    page = await stores.log.read_after(job, EventId(epoch, 2))
    assert [entry.id.seq for entry in page.entries if page.held] == [3, 4]


async def test_many_logs_are_judged_each_by_its_own_cursor(stores: Stores) -> None:
    (one, one_epoch), (two, _) = await _job_with_tokens(stores, 2), await _job_with_tokens(stores, 3)
    wanted = [(one, EventId(one_epoch, 3)), (two, START), (two, EventId(1, 1)), (new_job(), START)]

    pages = await stores.log.read_many(wanted)

    assert [(len(page.entries), page.held) for page in pages] == [(1, True), (5, True), (0, False), (0, True)]
    assert await stores.log.read_many([]) == []


async def test_a_key_of_the_wrong_type_keeps_nobody_from_the_other_logs(stores: Stores) -> None:
    job, _ = await _job_with_tokens(stores, 2)
    broken = new_job()
    await stores.redis.set(job_keys(broken).log, "?", px=60_000)
    pages = await stores.log.read_many([(broken, START), (job, START)])
    assert [page.held for page in pages] == [False, True]
    assert len(pages[1].entries) == 4
    first, last = await stores.log.last_ids([broken, job])
    assert first is None
    assert last == pages[1].entries[-1].id


async def test_a_log_longer_than_a_page_is_read_whole(stores: Stores) -> None:
    job, epoch = await _job_with_tokens(stores, PAGE)
    await stores.jobs.append(job, epoch, PAGE + 3, [Token("x")] * PAGE)
    entries = await stores.log.read_all(job)
    assert len(entries) == 2 * PAGE + 2
    assert_sound(entries)


async def test_the_end_of_each_log_is_known(stores: Stores) -> None:
    job, epoch = await _job_with_tokens(stores, 2)
    assert await stores.log.last_ids([job, new_job(), job]) == [EventId(epoch, 4), None, EventId(epoch, 4)]
    assert await stores.log.last_ids([]) == []


async def test_it_is_known_whether_somebody_may_repair_a_log(stores: Stores) -> None:
    job = await create(stores)
    assert await stores.log.running(job) == (0, False)
    epoch = (await claim(stores, job)).epoch
    assert await stores.log.running(job) == (epoch, True)
    await stores.redis.delete(job_keys(job).lease)
    assert await stores.log.running(job) == (epoch, False)
    assert await stores.log.running(new_job()) == (0, False)
