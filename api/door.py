"""The node's door: how many connections it takes, and for how long one may dawdle. One table and one timer for all.

A reader that waits is in none of these tables: state in each connection would cost every reader 1.4 KB.
"""

import asyncio
import logging
import math
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from uvicorn.server import ServerState

from shared import metrics
from shared.settings import Settings

log = logging.getLogger(__name__)

SWEEP_S = 1.0
"""What dawdles is cut up to so much later than its limit says."""
_FILES_PERCENT = 80
"""Of the file descriptors that the process may have, those that its clients may use; the store and logs need some."""
_FEW = 16
_UNSURE_BYTES = 1 << 62
_LEAST_TAKEN_BYTES = 16 * 1024
"""What a client has to take of an answer within a time-out and a half, if it is not to be cut."""
_LARGE_BYTES = 256 * 1024
"""More than a stream ever has waiting: such an answer is a job's whole text."""
MOST_WAITING_BYTES = 256 * 1024 * 1024
"""Of large answers that wait to be taken, in all: thirty of the largest that there are."""
_OPEN_FILES = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.is_dir()), None)


class _Head:
    """A request's head that is not whole: when it has to be, by the loop's clock, and how much of it there is."""

    __slots__ = ("bytes", "unsure", "until_s")

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.bytes = 0
        self.unsure = False
        """Whether it began in the same piece in which another request ended, and may be larger than that."""


class Door:
    """Owned by the server, which keeps `run()` as its task. Connections are uvicorn's protocols."""

    def __init__(
        self, settings: Settings, now_s: Callable[[], float] = time.monotonic, most_files: int | None = None
    ) -> None:
        """`most_files`: how many the process may have open; None: what the system says."""
        self.max_head_bytes = settings.max_header_bytes
        self._header_timeout_s = settings.header_timeout_s
        self._write_timeout_s = settings.write_timeout_s * 1.5  # later than a stream's own, which says so in the log
        self._now_s = now_s
        files = most_files if most_files is not None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_files = files * _FILES_PERCENT // 100 if files != resource.RLIM_INFINITY else 1 << 31
        self._max_connections = settings.max_connections
        self._max_surplus = max(_FEW, min(self._max_connections, self._most_files) // 20)
        self._files, self._counted_at = open_files(), 0
        self.arriving_bytes = 0
        """How much has just come of the connection that is being read."""
        self.request_ended = False
        """Whether a request ended in it: then nobody knows how much of it is of the next one's head."""
        self._heads: dict[Any, _Head] = {}
        self._stuck: dict[Any, tuple[float, int]] = {}
        """Until when they have to take more, and how much they had to take when that was set, in bytes."""
        self._large: dict[Any, None] = {}
        """Those of them with a large answer, in the order in which they came."""
        self._surplus: set[Any] = set()

    # -- how many

    def came(self, connection: Any, among: int) -> None:
        """A connection is there, and `among` with it. One too many may say what it wants, to be told to come back; of
        those there may be a few, and whoever comes beyond is cut without a word."""
        if (lack := self._lack(among)) is not None:
            metrics.CONNECTIONS_REFUSED.labels(lack).inc()
            if len(self._surplus) >= self._max_surplus:
                connection.transport.abort()
                return
            self._surplus.add(connection)
        self._heads[connection] = _Head(self._now_s() + self._header_timeout_s)

    def _lack(self, among: int) -> str | None:
        """What there is not enough of for one more."""
        if among - len(self._surplus) > self._max_connections:
            return "connections"
        return "files" if self._files + among - self._counted_at > self._most_files else None

    def is_surplus(self, connection: Any) -> bool:
        """Whether its requests are to be refused."""
        return connection in self._surplus

    def left(self, connection: Any) -> None:
        """It is lost."""
        self._heads.pop(connection, None)
        self.moves(connection)
        self._surplus.discard(connection)

    # -- for how long

    def head_grows(self, connection: Any, *, answering: bool) -> bool:
        """What has just come does not end a head; False where that is too long already. While its node is `answering`
        nobody is timed: a reader does not pay for half a request behind the one that it reads."""
        head = self._heads.get(connection)
        if head is None:
            head = self._heads[connection] = _Head(math.inf)
        if head.until_s == math.inf and not answering:
            head.until_s = self._now_s() + self._header_timeout_s
        if self.request_ended:
            head.unsure = True
        else:
            head.bytes += self.arriving_bytes
        return head.bytes <= self.max_head_bytes

    def head_is_whole(self, connection: Any) -> int:
        """A request has come, whatever becomes of it: its head has at most so many bytes."""
        head = self._heads.pop(connection, None)
        if head is None:
            return self.arriving_bytes
        return _UNSURE_BYTES if head.unsure else self.arriving_bytes + head.bytes

    def is_stuck(self, connection: Any) -> None:
        """The client takes nothing of what it was sent; it is cut unless it does (`moves`)."""
        if connection not in self._stuck:
            self._wait_for(connection)
            if self._stuck[connection][1] > _LARGE_BYTES:
                self._large[connection] = None
                self._make_room()

    def _make_room(self) -> None:
        """Cut who has been taking a large answer for longest while there are too many: each pins up to 8 MB."""
        sizes = {connection: connection.transport.get_write_buffer_size() for connection in self._large}
        waiting = sum(sizes.values())
        for connection, size in sizes.items():
            if waiting <= MOST_WAITING_BYTES:
                return
            self._cut(connection, "memory")
            waiting -= size

    def _cut(self, connection: Any, why: str) -> None:
        self.left(connection)
        metrics.CONNECTIONS_CUT.labels(why).inc()
        connection.transport.abort()

    def _wait_for(self, connection: Any) -> None:
        size = connection.transport.get_write_buffer_size()
        self._stuck[connection] = (self._now_s() + self._write_timeout_s, size)

    def moves(self, connection: Any) -> None:
        """The client has taken most of what it was sent."""
        self._stuck.pop(connection, None)
        self._large.pop(connection, None)

    # -- the timer

    async def run(self, connections: set[Any]) -> None:
        """Cut what dawdles, once a second, until cancelled. `connections`: all of the server's."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.sweep(len(connections))
            except Exception:
                log.exception("a sweep of the connections broke")

    def sweep(self, among: int) -> None:
        """Cut what has had its time; `among`: how many connections there are."""
        now_s = self._now_s()
        slow = [connection for connection, head in self._heads.items() if head.until_s <= now_s]
        due = [(connection, size) for connection, (until_s, size) in self._stuck.items() if until_s <= now_s]
        stuck = []
        for connection, size in due:
            if 0 < connection.transport.get_write_buffer_size() <= size - _LEAST_TAKEN_BYTES:
                self._wait_for(connection)  # a large answer, a slow client
            else:
                stuck.append(connection)
        for why, cut in (("head", slow), ("stuck", stuck)):
            for connection in cut:
                self._cut(connection, why)
        metrics.CONNECTIONS.set(among)
        if files := open_files():  # else the last count stands, with those who came since: to look takes a file, too
            self._files, self._counted_at = files, among


class Lobby(ServerState):
    """What uvicorn's connections share, and the door that they came by."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        self.door = door


def open_files() -> int:
    """How many file descriptors this process has open; 0 where the system does not tell."""
    with suppress(OSError):
        return 0 if _OPEN_FILES is None else len(os.listdir(_OPEN_FILES))  # noqa: PTH208 - a list of 20,000 paths is slow
    return 0


def raise_file_limit() -> int:
    """Let this process have as many files open as the system allows at all; how many that is. The limit that shells
    give for the sake of `select` is 1,024: a thousand readers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft
