"""Limits in the store: what several nodes count together, however they race, and what a dead one gives back."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.permits import Permits
from shared.errors import TailraceError
from shared.jobs import JobKey, job_id_prefix, new_job_id
from shared.limits import NONE, Limits
from shared.spending import Spending
from shared.storage import keys
from shared.storage.batch import Batcher
from shared.storage.limits import LimitStore, OneByOne, Place, Share, day_of
from tests.storage.conftest import Stores
from tests.support.loops import running, until

NOW_MS = 1_763_800_000_000
LEASE_S = 0.1
"""Of those that are to lapse."""


@pytest.fixture
async def nodes(stores: Stores) -> AsyncIterator[list[LimitStore]]:
    """Two nodes of one installation, each on a line of its own."""
    batchers = [Batcher(stores.redis) for _ in range(2)]
    async with running(*(batcher.run() for batcher in batchers)):
        yield [LimitStore(batcher, lease_s=10.0) for batcher in batchers]


@pytest.fixture
async def hasty(stores: Stores) -> AsyncIterator[LimitStore]:
    """A node whose leases lapse at once."""
    batcher = Batcher(stores.redis)
    async with running(batcher.run()):
        yield LimitStore(batcher, lease_s=LEASE_S)


def _job(tenant: str = "acme") -> JobKey:
    return JobKey(tenant, _id_at(NOW_MS))


async def _refusal(node: LimitStore, limits: Limits, job: JobKey | None = None, most_open: int = 100) -> str:
    try:
        await node.admit(job or _job(), NOW_MS, limits, most_open)
    except TailraceError as error:
        return error.code
    return ""


async def _store_us(stores: Stores) -> int:
    seconds, micros = await stores.redis.time()
    return int(seconds) * 1_000_000 + int(micros)


async def test_nodes_that_race_for_permits_get_the_burst_and_what_comes_in_meanwhile_and_no_more(
    nodes: list[LimitStore], stores: Stores
) -> None:
    per_s, burst = 50.0, 20
    began_us = await _store_us(stores)
    granted = 0
    for _ in range(20):
        answers = await asyncio.gather(*(node.permits("k", per_s, burst, 3) for node in nodes for _ in range(5)))
        granted += sum(answer.permits for answer in answers)
    elapsed_s = (await _store_us(stores) - began_us) / 1e6
    assert burst <= granted <= burst + per_s * elapsed_s


async def test_a_refused_node_is_told_when_there_is_another_permit(nodes: list[LimitStore]) -> None:
    assert (await nodes[0].permits("k", 0.5, 2, 2)).permits == 2
    refused = await nodes[1].permits("k", 0.5, 2, 1)
    assert (refused.permits, refused.left) == (0, 0)
    assert 0 < refused.wait_s <= 2.0
    assert (await nodes[1].permits("another", 0.5, 2, 1)).permits == 1


async def test_nodes_that_serve_a_key_together_let_no_more_pass_than_its_limit_and_burst(
    nodes: list[LimitStore], stores: Stores
) -> None:
    loop = asyncio.get_running_loop()
    per_s, burst = 100.0, 80
    permits = [Permits(node, "k", per_s, burst, loop.time, 10.0) for node in nodes]
    began_us, passed = await _store_us(stores), 0
    for _ in range(100):
        verdicts = await asyncio.gather(*(mine.take() for mine in permits for _ in range(10)))
        passed += sum(verdict.passed for verdict in verdicts)
    elapsed_s = (await _store_us(stores) - began_us) / 1e6
    assert passed <= burst + per_s * elapsed_s
    assert passed >= burst / 2


@pytest.mark.parametrize(("per_s", "burst"), [(100.0, 80), (800.0, 200), (1000.0, 200), (50.0, 3)])
async def test_a_key_that_has_not_asked_for_long_may_ask_half_its_burst_at_once(
    nodes: list[LimitStore], per_s: float, burst: int
) -> None:
    permits = Permits(nodes[0], "k", per_s, burst, lambda: 100.0, 10.0)
    verdicts = [await permits.take() for _ in range(burst // 2)]
    assert all(verdict.passed for verdict in verdicts)


async def test_a_bucket_that_a_clock_ahead_has_emptied_is_full_again_in_its_own_time(
    nodes: list[LimitStore], stores: Stores
) -> None:
    # What a server leaves behind whose clock was an hour ahead of that of its successor.
    await stores.redis.set(keys.permits("k"), await _store_us(stores) + 3_600_000_000, px=60_000)
    refused = await nodes[0].permits("k", 50.0, 20, 1)
    assert refused.permits == 0
    assert refused.wait_s <= 0.02
    await asyncio.sleep(0.1)
    assert (await nodes[0].permits("k", 50.0, 20, 1)).permits == 1


async def test_nodes_that_race_for_places_take_as_many_as_there_are(nodes: list[LimitStore], stores: Stores) -> None:
    limits = Limits(open_jobs=7)
    codes = await asyncio.gather(*(_refusal(node, limits) for node in nodes for _ in range(20)))
    assert sorted(codes) == [""] * 7 + ["too_many_jobs"] * 33
    assert await stores.redis.zcard(keys.OPEN) == 7
    assert await _refusal(nodes[0], limits, _job("umbrella")) == ""


async def test_nodes_that_race_for_the_last_open_jobs_of_all_tenants_make_no_more(
    nodes: list[LimitStore], stores: Stores
) -> None:
    limits = Limits(open_jobs=100)
    racing = [_refusal(node, limits, _job(f"t{n}"), most_open=9) for n in range(15) for node in nodes]
    codes = await asyncio.gather(*racing)
    assert sorted(codes) == [""] * 9 + ["queue_full"] * 21
    assert await stores.redis.zcard(keys.OPEN) == 9


async def test_nodes_that_race_for_a_tenants_share_give_out_no_more_than_that(nodes: list[LimitStore]) -> None:
    share = Share(110_000, 1_000_000)

    async def refused(node: LimitStore, tenant: str) -> float:
        try:
            await node.admit(_job(tenant), NOW_MS, NONE, 100, share)
        except TailraceError as error:
            return error.retry_after_s if error.code == "budget_spent" and error.retry_after_s else -1.0
        return 0.0

    waits = await asyncio.gather(*(refused(node, "acme") for node in nodes for _ in range(20)))
    assert sum(wait == 0 for wait in waits) == 10
    assert all(60 < wait <= 101 for wait in waits if wait)
    assert await refused(nodes[0], "umbrella") == 0


async def test_what_a_job_takes_of_the_share_it_takes_once_and_one_is_never_too_large(
    nodes: list[LimitStore], stores: Stores
) -> None:
    job, share = _job(), Share(5_000_000, 1_000_000)
    for node in (*nodes, *nodes):
        await node.admit(job, NOW_MS, NONE, 100, share)
    left_ms = await stores.redis.pttl(keys.share("acme"))
    assert 4_900_000 < left_ms <= 5_001_000
    with pytest.raises(TailraceError) as caught:
        await nodes[0].admit(_job(), NOW_MS, NONE, 100, share)
    assert caught.value.retry_after_s == pytest.approx(1000, abs=60), "no longer than twice the share, whatever came"


async def test_a_repeated_admission_takes_no_second_place(nodes: list[LimitStore]) -> None:
    job, limits = _job(), Limits(open_jobs=2)
    for node in (*nodes, *nodes):
        assert await _refusal(node, limits, job) == ""
    assert await _refusal(nodes[0], limits) == ""
    assert await _refusal(nodes[0], limits) == "too_many_jobs"
    assert await _refusal(nodes[1], limits, job) == ""


async def test_a_job_that_ends_gives_its_place_back_at_once(nodes: list[LimitStore], stores: Stores) -> None:
    limits, jobs = Limits(open_jobs=2), [_job(), _job()]
    for job in jobs:
        assert await _refusal(nodes[0], limits, job) == ""
    await stores.control.close(jobs[0])
    assert await stores.redis.zrange(keys.places("acme"), 0, -1) == [jobs[1].id]
    await stores.control.forget(jobs[1])
    assert await stores.redis.zcard(keys.places("acme")) == 0
    assert await _refusal(nodes[1], limits) == ""


async def test_a_node_that_dies_before_it_makes_the_job_gives_the_place_back(hasty: LimitStore, stores: Stores) -> None:
    limits = Limits(open_jobs=2)
    made = await hasty.admit(_job(), NOW_MS, limits, 100)
    await stores.control.index(made.job, NOW_MS, 60_000, made.keeping(60.0))
    assert await _refusal(hasty, limits) == ""

    async def admitted() -> bool:
        return await _refusal(hasty, limits) == ""

    await until(admitted)


async def test_a_job_that_was_made_keeps_its_place_beyond_the_lease(hasty: LimitStore, stores: Stores) -> None:
    job, limits = _job(), Limits(open_jobs=1)
    place = await hasty.admit(job, NOW_MS, limits, 100)
    await stores.control.index(job, NOW_MS, 60_000, place.keeping(60.0))
    other = await hasty.admit(_job("umbrella"), NOW_MS, limits, 100)

    async def lapsed() -> bool:
        return not await stores.redis.exists(keys.places(other.job.tenant))

    await until(lapsed)
    assert await _refusal(hasty, limits) == "too_many_jobs"


async def test_places_of_jobs_that_are_open_no_more_are_found_and_given_to_others(
    nodes: list[LimitStore], stores: Stores
) -> None:
    jobs, limits = [_job() for _ in range(3)], Limits(open_jobs=3)
    for job in jobs:
        assert await _refusal(nodes[0], limits, job) == ""
    await stores.redis.zrem(keys.OPEN, str(jobs[1]))  # as a worker does that knows nothing of places
    assert await _refusal(nodes[0], limits) == ""
    assert await _refusal(nodes[0], limits) == "too_many_jobs"


async def test_a_process_that_calls_few_scripts_needs_nobody_to_serve_them(stores: Stores) -> None:
    calls = OneByOne(stores.redis)
    node, limits = LimitStore(calls, lease_s=10.0), Limits(open_jobs=4)
    codes = await asyncio.gather(*(_refusal(node, limits) for _ in range(6)))
    await calls.aclose()
    assert sorted(codes) == [""] * 4 + ["too_many_jobs"] * 2


async def test_a_place_that_nobody_gives_back_lapses_with_its_jobs_own_keys(stores: Stores) -> None:
    (_, name, at_ms, job_id), *expiry = Place(JobKey("acme", "0" * 26), NOW_MS).keeping(60.0)
    assert (name, at_ms, job_id) == (keys.places("acme"), NOW_MS + 60_000 + keys.OPEN_SLACK_MS, "0" * 26)
    assert {command[0] for command in expiry} == {"PEXPIRE"}


async def test_tokens_are_counted_once_however_often_they_are_told(nodes: list[LimitStore], stores: Stores) -> None:
    one, other = _job(), _job()
    await asyncio.gather(*(node.spend({one: 40, other: 2}) for node in (*nodes, *nodes)))
    await nodes[0].spend({one: 50})
    await nodes[1].spend({one: 10})
    name = keys.tokens_of_day("acme", day_of(one.id))
    assert await stores.redis.hget(name, "total") == "52"  # type: ignore[misc]  # promises no awaitable


async def test_a_tenant_that_has_used_its_tokens_makes_no_more_jobs_until_the_next_day(nodes: list[LimitStore]) -> None:
    limits = Limits(tokens_per_day=100)
    await nodes[0].spend({_job(): 99})
    assert await _refusal(nodes[1], limits) == ""
    await nodes[0].spend({_job(): 1})
    with pytest.raises(TailraceError) as caught:
        await nodes[1].admit(_job(), NOW_MS, limits, 100)
    assert caught.value.code == "budget_spent"
    assert 0 < (caught.value.retry_after_s or 0) <= 86_400
    assert await _refusal(nodes[1], limits, _job("umbrella")) == ""
    tomorrow = JobKey("acme", _id_at((NOW_MS // keys.DAY_MS + 40_000) * keys.DAY_MS))
    assert await _refusal(nodes[1], limits, tomorrow) == ""


async def test_a_job_counts_for_the_day_of_its_post(nodes: list[LimitStore], stores: Stores) -> None:
    last, first = (JobKey("acme", _id_at(NOW_MS // keys.DAY_MS * keys.DAY_MS + ms)) for ms in (-1, 0))
    assert (day_of(last.id), day_of(first.id)) == ("20251121", "20251122")
    await nodes[0].spend({last: 1, first: 2})
    for day, total in (("20251121", "1"), ("20251122", "2")):
        assert await stores.redis.hget(keys.tokens_of_day("acme", day), "total") == total  # type: ignore[misc]


async def test_tenants_without_a_budget_cost_no_key(nodes: list[LimitStore], stores: Stores) -> None:
    class Table:
        def counts_tokens(self, tenant: str) -> bool:
            return tenant == "acme"

    spending = Spending(Table(), nodes[0])  # type: ignore[arg-type]
    job = _job()
    await spending.tell({job: 3, _job("umbrella"): 5, _job(): 0})
    assert await stores.redis.keys("tailrace:tokens:*") == [keys.tokens_of_day("acme", day_of(job.id))]


def _id_at(ms: int) -> str:
    return job_id_prefix(ms) + new_job_id()[10:]
