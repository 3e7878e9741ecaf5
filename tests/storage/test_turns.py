"""The tenants' turns: who comes next, what a worker has taken and lost, and how many jobs of a tenant may run."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from shared.jobs import JobKey
from shared.queue import offer_id, parse_offer
from shared.storage import keys, turns
from shared.storage.sending import OwnLine
from shared.storage.turns import NO_LIMIT, Seats, Taking
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S, until
from worker.afterwards import AFTER_S
from worker.seats import SeatKeeper

SEAT_MS = 60_000
QUEUE = "tailrace:queue"


class Worker:
    """What a worker does at the queue. `a3` is the fourth job of tenant `a`, by creation."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.line = OwnLine(stores.redis)
        self._jobs: dict[str, JobKey] = {}
        self._short: dict[JobKey, str] = {}

    async def offer(self, *names: str, priority: int = 5, epoch: int = 0) -> None:
        """Offer jobs, which are made where they are new."""
        for name in names:
            job = self._jobs.setdefault(name, JobKey(name[0], f"{int(name[1:]):010d}{acts.new_job().id[10:]}"))
            self._short[job] = name
            await self.stores.queue.offer(job, epoch=epoch, priority=priority)

    async def take(self, count: int = 1, *, seats: Seats = NO_LIMIT, bell_s: float = 0.0) -> list[str]:
        """Take so many, by their short names."""
        return self.names((await self.taking(count, seats=seats, bell_s=bell_s)).offers)

    async def taking(self, count: int = 1, *, seats: Seats = NO_LIMIT, bell_s: float = 0.0) -> Taking:
        """Take so many."""
        return await self.stores.queue.turns.take(self.line, count, seat_ms=SEAT_MS, seats=seats, bell_s=bell_s)

    def names(self, offers: Sequence[str]) -> list[str]:
        """Short names of offers."""
        return [self._short[parse_offer(offer)[0]] for offer in offers]

    def full(self, name: str, epoch: int = 0) -> str:
        """The offer of a short name."""
        return offer_id(self._jobs[name], epoch)

    async def lapse(self, *names: str) -> None:
        """What time does to offers that were taken and not claimed."""
        for name in names:
            assert await self.stores.redis.zadd(keys.TAKEN, {self.full(name): 1}, xx=True, ch=True)


@pytest.fixture
async def worker(stores: Stores) -> AsyncIterator[Worker]:
    """A worker at the queue."""
    made = Worker(stores)
    yield made
    await made.line.aclose()


async def _left(stores: Stores) -> set[str]:
    """The keys of the turns that are there."""
    names = [str(name) async for name in stores.redis.scan_iter("tailrace:*")]
    return {name for name in names if name.startswith((keys.TURNS, keys.WAITING_PREFIX, keys.RUNNING_PREFIX))}


async def test_a_tenants_thousands_are_one_turn_ahead_of_anothers_first(worker: Worker) -> None:
    await worker.offer(*(f"a{number}" for number in range(50)))
    assert await worker.take(3) == ["a0", "a1", "a2"]
    await worker.offer("b0")
    assert await worker.take(3) == ["b0", "a3", "a4"]


async def test_tenants_take_turns_whatever_they_have_waiting(worker: Worker) -> None:
    await worker.offer(*(f"a{number}" for number in range(9)), "b0", "b1", "b2", "c0")
    assert await worker.take(9) == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3", "a4"]


async def test_a_tenant_that_comes_back_each_time_gets_no_more_than_its_turn(worker: Worker) -> None:
    await worker.offer(*(f"z{number}" for number in range(9)))
    started = []
    for number in range(4):
        await worker.offer(f"a{number}")
        started += await worker.take() + await worker.take()
    assert sorted(name[0] for name in started) == ["a"] * 4 + ["z"] * 4


async def test_time_without_work_is_no_credit(worker: Worker) -> None:
    await worker.offer("b0", *(f"a{number}" for number in range(99)))
    await worker.take(60)
    await worker.offer(*(f"b{number}" for number in range(1, 9)))
    assert [name[0] for name in await worker.take(6)] in (["a", "b"] * 3, ["b", "a"] * 3)


async def test_within_a_tenant_priority_comes_before_age(worker: Worker) -> None:
    for name, priority in (("a3", 0), ("a1", 5), ("a2", 9), ("a0", 5), ("a4", 9)):
        await worker.offer(name, priority=priority)
    assert await worker.take(9) == ["a2", "a4", "a0", "a1", "a3"]


async def test_ones_priority_is_no_matter_of_another_tenant(worker: Worker) -> None:
    await worker.offer("a0", "a1", "a2", priority=9)
    await worker.offer("b0", priority=0)
    assert (await worker.take(4)).index("b0") < 2


async def test_a_job_that_is_offered_again_keeps_its_age(worker: Worker) -> None:
    await worker.offer("a0")
    assert await worker.take() == ["a0"]
    await worker.offer("a1", "a2")
    await worker.offer("a0", epoch=602_505)
    assert await worker.take(3) == ["a0", "a1", "a2"]


async def test_an_offer_goes_to_one_taker(worker: Worker, stores: Stores) -> None:
    await worker.offer(*(f"a{number}" for number in range(20)), *(f"b{number}" for number in range(20)))
    lines = [OwnLine(stores.redis) for _ in range(5)]
    takings = await asyncio.gather(*(stores.queue.turns.take(line, 8, seat_ms=SEAT_MS) for line in lines))
    for line in lines:
        await line.aclose()
    taken = [offer for taking in takings for offer in taking.offers]
    assert (len(taken), len(set(taken))) == (40, 40)


async def test_what_was_taken_and_not_claimed_waits_again_at_its_old_place(worker: Worker) -> None:
    await worker.offer("a0", "a1")
    assert await worker.take() == ["a0"]
    assert await worker.take(2) == ["a1"]
    await worker.offer("a2")
    await worker.lapse("a0")
    assert await worker.take(3) == ["a0", "a2"]


async def test_what_was_taken_is_its_takers_for_seconds(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    await worker.take()
    now_ms, _ = await stores.jobs.standings([])
    until_ms = await stores.redis.zscore(keys.TAKEN, worker.full("a0"))
    assert until_ms is not None
    assert 0 < until_ms - now_ms <= turns.TAKEN_MS
    assert await worker.take(9) == []


async def test_what_was_claimed_comes_to_nobody_again(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    await worker.take()
    await stores.queue.withdraw(worker.full("a0"))
    await worker.offer("a1")
    assert await worker.take(9) == ["a1"]
    assert not await stores.queue.turns.ring(worker.full("a0"))


async def test_an_offer_that_is_put_off_comes_again_a_little_later(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0", "a1")
    await worker.take()
    await stores.queue.turns.put_off(worker.full("a0"), 60_000)
    assert await worker.take(9) == ["a1"]
    await stores.queue.turns.put_off(worker.full("a0"), 0)
    await until(lambda: _taken_is(worker, ["a0"]))


async def test_an_offer_that_is_put_off_when_it_was_claimed_elsewhere_does_not_come_again(
    worker: Worker, stores: Stores
) -> None:
    await worker.offer("a0")
    await worker.take()
    await stores.queue.withdraw(worker.full("a0"))
    await stores.queue.turns.put_off(worker.full("a0"), 60_000)
    assert await stores.queue.outstanding([worker.full("a0")]) == [False]


async def _taken_is(worker: Worker, names: list[str]) -> bool:
    return await worker.take(9) == names


async def test_nothing_is_left_of_turns_that_are_over(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0", "b0", "b1")
    await worker.take(3)
    await worker.take(9)
    assert await _left(stores) == set()
    assert await stores.redis.exists(keys.WAKE) == 0


async def test_what_waits_ends_with_the_offers(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    for name in (keys.waiting("a"), keys.TURNS):
        assert 0 < await stores.redis.pttl(name) <= keys.WAITING_MS


async def test_who_waits_for_a_bell_has_the_job_with_it(worker: Worker) -> None:
    waiting = asyncio.create_task(worker.take(9, bell_s=GUARD_S))
    await worker.offer("a0")
    async with asyncio.timeout(GUARD_S):
        assert await waiting == ["a0"]


async def test_without_a_bell_a_worker_looks_all_the_same(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    await stores.redis.delete(keys.WAKE)
    assert await worker.take(9, bell_s=0.01) == ["a0"]


async def test_bells_stay_for_others_while_something_may_be_had(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0", "a1", "a2")
    assert await worker.take(1, bell_s=1) == ["a0"]
    assert len(await acts.bells(stores)) == 2
    assert await worker.take(9) == ["a1", "a2"]
    assert await stores.redis.exists(keys.WAKE) == 0


async def test_a_server_that_has_forgotten_all_scripts_gives_what_is_next(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    await worker.take()
    await stores.redis.script_flush()
    await worker.offer("a1")
    assert await worker.take(9, bell_s=1) == ["a1"]


# -- bells of arq, and offers of older processes


async def test_arq_keeps_an_offer_until_it_is_claimed_and_rings_for_it(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    await stores.redis.delete(keys.WAKE)
    assert await stores.queue.turns.ring(worker.full("a0"))
    assert len(await acts.bells(stores)) == 1
    assert await worker.take(9, bell_s=1) == ["a0"]
    assert await stores.queue.turns.ring(worker.full("a0"))
    assert await worker.take(9) == []
    await stores.queue.withdraw(worker.full("a0"))
    assert not await stores.queue.turns.ring(worker.full("a0"))


async def test_an_offer_by_an_older_process_lines_up_when_arq_brings_it(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    await stores.redis.delete(keys.WAKE, keys.TURNS, keys.waiting("a"))  # what an older process does not write
    assert not (await stores.queue.outstanding([worker.full("a0")]))[0]
    assert await worker.take(9) == []
    assert await stores.queue.turns.ring(worker.full("a0"))
    for name in (keys.WAKE, keys.TURNS, keys.waiting("a")):
        assert await stores.redis.pttl(name) > 0
    assert await worker.take(9) == ["a0"]


@pytest.mark.parametrize("garbage", ["garbage", "./x.0", "", "a b/c.0"])
async def test_garbage_in_arqs_queue_lines_up_nowhere(worker: Worker, stores: Stores, garbage: str) -> None:
    await stores.redis.zadd(QUEUE, {garbage: 1})
    await stores.redis.zadd(keys.TAKEN, {garbage: 1})
    await stores.redis.pexpire(keys.TAKEN, 60_000)
    await worker.offer("a0")
    assert await worker.take(9) == ["a0"]
    assert not await stores.queue.turns.ring(garbage)


# -- seats


async def test_a_tenant_runs_no_more_than_its_seats_and_others_are_not_held_up(worker: Worker) -> None:
    await worker.offer(*(f"a{number}" for number in range(9)), "b0", "b1")
    first = await worker.taking(9, seats=Seats(2))
    assert sorted(worker.names(first.offers)) == ["a0", "a1", "b0", "b1"]
    assert (first.seated, first.held) == (frozenset(first.offers), True)
    await worker.offer("c0")
    assert await worker.take(9, seats=Seats(2)) == ["c0"]


async def test_a_tenant_may_have_seats_of_its_own(worker: Worker) -> None:
    await worker.offer(*(f"{tenant}{number}" for tenant in "abc" for number in range(4)))
    taking = await worker.taking(12, seats=Seats(1, {"b": 0, "c": 3}))
    got = sorted(worker.names(taking.offers))
    assert got == ["a0", "b0", "b1", "b2", "b3", "c0", "c1", "c2"]
    assert {name[0] for name in taking.seated} == {"a", "c"}


async def test_without_a_limit_no_seat_is_taken(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0")
    assert (await worker.taking()).seated == frozenset()
    assert await stores.redis.exists(keys.running("a")) == 0


async def test_a_seat_that_is_left_rings_for_what_waits_for_it(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0", "a1")
    seats = Seats(1)
    assert await worker.take(9, seats=seats) == ["a0"]
    assert await stores.redis.exists(keys.WAKE) == 0
    await stores.queue.turns.leave_seats([worker.full("a0")])
    assert len(await acts.bells(stores)) == 1
    assert await worker.take(9, seats=seats, bell_s=1) == ["a1"]
    await stores.queue.turns.leave_seats([worker.full("a1")])
    assert await stores.redis.exists(keys.WAKE) == 0
    assert await stores.redis.exists(keys.running("a")) == 0


async def test_the_seat_of_a_worker_that_is_gone_lapses(worker: Worker, stores: Stores) -> None:
    await worker.offer("a0", "a1")
    await worker.take(9, seats=Seats(1))
    assert 0 < await stores.redis.pttl(keys.running("a")) <= SEAT_MS
    await stores.redis.zadd(keys.running("a"), {worker.full("a0"): 1})  # what time does
    assert await worker.take(9, seats=Seats(1)) == ["a1"]


async def test_a_seat_that_is_kept_lives_on_and_one_that_had_lapsed_is_taken_again(
    worker: Worker, stores: Stores
) -> None:
    await worker.offer("a0", "a1")
    await worker.take(9, seats=Seats(1))
    for damage in (1, None):
        if damage is None:
            await stores.redis.delete(keys.running("a"))
        else:
            await stores.redis.zadd(keys.running("a"), {worker.full("a0"): damage})
        await stores.queue.turns.keep_seats([worker.full("a0")], SEAT_MS)
        assert await worker.take(9, seats=Seats(1)) == []


async def test_an_attempt_leaves_its_own_seat_and_not_its_successors(worker: Worker, stores: Stores) -> None:
    """A frozen worker wakes up, finds itself fenced, and leaves."""
    await worker.offer("a0")
    await worker.take(9, seats=Seats(1))
    await stores.redis.zrem(keys.running("a"), worker.full("a0"))  # it has lapsed
    await worker.offer("a0", epoch=7)
    await worker.offer("a1")
    assert await worker.take(9, seats=Seats(1)) == ["a0"]
    await stores.queue.turns.leave_seats([worker.full("a0")])
    assert await worker.take(9, seats=Seats(1)) == []


async def test_who_waited_for_a_seat_has_no_credit_from_it(worker: Worker, stores: Stores) -> None:
    seats = Seats(0, {"a": 1})
    await worker.offer(*(f"a{number}" for number in range(9)), *(f"b{number}" for number in range(40)))
    first = await worker.take(30, seats=seats)
    assert first.count("a0") == 1
    await stores.queue.turns.leave_seats([worker.full("a0")])
    assert [name[0] for name in await worker.take(5)].count("a") <= 3


async def test_an_offer_that_comes_again_while_its_job_runs_takes_no_seat_away_from_it(
    worker: Worker, stores: Stores
) -> None:
    await worker.offer("a1")
    limit, seats = Seats(2), keys.running("a")

    async with asyncio.TaskGroup() as group:
        keeper = SeatKeeper(stores.queue.turns, group, every_s=60.0, seat_ms=SEAT_MS)
        assert await worker.take(seats=limit) == ["a1"]
        keeper.sit(worker.full("a1"))
        # It was claimed; that its offer was to be withdrawn was lost with the store.
        await worker.lapse("a1")
        assert await worker.take(seats=limit) == ["a1"]
        keeper.sit(worker.full("a1"))
        keeper.leave(worker.full("a1"))
        await asyncio.sleep(3 * AFTER_S)
        assert await stores.redis.zcard(seats) == 1
        keeper.leave(worker.full("a1"))
    assert await stores.redis.zcard(seats) == 0
