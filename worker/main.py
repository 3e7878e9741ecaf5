"""A worker process: opens everything that generating needs, runs it in one task group, and closes it in reverse."""

import asyncio
import contextlib
import gc
import logging
import signal
from dataclasses import dataclass

import uvloop
from arq.connections import ArqRedis

from shared import metrics
from shared.addresses import StoreAddress
from shared.errors import StorageError, TailraceError
from shared.limits import LimitTable
from shared.queue import Queue, arq_pool
from shared.recovery import Reaper
from shared.settings import Settings
from shared.spending import Spending
from shared.storage.batch import Batcher
from shared.storage.compaction import LogCompaction
from shared.storage.connect import Redis, open_redis
from shared.storage.control import Control
from shared.storage.jobs import JobStore
from shared.storage.keys import job_of, worker_channel
from shared.storage.limits import LimitStore, OneByOne
from shared.storage.log import EventLog
from shared.storage.notices import Notices
from shared.storage.sealed import chosen_values
from shared.storage.turns import Seats
from shared.tasks import end
from shared.telemetry import log_start, process_name, say_ready, set_up_logging
from worker.claim import Claimer
from worker.compaction import Compactor
from worker.gate import Gate
from worker.generate import Tools
from worker.intake import Intake
from worker.lease import LeaseKeeper
from worker.providers.base import Provider
from worker.providers.registry import build_providers, close_providers, warm_up
from worker.pump import ProviderLookup
from worker.runner import Runner
from worker.seats import SeatKeeper

log = logging.getLogger(__name__)

_TELL_BEGUN_S = 0.5


@dataclass(frozen=True, slots=True)
class _Connections:
    log: Redis
    control: Redis
    blocking: Redis
    notices: Redis
    arq: ArqRedis
    scripts: OneByOne


class Worker:
    """One worker. `run` returns after `stop` and the drain."""

    def __init__(self, settings: Settings, providers: dict[str, Provider] | None = None) -> None:
        self._settings = settings
        self._providers = providers
        self._stopping = asyncio.Event()
        self.name = process_name("worker")

    def stop(self) -> None:
        """Begin the drain: take nothing new, hand over what does not end in time."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until stopped."""
        log_start(log, self.name)
        async with contextlib.AsyncExitStack() as stack:
            connections = await self._connect(stack)
            providers = build_providers(self._settings) if self._providers is None else self._providers
            stack.push_async_callback(close_providers, providers)
            metrics.SLOTS.set(self._settings.slots)
            stack.enter_context(metrics.served(self._settings.worker_metrics_host, self._settings.worker_metrics_port))
            async with asyncio.TaskGroup() as group:
                await self._serve(connections, providers, group)

    async def _connect(self, stack: contextlib.AsyncExitStack) -> _Connections:
        settings = self._settings

        def client(at: StoreAddress, **more: float | int) -> Redis:
            options = {"timeout_s": settings.redis_timeout_s, "max_connections": settings.redis_max_connections}
            redis = open_redis(at, **{**options, **more})  # type: ignore[arg-type]
            stack.push_async_callback(redis.aclose)
            return redis

        pool = arq_pool(settings)
        stack.push_async_callback(pool.aclose, close_connection_pool=True)
        control = client(settings.control_store)
        scripts = OneByOne(control)
        stack.push_async_callback(scripts.aclose)
        return _Connections(
            log=client(settings.log_store),
            control=control,
            scripts=scripts,
            blocking=client(settings.control_store, max_connections=4, retries=0),
            notices=client(settings.log_store, max_connections=4, retries=0),
            arq=pool,
        )

    async def _serve(self, connections: _Connections, providers: dict[str, Provider], group: asyncio.TaskGroup) -> None:
        settings = self._settings
        lease_ms = round(settings.lease_s * 1000)
        values = chosen_values(settings)
        batcher = Batcher(connections.log, settings.replicas, values)
        store = JobStore(connections.log, batcher)
        queue = Queue(connections.control, settings.queue_name)
        control = Control(connections.control)
        notices = Notices(connections.notices)
        event_log = EventLog(connections.log, values=values)
        claimer = Claimer(store, event_log, self.name, lease_ms)
        gate = Gate(settings, asyncio.get_running_loop().time)
        tools = Tools(settings, store, queue, claimer, ProviderLookup(providers), gate, self.name)
        limits = LimitTable(settings)
        spending = Spending(limits, LimitStore(connections.scripts, lease_s=settings.limit_lease_s))
        seats = SeatKeeper(queue.turns, group, every_s=settings.lease_renew_s, seat_ms=lease_ms)
        runner = Runner(tools, control, seats, group, spending)
        keeper = LeaseKeeper(
            store, self.name, lambda: runner.running, every_s=settings.lease_renew_s, lease_ms=lease_ms
        )
        free = Seats(settings.tenant_running_jobs, limits.running_jobs)
        intake = Intake(settings, runner, queue, connections.arq, connections.blocking, free)
        reaper = Reaper(store, control, queue, owner=self.name, lease_s=settings.lease_s, spending=spending)
        compactor = Compactor(control, LogCompaction(event_log, batcher), after_s=settings.compact_after_s)
        feeding = [group.create_task(loop) for loop in (intake.run_turns(), intake.run_arq())]
        background = (
            keeper.run(),
            seats.run(),
            reaper.run(),
            compactor.run(),
            self._listen(notices, runner),
            _count(runner, control),
        )
        loops = (batcher.run(), notices.run(), *background)
        serving = [group.create_task(loop) for loop in loops]
        try:
            await self._store_answers(store, control)
            log.info("ready: %d slots", settings.slots)
            say_ready()
            serving.append(group.create_task(_warm_up(providers)))
            await self._stopping.wait()
            log.info("draining for up to %.1f s", settings.worker_drain_s)
            await end(*feeding)
            await runner.drain(settings.worker_drain_s)
        finally:
            # Also where a loop broke: one that lost its cancellation would keep the process alive as a zombie.
            await end(*feeding, *serving)

    async def _store_answers(self, store: JobStore, control: Control) -> None:
        """Wait for the stores at the start: a worker that cannot work is not ready, and no reason to end."""
        while not self._stopping.is_set():
            try:
                await store.ping()
                await control.ping()
            except StorageError as error:
                log.warning("waiting for the store: %s", error.code)
                await asyncio.sleep(0.5)
            else:
                return

    async def _listen(self, notices: Notices, runner: Runner) -> None:
        """Hear of jobs that somebody else has ended. A lost notice costs no more than a lease renewal."""

        def ended(meta_key: str | None) -> None:
            if meta_key is not None:
                runner.stop(job_of(meta_key))

        await notices.listen(worker_channel(self.name), ended)


async def _count(runner: Runner, control: Control) -> None:
    """Tell how many jobs were begun here, for the estimate of the wait, until cancelled."""
    told = 0
    while True:
        await asyncio.sleep(_TELL_BEGUN_S)
        if runner.begun > told:
            more, told = runner.begun - told, runner.begun
            with contextlib.suppress(TailraceError):  # then the wait looks longer than it is
                await control.begun(more)


async def _warm_up(providers: dict[str, Provider]) -> None:
    await warm_up(providers)
    # What is loaded by now stays: to look through its hundred thousand objects for cycles, again and again, stops all
    # jobs for 60 ms.
    gc.freeze()


def run_worker(settings: Settings) -> None:
    """Run a worker process until SIGTERM or SIGINT and the drain after it."""
    set_up_logging(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))


async def _run(settings: Settings) -> None:
    worker = Worker(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    await worker.run()
