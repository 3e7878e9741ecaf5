"""How often a key may ask: permits from the control store, leased in batches, so that a busy node asks once a batch.

A batch is spent within a moment or lapses. What the store gives out for a moment ahead is taken off the burst, so that
all nodes together never let more pass than the limit and the burst.
"""

import asyncio
import math
from collections.abc import Callable
from typing import NamedTuple

from shared.errors import TailraceError
from shared.storage.limits import LimitStore

LEASE_S = 0.25
"""At most; and not longer than half a burst takes to come in, or all of it would be taken off for what passes late."""
_BATCHES_IN_A_BURST = 8
"""A node that has a batch and goes leaves seven eighths of the burst to the others."""
PATIENCE_S = 0.2
"""Less than a lease. A store that takes longer to give permits is away: nobody is made to wait for leave to ask."""
_ALONE_S = 1.0
"""For so long after that a node counts by itself."""


class Verdict(NamedTuple):
    """What became of a request for leave: whether it may pass, how many others may now, and if none after how long."""

    passed: bool
    left: int
    wait_s: float


class Bucket:
    """Permits of this node alone: `most` at once, `per_s` in a second. The clock is given."""

    def __init__(self, per_s: float, most: float, now: Callable[[], float]) -> None:
        self._per_s = per_s
        self._most = max(1.0, most)
        self._now = now
        self._full_s = float("-inf")

    def take(self) -> Verdict:
        """Take one, if there is one."""
        now_s = self._now()
        full_s = max(self._full_s, now_s)
        left = math.floor(self._most - (full_s - now_s) * self._per_s + 1e-9)
        if left < 1:
            return Verdict(False, 0, full_s - now_s - (self._most - 1) / self._per_s)
        self._full_s = full_s + 1 / self._per_s
        return Verdict(True, left - 1, 0.0)


class Permits:
    """Permits for one key at this node. `per_s` > 0."""

    def __init__(
        self, store: LimitStore, name: str, per_s: float, burst: int, now: Callable[[], float], patience_s: float
    ) -> None:
        self._store = store
        self._name = name
        self._per_s = per_s
        self._most_at_once = max(1, burst // _BATCHES_IN_A_BURST)
        self._lease_s = min(LEASE_S, burst / per_s / 2)
        # What is leased may pass a moment later than the store has counted it.
        self._burst = max(1.0, burst - per_s * self._lease_s) if self._most_at_once > 1 else float(burst)
        self._now = now
        self._patience_s = patience_s
        self._asking = asyncio.Lock()
        self._alone = Bucket(per_s, burst, now)
        self._alone_until_s = float("-inf")
        self._mine = 0
        self._mine_until_s = float("-inf")
        self._left_to_others = 0
        self._shut_until_s = float("-inf")
        self._waiting = 0
        self._batch = 1

    async def take(self) -> Verdict:
        """Take a permit. Without a store the node counts by itself: readers of running jobs must not suffer from it."""
        verdict = self._at_hand()
        if verdict is not None:
            return verdict
        self._waiting += 1
        try:
            async with self._asking:
                verdict = self._at_hand()  # who waited here before may have brought some for all
                while verdict is None:
                    await self._ask()
                    verdict = self._at_hand()
                return verdict
        finally:
            self._waiting -= 1

    def _at_hand(self) -> Verdict | None:
        """A verdict that needs no store; None where there is none."""
        now_s = self._now()
        if now_s < self._alone_until_s:
            return self._alone.take()
        if self._mine > 0 and now_s < self._mine_until_s:
            self._mine -= 1
            return Verdict(True, self._mine + self._left_to_others, 0.0)
        if now_s < self._shut_until_s:
            return Verdict(False, 0, self._shut_until_s - now_s)
        return None

    async def _ask(self) -> None:
        now_s = self._now()
        # A batch that was used up before it lapsed was too small.
        in_time = now_s < self._mine_until_s
        self._batch = min(self._most_at_once, self._batch * 2) if in_time else max(1, self._batch // 2)
        wanted = min(self._most_at_once, max(self._waiting, self._batch))
        try:
            async with asyncio.timeout(self._patience_s):
                granted = await self._store.permits(self._name, self._per_s, self._burst, wanted)
        except (TailraceError, TimeoutError):
            self._alone_until_s = self._now() + _ALONE_S
            return
        # From before the question on: the store has counted them since then at the latest.
        self._mine, self._mine_until_s = granted.permits, now_s + self._lease_s
        self._left_to_others = granted.left
        if granted.permits == 0:
            self._shut_until_s = self._now() + max(granted.wait_s, 0.001)
        elif self._now() >= self._mine_until_s:
            self._mine_until_s = self._now() + 0.001  # this loop was held up: good for those who wait for it
