"""Whether there is so much to do that no new job may be taken: by the wait that its tenant is to expect, and by what
memory the log store has left. Looked at once a second beside everything else, so that a refusal asks nobody.

Running jobs and readers never pay for it: what is refused is work that has not begun.
"""

import asyncio
import logging
import random
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Mapping
from itertools import accumulate

import msgspec

from shared import metrics
from shared.errors import StorageError, TailraceError
from shared.jobs import JobRequest
from shared.limits import Limits
from shared.settings import Settings
from shared.storage.control import Control
from shared.storage.jobs import JobStore
from shared.storage.limits import NO_SHARE, Share

log = logging.getLogger(__name__)

LOOK_S = 1.0
_MEMORY_AGAIN_S = 60.0
"""A store without a limit may be given one while it runs."""
_JOB_BYTES = 2048
"""What a job takes beside its prompt: record, log, index."""
_STALE_S = 5.0
"""What was seen longer ago says nothing: then the store is away, and refuses for itself."""


class Wait:
    """How long a job that comes now waits for a worker: the jobs before it, by the rate at which jobs have begun.

    Tenants take turns (docs/decisions/0025): before a tenant's k-th job come at most k of each other one, and whoever
    has nothing waiting does not pay for another's ten thousand. Only while some wait does the rate tell what workers
    can do; where nobody waits, it tells what was asked for. Pure: times in seconds of any clock that only rises.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()
        self._waiting: Mapping[str, int] = {}
        self._counts: list[int] = []
        self._sums: list[int] = []

    def saw(self, now_s: float, waiting: Mapping[str, int], begun: int) -> None:
        """`waiting` offers of each tenant that has some, `begun` jobs ever begun."""
        if not waiting or not self._waiting or (self._seen and begun < self._seen[-1][1]):
            self._seen.clear()
        self._waiting = waiting
        self._counts = sorted(waiting.values())
        self._sums = list(accumulate(self._counts, initial=0))
        self._seen.append((now_s, begun))
        # A whole window stays in sight: where nothing begins, what is seen of it has to reach the longest wait.
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[1][0] > self._window_s:
            self._seen.popleft()

    def expected_s(self, tenant: str, more: int = 0) -> float:
        """The wait of a job that comes behind all that wait of its tenant, and `more` that came since."""
        if not self._waiting or len(self._seen) < 2:
            return 0.0
        (since_s, before), (now_s, begun) = self._seen[0], self._seen[-1]
        if begun == before:
            return now_s - since_s  # nothing has begun for so long: at least that
        return self._before(tenant, more) * (now_s - since_s) / (begun - before)

    def _before(self, tenant: str, more: int) -> int:
        had = self._waiting.get(tenant, 0)
        turns = had + more
        shorter = bisect_right(self._counts, turns)
        at_most_turns = self._sums[shorter] + turns * (len(self._counts) - shorter)
        return at_most_turns - min(had, turns) + turns


class Load:
    """Owned by the node, which keeps `run()` in its task group."""

    def __init__(
        self, settings: Settings, control: Control, store: JobStore, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._control = control
        self._store = store
        self._now = now
        self._wait = Wait(max(10.0, settings.max_wait_s))
        self._taken: Counter[str] = Counter()
        self._work_s = self._memory_s = self._memory_due_s = float("-inf")
        self._full = False
        self._most_bytes = 0

    def find_room(self, tenant: str) -> None:
        """Nothing, or TailraceError `overloaded` or `storage_full` where no new job may be taken now."""
        now_s, most_s = self._now(), self._settings.max_wait_s
        if self._full and now_s - self._memory_s < _STALE_S:
            metrics.REFUSALS.labels("memory").inc()
            raise TailraceError("storage_full", retry_after_s=5)
        if most_s and now_s - self._work_s < _STALE_S:
            wait_s = self._wait.expected_s(tenant, self._taken[tenant])
            if wait_s > most_s:
                metrics.REFUSALS.labels("wait").inc()
                raise TailraceError("overloaded", retry_after_s=min(60.0, max(1.0, wait_s - most_s)))
        self._taken[tenant] += 1

    def share(self, request: JobRequest, limits: Limits, ttl_s: int) -> Share:
        """What a job takes of its tenant's share of the log store, by its request and how long it is kept.

        Half of the share can be taken at once, and as much comes back while a job is kept: what is kept at any moment
        is within the whole. None where the store, as far as it was seen, has no limit.
        """
        at_once = self._most_bytes * limits.store_percent / 200
        if not at_once:
            return NO_SHARE
        kept_s = self._settings.job_ttl_s
        takes_bytes = (len(msgspec.json.encode(request)) + _JOB_BYTES) * max(1.0, ttl_s / kept_s)
        return Share(round(takes_bytes / at_once * kept_s * 1000) + 1, kept_s * 1000)

    async def run(self) -> None:
        """Look about once a second until cancelled."""
        while True:
            try:
                await self.look()
            except StorageError as error:
                log.debug("load: %s", error.code)
            except Exception:
                # Whatever stands in the store: what cannot be seen refuses nobody.
                log.exception("load")
            await asyncio.sleep(LOOK_S * random.uniform(0.75, 1.0))

    async def look(self) -> None:
        """See how much waits, and how full the store is. StorageError where a store is away."""
        if self._settings.max_wait_s:
            waiting, begun = await self._control.work()
            self._work_s = self._now()
            self._taken.clear()
            self._wait.saw(self._work_s, waiting, begun)
        if self._now() >= self._memory_due_s:
            used, most = await self._store.memory()
            self._memory_s, self._most_bytes = self._now(), most
            percent = self._settings.store_full_percent
            self._full = bool(percent and most) and used >= most * percent / 100
            self._memory_due_s = self._memory_s + (0.0 if most else _MEMORY_AGAIN_S)
