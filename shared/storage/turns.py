"""Whose job comes next: what waits of each tenant, the tenants' turns, and the seats of those whose running jobs are
limited.

Which offer a worker gets is decided by one script at the moment at which the worker has a free slot (take_v1.lua,
docs/decisions/0025). What was taken is its taker's for a moment; not claimed by then, it waits again at its old place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis.exceptions import NoScriptError

from shared.storage.connect import Redis, sound, storage_errors
from shared.storage.keys import TAKEN, TURNS, WAITING_MS, WAKE, waiting
from shared.storage.script_line import knows_flags
from shared.storage.scripts import DEFER, LEAVE, RING, SIT, TAKE, Script
from shared.storage.sending import OwnLine, exchange
from shared.storage.transactions import Command

TAKEN_MS = 3_000
"""For how long what was taken is its taker's: a claim takes milliseconds. A second one meanwhile would do no harm."""


@dataclass(frozen=True, slots=True)
class Seats:
    """How many jobs of a tenant may run at once, 0 for any number: `of` those named there, and of every other one."""

    others: int = 0
    of: Mapping[str, int] = field(default_factory=dict)


NO_LIMIT = Seats()


@dataclass(frozen=True, slots=True)
class Taking:
    """What a worker got."""

    offers: Sequence[str]
    seated: frozenset[str]
    """Those among them that have a seat, to be kept while they run and left afterwards."""
    held: bool
    """Something waits for a seat alone."""


class Turns:
    """The control store's side of picking up. All methods raise StorageError where it cannot be reached."""

    def __init__(self, redis: Redis, queue_name: str) -> None:
        self._redis = redis
        self._keys = (TURNS, TAKEN, queue_name, WAKE)
        self._flags: bool | None = None

    @staticmethod
    def lining_up(tenant: str, name: str, score: int) -> list[Command]:
        """The commands by which an offer comes to wait, for a transaction; the lower `score` comes first."""
        mine = waiting(tenant)
        return [
            ("ZADD", mine, "NX", score, name),
            ("PEXPIRE", mine, WAITING_MS),
            ("ZADD", TURNS, "NX", 0, tenant),
            ("PEXPIRE", TURNS, WAITING_MS),
        ]

    async def take(
        self, line: OwnLine, count: int, *, seat_ms: int, seats: Seats = NO_LIMIT, bell_s: float = 0.0
    ) -> Taking:
        """Up to `count` offers, after a bell or `bell_s` of silence; `line` is the caller's own. One exchange.

        A repetition after a lost reply takes others; the first ones wait again after TAKEN_MS.
        """
        args = [count, TAKEN_MS, seat_ms, seats.others, *(part for pair in seats.of.items() for part in pair)]
        bell: list[Command] = [("BRPOP", WAKE, str(bell_s))] if bell_s else []
        held, offers, seated = await self._run(TAKE, args, line, bell)
        return Taking(offers, frozenset(seated), bool(held))

    async def ring(self, name: str) -> bool:
        """arq delivers an offer; whether it stands, and arq is to keep it. Idempotent."""
        return bool((await self._run(RING, [name]))[0])

    async def put_off(self, name: str, for_ms: int) -> None:
        """An offer that was taken may not be claimed here now: it waits again after `for_ms`."""
        await self._run(DEFER, [name, for_ms])

    async def keep_seats(self, names: Sequence[str], seat_ms: int) -> None:
        """Keep the seats of what runs."""
        await self._run(SIT, [seat_ms, *names])

    async def leave_seats(self, names: Sequence[str]) -> None:
        """Give the seats back of what has ended."""
        await self._run(LEAVE, names)

    async def _run(
        self, script: Script, args: Sequence[str | int], line: OwnLine | None = None, before: Sequence[Command] = ()
    ) -> Any:
        send = partial(exchange, self._redis) if line is None else line.exchange
        with storage_errors():
            if self._flags is None:
                self._flags = await knows_flags(self._redis)
            told = (len(self._keys), *self._keys, *args)
            *_, answer = await send([*before, ("EVALSHA", script.sha(self._flags), *told)])
            if isinstance(answer, NoScriptError):  # the server was restarted; with EVAL it knows it from now on
                (answer,) = await send([("EVAL", script.source(self._flags), *told)])
            return sound(answer)
