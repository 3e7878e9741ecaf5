"""The seats of this worker's jobs, of tenants whose running jobs are limited: kept while they run, given back when they
end. A seat lapses with its worker.
"""

import asyncio
import logging
from collections import Counter

from shared.errors import TailraceError
from shared.storage.turns import Turns
from worker.afterwards import Afterwards

log = logging.getLogger(__name__)


class SeatKeeper:
    """Owned by the composition root, which keeps `run()` in the worker's task group, `group`."""

    def __init__(self, turns: Turns, group: asyncio.TaskGroup, *, every_s: float, seat_ms: int) -> None:
        self._turns = turns
        self._every_s = every_s
        self._seat_ms = seat_ms
        self._mine: Counter[str] = Counter()
        """An offer may be here twice: one whose withdrawal was lost comes again while its job runs."""
        self._talking = asyncio.Lock()
        """A seat that is kept and left at once would be kept last."""
        self._to_leave = Afterwards[str](group, self._leave)

    def sit(self, offer: str) -> None:
        """An offer that was taken came with a seat."""
        self._mine[offer] += 1

    def leave(self, offer: str) -> None:
        """Its job runs here no more; nothing where it had no seat."""
        if offer not in self._mine:
            return
        self._mine[offer] -= 1
        if not self._mine[offer]:
            del self._mine[offer]
            self._to_leave.add(offer)

    async def run(self) -> None:
        """Keep what was taken until cancelled. Where the store is away seats lapse, and are taken again."""
        while True:
            await asyncio.sleep(self._every_s)
            async with self._talking:
                if not self._mine:
                    continue
                try:
                    await self._turns.keep_seats(sorted(self._mine), self._seat_ms)
                except TailraceError as error:
                    log.warning("%d seats not kept: %s", len(self._mine), error.code)

    async def _leave(self, *offers: str) -> None:
        async with self._talking:
            await self._turns.leave_seats(offers)
