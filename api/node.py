"""An API node: everything it opens, in one place, and how it drains."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request

from api.attendance import Attendance
from api.departure import Leaving
from api.keyring import Keyring
from api.limits import Limiter
from api.listing import Lists
from api.load import Load
from api.making import Maker
from api.permits import PATIENCE_S
from api.reader import Reader
from api.readers import Readers
from api.tail import Tails
from shared.addresses import StoreAddress
from shared.jobs import JobKey
from shared.limits import LimitTable
from shared.queue import Queue
from shared.recovery import Reaper
from shared.settings import Settings
from shared.spending import Spending
from shared.storage.api_keys import ApiKeys
from shared.storage.batch import Batcher
from shared.storage.connect import Redis, open_redis
from shared.storage.control import Control
from shared.storage.jobs import JobStore
from shared.storage.limits import LimitStore
from shared.storage.log import EventLog
from shared.storage.notices import Notices
from shared.storage.reads import Joined
from shared.storage.sealed import chosen_values
from shared.storage.sending import OwnLine
from shared.storage.transactions import Transactions
from shared.tasks import end
from shared.telemetry import process_name


@dataclass(frozen=True)
class Node:
    """What routes work with. `leaving` is done once the node is told to go."""

    settings: Settings
    store: JobStore
    log: EventLog
    control: Control
    queue: Queue
    maker: Maker
    tails: Tails
    attendance: Attendance
    leaving: Leaving
    keyring: Keyring
    limiter: Limiter
    readers: Readers
    load: Load
    lists: Lists

    @property
    def faults_on_request(self) -> bool:
        """Whether a job may ask for faults, which can end a worker: for one's own machine, not for tenants."""
        return self.settings.scripted_faults or self.keyring.is_open

    def leave(self) -> None:
        """Send the readers away and take no new jobs."""
        self.leaving.begin()

    def reader(self, job: JobKey, *, together: bool = False) -> Reader:
        """A reader of `job`, for a dialect that joins neighbours (`together`) or not."""
        wait_s = self.settings.repair_wait_s
        return Reader(job, self.store, self.log, self.tails, repair_wait_s=wait_s, together=together)


@contextlib.asynccontextmanager
async def running_node(settings: Settings) -> AsyncIterator[Node]:
    """A node with its background loops, for the length of the block."""
    async with contextlib.AsyncExitStack() as stack:

        def client(at: StoreAddress, retries: int = 2) -> Redis:
            redis = open_redis(
                at,
                timeout_s=settings.redis_timeout_s,
                max_connections=settings.redis_max_connections,
                retries=retries,
            )
            stack.push_async_callback(redis.aclose)
            return redis

        log_redis, control_redis = client(settings.log_store), client(settings.control_store)
        values = chosen_values(settings)
        batcher = Batcher(log_redis, settings.replicas, values)
        notices = Notices(client(settings.log_store, retries=0))
        # Those who come share one line; what is written to those who are there does not wait for them.
        coming, following = Joined(log_redis), OwnLine(log_redis)
        stack.push_async_callback(following.aclose)
        store, event_log = JobStore(log_redis, batcher, coming), EventLog(log_redis, coming, values)
        control, queue = Control(control_redis), Queue(control_redis, settings.queue_name)
        # Not where replicas have to have a job before it is answered: the batcher waits for them.
        one_store = settings.control_url == settings.redis_url and not settings.replicas
        transactions = Transactions(control_redis) if one_store else None
        limit_scripts, name = Batcher(control_redis), process_name("api")
        limit_store = LimitStore(limit_scripts, lease_s=settings.limit_lease_s)
        table = LimitTable(settings)
        maker = Maker(settings, store, control, queue, batcher, transactions, limit_store)
        tails = Tails(
            EventLog(log_redis, following, values),
            notices,
            tick_s=settings.tail_tick_s,
            ring_events=settings.tail_ring_events,
        )
        spending = Spending(table, limit_store)
        reaper = Reaper(store, control, queue, owner=name, lease_s=settings.lease_s, spending=spending)
        attendance = Attendance(store)
        leaving = Leaving(settings.drain_spread_s)
        keyring = Keyring(ApiKeys(control_redis), settings, leaving.streams)
        await keyring.open_up()
        limiter = Limiter(settings, table, limit_store, lambda: not keyring.is_open, PATIENCE_S)
        readers, load = Readers(limit_store, name), Load(settings, control, store)
        async with asyncio.TaskGroup() as group:
            running = [
                batcher.run(),
                coming.run(),
                notices.run(),
                tails.run(),
                tails.beat(settings.heartbeat_s),
                reaper.run(),
                attendance.run(),
                keyring.run(),
                limit_scripts.run(),
                readers.run(),
                load.run(),
            ]
            if transactions is not None:
                running.append(transactions.run())
            loops = [group.create_task(loop) for loop in running]
            try:
                yield Node(
                    settings,
                    store,
                    event_log,
                    control,
                    queue,
                    maker,
                    tails,
                    attendance,
                    leaving,
                    keyring,
                    limiter,
                    readers,
                    load,
                    Lists(control, store),
                )
            finally:
                await end(*loops)


async def node_dependency(request: Request) -> Node:
    """The node, as a dependency; async, or FastAPI would hop to a thread for it."""
    return node_of(request)


def node_of(request: Request) -> Node:
    """The node that serves `request`."""
    node: Node = request.app.state.node
    return node
