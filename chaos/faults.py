"""The faults: each breaks one thing, keeps it broken, mends it, and says how many running things it hit."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

from chaos.fleet import Fleet, until
from chaos.load import Load
from chaos.measure import Reruns
from chaos.plan import Round
from chaos.targets import Targets, epoch_of
from shared.storage.keys import WAKE, waiting

_CALM = ("worker_kill", "readers_reset")
"""Faults that do not disturb the measuring of re-runs (a kill counts as a disturbance of the others only)."""
_FROZEN_STORE_S = 5.0


class Faults:
    """Strikes a fleet. `strike` returns when what was broken is whole again."""

    def __init__(self, fleet: Fleet, load: Load, reruns: Reruns) -> None:
        self._fleet = fleet
        self._load = load
        self._targets = Targets(fleet, load)
        self._reruns = reruns

    async def strike(self, plan: Round) -> int:
        """Carry out a round's fault; how many running jobs, connections or offers it hit."""
        fault: Callable[[Round], Awaitable[int]] = getattr(self, f"_{plan.fault}")
        if plan.fault not in _CALM:
            self._reruns.disturb(time.monotonic())
        return await fault(plan)

    # -- workers

    async def _worker_kill(self, plan: Round) -> int:
        victim, jobs = await self._targets.owner(plan)
        at_ms = self._fleet.now_ms()
        self._fleet.down.add(victim)
        await asyncio.to_thread(victim.kill)
        # Those that the judge has not got yet: a job that ended just before was not hit.
        jobs = [job for job in jobs if job in self._load.live]
        before = self._fleet.epochs(jobs)
        self._reruns.killed(jobs, at_ms, time.monotonic())
        await asyncio.sleep(plan.hold_s)
        await self._fleet.up(victim)
        if plan.patient:
            await self._targets.moved(before)
        return len(jobs)

    async def _worker_freeze(self, plan: Round) -> int:
        victim, jobs = await self._targets.owner(plan)
        victim.signal(signal.SIGSTOP)
        before = self._fleet.epochs(jobs)
        await asyncio.sleep(self._fleet.lease_s + 0.3)
        await self._targets.moved(before)
        moved = sum(epoch_of(last) != epoch_of(before[job]) for job, last in self._fleet.epochs(jobs).items())
        victim.signal(signal.SIGCONT)
        return moved

    async def _worker_drain(self, plan: Round) -> int:
        victim, _ = await self._targets.owner(plan)
        before = victim.log.count("handed over")
        await self._targets.drain(victim)
        return victim.log.count(": handed over") - before

    # -- API nodes

    async def _api_kill(self, plan: Round) -> int:
        victim = await self._targets.node(plan)
        hits = self._targets.readers_of(victim)
        self._fleet.down.add(victim)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(plan.hold_s)
        await self._fleet.up(victim)
        return hits

    async def _api_freeze(self, plan: Round) -> int:
        victim = await self._targets.node(plan)
        hits = self._targets.readers_of(victim)
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(self._fleet.lease_s + 1.0)
        victim.signal(signal.SIGCONT)
        return hits

    async def _api_drain(self, plan: Round) -> int:
        victim = await self._targets.node(plan)
        hits = self._targets.readers_of(victim)
        await self._targets.drain(victim)
        return hits

    # -- connections

    async def _readers_reset(self, plan: Round) -> int:
        await until(lambda: len(self._load.readers) > 2, 8.0)
        return sum(reader.reset() for reader in list(self._load.readers))

    async def _store_reset(self, plan: Round) -> int:
        hits = await self._targets.running_jobs()
        with self._fleet.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await asyncio.sleep(plan.hold_s / 4)
        return hits

    # -- the store

    async def _store_kill(self, plan: Round) -> int:
        hits = await self._targets.running_jobs()
        await asyncio.to_thread(self._fleet.store.kill)
        await asyncio.sleep(plan.hold_s)
        await asyncio.to_thread(self._fleet.store.start)
        return hits

    async def _store_freeze(self, plan: Round) -> int:
        hits = await self._targets.running_jobs()
        self._fleet.store.signal(signal.SIGSTOP)
        await asyncio.sleep(_FROZEN_STORE_S)
        self._fleet.store.signal(signal.SIGCONT)
        return hits

    async def _wakes_dropped(self, plan: Round) -> int:
        """Hold the workers still for less than a lease while jobs come in; then the wake list is gone, and with it a
        share of the offers."""
        chance = random.Random(plan.pick)
        dropped = 0
        for worker in self._fleet.workers:
            worker.signal(signal.SIGSTOP)
        try:
            with self._fleet.client() as client:
                await until(lambda: client.llen(WAKE), self._fleet.lease_s * 0.6)
                dropped += int(str(client.llen(WAKE)))
                client.delete(WAKE)
                for offer in client.zrange("tailrace:queue", 0, -1):
                    if chance.random() < 0.5:
                        dropped += int(str(client.zrem("tailrace:queue", offer)))
                        client.zrem(waiting(str(offer).partition("/")[0]), offer)
                        client.delete(f"arq:job:{offer}")
        finally:
            for worker in self._fleet.workers:
                worker.signal(signal.SIGCONT)
        return dropped

    async def _all_killed(self, plan: Round) -> int:
        """Everything at once: power comes back, and every job still ends."""
        hits = await self._targets.running_jobs()
        self._fleet.down.update(self._fleet.processes)
        kills = [self._fleet.store.kill, *(process.kill for process in self._fleet.processes)]
        await asyncio.gather(*(asyncio.to_thread(kill) for kill in kills))
        await asyncio.sleep(plan.hold_s)
        await self._fleet.start()
        return hits

    # -- clocks

    async def _clock_api(self, plan: Round) -> int:
        victim = await self._targets.node(plan)
        return await self._step(victim.name, plan, self._targets.readers_of(victim))

    async def _clock_worker(self, plan: Round) -> int:
        victim, jobs = await self._targets.owner(plan)
        return await self._step(victim.name, plan, len(jobs))

    async def _clock_store(self, plan: Round) -> int:
        return await self._step("store", plan, await self._targets.running_jobs())

    async def _step(self, name: str, plan: Round, hits: int) -> int:
        self._fleet.clocks[name].show(plan.offset_s)
        await asyncio.sleep(plan.hold_s)
        return hits
