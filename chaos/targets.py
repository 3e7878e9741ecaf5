"""What a fault can aim at just now, and when its consequences have come."""

import asyncio

import redis

from chaos.fleet import Fleet, until
from chaos.load import Load
from chaos.plan import Round
from tests.support.cluster import Process

_GUARD_S = 8.0
"""How long a fault waits for something to hit; the plan's jobs come all the time."""


class Targets:
    """Looks at the fleet and the load for the faults."""

    def __init__(self, fleet: Fleet, load: Load) -> None:
        self._fleet = fleet
        self._load = load

    async def owner(self, plan: Round) -> tuple[Process, list[str]]:
        """A worker with running jobs, once there is one; else any."""
        await until(self.running, _GUARD_S)
        owned = self._fleet.owned(list(self._load.live))
        victims = sorted(owned, key=lambda worker: worker.name) or self._fleet.workers
        victim = victims[int(plan.pick * len(victims))]
        return victim, owned.get(victim, [])

    async def node(self, plan: Round) -> Process:
        """The plan's choice of a node, once it has readers."""
        node = self._fleet.apis[int(plan.pick * len(self._fleet.apis))]
        await until(lambda: self.readers_of(node), _GUARD_S)
        return node

    def readers_of(self, node: Process) -> int:
        """How many readers are connected to a node."""
        place = self._fleet.apis.index(node)
        return sum(reader.node == place for reader in self._load.readers)

    async def running_jobs(self) -> int:
        """How many jobs run, once any does."""
        await until(self.running, _GUARD_S)
        return self.running()

    def running(self) -> int:
        """How many jobs are leased just now."""
        return sum(len(jobs) for jobs in self._fleet.owned(list(self._load.live)).values())

    async def drain(self, victim: Process) -> None:
        """SIGTERM, and a new start once it has gone; it has to go with status 0."""
        self._fleet.down.add(victim)
        status = await asyncio.to_thread(victim.terminate)
        if status != 0:
            self._fleet.exits.append(f"{victim.name} drained with status {status}:\n{victim.log[-2000:]}")
        await self._fleet.up(victim)

    async def moved(self, before: dict[str, str]) -> None:
        """Until every one of these jobs has a new epoch, or a while has passed: the judge decides about those."""

        def all_moved() -> bool:
            try:
                now = self._fleet.epochs(before)
            except redis.exceptions.RedisError:
                return False
            return all(epoch_of(now[job]) != epoch_of(last) for job, last in self._left(before).items())

        await until(all_moved, 3 * self._fleet.lease_s + 3)

    def _left(self, before: dict[str, str]) -> dict[str, str]:
        return {job: last for job, last in before.items() if job in self._load.live}


def epoch_of(last: str) -> str:
    """The epoch of a log's last id."""
    return last.partition("-")[0]
