"""The control store: idempotency records, the index of open jobs, each tenant's list of jobs.

It may be another server than the logs', so nothing here is atomic with a log. What must survive a crash between two
steps is ordered so that a retry or the reaper completes any prefix (DESIGN §4, create order).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import OutOfMemoryError

from shared.errors import StorageError
from shared.jobs import JobKey, job_id_prefix
from shared.storage import keys
from shared.storage.connect import Redis, sound, storage_errors
from shared.storage.sending import exchange
from shared.storage.transactions import Command

OPEN_COUNT: Command = ("ZCARD", keys.OPEN)
"""The command that counts the jobs without a terminal event, for a transaction."""

MOST_ENDED = 50_000
"""Ended jobs whose logs wait to be rewritten, at most: where no worker does it, older logs stay as they are."""
MOST_TENANTS = 1_000
"""Whose waiting jobs are counted for an estimate."""
_TURN_MS = 60_000
_STARTS_MS = 3_600_000


def _now_ms() -> int:
    """By this process's clock, ms since 1970: one that is wrong has logs rewritten early or late, nothing else."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an Idempotency-Key stands for: the job and the fingerprint of the body it was first used with."""

    job_id: str
    fingerprint: str


class Control:
    """Records and indices. All methods raise StorageError where the store cannot be reached."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def reserve(self, tenant: str, key: str, wanted: Reservation) -> Reservation:
        """The first reservation made under `key`: `wanted` itself, or the one that was there. It lapses within minutes
        where nobody makes the job, and takes `keeping_key` with it."""
        name = keys.idempotency(tenant, key)
        value = f"{wanted.job_id} {wanted.fingerprint}"
        with storage_errors():
            pipe = self._redis.pipeline(transaction=False)
            pipe.set(name, value, nx=True, px=keys.RESERVED_MS)
            pipe.get(name)
            _, stored = await pipe.execute()
        job_id, _, fingerprint = (stored or value).partition(" ")
        return Reservation(job_id, fingerprint)

    def keeping_key(self, tenant: str, key: str, keep_ms: int) -> Command:
        """The command, for a transaction, that keeps what `key` stands for: ≥ 24 h. It comes before the job's log, or a
        crash could leave a job that a retry does not find."""
        return ("PEXPIRE", keys.idempotency(tenant, key), max(keep_ms, keys.IDEMPOTENCY_MS), "GT")

    async def index(self, job: JobKey, created_ms: int, keep_ms: int, also: Sequence[Command] = ()) -> None:
        """List the job as open and among its tenant's, before its log is made: the reaper finds a half-made one."""
        with storage_errors():
            for reply in await exchange(self._redis, [*self.indexing(job, created_ms, keep_ms), *also]):
                sound(reply)

    def indexing(self, job: JobKey, created_ms: int, keep_ms: int) -> list[Command]:
        """The commands of `index`, for a transaction."""
        mine = keys.jobs_of(job.tenant)
        return [
            ("ZADD", keys.OPEN, created_ms, str(job)),
            ("ZADD", mine, 0, job.id),
            ("ZREMRANGEBYLEX", mine, "-", f"({job_id_prefix(created_ms - keep_ms)}"),
            # Set where there is none, and then only ever made longer: GT alone takes a key without an end for endless.
            ("PEXPIRE", mine, keep_ms, "NX"),
            ("PEXPIRE", mine, keep_ms, "GT"),
        ]

    async def close(self, *jobs: JobKey) -> None:
        """Take ended jobs off the index of open ones, and note that their logs can be rewritten compactly."""
        if not jobs:
            return
        names, now_ms = [str(job) for job in jobs], _now_ms()
        left = _leaving(jobs)
        with storage_errors():
            replies = await exchange(
                self._redis,
                [
                    *left,
                    ("ZREM", keys.OPEN, *names),
                    ("ZADD", keys.ENDED, *(part for name in names for part in (now_ms, name))),
                    ("ZREMRANGEBYRANK", keys.ENDED, 0, -MOST_ENDED - 1),
                    ("PEXPIRE", keys.ENDED, keys.DAY_MS),
                ],
            )
            for reply in replies[: len(left) + 1]:
                sound(reply)  # the note is refused where memory is full: then the log stays as it was written

    async def take_ended(self, after_s: float, count: int) -> list[JobKey]:
        """Up to `count` jobs that ended more than `after_s` ago and whose logs are nobody else's to rewrite for now.

        They are the caller's for a minute or two, then anybody's until they are `rewritten`. Of two that want the same
        one gets it, for both move it to the same moment, and moving it twice changes nothing.
        """
        now_ms = _now_ms()
        again_ms = (now_ms // _TURN_MS + 2) * _TURN_MS
        with storage_errors():
            names = await self._redis.zrangebyscore(
                keys.ENDED, "-inf", now_ms - round(after_s * 1000), start=0, num=count
            )
            moves = [("ZADD", keys.ENDED, "XX", "CH", again_ms, name) for name in names]
            answers = await exchange(self._redis, moves)
            # A store without memory for the move has the more need of the rewriting, and two at one log do no harm.
            moved = [True if isinstance(answer, OutOfMemoryError) else sound(answer) for answer in answers]
        return [JobKey.parse(name) for name, mine in zip(names, moved, strict=True) if mine]

    async def rewritten(self, *jobs: JobKey) -> None:
        """Nothing is left to be done for the logs of `jobs`."""
        if jobs:
            with storage_errors():
                await self._redis.zrem(keys.ENDED, *map(str, jobs))

    async def forget(self, job: JobKey) -> None:
        """Take a deleted or vanished job off every list."""
        with storage_errors():
            pipe = self._redis.pipeline(transaction=False)
            pipe.zrem(keys.places(job.tenant), job.id)
            pipe.zrem(keys.OPEN, str(job))
            pipe.zrem(keys.jobs_of(job.tenant), job.id)
            await pipe.execute()

    async def begun(self, count: int) -> None:
        """Count jobs that a worker has begun. A number that is lost, or counted twice, makes an estimate worse."""
        with storage_errors():
            for reply in await exchange(
                self._redis, [("INCRBY", keys.STARTS, count), ("PEXPIRE", keys.STARTS, _STARTS_MS)]
            ):
                sound(reply)

    async def work(self) -> tuple[dict[str, int], int]:
        """How many offers wait of each tenant, and how many jobs were ever begun, for an estimate of the wait.

        Of the MOST_TENANTS whose turn is next: with more, the estimate is too short, and refuses too few.
        """
        with storage_errors():
            tenants, begun = await exchange(
                self._redis, [("ZRANGE", keys.TURNS, 0, MOST_TENANTS - 1), ("GET", keys.STARTS)]
            )
            names = [str(name) for name in sound(tenants)]
            counts = await exchange(self._redis, [("ZCARD", keys.waiting(name)) for name in names])
        waiting = {name: int(sound(count)) for name, count in zip(names, counts, strict=True)}
        return {name: count for name, count in waiting.items() if count}, int(sound(begun) or 0)

    async def open_count(self) -> int:
        """How many jobs have no terminal event."""
        with storage_errors():
            (count,) = await exchange(self._redis, [OPEN_COUNT])
            return int(sound(count))

    async def open_jobs(self, offset: int, count: int) -> list[tuple[JobKey, int]]:
        """Open jobs with their creation (ms since 1970), oldest first."""
        with storage_errors():
            rows = await self._redis.zrange(keys.OPEN, offset, offset + count - 1, withscores=True)
        return [(JobKey.parse(member), int(score)) for member, score in rows]

    async def jobs_before(self, tenant: str, before: str | None, count: int) -> list[str]:
        """Up to `count` ids of a tenant's jobs, newest first, after the id `before`."""
        with storage_errors():
            return list(
                await self._redis.zrevrangebylex(
                    keys.jobs_of(tenant), "+" if before is None else f"({before}", "-", start=0, num=count
                )
            )

    async def lead(self, owner: str, for_ms: int) -> bool:
        """Whether `owner` may reap for the next `for_ms`: one process does at a time, any can.

        With the store's memory full no lock can be taken, and everybody may: reaping is idempotent, and ending jobs at
        their deadlines is what makes room again.
        """
        try:
            with storage_errors():
                if await self._redis.set(keys.REAPER_LOCK, owner, nx=True, px=for_ms):
                    return True
                if await self._redis.get(keys.REAPER_LOCK) != owner:
                    return False
                return bool(await self._redis.pexpire(keys.REAPER_LOCK, for_ms))
        except StorageError as error:
            if error.code == "storage_full":
                return True
            raise

    async def watched(self, for_ms: int) -> bool:
        """Whether some reaper has seen the stores at work within its last `for_ms`; says so anew for this one."""
        try:
            with storage_errors():
                return await self._redis.set(keys.WATCHED, "1", px=for_ms, get=True) is not None
        except StorageError as error:
            if error.code == "storage_full":
                return True  # the stores answer; leases are renewed without new memory
            raise

    async def ping(self) -> None:
        """Nothing, or StorageError."""
        with storage_errors():
            await self._redis.ping()


def _leaving(jobs: Sequence[JobKey]) -> list[Command]:
    """The commands by which jobs give up their places among their tenants'.

    Before the index of open jobs: a job that is still on that one comes again, one that is not would keep its place.
    """
    tenants: dict[str, list[str]] = {}
    for job in jobs:
        tenants.setdefault(job.tenant, []).append(job.id)
    return [("ZREM", keys.places(tenant), *ids) for tenant, ids in tenants.items()]
