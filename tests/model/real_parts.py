"""The real parts of the real world: a worker's stack and a node's, each on a wire of its own; what a provider says.

Only the provider is the test's: what it says is decided rule by rule.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from api.reader import Lost, Reader, Start
from api.tail import Tails
from shared.errors import ProviderError, StorageError, TailraceError
from shared.events import Entry, Token
from shared.jobs import JobKey
from shared.queue import Queue
from shared.settings import Settings
from shared.storage.batch import Batcher
from shared.storage.connect import Redis
from shared.storage.control import Control
from shared.storage.jobs import JobStore, Refused
from shared.storage.log import EventLog
from shared.storage.notices import Notices
from tests.model.observed import Observed, Session
from worker.claim import Claimer
from worker.gate import Gate
from worker.generate import Generation, Stop, Tools
from worker.lease import LeaseKeeper
from worker.providers.base import Call, Finish, Piece
from worker.pump import ProviderLookup

LEASE_MS = 600_000
"""A lease ends when a rule says so."""
SETTINGS = Settings(retry_base_s=0.001, retry_cap_s=0.002, storage_patience_s=60, retry_budget_percent=100)
RING = 4
REPAIR_WAIT_S = 0.02
NO_TICK_S = 3600.0
_CLAIM_TRIES = 4


class Dictated:
    """A provider that says what it is told to."""

    name = "scripted"

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self.pieces: asyncio.Queue[Piece | ProviderError] = asyncio.Queue()

    async def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The pieces, as they are dictated."""
        said = call.continue_text
        while True:
            piece = await self.pieces.get()
            if isinstance(piece, ProviderError):
                raise piece
            if isinstance(piece, Token):
                said += piece.text
            if isinstance(piece, Finish):
                self._observed.meant.add(said)
                yield piece
                return
            yield piece

    async def aclose(self) -> None:
        """Nothing is held."""


@dataclass
class Stack:
    """What any process has of the storage layer."""

    redis: Redis

    def __post_init__(self) -> None:
        self.batcher = Batcher(self.redis)
        self.store = JobStore(self.redis, self.batcher)
        self.log = EventLog(self.redis)
        self.control = Control(self.redis)
        self.queue = Queue(self.redis, SETTINGS.queue_name)


class RealWorker:
    """One worker process's part in one job."""

    def __init__(self, stack: Stack, name: str, job: JobKey, observed: Observed) -> None:
        self._job = job
        self.provider = Dictated(observed)
        claimer = Claimer(stack.store, stack.log, name, LEASE_MS)
        gate = Gate(SETTINGS, asyncio.get_running_loop().time)
        providers = ProviderLookup({"scripted": self.provider})
        self._tools = Tools(SETTINGS, stack.store, stack.queue, claimer, providers, gate, name)
        self._keeper = LeaseKeeper(stack.store, name, list, every_s=3600, lease_ms=LEASE_MS)
        self.generation: Generation | None = None
        self.finishing = False

    async def run(self, offered: int) -> None:
        """From an offer on."""
        for _ in range(_CLAIM_TRIES):
            try:
                taken = await self._tools.claimer.take(self._job, offered=offered)
                break
            except StorageError:
                await asyncio.sleep(0)
        else:
            return
        if isinstance(taken, Refused):
            return
        self.generation = Generation(self._tools, self._job, taken)
        # A store that is away just then leaves the job to the reaper.
        with contextlib.suppress(StorageError):
            await self.generation.run()

    async def renew(self) -> None:
        """Keep the lease once."""
        if self.generation is not None:
            await self._keeper._renew(self.generation)

    def drain(self) -> None:
        """Hand over."""
        if self.generation is not None:
            self.generation.stop(Stop.DRAIN)


class RealNode:
    """One node's tails."""

    def __init__(self, stack: Stack, notices: Redis) -> None:
        self._stack = stack
        self.notices = Notices(notices)
        self.tails = Tails(stack.log, self.notices, tick_s=NO_TICK_S, ring_events=RING)

    def tick(self) -> None:
        """What the slow tick does."""
        for tail in self.tails._tails.values():
            if not tail.ended:
                self.tails._mark(tail)

    async def follow(self, job: JobKey, session: Session, observed: Observed, look: Callable[[], None]) -> None:
        """One reader's connection; where the node breaks it, the reader comes again. `look` observes the log."""
        while not session.over:
            try:
                if await self._nothing_follows(job, session):
                    look()
                    observed.nothing_follows(session)
                    return
                await self._follow(job, session, observed, look)
            except StorageError:
                await asyncio.sleep(0)

    async def _nothing_follows(self, job: JobKey, session: Session) -> bool:
        """What the route asks before it answers 204 (api/routes/common.py)."""
        try:
            record = await self._stack.store.show(job)
        except StorageError:
            raise
        except TailraceError:
            return False  # the reader finds out what there is instead
        if not record.ended:
            return False
        return session.now or (await self._stack.log.last_ids([job]))[0] == session.cursor

    async def _follow(self, job: JobKey, session: Session, observed: Observed, look: Callable[[], None]) -> None:
        reader = Reader(job, self._stack.store, self._stack.log, self.tails, repair_wait_s=REPAIR_WAIT_S)
        start = Start(session.cursor, now=session.now)
        async with aclosing(reader.follow(start, 3600)) as steps:
            async for step in steps:
                look()
                if isinstance(step, Lost):
                    observed.told_lost(session)
                elif step is not None:
                    self._deliver(step.entries, session, observed)

    def _deliver(self, entries: list[Entry], session: Session, observed: Observed) -> None:
        for entry in entries:
            observed.delivered(session, entry)
