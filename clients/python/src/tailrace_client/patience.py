"""How long this client waits, how often it tries, and what it tells the caller before it tries again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

_FIRST_S = 0.5
_CAP_S = 10.0


def full_jitter(tries: int, hint_s: float) -> float:
    """Seconds to wait after `tries` tries in vain: what the server asked for (`retry:`, `Retry-After`), plus chance.

    The chance spreads the readers of a node that went away; its range doubles up to 10 s.
    """
    return hint_s + random.uniform(0, min(_CAP_S, _FIRST_S * 2 ** min(tries, 10)))


@dataclass(frozen=True, slots=True)
class Patience:
    """Every time limit and number of tries. The unit stands in the name; `clock` and `sleep` are there for tests."""

    read_timeout_s: float = 45.0
    """Silence on a stream that means a dead connection; the server's heartbeats come every 15 s."""
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 30.0
    """An ordinary request, from its last byte to the answer's."""
    give_up_s: float = 300.0
    """A stream without any contact for so long ends in UnreachableError; also the longest `Retry-After` waited for."""
    first_contact_s: float | None = None
    """The same before the first contact; None: `give_up_s`. A wrong address need not take minutes to show."""
    tries: int = 4
    """How often a request is sent that creates or asks (not: a stream that goes on)."""
    rereads: int = 3
    """How often in a row a stream that is not whole is read again from the cursor."""
    backoff: Callable[[int, float], float] = full_jitter
    """(tries in vain so far, the server's hint in seconds) → seconds to wait."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Reconnect(NamedTuple):
    """A connection broke, or could not be made, and after `wait_s` seconds the next one is tried."""

    reason: str
    cursor: str | None
    """The last event's id, `$` or None for the start: where the next connection goes on."""
    tries: int
    """How many tries in a row came before this one without a new event: 0 for the first after a break."""
    wait_s: float


OnReconnect = Callable[[Reconnect], None]
