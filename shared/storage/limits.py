"""What limits need of the control store: permits, places, spent tokens, readers on all nodes. Each act is one script.

Everything is counted by the store's clock, and whatever a process holds ends by itself when the process does.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from shared.errors import TailraceError
from shared.jobs import JobKey, job_id_ms
from shared.limits import Limits
from shared.storage import keys, scripts
from shared.storage.connect import Redis
from shared.storage.keys import DAY_MS, OPEN_SLACK_MS
from shared.storage.script_line import ScriptCall, ScriptLine, told
from shared.storage.scripts import Script
from shared.storage.transactions import Command


class Calls(Protocol):
    """Runs scripts on the control store: a Batcher, or OneByOne."""

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> list[str]:
        """The script's answer. StorageError where the store cannot be reached."""


class OneByOne:
    """Runs scripts one after the other on a line of its own, which its owner closes.

    For a process that calls few, and has to call them until its very end, when nothing serves a batch any more.
    """

    def __init__(self, redis: Redis) -> None:
        self._line = ScriptLine(redis)
        self._turn = asyncio.Lock()
        self.aclose = self._line.aclose

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> list[str]:
        """See Calls."""
        async with self._turn:
            (answer,) = map(told, await self._line.run([ScriptCall(script, keys, args)]))
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


class Granted(NamedTuple):
    """What came of asking for permits: how many there are, how many are left for others, and after how long there is
    another where these were the last (s)."""

    permits: int
    left: int
    wait_s: float


class Place(NamedTuple):
    """A place for a job that is to be made, and when it was taken, ms since 1970 by the store's clock."""

    job: JobKey
    at_ms: int

    def keeping(self, deadline_s: float) -> list[Command]:
        """The commands, for a transaction, that let the job keep its place until its end.

        Should nobody ever take the job off the lists, the place lapses with the job's own keys.
        """
        mine, keep_ms = keys.places(self.job.tenant), round(deadline_s * 1000) + OPEN_SLACK_MS
        return [
            ("ZADD", mine, self.at_ms + keep_ms, self.job.id),
            ("PEXPIRE", mine, keep_ms, "NX"),
            ("PEXPIRE", mine, keep_ms, "GT"),
        ]


class Share(NamedTuple):
    """What a job takes of its tenant's share of the log store, in the ms after which that comes back; and the whole."""

    takes_ms: int = 0
    whole_ms: int = 0


NO_SHARE = Share()


class Told(NamedTuple):
    """What a node hears of a key's readers: whether it was known, and the numbers of those that have to go."""

    known: bool
    to_go: list[int]


def day_of(job_id: str) -> str:
    """The day, UTC, that a job's tokens count for: that of its creation, however late they are told of."""
    return datetime.fromtimestamp((job_id_ms(job_id) or 0) / 1000, UTC).strftime("%Y%m%d")


class LimitStore:
    """All methods raise StorageError where the control store cannot be reached."""

    def __init__(self, scripts: Calls, *, lease_s: float) -> None:
        self._scripts = scripts
        self._lease_ms = round(lease_s * 1000)

    async def permits(self, bucket: str, per_s: float, burst: float, wanted: int) -> Granted:
        """Up to `wanted` permits from a bucket of `burst` that gets `per_s` in a second."""
        answer = await self._scripts.call(scripts.PERMITS, [keys.permits(bucket)], [f"{per_s}", f"{burst}", wanted])
        granted, left, wait_ms = map(int, answer)
        return Granted(granted, left, wait_ms / 1000)

    async def admit(
        self, job: JobKey, created_ms: int, limits: Limits, most_open: int, share: Share = NO_SHARE
    ) -> Place:
        """A place for `job`, on the index of open jobs and among its tenant's, under a lease.

        TailraceError `queue_full`, `too_many_jobs` or `budget_spent` where there is none; then nothing was written.
        """
        day, tenant = day_of(job.id), job.tenant
        names = [keys.OPEN, keys.places(tenant), keys.tokens_of_day(tenant, day), keys.share(tenant)]
        args: list[str | int] = [
            str(job),
            job.id,
            created_ms,
            most_open,
            limits.open_jobs,
            self._lease_ms,
            limits.tokens_per_day,
            *share,
        ]
        verdict, *rest = await self._scripts.call(scripts.ADMIT, names, args)
        if verdict == "OK":
            return Place(job, int(rest[0]))
        if verdict == "FULL":
            raise TailraceError("queue_full", retry_after_s=5)
        if verdict == "PLACES":
            raise TailraceError(
                "too_many_jobs",
                f"{limits.open_jobs} jobs of this tenant have not ended. Wait until some of them have.",
                retry_after_s=5,
            )
        if verdict == "SHARE":
            raise TailraceError("budget_spent", _SHARE_SPENT, retry_after_s=int(rest[0]) / 1000)
        left_s = (DAY_MS - (job_id_ms(job.id) or 0) % DAY_MS) / 1000
        raise TailraceError(
            "budget_spent",
            f"This tenant has used its {limits.tokens_per_day} tokens of today. The next day begins at 00:00 UTC.",
            retry_after_s=left_s,
        )

    async def spend(self, used: dict[JobKey, int]) -> None:
        """Note what jobs have used so far. Harmless to repeat, with the same numbers or with higher ones."""
        days: dict[str, list[str | int]] = {}
        for job, tokens in used.items():
            days.setdefault(keys.tokens_of_day(job.tenant, day_of(job.id)), [2 * DAY_MS]).extend((job.id, tokens))
        await asyncio.gather(*(self._scripts.call(scripts.SPEND, [name], args) for name, args in days.items()))

    async def readers(self, key_id: str, node: str, most: int, come: Sequence[int], gone: Collection[int]) -> Told:
        """Tell which readers of a key have come to `node` and gone from it, by number. Harmless to repeat."""
        names = [keys.readers(key_id), keys.reading_nodes(key_id)]
        args: list[str | int] = [node, self._lease_ms, most, len(come), *map(_name, come), *map(_name, gone)]
        known, *to_go = await self._scripts.call(scripts.READERS, names, args)
        return Told(known == "1", [int(number) for number in to_go])


_SHARE_SPENT = (
    "The jobs of this tenant have taken its share of the store. It comes back evenly, while jobs are kept: "
    "wait, send smaller prompts, or ask for a shorter ttl_s."
)


def _name(number: int) -> str:
    return f"{number:015d}"  # of those that come in one millisecond, too, the first is the oldest
