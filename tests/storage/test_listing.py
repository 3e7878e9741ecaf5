"""Lists of jobs: whole and in order, however few records are held at once; who asks for many waits for himself."""

import asyncio
import time
from typing import Any

import pytest

from api.listing import BATCH, MOST_WAITING, Lists
from shared.errors import TailraceError
from shared.jobs import JobKey, JobRecord, Status
from tests.storage import acts
from tests.storage.conftest import Stores

HOUR_MS = 3_600_000


class _Watched:
    """The stores' jobs; how many records came with each reading, and how many readings went on at once."""

    def __init__(self, stores: Stores) -> None:
        self._jobs = stores.jobs
        self.sizes: list[int] = []
        self.most_at_once = 0
        self._at_once = 0

    async def show_many(self, jobs: list[JobKey]) -> list[JobRecord | None]:
        self.sizes.append(len(jobs))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._jobs.show_many(jobs)
        finally:
            self._at_once -= 1

    async def standings(self, jobs: list[JobKey]) -> Any:
        return await self._jobs.standings(jobs)


async def _made(stores: Stores, count: int) -> list[JobKey]:
    jobs = [acts.new_job() for _ in range(count)]
    for job in jobs:
        await stores.control.index(job, time.time_ns() // 1_000_000, HOUR_MS)
        await acts.create(stores, job)
    return sorted(jobs, key=lambda job: job.id, reverse=True)


@pytest.mark.parametrize("limit", [1, 7, 30])
async def test_pages_join_to_the_whole_list_and_few_records_are_held_at_once(stores: Stores, limit: int) -> None:
    jobs, watched = await _made(stores, 30), _Watched(stores)
    lists = Lists(stores.control, watched)  # type: ignore[arg-type]
    seen, after = [], None
    for _ in range(31):
        page = await lists.page("default", None, after, limit)
        assert len(page.jobs) <= limit
        seen += [job["id"] for job in page.jobs]
        after = page.next
        if after is None:
            break
    assert seen == [job.id for job in jobs]
    assert max(watched.sizes) <= BATCH


async def test_a_list_by_status_reads_no_record_but_those_that_it_shows(stores: Stores) -> None:
    jobs, watched = await _made(stores, 20), _Watched(stores)
    lists = Lists(stores.control, watched)  # type: ignore[arg-type]
    await stores.jobs.cancel(jobs[11], "user")
    page = await lists.page("default", Status.CANCELLED, None, 20)
    assert ([job["id"] for job in page.jobs], page.next) == ([jobs[11].id], None)
    assert sum(watched.sizes) == 1


@pytest.mark.requirement("LS-7")
async def test_a_tenant_gets_its_lists_one_after_the_other_and_not_too_many(stores: Stores) -> None:
    await _made(stores, 9)
    watched = _Watched(stores)
    lists = Lists(stores.control, watched)  # type: ignore[arg-type]
    asked = (lists.page("default", None, None, 20) for _ in range(MOST_WAITING + 9))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, TailraceError)]
    # One has its turn before the others come to wait.
    assert (len(refused), {error.code for error in refused}) == (8, {"rate_limited"})
    assert all(len(answer.jobs) == 9 for answer in answers if not isinstance(answer, BaseException))
    assert watched.most_at_once == 1
    other = acts.new_job("umbra")
    assert (await lists.page(other.tenant, None, None, 20)).jobs == []
