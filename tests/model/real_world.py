"""The real server as a world: Valkey, the real scripts and the real classes, on wires that move when a rule says so.

Each worker, the node (once for what it reads, once for its notices) and the callers have wires of their own. All bytes
are held; `run` lets some through, one request or one reply at a time, so that commands interleave as in the model.
A failover puts an earlier state of the job's keys back (DUMP and RESTORE) and breaks every connection.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from api import reader as reader_module
from shared.errors import ProviderError, StorageError
from shared.events import START, Entry, EventId, Token, decode
from shared.jobs import JobKey, JobRequest, Message, OnInterrupt, new_job_id
from shared.recovery import Reaper
from shared.storage.control import Reservation
from shared.storage.creation import Creation
from shared.storage.keys import idempotency, job_keys
from tests.model.observed import Observed, Session
from tests.model.real_parts import RealNode, RealWorker, Stack
from tests.model.wires import Replica, Wires, turns
from tests.model.world import World
from tests.support.fault_proxy import Way
from tests.support.loops import end, until
from tests.support.stores import ValkeyProcess, keys_without_end
from worker.providers.base import Finish

PLACES = 3
MOST_READERS = 4
MOST_POSTS = 3
TENANT, KEY = "default", "key"


class RealWorld(World):
    """See the head of this file. `folder`: for the wires' sockets."""

    def __init__(self, server: ValkeyProcess, folder: Path) -> None:
        self._server = server
        self._folder = folder

    def open(self, on_interrupt: OnInterrupt, chance: int) -> None:
        """A fresh store."""
        self._runner = asyncio.Runner()
        self._admin = self._server.client()
        self._admin.flushall()
        self.observed = Observed()
        self._job = JobKey(TENANT, new_job_id())
        self._keys = [*job_keys(self._job), idempotency(TENANT, KEY)]
        self._request = JobRequest("scripted", "demo", [Message("user", "hi")], on_interrupt=on_interrupt)
        self._replica = Replica(self._server.url, self._keys)
        self._wires = Wires(self._server.url, self._folder)
        self._places: list[tuple[RealWorker, asyncio.Task[None]] | None] = [None] * PLACES
        self._readings: list[tuple[Session, asyncio.Task[None]]] = []
        self._errands: list[asyncio.Task[None]] = []
        self._posts = self._words = self._names = 0
        self._deaf = False
        self._look_s, reader_module.REPAIR_LOOK_S = reader_module.REPAIR_LOOK_S, 0.005
        self._runner.run(self._open())

    async def _open(self) -> None:
        self._loops: list[asyncio.Task[None]] = []
        self._worker_stacks = [Stack(await self._wires.client()) for _ in range(PLACES)]
        self._callers = Stack(await self._wires.client())
        reading = Stack(await self._wires.client())
        self._node = RealNode(reading, await self._wires.client())
        self._notices_wire = self._wires.all[-1]
        for stack in (*self._worker_stacks, self._callers, reading):
            self._loops.append(asyncio.create_task(stack.batcher.run()))
            await stack.store.standings([self._job])
            await stack.store.attend(self._job)
        for loop in (self._node.notices.run(), self._node.tails.run()):
            self._loops.append(asyncio.create_task(loop))
        self._wires.hold()

    def close(self) -> None:
        """End everything."""
        reader_module.REPAIR_LOOK_S = self._look_s
        self._runner.run(self._close())
        self._runner.close()
        self._admin.close()
        self._replica.close()

    async def _close(self) -> None:
        self._wires.release()
        workers = [place[1] for place in self._places if place]
        await end(*workers, *(task for _, task in self._readings), *self._errands, *self._loops)
        await self._wires.aclose()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        self._runner.run(what)
        self._look()

    def _look(self) -> None:
        """What the log holds now."""
        rows: Any = self._admin.xrange(self._keys[1])
        entries = [Entry(EventId.parse(name), decode(*next(iter(fields.items())))) for name, fields in rows]
        self.observed.log_is(entries)

    def _spawn(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def begin() -> asyncio.Task[None]:
            task = asyncio.create_task(what)
            await turns()
            return task

        return self._runner.run(begin())

    def _errand(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._errands.append(self._spawn(_insist(what)))

    # The job.

    def post(self) -> None:
        """A POST, as api/intake.py does it."""
        if self._posts < MOST_POSTS:
            self._posts += 1
            self._errand(self._post(self._job if self._posts == 1 else JobKey(TENANT, new_job_id())))

    def _post(self, wanted: JobKey) -> Callable[[], Coroutine[Any, Any, None]]:
        async def post() -> None:
            control, store = self._callers.control, self._callers.store
            found = await control.reserve(TENANT, KEY, Reservation(wanted.id, "f"))
            if found.job_id == self._job.id:
                await control.index(self._job, 0, 60_000, [control.keeping_key(TENANT, KEY, 60_000)])
                await store.create(Creation(self._job, self._request, deadline_s=3600, ttl_s=600))
            self.observed.accepted(found.job_id)

        return post

    def cancel(self) -> None:
        """A cancel."""

        async def cancel() -> None:
            await self._callers.store.cancel(self._job, "user")

        self._errand(cancel)

    def reap(self) -> None:
        """A look of the real reaper."""

        async def reap() -> None:
            stack = self._callers
            await Reaper(stack.store, stack.control, stack.queue, owner="r", lease_s=1).sweep(trusted=True)

        self._errand(reap)

    def lapse(self) -> None:
        """The lease ends."""
        self._admin.delete(self._keys[2])

    # Workers.

    def claim(self, place: int, *, late: bool) -> None:
        """A worker gets an offer."""
        held = self._places[place]
        if held is None or held[1].done():
            self._names += 1
            offered = 0 if late else int(self._admin.hget(self._keys[0], "epoch") or 0)  # type: ignore[arg-type]
            self._places[place] = self._runner.run(self._work(place, offered))

    async def _work(self, place: int, offered: int) -> tuple[RealWorker, asyncio.Task[None]]:
        worker = RealWorker(self._worker_stacks[place], f"w{self._names}", self._job, self.observed)
        task = asyncio.create_task(worker.run(offered))
        await turns()
        return worker, task

    def _worker(self, which: int) -> RealWorker | None:
        held = [worker for worker, task in self._living() if worker.generation is not None]
        worker = held[which % len(held)] if held else None
        return worker if worker is not None and not worker.finishing else None

    def _living(self) -> list[tuple[RealWorker, asyncio.Task[None]]]:
        return [place for place in self._places if place is not None and not place[1].done()]

    def say(self, which: int, words: int) -> None:
        """Some words."""
        worker = self._worker(which)
        if worker is not None:
            for _ in range(words):
                self._words += 1
                worker.provider.pieces.put_nowait(Token(f"{self._words}."))

    def finish(self, which: int) -> None:
        """The end of the answer, after a last word: an empty one is an error of the provider's."""
        worker = self._worker(which)
        if worker is not None:
            self.say(which, 1)
            worker.finishing = True
            worker.provider.pieces.put_nowait(Finish("stop"))

    def break_off(self, which: int) -> None:
        """A provider error."""
        worker = self._worker(which)
        if worker is not None:
            worker.provider.pieces.put_nowait(ProviderError("provider_interrupted"))

    def renew(self, which: int) -> None:
        """A renewal."""
        worker = self._worker(which)
        if worker is not None:
            self._errand(worker.renew)

    def drain(self, which: int) -> None:
        """A hand-over."""
        worker = self._worker(which)
        if worker is not None:
            worker.drain()

    def crash(self, place: int) -> None:
        """A kill: its wires break, and it does nothing more."""
        held = self._places[place]
        if held is not None:
            self._wires.all[place].reset()
            self._do(end(held[1]))
            self._places[place] = None

    # Readers.

    def connect(self, cursor: int, *, now: bool) -> None:
        """A reader comes."""
        if len(self._readings) < MOST_READERS:
            ids = self.observed.known_ids
            self._read(self.observed.connected(ids[cursor % len(ids)] if not now else START, now=now))

    def _read(self, session: Session) -> None:
        following = self._node.follow(self._job, session, self.observed, self._look)
        self._readings.append((session, self._spawn(following)))

    def _reading(self, reader: int) -> tuple[Session, asyncio.Task[None]] | None:
        return self._readings[reader % len(self._readings)] if self._readings else None

    def leave(self, reader: int) -> None:
        """A reader goes."""
        reading = self._reading(reader)
        if reading is not None:
            self._judge(reading[1])
            self._readings.remove(reading)
            self.observed.left(reading[0])
            # Its last command (UNSUBSCRIBE) may be held: nobody waits for it.
            reading[1].cancel()
            self._errands.append(reading[1])

    def resume(self, reader: int) -> None:
        """A reader comes again."""
        reading = self._reading(reader)
        if reading is not None:
            self.leave(reader)
            self._read(self.observed.again(reading[0]))

    def tick(self) -> None:
        """A tick."""
        self._deaf = False
        self._node.tick()

    # Faults.

    def replicate(self) -> None:
        """The replica catches up."""
        self._replica.catch_up()

    def fail_over(self) -> None:
        """The replica takes over, and all connections break."""
        self._look()
        lost = self._replica.take_over()
        kept = int(self._admin.xlen(self._keys[1]))  # type: ignore[arg-type]  # its types cannot tell sync from async
        self.observed.failed_over(kept, job_lost=self._keys[0] in lost, reservation_lost=self._keys[-1] in lost)
        self._wires.reset()

    def lose_notices(self) -> None:
        """Notices under way are lost."""
        for wire in self._notices_wire.wires:
            held = wire.held[Way.REPLIES]
            kept = [chunk for chunk in held if b"subscribe" in chunk or b"message" not in chunk]
            self._deaf |= len(kept) < len(held)
            held.clear()
            held.extend(kept)

    def cut_notices(self) -> None:
        """The node's subscription breaks."""
        self._notices_wire.reset()

    def lose(self, actor: int, *, late: bool) -> None:
        """A connection breaks under a command."""
        self._wires.lose(actor, late=late)

    # Time.

    def run(self, picks: int) -> None:
        """Some pieces: three bits of `picks` say whose, one whether the reply to it comes at once as well."""
        self._do(self._run(picks))
        for _, task in self._readings:
            self._judge(task)

    async def _run(self, picks: int) -> None:
        await turns()
        for _ in range(4):
            await self._wires.step(picks & 7, answered=bool(picks & 8))
            self._look()
            picks >>= 4

    def rest(self) -> None:
        """Everything passes, until nothing does."""
        self._do(self._rest())

    async def _rest(self) -> None:
        await turns()
        while held := self._wires.held():
            for _, wire, way in held:
                if wire.held[way]:
                    await self._wires.let(wire, way)
            self._look()

    def _judge(self, task: asyncio.Task[None]) -> None:
        """What a reader's checks found."""
        if task.done() and not task.cancelled():
            task.result()

    def settle(self) -> None:
        """All comes to its end."""
        self._runner.run(self._settle())

    async def _settle(self) -> None:
        self._wires.release()
        await until(lambda: all(task.done() for task in self._errands))
        await until(self._workers_are_done)
        self.lapse()
        if self._admin.exists(self._keys[0]):
            self._admin.hset(self._keys[0], "deadline_ms", "1")
        await Reaper(self._callers.store, self._callers.control, self._callers.queue, owner="r", lease_s=1).sweep(
            trusted=True
        )
        self._look()
        await self._readers_end()
        self.observed.settled(endless=keys_without_end(self._admin))
        for cursor in self.observed.cursors:
            session = self.observed.connected(cursor)
            await self._node.follow(self._job, session, self.observed, self._look)
            self.observed.replayed(cursor, session.entries)

    def _workers_are_done(self) -> bool:
        """Whoever took the job says the end of his answer as soon as he can."""
        for which in range(PLACES):
            self.finish(which)
        return not self._living()

    async def _readers_end(self) -> None:
        """Without a tick, unless a notice was lost since the last one."""
        if self._deaf:
            self._node.tick()
        try:
            await until(lambda: all(task.done() for _, task in self._readings))
        except TimeoutError:
            for session, task in self._readings:
                if not task.done():
                    self.observed.idle(session)
            raise
        for _, task in self._readings:
            task.result()


async def _insist(what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Somebody asks until he is answered."""
    while True:
        try:
            return await what()
        except StorageError:
            await asyncio.sleep(0.005)
