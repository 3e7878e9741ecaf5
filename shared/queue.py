"""The queue: offering a job to the workers. The log store is the truth, so an offer is a hint, which may come twice or
never, and the reaper makes a new one. Offers wait by tenant (shared/storage/turns.py); the wake list and arq's queue
are bells, which say that something waits, and to older workers what.

An offer's arq id is `<tenant>/<job>.<last epoch>`: arq silently refuses a known id, and this one is fresh after every
claim and the same from every reaper. This file is the only one outside worker/main.py that knows arq.
"""

import time
from typing import Any

import msgspec
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from arq.jobs import serialize_job

from shared.jobs import JobKey, job_id_ms
from shared.settings import Settings
from shared.storage.connect import Redis, open_pool, sound, storage_errors
from shared.storage.keys import DAY_MS, TAKEN, WAKE, WAKE_MS, waiting
from shared.storage.sending import exchange, together
from shared.storage.transactions import Command
from shared.storage.turns import Turns

FUNCTION = "generate"
"""The name under which the worker registers its claim with arq."""

_WAKE_LIST_MAX = 10_000
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
    pool = open_pool(
        settings.control_store,
        timeout_s=settings.redis_timeout_s,
        max_connections=16,
        retries=0,
        decode_responses=False,
    )
    return ArqRedis(
        pool, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=settings.queue_name
    )


class Queue:
    """Makes offers and takes them back. Raises StorageError where the control store cannot be reached."""

    def __init__(self, redis: Redis, queue_name: str) -> None:
        self._redis = redis
        self._name = queue_name
        self.turns = Turns(redis, queue_name)
        """Where offers wait, and what workers take them from."""

    async def offer(self, job: JobKey, *, epoch: int, priority: int) -> None:
        """Offer `job`, whose last epoch is `epoch`. One round trip; harmless to repeat."""
        with storage_errors():
            await together(self._redis, self.offering(job, epoch=epoch, priority=priority))

    def offering(self, job: JobKey, *, epoch: int, priority: int) -> list[Command]:
        """The commands of an offer, for a transaction. It waits by priority and by the age of its job, whoever
        offers it and however often."""
        name = offer_id(job, epoch)
        now_ms = time.time_ns() // 1_000_000
        created_ms = job_id_ms(job.id)
        score = (now_ms if created_ms is None else created_ms) - (priority + 1) * _PRIORITY_STEP_MS
        body = serialize_job(FUNCTION, (str(job),), {}, None, now_ms, serializer=serialize)
        return [
            ("SET", job_key_prefix + name, body, "PX", 2 * DAY_MS),
            ("ZADD", self._name, "NX", score, name),
            *self.turns.lining_up(job.tenant, name, score),
            ("LPUSH", WAKE, name),
            ("LTRIM", WAKE, 0, _WAKE_LIST_MAX - 1),
            ("PEXPIRE", WAKE, WAKE_MS),
        ]

    async def withdraw(self, *names: str) -> None:
        """Take offers back: their jobs were claimed, or have ended."""
        if not names:
            return
        commands: list[Command] = [("ZREM", self._name, *names), ("ZREM", TAKEN, *names)]
        tenants = {parse_offer(name)[0].tenant for name in names}
        commands += [("ZREM", waiting(tenant), *(n for n in names if n.startswith(f"{tenant}/"))) for tenant in tenants]
        # The bodies are not deleted: arq may be about to read one, and would call the job expired.
        commands += [("PEXPIRE", job_key_prefix + name, _WITHDRAWN_MS) for name in names]
        with storage_errors():
            await together(self._redis, commands)

    async def outstanding(self, names: list[str]) -> list[bool]:
        """For each offer: does it wait, or has a worker taken it that has yet to claim it?

        One that stands in arq's queue alone is none: arq brings it to nobody while all that waits waits for a seat.
        """
        commands: list[Command] = []
        for name in names:
            commands += [
                ("ZSCORE", waiting(parse_offer(name)[0].tenant), name),
                ("ZSCORE", TAKEN, name),
                ("EXISTS", in_progress_key_prefix + name),
            ]
        with storage_errors():
            rows = [sound(answer) for answer in await exchange(self._redis, commands)]
        waits, taken, delivering = rows[::3], rows[1::3], rows[2::3]
        return [w is not None or t is not None or bool(d) for w, t, d in zip(waits, taken, delivering, strict=True)]
