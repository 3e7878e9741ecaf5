"""What ends a stream from outside: its client goes or may read no more, or its node leaves. Then the stream's own task
is broken into.

A task that waits for either beside each stream would weigh more than all that an idle stream needs (decision 0020).
"""

import asyncio
import random
import time
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import NamedTuple, Self

from starlette.types import Receive

from api.connection import Wire
from shared.tasks import end

_EARLY_S = 0.1
"""uvloop counts in whole milliseconds and may break in a moment early; and a clock may be set meanwhile."""


class Leave(NamedTuple):
    """A client's leave to read: until `expires_s` (seconds since 1970; None: for good), and as long as none of the keys
    that it rests on (by id) is taken away."""

    expires_s: float | None = None
    keys: tuple[str, ...] = ()


FOR_GOOD = Leave()


class Leaving:
    """Whether the node leaves, and the streams that it then sends away within `spread_s`, one after the other."""

    def __init__(self, spread_s: float) -> None:
        self.spread_s = spread_s
        self.streams: set[Departure] = set()
        self._begun = False

    def done(self) -> bool:
        """Whether it was told to go."""
        return self._begun

    def begin(self) -> None:
        """Go. Idempotent."""
        if not self._begun:
            self._begun = True
            for stream in self.streams:
                stream.node_leaves()


class Departure:
    """Ends its block in peace as soon as the client is gone, or the node leaves and this stream's turn has come.

    `wire`: the connection, which says when it is lost; under a foreign server a task waits for `receive` to say so.
    """

    __slots__ = ("_leave", "_leaving", "_limit", "_receive", "_watching", "_wire", "client_gone", "makes_room")

    def __init__(self, leaving: Leaving, wire: Wire | None, receive: Receive, leave: Leave = FOR_GOOD) -> None:
        self.client_gone = False
        self.makes_room = False
        self._leave = leave
        self._leaving = leaving
        self._wire = wire
        self._receive = receive
        self._watching: asyncio.Task[None] | None = None
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._leaving.streams.add(self)
        if self._leaving.done():
            self.node_leaves()
        if self._leave.expires_s is not None:
            self._break_at(asyncio.get_running_loop().time() + self._leave.expires_s - time.time())
        if self._wire is not None:
            self._wire.when_lost(self._client_left)
        else:
            self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._leaving.streams.discard(self)
        if self._wire is not None:
            self._wire.when_lost(None)
        try:
            await self._limit.__aexit__(kind, error, trace)
            broken = False
        except TimeoutError:
            broken = True
        if self._watching is not None:
            await end(self._watching)
        return broken

    @property
    def expired(self) -> bool:
        """Whether the client's leave to read has ended."""
        return self._leave.expires_s is not None and time.time() >= self._leave.expires_s - _EARLY_S

    def keys_end(self, key_ids: AbstractSet[str]) -> None:
        """These keys open nothing any more: the client's leave ends with the first that it rests on."""
        if not key_ids.isdisjoint(self._leave.keys):
            self._leave = Leave(0.0)
            self._break_at(0.0)

    def node_leaves(self) -> None:
        """Streams leave one after the other, or their readers would all come back in the same moment."""
        self._break_at(asyncio.get_running_loop().time() + random.uniform(0, self._leaving.spread_s))

    def make_room(self) -> None:
        """The reader has to go now: newer ones of its key have taken its place."""
        self.makes_room = True
        self._break_at(0.0)

    def _client_left(self) -> None:
        self.client_gone = True
        self._break_at(0.0)

    def _break_at(self, at_s: float) -> None:
        set_s = self._limit.when()
        if (set_s is None or at_s < set_s) and not self._limit.expired():
            self._limit.reschedule(at_s)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_left()
