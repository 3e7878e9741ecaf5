"""The queue: offering a job to the workers through arq, and by the wake list beside it. Both are hints; the log store
is the truth, so an offer may come twice or never, and the reaper makes a new one.

An offer's arq id is `<tenant>/<job>.<last epoch>`: arq silently refuses a known id, and this one is fresh after every
claim and the same from every reaper. This file is the only one outside worker/main.py that knows arq.
"""

import time
from typing import Any

import msgspec
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from arq.jobs import serialize_job
from redis.asyncio import BlockingConnectionPool

from shared.jobs import JobKey
from shared.settings import Settings
from shared.storage.connect import Redis, storage_errors
from shared.storage.keys import DAY_MS, WAKE
from shared.storage.sending import let_cancellations_through, together
from shared.storage.transactions import Command

FUNCTION = "generate"
"""The name under which the worker registers its claim with arq."""

_WAKE_LIST_MAX = 10_000
_WAKE_LIST_MS = 3_600_000
_WITHDRAWN_MS = 10_000
_PRIORITY_STEP_MS = 10**11
"""Three years: a higher priority comes before any age. Scores stay in the past, or arq would wait for them."""


def serialize(data: dict[str, Any]) -> bytes:
    """What arq stores, as JSON: its default, pickle, runs code for whoever can write to the store.

    A result that arq wants to keep may hold an exception; its text will do.
    """
    return msgspec.json.encode(data, enc_hook=repr)


def deserialize(data: bytes) -> dict[str, Any]:
    """The inverse of `serialize`."""
    parsed: dict[str, Any] = msgspec.json.decode(data)
    return parsed


def offer_id(job: JobKey, epoch: int) -> str:
    """The id of the one offer of `job` while `epoch` is its last."""
    return f"{job}.{epoch}"


def parse_offer(text: str) -> tuple[JobKey, int]:
    """The job of an offer id, and the epoch it was made under: -1, which claims nothing, where that is garbage."""
    job, _, epoch = text.rpartition(".")
    return JobKey.parse(job), int(epoch) if epoch.isdecimal() else -1


def arq_pool(settings: Settings) -> ArqRedis:
    """arq's own client for the control store, with the time-outs that its RedisSettings cannot express."""
    pool = BlockingConnectionPool.from_url(
        settings.control_url,
        max_connections=16,
        timeout=settings.redis_timeout_s,
        socket_timeout=settings.redis_timeout_s,
    )
    let_cancellations_through(pool)
    return ArqRedis(
        pool, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=settings.queue_name
    )


class Queue:
    """Makes offers. Raises StorageError where the control store cannot be reached."""

    def __init__(self, redis: Redis, queue_name: str) -> None:
        self._redis = redis
        self._name = queue_name

    async def offer(self, job: JobKey, *, epoch: int, priority: int, wake: bool = True) -> None:
        """Offer `job`, whose last epoch is `epoch`. One round trip; harmless to repeat."""
        with storage_errors():
            await together(self._redis, self.offering(job, epoch=epoch, priority=priority, wake=wake))

    def offering(self, job: JobKey, *, epoch: int, priority: int, wake: bool = True) -> list[Command]:
        """The commands of an offer, for a transaction."""
        name = offer_id(job, epoch)
        now_ms = time.time_ns() // 1_000_000
        body = serialize_job(FUNCTION, (str(job),), {}, None, now_ms, serializer=serialize)
        commands: list[Command] = [
            ("SET", job_key_prefix + name, body, "PX", 2 * DAY_MS),
            ("ZADD", self._name, "NX", now_ms - (priority + 1) * _PRIORITY_STEP_MS, name),
        ]
        if wake:
            commands += [
                ("LPUSH", WAKE, name),
                ("LTRIM", WAKE, 0, _WAKE_LIST_MAX - 1),
                ("PEXPIRE", WAKE, _WAKE_LIST_MS),
            ]
        return commands

    async def withdraw(self, *names: str) -> None:
        """Take offers back whose jobs were claimed without arq; what arq has already, it takes back itself."""
        if not names:
            return
        # The bodies are not deleted: arq may be about to read one, and would call the job expired.
        commands: list[tuple[str | int, ...]] = [("ZREM", self._name, *names)]
        commands += [("PEXPIRE", job_key_prefix + name, _WITHDRAWN_MS) for name in names]
        with storage_errors():
            await together(self._redis, commands)

    async def outstanding(self, names: list[str]) -> list[bool]:
        """For each offer: does arq still hold it, waiting or being delivered?"""
        with storage_errors():
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.zscore(self._name, name)
                pipe.exists(job_key_prefix + name)
                pipe.exists(in_progress_key_prefix + name)
            rows = await pipe.execute() if names else []
        # Without its body arq can only drop the offer, so a queue entry alone is not an offer.
        return [
            bool(body) and (score is not None or bool(delivering))
            for score, body, delivering in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        ]

    async def next_wake(self, redis: Redis, timeout_s: float) -> str | None:
        """The next offer from the wake list, waiting up to `timeout_s`; `redis` is a connection kept for blocking."""
        with storage_errors():
            found = await redis.execute_command("BRPOP", WAKE, timeout_s)  # type: ignore[no-untyped-call]
        return str(found[1]) if found else None

    async def wake_again(self, name: str) -> None:
        """Put a wake-up back that found no free slot, next in turn for another worker."""
        with storage_errors():
            pipe = self._redis.pipeline(transaction=True)
            pipe.rpush(WAKE, name)
            pipe.pexpire(WAKE, _WAKE_LIST_MS)
            await pipe.execute()

    async def head(self, count: int) -> list[str]:
        """The first offers in the queue, by priority and age; some may be taken already."""
        with storage_errors():
            return list(await self._redis.zrange(self._name, 0, count - 1)) if count > 0 else []

    async def drop_wakes(self) -> None:
        """Forget all wake-ups (tests show with it that nothing is lost)."""
        with storage_errors():
            await self._redis.delete(WAKE)
