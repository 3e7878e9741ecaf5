"""How many event streams each key has open, here and on all nodes; beyond the limit its oldest reader has to go.

Never the newest: a reader that comes back after its network changed would find its own dead connections before it, and
EventSource gives up for ever on a refusal. Counted exactly at this node, where a newcomer's elder goes at once; and for
all nodes together in the store, which hears of everything once a second under a lease, so that nobody waits for it.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from api.departure import Departure
from shared import metrics
from shared.errors import TailraceError
from shared.limits import Limits
from shared.storage.limits import LimitStore

log = logging.getLogger(__name__)

TELL_S = 1.0


class Seat(NamedTuple):
    """What a reader is counted by: its key and its job, and the limits of the key."""

    key_id: str
    job_id: str
    limits: Limits


class _OfKey:
    """The readers of one key at this node. `by_number`: oldest first."""

    __slots__ = ("by_number", "come", "gone", "limits", "on_job")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.by_number: dict[int, tuple[Departure, str]] = {}
        self.on_job: Counter[str] = Counter()
        self.come: set[int] = set()
        """Those that the store has not heard of."""
        self.gone: set[int] = set()
        """Those that it need not count any more."""

    def in_excess(self, job_id: str) -> int | None:
        """Whose turn it is to go, for a newcomer to `job_id` who is counted already; None where there is room."""
        limits = self.limits
        if limits.readers_per_job and self.on_job[job_id] > limits.readers_per_job:
            return next(number for number, (_, job) in self.by_number.items() if job == job_id)
        if limits.readers and len(self.by_number) > limits.readers:
            return next(iter(self.by_number))
        return None

    def leave(self, number: int) -> None:
        """A reader is gone, or on its way."""
        found = self.by_number.pop(number, None)
        if found is not None:
            self.on_job[found[1]] -= 1
            if not self.on_job[found[1]]:
                del self.on_job[found[1]]
            self.gone.add(number)


class Readers:
    """Owned by the node, which keeps `run()` in its task group. `node`: its name, which no other has."""

    def __init__(self, store: LimitStore, node: str) -> None:
        self._store = store
        self._node = node
        self._keys: dict[str, _OfKey] = {}
        self._last = 0
        self._wanted = asyncio.Event()

    @contextmanager
    def reading(self, seat: Seat, departure: Departure) -> Iterator[None]:
        """A reader is here for the length of the block, within that of its departure."""
        mine = self._keys.get(seat.key_id)
        if mine is None:
            mine = self._keys[seat.key_id] = _OfKey(seat.limits)
        mine.limits = seat.limits
        self._last += 1
        number = self._last
        mine.by_number[number] = (departure, seat.job_id)
        mine.on_job[seat.job_id] += 1
        mine.come.add(number)
        self._wanted.set()
        while (elder := mine.in_excess(seat.job_id)) is not None:
            _send_away(mine, elder)
        try:
            yield
        finally:
            mine.leave(number)

    async def run(self) -> None:
        """Tell the store once a second, until cancelled, who reads here; send away whom it says."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._keys:
                await asyncio.sleep(TELL_S * random.uniform(0.75, 1.0))
                await asyncio.gather(*(self._tell(key_id, mine) for key_id, mine in list(self._keys.items())))

    async def _tell(self, key_id: str, mine: _OfKey) -> None:
        come, gone = mine.come - mine.gone, mine.gone
        mine.come, mine.gone = set(), set()
        if mine.limits.readers:
            try:
                told = await self._store.readers(key_id, self._node, mine.limits.readers, sorted(come), gone)
            except TailraceError as error:
                log.debug("readers of %s: %s", key_id, error.code)
                mine.come |= come
                mine.gone |= gone
                return
            if not told.known:
                # Forgotten after a silence, as were those that it had heard of before.
                mine.come |= mine.by_number.keys() - come
            for number in told.to_go:
                _send_away(mine, number)
        if not (mine.by_number or mine.come or mine.gone):
            del self._keys[key_id]


def _send_away(mine: _OfKey, number: int) -> None:
    found = mine.by_number.get(number)
    if found is not None:
        mine.leave(number)  # at once: the connection may take a moment to take its leave
        metrics.REFUSALS.labels("readers").inc()
        found[0].make_room()
