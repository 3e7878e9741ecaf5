"""Readers for storage tests: a node's tails on a real store, and what each reader got."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from api.reader import Lost, Reader, Start
from api.tail import Tails
from shared.events import START, Entry, EventId, Failed, Token, apart
from shared.jobs import Act, JobKey
from shared.transcript import fold
from tests.storage import acts
from tests.storage.conftest import Stores
from tests.support.loops import GUARD_S, running

TICK_S = 0.02


@dataclass
class Node:
    """What an API node has for its readers."""

    stores: Stores
    tails: Tails

    def reader(self, job: JobKey, *, repair_wait_s: float = 0.0) -> Reader:
        """A reader of `job`."""
        return Reader(job, self.stores.jobs, self.stores.log, self.tails, repair_wait_s=repair_wait_s)


class Reading:
    """One reader at work: what it got so far, and its task."""

    def __init__(self, node: Node, job: JobKey, start: Start | EventId = START, *, repair_wait_s: float = 0.0) -> None:
        self.entries: list[Entry] = []
        self.lost: Failed | None = None
        self.attached = False
        self._reader = node.reader(job, repair_wait_s=repair_wait_s)
        self._start = start if isinstance(start, Start) else Start(start)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._reader.follow(self._start, 60)) as steps:
            async for step in steps:
                self.attached = True
                if isinstance(step, Lost):
                    self.lost = step.event
                elif step is not None:
                    self.entries += apart(step.entries)

    @property
    def text(self) -> str:
        """The text that it shows."""
        return fold(entry.event for entry in self.entries).text

    async def ended(self) -> list[Entry]:
        """All that it got, once its stream has ended."""
        async with asyncio.timeout(GUARD_S):
            await self.task
        return self.entries


@contextlib.asynccontextmanager
async def running_node(stores: Stores, *, tick_s: float = TICK_S) -> AsyncIterator[Node]:
    """A node with a quick tick and a ring of a few events."""
    tails = Tails(stores.log, stores.notices, tick_s=tick_s, ring_events=8)
    async with running(tails.run()):
        yield Node(stores, tails)


async def running_job(stores: Stores, tokens: int = 0) -> tuple[JobKey, int]:
    """A running job whose log holds `queued`, `start` and some tokens; its epoch."""
    job = await acts.create(stores)
    epoch = (await acts.claim(stores, job)).epoch
    if tokens:
        await stores.jobs.append(job, epoch, 3, [Token(f"{n} ") for n in range(tokens)])
    return job, epoch


async def finish(stores: Stores, job: JobKey, epoch: int, seq: int) -> None:
    """The owner's terminal event, as `<epoch>-<seq>`."""
    answer = await stores.jobs.finish(job, epoch, seq, [acts.DONE], act=Act.DONE, usage={})
    assert answer.verdict == "OK"
