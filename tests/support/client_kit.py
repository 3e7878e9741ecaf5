"""What the tests of the client library share: an answer, a clock that only waiting moves, ways to read."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from tailrace_client import (
    Event,
    Patience,
    Stream,
)

from tests.support.fake_node import (
    Asked,
    End,
    Reply,
    an_answer,
    events,
)

EVENTS = "GET /jobs/j1/events"
ANSWER = an_answer("Wa", "ter", " löuft", "…")
TEXT = "Water löuft…"
IDS = ["0-1", "7-2", "7-3", "7-4", "7-5", "7-6", "7-7"]


@dataclass
class Waits:
    """A clock that only waiting moves, and a record of what was waited for."""

    now: float = 0.0
    hints: list[float] = field(default_factory=list)
    tries: list[int] = field(default_factory=list)
    step_s: float = 0.0

    def backoff(self, tries: int, hint_s: float) -> float:
        self.tries.append(tries)
        self.hints.append(hint_s)
        return self.step_s

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def patience(self, **changes: Any) -> Patience:
        base = Patience(backoff=self.backoff, sleep=self.sleep, clock=lambda: self.now)
        return replace(base, **changes)


def ids(received: list[Event]) -> list[str]:
    return [str(event.id) for event in received]


async def everything(stream: Stream) -> list[Event]:
    return [event async for event in stream]


def rest(log: list[bytes], end: End = End.CLEAN, only: int | None = None) -> Any:
    """An answer that depends on the cursor, as the real node's does; `only` so many bytes of it, then the end."""

    def script(asked: Asked) -> Reply:
        seen = 0 if asked.cursor in ("", "0-0") else int(asked.cursor.partition("-")[2])
        return events(b"".join(log[seen:])[:only], end=end)

    return script
