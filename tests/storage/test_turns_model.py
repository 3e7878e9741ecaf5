"""The tenants' turns against a small model: nothing is lost or given twice, and nobody waits longer than a round."""

import asyncio
from typing import Any
from unittest import mock

import fakeredis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shared.jobs import JobKey, job_id_prefix, new_job_id
from shared.queue import Queue, offer_id, parse_offer
from shared.storage import keys, turns
from shared.storage.connect import Redis
from shared.storage.sending import OwnLine
from shared.storage.turns import Seats

TENANTS = "abcd"
SEAT_MS = 3_600_000


class Waiting:
    """An offer that waits: lower comes first."""

    def __init__(self, name: str, priority: int, number: int) -> None:
        self.name = name
        self.place = (-priority, number)


class Turns(RuleBasedStateMachine):
    """A queue, and what it should do. Nothing lapses by itself, however slow the machine is."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = mock.patch.object(turns, "TAKEN_MS", SEAT_MS)
        self.patience.start()
        self.loop = asyncio.Runner()
        self.redis: Redis = fakeredis.FakeAsyncRedis(decode_responses=True)
        self.queue = Queue(self.redis, "q")
        self.line = OwnLine(self.redis)
        self.made = 0
        self.waits: dict[str, list[Waiting]] = {tenant: [] for tenant in TENANTS}
        self.taken: dict[str, Waiting] = {}
        self.seated: set[str] = set()
        self.before: dict[str, list[str]] = {}
        """Who had turns since a tenant, which has waited for one ever since, could have had it."""

    def _do(self, coroutine: Any) -> Any:
        return self.loop.run(coroutine)

    @initialize(others=st.integers(0, 2), own=st.dictionaries(st.sampled_from(TENANTS), st.integers(0, 3)))
    def limits(self, others: int, own: dict[str, int]) -> None:
        """Any limits."""
        self.seats = Seats(others, own)

    @rule(tenant=st.sampled_from(TENANTS), priority=st.integers(0, 9), again=st.booleans())
    def offer(self, tenant: str, priority: int, *, again: bool) -> None:
        """A job is offered, perhaps twice."""
        self.made += 1
        job = JobKey(tenant, job_id_prefix(1_763_800_000_000 + self.made) + new_job_id()[10:])
        for _ in range(1 + again):
            self._do(self.queue.offer(job, epoch=0, priority=priority))
        self.waits[tenant].append(Waiting(offer_id(job, 0), priority, self.made))

    @rule(count=st.integers(1, 9))
    def take(self, count: int) -> None:
        """A worker takes; each single turn is checked."""
        taking = self._do(self.queue.turns.take(self.line, count, seat_ms=SEAT_MS, seats=self.seats))
        for name in taking.offers:
            tenant = parse_offer(name)[0].tenant
            assert tenant in self._ready(), "somebody had a turn without an offer or a seat"
            assert name == self.waits[tenant][0].name, "not the one that comes first"
            self._had_a_turn(tenant)
            self.taken[name] = self.waits[tenant].pop(0)
            if self._limit(tenant):
                self.seated.add(name)
        assert taking.seated == {name for name in taking.offers if name in self.seated}
        if len(taking.offers) < count:
            assert self._ready() == []
            assert taking.held == any(self.waits.values())

    @rule()
    def claimed(self) -> None:
        """What was taken is claimed."""
        self._do(self.queue.withdraw(*self.taken))
        self.taken.clear()

    @rule()
    def lapsed(self) -> None:
        """Workers die before they claim; what they took waits again, when somebody looks."""
        for name, waiting in self.taken.items():
            self._do(self.redis.zadd(keys.TAKEN, {name: 1}))
            self.waits[parse_offer(name)[0].tenant].append(waiting)
        self.taken.clear()
        self._leave_all()

    @rule()
    def ended(self) -> None:
        """All that runs ends."""
        self._leave_all()

    def _leave_all(self) -> None:
        self._do(self.queue.turns.leave_seats(sorted(self.seated)))
        self.seated.clear()

    def _limit(self, tenant: str) -> int:
        return self.seats.of.get(tenant, self.seats.others)

    def _ready(self) -> list[str]:
        """Tenants with an offer and a seat for it."""
        for waiting in self.waits.values():
            waiting.sort(key=lambda one: one.place)
        sitting = [parse_offer(name)[0].tenant for name in self.seated]
        return [
            tenant for tenant in TENANTS if self.waits[tenant] and not 0 < self._limit(tenant) <= sitting.count(tenant)
        ]

    def _had_a_turn(self, served: str) -> None:
        ready = self._ready()
        self.before = {tenant: self.before.get(tenant, []) for tenant in ready if tenant != served}
        for tenant, others in self.before.items():
            others.append(served)
            assert len(set(others)) == len(others), f"{tenant} waits, and {served} has a second turn before it"

    @invariant()
    def nothing_is_lost(self) -> None:
        """What waits in the model waits in the store, or has lapsed there and waits when somebody looks."""
        there = {str(name) for name in self._do(self.redis.zrangebyscore(keys.TAKEN, "-inf", 1))}
        for tenant in TENANTS:
            there |= {str(name) for name in self._do(self.redis.zrange(keys.waiting(tenant), 0, -1))}
        assert there == {one.name for waiting in self.waits.values() for one in waiting}

    def teardown(self) -> None:
        """In the end everything can be had, and nothing is left."""
        self.patience.stop()
        if hasattr(self, "seats"):
            self.lapsed()
            self.seats = Seats()
            self.take(10_000)
            assert not any(self.waits.values())
            assert self._do(self.redis.exists(keys.TURNS, keys.WAKE)) == 0
        self._do(self.redis.aclose())
        self.loop.close()


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
