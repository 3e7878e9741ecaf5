"""What uvicorn keeps for each connection, at the weight of a connection that waits.

Its own have an empty deque each, of 760 bytes: three of them weigh as much as all else that an idle reader has of ours.
"""

import asyncio
from typing import Any


class Bell:
    """An `asyncio.Event` for the few that wait at one connection."""

    __slots__ = ("_rung", "_waiters")

    def __init__(self, *, rung: bool = False) -> None:
        self._rung = rung
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        """Whether nobody has to wait."""
        return self._rung

    def set(self) -> None:
        """Let all go on."""
        self._rung = True
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Have whoever comes wait."""
        self._rung = False

    async def wait(self) -> None:
        """Until it is set."""
        if self._rung:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters += (waiter,)
        try:
            await waiter
        finally:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)


class Flow:
    """uvicorn's FlowControl: whether the connection is read, and whether it takes more."""

    __slots__ = ("_room", "_transport", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.read_paused = False
        self.write_paused = False
        self._transport = transport
        self._room = Bell(rung=True)

    async def drain(self) -> None:
        """Until the connection takes more."""
        await self._room.wait()

    def pause_reading(self) -> None:
        """Take no more from the client."""
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from the client."""
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The connection takes no more."""
        self.write_paused = True
        self._room.clear()

    def resume_writing(self) -> None:
        """The connection takes more, or nothing any more."""
        self.write_paused = False
        self._room.set()


class Pipeline(list[Any]):
    """uvicorn's queue of requests that came before the one before them was answered."""

    def appendleft(self, request: Any) -> None:
        """Queue behind all others; `pop` takes the first."""
        self.insert(0, request)
