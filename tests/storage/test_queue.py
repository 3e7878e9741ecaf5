"""The queue: an offer made twice is one offer, order is by priority and age, and wakes are passed on, not lost."""

import asyncio
import json

import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix

from shared.jobs import JobKey
from shared.queue import FUNCTION, deserialize, offer_id, parse_offer
from shared.storage.keys import WAKE
from tests.storage.acts import new_job
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S

QUEUE = "tailrace:queue"


async def _offer(stores: Stores, *, epoch: int = 0, priority: int = 5, job: JobKey | None = None) -> str:
    job = job or new_job()
    await stores.queue.offer(job, epoch=epoch, priority=priority)
    return offer_id(job, epoch)


async def _wake(stores: Stores, timeout_s: float = GUARD_S) -> str | None:
    return await stores.queue.next_wake(stores.redis, timeout_s)


async def test_an_offer_made_twice_is_one_offer_with_its_first_place(stores: Stores) -> None:
    job = new_job()
    name = await _offer(stores, job=job)
    place = await stores.redis.zscore(QUEUE, name)

    await asyncio.gather(*(_offer(stores, job=job) for _ in range(5)))

    assert await stores.queue.head(9) == [name]
    assert await stores.redis.zscore(QUEUE, name) == place
    assert await stores.redis.pttl(job_key_prefix + name) > 0


async def test_an_offer_after_a_claim_is_another_offer(stores: Stores) -> None:
    job = new_job()
    names = {await _offer(stores, job=job, epoch=epoch) for epoch in (0, 602_505)}
    assert set(await stores.queue.head(9)) == names
    assert {parse_offer(name) for name in names} == {(job, 0), (job, 602_505)}


async def test_the_head_is_by_priority(stores: Stores) -> None:
    offered = [(priority, await _offer(stores, priority=priority)) for priority in (5, 0, 9, 5, 9, 0)]
    priorities = {name: priority for priority, name in offered}

    head = await stores.queue.head(9)

    assert [priorities[name] for name in head] == [9, 9, 5, 5, 0, 0]
    assert await stores.queue.head(2) == head[:2]
    assert await stores.queue.head(0) == []
    assert await stores.queue.head(-1) == []


async def test_an_older_offer_of_one_priority_comes_first(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for ms in (1_763_800_000_002, 1_763_800_000_001, 1_763_800_000_003):
        monkeypatch.setattr("shared.queue.time.time_ns", lambda ms=ms: ms * 1_000_000)
        names.append(await _offer(stores))
    assert await stores.queue.head(9) == [names[1], names[0], names[2]]


@pytest.mark.parametrize("priority", [0, 9])
async def test_every_offer_is_due_at_once(stores: Stores, priority: int) -> None:
    name = await _offer(stores, priority=priority)
    score = await stores.redis.zscore(QUEUE, name)
    (seconds, _) = await stores.redis.time()
    assert score is not None
    assert 0 < score < seconds * 1000


async def test_an_offer_carries_the_job_as_json_and_nothing_that_runs(stores: Stores) -> None:
    job = new_job()
    raw = await stores.redis.get(job_key_prefix + await _offer(stores, job=job))
    assert raw is not None
    assert json.loads(raw)["a"] == [str(job)]
    assert deserialize(str(raw).encode())["f"] == FUNCTION


async def test_an_offer_is_outstanding_while_arq_holds_it_and_no_longer(stores: Stores) -> None:
    waiting, delivering, bodiless, withdrawn = [await _offer(stores) for _ in range(4)]
    await stores.redis.zrem(QUEUE, delivering)
    await stores.redis.set(in_progress_key_prefix + delivering, "1", px=60_000)
    await stores.redis.delete(job_key_prefix + bodiless)  # a queue entry without its body: arq can only drop it
    await stores.queue.withdraw(withdrawn)

    names = [waiting, delivering, bodiless, withdrawn, offer_id(new_job(), 0)]

    assert await stores.queue.outstanding(names) == [True, True, False, False, False]
    assert await stores.queue.outstanding([]) == []


async def test_a_withdrawn_offer_is_soon_gone_and_can_be_made_again(stores: Stores) -> None:
    job = new_job()
    name = await _offer(stores, job=job)
    await stores.queue.withdraw(name)
    await stores.queue.withdraw(name)
    assert await stores.queue.head(9) == []
    assert await stores.queue.outstanding([name]) == [False]
    assert await stores.redis.pttl(job_key_prefix + name) <= 10_000  # arq may be about to read it

    await _offer(stores, job=job)

    assert await stores.queue.outstanding([name]) == [True]


async def test_wakes_come_in_the_order_of_the_offers(stores: Stores) -> None:
    names = [await _offer(stores) for _ in range(3)]
    assert [await _wake(stores) for _ in names] == names


async def test_a_wake_that_found_no_slot_is_the_next_in_turn(stores: Stores) -> None:
    first, second = [await _offer(stores) for _ in range(2)]
    assert await _wake(stores) == first
    await stores.queue.wake_again(first)
    assert [await _wake(stores), await _wake(stores)] == [first, second]


async def test_waiting_for_a_wake_ends_with_the_first_one(stores: Stores) -> None:
    waiting = asyncio.create_task(_wake(stores))
    name = await _offer(stores)
    async with asyncio.timeout(GUARD_S):
        assert await waiting == name


async def test_silence_is_no_wake(stores: Stores) -> None:
    assert await _wake(stores, 0.01) is None


async def test_an_offer_may_be_made_without_waking_anybody(stores: Stores) -> None:
    job = new_job()
    await stores.queue.offer(job, epoch=0, priority=5, wake=False)
    assert await stores.redis.exists(WAKE) == 0
    assert await stores.queue.head(9) == [offer_id(job, 0)]


async def test_wakes_that_nobody_takes_are_bounded_and_end(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.queue._WAKE_LIST_MAX", 3)
    names = [await _offer(stores) for _ in range(5)]
    assert [await _wake(stores), await _wake(stores), await _wake(stores), await _wake(stores, 0.01)] == [
        *names[2:],
        None,
    ]
    await _offer(stores)
    assert 0 < await stores.redis.pttl(WAKE) <= 3_600_000

    await stores.queue.drop_wakes()

    assert await _wake(stores, 0.01) is None
    assert len(await stores.queue.head(9)) == 6
