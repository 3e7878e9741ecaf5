"""The control store: one key stands for one job, lists lose nothing, and one process leads."""

import asyncio

import pytest

from shared.jobs import JobKey, job_id_prefix
from shared.storage import control, keys
from shared.storage.control import Reservation
from tests.storage.acts import new_job
from tests.storage.conftest import Stores

HOUR_MS = 3_600_000
NOW_MS = 1_763_800_000_000


def _job(created_ms: int, tenant: str = "acme") -> JobKey:
    return JobKey(tenant, job_id_prefix(created_ms) + "0" * 16)


async def _index(stores: Stores, *jobs: JobKey, created_ms: int = NOW_MS, keep_ms: int = HOUR_MS) -> None:
    for job in jobs:
        await stores.control.index(job, created_ms, keep_ms)


async def test_the_first_of_a_hundred_posts_with_one_key_wins(stores: Stores) -> None:
    wanted = [Reservation(new_job().id, f"body{n}") for n in range(100)]

    got = await asyncio.gather(*(stores.control.reserve("acme", "key", one) for one in wanted))

    assert len(set(got)) == 1
    assert got[0] in wanted
    assert await stores.control.reserve("acme", "key", wanted[0]) == got[0]


async def test_a_key_means_nothing_to_another_tenant(stores: Stores) -> None:
    one, other = Reservation(new_job().id, "a"), Reservation(new_job().id, "b")
    assert await stores.control.reserve("acme", "key", one) == one
    assert await stores.control.reserve("umbrella", "key", other) == other
    assert await stores.control.reserve("acme", "key2", other) == other


@pytest.mark.parametrize(("keep_ms", "at_least_ms"), [(1, 24 * HOUR_MS), (100 * HOUR_MS, 100 * HOUR_MS)])
async def test_a_key_is_remembered_for_a_day_and_not_shorter_than_its_job(
    stores: Stores, keep_ms: int, at_least_ms: int
) -> None:
    job = new_job()
    await stores.control.reserve("acme", "key", Reservation(job.id, "a"))
    left_ms = await stores.redis.pttl(keys.idempotency("acme", "key"))
    assert 0 < left_ms <= keys.RESERVED_MS, "not for long while the job is not made"
    await stores.control.index(job, NOW_MS, 1, [stores.control.keeping_key("acme", "key", keep_ms)])
    left_ms = await stores.redis.pttl(keys.idempotency("acme", "key"))
    assert at_least_ms - 60_000 < left_ms <= at_least_ms


async def test_what_clients_choose_as_a_key_is_not_stored_as_one(stores: Stores) -> None:
    await stores.control.reserve("acme", "tailrace:open}{*\n", Reservation(new_job().id, "a"))
    (name,) = await stores.redis.keys("*")
    assert name.removeprefix("tailrace:idem:acme:").isalnum()


async def test_jobs_are_listed_newest_first_and_pages_join_without_a_hole(stores: Stores) -> None:
    jobs = [_job(NOW_MS + n) for n in range(25)]
    await _index(stores, *jobs)
    expected = [job.id for job in reversed(jobs)]

    seen: list[str] = []
    while page := await stores.control.jobs_before("acme", seen[-1] if seen else None, 4):
        seen += page

    assert seen == expected
    assert await stores.control.jobs_before("umbrella", None, 4) == []


async def test_a_job_that_comes_while_pages_are_read_moves_none_of_them(stores: Stores) -> None:
    jobs = [_job(NOW_MS + n) for n in range(4)]
    await _index(stores, *jobs)
    first = await stores.control.jobs_before("acme", None, 2)
    await _index(stores, _job(NOW_MS + 9))
    assert await stores.control.jobs_before("acme", first[-1], 2) == [jobs[1].id, jobs[0].id]


async def test_a_list_forgets_what_is_older_than_jobs_are_kept(stores: Stores) -> None:
    old, edge, young = _job(NOW_MS - HOUR_MS - 1), _job(NOW_MS - HOUR_MS), _job(NOW_MS)
    await _index(stores, old, edge)
    await _index(stores, young)
    assert await stores.control.jobs_before("acme", None, 9) == [young.id, edge.id]


async def test_open_jobs_come_oldest_first_with_their_time_in_pages(stores: Stores) -> None:
    jobs = [_job(NOW_MS + n) for n in range(5)]
    for place in (3, 0, 4, 1, 2):
        await _index(stores, jobs[place], created_ms=NOW_MS + place)

    pages = [await stores.control.open_jobs(offset, 2) for offset in (0, 2, 4, 6)]

    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [row for page in pages for row in page] == [(job, NOW_MS + place) for place, job in enumerate(jobs)]


async def test_indexing_a_job_twice_lists_it_once(stores: Stores) -> None:
    job = _job(NOW_MS)
    await _index(stores, job, job)
    assert await stores.control.open_count() == 1
    assert await stores.control.jobs_before("acme", None, 9) == [job.id]


async def test_an_ended_job_is_no_longer_open_and_stays_on_its_tenants_list(stores: Stores) -> None:
    ended, other = _job(NOW_MS), _job(NOW_MS + 1)
    await _index(stores, ended, other)

    await stores.control.close(ended)
    await stores.control.close()

    assert await stores.control.open_jobs(0, 9) == [(other, NOW_MS)]
    assert await stores.control.jobs_before("acme", None, 9) == [other.id, ended.id]


async def test_an_ended_job_is_given_to_one_worker_and_again_to_another_until_its_log_is_rewritten(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [_job(NOW_MS + number) for number in range(5)]
    now_ms = NOW_MS
    monkeypatch.setattr(control, "_now_ms", lambda: now_ms)
    await stores.control.close(*jobs)

    assert await stores.control.take_ended(0.01, 9) == []
    now_ms += 20
    first, rest = await stores.control.take_ended(0.01, 2), await stores.control.take_ended(0.01, 9)
    assert [*first, *rest] == jobs
    assert len(first) == 2
    assert await stores.control.take_ended(0.01, 9) == []

    await stores.control.rewritten(*first)
    await stores.control.rewritten()
    now_ms += 120_000
    assert await stores.control.take_ended(0.01, 9) == rest
    await stores.control.rewritten(*rest)
    assert not await stores.redis.exists(keys.ENDED)


async def test_of_two_workers_that_want_an_ended_job_at_once_one_gets_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_now_ms", lambda: NOW_MS)
    jobs = [_job(NOW_MS + number) for number in range(20)]
    await stores.control.close(*jobs)
    taken = await asyncio.gather(*(stores.control.take_ended(0, 20) for _ in range(4)))
    assert sorted(str(job) for mine in taken for job in mine) == [str(job) for job in jobs]


async def test_the_list_of_ended_jobs_is_bounded_and_ends(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_ENDED", 3)
    for number in range(5):
        monkeypatch.setattr(control, "_now_ms", lambda number=number: NOW_MS + number)
        await stores.control.close(_job(NOW_MS + number))
    assert await stores.redis.zcard(keys.ENDED) == 3
    assert await stores.control.take_ended(0, 9) == [_job(NOW_MS + number) for number in (2, 3, 4)]
    assert 0 < await stores.redis.pttl(keys.ENDED) <= keys.DAY_MS


async def test_a_deleted_job_is_on_no_list(stores: Stores) -> None:
    gone, other = _job(NOW_MS), _job(NOW_MS + 1)
    await _index(stores, gone, other)

    await stores.control.forget(gone)

    assert await stores.control.open_count() == 1
    assert await stores.control.jobs_before("acme", None, 9) == [other.id]


async def test_a_tenants_list_ends_with_its_last_job(stores: Stores) -> None:
    await _index(stores, _job(NOW_MS))
    assert 0 < await stores.redis.pttl(keys.jobs_of("acme")) <= HOUR_MS


async def test_one_process_leads_until_it_is_silent(stores: Stores) -> None:
    assert await stores.control.lead("a", 2_000) is True
    assert await stores.control.lead("b", 2_000) is False
    assert await stores.control.lead("a", 2_000) is True
    assert 0 < await stores.redis.pttl(keys.REAPER_LOCK) <= 2_000

    await stores.redis.delete(keys.REAPER_LOCK)  # what time does to a leader that is gone

    assert await stores.control.lead("b", 2_000) is True
    assert await stores.control.lead("a", 2_000) is False


async def test_of_many_processes_that_start_at_once_one_leads(stores: Stores) -> None:
    lead = await asyncio.gather(*(stores.control.lead(f"p{n}", 2_000) for n in range(20)))
    assert sum(lead) == 1


async def test_a_leader_goes_on_leading_for_the_whole_time_from_its_last_word(stores: Stores) -> None:
    await stores.control.lead("a", 1_000)
    await stores.control.lead("a", 60_000)
    assert await stores.redis.pttl(keys.REAPER_LOCK) > 30_000


async def test_a_sweep_knows_whether_there_was_one_before_it(stores: Stores) -> None:
    assert await stores.control.watched(4_000) is False
    assert await stores.control.watched(4_000) is True
    assert 0 < await stores.redis.pttl(keys.WATCHED) <= 4_000

    await stores.redis.delete(keys.WATCHED)  # what time does to it while the stores are away

    assert await stores.control.watched(4_000) is False
