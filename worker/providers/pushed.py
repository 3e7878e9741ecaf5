"""An answer's bytes without a task's turn for each, from under the SDKs' transport on aiohttp.

Pulled through the transport, a token passes eight coroutines and a task's wake-up, which cost more than all that is
done with it. aiohttp wakes whoever waits for a body through a future; what stands in that future's place here takes the
bytes in the next turn of the loop. The names that this leans on are held by tests/unit/test_pushed.py.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader

FRAMES_A_TURN = 64
"""Then others in the loop have their turn; the body waits meanwhile, and the connection behind it."""


def body_of(response: Any) -> StreamReader | None:
    """The body under an SDK's raw response; None where it cannot be had as it is (compressed, another transport)."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return None
    stream = getattr(getattr(response, "http_response", None), "stream", None)
    while stream is not None and not hasattr(stream, "_aiohttp_response"):
        stream = getattr(stream, "_stream", None)
    body = None if stream is None else stream._aiohttp_response.content  # noqa: SLF001 - see above
    return body if type(body) is StreamReader else None


class Pushing:
    """Has every frame of a body taken. `cut`: bytes to the frames that they complete; `take`: one frame.

    `patience_s`: asked when all that came was taken: None, or for how long to wait for more. It is a number once the
    answer is whole; then neither silence nor a broken connection can spoil it.
    """

    def __init__(
        self,
        body: StreamReader,
        cut: Callable[[bytes], list[bytes]],
        take: Callable[[bytes], None],
        patience_s: Callable[[], float | None],
    ) -> None:
        self._body: Any = body
        self._cut = cut
        self._take = take
        self._patience_s = patience_s
        self._frames: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Until the body's end. Whatever `cut` or `take` raises, or what broke the connection."""
        self._go_on()
        try:
            await self._ended
        finally:
            self._prolong(None)
            self._end(None)
            if self._body._waiter is self:  # noqa: SLF001 - see above
                self._body._waiter = None  # noqa: SLF001

    def done(self) -> bool:
        """For aiohttp: whether nobody waits any more."""
        return self._ended.done()

    def set_result(self, _: None) -> None:
        """From aiohttp: something has come, or the end."""
        self._soon()

    def set_exception(self, _: BaseException) -> None:
        """From aiohttp: the connection broke."""
        self._soon()

    def _soon(self) -> None:
        # Not now: aiohttp calls from within its parser, and to read from the body enters that parser again.
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        if self._ended.done():
            return
        try:
            more = self._take_some()
        except Exception as error:
            self._end(error)
            return
        patience_s = self._patience_s()
        broken = self._body.exception()
        if more:
            self._soon()
        elif broken is not None:
            self._end(None if patience_s is not None else broken)
        elif self._body.at_eof():
            self._end(None)
        else:
            self._body._waiter = self  # noqa: SLF001 - see above
            if patience_s is not None or self._timer is not None:
                self._prolong(patience_s)

    def _take_some(self) -> bool:
        """Whether there may be more than what a turn allows."""
        for _ in range(FRAMES_A_TURN):
            while not self._frames:
                # What came before the connection broke may hold the end; in public a broken body gives nothing.
                chunk = self._body._read_nowait(-1) if self._body.exception() else self._body.read_nowait()  # noqa: SLF001
                if not chunk:
                    return False
                self._frames.extend(self._cut(chunk))
            self._take(self._frames.popleft())
        return True

    def _prolong(self, patience_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if patience_s is None else self._loop.call_later(patience_s, self._end, None)

    def _end(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
