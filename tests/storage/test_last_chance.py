"""A job with one crash left gets its worker's one place, or waits for it; no other job asks for it."""

from contextlib import AsyncExitStack

import pytest

from shared.jobs import JobKey
from tests.storage import acts
from tests.storage.conftest import Stores
from worker.last_chance import PROBATION_S, LastChance


async def _crashed(stores: Stores, times: int) -> tuple[JobKey, int]:
    """A job that so many workers were lost with, and its last epoch."""
    job = await acts.create(stores)
    for number in range(times):
        taken = await acts.claim(stores, job, f"w{number}")
        await acts.lapse(stores, job)
    return job, taken.epoch


class Clock:
    """What a LastChance takes for the time."""

    def __init__(self, of: LastChance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 0.0
        monkeypatch.setattr(of, "_now_s", lambda: self.s)


async def test_one_at_a_time_runs_of_the_jobs_that_have_one_crash_left(stores: Stores) -> None:
    here = LastChance(stores.jobs, "here")
    first, second = await _crashed(stores, 2), await _crashed(stores, 2)

    async with (
        here.place(*first) as one,
        here.place(*second) as other,
        LastChance(stores.jobs, "away").place(*second) as away,
    ):
        assert (one, other, away) == (True, False, True)
    async with here.place(*second) as other:
        assert other


async def test_the_next_may_begin_when_the_last_has_outlived_its_probation(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = LastChance(stores.jobs, "here")
    clock = Clock(here, monkeypatch)
    waiting = [await _crashed(stores, 2) for _ in range(3)]
    began: list[int] = []
    async with AsyncExitStack() as running:
        while waiting:
            may = [job for job in waiting if await running.enter_async_context(here.place(*job))]
            waiting = [job for job in waiting if job not in may]
            began.append(len(may))
            clock.s += PROBATION_S

    assert began == [1, 1, 1]


async def test_who_outlived_its_probation_is_pardoned_one_crash_before_another_begins_beside_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = LastChance(stores.jobs, "w9")
    clock = Clock(here, monkeypatch)
    (job, epoch), *others = [await _crashed(stores, 2) for _ in range(3)]
    async with here.place(job, epoch):
        assert (await acts.claim(stores, job, "w9")).record.crashes == 2
        for other in others:  # each may take the worker down; the pardon is for once
            clock.s += PROBATION_S
            async with here.place(*other) as may:
                assert may
            assert (await stores.jobs.show(job)).crashes == 1


async def test_nobody_is_pardoned_for_a_worker_that_lost_it(stores: Stores) -> None:
    job, _ = await _crashed(stores, 2)

    await acts.claim(stores, job, "w8")
    await stores.jobs.pardon(job, "w9")
    assert (await stores.jobs.show(job)).crashes == 2


async def test_a_job_that_crashed_once_or_never_waits_for_no_place(stores: Stores) -> None:
    here = LastChance(stores.jobs, "here")
    new = await acts.create(stores)

    crashed_once, crashed_twice = await _crashed(stores, 1), await _crashed(stores, 2)
    async with here.place(*crashed_twice), here.place(new, 0) as fresh, here.place(*crashed_once) as once:
        assert fresh
        assert once


async def test_a_job_that_was_given_back_keeps_its_crashes(stores: Stores) -> None:
    here = LastChance(stores.jobs, "here")
    job, _ = await _crashed(stores, 2)
    taken = await acts.claim(stores, job, "w9")
    assert taken.record.crashes == 2
    assert await stores.jobs.release(job, "w9", taken.epoch, {})

    async with here.place(*await _crashed(stores, 2)), here.place(job, taken.epoch) as drained:
        assert not drained
